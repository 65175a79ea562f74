"""How dense the latents of normal examples lie: a mixture of normals over the posterior means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vaekit.types import Json

COMPONENTS = 10
_DIMENSIONS = 16
"""Principal directions of the latents, at most."""

_ROWS_A_COMPONENT = 30
_RIDGE = 1e-2
_ROUNDS, _LLOYD, _CLOSE, _CANDIDATES = 100, 10, 1e-4, 4


@dataclass(frozen=True)
class LatentDensity:
    """log p(m) = log sum_k w_k N(P (m - c); mean_k, L_k L_k^T), of posterior means m.

    Attributes:
        centre: (D,), c.
        directions: (R, D), P: the principal directions of the latents of the examples that it was fitted to, at most 16.
        log_weights: (K,).
        means: (K, R).
        factors: (K, R, R), the inverse of L_k, lower triangular.
    """

    centre: np.ndarray
    directions: np.ndarray
    log_weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray

    @classmethod
    def of(cls, latents: np.ndarray, components: int = COMPONENTS, seed: int = 0) -> LatentDensity:
        """By expectation maximisation from a start by k-means, with a hundredth of the mean variance added to all covariances.

        Dempster, Laird, Rubin, "Maximum likelihood from incomplete data via the EM algorithm" (1977).

        Args:
            latents: (N, D) posterior means, N at least 2.
            components: K, at most; a component has at least 30 examples on average.
            seed: of the start.
        """
        x = np.asarray(latents, dtype=np.float64)
        centre = x.mean(axis=0)
        _, widths, directions = np.linalg.svd(x - centre, full_matrices=False)
        directions = directions[: max(1, min(_DIMENSIONS, int((widths > 1e-6 * max(widths[0], 1e-300)).sum())))]
        x = (x - centre) @ directions.T
        num = max(1, min(components, len(x) // _ROWS_A_COMPONENT))
        ridge = _RIDGE * max(float(x.var(axis=0).mean()), 1e-12)
        share = np.eye(num)[_clusters(x, num, seed)]
        fitted, before = _maximised(x, share, ridge), -math.inf
        for _ in range(_ROUNDS):
            terms = _terms(x, *fitted)
            top = terms.max(axis=1, keepdims=True)
            total = top + np.log(np.exp(terms - top).sum(axis=1, keepdims=True))
            if float(total.mean()) - before < _CLOSE:
                break
            fitted, before = _maximised(x, np.exp(terms - total), ridge), float(total.mean())
        return cls(centre, directions, *fitted)

    def surprise(self, latents: np.ndarray) -> np.ndarray:
        """(N,) nats: -log p of posterior means (N, D)."""
        terms = _terms((latents - self.centre) @ self.directions.T, self.log_weights, self.means, self.factors)
        top = terms.max(axis=1, keepdims=True)
        return -(top[:, 0] + np.log(np.exp(terms - top).sum(axis=1)))

    def to_json(self) -> Json:
        """Numbers to 6 digits."""
        return {name: _rounded(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> LatentDensity:
        """What `to_json` made."""
        return cls(**{name: np.asarray(record[name], dtype=np.float64) for name in cls.__dataclass_fields__})


def _terms(x: np.ndarray, log_weights: np.ndarray, means: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """(N, K): log w_k N(x_n; k)."""
    apart = np.einsum("kij,nkj->nki", factors, x[:, None] - means)
    log_det = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    return log_weights + log_det - 0.5 * np.square(apart).sum(axis=2) - 0.5 * x.shape[1] * math.log(2 * math.pi)


def _maximised(x: np.ndarray, share: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, means and factors, by the shares (N, K) that the components have in the examples."""
    mass = share.sum(axis=0) + 1e-9
    means = (share.T @ x) / mass[:, None]
    factors = []
    for k in range(share.shape[1]):
        apart = x - means[k]
        covariance = (share[:, k, None] * apart).T @ apart / mass[k] + ridge * np.eye(x.shape[1])
        factors.append(np.linalg.inv(np.linalg.cholesky(covariance)))
    return np.log(mass / mass.sum()), means, np.stack(factors)


def _clusters(x: np.ndarray, num: int, seed: int) -> np.ndarray:
    """(N,) the nearest of some centres, by k-means++ (Arthur, Vassilvitskii, 2007), each the best of a few that are drawn."""
    rng = np.random.default_rng(seed)
    centres = x[rng.integers(len(x))][None]
    while len(centres) < num:
        near = np.square(x[:, None] - centres).sum(axis=2).min(axis=1)
        near = near if near.sum() > 0 else np.ones(len(x))
        drawn = x[rng.choice(len(x), _CANDIDATES, p=near / near.sum())]
        left = np.minimum(near[:, None], np.square(x[:, None] - drawn).sum(axis=2)).sum(axis=0)
        centres = np.concatenate([centres, drawn[left.argmin()][None]])
    for _ in range(_LLOYD):
        nearest = np.square(x[:, None] - centres).sum(axis=2).argmin(axis=1)
        centres = np.stack([x[nearest == k].mean(axis=0) if (nearest == k).any() else centres[k] for k in range(num)])
    return np.square(x[:, None] - centres).sum(axis=2).argmin(axis=1)


def _rounded(values: np.ndarray) -> Any:
    return [_rounded(value) for value in values] if values.ndim else float(f"{values.item():.6g}")
