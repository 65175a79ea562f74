"""Counts: whole numbers from 0 upwards."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit import distributions
from vaekit.component import Component
from vaekit.distributions import Independent
from vaekit.likelihoods.base import Likelihood, observed_sums, observed_values, set_bias
from vaekit.likelihoods.spread import check_mode, per_element, ratio_of, raw_spread, squares_about

_MOST_LOG_MEAN = 40.0
"""e^40 is beyond every count that a float32 holds exactly; above, only gradients would grow."""
_LOG_SHAPES = (-10.0, 20.0)
"""Of the inverse dispersion; at e^20 a negative binomial is a Poisson to rounding."""
_DISPERSIONS = (0.01, 100.0)
_SHARES = (0.02, 0.9)


class Counts(Likelihood, abc.ABC):
    """Whole numbers from 0, whose means have a log link: mean_i = exp(output_i(z)), at most e^40.

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.
        inflated: whether the network also predicts the logit of a share of zeros.
        dispersion: of a negative binomial, `shared`, `per_dimension` or `predicted`; None for a Poisson.

    Raises:
        ConfigError: for an unknown `dispersion`, an empty shape, or what is no network.
    """

    discrete = True

    def __init__(self, network: Component, shape: Sequence[int], inflated: bool = False, dispersion: str | None = None) -> None:
        if dispersion is not None:
            check_mode("dispersion", dispersion)
        super().__init__(network, shape, 1 + inflated + (dispersion == "predicted"))
        self.inflated, self.dispersion = inflated, dispersion
        if dispersion not in (None, "predicted"):
            self.log_inverse_dispersion = raw_spread(dispersion, self.shape, 0.0)

    @abc.abstractmethod
    def counted(self, parameters: Tensor) -> Distribution:
        """The family at each element, (K, B, *S), of the head's outputs."""

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Independent:
        """p(x|z, c), a mass over counts."""
        return Independent(self.counted(self.parameters_at(z, condition)), len(self.shape), validate_args=False)

    def poisson(self, parameters: Tensor) -> distributions.Poisson:
        """The Poisson of the first output."""
        return distributions.Poisson(self._log_mean(parameters))

    def negative_binomial(self, parameters: Tensor) -> distributions.NegativeBinomial:
        """The negative binomial of the first output, and of the last where the dispersion is predicted."""
        if self.dispersion == "predicted":
            raw = parameters.select(self.parameter_dim, self.num_parameters - 1)
        else:
            assert self.log_inverse_dispersion is not None
            raw = self.log_inverse_dispersion
        return distributions.NegativeBinomial(self._log_mean(parameters), raw.clamp(*_LOG_SHAPES))

    def zero_inflated(self, base: Distribution, parameters: Tensor) -> distributions.ZeroInflated:
        """The base with the share of zeros of the second output."""
        return distributions.ZeroInflated(base, parameters.select(self.parameter_dim, 1))

    def _log_mean(self, parameters: Tensor) -> Tensor:
        return parameters.select(self.parameter_dim, 0).clamp_max(_MOST_LOG_MEAN)

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Bias = log of each element's mean, taken as half a count where there was none; of all where it was not observed.

        The variance about that mean sets the dispersion, or the share of zeros of a Poisson; the share of zeros of a
        negative binomial is what its own zeros leave unexplained.
        """
        total, count = observed_sums(self.head, self.num_parameters, x, mask)
        pooled = total.sum().clamp_min(0.5) / count.sum().clamp_min(1)
        mean = torch.where(count > 0, total.clamp_min(0.5) / count.clamp_min(1), pooled)
        squares, seen = squares_about(per_element(mean, self.shape), x, mask)
        excess = (squares - seen * per_element(mean, self.shape)).reshape(mean.numel(), -1).sum(1) / count.clamp_min(1)
        share = self._share_of_zeros(mean, excess, x, mask) if self.inflated else torch.zeros_like(mean)
        start = [torch.log(mean / (1 - share))]
        if self.inflated:
            start.append(torch.logit(share))
        if self.dispersion is not None:
            log_shape = self._log_shape(mean, share, squares, seen)
            if self.dispersion == "predicted":
                start.append(log_shape)
            elif self.log_inverse_dispersion is not None:
                with torch.no_grad():
                    self.log_inverse_dispersion.copy_(log_shape)
        set_bias(self.head, start)

    def _share_of_zeros(self, mean: Tensor, excess: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        """One number a bias: of a Poisson from its variance m + m^2 w / (1 - w), else from its zeros."""
        if self.dispersion is None:
            excess = excess.clamp_min(0)
            return (excess / (excess + mean.square())).clamp(*_SHARES)
        zeros, count = observed_sums(self.head, self.num_parameters, (x == 0).float(), mask)
        dispersion = (excess / mean.square()).clamp(*_DISPERSIONS)
        own = torch.exp(-torch.log1p(mean * dispersion) / dispersion)
        share = (zeros / count.clamp_min(1) - own) / (1 - own).clamp_min(1e-6)
        return share.clamp(*_SHARES)

    def _log_shape(self, mean: Tensor, share: Tensor, squares: Tensor, seen: Tensor) -> Tensor:
        """log r from the variance (1 - w) (m + m^2 (1 / r + w)), with m = mean / (1 - w)."""
        assert self.dispersion is not None
        m, w = per_element(mean / (1 - share), self.shape), per_element(share, self.shape)
        over = squares / (1 - w) - seen * (m + w * m.square())
        dispersion = ratio_of(over, seen * m.square(), self.dispersion, mean.numel(), empty=1.0)
        return -dispersion.clamp(*_DISPERSIONS).log()

    def check(self, x: Tensor, mask: Tensor | None = None) -> str | None:
        """Values must be whole numbers from 0."""
        x = observed_values(x, mask)
        fits = bool(((x >= 0) & (x == x.round()) & torch.isfinite(x)).all())
        return None if fits else f"A {self.name} likelihood must have counts, whole numbers from 0"

    name = "count"
    """The family in a sentence."""


class Poisson(Counts):
    """Counts whose variance is their mean: log p(x|z) = sum_i x_i log m_i(z) - m_i(z) - log x_i!.

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.

    Raises:
        ConfigError: for an empty shape, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> p = Poisson(MLP(2, [8]), shape=[3])(torch.zeros(1, 5, 2))
        >>> p.log_prob(torch.tensor([0.0, 2.0, 7.0])).shape
        torch.Size([1, 5])
    """

    name = "Poisson"

    def __init__(self, network: Component, shape: Sequence[int]) -> None:
        super().__init__(network, shape)

    def counted(self, parameters: Tensor) -> distributions.Poisson:
        """Poisson(m)."""
        return self.poisson(parameters)


class NegativeBinomial(Counts):
    """Counts that vary more than a Poisson's: mean m_i(z) and variance m_i + m_i^2 / r, with the inverse dispersion r.

    Formula: `vaekit.distributions.NegativeBinomial`. Use it for reads, clicks, events of unlike individuals.
    In the parameters of Lopez, Regier, Cole, Jordan, Yosef, "Deep generative modeling for single-cell transcriptomics"
    (2018), whose model adds the size of each cell as a factor of the mean; here the latent has to carry it.

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.
        dispersion: r is `shared` (one number), `per_dimension` (one an element), or `predicted` (by the network, from z).

    Raises:
        ConfigError: for an unknown `dispersion`, an empty shape, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> p = NegativeBinomial(MLP(2, [8]), shape=[3])(torch.zeros(1, 5, 2))
        >>> p.log_prob(torch.tensor([0.0, 2.0, 7.0])).shape
        torch.Size([1, 5])
    """

    name = "negative binomial"

    def __init__(self, network: Component, shape: Sequence[int], dispersion: str = "per_dimension") -> None:
        super().__init__(network, shape, dispersion=dispersion)

    def counted(self, parameters: Tensor) -> distributions.NegativeBinomial:
        """NegativeBinomial(m, r)."""
        return self.negative_binomial(parameters)


class ZeroInflatedPoisson(Counts):
    """Counts of a Poisson that is hidden with probability w_i(z): p(x_i|z) = w_i [x_i = 0] + (1 - w_i) Poisson(x_i; m_i).

    Lambert, "Zero-inflated Poisson regression, with an application to defects in manufacturing" (1992).

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.

    Raises:
        ConfigError: for an empty shape, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> p = ZeroInflatedPoisson(MLP(2, [8]), shape=[3])(torch.zeros(1, 5, 2))
        >>> p.log_prob(torch.tensor([0.0, 2.0, 7.0])).shape
        torch.Size([1, 5])
    """

    name = "zero-inflated Poisson"

    def __init__(self, network: Component, shape: Sequence[int]) -> None:
        super().__init__(network, shape, inflated=True)

    def counted(self, parameters: Tensor) -> distributions.ZeroInflated:
        """A Poisson with more zeros."""
        return self.zero_inflated(self.poisson(parameters), parameters)


class ZeroInflatedNegativeBinomial(Counts):
    """Counts of a negative binomial that is hidden with probability w_i(z), as where a reading drops out:

        p(x_i|z) = w_i [x_i = 0] + (1 - w_i) NB(x_i; m_i, r).

    The likelihood of Lopez, Regier, Cole, Jordan, Yosef, "Deep generative modeling for single-cell transcriptomics" (2018),
    without its factor for the size of each cell.

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.
        dispersion: r is `shared` (one number), `per_dimension` (one an element), or `predicted` (by the network, from z).

    Raises:
        ConfigError: for an unknown `dispersion`, an empty shape, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> p = ZeroInflatedNegativeBinomial(MLP(2, [8]), shape=[3])(torch.zeros(1, 5, 2))
        >>> p.log_prob(torch.tensor([0.0, 2.0, 7.0])).shape
        torch.Size([1, 5])
    """

    name = "zero-inflated negative binomial"

    def __init__(self, network: Component, shape: Sequence[int], dispersion: str = "per_dimension") -> None:
        super().__init__(network, shape, inflated=True, dispersion=dispersion)

    def counted(self, parameters: Tensor) -> distributions.ZeroInflated:
        """A negative binomial with more zeros."""
        return self.zero_inflated(self.negative_binomial(parameters), parameters)
