"""Rules for types that columns of every source share."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from vaekit.data.tables.columns import ColumnType, TableColumn
from vaekit.data.tables.overrides import Override
from vaekit.data.tables.profiles import NumberStats
from vaekit.errors import ConfigError

MAX_CATEGORIES = 10_000
"""The most categories of a column that is not said to be categorical."""

SAID = "It was said to be so."
SAME = "Every known cell is the same."

MIN_IDENTIFIERS = 20
"""The fewest rows by which a column can be told to be an identifier."""


def coded(
    base: dict[str, Any],
    kind: ColumnType,
    names: list[str],
    override: Override | None,
    reason: str,
) -> TableColumn:
    """A column of categories, in their order."""
    if override is not None and override.order:
        unknown = [name for name in names if name not in override.order]
        if unknown:
            raise ConfigError(
                f"The order of `{base['name']}` must name all categories, found {unknown[:5]} beside them. Add them."
            )
        names = list(override.order)
    limits = {"binary": 2, "constant": 1}
    if kind in limits and len(names) != limits[kind]:
        raise ConfigError(f"`{base['name']}` must have {limits[kind]} distinct values to be {kind}, found {len(names)}.")
    return TableColumn(**base, type=kind, categories=tuple(names), reason=reason)


def too_many(name: str, kind: str) -> ConfigError:
    """The error of a column that has too many distinct values to be one of categories."""
    return ConfigError(f"`{name}` must have fewer distinct values to be {kind}. Leave the type out.")


def without_values(base: dict[str, Any], notes: list[str]) -> tuple[TableColumn, list[str]]:
    """A column in which every cell is missing."""
    notes.append(f"`{base['name']}` has no value at all: every cell is missing.")
    record: dict[str, Any] = {**base, "missing": True}
    return TableColumn(**record, type="constant", reason="Every cell is missing."), notes


def number_type(stats: NumberStats, num_distinct: int, known: int, whole: bool = True) -> tuple[ColumnType, str]:
    """Continuous, integer, count, binary or constant."""
    whole &= stats.whole
    if num_distinct == 1:
        return "constant", SAME
    if num_distinct == 2 and (whole or known >= 10):
        return "binary", "It has two values."
    if not whole:
        return "continuous", "Its numbers have decimals." if not stats.whole else "Its numbers are written with decimals."
    if stats.low >= 0 and stats.zeros and stats.skewness > 1:
        return "count", "Its numbers are whole, from 0, and skewed."
    return "integer", "Its numbers are whole."


def whole_identifier(name: str, known: int, unique: bool, running: bool, stats: NumberStats) -> str:
    """Why a column of whole numbers is an identifier; empty if it is none."""
    if known < MIN_IDENTIFIERS:
        return ""
    years = stats.low >= 1500 and stats.high <= 2200
    if running and not years:
        return "Its numbers count the rows."
    plain = name.lower() if name.isupper() else name
    if unique and re.search(r"(?:^|[_\W])(?:[iI]d|ids|uuid|guid|key|index|idx)$|(?<=[a-z])I[dD]$", plain):
        return "Its numbers are all different, and its name is that of an identifier."
    return ""


def identifier_note(name: str, reason: str) -> str:
    """What a person should know of an identifier."""
    why = f"{reason[0].lower()}{reason[1:]}"
    return f"`{name}` is taken as an identifier and is not learned: {why} Give its type to have it learned."


def category_order(name: str) -> tuple[int, float, str]:
    """Numbers by their size, before text in its own order."""
    try:
        number = float(name)
    except ValueError:
        return (1, 0.0, name)
    return (0, number, name) if np.isfinite(number) else (1, 0.0, name)
