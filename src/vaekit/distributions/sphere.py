"""Distributions on the unit sphere of D-dimensional space. Densities are with respect to its surface."""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.distributions import Beta, Distribution, constraints
from torch.distributions.kl import register_kl

from vaekit.distributions.bessel import bessel_ratio, divergence_from_uniform, log_series_excess, normaliser

_PROPOSALS = 32  # one is kept with probability 0.65 at worst (D = 2), so that all of 32 are refused once in 10^14
_NODES = 40


def log_area(num_units: int) -> float:
    """log of the surface of the unit sphere in D dimensions, log(2 pi^(D/2) / Gamma(D/2)).

    Example:
        >>> round(log_area(3), 4) == round(math.log(4 * math.pi), 4)
        True
    """
    return math.log(2.0) + 0.5 * num_units * math.log(math.pi) - math.lgamma(0.5 * num_units)


class _UnitSphere(constraints.Constraint):
    """Rows (..., D) of length 1."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """(...): whether each row has length 1, to a few digits less than its precision has."""
        return (value.square().sum(-1) - 1).abs() < torch.finfo(value.dtype).eps ** 0.75


class UniformSphere(Distribution):
    """p(z) = 1 / area for z on the sphere.

    Args:
        zero: (*batch, D), whose shape, type and device those of a draw are.

    Example:
        >>> round(UniformSphere(torch.zeros(3)).log_prob(torch.tensor([0.0, 0.0, 1.0])).item(), 4)  # -log(4 pi)
        -2.531
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    support: ClassVar[constraints.Constraint] = _UnitSphere()  # pyright: ignore
    has_rsample = True

    def __init__(self, zero: Tensor) -> None:
        self.zero = zero
        super().__init__(zero.shape[:-1], zero.shape[-1:], validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch, D), each row of length 1."""
        normal = torch.randn(torch.Size(sample_shape) + self.zero.shape, dtype=self.zero.dtype, device=self.zero.device)
        return torch.nn.functional.normalize(normal, dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): -log area, whatever the value."""
        lead = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return torch.full(lead, -log_area(self.event_shape[0]), dtype=value.dtype, device=value.device)

    @property
    def mean(self) -> Tensor:
        """(*batch, D): 0."""
        return torch.zeros_like(self.zero)

    @property
    def variance(self) -> Tensor:
        """(*batch, D): 1 / D."""
        return torch.full_like(self.zero, 1.0 / self.event_shape[0])


class VonMisesFisher(Distribution):
    """log p(z) = k m.z + log C(k), with the direction m and the concentration k; log C(k) = -g(k) - log area (`bessel`).

    Davidson, Falorsi, De Cao, Kipf, Tomczak, "Hyperspherical variational auto-encoders" (2018). Draws come from the rejection
    sampler of Ulrich, "Computer generation of distributions on the m-sphere" (1984), as corrected by Wood, "Simulation of the
    von Mises Fisher distribution" (1994). Departures: the gradient to k is that of implicit reparameterisation (Figurnov,
    Mohamed, Mnih, "Implicit reparameterization gradients", 2018), which has no correction for the draws that were refused;
    the gradient to m turns a draw with m, so it needs no Householder reflection, which is singular at one m. A draw is the
    first accepted of 32 proposals, made at once.

    Args:
        direction: (*batch, D), each row of length 1; D >= 2.
        concentration: (*batch), >= 0.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> q = VonMisesFisher(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(5.0))
        >>> q.rsample((1000,)).mean(0).sub(q.mean).abs().max().item() < 0.05
        True
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    support: ClassVar[constraints.Constraint] = _UnitSphere()  # pyright: ignore
    has_rsample = True

    def __init__(self, direction: Tensor, concentration: Tensor) -> None:
        self.direction, self.concentration = direction, concentration
        super().__init__(concentration.shape, direction.shape[-1:], validate_args=False)

    @property
    def num_units(self) -> int:
        """D."""
        return self.event_shape[0]

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch, D), through which gradients reach direction and concentration."""
        shape = torch.Size(sample_shape) + self.batch_shape
        kappa, direction = self.concentration.expand(shape), self.direction.expand(shape + self.event_shape)
        angle = cast(Tensor, _Angle.apply(kappa, _draw_angle(kappa.detach(), self.num_units), self.num_units))
        tangent = _tangent(direction.detach())
        turned = tangent - (tangent * direction).sum(-1, keepdim=True) * direction
        return angle.cos().unsqueeze(-1) * direction + angle.sin().unsqueeze(-1) * turned

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): the log-density of each row of `value` (*batch, D), of length 1.

        As -k |z - m|^2 / 2 + (k - g(k)) - log area, which keeps its digits at large k.
        """
        square = (value - self.direction).square().sum(-1)
        peak = log_series_excess(self.concentration, self.num_units) - log_area(self.num_units)
        return peak - 0.5 * self.concentration * square

    def entropy(self) -> Tensor:
        """(*batch), in nats."""
        return log_area(self.num_units) - divergence_from_uniform(self.concentration, self.num_units)

    @property
    def mean(self) -> Tensor:
        """(*batch, D): A(k) m, inside the sphere."""
        return bessel_ratio(self.concentration, self.num_units).unsqueeze(-1) * self.direction

    @property
    def variance(self) -> Tensor:
        """(*batch, D): A(k) / k (1 - m_i^2) + A'(k) m_i^2."""
        found = normaliser(self.concentration, self.num_units)
        limit = torch.full_like(found.ratio, 1.0 / self.num_units)
        across = torch.where(self.concentration > 0, found.ratio / self.concentration, limit).unsqueeze(-1)
        square = self.direction.square()
        return across * (1.0 - square) + found.slope.unsqueeze(-1) * square

    def centre(self) -> tuple[Tensor, Tensor]:
        """The direction, which is the point on the sphere where the density peaks, and the standard deviation of each unit."""
        return self.direction, self.variance.sqrt()


