"""Measures that hold one factor fixed and ask which it was: the scores of beta-VAE and FactorVAE."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vaekit.errors import ConfigError, require
from vaekit.evaluation.disentanglement.examples import Examples, Groups, as_examples, check_at_least, floats, groups_of

LEAST_VARIANCE = 0.05
"""Units whose variance over the data is below it take no part in the FactorVAE score."""

_BLOCK = 1 << 21
"""Numbers gathered in one go: 16 MiB."""


@dataclass(frozen=True)
class FactorVaeScore:
    """How often a vote says which factor was held fixed.

    Attributes:
        score: share of votes that are right, up to 1; 0 where every unit is pruned.
        accuracies: (F,) the same, of the votes of each factor.
        units: (D,) the factor that each unit stands for; None for one that was pruned, or had no vote.
        num_active: how many units were not pruned.
        chance: 1 / F.
    """

    score: float
    accuracies: tuple[float, ...]
    units: tuple[int | None, ...]
    num_active: int
    chance: float


@dataclass(frozen=True)
class BetaVaeScore:
    """How often a linear classifier says which factor was held fixed.

    Attributes:
        score: accuracy on points it was not fitted to, up to 1.
        accuracies: (F,) the same, of the points of each factor.
        chance: 1 / F.
    """

    score: float
    accuracies: tuple[float, ...]
    chance: float


def factor_vae_score(
    codes: Any,
    factors: Any,
    *,
    num_train: int = 10_000,
    num_eval: int = 5_000,
    batch_size: int = 64,
    least_variance: float = LEAST_VARIANCE,
    seed: int = 0,
) -> FactorVaeScore:
    """Does the unit that varies least say which factor was held fixed?

    A vote: a factor and a value of it are drawn, then `batch_size` examples that have this value; d is the unit of the least
    variance among them, divided by its variance over all examples. The classifier gives each d the factor that most of the
    votes for it had, and is judged on votes of its own. A factor in several units costs nothing. Kim, Mnih, "Disentangling by
    factorising" (2018), section 4. Departures: examples are drawn, with replacement, from those that are given; every factor
    has as many votes as another; as in Locatello et al. (2019), whose numbers the defaults are, the votes that judge are
    not those that were counted. Units of little variance are pruned, as `least_variance` of a posterior whose prior has the
    variance 1: give 0 for codes of another scale. The code of Locatello et al. prunes below a standard deviation of 0.05.

    Args:
        codes: (N, D) means of the posterior.
        factors: (N, F) codes of the true factors.
        num_train: votes that the classifier is made of.
        num_eval: votes that it is judged on.
        batch_size: examples a vote.
        least_variance: a unit needs at least so much, and more than 0.
        seed: of the draws.

    Raises:
        DataError: if the arrays cannot be measured, see `as_examples`, there is one factor only, or no two examples share a
            value of some factor.
        ConfigError: if there are fewer votes than factors, fewer than 2 examples a vote, or a negative variance is asked for.

    Example:
        >>> grid = np.stack(np.meshgrid(np.arange(4), np.arange(5)), axis=-1).reshape(-1, 2)
        >>> found = factor_vae_score(grid[:, [1, 0]], grid, num_train=100, num_eval=100)
        >>> found.score, found.units
        (1.0, (1, 0))
    """
    examples = as_examples(codes, factors, 2)
    check_at_least(2, batch_size=batch_size)
    check_at_least(examples.num_factors, num_train=num_train, num_eval=num_eval)
    if not least_variance >= 0:
        raise ConfigError(f"`least_variance` must be at least 0, got {least_variance}. Use 0 to prune constant units only.")
    variances = examples.codes.var(axis=0, ddof=1)
    active = np.flatnonzero((variances >= least_variance) & (np.ptp(examples.codes, axis=0) > 0))
    num_factors, chance = examples.num_factors, 1.0 / examples.num_factors
    if not len(active):
        return FactorVaeScore(0.0, (0.0,) * num_factors, (None,) * examples.num_units, 0, chance)
    scaled = examples.codes[:, active] / np.sqrt(variances[active])

    def least(groups: Groups, values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return scaled[groups.draw(values, batch_size, generator)].var(axis=1).argmin(1)[:, None]

    generator = np.random.default_rng(seed)
    width = batch_size * len(active)
    votes, said = _points(examples, num_train, width, least, generator)
    counts = np.zeros((num_factors, len(active)), dtype=np.int64)
    np.add.at(counts, (said, votes[:, 0]), 1)
    meaning = counts.argmax(0)
    votes, true = _points(examples, num_eval, width, least, generator)
    units: list[int | None] = [None] * examples.num_units
    for unit, factor, num_votes in zip(active, meaning, counts.sum(0), strict=True):
        units[unit] = int(factor) if num_votes else None
    score, accuracies = _judged(meaning[votes[:, 0]], true, num_factors)
    return FactorVaeScore(score, accuracies, tuple(units), len(active), chance)


def beta_vae_score(
    codes: Any,
    factors: Any,
    *,
    num_train: int = 10_000,
    num_eval: int = 5_000,
    batch_size: int = 64,
    seed: int = 0,
) -> BetaVaeScore:
    """Does the mean difference of pairs of codes say, linearly, which factor the pairs share?

    A point: a factor is drawn, then `batch_size` pairs of examples that share its value; the point is the mean of |z - z'|, one
    number a unit. A logistic regression of the points says which factor it was. The easiest of the scores: a factor may be
    spread over units, and one factor may even have no unit. Higgins et al., "beta-VAE: learning basic visual concepts
    with a constrained variational framework" (2017), section 3. Departures: pairs are drawn from the examples that are given
    (never twice the same one); every factor has as many points as another; points are standardised, so that the scale of the
    codes does not matter. The defaults are the numbers of Locatello et al. (2019).

    Args:
        codes: (N, D) means of the posterior.
        factors: (N, F) codes of the true factors.
        num_train: points that the classifier is fitted to.
        num_eval: points that it is judged on.
        batch_size: pairs a point.
        seed: of the draws.

    Raises:
        DataError: if the arrays cannot be measured, see `as_examples`, there is one factor only, or no two examples share a
            value of some factor.
        ConfigError: if there are fewer points than factors, or no pairs.
        MissingExtraError: if scikit-learn is not installed.

    Example:
        >>> grid = np.stack(np.meshgrid(np.arange(4), np.arange(5)), axis=-1).reshape(-1, 2)
        >>> beta_vae_score(grid, grid, num_train=100, num_eval=100).score
        1.0
    """
    examples = as_examples(codes, factors, 2)
    check_at_least(1, batch_size=batch_size)
    check_at_least(examples.num_factors, num_train=num_train, num_eval=num_eval)
    linear: Any = require("sklearn.linear_model", "sklearn", "The beta-VAE score")
    exceptions: Any = require("sklearn.exceptions", "sklearn", "The beta-VAE score")
    scaled = examples.codes / np.where(np.ptp(examples.codes, axis=0) > 0, examples.codes.std(axis=0), 1.0)

    def differences(groups: Groups, values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        # A value for each pair, not for each point: what the pairs of a point share is the factor.
        pairs = _pairs(groups, groups.draw_values(len(values) * batch_size, generator), generator)
        apart = np.abs(scaled[pairs[:, 0]] - scaled[pairs[:, 1]])
        return apart.reshape(len(values), batch_size, -1).mean(1)

    generator = np.random.default_rng(seed)
    width = 2 * batch_size * examples.num_units
    points, labels = _points(examples, num_train, width, differences, generator)
    mean, spread = points.mean(0), points.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)  # an almost fitted classifier is a classifier
        model = linear.LogisticRegression(max_iter=1000).fit((points - mean) / spread, labels)
    points, true = _points(examples, num_eval, width, differences, generator)
    score, accuracies = _judged(model.predict((points - mean) / spread), true, examples.num_factors)
    return BetaVaeScore(score, accuracies, 1.0 / examples.num_factors)


def _pairs(groups: Groups, values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(B, 2): two different rows of each value."""
    sizes, starts = groups.sizes[values], groups.starts[values]
    first = (generator.random(len(values)) * sizes).astype(np.int64)
    other = (first + 1 + (generator.random(len(values)) * (sizes - 1)).astype(np.int64)) % sizes
    return groups.order[np.stack([starts + first, starts + other], axis=1)]


def _points(
    examples: Examples,
    num: int,
    width: int,
    make: Callable[[Groups, np.ndarray, np.random.Generator], np.ndarray],
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """(num, ...) what `make` makes of values of each factor in turn, in blocks of bounded memory, and (num,) the factors."""
    made, labels = [], []
    block = max(1, _BLOCK // width)
    for factor in range(examples.num_factors):
        groups = groups_of(examples, factor)
        left = len(range(factor, num, examples.num_factors))
        labels.append(np.full(left, factor))
        while left > 0:
            size = min(left, block)
            made.append(make(groups, groups.draw_values(size, generator), generator))
            left -= size
    return np.concatenate(made), np.concatenate(labels)


def _judged(said: np.ndarray, true: np.ndarray, num_factors: int) -> tuple[float, tuple[float, ...]]:
    """The accuracy, and that of each factor."""
    right = said == true
    return float(right.mean()), floats(np.array([right[true == factor].mean() for factor in range(num_factors)]))
