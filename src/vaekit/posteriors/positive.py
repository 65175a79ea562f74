"""Latents that are positive."""

from __future__ import annotations

from torch import Tensor
from torch import distributions as td

from vaekit.component import Component
from vaekit.distributions import Independent
from vaekit.distributions.scales import positive
from vaekit.posteriors.base import NormalPosterior


class Gamma(NormalPosterior):
    """q(z|x) = prod_d Gamma(z_d; concentration_d(x), rate_d(x)), with density z^(a - 1) exp(-b z) b^a / Gamma(a).

    Positive units; near 0 most of the time where the concentration is below 1. With `priors.Gamma` the rate has a closed form.
    Gradients through the sample are implicit: Figurnov, Mohamed, Mnih, "Implicit reparameterization gradients" (2018).

    Args:
        network: maps data to features.
        num_latents: D.

    Raises:
        ConfigError: for fewer than one latent, or what is no network.

    Example:
        >>> import torch
        >>> from vaekit.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> bool((Gamma(MLP(3, [8]), num_latents=2)(torch.zeros(5, 3)).rsample((7,)) > 0).all())
        True
    """

    space = "positive"

    def __init__(self, network: Component, num_latents: int) -> None:
        super().__init__(network, num_latents, num_parameters=2)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Independent:
        """The product, batch shape (B,)."""
        concentration, rate = positive(self.parameters_at(x, condition, mask)).unbind(-2)
        return Independent(td.Gamma(concentration, rate, validate_args=False), 1, validate_args=False)
