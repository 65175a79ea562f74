"""Normals whose units are correlated along a few directions."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, constraints
from torch.distributions.kl import register_kl

from vaekit.distributions.products import Independent


class LowRankNormal(Distribution):
    """N(mean, S (I + V V^T) S), S = diag(scale), with V of R columns.

    With the Cholesky factor L of I + V^T V, an R x R matrix, the determinant is |S|^2 |L|^2, and with y = S^-1 (z - mean) the
    square is |y|^2 - |L^-1 V^T y|^2. Nothing raises or waits for the device if a step has gone wrong: the density is NaN then.

    Args:
        mean: (*batch, D).
        scale: (*batch, D), > 0.
        factor: V, (*batch, D, R).

    Example:
        >>> q = LowRankNormal(torch.zeros(2), torch.ones(2), torch.ones(2, 1))
        >>> q.covariance_matrix
        tensor([[2., 1.],
                [1., 2.]])
        >>> round(q.log_prob(torch.zeros(2)).item(), 4)  # -log(2 pi) - log(3) / 2
        -2.3872
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    support: ClassVar[constraints.Constraint] = constraints.real_vector  # pyright: ignore
    has_rsample = True

    def __init__(self, mean: Tensor, scale: Tensor, factor: Tensor) -> None:
        self.loc, self.scale, self.factor = mean, scale, factor
        inner = factor.mT @ factor + torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        self.inner_tril: Tensor = torch.linalg.cholesky_ex(inner).L
        super().__init__(mean.shape[:-1], mean.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """(*batch, D)."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """(*batch, D)."""
        return self.scale.square() * (1.0 + self.factor.square().sum(-1))

    @property
    def covariance_matrix(self) -> Tensor:
        """(*batch, D, D)."""
        low = self.scale.unsqueeze(-1) * self.factor
        return low @ low.mT + torch.diag_embed(self.scale.square())

    @property
    def log_det(self) -> Tensor:
        """(*batch): the log-determinant of the covariance."""
        return 2.0 * (self.scale.log().sum(-1) + self.inner_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch, D), through which gradients reach every parameter."""
        shape = torch.Size(sample_shape) + self.batch_shape
        each = torch.randn(shape + self.event_shape, dtype=self.loc.dtype, device=self.loc.device)
        shared = torch.randn((*shape, self.factor.shape[-1], 1), dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.scale * (each + (self.factor @ shared).squeeze(-1))

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): the log-density of each row of `value` (*batch, D)."""
        y = (value - self.loc) / self.scale
        along = torch.linalg.solve_triangular(self.inner_tril, self.factor.mT @ y.unsqueeze(-1), upper=False)
        square = y.square().sum(-1) - along.square().sum((-2, -1))
        return -0.5 * (square + self.log_det + self.event_shape[0] * math.log(2.0 * math.pi))

    def entropy(self) -> Tensor:
        """(*batch), in nats."""
        return 0.5 * (self.log_det + self.event_shape[0] * (1.0 + math.log(2.0 * math.pi)))


@register_kl(LowRankNormal, Independent)
def _kl_low_rank_diagonal(q: LowRankNormal, p: Independent) -> Tensor:
    """KL to a diagonal normal, in O(D R^2)."""
    if not isinstance(p.base_dist, Normal) or len(p.event_shape) != 1:
        raise NotImplementedError
    precision = p.base_dist.scale.square().reciprocal()
    square = ((q.variance + (q.loc - p.base_dist.loc).square()) * precision).sum(-1)
    return 0.5 * (square - q.event_shape[0] + 2.0 * p.base_dist.scale.log().sum(-1) - q.log_det)
