"""What a conditional model is asked for: from printed categories and numbers to features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.data.dataset import Dataset
from vaekit.data.schema import UNKNOWN, Column, NumberColumn, Schema
from vaekit.errors import ConfigError, DataError
from vaekit.storage import FREQUENCIES, QUANTILES, Bundle

Range = tuple[float, float]
"""Numbers from the first to the second, both included; infinite where an end is open."""


def conditioned(bundle: Bundle) -> tuple[str, ...]:
    """The columns that a model is conditioned on."""
    return () if bundle.vae.condition is None else bundle.vae.condition.names


def codes_where(bundle: Bundle, where: Mapping[str, Any] | None) -> dict[str, int | float]:
    """The codes of the categories, and the numbers, that are asked for, by column.

    Raises:
        ConfigError: if the model is not conditioned on a column.
        DataError: if a value is not one of the column's categories, or no number where it must be one.
    """
    known = conditioned(bundle)
    for name in where or {}:
        if name not in known:
            said = f"it is conditioned on {', '.join(known)}" if known else "it has no conditions"
            raise ConfigError(
                f"`where` must name a column that the model is conditioned on, got {name!r}: {said}. "
                f"Train with `condition` to ask for values of a column."
            )
    return {name: bundle.schema.column(name).code(value) for name, value in (where or {}).items()}


def asked_where(bundle: Bundle, where: Mapping[str, Any] | None) -> dict[str, int | float | Range]:
    """As `codes_where`, but a column of numbers may also be asked for as a range: `0.2..0.5`, `0.2..`, `..0.5`, or a pair.

    Raises:
        ConfigError: if the model is not conditioned on a column.
        DataError: if a value is neither a category, nor a number or a range of them.
    """
    ranges: dict[str, int | float | Range] = {}
    for name, value in (where or {}).items():
        column = next((column for column in bundle.schema.columns if column.name == name), None)
        if name in conditioned(bundle) and isinstance(column, NumberColumn) and (found := _range(column, value)):
            ranges[name] = found
    single = codes_where(bundle, {name: value for name, value in (where or {}).items() if name not in ranges})
    return {name: ranges[name] if name in ranges else single[name] for name in where or {}}


def _range(column: NumberColumn, value: Any) -> Range | None:
    """The range that is asked for; None for a single number."""
    text = isinstance(value, str)
    if not (text and ".." in value) and not (isinstance(value, list | tuple) and len(value) == 2):
        return None
    ends = value.split("..", 1) if text else list(value)
    low, high = (
        infinite if end is None or (text and not end.strip()) else column.code(end)
        for end, infinite in zip(ends, (-math.inf, math.inf), strict=True)
    )
    if low > high or (low, high) == (-math.inf, math.inf):
        raise DataError(f"A range of `{column.name}` must be from the lesser to the greater number, got {value!r}. Write 1..2.")
    return low, high


def features_of(bundle: Bundle, columns: Mapping[str, Tensor] | None, num: int) -> Tensor | None:
    """(N, F) features of columns, unknown where a column is not given; None for a model without conditions."""
    return bundle.vae.encode_condition(bundle.vae.condition_of(columns, num))


def features_of_data(bundle: Bundle, dataset: Dataset) -> Tensor | None:
    """(N, F) features of a data set's own columns."""
    return features_of(bundle, columns_of(dataset), len(dataset))


def columns_of(dataset: Dataset) -> dict[str, Tensor]:
    """A data set's own columns, each (N,)."""
    return {name: torch.from_numpy(np.ascontiguousarray(codes)) for name, codes in dataset.columns.items()}


def filled(value: int | float, num: int) -> Tensor:
    """(N,) times one code or one number."""
    return torch.full((num,), value, dtype=torch.float64 if isinstance(value, float) else torch.int64)


