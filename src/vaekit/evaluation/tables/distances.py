"""Distances of rows of mixed columns, and the nearest of many rows in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vaekit.errors import ConfigError
from vaekit.evaluation.tables.rows import Rows, scaled_to_range

Metric = Literal["gower", "euclidean"]

_BLOCK = 128, 2048
"""Rows asked for and rows looked at in one go, so that a column's differences stay in the processor's cache."""


@dataclass(frozen=True)
class _Encoded:
    """Rows column by column: numbers scaled, kinds of cells as codes."""

    numbers: list[np.ndarray]
    kinds: list[np.ndarray | None]
    codes: list[np.ndarray]
    num_rows: int


class Distance:
    """The distance of two rows, by how far each column's cells lie apart.

        gower       1/C sum_c d_c            euclidean   sqrt(sum_c d_c^2)

    d_c of two numbers is their difference divided by the range of the column in the rows `fitted` (of a column that is
    constant there: 0 if equal, else 1); of two categories, two words, or cells of which one is missing, it is 0 if they are the
    same kind and 1 if not. Numbers outside the range are not cut, so d_c may exceed 1. Copies lie at no distance.

    Gower, "A general coefficient of similarity and some of its properties" (1971). Departure: there a column with a missing
    cell is not counted, so that rows at no distance may differ. `euclidean` is the distance of min-max scaled numbers and of
    indicators divided by sqrt(2), by which the published code of TabDDPM (Kotelnikov, Baranchuk, Rubachev, Babenko, 2023)
    measures privacy.

    Args:
        fitted: rows that the ranges are of: the training rows.
        metric: `gower` or `euclidean`.

    Raises:
        ConfigError: if the metric is unknown, or no column is measured.
    """

    def __init__(self, fitted: Rows, metric: Metric = "gower") -> None:
        if metric not in ("gower", "euclidean"):
            raise ConfigError(f"`metric` must be `gower` or `euclidean`, got {metric!r}. Use `gower` when in doubt.")
        if not fitted.measured:
            raise ConfigError(
                "There must be a column that is neither constant nor an identifier, found none. Give such a column."
            )
        self.metric, self.columns = metric, fitted.measured
        self.ranges = {i: _range(fitted.numbers(i)) for i in self.columns if fitted.is_number(i)}

    def encode(self, rows: Rows) -> _Encoded:
        """Rows for `nearest`."""
        numbers, kinds, codes = [], [], []
        for index in self.columns:
            if rows.is_number(index):
                kind = rows.codes(index).astype(np.int32)
                numbers.append(np.where(kind == 0, scaled_to_range(rows.numbers(index), *self.ranges[index]), 0.0))
                kinds.append(kind if kind.any() else None)
            else:
                codes.append(rows.codes(index).astype(np.int32))
        return _Encoded(numbers, kinds, codes, len(rows))

    def nearest(self, asked: Rows, among: Rows, num: int = 1) -> np.ndarray:
        """(N, num): the distances of each row to the `num` nearest of other rows, least first.

        Memory is bounded by the encoded rows; time is N x M x C.

        Args:
            asked: N rows.
            among: M >= num rows.
            num: how many.

        Raises:
            ConfigError: if there are fewer than `num` rows to look among.

        Example:
            >>> from vaekit.data.tables.columns import TableColumn
            >>> size = TableColumn(name="size", type="continuous")
            >>> kind = TableColumn(name="kind", type="binary", categories=("a", "b"))
            >>> train = Rows(np.array([[0.0, 0], [10.0, 1]]), (size, kind))
            >>> Distance(train).nearest(Rows(np.array([[5.0, 1]]), train.columns), train, 2)
            array([[0.25, 0.75]])
        """
        if len(among) < num or num < 1:
            raise ConfigError(f"There must be at least {max(num, 1)} rows to look among, got {len(among)}. Give more rows.")
        x, y = self.encode(asked), self.encode(among)
        found = np.empty((x.num_rows, num))
        for start in range(0, x.num_rows, _BLOCK[0]):
            rows = slice(start, min(start + _BLOCK[0], x.num_rows))
            best = np.full((rows.stop - start, num), np.inf)
            for first in range(0, y.num_rows, _BLOCK[1]):
                total = self._sums(x, rows, y, slice(first, min(first + _BLOCK[1], y.num_rows)))
                best = _least(np.concatenate([best, _least(total, num)], axis=1), num)
            found[rows] = np.sort(best, axis=1)
        return found / len(self.columns) if self.metric == "gower" else np.sqrt(found)

    def _sums(self, x: _Encoded, rows: slice, y: _Encoded, others: slice) -> np.ndarray:
        """The sum over columns of d (Gower) or of its square (Euclid), for a block of pairs."""
        total = np.zeros((rows.stop - rows.start, others.stop - others.start))
        away = np.empty_like(total)
        for i, (a, b) in enumerate(zip(x.numbers, y.numbers, strict=True)):
            np.subtract(a[rows, None], b[others], out=away)
            if self.metric == "gower":
                np.abs(away, out=away)
            else:
                np.multiply(away, away, out=away)
            kind, other = x.kinds[i], y.kinds[i]
            if kind is not None or other is not None:
                away[_kinds(kind, rows)[:, None] != _kinds(other, others)] = 1.0
            total += away
        for a, b in zip(x.codes, y.codes, strict=True):
            total += a[rows, None] != b[others]
        return total


def _kinds(kinds: np.ndarray | None, rows: slice) -> np.ndarray:
    return np.zeros(rows.stop - rows.start, dtype=np.int32) if kinds is None else kinds[rows]


def _least(values: np.ndarray, num: int) -> np.ndarray:
    """The `num` least of each row, in any order."""
    if num == 1:
        return values.min(axis=1, keepdims=True)
    return values if values.shape[1] <= num else np.partition(values, num - 1, axis=1)[:, :num]


def _range(values: np.ndarray) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    return (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)


def fingerprints(rows: Rows) -> np.ndarray:
    """(N,) uint64: equal for rows whose measured cells are all the same; for others, equal by a chance of 2^-64.

    Each column's bits are mixed into a sum by the finaliser of MurmurHash3, so memory is a few numbers a row.

    Example:
        >>> from vaekit.data.tables.columns import TableColumn
        >>> size = TableColumn(name="size", type="continuous", missing=True)
        >>> a, b, c = fingerprints(Rows(np.array([[0.0, 0], [-0.0, 0], [np.nan, 1]]), (size,)))
        >>> bool(a == b), bool(a == c)
        (True, False)
    """
    found = np.full(len(rows), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for index in rows.measured:
        if rows.is_number(index):
            values = np.nan_to_num(rows.numbers(index)) + 0.0  # -0.0 is 0.0
            found = _mixed(found ^ values.view(np.uint64))
        found = _mixed(found ^ rows.codes(index).astype(np.uint64))
    return found


def _mixed(bits: np.ndarray) -> np.ndarray:
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        bits = (bits ^ (bits >> np.uint64(33))) * np.uint64(factor)  # modulo 2^64
    return (bits ^ (bits >> np.uint64(33))) + np.uint64(0x9E3779B97F4A7C15)
