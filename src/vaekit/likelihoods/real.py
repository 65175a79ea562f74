"""Real numbers with a location and a scale, and the normal among them."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution

from vaekit.component import Component
from vaekit.distributions import Independent
from vaekit.errors import ConfigError
from vaekit.likelihoods.base import Likelihood, inverse_softplus, observed_sums, observed_values, set_bias
from vaekit.likelihoods.spread import check_mode, grouped, per_element, raw_spread, squares_about


class LocationScale(Likelihood, abc.ABC):
    """x_i = location_i(z) + scale t_i, with t_i of one family: what its members share.

    The scale is softplus(raw) + min_scale, with one raw number for all elements, one an element, or one an element that the
    network predicts from z. It starts at 1 + min_scale, and at the data's own by `initialize`.

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.
        scale: `shared` (one number), `per_dimension` (one an element), or `predicted` (by the network, from z).
        min_scale: the least scale, in units of the data; it bounds the density of elements that never change.
        num_shapes: further parameters an element that the network predicts.

    Raises:
        ConfigError: for an unknown `scale`, a `min_scale` that is not above 0, an empty shape, or what is no network.
    """

    deviation = 1.0
    """The standard deviation of the family at scale 1."""

    def __init__(
        self, network: Component, shape: Sequence[int], scale: str = "shared", min_scale: float = 1e-3, num_shapes: int = 0
    ) -> None:
        check_mode("scale", scale)
        if not min_scale > 0:
            raise ConfigError(f"`min_scale` must be > 0, got {min_scale}. Use a small share of the data's unit.")
        super().__init__(network, shape, num_parameters=(2 if scale == "predicted" else 1) + num_shapes)
        self.scale, self.min_scale = scale, min_scale
        if scale != "predicted":
            self.raw_scale = raw_spread(scale, self.shape, inverse_softplus(1.0))

    @abc.abstractmethod
    def family(self, location: Tensor, scale: Tensor, parameters: Tensor) -> Distribution:
        """The family at each element, (K, B, *S), of the location, the scale and all of the head's outputs."""

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Independent:
        """p(x|z, c), a density over the family's support in S dimensions."""
        parameters = self.parameters_at(z, condition)
        location = parameters.select(self.parameter_dim, 0)
        if self.scale == "predicted":
            raw = parameters.select(self.parameter_dim, 1) + inverse_softplus(1.0)
        else:
            assert self.raw_scale is not None
            raw = self.raw_scale
        scale = F.softplus(raw) + self.min_scale
        family = self.family(location, scale.expand_as(location), parameters)
        return Independent(family, len(self.shape), validate_args=False)

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Bias of the location = each element's mean, and a scale with the standard deviation of the values about it.

        An element that was observed once, or that never changes, starts at the scale of all elements together: at its own,
        a fresh network's output would lie many scales off. Without two observed values behind any mean the scale is left.
        """
        total, count = observed_sums(self.head, self.num_parameters, x, mask)
        mean = total / count.clamp_min(1)
        raw = self._raw_scale_about(mean, count, x, mask)
        further = [torch.zeros_like(mean)] * (self.num_parameters - 1)
        if raw is not None and self.scale == "predicted":
            further[0] = raw - inverse_softplus(1.0)
        set_bias(self.head, [mean, *further])
        if raw is not None and self.scale != "predicted":
            assert self.raw_scale is not None
            with torch.no_grad():
                self.raw_scale.copy_(raw)

    def _raw_scale_about(self, mean: Tensor, count: Tensor, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """What the softplus is taken of: (), (*S), or one number a mean where it is predicted; None where nothing varies."""
        freedom = (count - 1).clamp_min(0).sum()
        if freedom == 0:
            return None
        squares, seen = squares_about(per_element(mean, self.shape), x, mask)
        scale = together = (squares.sum() / freedom).sqrt() / self.deviation
        if self.scale != "shared":
            squares, seen = (grouped(sums, self.scale, mean.numel()) for sums in (squares, seen))
            own = (squares / (seen - 1).clamp_min(1)).sqrt() / self.deviation
            scale = torch.where(own > self.min_scale, own, together)
        above = (scale - self.min_scale).clamp_min(0.1 * self.min_scale)
        return above + torch.log(-torch.expm1(-above))  # softplus^-1, which cannot overflow

    def check(self, x: Tensor, mask: Tensor | None = None) -> str | None:
        """Values must be finite."""
        x = observed_values(x, mask)
        return None if bool(torch.isfinite(x).all()) else f"A {self.name} likelihood must have finite values"

    name = "location-scale"
    """The family in a sentence."""


class Normal(LocationScale):
    """Real numbers: log p(x|z) = sum_i log N(x_i; mean_i(z), scale^2).

    One shared scale, learned with everything else, finds the weight between rate and distortion that a hand-set beta is
    searched for: Rybkin, Daniilidis, Levine, "Simple and effective VAE training with calibrated decoders" (2021).
    Departure: that paper also sets the scale to the root mean squared error of each batch. Such a scale is a function of
    the very data that it scores, so that p integrates to no number; here the start is that scale, and training keeps it near.

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

    name = "normal"

    def __init__(self, network: Component, shape: Sequence[int], scale: str = "shared", min_scale: float = 1e-3) -> None:
        super().__init__(network, shape, scale, min_scale)

    def family(self, location: Tensor, scale: Tensor, parameters: Tensor) -> td.Normal:
        """N(location, scale^2)."""
        return td.Normal(location, scale, validate_args=False)
