"""SAP: how far the unit that predicts a factor best lies ahead of the next."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from vaekit.errors import ConfigError
from vaekit.evaluation.disentanglement.examples import Matrix, as_examples, check_matrix, floats, integers, leads, rows

MAX_CELLS = 256
"""Thresholds lie between so many cells of a unit at most, which have as many examples each."""


@dataclass(frozen=True)
class Sap:
    """The separated attribute predictability.

    Attributes:
        score: mean of `gaps`, from 0 to 1: higher is better.
        gaps: (F,) of each factor, the best score minus the second best.
        units: (F,) the unit that predicts each factor best.
        scores: (D, F) balanced accuracy of thresholds, or R^2 of a factor that is a number.
    """

    score: float
    gaps: tuple[float, ...]
    units: tuple[int, ...]
    scores: Matrix


def sap(codes: Any, factors: Any, *, continuous: Collection[int] = ()) -> Sap:
    """The separated attribute predictability: how much worse is a factor predicted by the second best unit?

        SAP = 1/F sum_f (S_best,f - S_second,f)

    S_df of a factor of V values is the balanced accuracy of the best classifier that cuts unit d by V - 1 thresholds; chance is
    1 / V. It is found exactly up to 256 different codes, and otherwise with thresholds at 256 quantiles. S_df of a factor in
    `continuous` is the R^2 of a straight line, the squared correlation of unit and value. Kumar, Sattigeri, Balakrishnan,
    "Variational inference of disentangled latent concepts from unlabeled observations" (2018), section 3: thresholds are chosen
    and judged on the same examples, as there. Locatello et al. (2019) have a linear SVM in their place, whose S is lower for
    factors of many values. Of a single unit the second is 0.

    Args:
        codes: (N, D) means of the posterior.
        factors: (N, F) codes of the true factors.
        continuous: which factors are numbers, by their place.

    Raises:
        DataError: if the arrays cannot be measured, see `as_examples`.
        ConfigError: if a place in `continuous` is no factor.

    Example:
        >>> grid = np.stack(np.meshgrid(np.arange(4), np.arange(5)), axis=-1).reshape(-1, 2)
        >>> sap(grid, grid).gaps, sap(grid, grid, continuous=(0, 1)).score  # 1 - 1/4 and 1 - 1/5; 1 - 0
        ((0.75, 0.8), 1.0)
    """
    examples = as_examples(codes, factors)
    strange = sorted(set(continuous) - set(range(examples.num_factors)))
    if strange:
        raise ConfigError(f"`continuous` must be places of the {examples.num_factors} factors, got {strange}. Count from 0.")
    scores = np.zeros((examples.num_units, examples.num_factors))
    for unit in range(examples.num_units):
        cells = _cells(examples.codes[:, unit])
        for factor, num_values in enumerate(examples.num_values):
            if factor in continuous:
                scores[unit, factor] = _squared_correlation(examples.codes[:, unit], examples.values[:, factor])
            else:
                counts = np.bincount(cells * num_values + examples.factors[:, factor], minlength=(cells.max() + 1) * num_values)
                scores[unit, factor] = threshold_accuracy(counts.reshape(-1, num_values))
    gaps, best = leads(scores)
    return Sap(sap_from_scores(scores), floats(gaps), integers(best), rows(scores))


def sap_from_scores(scores: Any) -> float:
    """1/F sum_f (best - second best of column f) of a matrix (D, F).

    Raises:
        ConfigError: if it is no such matrix.

    Example:
        >>> sap_from_scores([[1.0, 0.5], [0.25, 0.5], [0.5, 0.5]])
        0.25
    """
    return float(leads(check_matrix("scores", scores))[0].mean())


def threshold_accuracy(counts: Any) -> float:
    """The best balanced accuracy, over classes, of V - 1 thresholds on a line, each interval between them given to one class.

    By dynamic programming over cells, intervals and the class of the last interval.

    Args:
        counts: (cells, V) examples of each class in each cell, the cells in their order on the line; each class has some.

    Example:
        >>> threshold_accuracy([[4, 0], [0, 2], [2, 0]])  # one threshold: (4/6 + 2/2) / 2
        0.8333333333333333
    """
    table = np.asarray(counts, dtype=np.float64)
    num_values = table.shape[1]
    gains = table / (table.sum(0) * num_values)
    best = np.full((num_values, num_values), -np.inf)  # (intervals - 1, class of the last one)
    best[0] = gains[0]
    for gain in gains[1:]:
        best[1:] = np.maximum(best[1:], best[:-1].max(1, keepdims=True))
        best += gain
    return float(best.max())


def _cells(values: np.ndarray) -> np.ndarray:
    """(N,) cells in the order of the values; equal values are in one cell."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(counts) <= MAX_CELLS:
        return place
    cell = (np.cumsum(counts) - counts) * MAX_CELLS // len(values)
    return np.unique(cell[place], return_inverse=True)[1]


def _squared_correlation(first: np.ndarray, second: np.ndarray) -> float:
    if first.min() == first.max():
        return 0.0
    x, y = first - first.mean(), second - second.mean()
    x /= np.abs(x).max()
    y /= np.abs(y).max()
    return min(1.0, float((x * y).sum() ** 2 / (np.square(x).sum() * np.square(y).sum())))
