"""Shares between 0 and 1, and the levels that are drawn with them."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Beta as TorchBeta
from torch.distributions import Distribution, Gamma, constraints

from vaekit.distributions.stirling import deviance, log_factorial_remainder, stirling_remainder


class Beta(TorchBeta):
    """log p(x) = (a - 1) log x + (b - 1) log(1 - x) - log B(a, b), a density over (0, 1).

    The formula is that of torch with the log-Gammas by their Stirling series (`distributions.stirling`): torch's are
    subtracted from each other, and lose all their digits where a and b are large. With c = a + b and the deviance D,

        log p(x) = - D(a, c x) - D(b, c (1 - x)) - log x(1 - x) + 1/2 log(a b / (2 pi c)) - r(a) - r(b) + r(c).

    Example:
        >>> p = Beta(torch.tensor(2.0), torch.tensor(1.0), validate_args=False)
        >>> round(p.log_prob(torch.tensor(0.5)).exp().item(), 5)
        1.0
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): the log-density of each value."""
        a, b = self.concentration1, self.concentration0
        c, log_x, log_y = a + b, value.log(), torch.log1p(-value)
        apart = deviance(a, c * value, torch.log(a / c) - log_x) + deviance(b, c * (1.0 - value), torch.log(b / c) - log_y)
        ends = stirling_remainder(c) - stirling_remainder(a) - stirling_remainder(b)
        return ends - apart - log_x - log_y + 0.5 * (a.log() + torch.log(b / c) - math.log(2.0 * math.pi))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch), strictly between 0 and 1; torch's draws are 0 / 0 where both Gammas are below its least number."""
        share = torch.sigmoid(_logit_of_share(self.concentration1, self.concentration0, sample_shape))
        limits = torch.finfo(share.dtype)
        return share.clamp(limits.tiny, 1.0 - 0.5 * limits.eps)


def _logit_of_share(a: Tensor, b: Tensor, sample_shape: Any) -> Tensor:
    """log(g / h) of g ~ Gamma(a, 1) and h ~ Gamma(b, 1), in logs: a Gamma(a) is a Gamma(a + 1) times U^(1 / a)."""
    logs = []
    for shape in torch.broadcast_tensors(a, b):
        larger = Gamma(shape + 1.0, torch.ones_like(shape), validate_args=False).rsample(torch.Size(sample_shape))
        logs.append(larger.log() - torch.empty_like(larger).exponential_() / shape)
    return logs[0] - logs[1]


class BetaBinomial(Distribution):
    """Levels 0..n, binomial with a share that is Beta distributed:

        log p(x) = log C(n, x) + log B(x + a, n - x + b) - log B(a, b).

    The mean is n m with m = a / (a + b); the larger the concentration c = a + b, the closer to the binomial, and with a and b
    below 1 the mass gathers at both ends. With the log-Gammas by their Stirling series (`distributions.stirling`), the large
    terms join to - n KL(x / n || v) - c KL(m || v) between Bernoullis, where v = (x + a) / (n + c).

    Args:
        concentration1: (*batch), a > 0.
        concentration0: (*batch), b > 0.
        total: n, at least 1.

    Example:
        >>> p = BetaBinomial(torch.tensor(1.0), torch.tensor(1.0), total=4)
        >>> p.log_prob(torch.arange(5.0)).exp()
        tensor([0.2000, 0.2000, 0.2000, 0.2000, 0.2000])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    has_rsample = False

    def __init__(self, concentration1: Tensor, concentration0: Tensor, total: int) -> None:
        self.concentration1, self.concentration0, self.total = concentration1, concentration0, total
        super().__init__(torch.broadcast_shapes(concentration1.shape, concentration0.shape), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Whole numbers 0..n."""
        return constraints.integer_interval(0, self.total)

    @property
    def _share(self) -> Tensor:
        return self.concentration1 / (self.concentration1 + self.concentration0)

    @property
    def mean(self) -> Tensor:
        """(*batch): n m."""
        return self.total * self._share

    @property
    def variance(self) -> Tensor:
        """(*batch): n m (1 - m) (c + n) / (c + 1)."""
        c = self.concentration1 + self.concentration0
        return self.total * self._share * (self.concentration0 / c) * (c + self.total) / (c + 1.0)

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): the log-mass of each value."""
        a, b, n = self.concentration1, self.concentration0, float(self.total)
        x, y, c = value, n - value, a + b
        share = ((x + a) / (n + c), (y + b) / (n + c))
        apart = torch.zeros_like(share[0])
        for count, concentration, v in ((x, a, share[0]), (y, b, share[1])):
            some = torch.where(count > 0, count, 1.0)
            ratio = torch.where(count > 0, torch.log1p(c / n) - torch.log1p(concentration / some), 0.0)
            apart = apart + deviance(count, n * v, ratio)
            apart = apart + deviance(concentration, c * v, torch.log1p(n / c) - torch.log1p(count / concentration))
        ends = stirling_remainder(c) - stirling_remainder(n + c) + 0.5 * torch.log1p(n / c)
        for count, concentration in ((x, a), (y, b)):
            ends = ends + stirling_remainder(count + concentration) - stirling_remainder(concentration)
            ends = ends - 0.5 * torch.log1p(count / concentration) - log_factorial_remainder(count)
        return ends - apart + log_factorial_remainder(torch.as_tensor(n, dtype=ends.dtype, device=ends.device))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch) levels, as floats."""
        share = torch.sigmoid(_logit_of_share(self.concentration1, self.concentration0, sample_shape))
        return torch.binomial(torch.full_like(share, self.total), share)
