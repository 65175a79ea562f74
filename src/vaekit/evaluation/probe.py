"""What can be read from latents by the simplest of means: a linear classifier, and a vote of neighbours.

The linear probe is multinomial logistic regression on standardised features,

    p(y|f) = softmax(A f + b)_y,   with A and b the maximum of sum_n log p(y_n|f_n) - |A|^2 / (2 C)

C is chosen by cross validation within the examples that it is fitted on. Alain, Bengio, "Understanding intermediate layers
using linear classifier probes" (2016). Its accuracy on other examples says how much of a label lies open in the features; that
of the 5 nearest neighbours how much lies in their distances. Beside both stands what a guess that never looks would have.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vaekit.data.dataset import spaced
from vaekit.errors import ConfigError, DataError, require
from vaekit.evaluation.latents import knn_accuracy
from vaekit.types import Json

LIMIT = 10_000
"""Examples that a probe is fitted on, and on which it is scored, at most."""

FEWEST = 50
"""Labelled examples below which nothing is probed, in all."""

FOLDS = 5
NUM_NEIGHBOURS = 5
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
"""The values of C that are tried."""

_TRIED = 2000
"""Examples on which C is chosen, at most."""

_TRIED_FOLDS = 3


@dataclass(frozen=True)
class Probe:
    """How well the labels of one column are told from features.

    Attributes:
        column: whose labels.
        accuracy: of the linear probe, the share of examples whose label it tells.
        standard_error: of the accuracy: sqrt(a (1 - a) / n) of the n that it was scored on. After cross validation it leaves
            out that the folds share what they are fitted on.
        knn_accuracy: of the vote of the 5 nearest neighbours, distances being those of the standardised features.
        majority: the accuracy of always naming the label that is commonest where the probe was fitted.
        num_classes: labels among those that it was fitted on.
        num_features: F.
        num_fitted: examples that it was fitted on; with cross validation, in each fold about.
        num_examples: that it was scored on.
        penalty: C, of the fit on all; with cross validation the median of the folds'.
        scheme: `held out`: fitted on the training part, and scored on the other; or `5-fold`: cross validation within the data.
    """

    column: str
    accuracy: float
    standard_error: float
    knn_accuracy: float
    majority: float
    num_classes: int
    num_features: int
    num_fitted: int
    num_examples: int
    penalty: float
    scheme: str

    def to_json(self) -> Json:
        """The figures by name."""
        return asdict(self)


def probe(
    features: np.ndarray,
    labels: np.ndarray,
    fitted: np.ndarray | None = None,
    fitted_labels: np.ndarray | None = None,
    *,
    column: str = "label",
    limit: int = LIMIT,
    seed: int = 0,
) -> Probe:
    """The accuracy of a linear probe and of neighbours on examples, fitted on others, or by cross validation on themselves.

    Of more examples than `limit`, so many are taken, evenly spaced. Labels that are unknown (-1) are left out.

    Args:
        features: (N, F), of the examples to be scored on.
        labels: (N,) codes from 0; -1 where unknown.
        fitted: (M, F), of those to be fitted on; None for 5-fold cross validation within `features`.
        fitted_labels: (M,).
        column: the name of the labels.
        limit: examples of either at most.
        seed: of the folds.

    Raises:
        ConfigError: if `limit` is less than 50.
        DataError: if arrays do not fit each other or are not finite, if there are fewer than 50 labelled examples (or 5 to be
            scored on), or fewer than two labels to be told apart, or as many labels as half of the examples.
        MissingExtraError: if scikit-learn is not installed.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(200, 3))
        >>> found = probe(x, (x[:, 0] > 0).astype(int))
        >>> found.accuracy > 0.9, found.scheme
        (True, '5-fold')
    """
    if limit < FEWEST:
        raise ConfigError(f"`limit` must be at least {FEWEST}, got {limit}. Leave it out for {LIMIT:,}.")
    x, y = _labelled(features, labels, limit, column)
    if fitted is None or fitted_labels is None:
        _check_labels(y, len(y), column)
        found, truth, scheme = _folded(x, y, seed), y, f"{FOLDS}-fold"
        num_fitted = len(y) - len(y) // FOLDS
    else:
        a, b = _labelled(fitted, fitted_labels, limit, column)
        if a.shape[1] != x.shape[1]:
            raise DataError(
                f"Features to be fitted on and to be scored on must have one width, found {a.shape[1]} and {x.shape[1]}. "
                "Make the one like the other."
            )
        _check_labels(b, len(b) + len(y), column)
        if len(y) < FOLDS:
            raise DataError(f"At least {FOLDS} labelled examples must be scored on, `{column}` has {len(y)}. Give more.")
        found, truth, scheme, num_fitted = _told(a, b, x, y, seed), y, "held out", len(b)
        y = b
    accuracy = float(np.mean(found.linear))
    return Probe(
        column=column,
        accuracy=accuracy,
        standard_error=math.sqrt(accuracy * (1.0 - accuracy) / len(truth)),
        knn_accuracy=float(np.mean(found.near)),
        majority=float(np.mean(found.common)),
        num_classes=len(np.unique(y)),
        num_features=x.shape[1],
        num_fitted=num_fitted,
        num_examples=len(truth),
        penalty=found.penalty,
        scheme=scheme,
    )


def _labelled(features: np.ndarray, labels: np.ndarray, limit: int, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of the examples whose label is known, at most so many."""
    labels = np.asarray(labels, dtype=np.int64)
    if features.ndim != 2 or labels.shape != (len(features),):
        raise DataError(
            f"Features and labels must be (N, F) and (N,), found {features.shape} and {labels.shape} of `{column}`. Give one "
            "label an example."
        )
    known = np.flatnonzero(labels >= 0)
    rows = known[spaced(len(known), limit)]
    x = np.asarray(features[rows], dtype=np.float64)
    if not np.isfinite(x).all():
        raise DataError("Features must be finite, found NaN or infinities. Remove those rows.")
    return x, labels[rows]


