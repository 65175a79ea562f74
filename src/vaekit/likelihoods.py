"""p(x|z, c): what the data is, given the latent.

A likelihood is a network and a family. Called with latents (K, B, *Z) it returns a distribution over data with batch
shape (K, B) and the event shape of one example, so `log_prob(x)` is one number an example.

Which one: binary data, `Bernoulli`; pixels or other whole levels, `DiscretizedLogisticMixture`; few levels without an
order, `Categorical`; real numbers, `Normal`; intensities in [0, 1] that are not levels, `ContinuousBernoulli`.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import Distribution

from vaekit.component import Component
from vaekit.distributions import ContinuousBernoulli as ContinuousBernoulliDistribution
from vaekit.distributions import DiscretizedLogisticMixture as LogisticMixtureDistribution
from vaekit.distributions import Independent, diagonal_normal
from vaekit.errors import ConfigError
from vaekit.types import Network


class Likelihood(Component, abc.ABC):
    """A module whose call returns p(x|z, c).

    Args:
        network: maps latents (..., *Z) to features, and makes the head.
        shape: the shape of one example *S.
        num_parameters: how many numbers the family takes at each of `positions`.
        positions: the event shape of the head; *S unless channels share parameters.
    """

    discrete = False
    """Whether p is a mass over whole levels (bits per dimension are defined) or a density."""

    def __init__(
        self, network: Component, shape: Sequence[int], num_parameters: int, positions: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        if not shape or min(shape) < 1:
            raise ConfigError(f"`shape` must hold sizes of at least 1, got {tuple(shape)}. Give the shape of one example.")
        self.network = network
        self.shape = tuple(shape)
        self.head = cast(Network, network).make_head(num_parameters, positions or self.shape)
        self.parameter_dim = -1 - len(positions or self.shape)

    def parameters_at(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """(..., num_parameters, *positions), in the precision of z: a reduced precision ends before the density."""
        return self.head(self.network(z, condition)).to(z.dtype)

    @abc.abstractmethod
    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """p(x|z, c) with batch shape (K, B).

        Args:
            z: (K, B, *Z).
            condition: (B, F) features, or None.
        """

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Sets the output bias from a batch x (B, *S), so that training starts at the marginal of each element.

        Args:
            x: (B, *S), data on the support; what stands at a missing element is not read.
            mask: (B, *S) bool, True where observed, or None.
        """

    def check(self, x: Tensor) -> str | None:
        """What is wrong with x as data of this family, as a sentence; None where it fits."""
        return None


def _last_bias(head: nn.Module) -> nn.Parameter | None:
    """The bias of a head's last layer, which a data-dependent start overwrites."""
    layers = [module for module in head.modules() if isinstance(getattr(module, "bias", None), nn.Parameter)]
    return cast(nn.Parameter, layers[-1].bias) if layers else None


