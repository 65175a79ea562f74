"""Whole levels, with and without an order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributions as td

from vaekit.component import Component
from vaekit.distributions import DiscretizedLogisticMixture as LogisticMixtureDistribution
from vaekit.distributions import Independent
from vaekit.errors import ConfigError
from vaekit.likelihoods.base import Likelihood, last_bias, observed_values, set_bias


class DiscretizedLogisticMixture(Likelihood):
    """Whole levels 0..V-1 with an order, such as 8- or 16-bit pixels: a mixture of logistics cut at the half-levels.

    The channels of a pixel share the component, and each is conditioned on those before it, so colour is modelled jointly.
    The mass over the V^C values of a pixel is one. Formula and paper: `vaekit.distributions.DiscretizedLogisticMixture`.
    A pixel of which only some channels are observed counts as missing, and `check` refuses data that holds one.

    Args:
        network: maps latents to features.
        shape: (C, H, W), or (D,) for vectors of levels.
        levels: V, from 2 to 65536.
        num_components: M, components a pixel.

    Raises:
        ConfigError: for levels outside 2..65536, no component, an empty shape, or what is no network.

    Example:
        >>> from vaekit.networks import ConvDecoder
        >>> _ = torch.manual_seed(0)
        >>> p = DiscretizedLogisticMixture(ConvDecoder(2, [3, 4, 4], [8]), shape=[3, 4, 4])(torch.zeros(1, 5, 2))
        >>> x = p.sample()[0]
        >>> x.shape, p.log_prob(x).shape
        (torch.Size([5, 3, 4, 4]), torch.Size([1, 5]))
    """

    discrete = True
    twice_differentiable = False  # its gradient is written by hand

    def __init__(self, network: Component, shape: Sequence[int], levels: int = 256, num_components: int = 10) -> None:
        if not 2 <= levels <= 65536:
            raise ConfigError(
                f"`levels` must be from 2 to 65536, got {levels}. Give the number of values an element can take, or use Normal."
            )
        if num_components < 1:
            raise ConfigError(f"`num_components` must be at least 1, got {num_components}. Use 1 for a single logistic.")
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
        observed = observed_values(x, mask).float()
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
        set_bias(self.head, [zero] * m + means + [raw] * (m * c) + [zero] * (m * c * (c - 1) // 2))

    def _colourfulness(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The logistic scale, on [-1, 1], of the channels of a pixel about their mean; 0 for one channel."""
        if self.num_channels == 1:
            return torch.zeros((), device=x.device)
        observed = torch.ones_like(x, dtype=torch.bool) if mask is None else mask.expand(x.shape)
        variance = torch.where(observed, x, 0).float().var(1, unbiased=False).sum() / observed[:, 0].sum()
        return variance.sqrt() * (math.sqrt(3) / math.pi) * 2.0 / (self.levels - 1)

    def check(self, x: Tensor, mask: Tensor | None = None) -> str | None:
        """Values must be whole numbers 0..V-1, and the channels of a pixel observed or missing together."""
        if not _whole_levels(observed_values(x, mask), self.levels):
            return f"A mixture of {self.levels} levels must have whole values from 0 to {self.levels - 1}"
        if mask is not None and self.num_channels > 1:
            observed = mask.expand(x.shape)
            if bool((observed != observed[:, :1]).any()):
                return "A mixture of logistics must have the channels of a pixel missing together, and some are missing alone"
        return None


class Categorical(Likelihood):
    """Levels 0..V-1 without an order: log p(x|z) = sum_i log softmax(logits_i)[x_i].

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.
        levels: V; memory grows with V times the number of elements, so prefer the mixture of logistics for many levels.

    Raises:
        ConfigError: for fewer than two levels, an empty shape, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> p = Categorical(MLP(2, [8]), shape=[3], levels=4)(torch.zeros(1, 5, 2))
        >>> p.log_prob(torch.tensor([0, 3, 2])).shape, p.sample().max() <= 3
        (torch.Size([1, 5]), tensor(True))
    """

    discrete = True

    def __init__(self, network: Component, shape: Sequence[int], levels: int) -> None:
        if levels < 2:
            raise ConfigError(f"`levels` must be at least 2, got {levels}. Give the number of values an element can take.")
        super().__init__(network, shape, num_parameters=levels)
        self.levels = levels

    def forward(self, z: Tensor, condition: Tensor | None = None) -> CategoricalLevels:
        """p(x|z, c) over {0..V-1}^S."""
        logits = self.parameters_at(z, condition).movedim(self.parameter_dim, -1)
        return CategoricalLevels(td.Categorical(logits=logits, validate_args=False), len(self.shape), validate_args=False)

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Bias = log frequency of each level at each element (of each channel, where a convolutional head has one bias for it).

        One count is added to each element, spread as the levels are over the whole batch, to which one count a level is added.
        """
        bias = last_bias(self.head)
        if bias is None:
            return
        size, observed = bias.numel() // self.levels, observed_values(x, mask).long()
        # Which bias each observed value is behind: elements of one channel lie side by side.
        behind = torch.arange(math.prod(self.shape), device=x.device) * size // math.prod(self.shape)
        behind = observed_values(behind.reshape(self.shape).expand(x.shape), mask)
        counts = torch.bincount(behind * self.levels + observed, minlength=size * self.levels)
        counts = counts.reshape(size, self.levels).float()
        pooled = (counts.sum(0) + 1.0) / (counts.sum() + self.levels)
        set_bias(self.head, list(((counts + pooled) / (counts.sum(1, keepdim=True) + 1.0)).log().T))

    def check(self, x: Tensor, mask: Tensor | None = None) -> str | None:
        """Values must be whole numbers 0..V-1."""
        fits = _whole_levels(observed_values(x, mask), self.levels)
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


def _whole_levels(x: Tensor, levels: int) -> bool:
    return bool(((x >= 0) & (x <= levels - 1) & (x == x.round())).all())
