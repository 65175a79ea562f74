"""DCI: how the importance of units for factors is spread, and how well factors are predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vaekit.errors import ConfigError, DataError, require
from vaekit.evaluation.disentanglement.examples import Matrix, as_examples, check_at_least, check_matrix, floats, rows

Predictor = Literal["forest", "boosting"]

MOST_EXAMPLES = 15_000
"""DCI looks at so many examples at most, two thirds to learn from: 10,000 and 5,000."""

_LEAST_EXAMPLES = 30
_NUM_TREES = 20
_MAX_DEPTH = 12
_PURPOSE = "DCI"


@dataclass(frozen=True)
class Dci:
    """Disentanglement, completeness, informativeness.

    Attributes:
        disentanglement: mean of `units`, weighted by their importance: from 0 to 1.
        completeness: mean of `factors`, weighted by their importance: from 0 to 1.
        informativeness: mean accuracy of the predictions of factors on examples that were not learned from: up to 1.
        units: (D,) 1 - H of a unit's importance over factors; 0 for one of no importance.
        factors: (F,) 1 - H of a factor's importance over units; 0 for one that nothing predicts.
        accuracies: (F,) of the predictions of each factor.
        importance: (D, F); the columns sum to 1, or to 0 where nothing predicts.
        predictor: what predicted, see `dci`.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    units: tuple[float, ...]
    factors: tuple[float, ...]
    accuracies: tuple[float, ...]
    importance: Matrix
    predictor: Predictor


@dataclass(frozen=True)
class ImportanceSpread:
    """What `dci_from_importance` finds; see `Dci`."""

    disentanglement: float
    completeness: float
    units: tuple[float, ...]
    factors: tuple[float, ...]


