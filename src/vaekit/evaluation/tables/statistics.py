"""Statistics that several measures are made of: ranks, shares, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from vaekit.errors import ConfigError

NORMAL_95 = 1.959963984540054
"""The standard normal's quantile of 0.975."""


def area_under_curve(positives: np.ndarray, negatives: np.ndarray) -> tuple[float, float]:
    """The area under the ROC curve of a score, and its standard error.

        A = P(s+ > s-) + P(s+ = s-) / 2,    error^2 = var_i(V_i) / m + var_j(W_j) / n

    V_i is the share of negatives that the i-th positive beats (a tie is half a win), W_j the share of positives that beat the
    j-th negative. DeLong, DeLong, Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
    characteristic curves: a nonparametric approach" (1988). The error is 0 where the two do not overlap: see `area_interval`.

    Args:
        positives: (m,) scores, m >= 1.
        negatives: (n,) scores, n >= 1.

    Returns:
        The area, and its standard error; NaN where one side has a single score.

    Example:
        >>> area, error = area_under_curve(np.array([0.9, 0.8, 0.4]), np.array([0.5, 0.4, 0.1]))
        >>> round(area, 4), round(error, 4)  # 7.5 wins of 9
        (0.8333, 0.1925)
    """
    wins, losses = shares_below(positives, negatives), 1.0 - shares_below(negatives, positives)
    if min(len(wins), len(losses)) < 2:
        return float(wins.mean()), math.nan
    return float(wins.mean()), math.sqrt(wins.var(ddof=1) / len(wins) + losses.var(ddof=1) / len(losses))


def shares_below(x: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,): of each x, the share of the others that are less; equals count half.

    Example:
        >>> shares_below(np.array([1.0, 3.0]), np.array([1.0, 2.0]))
        array([0.25, 1.  ])
    """
    ordered = np.sort(others)
    return (np.searchsorted(ordered, x, "left") + np.searchsorted(ordered, x, "right")) / (2.0 * len(ordered))


def area_interval(area: float, num_positives: int, num_negatives: int) -> tuple[float, float]:
    """A 95 % confidence interval of an area under the ROC curve that has a width also at 0 and 1.

    All A with |A - area| <= 1.96 sqrt(v(A)), where

        v(A) = A (1 - A) [1 + k (1 - A) / (2 - A) + k A / (1 + A)] / (m n),    k = (m + n) / 2 - 1

    Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2: asymptotic methods
    and evaluation" (2006): a score interval by the variance of Hanley and McNeil, with the mean of the two numbers in place
    of each. Of scores with many ties it is too wide.

    Args:
        area: found, from 0 to 1.
        num_positives: m.
        num_negatives: n.

    Example:
        >>> [round(end, 3) for end in area_interval(0.5, 100, 100)], [round(end, 3) for end in area_interval(1.0, 20, 20)]
        ([0.421, 0.579], [0.899, 1.0])
    """
    k = (num_positives + num_negatives) / 2 - 1

    def outside(a: float) -> bool:
        spread = a * (1 - a) * (1 + k * (1 - a) / (2 - a) + k * a / (1 + a)) / (num_positives * num_negatives)
        return abs(a - area) > NORMAL_95 * math.sqrt(spread)

    return _edge(area, 0.0, outside), _edge(area, 1.0, outside)


def _edge(inside: float, far: float, outside: Callable[[float], bool]) -> float:
    """Where an interval about `inside` ends on the way to `far`, by bisection."""
    if not outside(far):
        return far
    for _ in range(60):
        middle = (inside + far) / 2
        inside, far = (inside, middle) if outside(middle) else (middle, far)
    return inside


def share_interval(wins: float, num: int) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of a share of `num` independent trials; halves of wins are ties.

    Wilson, "Probable inference, the law of succession, and statistical inference" (1927).

    Raises:
        ConfigError: if there are no trials.

    Example:
        >>> [round(end, 4) for end in share_interval(0, 10)], [round(end, 4) for end in share_interval(50, 100)]
        ([0.0, 0.2775], [0.4038, 0.5962])
    """
    if num < 1:
        raise ConfigError(f"A share must be of at least one trial, got {num}. Give more rows.")
    square, share = NORMAL_95**2, wins / num
    centre = (share + square / (2 * num)) / (1 + square / num)
    reach = NORMAL_95 * math.sqrt(share * (1 - share) / num + square / (4 * num**2)) / (1 + square / num)
    return (0.0 if wins <= 0 else centre - reach), (1.0 if wins >= num else centre + reach)
