"""Whether a classifier can tell synthetic rows from real ones."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vaekit.errors import ConfigError, require
from vaekit.evaluation.tables.features import scaled_features, tree_features
from vaekit.evaluation.tables.rows import Rows, limit_of, same_table
from vaekit.evaluation.tables.statistics import area_under_curve

CLASSIFIERS = ("logistic", "boosting")

LIMIT = 20_000
"""Rows a side, unless told otherwise; fewer of tables of more than 100 columns."""


@dataclass(frozen=True)
class Detection:
    """What a classifier makes of real and synthetic rows that it has not seen.

    Attributes:
        classifier: `logistic` regression or `boosting` of trees.
        auc: mean area under the ROC curve over the folds. 0.5 is best; 1: every row is told apart. Well below 0.5 is a sign of
            copies, of which one is learned from and another asked for, or of columns whose shares are the very same.
        auc_error: its standard error over the rows asked for, given the classifiers.
        score: 1 - 2 (max(auc, 0.5) - 0.5): 1 is best, 0 worst.
        num_rows: of each side.
        num_folds: how often the rows were divided into those learned from and those asked for.
    """

    classifier: str
    auc: float
    auc_error: float
    score: float
    num_rows: int
    num_folds: int


def detection(
    real: Rows,
    synthetic: Rows,
    *,
    classifier: Literal["logistic", "boosting"] = "boosting",
    num_folds: int = 5,
    seed: int = 0,
    limit: int | None = None,
) -> Detection:
    """The cross-validated area under the ROC curve of a classifier of real against synthetic rows.

    As many rows of both, so that neither is likelier. `logistic`: standardised numbers, indicators of categories, words and
    missing cells, with scikit-learn's penalty of 1; it sees columns one by one, so it says little of how they go together.
    `boosting`: histogram gradient boosting of trees with scikit-learn's settings and without early stopping; it sees numbers
    as they are and categories as such, and finds what is written more finely or coarsely than it should be.
    Lopez-Paz, Oquab, "Revisiting classifier two-sample tests" (2017), with the area in place of the accuracy.

    Args:
        real: N rows.
        synthetic: M rows.
        classifier: `logistic` or `boosting`.
        num_folds: K; each row is asked for once, by a classifier of the other folds.
        seed: of the choice of rows, the folds and the classifier.
        limit: most rows of each side, 20,000 if None (fewer of more than 100 columns, at least 2,000).

    Raises:
        ConfigError: if the classifier is unknown, or there are fewer than 2 K rows on a side.
        DataError: if the two have different columns.
        MissingExtraError: if scikit-learn is not installed.
    """
    same_table(real, synthetic)
    if limit is None:
        limit = limit_of(len(real.measured), LIMIT, 100, 2000)
    num = min(len(real), len(synthetic), limit)
    if classifier not in CLASSIFIERS:
        raise ConfigError(f"`classifier` must be `logistic` or `boosting`, got {classifier!r}. Use one of these.")
    if num_folds < 2 or num < 2 * num_folds:
        raise ConfigError(
            f"There must be at least 2 folds of 2 rows of each side, got {num_folds} folds of {num} rows. Give more rows."
        )
    real, synthetic = real.take(num, seed), synthetic.take(num, seed + 1)
    assert len(real) == len(synthetic)
    fold = np.random.default_rng(seed).permutation(np.arange(num) % num_folds)
    other = np.random.default_rng(seed + 1).permutation(np.arange(num) % num_folds)
    found = []
    for k in range(num_folds):
        sides = (real.select(fold != k), synthetic.select(other != k))
        asked = (real.select(fold == k), synthetic.select(other == k))
        found.append(area_under_curve(*reversed(_scores(sides, asked, classifier, seed))))
    auc = float(np.mean([area for area, _ in found]))
    error = math.sqrt(sum(error**2 for _, error in found)) / num_folds
    return Detection(classifier, auc, error, 1.0 - 2.0 * (max(auc, 0.5) - 0.5), num, num_folds)


def _scores(sides: tuple[Rows, Rows], asked: tuple[Rows, Rows], classifier: str, seed: int) -> list[np.ndarray]:
    """How synthetic each row of the two sets asked for looks."""
    fitted = _joined(*sides)
    labels = np.repeat([0, 1], [len(sides[0]), len(sides[1])])
    tables = (fitted, *asked)
    if classifier == "boosting":
        ensemble: Any = require("sklearn.ensemble", "sklearn", "Telling synthetic rows from real ones")
        (x, *others), coded = tree_features(fitted, tables, fitted.measured)
        model = ensemble.HistGradientBoostingClassifier(categorical_features=coded, early_stopping=False, random_state=seed)
    else:
        linear: Any = require("sklearn.linear_model", "sklearn", "Telling synthetic rows from real ones")
        x, *others = scaled_features(fitted, tables, "standard")
        model = linear.LogisticRegression(max_iter=1000)
    if not x.shape[1]:
        return [np.zeros(len(rows)) for rows in asked]
    exceptions: Any = require("sklearn.exceptions", "sklearn", "Telling synthetic rows from real ones")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)  # an almost fitted classifier is a classifier
        model.fit(x, labels)
    return [model.decision_function(features) for features in others]


def _joined(first: Rows, second: Rows) -> Rows:
    joined = first.select(slice(None))
    object.__setattr__(joined, "cells", np.concatenate([first.cells, second.cells]))
    return joined