def dci(codes: Any, factors: Any, *, predictor: Predictor = "forest", most: int = MOST_EXAMPLES, seed: int = 0) -> Dci:
    """Is a unit important for one factor only, a factor predicted by one unit only, and predicted at all?

    A classifier predicts each factor from all units; its importances R_df, the share of each unit in what its splits gain,
    are what `dci_from_importance` looks at. Two thirds of the examples are learned from, one third is predicted. Eastwood,
    Williams, "A framework for the quantitative evaluation of disentangled representations" (2018), section 2. As in Locatello
    et al. (2019), factors are classes and informativeness an accuracy; the paper's is an error of regression.

    `forest` is the paper's random forest, bounded: 20 trees that may split by any unit, cut at the depth that predicts
    examples best that they did not grow from, so that noise has no share. `boosting` is scikit-learn's gradient boosting with
    its defaults, which Locatello et al. used: take it to compare with their figures. It grows 100 trees for each value of
    each factor, some ten times the work. Figures of one do not compare with those of the other.

    Args:
        codes: (N, D) means of the posterior.
        factors: (N, F) codes of the true factors, F >= 2.
        predictor: `forest` or `boosting`.
        most: examples looked at, drawn at random where there are more.
        seed: of the draws and of the trees.

    Raises:
        DataError: if the arrays cannot be measured, see `as_examples`, or there are fewer than 30 examples or 2 factors.
        ConfigError: if the predictor is unknown, or `most` is below 30.
        MissingExtraError: if scikit-learn is not installed.

    Example:
        >>> grid = np.stack(np.meshgrid(np.arange(4), np.arange(5)), axis=-1).reshape(-1, 2).repeat(10, 0)
        >>> found = dci(grid, grid)
        >>> round(found.disentanglement, 3), round(found.completeness, 3), found.informativeness
        (1.0, 1.0, 1.0)
    """
    if predictor not in ("forest", "boosting"):
        raise ConfigError(f"`predictor` must be `forest` or `boosting`, got {predictor!r}. Use `forest` when in doubt.")
    check_at_least(_LEAST_EXAMPLES, most=most)
    examples = as_examples(codes, factors, 2)
    if len(examples) < _LEAST_EXAMPLES:
        raise DataError(f"DCI must have at least {_LEAST_EXAMPLES} examples, found {len(examples)}. Give more.")
    order = np.random.default_rng(seed).permutation(len(examples))[:most]
    learned, asked = np.split(order, [len(order) * 2 // 3])
    importance = np.zeros((examples.num_units, examples.num_factors))
    accuracies = np.zeros(examples.num_factors)
    for factor in range(examples.num_factors):
        y = examples.factors[:, factor]
        fit = _forest if predictor == "forest" else _boosting
        importance[:, factor], said = fit(examples.codes[learned], y[learned], examples.codes[asked], seed)
        accuracies[factor] = (said == y[asked]).mean()
    spread = dci_from_importance(importance)
    return Dci(
        disentanglement=spread.disentanglement,
        completeness=spread.completeness,
        informativeness=float(accuracies.mean()),
        units=spread.units,
        factors=spread.factors,
        accuracies=floats(accuracies),
        importance=rows(importance),
        predictor=predictor,
    )


def dci_from_importance(importance: Any) -> ImportanceSpread:
    """Disentanglement and completeness of a matrix R (D, F) >= 0.

        D_d = 1 - H_F(R_d. / sum_f R_df),    disentanglement = sum_df R_df D_d / sum_df R_df
        C_f = 1 - H_D(R_.f / sum_d R_df),    completeness    = sum_df R_df C_f / sum_df R_df

    H_n is the entropy with logarithms to the base n. A row or a column of zeros scores 0 and weighs nothing; a single unit, or
    a single factor, has nothing to be mixed with and scores 1. Eastwood and Williams (2018), equations of section 2.

    Raises:
        ConfigError: if it is no such matrix.

    Example:
        >>> dci_from_importance([[3.0, 1.0], [0.0, 0.0]]).units[0].__round__(6)  # 1 - H_2(3/4, 1/4)
        0.188722
    """
    found = check_matrix("importance", importance)
    total = float(found.sum())
    units, factors = _concentration(found), _concentration(found.T)
    return ImportanceSpread(
        disentanglement=float(units @ found.sum(1)) / total if total > 0 else 0.0,
        completeness=float(factors @ found.sum(0)) / total if total > 0 else 0.0,
        units=floats(units),
        factors=floats(factors),
    )


def _concentration(matrix: np.ndarray) -> np.ndarray:
    """1 - H of each row, to the base of its length; 0 for a row of zeros."""
    sums = matrix.sum(1, keepdims=True)
    share = matrix / np.where(sums > 0, sums, 1.0)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(1)
    spread = 1.0 - entropy / np.log(matrix.shape[1]) if matrix.shape[1] > 1 else np.ones(len(matrix))
    return np.where(sums[:, 0] > 0, np.clip(spread, 0.0, 1.0), 0.0)


def _boosting(x: np.ndarray, y: np.ndarray, asked: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Importances (D,) that sum to 1 or 0, and predictions of the rows asked for."""
    ensemble: Any = require("sklearn.ensemble", "sklearn", _PURPOSE)
    if y.min() == y.max():
        return np.zeros(x.shape[1]), np.full(len(asked), y[0])
    model = ensemble.GradientBoostingClassifier(random_state=seed).fit(x, y)
    return model.feature_importances_, model.predict(asked)


def _forest(x: np.ndarray, y: np.ndarray, asked: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same by a forest, cut at the depth that is best for a fifth of the rows, which it did not grow from."""
    ensemble: Any = require("sklearn.ensemble", "sklearn", _PURPOSE)
    held_out = len(x) // 5
    # By information: where classes are in order, Gini's gain is the same at every place.
    model = ensemble.RandomForestClassifier(
        n_estimators=_NUM_TREES, criterion="entropy", max_features=None, max_depth=_MAX_DEPTH, random_state=seed
    ).fit(x[held_out:], y[held_out:])
    trees = [estimator.tree_ for estimator in model.estimators_]
    shares = sum(_shares_by_depth(tree, x[:held_out]) for tree in trees)
    accuracies = (model.classes_[np.asarray(shares).argmax(2)] == y[:held_out]).mean(1)
    # The least depth within a standard error of the best.
    best = accuracies.max()
    depth = int((accuracies >= best - np.sqrt(best * (1 - best) / held_out)).argmax())
    gains = sum(_gains(tree, x.shape[1], depth) for tree in trees)
    total = float(np.sum(gains))
    said = np.asarray(sum(_shares_by_depth(tree, asked)[depth] for tree in trees)).argmax(1)
    return np.asarray(gains) / (total or 1.0), model.classes_[said]


def _shares_by_depth(tree: Any, x: np.ndarray) -> np.ndarray:
    """(depths, N, V): the shares of the classes at the node that each row has reached, from the root to the greatest depth."""
    node = np.zeros(len(x), dtype=np.int64)
    x = x.astype(np.float32)  # as the tree was grown
    shares = tree.value[:, 0]
    shares = shares / shares.sum(1, keepdims=True)
    found = [shares[node]]
    for _ in range(_MAX_DEPTH):
        inner = tree.children_left[node] >= 0
        left = x[np.arange(len(x)), np.maximum(tree.feature[node], 0)] <= tree.threshold[node]
        node = np.where(inner, np.where(left, tree.children_left[node], tree.children_right[node]), node)
        found.append(shares[node])
    return np.stack(found)


def _gains(tree: Any, num_units: int, depth: int) -> np.ndarray:
    """(D,): what the splits by each unit gain in a tree that is cut at a depth, in nats or bits an example of it."""
    depths = np.zeros(tree.node_count, dtype=np.int64)
    weight = tree.weighted_n_node_samples * tree.impurity
    gains = np.zeros(num_units)
    for node in range(tree.node_count):  # parents come before their children
        left, right = tree.children_left[node], tree.children_right[node]
        if left < 0:
            continue
        depths[[left, right]] = depths[node] + 1
        if depths[node] < depth:
            gains[tree.feature[node]] += weight[node] - weight[left] - weight[right]
    return np.maximum(gains, 0.0) / tree.weighted_n_node_samples[0]
