"""What the columns of a table are, found in one pass over its rows in bounded memory, and why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from vaekit.data.tables import typerules
from vaekit.data.tables.coding import printed
from vaekit.data.tables.columns import CODED, NUMBERS, ColumnType, TableColumn
from vaekit.data.tables.dtypes import dtype_name
from vaekit.data.tables.overrides import Override, Overrides, parse_overrides
from vaekit.data.tables.profiles import EXACT, MAX_DISTINCT, CodedProfile, NumberProfile, Profile, TextProfile, TimeProfile
from vaekit.data.tables.textcolumns import text_column
from vaekit.errors import ConfigError, DataError


class Inference:
    """Gathers batches of rows, and then says what the columns are.

    Args:
        overrides: what a person says of some columns (see `parse_overrides`).
        missing_words: texts that stand for a missing cell in every column, beside the empty one.

    Example:
        >>> found = Inference()
        >>> found.update(pl.DataFrame({"age": ["39", "50", "", "17"], "sex": list("FMFF")}))
        >>> [column.type for column in found.finish()[0]]
        ['integer', 'binary']
    """

    def __init__(self, overrides: Overrides = None, *, missing_words: Sequence[str] = ()) -> None:
        self.given, self.missing_words = overrides, tuple(missing_words)
        self.overrides: dict[str, Override] = {}
        self.profiles: dict[str, Profile] = {}
        self.rows = 0

    def update(self, frame: pl.DataFrame) -> None:
        """The next rows."""
        if not self.profiles:
            self._start(frame)
        if list(self.profiles) != frame.columns:
            raise DataError(f"Every batch must have the columns {list(self.profiles)[:5]} ..., found {frame.columns[:5]} ....")
        self.rows += len(frame)
        for cells in frame.iter_columns():
            profile = self.profiles[cells.name]
            profile.add(cells.cast(pl.String) if isinstance(profile, TextProfile) and cells.dtype != pl.String else cells)

    def finish(self) -> tuple[tuple[TableColumn, ...], tuple[str, ...]]:
        """The columns, and notes for a person.

        Raises:
            DataError: if there was no row.
            ConfigError: if a column cannot have the type that it is said to have.
        """
        if not self.rows:
            raise DataError("A table must have rows, found none. Add data.")
        columns, notes = [], []
        for name, profile in self.profiles.items():
            column, found = _column(profile, self.overrides.get(name), self.missing_words)
            columns.append(column)
            notes += found
        return tuple(columns), tuple(notes)

    def _start(self, frame: pl.DataFrame) -> None:
        if not frame.width:
            raise DataError("A table must have columns, found none. Add data.")
        self.overrides = parse_overrides(self.given, frame.columns)
        limit = min(MAX_DISTINCT, max(1000, 20_000_000 // frame.width))
        for name, dtype in frame.schema.items():
            override = self.overrides.get(name)
            self.profiles[name] = _profile(name, dtype, limit, (override.format,) if override and override.format else ())


def infer(
    batches: Iterable[pl.DataFrame], overrides: Overrides = None, *, missing_words: Sequence[str] = ()
) -> tuple[tuple[TableColumn, ...], tuple[str, ...]]:
    """What the columns of a table are, in one pass with bounded memory.

    The rules, in their order: a column in which all known cells are the same is constant; two values are binary; numbers
    are counts (whole, from 0, skewed), integers or continuous; dates are of one format, and text where day and month
    cannot be told apart; all else is categorical, or an identifier where nearly every cell is another. A column of
    numbers or dates may hold a few words, each of which is kept. `NA`, `null`, `?` and the like are missing cells only
    among numbers and dates.

    Args:
        batches: frames of rows, as `reading.batches` gives them.
        overrides: what a person says of some columns: a dict, `col=type` texts, or the path of a JSON file.
        missing_words: texts that stand for a missing cell in every column.

    Returns:
        the columns, and notes for a person.

    Raises:
        DataError: if there is no row, or a column holds what a table cannot.
        ConfigError: on an override that cannot be.
    """
    found = Inference(overrides, missing_words=missing_words)
    for frame in batches:
        found.update(frame)
    return found.finish()


def _profile(name: str, dtype: pl.DataType, limit: int, dates: tuple[str, ...]) -> Profile:
    if dtype == pl.String or dtype == pl.Null:
        return TextProfile(name, limit, dates, dtype)
    if dtype.is_numeric():
        return NumberProfile(name, limit, dtype)
    if dtype.is_temporal():
        return TimeProfile(name, limit, dtype)
    if dtype == pl.Boolean or dtype in (pl.Categorical, pl.Enum):
        return CodedProfile(name, limit, dtype)
    raise DataError(
        f"Column `{name}` must hold numbers, text, dates or categories, found {dtype}. Take it apart, or leave it out."
    )


def _column(profile: Profile, override: Override | None, missing_words: tuple[str, ...]) -> tuple[TableColumn, list[str]]:
    if isinstance(profile, TextProfile):
        return text_column(profile, override, missing_words)
    if isinstance(profile, NumberProfile):
        return _number_column(profile, override)
    if isinstance(profile, TimeProfile):
        return _time_column(profile, override)
    return _coded_column(profile, override)


def _number_column(profile: NumberProfile, override: Override | None) -> tuple[TableColumn, list[str]]:
    stats, notes = profile.stats, []
    known = profile.rows - profile.nulls - profile.nans
    base: dict[str, Any] = {
        "name": profile.name,
        "dtype": dtype_name(profile.dtype),
        "missing": known < profile.rows,
        "missing_as": "NaN" if profile.nans and not profile.nulls else "",
    }
    if profile.nans and profile.nulls:
        notes.append(f"`{profile.name}` has both NaN and null; both are missing, and are given back as null.")
    if known == 0:
        return typerules.without_values(base, notes)
    low, high = stats.low, stats.high
    beyond = max(abs(low), abs(high)) > EXACT and not profile.dtype.is_float()
    kind, reason = _number_type(profile, known, beyond)
    if override is not None:
        kind, reason = override.type, typerules.SAID
        _check_number_type(profile, kind, beyond)
    if kind in CODED:
        if profile.distinct.overflow:
            raise typerules.too_many(profile.name, kind)
        return typerules.coded(base, kind, printed(profile.distinct.values.sort()).to_list(), override, reason), notes
    if kind == "identifier":
        notes.append(typerules.identifier_note(profile.name, reason))
        return TableColumn(**base, type="identifier", format=f"{(profile.most or 0) + 1}+", reason=reason), notes
    if stats.big and profile.dtype.is_decimal():
        notes.append(f"Numbers of `{profile.name}` are rounded to 16 digits.")
    decimals = profile.decimals if kind == "continuous" else 0
    return TableColumn(**base, type=kind, low=low, high=high, decimals=decimals, reason=reason), notes


def _check_number_type(profile: NumberProfile, kind: ColumnType, beyond: bool) -> None:
    """That numbers can be of the type that is asked for."""
    name = profile.name
    if kind in ("integer", "count") and not profile.stats.whole:
        raise ConfigError(f"`{name}` must hold whole numbers to be {kind}, found others. Use continuous.")
    if kind in NUMBERS and beyond:
        found = max(abs(profile.stats.low), abs(profile.stats.high))
        raise ConfigError(f"`{name}` must lie within 2**53 to be {kind}, found {found:.6g}. Use identifier or categorical.")
    if kind == "identifier" and not profile.dtype.is_integer():
        raise ConfigError(f"`{name}` must hold whole numbers or text to be an identifier. Use continuous.")
    if kind == "datetime":
        raise ConfigError(f"`{name}` must hold dates to be datetime, found {profile.dtype}. Convert it first.")


def _number_type(profile: NumberProfile, known: int, beyond: bool) -> tuple[ColumnType, str]:
    distinct = profile.distinct
    if distinct.num == 1:
        return "constant", typerules.SAME
    if profile.dtype.is_integer():
        all_unique = distinct.num == known and not distinct.overflow
        running = profile.running.alive or (all_unique and profile.stats.high - profile.stats.low + 1 == known)
        reason = typerules.whole_identifier(profile.name, known, all_unique, running, profile.stats)
        if reason:
            return "identifier", reason
        if beyond:
            if distinct.num > typerules.MAX_CATEGORIES:
                return "identifier", "Its numbers are too long to be computed with."
            return "categorical", "Its numbers are too long to be computed with."
    return typerules.number_type(profile.stats, distinct.num, known)


def _time_column(profile: TimeProfile, override: Override | None) -> tuple[TableColumn, list[str]]:
    notes: list[str] = []
    base: dict[str, Any] = {
        "name": profile.name,
        "dtype": dtype_name(profile.dtype),
        "missing": profile.nulls > 0,
    }
    if profile.nulls == profile.rows:
        return typerules.without_values(base, notes)
    kind = override.type if override else "datetime"
    if kind != "datetime":
        raise ConfigError(f"`{profile.name}` must be datetime, as its dtype is {profile.dtype}, got {kind}. Convert it first.")
    if profile.finer:
        notes.append(f"`{profile.name}` is rounded to microseconds.")
    if profile.stats.big:
        notes.append(f"`{profile.name}` has dates so far away that they are not exact to the microsecond.")
    column = TableColumn(
        **base, type="datetime", low=profile.stats.low, high=profile.stats.high, reason=f"Its dtype is {profile.dtype}."
    )
    return column, notes


def _coded_column(profile: CodedProfile, override: Override | None) -> tuple[TableColumn, list[str]]:
    notes: list[str] = []
    base: dict[str, Any] = {
        "name": profile.name,
        "dtype": dtype_name(profile.dtype),
        "missing": profile.nulls > 0,
    }
    if isinstance(profile.dtype, pl.Enum):
        names = profile.dtype.categories.to_list()
        kind: ColumnType = override.type if override else "ordinal"
        reason = typerules.SAID if override else "Its dtype has an order."
        if not names:
            return typerules.without_values(base, notes)
        kind = kind if kind in ("categorical", "ordinal") else "ordinal"
        return typerules.coded(base, kind, names, override, reason), notes
    names = sorted(profile.distinct.values.to_list(), key=typerules.category_order)
    if profile.distinct.overflow:
        raise typerules.too_many(profile.name, "categorical")
    if not names:
        return typerules.without_values(base, notes)
    kind = {1: "constant", 2: "binary"}.get(len(names), "categorical")  # type: ignore[assignment]
    reason = f"Its dtype is {re.sub(r'[(].*', '', str(profile.dtype))}."
    if override:
        kind, reason = override.type, typerules.SAID
    if kind not in ("binary", "categorical", "ordinal", "constant"):
        raise ConfigError(
            f"`{profile.name}` must be categorical, as its dtype is {profile.dtype}, got {kind}. Convert it first."
        )
    return typerules.coded(base, kind, names, override, reason), notes