def _check_labels(labels: np.ndarray, total: int, column: str) -> None:
    if total < FEWEST:
        raise DataError(f"At least {FEWEST} labelled examples must be there to be probed, `{column}` has {total}. Give more.")
    if (count := len(np.unique(labels))) < 2:
        raise DataError(f"At least two labels must be there to be told apart, `{column}` has {count}. Choose another column.")
    if 2 * count > len(labels):
        raise DataError(
            f"Labels must come more than once, `{column}` has {count:,} in {len(labels):,} examples. Choose another column."
        )


@dataclass(frozen=True)
class _Hits:
    """Of each example, whether it was told; a share for each of the rest."""

    linear: np.ndarray
    near: np.ndarray
    common: np.ndarray
    penalty: float


def _told(a: np.ndarray, b: np.ndarray, x: np.ndarray, y: np.ndarray, seed: int) -> _Hits:
    """Fitted on a (M, F) with the labels b (M,), and scored on x (N, F) with y (N,)."""
    centre, spread = a.mean(axis=0), a.std(axis=0)
    spread = np.where(spread > 1e-9 * max(spread.max(initial=0.0), 1e-300), spread, np.inf)  # what never varies says nothing
    a, x = (a - centre) / spread, (x - centre) / spread
    penalty = _chosen(a, b, seed)
    near = knn_accuracy(a, b, x, y, min(NUM_NEIGHBOURS, len(a)))
    commonest = np.bincount(b).argmax()
    linear = _classifier(penalty).fit(a, b).predict(x) == y if len(np.unique(b)) > 1 else commonest == y
    return _Hits(linear, np.full(len(y), near), commonest == y, penalty)


def _folded(x: np.ndarray, y: np.ndarray, seed: int) -> _Hits:
    """By cross validation: each example is told by what was fitted on the other folds."""
    folds = _folds(y, FOLDS, seed)
    parts = [_told(x[folds != one], y[folds != one], x[folds == one], y[folds == one], seed) for one in range(FOLDS)]
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("linear", "near", "common")}
    return _Hits(**joined, penalty=float(np.median([part.penalty for part in parts])))


def _folds(labels: np.ndarray, num: int, seed: int) -> np.ndarray:
    """(N,) the fold of each example: each label spread over the folds as evenly as can be."""
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), np.int64)
    folds[order] = np.arange(len(labels)) % num
    return folds


def _chosen(a: np.ndarray, b: np.ndarray, seed: int) -> float:
    """The C that tells most within the examples to be fitted on; of equal ones the least, which is the simplest."""
    rows = np.random.default_rng(seed).permutation(len(a))[:_TRIED]
    a, b = a[rows], b[rows]
    folds = _folds(b, _TRIED_FOLDS, seed)
    scores = np.zeros(len(PENALTIES))
    for one in range(_TRIED_FOLDS):
        rest, here = folds != one, folds == one
        if len(np.unique(b[rest])) < 2 or not here.any():
            continue
        for place, penalty in enumerate(PENALTIES):
            scores[place] += float((_classifier(penalty).fit(a[rest], b[rest]).predict(a[here]) == b[here]).sum())
    return PENALTIES[int(scores.argmax())]


def _classifier(penalty: float) -> Any:
    linear: Any = require("sklearn.linear_model", "sklearn", "A linear probe")
    return _Quiet(linear.LogisticRegression(C=penalty, max_iter=300, tol=1e-3))


class _Quiet:
    """A classifier that says nothing of an optimiser which was stopped: an almost fitted one is one."""

    def __init__(self, classifier: Any) -> None:
        self.classifier = classifier

    def fit(self, x: np.ndarray, y: np.ndarray) -> _Quiet:
        """Fits it."""
        exceptions: Any = require("sklearn.exceptions", "sklearn", "A linear probe")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
            self.classifier.fit(x, y)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(N,) labels."""
        return self.classifier.predict(x)
