"""UDR: which of several models is the most disentangled, with no factors given."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vaekit.data.dataset import as_numpy
from vaekit.errors import ConfigError, DataError, require
from vaekit.evaluation.disentanglement.examples import LEAST_EXAMPLES, REACH, Matrix, check_matrix, floats, rows

Similarity = Literal["lasso", "spearman"]

LEAST_KL = 0.01
"""A unit is informative whose KL to the prior is above it, in nats an example."""

_ALPHA = 0.1


@dataclass(frozen=True)
class Udr:
    """The unsupervised disentanglement ranking of M models.

    Attributes:
        scores: (M,) the median over the other models of `pairs`, from 0 to 1: higher is better.
        best: the model of the highest score.
        pairs: (M, M) how alike the units of two models are, one by one; 0 on the diagonal.
        num_informative: (M,) units that take part.
        similarity: `lasso` or `spearman`.
    """

    scores: tuple[float, ...]
    best: int
    pairs: Matrix
    num_informative: tuple[int, ...]
    similarity: Similarity


def udr(codes: Sequence[Any], kl: Sequence[Any], *, similarity: Similarity = "lasso", least_kl: float = LEAST_KL) -> Udr:
    """The unsupervised disentanglement ranking: do models that differ in their seed alone find the same units?

        UDR_ij = 1 / (d_a + d_b) ( sum_b r_b^2 / sum_a R_ab + sum_a r_a^2 / sum_b R_ab ),    UDR_i = median_j UDR_ij

    R_ab is how alike informative unit a of one model and b of the other are: the size of the coefficient of a, of standard
    deviation 1, in a lasso regression (alpha 0.1) of b by all of them, or that of Spearman's correlation. r_b and r_a are the
    greatest in its column and row. A representation that is disentangled is found again up to order, sign and scale;
    others differ from one seed to the next. Two models with the same units score 1 by `spearman`, and 0.9 by `lasso`, which
    shrinks. Models without an informative unit score 0. Compare models whose settings are the same, five or more of them.
    Duan, Matthey, Saraiva, Watters, Burgess, Lerchner, Higgins, "Unsupervised model selection for variational disentangled
    representation learning" (2020), section 4. Model i is predicted from model j, as in the published code.

    Args:
        codes: M matrices (N, D) of the means of the posterior, of the same N examples in the same order; D may differ.
        kl: M vectors (D,), KL(q(z_d|x) || p(z_d)) of each unit in nats, a mean over examples.
        similarity: `lasso` or `spearman`.
        least_kl: nats above which a unit is informative; a constant unit never is.

    Raises:
        DataError: if there are fewer than 2 models or 10 examples, shapes do not fit, or a number is not finite.
        ConfigError: if the similarity is unknown, or `least_kl` is negative.
        MissingExtraError: if scikit-learn is not installed and the similarity is `lasso`.

    Example:
        >>> z = np.random.default_rng(0).normal(size=(200, 3))
        >>> found = udr([z, -z[:, [2, 0, 1]]], [np.ones(3)] * 2, similarity="spearman")
        >>> [score > 0.8 for score in found.scores], found.num_informative
        ([True, True], (3, 3))
    """
    if similarity not in ("lasso", "spearman"):
        raise ConfigError(f"`similarity` must be `lasso` or `spearman`, got {similarity!r}. Use `lasso` when in doubt.")
    if not least_kl >= 0:
        raise ConfigError(f"`least_kl` must be at least 0 nats, got {least_kl}. Use {LEAST_KL} when in doubt.")
    matrices = _checked(codes, kl)
    prepared = _ranks if similarity == "spearman" else _as_they_are
    units = [_standardised(prepared(z[:, (of_unit > least_kl) & (np.ptp(z, axis=0) > 0)])) for z, of_unit in matrices]
    alike = _correlations if similarity == "spearman" else _lasso
    num = len(units)
    pairs = np.zeros((num, num))
    for i, j in ((i, j) for i in range(num) for j in range(num) if i != j):
        if units[i].shape[1] and units[j].shape[1]:
            pairs[i, j] = udr_from_similarity(alike(units[j], units[i]))
    scores = np.array([np.median(np.delete(pairs[i], i)) for i in range(num)])
    return Udr(floats(scores), int(scores.argmax()), rows(pairs), tuple(z.shape[1] for z in units), similarity)


def unit_kl(mean: Any, scale: Any) -> np.ndarray:
    """(D,): the mean over examples of KL(N(m, s^2) || N(0, 1)) = (m^2 + s^2 - 1) / 2 - log s of each unit, in nats.

    What `udr` asks for, of models with a `DiagonalNormal` posterior and a `StandardNormal` prior.

    Args:
        mean: (N, D) of the posterior.
        scale: (N, D) of the posterior, above 0.

    Raises:
        DataError: if the shapes differ, or a scale is not above 0.

    Example:
        >>> unit_kl([[0.0, 2.0], [0.0, 0.0]], np.ones((2, 2)))
        array([0., 1.])
    """
    m, s = as_numpy(mean).astype(np.float64), as_numpy(scale).astype(np.float64)
    if m.ndim != 2 or m.shape != s.shape or not (s > 0).all():
        raise DataError(
            f"Means and scales must be (N, D), the scales above 0, got the shapes {m.shape} and {s.shape} and the least scale "
            f"{s.min(initial=np.inf)}. Give those that `encode` gives."
        )
    return ((np.square(m) + np.square(s) - 1.0) / 2 - np.log(s)).mean(0)


def udr_from_similarity(similarity: Any) -> float:
    """1 / (d_a + d_b) ( sum_b r_b^2 / sum_a R_ab + sum_a r_a^2 / sum_b R_ab ) of R (d_a, d_b); an empty row or column adds 0.

    Raises:
        ConfigError: if R is no matrix of finite numbers >= 0.

    Example:
        >>> udr_from_similarity([[1.0, 0.0], [0.0, 0.5]]), udr_from_similarity([[0.5, 0.5], [0.5, 0.5]])
        (0.75, 0.25)
    """
    found = check_matrix("similarity", similarity)
    return float((_strengths(found).sum() + _strengths(found.T).sum()) / sum(found.shape))


def _strengths(matrix: np.ndarray) -> np.ndarray:
    """The greatest of each row squared, divided by the row's sum."""
    sums = matrix.sum(1)
    return np.square(matrix.max(1)) / np.where(sums > 0, sums, 1.0)


