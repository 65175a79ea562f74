"""Whether pairs of columns belong together in synthetic rows as they do in real ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vaekit.errors import ConfigError
from vaekit.evaluation.tables.rows import Rows, same_table, scaled_to_range
from vaekit.evaluation.tables.shapes import total_variation

NUM_BINS = 10
"""Bins of a number that is compared with a category."""

_CELLS = 2**22


@dataclass(frozen=True)
class PairTrend:
    """How two columns go together.

    Attributes:
        first: name of a column.
        second: name of a later one.
        measure: `correlation` for two of numbers, `contingency` otherwise.
        score: 1 is best; None where it is not defined.
    """

    first: str
    second: str
    measure: Literal["correlation", "contingency"]
    score: float | None


@dataclass(frozen=True)
class PairTrends:
    """All pairs that were measured.

    Attributes:
        pairs: each of them.
        mean: mean score of those that are defined; None if there are none.
        error: standard error of `mean` as an estimate of the mean over all pairs: 0 where all were measured.
        num_pairs: how many pairs there are.
        binning: how numbers are binned beside a category.
    """

    pairs: tuple[PairTrend, ...]
    mean: float | None
    error: float | None
    num_pairs: int
    binning: str


def pair_trends(
    real: Rows,
    synthetic: Rows,
    *,
    max_pairs: int = 2000,
    binning: Literal["width", "quantile"] = "width",
    seed: int = 0,
) -> PairTrends:
    """The trends of pairs of columns, of all of them or of a random choice.

        two of numbers      1 - |rho_synthetic - rho_real| / 2,  rho Pearson's correlation
        otherwise           1 - 1/2 sum_{a, b} |p_synthetic(a, b) - p_real(a, b)|

    These are the "correlation similarity" and the "contingency similarity" of the SDMetrics library. Departure from its quality
    report: that bins synthetic numbers by their own range, so that a shift goes unseen, and later releases leave out pairs that
    hardly go together in the real rows; here bins are of the real rows, and no pair is left out.

    The correlation is over the rows in which both cells are plain; if it is not defined in the real rows (one is constant), the
    pair has no score, and if it is not in the synthetic rows alone, it counts as 0. In the tables of shares, words and missing
    cells are categories. A number beside a category is binned: `width` makes ten bins of equal width from the least to the
    greatest real number, as SDMetrics does; `quantile` cuts at the deciles of the real numbers, which tells more of a skewed
    column. A bin has its lower end and not its upper; the first takes in all that is less, the last all that is greater.

    Args:
        real: N rows.
        synthetic: M rows.
        max_pairs: of more pairs than these, as many are drawn without repetition, every pair alike.
        binning: `width` or `quantile`.
        seed: of the choice of pairs.

    Raises:
        ConfigError: if `max_pairs` is less than 1 or `binning` is unknown.
        DataError: if the two have different columns.
    """
    same_table(real, synthetic)
    if max_pairs < 1:
        raise ConfigError(f"`max_pairs` must be at least 1, got {max_pairs}. Use 2000 when in doubt.")
    if binning not in ("width", "quantile"):
        raise ConfigError(f"`binning` must be `width` or `quantile`, got {binning!r}. Use `width` to compare with others.")
    measured = np.array(real.measured, dtype=np.int64)
    first, second = np.triu_indices(len(measured), 1)
    num_pairs = len(first)
    if num_pairs > max_pairs:
        chosen = np.sort(np.random.default_rng(seed).choice(num_pairs, max_pairs, replace=False))
        first, second = first[chosen], second[chosen]
    pairs = _Pairs(real, synthetic, binning)
    found = tuple(pairs.trend(int(i), int(j)) for i, j in zip(measured[first], measured[second], strict=True))
    mean, error = _mean([pair.score for pair in found if pair.score is not None], num_pairs, len(found))
    return PairTrends(found, mean, error, num_pairs, binning)


def _mean(scores: list[float], num_pairs: int, num_measured: int) -> tuple[float | None, float | None]:
    if not scores:
        return None, None
    if num_measured == num_pairs:
        return float(np.mean(scores)), 0.0
    if len(scores) < 2:
        return float(np.mean(scores)), None
    finite = 1 - num_measured / num_pairs  # drawn without repetition
    return float(np.mean(scores)), float(np.std(scores, ddof=1) * math.sqrt(finite / len(scores)))


class _Pairs:
    """The two tables; pairs come ordered by their first column, which is therefore read once."""

    def __init__(self, real: Rows, synthetic: Rows, binning: str) -> None:
        self.real, self.synthetic, self.binning = real, synthetic, binning
        self.held: dict[str, tuple[int, tuple[np.ndarray, np.ndarray]]] = {}

    def trend(self, i: int, j: int) -> PairTrend:
        names = self.real.columns[i].name, self.real.columns[j].name
        if self.real.is_number(i) and self.real.is_number(j):
            return PairTrend(*names, "correlation", self._correlation(i, j))
        return PairTrend(*names, "contingency", self._contingency(i, j))

    def _correlation(self, i: int, j: int) -> float | None:
        both = zip(self._first("numbers", i), self._numbers(j), strict=True)
        of_real, of_synthetic = (correlation(x, y) for x, y in both)
        return None if of_real is None else 1.0 - abs((of_synthetic or 0.0) - of_real) / 2

    def _contingency(self, i: int, j: int) -> float:
        (a, c), (b, d) = self._first("codes", i), self._codes(j)
        return 1.0 - joint_variation(a, b, c, d)

    def _first(self, kind: str, i: int) -> tuple[np.ndarray, np.ndarray]:
        if kind not in self.held or self.held[kind][0] != i:
            self.held[kind] = i, (self._numbers(i) if kind == "numbers" else self._codes(i))
        return self.held[kind][1]

    def _numbers(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return self.real.numbers(i), self.synthetic.numbers(i)

    def _codes(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        codes = self.real.codes(i), self.synthetic.codes(i)
        if not self.real.is_number(i):
            return codes
        x, y = self._numbers(i)
        edges = bin_edges(x, self.binning)
        return _binned(x, codes[0], edges), _binned(y, codes[1], edges)


def correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's correlation over the rows without NaN; None where one of the two is constant.

    Example:
        >>> round(correlation(np.array([1.0, 2.0, 3.0, np.nan]), np.array([2.0, 1.0, 4.0, 0.0])), 6)
        0.654654
    """
    known = ~(np.isnan(x) | np.isnan(y))
    x, y = x[known], y[known]
    if len(x) < 2 or x.min() == x.max() or y.min() == y.max():
        return None
    x, y = (scaled_to_range(v, v.min(), v.max()) for v in (x, y))  # so that squares neither overflow nor vanish
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(np.clip(float(x @ y) / scale, -1.0, 1.0))