@register_kl(VonMisesFisher, UniformSphere)
def _kl_von_mises_fisher_uniform(q: VonMisesFisher, p: UniformSphere) -> Tensor:
    """k A(k) - g(k)."""
    if q.num_units != p.event_shape[0]:
        raise NotImplementedError
    return divergence_from_uniform(q.concentration, q.num_units)


def _tangent(direction: Tensor) -> Tensor:
    """A unit vector across each direction, of any orientation alike; projected twice, for the first leaves rounding behind."""
    tangent = torch.randn_like(direction)
    for _ in range(2):
        tangent = tangent - (tangent * direction).sum(-1, keepdim=True) * direction
        tangent = torch.nn.functional.normalize(tangent, dim=-1, eps=torch.finfo(tangent.dtype).tiny)
    return tangent


def _draw_angle(kappa: Tensor, num_units: int) -> Tensor:
    """The angle between draw and direction: density in proportion to exp(k cos a) sin(a)^(D - 2) on [0, pi].

    With e from Beta((D - 1) / 2, (D - 1) / 2), tan(a / 2)^2 = b e / (1 - e) is a proposal that is kept with probability
    (r exp(1 - r))^(D - 1), r = (1 + b) / (2 (1 - (1 - b) e)): Wood's conditions, in numbers that do not cancel.
    """
    power = num_units - 1.0
    b = (power / (2.0 * kappa + torch.sqrt(4.0 * kappa.square() + power**2))).unsqueeze(-1)
    half = torch.full((), 0.5 * power, dtype=kappa.dtype, device=kappa.device)
    e = Beta(half, half, validate_args=False).sample((*kappa.shape, _PROPOSALS))
    e = e.clamp(torch.finfo(e.dtype).tiny ** 0.5, 1.0 - torch.finfo(e.dtype).eps)
    away = (1.0 - b) * (2.0 * e - 1.0) / (2.0 * (1.0 - (1.0 - b) * e))  # r - 1
    kept = power * (torch.log1p(away) - away) >= torch.log(torch.rand_like(e))
    first = kept.to(torch.uint8).argmax(-1, keepdim=True)
    return 2.0 * torch.atan(torch.sqrt(b * e / (1.0 - e)).gather(-1, first)).squeeze(-1)


class _Angle(Function):
    """A drawn angle as a function of the concentration: da / dk = -dF(a; k)/dk / f(a; k)."""

    @staticmethod
    def forward(ctx: Any, kappa: Tensor, angle: Tensor, num_units: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(kappa, angle)
        ctx.num_units = num_units
        return angle.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        kappa, angle = ctx.saved_tensors
        return gradients[0] * _angle_slope(kappa, angle, ctx.num_units), None, None


def _angle_slope(kappa: Tensor, angle: Tensor, num_units: int) -> Tensor:
    """da / dk at a fixed quantile, by Gauss-Legendre quadrature of

        dF / dk (a) = int_0^a (cos x - A(k)) f(x) dx = int_a^pi (A(k) - cos x) f(x) dx,

    the first where cos a > A and the second elsewhere, so that the integrand has one sign; f needs no normaliser, for only
    f(x) / f(a) enters. The quadrature reaches 12 standard deviations from a.
    """
    gap = normaliser(kappa, num_units).gap
    degree = num_units - 2
    curvature = 0.5 * (degree + torch.sqrt(4.0 * kappa.square() + degree**2))  # k / c, c the cosine at the mode
    across = 12.0 / torch.sqrt(curvature + kappa.square() / curvature.clamp_min(torch.finfo(kappa.dtype).tiny))
    before = gap > 2.0 * torch.sin(0.5 * angle).square()  # cos a > A
    reach = torch.where(before, -torch.minimum(angle, across), torch.minimum(math.pi - angle, across))
    points, weights = _gauss_legendre(_NODES, angle.dtype, angle.device)
    step = reach.unsqueeze(-1) * points
    fall = -2.0 * torch.sin(angle.unsqueeze(-1) + 0.5 * step) * torch.sin(0.5 * step)  # cos x - cos a
    log_ratio = kappa.unsqueeze(-1) * fall
    if degree:  # log(sin x / sin a)
        rise = torch.sin(step) / torch.tan(angle).unsqueeze(-1) - 2.0 * torch.sin(0.5 * step).square()
        log_ratio = log_ratio + degree * torch.log1p(rise.clamp_min(-1.0))
    height = gap.unsqueeze(-1) - 2.0 * torch.sin(0.5 * (angle.unsqueeze(-1) + step)).square()  # cos x - A
    return -(torch.exp(log_ratio) * height.abs() * weights).sum(-1) * reach.abs()


@functools.cache
def _gauss_legendre(num: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Points and weights on [0, 1], which are brought to a device once: a copy in every backward pass would wait for it."""
    points, weights = np.polynomial.legendre.leggauss(num)
    with torch.inference_mode(False):
        return tuple(torch.tensor(n, dtype=dtype, device=device) for n in (0.5 * (points + 1.0), 0.5 * weights))  # pyright: ignore[reportReturnType]
