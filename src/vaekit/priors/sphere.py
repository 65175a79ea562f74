"""The uniform prior on a sphere."""

from __future__ import annotations

import torch
from torch import Tensor

from vaekit.distributions import sphere
from vaekit.errors import ConfigError
from vaekit.priors.base import Prior, check_num_latents


class UniformSphere(Prior):
    """p(z) = 1 / area on the unit sphere of D-dimensional space.

    Of latents that are directions; it goes with the posterior `VonMisesFisher`, and then the rate is closed. It has no scale,
    so the temperature changes nothing.
    Davidson, Falorsi, De Cao, Kipf, Tomczak, "Hyperspherical variational auto-encoders" (2018).

    Args:
        num_latents: D, at least 2: the dimensions of the space around the sphere, which itself has D - 1.

    Raises:
        ConfigError: for fewer than two latents.

    Example:
        >>> round(UniformSphere(3)().log_prob(torch.tensor([1.0, 0.0, 0.0])).item(), 4)  # -log(4 pi)
        -2.531
    """

    zero: Tensor

    def __init__(self, num_latents: int) -> None:
        super().__init__()
        if check_num_latents(num_latents) < 2:
            raise ConfigError("`num_latents` of a sphere must be at least 2, got 1. Use 2 for a circle.")
        self.shape = (num_latents,)
        self.space = f"sphere({num_latents})"
        self.register_buffer("zero", torch.zeros(num_latents), persistent=False)

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> sphere.UniformSphere:
        """The uniform distribution, whatever the condition and the temperature."""
        return sphere.UniformSphere(self.zero)
