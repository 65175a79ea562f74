"""Latents that are positive."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from vaekit.distributions import Independent
from vaekit.errors import ConfigError
from vaekit.priors.base import Prior, check_num_latents


class Gamma(Prior):
    """p(z) = prod_d Gamma(z_d; a, b), with density z^(a - 1) exp(-b z) b^a / Gamma(a).

    Args:
        num_latents: D.
        concentration: a > 0; below 1 most units are near 0.
        rate: b > 0; the mean is a / b.

    Raises:
        ConfigError: for fewer than one latent, or a parameter that is not above 0.

    Example:
        >>> round(Gamma(2, concentration=1.0, rate=2.0)().log_prob(torch.ones(2)).item(), 4)
        -2.6137
    """

    space = "positive"
    concentration_of: Tensor

    def __init__(self, num_latents: int, concentration: float = 1.0, rate: float = 1.0) -> None:
        super().__init__()
        if not (concentration > 0 and rate > 0):
            raise ConfigError(
                f"`concentration` and `rate` must be > 0, got {concentration} and {rate}. Use 1 and 1 for an exponential."
            )
        self.shape = (check_num_latents(num_latents),)
        self.concentration, self.rate = concentration, rate
        self.register_buffer("concentration_of", torch.full((num_latents,), concentration), persistent=False)

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> Independent:
        """The product; the temperature multiplies the standard deviation and leaves the mean, a / t^2 and b / t^2."""
        concentration = self.concentration_of / temperature**2
        rate = torch.full_like(concentration, self.rate / temperature**2)
        return Independent(td.Gamma(concentration, rate, validate_args=False), 1, validate_args=False)
