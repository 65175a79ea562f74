"""A posterior without noise: one point an example."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from vaekit.component import Component
from vaekit.posteriors.base import NormalPosterior


class Point(Distribution):
    """All mass at one point.

    It has no density over R^D. `log_prob` is 0: the logarithm of the mass at the point, log 1, for the value that was drawn,
    which is the only one that it is asked for. It does not look at the value.

    Args:
        location: (*batch, *event).
        event_dims: how many of the last dimensions are those of one event.

    Example:
        >>> point = Point(torch.tensor([[1.0, 2.0]]))
        >>> point.rsample((3,)).shape, point.mean, point.variance
        (torch.Size([3, 1, 2]), tensor([[1., 2.]]), tensor([[0., 0.]]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    has_rsample = True

    def __init__(self, location: Tensor, event_dims: int = 1) -> None:
        self.location = location
        split = location.dim() - event_dims
        super().__init__(location.shape[:split], location.shape[split:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:  # pyright: ignore[reportIncompatibleMethodOverride]
        """R^D, on which the point may lie anywhere."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """(*batch, *event): the point."""
        return self.location

    @property
    def variance(self) -> Tensor:
        """(*batch, *event): zeros."""
        return torch.zeros_like(self.location)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch, *event): the point, as often as asked."""
        return self.location.expand(*sample_shape, *self.location.shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """As `rsample`, without a gradient."""
        return self.rsample(sample_shape).detach()

    def measures(self) -> frozenset[str]:
        """A mass; see `distributions.measures`."""
        return frozenset({"mass"})

    def log_prob(self, value: Tensor) -> Tensor:
        """(*sample, *batch): zeros, whatever the value is."""
        return value.new_zeros(value.shape[: value.dim() - len(self.event_shape)])


class Deterministic(NormalPosterior):
    """q(z|x) is the point z(x): an autoencoder's code, without noise.

    For objectives that have no rate, such as `objectives.RAE` and `objectives.AdversarialAE`. Its log q is 0, the logarithm of
    the point's mass, and no density: the "rate" is then -log p(z), what the point costs under the prior's density, and the
    "elbo" log p(x|z) + log p(z), the logarithm of the joint density at the point. `ELBO` with it finds the most probable code.
    None of these bounds log p(x), nor do bounds of several samples, which are all the same.

    Args:
        network: maps data to features.
        num_latents: D.

    Raises:
        ConfigError: for fewer than one latent, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> Deterministic(MLP(3, [8]), num_latents=2)(torch.zeros(5, 3)).rsample((7,)).shape
        torch.Size([7, 5, 2])
    """

    has_density = False

    def __init__(self, network: Component, num_latents: int) -> None:
        super().__init__(network, num_latents, num_parameters=1)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Point:
        """The point z(x), batch shape (B,)."""
        return Point(self.parameters_at(x, condition, mask).squeeze(-2))
