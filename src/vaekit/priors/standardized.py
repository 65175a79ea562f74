"""A prior in units of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.distributions.affine import Affine
from vaekit.errors import ConfigError
from vaekit.priors.base import Prior


class _InUnits:
    """A posterior of z that speaks of u = (z - shift) / scale.

    Args:
        posterior: q(z|x, c).
        units: what holds shift and scale, as they are when it is called.
    """

    def __init__(self, posterior: Callable[..., Distribution], units: Standardized) -> None:
        self.posterior, self.units = posterior, units
        self.has_density = getattr(posterior, "has_density", True)
        self.spaces = getattr(posterior, "spaces", units.spaces)

    def __call__(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Affine:
        """q(u|x, c)."""
        return self.units.in_units(self.posterior(x, condition, mask))


class Standardized(Prior):
    """z = shift + scale * u, u ~ another prior: log p(z) = log p_u((z - shift) / scale) - sum log scale.

    Networks of a learned prior want inputs of mean 0 and scale 1; latents of a trained model have other ones, those of a
    deterministic encoder any. Shift and scale are measured by `fit`, not learned, and saved with the model.

    A prior that is made of the posterior, such as `Vamp`, is given it in units of u, so that it is made of the same densities.

    Args:
        prior: of u, over R^D.

    Raises:
        ConfigError: for a prior over another space: moved, its latents would leave it.

    Example:
        >>> from vaekit.priors import StandardNormal
        >>> prior = Standardized(StandardNormal(2))
        >>> prior.fit(torch.tensor([[0.0, 10.0], [2.0, 30.0]]))
        >>> prior().mean, prior().stddev
        (tensor([ 1., 20.]), tensor([ 1., 10.]))
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        if set(prior.spaces) != {"real"}:
            raise ConfigError(
                f"The prior of a Standardized must be over real numbers, got a {type(prior).__name__}. Use it as it is."
            )
        self.prior, self.made_of_posterior = prior, prior.made_of_posterior
        self.shape = tuple(prior.shape)
        self.register_buffer("shift", torch.zeros(self.shape))
        self.register_buffer("scale", torch.ones(self.shape))

    @torch.no_grad()
    def fit(self, z: Tensor) -> None:
        """Shift and scale = mean and standard deviation of latents (N, *Z); a unit that does not vary keeps the scale 1."""
        exact = z.double()
        deviation, mean = exact.std(0, correction=0), exact.mean(0)
        varies = deviation > 1e-7 * mean.abs().clamp_min(1e-30)
        self.shift.copy_(mean)
        self.scale.copy_(torch.where(varies, deviation, 1.0))

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> Affine:
        """The inner prior, with its scales multiplied by the temperature, in the units of z."""
        return Affine(self.prior(condition, temperature), self.shift, self.scale)

    def in_units(self, q: Distribution) -> Affine:
        """The distribution of u, of one of z."""
        return Affine(q, -self.shift / self.scale, self.scale.reciprocal())

    def of_batch(self, q: Distribution, condition: Tensor | None = None) -> Affine:
        """The inner prior as it is charged to the batch."""
        return Affine(self.prior.of_batch(self.in_units(q), condition), self.shift, self.scale)

    def bind(self, posterior: Callable[..., Distribution]) -> None:
        """Hands the posterior on, in units of u."""
        self.prior.bind(_InUnits(posterior, self))

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Hands the data on."""
        self.prior.initialize(x, mask)
