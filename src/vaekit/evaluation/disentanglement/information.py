"""Measures made of the mutual information between each latent unit and each factor: MIG and modularity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vaekit.errors import ConfigError
from vaekit.evaluation.disentanglement.examples import (
    Examples,
    Matrix,
    as_examples,
    check_at_least,
    check_matrix,
    floats,
    integers,
    leads,
    rows,
)

NUM_BINS = 20
"""Bins of equal width for each unit, as in Locatello et al. (2019)."""

_ROUNDING = 1e-14
"""What a sum of terms that cancel leaves."""


@dataclass(frozen=True)
class Mig:
    """The mutual information gap.

    Attributes:
        score: mean of `gaps`, from 0 to 1: higher is better.
        gaps: (F,) of each factor, (I_best - I_second) / H.
        units: (F,) the unit that knows most of each factor.
        information: (D, F) I(z_d; v_f) in nats, z_d in bins.
        entropies: (F,) H(v_f) in nats.
    """

    score: float
    gaps: tuple[float, ...]
    units: tuple[int, ...]
    information: Matrix
    entropies: tuple[float, ...]


@dataclass(frozen=True)
class Modularity:
    """Whether each unit knows of one factor only.

    Attributes:
        score: mean of `units` over those that know anything, from 0 to 1; 0 if none does.
        units: (D,) of each unit; None for one that knows nothing of any factor.
    """

    score: float
    units: tuple[float | None, ...]


def mig(codes: Any, factors: Any, *, num_bins: int = NUM_BINS) -> Mig:
    """The mutual information gap: is each factor known by one unit, and by no other?

        MIG = 1/F sum_f (I(z_best; v_f) - I(z_second; v_f)) / H(v_f)

    Whether a unit knows of several factors is not asked: that is what `modularity` asks. I is that of counts, z_d in bins of
    equal width between its least and its greatest value; it is too high by about (bins - 1)(V_f - 1) / 2N nats, of best and
    second best alike. Of a single unit the second is 0. Chen, Li, Grosse, Duvenaud, "Isolating sources of disentanglement in
    variational autoencoders" (2018), section 4. Departure: there I is that of a draw of q(z|x), here that of its mean, in bins:
    the protocol of Locatello, Bauer, Lucic, Raetsch, Gelly, Schoelkopf, Bachem, "Challenging common assumptions in the
    unsupervised learning of disentangled representations" (2019), with 10,000 examples.

    Args:
        codes: (N, D) means of the posterior.
        factors: (N, F) codes of the true factors.
        num_bins: of each unit.

    Raises:
        DataError: if the arrays cannot be measured, see `as_examples`.
        ConfigError: if `num_bins` is below 2.

    Example:
        >>> grid = np.stack(np.meshgrid(np.arange(4), np.arange(5)), axis=-1).reshape(-1, 2)
        >>> round(mig(grid, grid).score, 6), round(mig(grid[:, [0, 0, 1]], grid).score, 6)
        (1.0, 0.5)
    """
    examples = as_examples(codes, factors)
    information = mutual_information(examples, num_bins)
    entropies = factor_entropies(examples)
    gaps, best = leads(information)
    return Mig(
        score=mig_from_information(information, entropies),
        gaps=floats(gaps / entropies),
        units=integers(best),
        information=rows(information),
        entropies=floats(entropies),
    )


def mig_from_information(information: Any, entropies: Any) -> float:
    """1/F sum_f (best - second best of column f) / H_f.

    Args:
        information: (D, F) mutual information of units and factors.
        entropies: (F,) of the factors, in the same unit.

    Raises:
        ConfigError: if these are no such numbers.

    Example:
        >>> mig_from_information([[0.5, 0.25], [0.25, 1.0]], [1.0, 2.0])  # (0.25 / 1 + 0.75 / 2) / 2
        0.3125
    """
    known, total = check_matrix("information", information), np.asarray(entropies, dtype=np.float64)
    if total.shape != known.shape[1:] or not (total > 0).all():
        raise ConfigError(
            f"`entropies` must be a number > 0 for each of {known.shape[1]} factors, got {total.tolist()}. "
            "Leave constant factors out."
        )
    return float((leads(known)[0] / total).mean())


def modularity(codes: Any, factors: Any, *, num_bins: int = NUM_BINS) -> Modularity:
    """Does each unit know of one factor only?

        1 - sum_{f != best} I(z_d; v_f)^2 / (I(z_d; v_best)^2 (F - 1)),   averaged over units

    Several units may share a factor: that is what `mig` and completeness ask. Of two or more factors. Units that hold nothing
    but noise have an I of chance, which is spread over the factors, so the mean of a model with many such units falls.
    Ridgeway, Mozer, "Learning deep disentangled embeddings with the F-statistic loss" (2018), section 3. A unit whose I is 0
    has no best factor, and is not counted; the code of Locatello et al. (2019) counts it as 0.

    Args:
        codes: (N, D) means of the posterior.
        factors: (N, F) codes of the true factors.
        num_bins: of each unit, of equal width.

    Raises:
        DataError: if the arrays cannot be measured, see `as_examples`.
        ConfigError: if `num_bins` is below 2.

    Example:
        >>> grid = np.stack(np.meshgrid(np.arange(2), np.arange(2)), axis=-1).reshape(-1, 2).repeat(3, 0)
        >>> modularity(grid, grid).score, modularity(grid @ [[1, 1], [1, -1]], grid).score
        (1.0, 0.0)
    """
    return modularity_from_information(mutual_information(as_examples(codes, factors, 2), num_bins))


def modularity_from_information(information: Any) -> Modularity:
    """The modularity of each row of a matrix (D, F), and the mean of those that are not all 0.

    Raises:
        ConfigError: if these are no such numbers, or there are fewer than 2 factors.

    Example:
        >>> modularity_from_information([[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]])  # 1 - 0.25 / (1 * 2)
        Modularity(score=0.875, units=(0.875, None))
    """
    known = check_matrix("information", information)
    if known.shape[1] < 2:
        raise ConfigError("There must be at least 2 factors, got 1. Give more of them.")
    best = known.max(1, keepdims=True)
    relative = np.square(known / np.where(best > 0, best, 1.0))  # of the best, so that squares of small numbers do not vanish
    scores = 1.0 - (relative.sum(1) - 1.0) / (known.shape[1] - 1)
    knows = best[:, 0] > 0
    return Modularity(
        score=float(scores[knows].mean()) if knows.any() else 0.0,
        units=tuple(float(score) if good else None for score, good in zip(scores, knows, strict=True)),
    )


def mutual_information(examples: Examples, num_bins: int = NUM_BINS) -> np.ndarray:
    """(D, F): I(z_d; v_f) in nats by counts, never below 0. A constant unit lies in one bin, and knows nothing.

    Raises:
        ConfigError: if `num_bins` is below 2.
    """
    check_at_least(2, num_bins=num_bins)
    found = np.zeros((examples.num_units, examples.num_factors))
    for unit in range(examples.num_units):
        bins = binned(examples.codes[:, unit], num_bins)
        for factor, num_values in enumerate(examples.num_values):
            joint = np.bincount(bins * num_values + examples.factors[:, factor], minlength=num_bins * num_values)
            found[unit, factor] = information_of_table(joint.reshape(num_bins, num_values))
    return found


def binned(values: np.ndarray, num_bins: int) -> np.ndarray:
    """(N,) which of the bins of equal width, from the least value to the greatest, each value lies in.

    Example:
        >>> binned(np.array([0.0, 0.4, 0.5, 1.0]), 2), binned(np.array([3.0, 3.0]), 2)
        (array([0, 0, 1, 1]), array([0, 0]))
    """
    low, high = values.min(), values.max()
    if low == high:
        return np.zeros(len(values), dtype=np.int64)
    edges = np.linspace(low, high, num_bins + 1)[1:-1]
    return np.searchsorted(edges, values, side="right")


def information_of_table(table: Any) -> float:
    """sum p(i, j) log p(i, j) / (p(i) p(j)) in nats, of a table of counts or of probabilities.

    Example:
        >>> round(information_of_table([[1, 0], [0, 1]]), 6), information_of_table([[1, 2], [2, 4]])
        (0.693147, 0.0)
    """
    joint = np.asarray(table, dtype=np.float64)
    joint = joint / joint.sum()
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    found = float((joint[there] * np.log(joint[there] / apart[there])).sum())
    return found if found > _ROUNDING else 0.0


def factor_entropies(examples: Examples) -> np.ndarray:
    """(F,): H(v_f) in nats, of counts."""
    found = []
    for factor, num_values in enumerate(examples.num_values):
        share = np.bincount(examples.factors[:, factor], minlength=num_values) / len(examples)
        found.append(-(share * np.log(share)).sum())
    return np.array(found)
