"""What is gathered of a column in one pass over its rows, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from vaekit.data.tables import datetimes, identifiers
from vaekit.data.tables.numbers import NumberFormat, form_candidates, grid_decimals, read_numbers
from vaekit.errors import DataError

MAX_DISTINCT = 200_000
"""The most distinct values that are counted exactly."""

MAX_WORDS = 50
"""The most words of a column of numbers or dates."""

EXACT = 2.0**53
"""Above it not every whole number is a float64."""


@dataclass
class Distinct:
    """Distinct values with their counts, up to a limit; beyond it only that there are too many."""

    limit: int
    table: pl.DataFrame | None = None
    overflow: bool = False
    seen: int = 0
    ratio: float = 0.0

    def add(self, values: pl.Series, counts: pl.Series) -> None:
        """Distinct values of a batch, with their counts."""
        self.seen += int(counts.sum() or 0)
        if self.overflow or not len(values):
            return
        part = pl.DataFrame({"value": values.alias("value"), "count": counts.cast(pl.Int64)})
        if self.table is not None:
            part = pl.concat([self.table, part]).group_by("value", maintain_order=True).agg(pl.col("count").sum())
        self.table, self.ratio = part, len(part) / max(1, self.seen)
        if len(part) > self.limit:
            self.table, self.overflow = None, True

    @property
    def num(self) -> int:
        """How many there are; the limit plus one where they are too many."""
        return self.limit + 1 if self.overflow else 0 if self.table is None else len(self.table)

    @property
    def values(self) -> pl.Series:
        """The distinct values, in the order in which they came."""
        return pl.Series("value", [], pl.String) if self.table is None else self.table["value"]

    @property
    def counts(self) -> pl.Series:
        """How often each came."""
        return pl.Series("count", [], pl.Int64) if self.table is None else self.table["count"]


@dataclass
class NumberStats:
    """The numbers of a column: range, grid and skewness."""

    count: int = 0
    low: float = np.inf
    high: float = -np.inf
    sums: np.ndarray = field(default_factory=lambda: np.zeros(4))
    zeros: int = 0
    whole: bool = True
    big: bool = False

    def add(self, values: np.ndarray, counts: np.ndarray) -> None:
        """Finite numbers with their counts."""
        if not len(values):
            return
        self.count += int(counts.sum())
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.zeros += int(counts[values == 0].sum())
        self.whole &= bool((values == np.rint(values)).all())
        self.big |= max(abs(self.low), abs(self.high)) > EXACT
        scale = max(1.0, abs(self.low), abs(self.high))
        if scale < 1e60:
            self.sums += [float((counts * values**power).sum()) for power in range(4)]

    @property
    def skewness(self) -> float:
        """The third standardised moment; 0 where nothing varies."""
        if not self.sums[0]:
            return 0.0
        first, second, third = self.sums[1:] / self.sums[0]
        variance = second - first**2
        return 0.0 if variance <= 0 else float((third - 3 * first * variance - first**3) / variance**1.5)


@dataclass
class Spelling:
    """How the texts of plain numbers are spelled."""

    least: int | None = None
    most: int = 0
    trailing: bool = False
    pointed_zero: bool = False
    odd: bool = False
    exponent: bool = False
    dots: int = 0

    def add(self, texts: pl.Series) -> None:
        """Texts of plain numbers."""
        if not len(texts):
            return
        canonical = texts.str.contains(r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?$") & ~texts.str.contains(r"^-0(?:\.0*)?$")
        plain = texts
        if not canonical.all():
            self.odd = True
            long = texts.str.contains("[eE]")
            self.exponent |= bool(long.any())
            plain = texts.filter(~long).str.strip_chars()
            if not len(plain):
                return
        point = plain.str.find(".", literal=True)
        dotted = plain.filter(point.is_not_null())
        self.dots += len(dotted)
        digits = (plain.str.len_bytes() - point - 1).fill_null(0)
        self.least = int(digits.min()) if self.least is None else min(self.least, int(digits.min()))  # type: ignore[arg-type]
        self.most = max(self.most, int(digits.max()))  # type: ignore[arg-type]
        zero = dotted.str.ends_with(".0")
        self.pointed_zero |= bool(zero.any())
        self.trailing |= bool((dotted.str.ends_with("0") & ~zero).any())

    def form(self, size: float) -> tuple[NumberFormat, bool]:
        """The format, and whether it prints every number as it was spelled.

        Args:
            size: the greatest absolute number.
        """
        least = self.least or 0
        exact = not (self.odd and not self.exponent)
        if self.exponent or self.most > 15 or size * 10.0**self.most >= 2.0**50:
            pointed = 1 if least >= 1 or self.pointed_zero else 0
            if self.most == 0 and not self.exponent:
                return NumberFormat(), exact
            return NumberFormat(least=pointed, most=None), exact
        if least == self.most:
            return NumberFormat(least=least, most=self.most), exact
        if least >= 1 and not self.trailing:
            return NumberFormat(least=1, most=self.most), exact
        return NumberFormat(least=0, most=self.most), exact and not self.trailing and not self.pointed_zero


@dataclass
class Reading:
    """One way to read the texts that are no plain numbers: as numbers of a spelling, or dates of a format."""

    number: NumberFormat | None = None
    date: str = ""
    stats: NumberStats = field(default_factory=NumberStats)
    num_read: int = 0
    rest: dict[str, int] = field(default_factory=dict)
    dead: bool = False
    least: int | None = None
    most: int = 0

    def add(self, texts: pl.Series, counts: pl.Series) -> None:
        """Distinct texts with their counts."""
        if self.dead or not len(texts):
            return
        values = read_numbers(texts, self.number) if self.number else datetimes.read_datetimes(texts, self.date)
        known = ~np.isnan(values)
        numbers = counts.to_numpy()
        self.stats.add(values[known], numbers[known])
        self.num_read += int(known.sum())
        strange = texts.filter(pl.Series(~known))
        if len(strange) + len(self.rest) > 4 * MAX_WORDS:
            self.dead = True
            return
        for text, count in zip(strange.to_list(), numbers[~known].tolist(), strict=True):
            self.rest[text] = self.rest.get(text, 0) + count
        if self.number and known.any():
            part = texts.filter(pl.Series(known)).str.strip_suffix(self.number.suffix)
            point = part.str.find(self.number.point, literal=True)
            digits = (part.str.len_bytes() - point - len(self.number.point.encode())).fill_null(0)
            low = int(digits.min())  # type: ignore[arg-type]
            self.least = low if self.least is None else min(self.least, low)
            self.most = max(self.most, int(digits.max()))  # type: ignore[arg-type]


class TextProfile:
    """A column of text.

    Attributes:
        name: of the column.
        rows, nulls, empty: how many cells there are, are missing, are the empty text.
        plain: the texts of plain numbers; `others` all other texts.
        stats, spelling: of the plain numbers.
        readings: of the others, once they are too many to keep.
        pattern: of the texts, for identifiers.
    """

    def __init__(self, name: str, limit: int, dates: tuple[str, ...] = (), dtype: pl.DataType | None = None) -> None:
        self.name, self.limit, self.dates, self.dtype = name, limit, dates, dtype or pl.String()
        self.rows = self.nulls = self.empty = 0
        self.plain, self.others = Distinct(limit), Distinct(limit)
        self.stats, self.spelling = NumberStats(), Spelling()
        self.readings: list[Reading] = []
        self.pattern = identifiers.TextPattern(name)
        self.running = Running()

    def add(self, cells: pl.Series) -> None:
        """The next cells."""
        self.rows += len(cells)
        self.nulls += cells.null_count()
        table = cells.drop_nulls().alias("value").value_counts(name="count")
        empty = table["value"] == ""
        if empty.any():
            self.empty += int(table.filter(empty)["count"].sum())
            table = table.filter(~empty)
        if not len(table):
            return
        values, counts = table["value"], table["count"].cast(pl.Int64)
        numbers = read_numbers(values, NumberFormat())
        known = ~np.isnan(numbers)
        numeric, numbers = pl.Series(known, dtype=pl.Boolean), numbers[known]
        self._add_numbers(values.filter(numeric), counts.filter(numeric), numbers)
        self._add_others(values.filter(~numeric), counts.filter(~numeric))
        if self.running.alive:
            self.running.add(cells)

    def _add_numbers(self, texts: pl.Series, counts: pl.Series, numbers: np.ndarray) -> None:
        if not len(texts):
            return
        self.plain.add(texts, counts)
        self.stats.add(numbers, counts.to_numpy())
        self.spelling.add(texts)

    def _add_others(self, texts: pl.Series, counts: pl.Series) -> None:
        if not len(texts):
            return
        self.pattern.add(texts)
        if self.others.overflow:
            for reading in self.readings:
                reading.add(texts, counts)
            return
        before = self.others.table
        self.others.add(texts, counts)
        if self.others.overflow:
            kept = Distinct(10**12, before)
            kept.add(texts, counts)
            self.readings = self._readings(kept)

    def finished_readings(self) -> list[Reading]:
        """Every way to read the texts that are no plain numbers."""
        return self.readings if self.others.overflow else self._readings(self.others)

    def _readings(self, kept: Distinct) -> list[Reading]:
        sample = kept.values.sort().head(500).to_list()
        found = [Reading(number=form) for form in form_candidates(sample)]
        found += [Reading(date=form) for form in dict.fromkeys((*self.dates, *datetimes.candidates(sample)))]
        for reading in found:
            reading.add(kept.values, kept.counts)
        return [reading for reading in found if not reading.dead and reading.num_read]

    @property
    def num_distinct(self) -> int:
        """How many distinct texts there are, but for the empty one."""
        return min(self.plain.num + self.others.num, self.limit + 1)

    @property
    def overflow(self) -> bool:
        """Whether there are too many distinct texts to keep."""
        return self.plain.overflow or self.others.overflow or self.plain.num + self.others.num > self.limit

    @property
    def ratio(self) -> float:
        """The distinct texts to all cells; of the first cells where there are too many."""
        if self.plain.overflow or self.others.overflow:
            return max(part.ratio for part in (self.plain, self.others) if part.overflow)
        return self.num_distinct / max(1, self.rows - self.nulls - self.empty)


@dataclass
class Running:
    """Whether whole numbers count up by one from row to row."""

    alive: bool = True
    last: int | None = None

    def add(self, cells: pl.Series) -> None:
        """The next cells, as text or numbers."""
        values = cells.cast(pl.Int64, strict=False)
        if values.null_count() or not len(values):
            self.alive = not len(values)
            return
        steps = values.diff().drop_nulls()
        follows = self.last is None or values[0] == self.last + 1
        self.alive = follows and bool((steps == 1).all())
        self.last = int(values[-1])


class NumberProfile:
    """A column of numbers of a frame."""

    def __init__(self, name: str, limit: int, dtype: pl.DataType) -> None:
        self.name, self.dtype = name, dtype
        self.rows = self.nulls = self.nans = 0
        self.distinct, self.stats, self.running = Distinct(limit), NumberStats(), Running()
        self.decimals: int | None = 0
        self.least: int | None = None
        self.most: int | None = None

    def add(self, cells: pl.Series) -> None:
        """The next cells."""
        self.rows += len(cells)
        self.nulls += cells.null_count()
        if self.dtype.is_float():
            self.nans += int(cells.is_nan().sum() or 0)
            if cells.is_infinite().any():
                raise DataError(
                    f"Column `{self.name}` must hold finite numbers, found infinities in "
                    f"{int(cells.is_infinite().sum())} rows. "
                    "Replace them, or make them missing."
                )
            cells_known = cells.filter(cells.is_not_null() & cells.is_not_nan())
        else:
            cells_known = cells.drop_nulls()
        table = cells_known.alias("value").value_counts(name="count")
        values, counts = table["value"], table["count"].cast(pl.Int64)
        if not len(values):
            return
        self.distinct.add(values, counts)
        numbers = values.cast(pl.Float64).to_numpy()
        self.stats.add(numbers, counts.to_numpy())
        if self.dtype.is_integer():
            low, high = int(values.min()), int(values.max())  # type: ignore[arg-type]
            self.least = low if self.least is None else min(self.least, low)
            self.most = high if self.most is None else max(self.most, high)
        elif self.decimals is not None:
            self.decimals = grid_decimals(numbers, self.decimals, self.dtype == pl.Float32)
        if self.dtype.is_integer() and self.running.alive:
            self.running.add(cells)


class CodedProfile:
    """A column of booleans or categories of a frame."""

    def __init__(self, name: str, limit: int, dtype: pl.DataType) -> None:
        self.name, self.dtype, self.rows, self.nulls = name, dtype, 0, 0
        self.distinct = Distinct(limit)

    def add(self, cells: pl.Series) -> None:
        """The next cells."""
        self.rows += len(cells)
        self.nulls += cells.null_count()
        table = cells.drop_nulls().cast(pl.String).alias("value").value_counts(name="count")
        self.distinct.add(table["value"], table["count"])


class TimeProfile:
    """A column of dates, times or durations of a frame."""

    def __init__(self, name: str, limit: int, dtype: pl.DataType) -> None:
        self.name, self.dtype, self.rows, self.nulls = name, dtype, 0, 0
        self.distinct, self.stats = Distinct(limit), NumberStats()
        self.finer = False

    def add(self, cells: pl.Series) -> None:
        """The next cells."""
        self.rows += len(cells)
        self.nulls += cells.null_count()
        table = cells.drop_nulls().alias("value").value_counts(name="count")
        if not len(table):
            return
        self.distinct.add(table["value"], table["count"])
        values, finer = microseconds(table["value"])
        self.finer |= finer
        self.stats.add(values, table["count"].to_numpy())


Profile = TextProfile | NumberProfile | CodedProfile | TimeProfile


def microseconds(cells: pl.Series) -> tuple[np.ndarray, bool]:
    """Dates, times or durations as microseconds (N,) float64, NaN where missing; and whether finer parts were lost."""
    physical = cells.to_physical().cast(pl.Int64)
    known = physical.is_not_null().to_numpy()
    whole = physical.fill_null(0).to_numpy()
    finer = False
    dtype = cells.dtype
    unit = getattr(dtype, "time_unit", None)
    if dtype == pl.Date:
        values = whole.astype(np.float64) * 86_400e6
    elif dtype == pl.Time or unit == "ns":
        finer = bool((whole % 1000 != 0).any())
        values = (whole // 1000 + (whole % 1000 >= 500)).astype(np.float64)  # as float64 the nanoseconds would not be exact
    else:
        values = whole.astype(np.float64) * (1000.0 if unit == "ms" else 1.0)
    return np.where(known, values, np.nan), finer
