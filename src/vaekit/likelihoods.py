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
from vaekit.types import Network, as_network


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
        self.shape, self.num_parameters, self.positions = tuple(shape), num_parameters, positions or tuple(shape)
        self.head = as_network(network, type(self).__name__).make_head(num_parameters, self.positions)
        self.parameter_dim = -1 - len(self.positions)

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

    def peak_elements(self) -> int:
        """Elements of the widest tensor that decoding one latent makes, from which callers choose how many to decode at once.

        It is the largest of the network's features, the parameters of the family, and one example. Parameters are counted for
        every component of a mixture and every level of a categorical; layers inside the network are not looked at.
        """
        positions = math.prod(self.positions)
        features = math.prod(cast(Network, self.network).out_shape)
        return max(features, self.num_parameters * positions, math.prod(self.shape))

    def check(self, x: Tensor, mask: Tensor | None = None) -> str | None:
        """What x must hold to be data of this family, as the start of a sentence that the caller ends; None where it fits.

        Args:
            x: (B, *S), a sample of the data; what stands at a missing element is not read.
            mask: (B, *S) bool, True where observed, or None.
        """
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
    """(N,): the observed values of x."""
    return x.flatten() if mask is None else x[mask.expand(x.shape)]


def _whole_levels(x: Tensor, levels: int) -> bool:
    return bool(((x >= 0) & (x <= levels - 1) & (x == x.round())).all())


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

    Raises:
        ConfigError: for an empty shape, or what is no network.

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

    def check(self, x: Tensor, mask: Tensor | None = None) -> str | None:
        """Values must be 0 or 1."""
        x = _observed(x, mask)
        return None if bool(((x == 0) | (x == 1)).all()) else "A Bernoulli likelihood must have values 0 and 1"


class ContinuousBernoulli(Likelihood):
    """Intensities in [0, 1]: log p(x|z) = sum_i x_i log p_i + (1 - x_i) log(1 - p_i) + log C(p_i).

    C(p) = 2 atanh(1 - 2p) / (1 - 2p) is the constant that makes it a density; the mean is not p.
    Loaiza-Ganem, Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational autoencoders" (2019).

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.

    Raises:
        ConfigError: for an empty shape, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> p = ContinuousBernoulli(MLP(2, [8]), shape=[3])(torch.zeros(1, 5, 2))
        >>> p.log_prob(torch.tensor([0.0, 0.5, 1.0])).shape
        torch.Size([1, 5])
    """

    def __init__(self, network: Component, shape: Sequence[int]) -> None:
        super().__init__(network, shape, num_parameters=1)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Independent:
        """p(x|z, c), a density over [0, 1]^S."""
        logits = self.parameters_at(z, condition).squeeze(self.parameter_dim)
        return Independent(
            ContinuousBernoulliDistribution(logits=logits, validate_args=False), len(self.shape), validate_args=False
        )

    def check(self, x: Tensor, mask: Tensor | None = None) -> str | None:
        """Values must lie in [0, 1]."""
        x = _observed(x, mask)
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

    Raises:
        ConfigError: for an unknown `scale`, a `min_scale` that is not above 0, an empty shape, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> p = Normal(MLP(2, [8]), shape=[3], scale="per_dimension")
        >>> p.initialize(torch.tensor([[0.0, 3.0, 1.0], [2.0, 7.0, 1.5]]))
        >>> p(torch.zeros(1, 5, 2)).stddev[0, 0].detach()
        tensor([1.4142, 2.8284, 0.3536])
    """

    def __init__(self, network: Component, shape: Sequence[int], scale: str = "shared", min_scale: float = 1e-3) -> None:
        if scale not in ("shared", "per_dimension", "predicted"):
            raise ConfigError(
                f"`scale` must be shared, per_dimension or predicted, got {scale!r}. Use `shared` for one number."
            )
        if not min_scale > 0:
            raise ConfigError(f"`min_scale` must be > 0, got {min_scale}. Use a small share of the data's unit.")
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
        """Bias of the mean = each element's mean, and scale = the standard deviation of the observed values about it.

        An element that was observed once, or that never changes, starts at the scale of all elements together: at its own,
        a fresh network's output would lie many scales off. Without two observed values behind any mean the scale is left.
        """
        total, count = _observed_sums(self.head, self.num_parameters, x, mask)
        mean = total / count.clamp_min(1)
        raw = self._raw_scale_about(mean, count, x, mask)
        if raw is None:
            _set_bias(self.head, [mean, torch.zeros_like(mean)][: self.num_parameters])
        elif self.scale == "predicted":
            _set_bias(self.head, [mean, raw - _inverse_softplus(1.0)])
        else:
            _set_bias(self.head, [mean])
            with torch.no_grad():
                self.raw_scale.copy_(raw)

    def _raw_scale_about(self, mean: Tensor, count: Tensor, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """What the softplus is taken of: (), (*S), or one number a mean where it is predicted; None where nothing varies."""
        freedom = (count - 1).clamp_min(0).sum()
        if freedom == 0:
            return None
        observed = torch.ones_like(x, dtype=torch.bool) if mask is None else mask.expand(x.shape)
        centre = mean.repeat_interleave(math.prod(self.shape) // mean.numel()).reshape(self.shape)
        squares, seen = torch.where(observed, x - centre, 0).float().square().sum(0), observed.float().sum(0)
        deviation = together = (squares.sum() / freedom).sqrt()
        if self.scale != "shared":
            if self.scale == "predicted":
                squares, seen = squares.reshape(mean.numel(), -1).sum(1), count
            own = (squares / (seen - 1).clamp_min(1)).sqrt()
            deviation = torch.where(own > self.min_scale, own, together)
        above = (deviation - self.min_scale).clamp_min(0.1 * self.min_scale)
        return above + torch.log(-torch.expm1(-above))  # softplus^-1, which cannot overflow

    def check(self, x: Tensor, mask: Tensor | None = None) -> str | None:
        """Values must be finite."""
        x = _observed(x, mask)
        return None if bool(torch.isfinite(x).all()) else "A normal likelihood must have finite values"


def _inverse_softplus(y: float) -> float:
    return math.log(math.expm1(y))


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
        observed = _observed(x, mask).float()
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

    def check(self, x: Tensor, mask: Tensor | None = None) -> str | None:
        """Values must be whole numbers 0..V-1, and the channels of a pixel observed or missing together."""
        if not _whole_levels(_observed(x, mask), self.levels):
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
        bias = _last_bias(self.head)
        if bias is None:
            return
        size, observed = bias.numel() // self.levels, _observed(x, mask).long()
        # Which bias each observed value is behind: elements of one channel lie side by side.
        behind = torch.arange(math.prod(self.shape), device=x.device) * size // math.prod(self.shape)
        behind = _observed(behind.reshape(self.shape).expand(x.shape), mask)
        counts = torch.bincount(behind * self.levels + observed, minlength=size * self.levels)
        counts = counts.reshape(size, self.levels).float()
        pooled = (counts.sum(0) + 1.0) / (counts.sum() + self.levels)
        _set_bias(self.head, list(((counts + pooled) / (counts.sum(1, keepdim=True) + 1.0)).log().T))

    def check(self, x: Tensor, mask: Tensor | None = None) -> str | None:
        """Values must be whole numbers 0..V-1."""
        fits = _whole_levels(_observed(x, mask), self.levels)
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