def bin_edges(real: np.ndarray, binning: str, num_bins: int = NUM_BINS) -> np.ndarray:
    """The ends of the bins of a column of numbers, by its real values; fewer where deciles coincide.

    Example:
        >>> bin_edges(np.array([0.0, np.nan, 1.0, 4.0]), "width", 2)
        array([0., 2., 4.])
    """
    real = real[~np.isnan(real)]
    if not len(real):
        return np.zeros(1)
    if binning == "width":
        return 2 * np.linspace(real.min() / 2, real.max() / 2, num_bins + 1)  # the range itself may overflow
    return np.unique(np.quantile(real, np.linspace(0, 1, num_bins + 1)))


def _binned(values: np.ndarray, codes: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Codes in which a plain number is its bin, and words and missing cells come after all bins."""
    bins = np.searchsorted(edges[1:-1], values, "right")
    return np.where(np.isnan(values), codes + len(edges), bins)


def joint_variation(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> float:
    """The total variation distance of the table of the codes (a, b) and of that of (c, d).

    No table is larger than the number of rows, or than 4 million cells.

    Example:
        >>> joint_variation(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.array([0, 1]), np.array([0, 1]))
        0.5
    """
    width = int(max(b.max(), d.max())) + 1
    joint = np.concatenate([a * width + b, c * width + d])
    num = int(joint.max()) + 1
    if num > _CELLS:
        joint = np.unique(joint, return_inverse=True)[1]
        num = int(joint.max()) + 1
    return total_variation(np.bincount(joint[: len(a)], minlength=num), np.bincount(joint[len(a) :], minlength=num))
