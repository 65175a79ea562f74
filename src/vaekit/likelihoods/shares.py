"""Shares between 0 and 1, and levels with an order that are drawn with them."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from vaekit import distributions
from vaekit.component import Component
from vaekit.distributions import Independent
from vaekit.errors import ConfigError
from vaekit.likelihoods.base import Likelihood, observed_sums, observed_values, set_bias
from vaekit.likelihoods.spread import check_mode, per_element, ratio_of, raw_spread, squares_about

_MOST_LOGIT = 15.0
"""Of the mean share: nearer to an end, float32 holds no number that is not the end."""
_LOG_CONCENTRATIONS = (-5.0, 15.0)
_STARTS = (0.05, 1e4)


class Shares(Likelihood, abc.ABC):
    """Shares with the Beta's mean m_i(z) and concentration c: a = m c, b = (1 - m) c.

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.
        concentration: c is `shared` (one number), `per_dimension` (one an element), or `predicted` (by the network, from z).
        total: what a share is of, 1 or the highest level.

    Raises:
        ConfigError: for an unknown `concentration`, an empty shape, or what is no network.
    """

    def __init__(self, network: Component, shape: Sequence[int], concentration: str, total: int = 1) -> None:
        check_mode("concentration", concentration)
        super().__init__(network, shape, num_parameters=2 if concentration == "predicted" else 1)
        self.concentration, self.total = concentration, total
        if concentration != "predicted":
            self.log_concentration = raw_spread(concentration, self.shape, 0.0)

    @abc.abstractmethod
    def family(self, concentration1: Tensor, concentration0: Tensor) -> Distribution:
        """The family at each element, (K, B, *S), of a and b."""

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Independent:
        """p(x|z, c) over the family's support in S dimensions."""
        parameters = self.parameters_at(z, condition)
        logit = parameters.select(self.parameter_dim, 0).clamp(-_MOST_LOGIT, _MOST_LOGIT)
        if self.concentration == "predicted":
            raw = parameters.select(self.parameter_dim, 1)
        else:
            assert self.log_concentration is not None
            raw = self.log_concentration
        log_c = raw.clamp(*_LOG_CONCENTRATIONS)
        a, b = torch.exp(F.logsigmoid(logit) + log_c), torch.exp(F.logsigmoid(-logit) + log_c)
        return Independent(self.family(a, b), len(self.shape), validate_args=False)

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Bias = logit of each element's mean share, kept off the ends by half a level, and c from the variance about it.

        The variance of n shares is n m (1 - m) s with s = (c + n) / (c + 1), of one share m (1 - m) / (c + 1).
        """
        n = self.total
        total, count = observed_sums(self.head, self.num_parameters, x, mask)
        pooled = total.sum() / count.sum().clamp_min(1)
        mean = torch.where(count > 0, total / count.clamp_min(1), pooled) / n
        margin = 0.5 / (n * count.clamp_min(1))
        mean = torch.minimum(torch.maximum(mean, margin), 1 - margin)
        squares, seen = squares_about(n * per_element(mean, self.shape), x, mask)
        m = per_element(mean, self.shape)
        s = ratio_of(squares, seen * n * m * (1 - m), self.concentration, mean.numel(), empty=0.5 * (n + 1))
        c = (1 - s) / s.clamp_min(1e-6) if self.is_share else (n - s) / (s - 1).clamp_min(1e-3)
        log_c = c.clamp(*_STARTS).log()
        if self.concentration == "predicted":
            set_bias(self.head, [torch.logit(mean), log_c])
            return
        set_bias(self.head, [torch.logit(mean)])
        assert self.log_concentration is not None
        with torch.no_grad():
            self.log_concentration.copy_(log_c)

    is_share = False
    """Whether an element is the share itself, and not a level that is drawn with it."""


class Beta(Shares):
    """Shares strictly between 0 and 1: log p(x|z) = sum_i log Beta(x_i; m_i(z) c, (1 - m_i(z)) c).

    Proportions, rates, degrees of methylation. With `ContinuousBernoulli` the width follows from the mean; here it is free.
    At 0 and 1 themselves the density is 0 or infinite, so data that reach them are refused.

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.
        concentration: c is `shared` (one number), `per_dimension` (one an element), or `predicted` (by the network, from z).

    Raises:
        ConfigError: for an unknown `concentration`, an empty shape, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> p = Beta(MLP(2, [8]), shape=[3])(torch.zeros(1, 5, 2))
        >>> p.log_prob(torch.tensor([0.1, 0.5, 0.99])).shape
        torch.Size([1, 5])
    """

    is_share = True

    def __init__(self, network: Component, shape: Sequence[int], concentration: str = "predicted") -> None:
        super().__init__(network, shape, concentration)

    def family(self, concentration1: Tensor, concentration0: Tensor) -> distributions.Beta:
        """Beta(a, b)."""
        return distributions.Beta(concentration1, concentration0, validate_args=False)

    def check(self, x: Tensor, mask: Tensor | None = None) -> str | None:
        """Values must lie strictly between 0 and 1."""
        x = observed_values(x, mask)
        return None if bool(((x > 0) & (x < 1)).all()) else "A Beta likelihood must have values above 0 and below 1"


class BetaBinomial(Shares):
    """Whole levels 0..V-1 with an order: V - 1 draws with a share that is Beta distributed.

    Two parameters an element, however many levels, and with a and b below 1 the mass gathers at both ends, as that of pixels
    does: the likelihood of Townsend, Bird, Barber, "Practical lossless compression with latent variables using bits back
    coding" (2019) for images. Formula: `vaekit.distributions.BetaBinomial`.

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.
        levels: V, from 2 to 65536.
        concentration: c is `shared` (one number), `per_dimension` (one an element), or `predicted` (by the network, from z).

    Raises:
        ConfigError: for levels outside 2..65536, an unknown `concentration`, an empty shape, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> p = BetaBinomial(MLP(2, [8]), shape=[3], levels=256)(torch.zeros(1, 5, 2))
        >>> p.log_prob(torch.tensor([0, 17, 255])).shape
        torch.Size([1, 5])
    """

    discrete = True

    def __init__(self, network: Component, shape: Sequence[int], levels: int = 256, concentration: str = "predicted") -> None:
        if not 2 <= levels <= 65536:
            raise ConfigError(f"`levels` must be from 2 to 65536, got {levels}. Give the number of values an element can take.")
        super().__init__(network, shape, concentration, total=levels - 1)
        self.levels = levels

    def family(self, concentration1: Tensor, concentration0: Tensor) -> distributions.BetaBinomial:
        """BetaBinomial(a, b, V - 1)."""
        return distributions.BetaBinomial(concentration1, concentration0, self.total)

    def check(self, x: Tensor, mask: Tensor | None = None) -> str | None:
        """Values must be whole numbers 0..V-1."""
        x = observed_values(x, mask)
        fits = bool(((x >= 0) & (x <= self.total) & (x == x.round())).all())
        return (
            None
            if fits
            else f"A beta-binomial likelihood of {self.levels} levels must have whole values from 0 to {self.total}"
        )