def _observed_sums(head: nn.Module, num_parameters: int, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sum and count of the observed values of x (B, *S) behind each bias of a parameter: an element's, or a channel's
    where a convolutional head has one bias for all its pixels."""
    bias = _last_bias(head)
    size = 1 if bias is None else bias.numel() // num_parameters
    observed = torch.ones_like(x, dtype=torch.bool) if mask is None else mask.expand(x.shape)
    total, count = torch.where(observed, x, 0).float().sum(0), observed.float().sum(0)
    return total.reshape(size, -1).sum(1), count.reshape(size, -1).sum(1)


def _observed(x: Tensor, mask: Tensor | None) -> Tensor:
    """(N,): the observed values of x, as floats."""
    return (x.flatten() if mask is None else x[mask.expand(x.shape)]).float()


def _set_bias(head: nn.Module, per_parameter: Sequence[Tensor]) -> None:
    """Writes one value, or one for each position, of each parameter into a head's bias."""
    bias = _last_bias(head)
    if bias is None:
        return
    with torch.no_grad():
        bias.view(len(per_parameter), -1).copy_(
            torch.stack(torch.broadcast_tensors(*per_parameter)).reshape(len(per_parameter), -1)
        )


class Bernoulli(Likelihood):
    """Binary data: log p(x|z) = sum_i x_i log p_i + (1 - x_i) log(1 - p_i), with logit p_i the network's output.

    For x in {0, 1} only: intensities between are no binary data, and the formula is then no likelihood. Grey images are
    made binary by `data.transforms.Binarize`.
    Kingma, Welling, "Auto-Encoding Variational Bayes" (2014), appendix C.1.

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.

    Example:
        >>> from vaekit.networks import MLP
        >>> p = Bernoulli(MLP(2, [8]), shape=[3])(torch.zeros(1, 5, 2))
        >>> p.log_prob(torch.ones(5, 3)).shape
        torch.Size([1, 5])
    """

    discrete = True

    def __init__(self, network: Component, shape: Sequence[int]) -> None:
        super().__init__(network, shape, num_parameters=1)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Independent:
        """p(x|z, c) over {0, 1}^S."""
        logits = self.parameters_at(z, condition).squeeze(self.parameter_dim)
        return Independent(td.Bernoulli(logits=logits, validate_args=False), len(self.shape), validate_args=False)

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Bias = logit of each element's mean (Burda et al., 2016), kept off the ends by half a count."""
        total, count = _observed_sums(self.head, 1, x, mask)
        _set_bias(self.head, [torch.logit((total + 0.5) / (count + 1))])

    def check(self, x: Tensor) -> str | None:
        """Values must be 0 or 1."""
        return None if bool(((x == 0) | (x == 1)).all()) else "A Bernoulli likelihood must have values 0 and 1"


class ContinuousBernoulli(Likelihood):
    """Intensities in [0, 1]: log p(x|z) = sum_i x_i log p_i + (1 - x_i) log(1 - p_i) + log C(p_i).

    C(p) = 2 atanh(1 - 2p) / (1 - 2p) is the constant that makes it a density; the mean is not p.
    Loaiza-Ganem, Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational autoencoders" (2019).

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.
    """

    def __init__(self, network: Component, shape: Sequence[int]) -> None:
        super().__init__(network, shape, num_parameters=1)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Independent:
        """p(x|z, c), a density over [0, 1]^S."""
        logits = self.parameters_at(z, condition).squeeze(self.parameter_dim)
        return Independent(
            ContinuousBernoulliDistribution(logits=logits, validate_args=False), len(self.shape), validate_args=False
        )

    def check(self, x: Tensor) -> str | None:
        """Values must lie in [0, 1]."""
        return None if bool(((x >= 0) & (x <= 1)).all()) else "A continuous Bernoulli likelihood must have values in [0, 1]"


class Normal(Likelihood):
    """Real numbers: log p(x|z) = sum_i log N(x_i; mean_i(z), scale^2).

    One shared scale, learned with everything else, finds the weight between rate and distortion that a hand-set beta is
    searched for: Rybkin, Daniilidis, Levine, "Simple and effective VAE training with calibrated decoders" (2021).

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.
        scale: `shared` (one number), `per_dimension` (one an element), or `predicted` (by the network, from z).
        min_scale: the least standard deviation, in units of the data; it bounds the density of elements that never change.
    """

    def __init__(self, network: Component, shape: Sequence[int], scale: str = "shared", min_scale: float = 1e-3) -> None:
        if scale not in ("shared", "per_dimension", "predicted"):
            raise ConfigError(f"`scale` must be shared, per_dimension or predicted, got {scale!r}.")
        if not min_scale > 0:
            raise ConfigError(f"`min_scale` must be > 0, got {min_scale}. It keeps the density finite.")
        super().__init__(network, shape, num_parameters=2 if scale == "predicted" else 1)
        self.scale, self.min_scale = scale, min_scale
        if scale != "predicted":
            self.raw_scale = nn.Parameter(torch.full(() if scale == "shared" else self.shape, _inverse_softplus(1.0)))

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Independent:
        """p(x|z, c), a density over R^S."""
        parameters = self.parameters_at(z, condition)
        mean = parameters.select(self.parameter_dim, 0)
        if self.scale == "predicted":
            raw = parameters.select(self.parameter_dim, 1) + _inverse_softplus(1.0)
        else:
            raw = self.raw_scale
        scale = F.softplus(raw) + self.min_scale
        return diagonal_normal(mean, scale.expand_as(mean), len(self.shape))

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Bias of the mean = each element's mean."""
        num_parameters = 2 if self.scale == "predicted" else 1
        total, count = _observed_sums(self.head, num_parameters, x, mask)
        mean = total / count.clamp_min(1)
        _set_bias(self.head, [mean, torch.zeros_like(mean)][:num_parameters])

    def check(self, x: Tensor) -> str | None:
        """Values must be finite."""
        return None if bool(torch.isfinite(x).all()) else "A normal likelihood must have finite values"


def _inverse_softplus(y: float) -> float:
    return math.log(math.expm1(y))


class DiscretizedLogisticMixture(Likelihood):
    """Whole levels 0..V-1 with an order, such as 8- or 16-bit pixels: a mixture of logistics cut at the half-levels.

    The channels of a pixel share the component, and each is conditioned on those before it, so colour is modelled jointly.
    The mass over the V^C values of a pixel is one. Formula and paper: `vaekit.distributions.DiscretizedLogisticMixture`.

    Args:
        network: maps latents to features.
        shape: (C, H, W), or (D,) for vectors of levels.
        levels: V, from 2 to 65536.
        num_components: M, components a pixel.
    """

    discrete = True

    def __init__(self, network: Component, shape: Sequence[int], levels: int = 256, num_components: int = 10) -> None:
        if not 2 <= levels <= 65536:
            raise ConfigError(f"`levels` must be from 2 to 65536, got {levels}.")
        if num_components < 1:
            raise ConfigError(f"`num_components` must be at least 1, got {num_components}.")
        channels = shape[0] if len(shape) == 3 else 1
        per_position = num_components * (1 + 2 * channels + channels * (channels - 1) // 2)
        super().__init__(network, shape, per_position, (1, *shape[1:]) if len(shape) == 3 else None)
        self.levels, self.num_components, self.num_channels = levels, num_components, channels
        # A component much narrower than a level is already certain of it: below, only gradients would grow.
        self.min_log_scale = -math.log(levels - 1) - 2.0

    def forward(self, z: Tensor, condition: Tensor | None = None) -> LogisticMixtureDistribution:
        """p(x|z, c) over {0..V-1}^S."""
        flat = self.parameters_at(z, condition).flatten(self.parameter_dim + 1)  # (..., num_parameters, P)
        m, c = self.num_components, self.num_channels
        logits, mean, raw, coefficients = flat.split([m, m * c, m * c, m * c * (c - 1) // 2], dim=-2)
        log_scale = self.min_log_scale + F.softplus(raw.unflatten(-2, (m, c)) - self.min_log_scale)
        return LogisticMixtureDistribution(
            logits,
            mean.unflatten(-2, (m, c)),
            log_scale,
            coefficients.unflatten(-2, (m, c * (c - 1) // 2)) if c > 1 else None,
            self.levels,
            self.shape,
        )

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Component means at the quantiles of the levels in x, scales at their spacing, all weights equal.

        A component starts grey, so its scale also covers how far the channels of a pixel lie apart.
        """
        m, c = self.num_components, self.num_channels
        observed = _observed(x, mask)
        if observed.numel() == 0:
            return
        sampled = 2.0 * observed[:: -(-observed.numel() // 100_000)] / (self.levels - 1) - 1.0
        quantiles = torch.quantile(sampled, (torch.arange(m, device=x.device) + 0.5) / m)
        width = torch.hypot(sampled.std(unbiased=False) / m, self._colourfulness(x, mask))
        spread = width.clamp_min(2.0 / (self.levels - 1)).log()
        spread = spread.clamp_min(self.min_log_scale + 1e-3) - self.min_log_scale
        raw = spread + torch.log(-torch.expm1(-spread)) + self.min_log_scale
        zero = torch.zeros((), device=x.device)
        means = [quantiles[k] for k in range(m) for _ in range(c)]
        _set_bias(self.head, [zero] * m + means + [raw] * (m * c) + [zero] * (m * c * (c - 1) // 2))

    def _colourfulness(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The logistic scale, on [-1, 1], of the channels of a pixel about their mean; 0 for one channel."""
        if self.num_channels == 1:
            return torch.zeros((), device=x.device)
        observed = torch.ones_like(x, dtype=torch.bool) if mask is None else mask.expand(x.shape)
        variance = torch.where(observed, x, 0).float().var(1, unbiased=False).sum() / observed[:, 0].sum()
        return variance.sqrt() * (math.sqrt(3) / math.pi) * 2.0 / (self.levels - 1)

    def check(self, x: Tensor) -> str | None:
        """Values must be whole numbers 0..V-1."""
        fits = bool(((x >= 0) & (x <= self.levels - 1) & (x == x.round())).all())
        return None if fits else f"A mixture of {self.levels} levels must have whole values from 0 to {self.levels - 1}"


class Categorical(Likelihood):
    """Levels 0..V-1 without an order: log p(x|z) = sum_i log softmax(logits_i)[x_i].

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.
        levels: V; memory grows with V times the number of elements, so prefer the mixture of logistics for many levels.
    """

    discrete = True

    def __init__(self, network: Component, shape: Sequence[int], levels: int) -> None:
        if levels < 2:
            raise ConfigError(f"`levels` must be at least 2, got {levels}.")
        super().__init__(network, shape, num_parameters=levels)
        self.levels = levels

    def forward(self, z: Tensor, condition: Tensor | None = None) -> CategoricalLevels:
        """p(x|z, c) over {0..V-1}^S."""
        logits = self.parameters_at(z, condition).movedim(self.parameter_dim, -1)
        return CategoricalLevels(td.Categorical(logits=logits, validate_args=False), len(self.shape), validate_args=False)

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Bias = log frequency of each level over the whole batch, one count added."""
        counts = torch.bincount(_observed(x, mask).long(), minlength=self.levels).float() + 1.0
        _set_bias(self.head, list((counts / counts.sum()).log()))

    def check(self, x: Tensor) -> str | None:
        """Values must be whole numbers 0..V-1."""
        fits = bool(((x >= 0) & (x <= self.levels - 1) & (x == x.round())).all())
        return (
            None
            if fits
            else f"A categorical likelihood of {self.levels} levels must have whole values from 0 to {self.levels - 1}"
        )


class CategoricalLevels(Independent):
    """A product of categoricals over ordered codes, whose mean is the mean level."""

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(*batch): sum of log softmax(logits)[x] over the observed elements."""
        return super().log_prob((value if mask is None else torch.where(mask, value, 0)).long(), mask)

    @property
    def mean(self) -> Tensor:
        """(*batch, *event): sum_v v p(v), in levels."""
        probabilities = cast(td.Categorical, self.base_dist).probs
        return probabilities @ torch.arange(probabilities.shape[-1], device=probabilities.device, dtype=probabilities.dtype)
