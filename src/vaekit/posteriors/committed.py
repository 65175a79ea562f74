"""Normals that are bound to tell something of the data: their rate to N(0, I) has a floor by construction."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.distributions import Independent, diagonal_normal
from vaekit.distributions.scales import positive
from vaekit.errors import ConfigError
from vaekit.posteriors.base import NormalPosterior

_LEAST_VARIANCE = 1e-12
_LEAST_SCALE, _MOST_DELTA = 1e-4, 5.0


class BatchNormNormal(NormalPosterior):
    """q(z|x) = N(z; mean(x), diag(scale(x)^2)) whose means are normalised over the batch.

        mean_d(x) = gamma (m_d(x) - E m_d) / sqrt(Var m_d) + shift_d,    E_x KL(q_d || N(0, 1)) >= (gamma^2 + shift_d^2) / 2

    where m is what the network gives, gamma is fixed and the shift is learned. The means of each unit have the variance gamma^2
    over the batch, whatever the network does, so no unit can say the same of all examples, and KL(q || N(0, I)) of D units is
    at least D gamma^2 / 2 nats. Of other priors there is no such floor.
    Zhu, Bi, Liu, Ma, Li, Wu, "A batch normalized inference network keeps the KL vanishing away" (2020).

    In evaluation, moments are used that were averaged over the batches of training, so an example's latent depends on it alone;
    where training keeps an average of the weights, they are measured anew for these, on 1,024 examples (`settle`). With several
    processes each normalises its own share of the batch, and the first one's moments are kept. A prior that is made of the
    posterior is refused, for its inputs are no batch of data.

    Args:
        network: maps data to features.
        num_latents: D.
        gamma: standard deviation of each unit's means, > 0. 0.6 makes the floor 0.18 nats a unit.
        momentum: the share of the moments that each batch replaces, in (0, 1].

    Raises:
        ConfigError: for an argument that cannot be, or what is no network; and in training for a batch of one example, which
            has no variance.

    Example:
        >>> from vaekit.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> q = BatchNormNormal(MLP(3, [8]), num_latents=2, gamma=0.5)(torch.randn(64, 3))
        >>> q.mean.std(0, correction=0)
        tensor([0.5000, 0.5000], grad_fn=<StdBackward0>)
    """

    mixes_examples = True

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, network: Component, num_latents: int, gamma: float = 0.6, momentum: float = 0.1) -> None:
        super().__init__(network, num_latents, num_parameters=2)
        if not 0 < gamma < math.inf:
            raise ConfigError(f"`gamma` must be finite and > 0, got {gamma}. Use 0.6, or a `DiagonalNormal` for no floor.")
        if not 0 < momentum <= 1:
            raise ConfigError(f"`momentum` must be in (0, 1], got {momentum}. Use 0.1 when in doubt.")
        self.gamma, self.momentum = gamma, momentum
        self.shift = nn.Parameter(torch.zeros(num_latents))
        self.register_buffer("running_mean", torch.zeros(num_latents))
        self.register_buffer("running_variance", torch.ones(num_latents))

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Independent:
        """N(mean, diag(scale^2)), batch shape (B,)."""
        raw_mean, raw_scale = self.parameters_at(x, condition, mask).unbind(-2)
        mean, variance = self._moments(raw_mean) if self.training else (self.running_mean, self.running_variance)
        unit = (raw_mean - mean) * torch.rsqrt(variance + _LEAST_VARIANCE)
        return diagonal_normal(self.gamma * unit + self.shift, positive(raw_scale))

    def _moments(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (D,) over a batch (B, D); those of evaluation follow them."""
        if len(values) < 2:
            raise ConfigError(
                f"A BatchNormNormal must be trained on batches of at least 2 examples, got {len(values)}. Use a larger "
                "`batch_size`."
            )
        mean, variance = values.mean(0), values.var(0, correction=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = variance * (len(values) / (len(values) - 1))
            self.running_variance.lerp_(unbiased.to(self.running_variance.dtype), self.momentum)
        return mean, variance

    def initialize(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> None:
        """The moments of evaluation begin at those of a batch."""
        self.settle(x, condition, mask)

    @torch.no_grad()
    def settle(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> None:
        """The moments of evaluation become those of a batch; of one example they stay as they are."""
        if len(x) < 2:
            return
        raw_mean = self.parameters_at(x, condition, mask)[..., 0, :]
        self.running_mean.copy_(raw_mean.mean(0))
        self.running_variance.copy_(raw_mean.var(0))


class DeltaNormal(NormalPosterior):
    """q(z|x) = N(z; mean(x), diag(scale(x)^2)) whose scales are so small that each unit's rate is at least delta nats.

        KL(N(m, s^2) || N(0, 1)) = (m^2 + s^2 - 1) / 2 - log s >= (s^2 - 1) / 2 - log s >= delta  for all m and s <= s_delta

    with s_delta < 1 the root of (s^2 - 1) / 2 - log s = delta. The network gives s = least + (s_delta - least) sigmoid(raw),
    whose logarithm has a gradient however small s is. As no saving is to be had below delta, what the channel is charged for
    anyway may as well be said. KL(q || N(0, I)) of D units is at least D delta nats; of other priors there is no such floor.
    Razavi, van den Oord, Poole, Vinyals, "Preventing posterior collapse with delta-VAEs" (2019), for a prior of independent
    units. Departure: of the scales with that rate only those below 1 are taken, for the others are noisier than the prior.

    Args:
        network: maps data to features.
        num_latents: D.
        delta: committed rate of a unit in nats, above 0 and at most 5.

    Raises:
        ConfigError: for an argument that cannot be, or what is no network.

    Example:
        >>> from vaekit.distributions import closed_form_kl
        >>> from vaekit.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> q = DeltaNormal(MLP(3, [8]), num_latents=4, delta=0.25)(100 * torch.randn(1000, 3))
        >>> bool((closed_form_kl(q, diagonal_normal(torch.zeros(4), torch.ones(4))) >= 4 * 0.25).all())
        True
    """

    def __init__(self, network: Component, num_latents: int, delta: float = 0.1) -> None:
        super().__init__(network, num_latents, num_parameters=2)
        if not 0 < delta <= _MOST_DELTA:
            raise ConfigError(
                f"`delta` must be above 0 and at most {_MOST_DELTA:g} nats a unit, got {delta}. Use a `DiagonalNormal` for no "
                "floor."
            )
        self.delta = delta
        self.most_scale = greatest_scale(delta)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Independent:
        """N(mean, diag(scale^2)), batch shape (B,)."""
        mean, raw = self.parameters_at(x, condition, mask).unbind(-2)
        return diagonal_normal(mean, _LEAST_SCALE + (self.most_scale - _LEAST_SCALE) * torch.sigmoid(raw))


def greatest_scale(delta: float) -> float:
    """The root s < 1 of (s^2 - 1) / 2 - log s = delta, by bisection of log s in [-(delta + 1/2), 0].

    Args:
        delta: nats, > 0.

    Example:
        >>> s = greatest_scale(0.1)
        >>> round((s * s - 1) / 2 - math.log(s), 12)
        0.1
    """
    low, high = -(delta + 0.5), 0.0  # the rate is above delta at the first, and 0 at the second
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return math.exp(low)
        if math.expm1(2 * middle) / 2 - middle > delta:
            low = middle
        else:
            high = middle
