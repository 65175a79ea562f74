"""Whether each column of synthetic rows is distributed as in the real ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vaekit.evaluation.tables.rows import Rows, same_table


@dataclass(frozen=True)
class ColumnShape:
    """One column's distribution in synthetic rows against that in real ones.

    Attributes:
        name: of the column.
        measure: `kolmogorov_smirnov` for numbers, `total_variation` for categories.
        score: 1 - the distance of the plain cells; 1 is best. None where the real rows hold none, 0 where only the synthetic
            hold none.
        states: 1 - the total variation distance of what cells are: plain, each of the words, missing. Of a column without
            words, that is 1 - |difference of the missing rates|.
        missing_real: share of the real cells that are missing.
        missing_synthetic: share of the synthetic ones.
    """

    name: str
    measure: Literal["kolmogorov_smirnov", "total_variation"]
    score: float | None
    states: float
    missing_real: float
    missing_synthetic: float

    @property
    def error(self) -> float | None:
        """The distance itself: 1 - `score`."""
        return None if self.score is None else 1.0 - self.score


def column_shapes(real: Rows, synthetic: Rows) -> tuple[ColumnShape, ...]:
    """The shape of every column that is neither constant nor an identifier.

    Numbers and times: 1 - the two-sample Kolmogorov-Smirnov statistic. Categories: 1 - the total variation distance of their
    shares. Both are of plain cells; words and missing cells are left out, and `states` compares them. These are the definitions
    of the "column shapes" and the "missing value similarity" of the SDMetrics library. Two samples of one law do not score 1:
    read the scores beside those of held-out real rows.

    Args:
        real: N rows.
        synthetic: M rows.

    Raises:
        DataError: if the two have different columns.
    """
    same_table(real, synthetic)
    return tuple(_shape(real, synthetic, index) for index in real.measured)


def _shape(real: Rows, synthetic: Rows, index: int) -> ColumnShape:
    column = real.columns[index]
    num_states = len(column.words) + 2
    p, q = (np.bincount(rows.states(index), minlength=num_states) / len(rows) for rows in (real, synthetic))
    if real.is_number(index):
        measure, score = "kolmogorov_smirnov", _numbers_score(real.numbers(index), synthetic.numbers(index))
    else:
        measure, score = "total_variation", _categories_score(*(_counts(rows, index) for rows in (real, synthetic)))
    return ColumnShape(column.name, measure, score, 1.0 - total_variation(p, q), float(p[-1]), float(q[-1]))


def _numbers_score(x: np.ndarray, y: np.ndarray) -> float | None:
    x, y = x[~np.isnan(x)], y[~np.isnan(y)]
    if not len(x):
        return None
    return 1.0 - kolmogorov_smirnov(x, y) if len(y) else 0.0


def _counts(rows: Rows, index: int) -> np.ndarray:
    """(V,): how often each category occurs."""
    return np.bincount(rows.codes(index), minlength=rows.num_codes(index))[: len(rows.columns[index].categories)]


def _categories_score(real: np.ndarray, synthetic: np.ndarray) -> float | None:
    if not real.sum():
        return None
    return 1.0 - total_variation(real, synthetic) if synthetic.sum() else 0.0


def kolmogorov_smirnov(x: np.ndarray, y: np.ndarray) -> float:
    """The two-sample statistic max_t |F_x(t) - F_y(t)| of two samples without NaN, ties and all.

    Args:
        x: (N,), N >= 1.
        y: (M,), M >= 1.

    Example:
        >>> kolmogorov_smirnov(np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.5, 3.5, 4.5, 5.5]))
        0.5
    """
    x, y = np.sort(x), np.sort(y)
    away = 0.0
    for points in (x, y):  # the difference changes at values of either only
        differences = np.searchsorted(x, points, "right") / len(x) - np.searchsorted(y, points, "right") / len(y)
        away = max(away, float(np.abs(differences).max()))
    return away


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    """The distance 1/2 sum_c |p_c - q_c| of two tables of counts (or of shares), each divided by its sum.

    Example:
        >>> total_variation(np.array([3, 1]), np.array([10, 10]))
        0.25
    """
    return 0.5 * float(np.abs(p / p.sum() - q / q.sum()).sum())
