"""Whole numbers from 0 upwards, in the logs of their parameters."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, Gamma, constraints

from vaekit.distributions.stirling import deviance, log_factorial_remainder, stirling_remainder

_LOG_ZERO = -1e4
"""Stands for log 0 where it is multiplied by 0."""


def _log(x: Tensor) -> Tensor:
    """log x, and a large negative number where x is 0."""
    return torch.where(x > 0, torch.where(x > 0, x, 1.0).log(), _LOG_ZERO)


class _OverCounts(Distribution):
    """A distribution over 0, 1, 2, ... with batch shape only."""

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    has_rsample = False

    def __init__(self, batch_shape: torch.Size) -> None:
        super().__init__(batch_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Whole numbers from 0."""
        return constraints.nonnegative_integer


class Poisson(_OverCounts):
    """log p(x) = x log m - m - log x!, with mean m, as a deviance (`distributions.stirling`).

    Args:
        log_mean: (*batch), log m.

    Example:
        >>> p = Poisson(torch.tensor(3.0).log())
        >>> round(p.log_prob(torch.arange(30.0)).exp().sum().item(), 5)
        1.0
    """

    def __init__(self, log_mean: Tensor) -> None:
        self.log_mean = log_mean
        super().__init__(log_mean.shape)

    @property
    def mean(self) -> Tensor:
        """(*batch): m."""
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        """(*batch): m."""
        return self.mean

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): the log-mass of each value."""
        return -log_factorial_remainder(value) - deviance(value, self.mean, _log(value) - self.log_mean)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch)."""
        return torch.poisson(self.mean.expand(self._extended_shape(sample_shape)))


class NegativeBinomial(_OverCounts):
    """Counts with mean m and variance m + m^2 / r, a Poisson whose mean is Gamma distributed with shape r:

        log p(x) = log Gamma(x + r) - log Gamma(r) - log x! + r log(r / (r + m)) + x log(m / (r + m)).

    r is the inverse dispersion; with r to infinity it is the Poisson. With the log-Gammas by their Stirling series it reads,
    with n = x + r, p = m / (r + m) and the deviance D(a, b) = a log(a / b) + b - a,

        log p(x) = 1/2 log(r / n) + R(n) - R(r) - (log x! - x log x + x) - D(x, n p) - D(r, n (1 - p)).

    Args:
        log_mean: (*batch), log m.
        log_inverse_dispersion: (*batch), log r.

    Example:
        >>> p = NegativeBinomial(torch.tensor(3.0).log(), torch.tensor(2.0).log())
        >>> p.mean, p.variance
        (tensor(3.), tensor(7.5000))
    """

    def __init__(self, log_mean: Tensor, log_inverse_dispersion: Tensor) -> None:
        self.log_mean, self.log_inverse_dispersion = torch.broadcast_tensors(log_mean, log_inverse_dispersion)
        super().__init__(self.log_mean.shape)

    @property
    def mean(self) -> Tensor:
        """(*batch): m."""
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        """(*batch): m + m^2 / r."""
        return self.mean + (2 * self.log_mean - self.log_inverse_dispersion).exp()

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): the log-mass of each value."""
        log_r = self.log_inverse_dispersion
        r, log_odds, log_x = log_r.exp(), self.log_mean - log_r, _log(value) - log_r
        n = value + r
        failure, success = F.softplus(log_odds), F.softplus(-log_odds)  # -log(1 - p), -log p
        by_value = deviance(value, n * torch.exp(-success), success - F.softplus(-log_x))
        by_shape = deviance(r, n * torch.exp(-failure), failure - F.softplus(log_x))
        ends = stirling_remainder(n) - stirling_remainder(r) + 0.5 * (log_r - n.log())
        return ends - log_factorial_remainder(value) - by_value - by_shape

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch), as a Poisson with a Gamma distributed mean."""
        mean = Gamma(self.log_inverse_dispersion.exp(), torch.ones_like(self.log_mean), validate_args=False).sample(
            sample_shape
        )
        return torch.poisson(mean * (self.log_mean - self.log_inverse_dispersion).exp())


class ZeroInflated(_OverCounts):
    """A count that is 0 with probability w, whatever else it would have been: p(x) = w [x = 0] + (1 - w) p_0(x).

    Lambert, "Zero-inflated Poisson regression, with an application to defects in manufacturing" (1992).

    Args:
        base: p_0, a distribution over counts with batch shape only.
        logits: (*batch), log w / (1 - w).

    Example:
        >>> p = ZeroInflated(Poisson(torch.tensor(2.0).log()), torch.tensor(0.0))
        >>> p.mean, round(p.log_prob(torch.zeros(())).exp().item(), 4)
        (tensor(1.), 0.5677)
    """

    def __init__(self, base: Distribution, logits: Tensor) -> None:
        self.base, self.logits = base, logits
        super().__init__(torch.broadcast_shapes(base.batch_shape, logits.shape))

    @property
    def mean(self) -> Tensor:
        """(*batch): (1 - w) E_0[x]."""
        return torch.sigmoid(-self.logits) * self.base.mean

    @property
    def variance(self) -> Tensor:
        """(*batch): (1 - w) (Var_0[x] + w E_0[x]^2)."""
        return torch.sigmoid(-self.logits) * (self.base.variance + torch.sigmoid(self.logits) * self.base.mean.square())

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): the log-mass of each value."""
        counted = F.logsigmoid(-self.logits) + self.base.log_prob(value)
        return torch.where(value == 0, torch.logaddexp(F.logsigmoid(self.logits).expand_as(counted), counted), counted)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch)."""
        counts = self.base.sample(sample_shape)
        return torch.where(torch.rand_like(counts) < torch.sigmoid(self.logits), 0.0, counts)
