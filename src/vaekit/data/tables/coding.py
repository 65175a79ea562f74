"""Rows of a table as cells, and cells as rows that print as the table did.

`decode(encode(frame, columns), columns)` is the frame again, but for identifiers, which are printed afresh, and for numbers
and dates that a column spells in several ways (a note of `infer` says so).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import polars as pl

from vaekit.data.tables import datetimes, identifiers
from vaekit.data.tables.columns import TableColumn, num_channels, state_channels
from vaekit.data.tables.dtypes import dtype_of
from vaekit.data.tables.numbers import NumberFormat, parse_format, print_numbers, read_numbers
from vaekit.data.tables.overrides import near
from vaekit.data.tables.profiles import EXACT, microseconds
from vaekit.data.tables.textcolumns import MISSING_WORDS
from vaekit.errors import ConfigError, DataError

_FEW = 10_000


class Encoder:
    """Turns batches of rows into cells, and counts what it does not know.

    Args:
        columns: as `infer` gives them.
        absent: what to do where a frame lacks a column: `error`, or `unknown`, which makes its cells unknown.

    Example:
        >>> encoder = Encoder([TableColumn(name="sex", type="binary", categories=("F", "M"))])
        >>> encoder.encode(pl.DataFrame({"sex": ["M", "F", "X"]})).ravel().tolist()
        [1.0, 0.0, nan]
        >>> encoder.notes
        ("1 cell of `sex` is of no known category or spelling ('X') and is unknown.",)
    """

    def __init__(self, columns: Sequence[TableColumn], *, absent: Literal["error", "unknown"] = "error") -> None:
        self.columns, self.absent = tuple(columns), absent
        self._channels = state_channels(columns)
        self._unknown: dict[str, tuple[int, list[str]]] = {}
        self._missing: dict[str, int] = {}
        self._extra: tuple[str, ...] = ()
        self._fitted: set[str] = set()

    def encode(self, frame: pl.DataFrame) -> np.ndarray:
        """Cells (n, C+S) float64 of rows.

        Raises:
            DataError: if a column is not there, or no cell of one fits.
        """
        names, given = {column.name for column in self.columns}, set(frame.columns)
        self._extra = tuple(name for name in frame.columns if name not in names)
        cells = np.zeros((len(frame), num_channels(self.columns)), order="F")
        for index, column in enumerate(self.columns):
            channel = self._channels.get(index)
            if column.name not in given:
                if self.absent == "error":
                    raise DataError(f"The table must have the column `{column.name}`. {near(column.name, frame.columns)}")
                cells[:, index] = np.nan
                if channel is not None:
                    cells[:, channel] = np.nan
                continue
            values, states = self._column(frame[column.name], column)
            cells[:, index] = values
            if channel is not None:
                cells[:, channel] = states
        return np.ascontiguousarray(cells)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not known so far."""
        notes = []
        for name, (count, words) in self._unknown.items():
            listed = ", ".join(repr(word) for word in words[:5]) + (", ..." if len(words) > 5 else "")
            cells, are = ("cell", "is") if count == 1 else ("cells", "are")
            notes.append(f"{count} {cells} of `{name}` {are} of no known category or spelling ({listed}) and {are} unknown.")
        for name, count in self._missing.items():
            cells, are = ("cell", "is") if count == 1 else ("cells", "are")
            notes.append(f"{count} {cells} of `{name}` {are} missing, which none was before, and {are} unknown.")
        if self._extra:
            listed = ", ".join(f"`{name}`" for name in self._extra[:5]) + (", ..." if len(self._extra) > 5 else "")
            notes.append(f"Columns that the model does not know are left out: {listed}.")
        return tuple(notes)

    def _column(self, cells: pl.Series, column: TableColumn) -> tuple[np.ndarray, np.ndarray]:
        """The value and the state of each cell."""
        empty = cells.is_null().to_numpy()
        if column.type == "identifier":
            values = np.zeros(len(cells))
        elif column.is_coded:
            texts = printed(cells)
            values, empty = _codes(texts, column), texts.is_null().to_numpy() | empty
        elif column.type == "datetime":
            values = _times(cells, column)
        else:
            values = _numbers(cells, column)
        if column.type != "identifier" and not column.is_coded and cells.dtype.is_float():
            empty = empty | np.isnan(values)
        states = np.zeros(len(cells))
        rest = np.isnan(values) & ~empty
        if cells.dtype == pl.String:
            rest, empty = self._words(cells, column, values, states, rest, empty)
        values[empty] = np.nan
        if column.missing:
            states[empty] = column.missing_state
        elif empty.any():
            self._missing[column.name] = self._missing.get(column.name, 0) + int(empty.sum())
        if rest.any():
            self._add_unknown(cells, column, rest)
        if not rest.all():
            self._fitted.add(column.name)
        return values, states

    def _words(
        self, cells: pl.Series, column: TableColumn, values: np.ndarray, states: np.ndarray, rest: np.ndarray, empty: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Marks words; what is then unknown, and what is missing."""
        if column.type == "identifier":
            rest = ~empty  # of which only the spellings of missing cells count
        if not rest.any():
            return rest, empty
        places = np.flatnonzero(rest)
        texts = cells.gather(places)
        if column.words:
            found = texts.cast(pl.Enum(column.words), strict=False).to_physical()
            known = found.is_not_null().to_numpy()
            states[places[known]] = found.fill_null(0).to_numpy()[known] + 1.0
            rest[places[known]] = False
            places, texts = places[~known], texts.filter(pl.Series(~known))
        absent = texts.is_in([column.missing_as, *column.also_missing, ""] if column.missing else [""])
        if not column.is_coded and column.type != "identifier":
            absent = absent | texts.str.strip_chars().str.to_lowercase().is_in(list(MISSING_WORDS))
        gone = places[absent.to_numpy()]
        empty = empty.copy()
        empty[gone] = True
        rest[gone] = False
        return (np.zeros_like(rest) if column.type == "identifier" else rest), empty

    def _add_unknown(self, cells: pl.Series, column: TableColumn, rest: np.ndarray) -> None:
        strange = cells.filter(pl.Series(rest)).cast(pl.String)
        if rest.all() and len(rest) > 1 and not column.is_coded and column.name not in self._fitted:
            what = "dates" if column.type == "datetime" else "numbers"
            raise DataError(
                f"Column `{column.name}` must hold {what}{f' such as {column.format!r}' if column.format else ''}, found "
                f"{strange[0]!r} and no other in {len(rest)} rows. Check that it is the same table."
            )
        count, words = self._unknown.get(column.name, (0, []))
        new = [word for word in strange.unique(maintain_order=True).head(6).to_list() if word not in words]
        self._unknown[column.name] = (count + len(strange), words + new)


def encode(
    frame: pl.DataFrame,
    columns: Sequence[TableColumn],
    *,
    absent: Literal["error", "unknown"] = "error",
    notes: list[str] | None = None,
) -> np.ndarray:
    """Cells (n, C+S) float64 of the rows of a frame.

    Args:
        frame: with the columns, in any order; of the source's dtypes, or text, or such as have the same meaning.
        columns: as `infer` gives them.
        absent: see `Encoder`.
        notes: gets what was not known.

    Raises:
        DataError: if a column is not there, or no cell of one fits.
    """
    encoder = Encoder(columns, absent=absent)
    cells = encoder.encode(frame)
    if notes is not None:
        notes.extend(encoder.notes)
    return cells


def decode(
    cells: np.ndarray,
    columns: Sequence[TableColumn],
    form: Literal["source", "values"] = "source",
    *,
    seed: int = 0,
    notes: list[str] | None = None,
) -> pl.DataFrame:
    """The rows of cells, each printed as its column was.

    Numbers are rounded to the decimals of their column, and dates to what their format prints. Identifiers are fresh ones,
    which the data do not have. A cell that is unknown is missing.

    Args:
        cells: (n, C+S), as `encode` gives them, or generated.
        columns: as `infer` gives them.
        form: `source`: with the dtypes of the source, text for text files; `values`: numbers and dates of text as such.
        seed: of fresh identifiers.
        notes: gets what had to be clipped to the limits of a dtype; without it that is an error.

    Raises:
        DataError: if a number lies beyond its dtype, or a code or state is none.
    """
    if cells.ndim != 2 or cells.shape[1] != num_channels(columns):
        raise ConfigError(
            f"`cells` must have the shape (n, {num_channels(columns)}), got {cells.shape}. Use what `encode` gives."
        )
    if form not in ("source", "values"):
        raise ConfigError(f"`form` must be 'source' or 'values', got {form!r}.")
    channels = state_channels(columns)
    found = []
    for index, column in enumerate(columns):
        states = cells[:, channels[index]] if index in channels else np.zeros(len(cells))
        states = np.where(np.isnan(states), 0.0, states)
        if len(states) and (states.min() < 0 or states.max() > column.num_states - 1 or (states % 1).any()):
            raise DataError(f"The states of `{column.name}` must be whole, from 0 to {column.num_states - 1}, found others.")
        values = np.where(states == 0, np.asarray(cells[:, index], np.float64), np.nan)
        series = _decoded(values, states, column, form, seed + index, notes)
        found.append(series.alias(column.name))
    return pl.DataFrame(found)


def printed(cells: pl.Series) -> pl.Series:
    """Cells as text: whole floats without decimals, NaN as missing.

    Example:
        >>> printed(pl.Series([1.0, 2.5, None])).to_list()
        ['1', '2.5', None]
    """
    if cells.dtype == pl.String:
        return cells
    if not cells.dtype.is_float():
        return cells.cast(pl.String)
    cells = cells.fill_nan(None)
    whole = (cells == cells.round()) & (cells.abs() < EXACT)
    short = cells.set(~whole.fill_null(False), None).cast(pl.Int64).cast(pl.String)
    return short.fill_null(cells.cast(pl.String)) if not whole.all() else short


def _codes(texts: pl.Series, column: TableColumn) -> np.ndarray:
    if not column.categories:
        return np.full(len(texts), np.nan)
    codes = _enum_codes(texts, column.categories)
    lost = np.isnan(codes) & texts.is_not_null().to_numpy()
    if lost.any():
        strange = texts.filter(pl.Series(lost))
        names = strange.unique()
        if len(names) <= _FEW:
            alike = _alike(names.to_list(), column.categories)
            if alike:
                codes[lost] = _enum_codes(strange.replace(alike), column.categories)
    return codes


def _enum_codes(texts: pl.Series, categories: Sequence[str]) -> np.ndarray:
    codes = texts.cast(pl.Enum(categories), strict=False).to_physical()
    values = codes.fill_null(0).to_numpy().astype(np.float64)
    values[codes.is_null().to_numpy()] = np.nan
    return values


def _alike(names: Sequence[str], categories: Sequence[str]) -> dict[str, str]:
    """Names that are a category in another spelling of a number or a truth value, or with spaces around it."""
    numbers = {value: category for category in reversed(categories) if (value := _number(category)) is not None}
    truths = (
        {category.lower(): category for category in categories} if {c.lower() for c in categories} <= {"true", "false"} else {}
    )
    trimmed = {category.strip(): category for category in reversed(categories)}
    found = {}
    for name in names:
        match = trimmed.get(name.strip()) or truths.get(name.lower())
        number = _number(name)
        if match is None and number is not None:
            match = numbers.get(number)
        if match is not None and name.strip():
            found[name] = match
    return found


def _number(text: str) -> float | None:
    try:
        return float(text) if text[:1] != "0" or text[1:2] in ("", ".") else None
    except ValueError:
        return None


def _numbers(cells: pl.Series, column: TableColumn) -> np.ndarray:
    if cells.dtype == pl.String:
        form = parse_format(column.format) if column.format else NumberFormat()
        values = read_numbers(cells, form)
        if not form.is_plain and form.point == "." and np.isnan(values).any():  # numbers that were written plainly since
            plain = read_numbers(cells, NumberFormat())
            values = np.where(np.isnan(values), plain, values)
        return values
    if cells.dtype.is_numeric() or cells.dtype == pl.Boolean:
        values = cells.cast(pl.Float64).to_numpy().astype(np.float64)
        if cells.null_count():
            values = cells.cast(pl.Float64).fill_null(np.nan).to_numpy().astype(np.float64)
        if np.isinf(values).any():
            raise DataError(
                f"Column `{column.name}` must hold finite numbers, found infinities. Replace them, or make them missing."
            )
        return values.copy()
    return _numbers(cells.cast(pl.String), column)


def _times(cells: pl.Series, column: TableColumn) -> np.ndarray:
    if cells.dtype.is_temporal():
        return microseconds(cells)[0].copy()
    texts = cells.cast(pl.String)
    forms = [column.format] if column.format else datetimes.candidates(texts.drop_nulls().head(100).to_list())
    return datetimes.read_datetimes(texts, forms[0]) if forms else np.full(len(cells), np.nan)


def _decoded(
    values: np.ndarray, states: np.ndarray, column: TableColumn, form: str, seed: int, notes: list[str] | None
) -> pl.Series:
    dtype = dtype_of(column.dtype)
    known = np.isfinite(values)
    if np.isinf(values).any():
        raise DataError(f"The numbers of `{column.name}` must be finite, found infinities. Check the model that made them.")
    if column.type == "identifier":
        series = _fresh(known, column, dtype, seed)
    elif column.is_coded:
        series = _category(values, known, column, dtype)
    elif column.type == "datetime":
        series = _time(values, known, column, dtype, form)
    else:
        series = _number_cells(values, known, column, dtype, form, notes)
    if series.dtype == pl.String and dtype == pl.String:
        series = _with_states(series, states, column, form)
    elif column.missing_as == "NaN" and series.dtype.is_float() and column.missing:
        series = series.set(pl.Series(states == column.missing_state), float("nan"))
    return series


def _with_states(texts: pl.Series, states: np.ndarray, column: TableColumn, form: str) -> pl.Series:
    """Words and missing cells as they are spelled."""
    for state, word in enumerate(column.words, 1):
        at = states == state
        if at.any():
            texts = texts.set(pl.Series(at), word)
    if column.missing and column.missing_as and form == "source":
        at = states == column.missing_state
        if at.any():
            texts = texts.set(pl.Series(at), "" if column.missing_as == '""' else column.missing_as)
    return texts


def _fresh(known: np.ndarray, column: TableColumn, dtype: Any, seed: int) -> pl.Series:
    drawn = identifiers.fresh(column.format, int(known.sum()), seed, dtype)
    places = np.zeros(len(known), np.int64)
    places[known] = np.arange(int(known.sum()))
    whole = pl.Series(np.where(known, places, 0)).set(pl.Series(~known), None) if not known.all() else pl.Series(places)
    series = drawn.gather(whole) if len(drawn) else pl.Series([None] * len(known), dtype=drawn.dtype)
    return series.cast(dtype)


def _category(values: np.ndarray, known: np.ndarray, column: TableColumn, dtype: Any) -> pl.Series:
    codes = np.where(known, np.rint(np.where(known, values, 0.0)), 0.0).astype(np.int64)
    if known.any() and (codes[known].min() < 0 or codes[known].max() >= len(column.categories)):
        raise DataError(f"The codes of `{column.name}` must lie in 0..{len(column.categories) - 1}, found others.")
    if not known.any():
        return pl.Series([None] * len(values), dtype=dtype)
    names = pl.Series(column.categories, dtype=pl.String)
    if dtype == pl.Boolean:
        names = names == "true"
    elif dtype != pl.String:
        names = names.cast(dtype)
    places = pl.Series(codes) if known.all() else pl.Series(codes).set(pl.Series(~known), None)
    return names.gather(places)


def _time(values: np.ndarray, known: np.ndarray, column: TableColumn, dtype: Any, form: str) -> pl.Series:
    if dtype == pl.String and form == "source":
        step = datetimes.resolution(column.format)
        offset = 0.0 if step < 60e6 else (column.low or 0.0) % step
        return datetimes.print_datetimes(
            np.floor((values - offset) / step + 0.5) * step + offset if step > 1 else values, column.format
        )
    whole = np.where(known, np.rint(np.where(known, values, 0.0)), 0.0).astype(np.int64)
    if dtype == pl.String:
        series = pl.Series(whole).cast(pl.Datetime("us"))
    elif dtype == pl.Date:
        series = pl.Series(np.rint(whole / 86_400e6).astype(np.int32)).cast(pl.Date)
    elif dtype == pl.Time:
        series = pl.Series(np.clip(whole, 0, 86_399_999_999) * 1000).cast(pl.Time)
    else:
        unit = dtype.time_unit
        scaled = whole * 1000 if unit == "ns" else np.rint(whole / 1000).astype(np.int64) if unit == "ms" else whole
        series = pl.Series(scaled).cast(dtype)
    return series if known.all() else series.set(pl.Series(~known), None)


def _number_cells(
    values: np.ndarray, known: np.ndarray, column: TableColumn, dtype: Any, form: str, notes: list[str] | None
) -> pl.Series:
    pattern = parse_format(column.format) if column.format else NumberFormat()
    if dtype == pl.String and (form == "source" or column.words):
        return print_numbers(values, pattern)
    filled = np.where(known, values, 0.0)
    if column.decimals is not None:
        filled = np.rint(filled) if column.decimals == 0 else np.round(filled, column.decimals)
    if dtype == pl.String:
        series = pl.Series(filled.astype(np.int64)) if column.type != "continuous" else pl.Series(filled)
    elif dtype.is_integer():
        series = pl.Series(_within(np.rint(filled), column, dtype, notes)).cast(dtype)
    elif dtype.is_decimal():
        texts = print_numbers(filled, NumberFormat(least=dtype.scale or 0, most=dtype.scale or 0))
        series = texts.cast(dtype)
    elif dtype == pl.Float32:
        series = pl.Series(_within(filled, column, dtype, notes)).cast(dtype)
    else:
        series = pl.Series(filled).cast(dtype)
    return series if known.all() else series.set(pl.Series(~known), None)


def _within(values: np.ndarray, column: TableColumn, dtype: Any, notes: list[str] | None) -> np.ndarray:
    """Numbers clipped to the limits of a dtype, which is never silent."""
    if dtype.is_float():
        low, high = -float(np.finfo(np.float32).max), float(np.finfo(np.float32).max)
    else:
        one = pl.Series([0], dtype=dtype)
        low, high = int(one.lower_bound()[0]), int(one.upper_bound()[0])
    outside = (values < low) | (values > high)
    if outside.any():
        text = f"{int(outside.sum())} numbers of `{column.name}` lie beyond {dtype} ({low} to {high})"
        if notes is None:
            raise DataError(f"{text}. Clip them to what was seen, {column.low:g} to {column.high:g}, first.")
        notes.append(f"{text} and are clipped.")
        values = np.clip(values, low, np.nextafter(float(high), 0.0) if high >= EXACT else high)
    return values if dtype.is_float() else values.astype(np.int64 if low < 0 else np.uint64)
