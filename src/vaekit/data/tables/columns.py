"""A column of a table, as a model sees it and as it is printed.

A row is a vector of float64 *cells*: a value channel a column, in the columns' order, then a state channel for every column
in which a cell can be something else than a plain value, in the same order.

- value channel: the number; the code 0..V-1 of the category; microseconds since 1970 UTC of a date or time; 0 of an
  identifier. NaN where the cell is missing, is a word, or is not known.
- state channel: 0 a plain value, 1..W a word, W+1 missing; NaN where it is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

ColumnType = Literal["continuous", "integer", "count", "binary", "categorical", "ordinal", "datetime", "constant", "identifier"]

TYPES: tuple[ColumnType, ...] = (
    "continuous",
    "integer",
    "count",
    "binary",
    "categorical",
    "ordinal",
    "datetime",
    "constant",
    "identifier",
)
NUMBERS = ("continuous", "integer", "count")
CODED = ("binary", "categorical", "ordinal", "constant")


class TableColumn(BaseModel):
    """One column of a table: its type, what its cells can be, and how they are printed.

    Attributes:
        name: unique among the columns.
        type: what a cell is taken as.
        categories: the printed form of each category (binary, categorical, ordinal, constant). A constant column in which
            every cell is missing has none.
        words: what stands in some cells of a column of numbers or dates instead of one, such as `>90`.
        missing: whether missing cells were seen.
        low, high: the least and the greatest number that was seen; microseconds since 1970 UTC of dates and times.
        decimals: the digits after the point that numbers are printed with at most; None for as many as a float64 has.
        format: how a number or a date is spelled (see `numbers.NumberFormat` and `datetimes`); the pattern of identifiers
            (see `identifiers`). Empty for the plain form of the dtype.
        dtype: the Polars dtype of the source as text, `String` for text files.
        missing_as: how a missing cell is spelled: empty for an empty cell or null, `""` for a quoted empty cell.
        also_missing: further spellings that are read as missing.
        reason: one sentence: why it has this type.

    Example:
        >>> TableColumn(name="sex", type="binary", categories=("F", "M")).num_states
        1
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    type: ColumnType
    categories: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    missing: bool = False
    low: float | None = None
    high: float | None = None
    decimals: int | None = None
    format: str = ""
    dtype: str = "String"
    missing_as: str = ""
    also_missing: tuple[str, ...] = ()
    reason: str = ""

    @property
    def num_states(self) -> int:
        """How many states a cell can have: 1, for a plain value, plus the words, plus 1 if cells can be missing."""
        return 1 + len(self.words) + int(self.missing)

    @property
    def missing_state(self) -> int | None:
        """The state W+1 of a missing cell; None if none was seen."""
        return len(self.words) + 1 if self.missing else None

    @property
    def is_number(self) -> bool:
        """Whether a plain value is a number: continuous, integer or count."""
        return self.type in NUMBERS

    @property
    def is_coded(self) -> bool:
        """Whether a plain value is the code of a category."""
        return self.type in CODED


def state_channels(columns: Sequence[TableColumn]) -> dict[int, int]:
    """The channel of the state of each column that has one: index of the column -> index of the channel.

    Example:
        >>> plain, holed = TableColumn(name="a", type="integer"), TableColumn(name="b", type="integer", missing=True)
        >>> state_channels([plain, holed, holed])
        {1: 3, 2: 4}
    """
    with_state = [index for index, column in enumerate(columns) if column.num_states > 1]
    return {index: len(columns) + position for position, index in enumerate(with_state)}


def num_channels(columns: Sequence[TableColumn]) -> int:
    """C + S: how many numbers a row of cells has."""
    return len(columns) + len(state_channels(columns))


def channel_names(columns: Sequence[TableColumn]) -> tuple[str, ...]:
    """A name a channel: the column's, and `NAME (state)`.

    Example:
        >>> channel_names([TableColumn(name="a", type="integer", missing=True)])
        ('a', 'a (state)')
    """
    names = [column.name for column in columns]
    return (*names, *(f"{columns[index].name} (state)" for index in state_channels(columns)))


def describe_columns(columns: Sequence[TableColumn]) -> list[tuple[str, str]]:
    """A heading and a line for each column: its type, what it holds, and why."""
    lines = []
    for column in columns:
        holds = ""
        if column.is_coded:
            listed = ", ".join(column.categories[:8])
            holds = f" of {len(column.categories)}: {listed}{', ...' if len(column.categories) > 8 else ''}"
        elif column.is_number and column.low is not None:
            holds = f" from {column.low:.10g} to {column.high:.10g}"
        holds += f", or {', '.join(column.words[:5])}" if column.words else ""
        holds += ", some missing" if column.missing else ""
        lines.append((f"column {column.name}", f"{column.type}{holds}"))
    return lines
