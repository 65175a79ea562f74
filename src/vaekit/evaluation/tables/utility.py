"""Whether a model that learned from synthetic rows serves on real ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vaekit.errors import ConfigError, DataError, require
from vaekit.evaluation.tables.features import tree_features
from vaekit.evaluation.tables.rows import Rows, limit_of, same_table, scaled_to_range
from vaekit.evaluation.tables.statistics import shares_below

LIMIT = 50_000
"""Rows to learn from, unless told otherwise; fewer of tables of more than 100 columns."""

RESAMPLED = 10_000
"""Rows of a resample at most: the error over n rows is that over m of them times sqrt(m / n)."""

MAX_CLASSES = 100

Measure = Callable[[np.ndarray], float]
"""Chosen rows -> the figure over these."""


@dataclass(frozen=True)
class UtilityMetric:
    """One figure of both models on the same held-out real rows.

    Attributes:
        name: `f1_macro`, `f1_rarer` (two classes: of the one that is rarer in the real rows), `auc`, `average_precision` (two
            classes: of the rarer; more: the mean over one class against the others), `accuracy`; or `r2` and, in the target's
            units, `rmse`.
        real: learned from real rows.
        synthetic: learned from synthetic ones.
        difference: synthetic - real.
        difference_error: its standard error over the held-out rows, by a paired bootstrap. It does not know that other rows to
            learn from would have made other models.
    """

    name: str
    real: float
    synthetic: float
    difference: float
    difference_error: float


@dataclass(frozen=True)
class Utility:
    """What synthetic rows are worth to whoever predicts one column from the others.

    Attributes:
        target: name of the column.
        task: `classification` of categories, or `regression` of numbers.
        metrics: the figures.
        num_real: real rows learned from.
        num_synthetic: synthetic rows learned from.
        num_test: held-out real rows.
    """

    target: str
    task: Literal["classification", "regression"]
    metrics: tuple[UtilityMetric, ...]
    num_real: int
    num_synthetic: int
    num_test: int


def utility(
    real: Rows,
    synthetic: Rows,
    test: Rows,
    target: str,
    *,
    model: Callable[[], Any] | None = None,
    seed: int = 0,
    limit: int | None = None,
    num_resamples: int = 100,
) -> Utility:
    """Train on synthetic, test on real; beside it, train on real, test on real.

    Both learn by histogram gradient boosting of trees (scikit-learn's settings, without early stopping), and are asked for the
    same held-out rows. Rows whose target is missing or a word are left out on all sides. Identifiers and constants are no
    features. Esteban, Hyland, Ratsch, "Real-valued (medical) time series generation with recurrent conditional GANs" (2017),
    which names it TSTR.

    Args:
        real: rows to learn from.
        synthetic: rows to learn from.
        test: real rows that neither the generator nor the models have seen.
        target: name of the column to predict.
        model: makes an unfitted estimator of scikit-learn's kind in place of the trees. It must take NaN, and codes of
            categories as numbers; a classifier gives `predict_proba`, and a target of numbers is scaled to [0, 1].
        seed: of the rows, the models and the bootstrap.
        limit: most rows to learn from, 50,000 if None (fewer of more than 100 columns, at least 5,000).
        num_resamples: of the bootstrap.

    Raises:
        ConfigError: if the target is no column that is measured, or has more than 100 categories.
        DataError: if the columns differ, or a side has no row with a target.
        MissingExtraError: if scikit-learn is not installed.
    """
    same_table(real, synthetic, test)
    index = _target(real, target)
    real, synthetic, test = (rows.select(rows.states(index) == 0) for rows in (real, synthetic, test))
    if not (len(real) and len(synthetic) and len(test)):
        found = f"{len(real)} real, {len(synthetic)} synthetic and {len(test)} held-out"
        raise DataError(f"Some rows of each side must have a {target!r}, found {found} ones. Choose another target.")
    most = limit_of(len(real.measured), LIMIT, 100, 5000) if limit is None else limit
    real, synthetic = real.take(most, seed), synthetic.take(most, seed)
    features = [i for i in real.measured if i != index]
    regression = real.is_number(index)
    make = (lambda coded: model()) if model is not None else _trees(regression, seed)
    if regression:
        ends = _ends(real, synthetic, test, index)
        truth, half = scaled_to_range(test.numbers(index), *ends), ends[1] / 2 - ends[0] / 2
        predicted = (_predict_number(rows, test, index, features, make, ends) for rows in (real, synthetic))
        sides = [_regression_metrics(truth, values, half) for values in predicted]
    else:
        truth, rarer = test.codes(index), _rarer(real.codes(index))
        predicted = (_predict_shares(rows, test, index, features, make) for rows in (real, synthetic))
        sides = [_classification_metrics(truth, shares, rarer) for shares in predicted]
    metrics = _compare(sides[0], sides[1], len(test), num_resamples, seed)
    task = "regression" if regression else "classification"
    return Utility(target, task, metrics, len(real), len(synthetic), len(test))


def _target(rows: Rows, target: str) -> int:
    names = [rows.columns[i].name for i in rows.measured]
    if target not in names:
        raise ConfigError(
            f"`target` must be one of the measured columns {', '.join(names)}, got {target!r}. Choose one of these."
        )
    index = rows.measured[names.index(target)]
    if not rows.is_number(index) and len(rows.columns[index].categories) > MAX_CLASSES:
        found = len(rows.columns[index].categories)
        raise ConfigError(f"`target` must have at most {MAX_CLASSES} categories, {target!r} has {found}. Choose another one.")
    return index


def _trees(regression: bool, seed: int) -> Callable[[np.ndarray], Any]:
    ensemble: Any = require("sklearn.ensemble", "sklearn", "Measuring what synthetic rows are worth")
    kind = ensemble.HistGradientBoostingRegressor if regression else ensemble.HistGradientBoostingClassifier
    return lambda coded: kind(categorical_features=coded, early_stopping=False, random_state=seed)


def _ends(real: Rows, synthetic: Rows, test: Rows, index: int) -> tuple[float, float]:
    """The least and the greatest target there is: errors are taken in between, where squares neither overflow nor vanish."""
    values = np.concatenate([rows.numbers(index) for rows in (real, synthetic, test)])
    return float(values.min()), float(values.max())


def _predict_number(
    rows: Rows,
    test: Rows,
    index: int,
    features: list[int],
    make: Callable[[np.ndarray], Any],
    ends: tuple[float, float],
) -> np.ndarray:
    """(N,): the target of each held-out row, scaled."""
    (x, asked), coded = tree_features(rows, (rows, test), features)
    values = scaled_to_range(rows.numbers(index), *ends)
    if not x.shape[1] or len(values) < 2:
        return np.full(len(test), values.mean())
    return np.asarray(make(coded).fit(x, values).predict(asked), dtype=np.float64)


def _predict_shares(rows: Rows, test: Rows, index: int, features: list[int], make: Callable[[np.ndarray], Any]) -> np.ndarray:
    """(N, V): the probability of each category; those that the rows do not hold have none."""
    (x, asked), coded = tree_features(rows, (rows, test), features)
    codes = rows.codes(index)
    shares = np.bincount(codes, minlength=len(rows.columns[index].categories)) / len(codes)
    if not x.shape[1] or (shares > 0).sum() < 2:
        return np.tile(shares, (len(test), 1))
    model = make(coded).fit(x, codes)
    found = np.zeros((len(test), len(shares)))
    found[:, np.asarray(model.classes_, dtype=np.int64)] = model.predict_proba(asked)
    return found


def _rarer(codes: np.ndarray) -> int | None:
    """The rarer of two classes, the later one of equals; None unless there are two."""
    classes, counts = np.unique(codes, return_counts=True)
    return int(classes[0] if counts[0] < counts[1] else classes[1]) if len(classes) == 2 else None


def _regression_metrics(truth: np.ndarray, predicted: np.ndarray, half: float) -> dict[str, Measure]:
    def error(rows: np.ndarray) -> float:
        return float(np.square(truth[rows] - predicted[rows]).mean())

    def r2(rows: np.ndarray) -> float:
        spread = float(np.square(truth[rows] - truth[rows].mean()).mean())
        return 1.0 - error(rows) / spread if spread > 0 else math.nan

    return {"r2": r2, "rmse": lambda rows: 2 * (half * math.sqrt(error(rows)))}


def _classification_metrics(truth: np.ndarray, shares: np.ndarray, rarer: int | None) -> dict[str, Measure]:
    said = shares.argmax(1)
    classes = [rarer] if rarer is not None else list(range(shares.shape[1]))

    def over_classes(measure: Callable[[np.ndarray, np.ndarray], float]) -> Measure:
        def mean(rows: np.ndarray) -> float:
            labels = truth[rows]
            found = [measure(labels == c, shares[rows, c]) for c in classes if 0 < (labels == c).sum() < len(labels)]
            return float(np.mean(found)) if found else math.nan

        return mean

    metrics: dict[str, Measure] = {
        "accuracy": lambda rows: float((truth[rows] == said[rows]).mean()),
        "f1_macro": lambda rows: float(f1_scores(truth[rows], said[rows], shares.shape[1])[np.unique(truth[rows])].mean()),
        "auc": over_classes(lambda labels, scores: float(shares_below(scores[labels], scores[~labels]).mean())),
        "average_precision": over_classes(average_precision),
    }
    if rarer is not None:
        metrics["f1_rarer"] = lambda rows: float(f1_scores(truth[rows], said[rows], shares.shape[1])[rarer])
    return metrics


def f1_scores(truth: np.ndarray, said: np.ndarray, num_classes: int) -> np.ndarray:
    """(V,): 2 TP / (2 TP + FP + FN) of each class, 0 for one that neither occurs nor was said.

    Example:
        >>> f1_scores(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 2).round(3)
        array([0.667, 0.8  ])
    """
    true = np.bincount(truth[truth == said], minlength=num_classes)
    both = np.bincount(truth, minlength=num_classes) + np.bincount(said, minlength=num_classes)
    return 2 * true / np.maximum(both, 1)


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """The mean over positives of the precision among all that score as high: sum_t (R_t - R_{t-1}) P_t, ties together.

    Args:
        labels: (N,) whether positive; at least one is.
        scores: (N,).

    Example:
        >>> round(average_precision(np.array([True, False, True]), np.array([0.9, 0.8, 0.1])), 4)  # (1 + 2/3) / 2
        0.8333
    """
    order = np.argsort(-scores, kind="stable")
    hits, ordered = np.cumsum(labels[order]), scores[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    gains = np.diff(hits[last], prepend=0)
    return float((gains * hits[last] / (last + 1)).sum() / hits[-1])


def _compare(
    of_real: dict[str, Measure], of_synthetic: dict[str, Measure], num: int, num_resamples: int, seed: int
) -> tuple[UtilityMetric, ...]:
    everything, generator = np.arange(num), np.random.default_rng(seed)
    size = min(num, RESAMPLED)
    resamples = [generator.integers(0, num, size) for _ in range(num_resamples)]
    found = []
    for name, measure in of_real.items():
        other = of_synthetic[name]
        a, b = measure(everything), other(everything)
        drawn = np.array([other(rows) - measure(rows) for rows in resamples])
        drawn = drawn[~np.isnan(drawn)]
        largest = float(np.abs(drawn).max(initial=0.0)) or 1.0
        error = float((drawn / largest).std(ddof=1)) * math.sqrt(size / num) * largest if len(drawn) > 1 else math.nan
        found.append(UtilityMetric(name, a, b, b - a, error))
    return tuple(found)
