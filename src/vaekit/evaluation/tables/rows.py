"""Rows of a table as the measures read them: cells, and what each of them means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vaekit.data.tables.columns import TableColumn, state_channels
from vaekit.errors import ConfigError, DataError

NUMBERS = frozenset({"continuous", "integer", "count", "datetime"})
"""Types of columns whose plain cells have an order and differences; those of all others are codes of categories."""


@dataclass(frozen=True, eq=False)
class Rows:
    """N rows of a table of C columns, S of which have a state channel.

    Attributes:
        cells: (N, C + S): the C value channels in the columns' order, then the state channels, in the columns' order, of the
            columns with words or missing cells. Numbers are themselves and categories their codes; a state is 0 for a plain
            value, 1..W for a word, W + 1 for missing. A cell without a value and without a word counts as missing.
        columns: the C columns.

    Raises:
        ConfigError: if two columns have one name.
        DataError: if the cells are not such a matrix, are infinite, or hold codes or states that there are not.

    Example:
        >>> age = TableColumn(name="age", type="integer", words=("unknown",), missing=True)
        >>> rows = Rows(np.array([[31.0, 0.0], [np.nan, 1.0], [np.nan, 2.0]]), (age,))
        >>> rows.numbers(0), rows.codes(0)
        (array([31., nan, nan]), array([0, 1, 2]))
    """

    cells: np.ndarray
    columns: Sequence[TableColumn]

    def __post_init__(self) -> None:
        cells, columns = np.asarray(self.cells, dtype=np.float64), tuple(self.columns)
        object.__setattr__(self, "cells", cells)
        object.__setattr__(self, "columns", columns)
        _check_columns(columns)
        width = len(columns) + len(self._states)
        if cells.ndim != 2 or cells.shape[1] != width or not len(cells):
            raise DataError(
                f"Cells must be a matrix (N, {width}) with a row, of {len(columns)} columns and {len(self._states)} states. "
                f"Found shape {cells.shape}. Give the cells that these columns describe."
            )
        for index in range(len(columns)):
            self._check_cells(index)

    def __len__(self) -> int:
        return len(self.cells)

    @cached_property
    def _states(self) -> dict[int, int]:
        """The channel of the state of each column that has one."""
        return state_channels(self.columns)

    @cached_property
    def measured(self) -> tuple[int, ...]:
        """The columns that measures look at: not identifiers, never to be repeated, nor what can only be one kind of cell."""
        return tuple(i for i, column in enumerate(self.columns) if column.type != "identifier" and not _is_settled(column))

    def is_number(self, index: int) -> bool:
        """Whether the plain cells of a column are numbers."""
        return self.columns[index].type in NUMBERS

    def states(self, index: int) -> np.ndarray:
        """(N,) int64: 0 plain, 1..W the words, W + 1 missing."""
        missing = len(self.columns[index].words) + 1
        channel, empty = self._states.get(index), np.isnan(self.cells[:, index])
        if channel is None:
            return np.where(empty, missing, 0)
        states = np.nan_to_num(self.cells[:, channel], nan=missing).astype(np.int64)
        return np.where((states == 0) & empty, missing, states)

    def numbers(self, index: int) -> np.ndarray:
        """(N,): the plain values of a column, NaN for words and missing cells."""
        values = self.cells[:, index].copy()
        if index in self._states:
            values[self.states(index) != 0] = np.nan
        return values

    def codes(self, index: int) -> np.ndarray:
        """(N,) int64: what kind of cell: V categories (one kind, "a number", for numbers), W words, missing."""
        states, num_plain = self.states(index), self._num_plain(index)
        others = states + (num_plain - 1)
        if self.is_number(index):
            return others
        return np.where(states == 0, np.nan_to_num(self.cells[:, index]).astype(np.int64), others)

    def num_codes(self, index: int) -> int:
        """One more than the greatest code there can be."""
        return self._num_plain(index) + len(self.columns[index].words) + 1

    def take(self, num: int | None, seed: int) -> Rows:
        """At most `num` of the rows, at random without repetition, in their order; all of them if `num` is None."""
        if num is None or num >= len(self):
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self), num, replace=False))
        return self.select(chosen)

    def select(self, chosen: np.ndarray | slice) -> Rows:
        """Some of the rows, by number or mask; not checked again."""
        rows = object.__new__(Rows)
        object.__setattr__(rows, "cells", self.cells[chosen])
        object.__setattr__(rows, "columns", self.columns)
        return rows

    def _num_plain(self, index: int) -> int:
        return 1 if self.is_number(index) else len(self.columns[index].categories)

    def _check_cells(self, index: int) -> None:
        column, values = self.columns[index], self.cells[:, index]
        if np.isinf(values).any():
            raise DataError(f"Cells must be finite, found an infinite one in the column {column.name!r}. Take such rows out.")
        if column.is_coded:
            _check_whole(values, len(column.categories) - 1, f"Codes of the column {column.name!r}")
        if index in self._states:
            _check_whole(self.cells[:, self._states[index]], column.num_states - 1, f"States of the column {column.name!r}")


def same_table(*tables: Rows) -> None:
    """Raises unless all have the columns of the first.

    Raises:
        DataError: if they do not.
    """
    for other in tables[1:]:
        if other.columns is not tables[0].columns and tuple(other.columns) != tuple(tables[0].columns):
            raise DataError("All rows must have the same columns, found two lists of columns. Encode both by one of them.")


def limit_of(num_columns: int, most: int, wide: int, least: int) -> int:
    """So many rows that time does not grow with the columns: `most` up to `wide` columns, then fewer, but at least `least`.

    Example:
        >>> [limit_of(num, 20_000, 100, 2000) for num in (10, 100, 400, 5000)]
        [20000, 20000, 5000, 2000]
    """
    return max(least, min(most, most * wide // max(num_columns, 1)))


def scaled_to_range(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """(v - low) / (high - low) without overflow, cut at 1e9 to both sides; if low = high, 0 where v is that and 1 elsewhere.

    Example:
        >>> scaled_to_range(np.array([1.0, 3.0, np.nan]), 1.0, 5.0), scaled_to_range(np.array([2.0, 3.0]), 2.0, 2.0)
        (array([0. , 0.5, nan]), array([0., 1.]))
    """
    if low == high:
        return np.where(np.isnan(values), np.nan, values != low)
    with np.errstate(over="ignore"):
        return np.clip((values / 2 - low / 2) / (high / 2 - low / 2), -1e9, 1e9)


def as_rows(cells: Any, columns: Sequence[TableColumn]) -> Rows:
    """Cells as `Rows`; what is `Rows` already stays as it is."""
    return cells if isinstance(cells, Rows) else Rows(cells, columns)


def _check_columns(columns: tuple[TableColumn, ...]) -> None:
    names = [column.name for column in columns]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"Columns must have different names, found {twice!r} twice. Rename one of them.")


def _is_settled(column: TableColumn) -> bool:
    """Whether there is nothing that a cell could be wrong about; a constant that may be missing is not settled."""
    return column.type == "constant" and len(column.categories) + column.num_states <= 2


def _check_whole(values: np.ndarray, greatest: int, what: str) -> None:
    known = values[~np.isnan(values)]
    if len(known) and not (known.min() >= 0 and known.max() <= greatest and (known == np.floor(known)).all()):
        wrong = known[(known < 0) | (known > greatest) | (known != np.floor(known))][0]
        raise DataError(
            f"{what} must be whole numbers from 0 to {greatest}, found {wrong:g}. Encode the rows by these columns."
        )
