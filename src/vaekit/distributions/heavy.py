"""Real numbers with longer tails than the normal's, and positive ones."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions import StudentT as TorchStudentT

from vaekit.distributions.stirling import stirling_remainder

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class _LocationScale(Distribution):
    """x = loc + scale t, with batch shape only."""

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """All real numbers."""
        return constraints.real

    @property
    def mean(self) -> Tensor:
        """(*batch): loc."""
        return self.loc


class Logistic(_LocationScale):
    """log p(x) = -2 log(2 cosh(t / 2)) - log scale, t = (x - loc) / scale: variance (pi scale)^2 / 3.

    Example:
        >>> Logistic(torch.zeros(()), torch.ones(())).log_prob(torch.zeros(())).exp()
        tensor(0.2500)
    """

    @property
    def variance(self) -> Tensor:
        """(*batch): pi^2 scale^2 / 3."""
        return (math.pi * self.scale).square() / 3.0

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): the log-density of each value."""
        half = 0.5 * (value - self.loc) / self.scale
        return -2.0 * torch.logaddexp(half, -half) - self.scale.log()

    def cdf(self, value: Tensor) -> Tensor:
        """(*batch): the mass below each value."""
        return torch.sigmoid((value - self.loc) / self.scale)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch); t is the log of a ratio of exponentials, so that both tails are whole in float32."""
        shape = self._extended_shape(sample_shape)
        first, second = (torch.empty(shape, dtype=self.loc.dtype, device=self.loc.device).exponential_() for _ in range(2))
        return self.loc + self.scale * (_safe_log(first) - _safe_log(second))


class HyperbolicSecant(_LocationScale):
    """log p(x) = -log cosh(t) - log(pi scale), t = (x - loc) / scale: variance (pi scale / 2)^2.

    Near loc it is a normal of the standard deviation `scale`, in the tails a Laplace of the scale `scale`.

    Example:
        >>> HyperbolicSecant(torch.zeros(()), torch.ones(())).log_prob(torch.zeros(())).exp()
        tensor(0.3183)
    """

    @property
    def variance(self) -> Tensor:
        """(*batch): pi^2 scale^2 / 4."""
        return (0.5 * math.pi * self.scale).square()

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): the log-density of each value."""
        t = (value - self.loc) / self.scale
        return math.log(2.0 / math.pi) - torch.logaddexp(t, -t) - self.scale.log()

    def cdf(self, value: Tensor) -> Tensor:
        """(*batch): the mass below each value, 2 / pi arctan(exp(t))."""
        return torch.atan(torch.exp((value - self.loc) / self.scale)) * (2.0 / math.pi)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch); t is the log of a ratio of normals: the log of a half-Cauchy is a hyperbolic secant."""
        shape = self._extended_shape(sample_shape)
        first, second = (torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device).abs() for _ in range(2))
        return self.loc + self.scale * (_safe_log(first) - _safe_log(second))


def _safe_log(x: Tensor) -> Tensor:
    return x.clamp_min(torch.finfo(x.dtype).tiny).log()


class StudentT(TorchStudentT):
    """log p(x) = log G(v) - log scale - (v + 1) / 2 log(1 + t^2 / v), t = (x - loc) / scale.

    G(v) = Gamma((v + 1) / 2) / (Gamma(v / 2) sqrt(pi v)). The formula is that of torch, in a form in which nothing overflows
    or cancels: torch's loses the normaliser for large v (half a nat at v = 10^6 in float32) and squares t.

    Example:
        >>> p = StudentT(torch.tensor(1e7), torch.tensor(0.0), torch.tensor(1.0), validate_args=False)
        >>> p.log_prob(torch.tensor(0.0))  # that of a normal
        tensor(-0.9189)
    """

    df: Tensor
    loc: Tensor
    scale: Tensor

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): the log-density of each value."""
        a = 0.5 * self.df
        gammas = a * torch.log1p(0.5 / a) - 0.5 + stirling_remainder(a + 0.5) - stirling_remainder(a)
        u = ((value - self.loc) / self.scale).abs() * self.df.rsqrt()
        inside = u < 1.0
        near, far = torch.where(inside, u, 0.0), torch.where(inside, 1.0, u)
        log_one_plus = torch.where(inside, torch.log1p(near.square()), 2.0 * far.log() + torch.log1p(far.reciprocal().square()))
        return gammas - _HALF_LOG_TWO_PI - self.scale.log() - (a + 0.5) * log_one_plus


class LogNormal(Distribution):
    """log x ~ N(loc, scale^2), a density over x > 0: log p(x) = log N(log x; loc, scale^2) - log x.

    Moments and samples that floating numbers cannot hold are their largest one.

    Args:
        loc: (*batch), mean of log x.
        scale: (*batch), standard deviation of log x.

    Example:
        >>> LogNormal(torch.tensor(0.0), torch.tensor(1.0)).mean
        tensor(1.6487)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Numbers above 0."""
        return constraints.positive

    def _exp(self, log_x: Tensor) -> Tensor:
        limits = torch.finfo(log_x.dtype)
        return log_x.clamp(math.log(limits.tiny) + 1.0, math.log(limits.max) - 1.0).exp()

    @property
    def mean(self) -> Tensor:
        """(*batch): exp(loc + scale^2 / 2)."""
        return self._exp(self.loc + 0.5 * self.scale.square())

    @property
    def variance(self) -> Tensor:
        """(*batch): (exp(scale^2) - 1) exp(2 loc + scale^2)."""
        square = self.scale.square()
        return self._exp(2.0 * self.loc + 2.0 * square + torch.log(-torch.expm1(-square)))

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): the log-density of each value."""
        log_x = value.log()
        return -0.5 * ((log_x - self.loc) / self.scale).square() - self.scale.log() - _HALF_LOG_TWO_PI - log_x

    def cdf(self, value: Tensor) -> Tensor:
        """(*batch): the mass below each value."""
        return torch.special.ndtr((value.log() - self.loc) / self.scale)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch)."""
        noise = torch.randn(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        return self._exp(self.loc + self.scale * noise)
