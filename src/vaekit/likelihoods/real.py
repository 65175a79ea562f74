"""Real numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.distributions import Independent, diagonal_normal
from vaekit.errors import ConfigError
from vaekit.likelihoods.base import Likelihood, inverse_softplus, observed_sums, observed_values, set_bias


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
            self.raw_scale = nn.Parameter(torch.full(() if scale == "shared" else self.shape, inverse_softplus(1.0)))

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Independent:
        """p(x|z, c), a density over R^S."""
        parameters = self.parameters_at(z, condition)
        mean = parameters.select(self.parameter_dim, 0)
        if self.scale == "predicted":
            raw = parameters.select(self.parameter_dim, 1) + inverse_softplus(1.0)
        else:
            raw = self.raw_scale
        scale = F.softplus(raw) + self.min_scale
        return diagonal_normal(mean, scale.expand_as(mean), len(self.shape))

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Bias of the mean = each element's mean, and scale = the standard deviation of the observed values about it.

        An element that was observed once, or that never changes, starts at the scale of all elements together: at its own,
        a fresh network's output would lie many scales off. Without two observed values behind any mean the scale is left.
        """
        total, count = observed_sums(self.head, self.num_parameters, x, mask)
        mean = total / count.clamp_min(1)
        raw = self._raw_scale_about(mean, count, x, mask)
        if raw is None:
            set_bias(self.head, [mean, torch.zeros_like(mean)][: self.num_parameters])
        elif self.scale == "predicted":
            set_bias(self.head, [mean, raw - inverse_softplus(1.0)])
        else:
            set_bias(self.head, [mean])
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
        x = observed_values(x, mask)
        return None if bool(torch.isfinite(x).all()) else "A normal likelihood must have finite values"
