"""The Poincare ball, and the wrapped normal on it."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


def _norm(x: Tensor) -> Tensor:
    """(..., 1): |x|, with a gradient at 0."""
    return x.square().sum(-1, keepdim=True).clamp_min(1e-30).sqrt()


def _inside(x: Tensor, curvature: float) -> Tensor:
    """The same points, those at the border (where distances overflow) drawn in by a hair."""
    edge = (1.0 - (1e-5 if x.dtype == torch.float32 else 1e-10)) / math.sqrt(curvature)
    return x * (edge / _norm(x)).clamp_max(1.0)


def mobius_add(x: Tensor, y: Tensor, curvature: float) -> Tensor:
    """x (+) y on the ball of curvature -c, (..., D).

        ((1 + 2 c <x, y> + c |y|^2) x + (1 - c |x|^2) y) / (1 + 2 c <x, y> + c^2 |x|^2 |y|^2)

    Ungar, "A gyrovector space approach to hyperbolic geometry" (2008).
    """
    xy, xx, yy = (x * y).sum(-1, keepdim=True), x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True)
    c = curvature
    above = (1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y
    return above / (1 + 2 * c * xy + c * c * xx * yy).clamp_min(1e-15)


class _Ball(constraints.Constraint):
    """Points (..., D) with |z| < 1 / sqrt(c)."""

    event_dim = 1

    def __init__(self, curvature: float) -> None:
        self.curvature = curvature
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """(...): whether each point is inside."""
        return self.curvature * value.square().sum(-1) < 1


class WrappedNormal(Distribution):
    """A normal in the tangent space at `mean`, wrapped onto the Poincare ball |z| < 1 / sqrt(c) by the exponential map.

        z = mean (+) tanh(sqrt(c) |v| / 2) v / (sqrt(c) |v|),   v ~ N(0, diag(scale^2))
        log p(z) = log N(v; 0, diag(scale^2)) - (D - 1) log(sinh(sqrt(c) r) / (sqrt(c) r)) + D log(2 / (1 - c |z|^2))

    with r = |v|, the hyperbolic distance of z to the mean. The density is with respect to volume as usual in R^D (the last
    term), not to that of the ball: the two differ by a factor that cancels in every ratio of densities.
    Mathieu, Le Lan, Maddison, Tomioka, Teh, "Continuous hierarchical representations with Poincare variational
    auto-encoders" (2019), section 3.2; Nagano et al., "A wrapped normal distribution on hyperbolic space" (2019).

    Args:
        mean: (*batch, D), inside the ball.
        scale: (*batch, D), standard deviations in the tangent space.
        curvature: c > 0; the ball has curvature -c.

    Example:
        >>> p = WrappedNormal(torch.zeros(2), torch.ones(2), curvature=1.0)
        >>> round(p.log_prob(torch.zeros(2)).item(), 4)  # -log(2 pi) + 2 log 2
        -0.4516
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    has_rsample = True

    def __init__(self, mean: Tensor, scale: Tensor, curvature: float = 1.0) -> None:
        self.loc, self.scale = torch.broadcast_tensors(_inside(mean, curvature), scale)
        self.curvature = curvature
        self._last: tuple[Tensor, Tensor] | None = None
        super().__init__(self.loc.shape[:-1], self.loc.shape[-1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The ball; points outside have no density, and none is drawn there."""
        return _Ball(self.curvature)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch, D)."""
        shape = torch.Size(sample_shape) + self.loc.shape
        v = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device) * self.scale
        z = self._wrapped(v)
        self._last = (z, v)
        return z

    def _wrapped(self, v: Tensor) -> Tensor:
        """Tangent vectors (..., D), in the orthonormal frame of the mean, to points of the ball."""
        root, length = math.sqrt(self.curvature), _norm(v)
        step = torch.tanh(0.5 * root * length) * v / (root * length)
        return _inside(mobius_add(self.loc, step, self.curvature), self.curvature)

    def tangent(self, z: Tensor) -> Tensor:
        """Points of the ball (..., D) to tangent vectors v at the mean, the inverse of the exponential map."""
        root = math.sqrt(self.curvature)
        moved = mobius_add(-self.loc, _inside(z, self.curvature), self.curvature)
        length = _norm(moved)
        limit = 1.0 - torch.finfo(z.dtype).eps
        return 2.0 / root * torch.atanh((root * length).clamp_max(limit)) * moved / length

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): the log-density at points (*batch, D) of the ball.

        At the very tensor that was drawn last, the tangent vector is the one that was drawn: near the border, where float32
        cannot tell points apart, it cannot be had from the point.
        """
        z = _inside(value, self.curvature)
        v = self._last[1] if self._last is not None and value is self._last[0] else self.tangent(z)
        dims = self.loc.shape[-1]
        normal = -0.5 * ((v / self.scale).square() + math.log(2 * math.pi)).sum(-1) - self.scale.log().sum(-1)
        r = math.sqrt(self.curvature) * _norm(v).squeeze(-1)
        # log(sinh(r) / r) = r + log((1 - exp(-2 r)) / (2 r)), which does not overflow
        small = r < 1e-2
        away = torch.where(small, 1.0, r)
        spread = torch.where(small, r.square() / 6, away + torch.log(-torch.expm1(-2 * away) / (2 * away)))
        volume = dims * torch.log(2.0 / (1.0 - self.curvature * z.square().sum(-1)))
        return normal - (dims - 1) * spread + volume

    def stopped(self) -> WrappedNormal:
        """The same with parameters that no gradient reaches; the gradient of the density goes through the point alone."""
        return WrappedNormal(self.loc.detach(), self.scale.detach(), self.curvature)

    def centre(self) -> tuple[Tensor, Tensor]:
        """The mean on the ball, and the scale in the tangent space, each (*batch, D)."""
        return self.loc, self.scale