def draw_codes(bundle: Bundle, num: int, fixed: Mapping[str, int | float | Range]) -> dict[str, Tensor]:
    """(N,) codes or numbers of each column of a conditional model: the fixed ones as they are, the others drawn.

    Columns are drawn one by one by the frequencies of their categories in the training data, where the model knows
    them, and evenly otherwise; numbers by their quantiles there, or else from a normal distribution of their mean and scale.
    """
    encoder = bundle.vae.condition
    if encoder is None:
        return {}
    drawn = {}
    for name in encoder.categories:
        codes = torch.multinomial(frequencies(bundle, name), num, replacement=True)
        found = fixed.get(name)  # drawn even where fixed: the latents then stay the same
        drawn[name] = codes if not isinstance(found, int) else filled(found, num)
    for name in encoder.numbers:
        at, found = torch.rand(num, dtype=torch.float64).numpy(), fixed.get(name, (-math.inf, math.inf))
        drawn[name] = torch.from_numpy(_within(bundle, name, at, found)) if isinstance(found, tuple) else filled(found, num)
    return drawn


def frequencies(bundle: Bundle, name: str) -> Tensor:
    """(C,) float64: how often each category stood in the training data; all 1 where that is not known."""
    assert bundle.vae.condition is not None
    count = bundle.vae.condition.categories[name]
    known = bundle.training.get(FREQUENCIES, {})
    counts = known.get(name) if isinstance(known, dict) else None
    if isinstance(counts, list) and len(counts) == count and sum(counts) > 0:
        return torch.tensor(counts, dtype=torch.float64)
    return torch.ones(count, dtype=torch.float64)


def quantiles(bundle: Bundle, name: str) -> np.ndarray:
    """The quantiles 0, 1/n, ..., 1 of a column of numbers in the training data, or of a normal where they are not known."""
    assert bundle.vae.condition is not None
    known = bundle.training.get(QUANTILES, {})
    found = known.get(name) if isinstance(known, dict) else None
    if isinstance(found, list) and len(found) > 1:
        return np.array(found, dtype=np.float64)
    mean, scale = bundle.vae.condition.numbers[name]
    at = torch.linspace(0.005, 0.995, 101, dtype=torch.float64)
    return (mean + scale * math.sqrt(2) * torch.erfinv(2 * at - 1)).numpy()


def _within(bundle: Bundle, name: str, at: np.ndarray, ends: Range) -> np.ndarray:
    """The quantiles `at` (N,), in [0, 1], of the numbers of a column within a range; evenly spread where it holds none."""
    table = quantiles(bundle, name)
    shares = np.linspace(0, 1, len(table))
    first, last = np.interp(ends, table, shares)
    if last > first:
        return np.interp(first + at * (last - first), shares, table).clip(*ends)
    low, high = (ends[0] if math.isfinite(ends[0]) else ends[1]), (ends[1] if math.isfinite(ends[1]) else ends[0])
    return low + at * (high - low)


def beyond(bundle: Bundle, asked: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence for each column of numbers that is asked for where training had none."""
    notes = []
    for name, value in asked.items():
        column = bundle.schema.column(name)
        ends = [end for end in (value if isinstance(value, tuple) else (value,)) if math.isfinite(end)]
        if isinstance(column, NumberColumn) and (min(ends) < column.low or max(ends) > column.high):
            notes.append(
                f"`{name}` was from {column.low:g} to {column.high:g} in the data: what is made beyond that is a guess."
            )
    return tuple(notes)


def printed(schema: Schema, columns: Mapping[str, Tensor | np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of codes as columns of text, empty where unknown; columns of numbers as they are, NaN where unknown."""
    return {name: schema.column(name).printed(np.asarray(codes)) for name, codes in columns.items()}


def codes_of_text(schema: Schema, columns: Mapping[str, object]) -> dict[str, Tensor]:
    """Columns of text as columns of codes or numbers: the inverse of `printed`.

    Raises:
        DataError: if a value is not one of the column's categories, or no number where it must be one.
    """
    out = {}
    for name, values in columns.items():
        column = schema.column(name)
        texts = ["" if value is None else str(value) for value in np.asarray(values, dtype=object).tolist()]
        if isinstance(column, Column):
            unknown = "" if "" not in column.categories else None
            codes = {text: UNKNOWN if text == unknown else column.code(text) for text in dict.fromkeys(texts)}
            out[name] = torch.tensor([codes[text] for text in texts], dtype=torch.int64)
        else:
            numbers = [math.nan if text.strip().lower() in ("", "nan") else column.code(text) for text in texts]
            out[name] = torch.tensor(numbers, dtype=torch.float64)
    return out