def _checked(codes: Sequence[Any], kl: Sequence[Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Codes (N, D) and KL (D,) of each model."""
    if len(codes) < 2 or len(codes) != len(kl):
        raise DataError(
            f"There must be codes and KL of at least 2 models, got {len(codes)} and {len(kl)}. Train several that differ in "
            "their seed."
        )
    found = []
    for model, (z, of_unit) in enumerate(zip(codes, kl, strict=True)):
        units, rate = as_numpy(z).astype(np.float64), as_numpy(of_unit).astype(np.float64)
        if units.ndim != 2 or rate.shape != units.shape[1:] or len(units) < LEAST_EXAMPLES:
            raise DataError(
                f"Model {model} must have codes (N, D) of at least {LEAST_EXAMPLES} examples and a KL (D,), got the shapes "
                f"{units.shape} and {rate.shape}. Give a row an example and a KL a unit."
            )
        if found and len(units) != len(found[0][0]):
            raise DataError(
                f"All models must have encoded the same examples, model 0 has {len(found[0][0])} and model {model} has "
                f"{len(units)}. Encode the same data with each."
            )
        if not (np.abs(units) < REACH).all() or not np.isfinite(rate).all():
            raise DataError(f"Codes and KL must be finite numbers, those of model {model} are not. Leave that model out.")
        found.append((units, rate))
    return found


def _as_they_are(z: np.ndarray) -> np.ndarray:
    return z


def _ranks(z: np.ndarray) -> np.ndarray:
    """The rank of each number in its column; equal numbers have the mean of their ranks."""
    found = np.empty_like(z)
    for unit in range(z.shape[1]):
        _, place, counts = np.unique(z[:, unit], return_inverse=True, return_counts=True)
        found[:, unit] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return found


def _standardised(z: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and variance 1; none of them is constant."""
    centred = z - z.mean(0)
    centred /= np.abs(centred).max(0)
    return centred / centred.std(0)


def _correlations(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(d_a, d_b): sizes of the correlations of standardised columns."""
    return np.abs(source.T @ target) / len(source)


def _lasso(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(d_a, d_b): sizes of the coefficients by which the source's units predict each of the target's."""
    linear: Any = require("sklearn.linear_model", "sklearn", "UDR by lasso")
    exceptions: Any = require("sklearn.exceptions", "sklearn", "UDR by lasso")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)  # two units that are the same share a coefficient slowly
        return np.abs(np.atleast_2d(linear.Lasso(alpha=_ALPHA).fit(source, target).coef_).T)
