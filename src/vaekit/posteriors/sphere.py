"""A posterior on a sphere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vaekit.component import Component
from vaekit.distributions import sphere
from vaekit.distributions.scales import positive
from vaekit.errors import ConfigError
from vaekit.posteriors.base import NormalPosterior
from vaekit.types import as_network


class VonMisesFisher(NormalPosterior):
    """q(z|x) = vMF(z; m(x), k(x)) on the unit sphere of D-dimensional space: log q = k m.z + log C(k).

    The normal of directions, with the prior `UniformSphere`: one concentration k for all units, and no pull to an origin.
    It suits few latents; as D grows the sphere's surface vanishes and the normal's draws lie near a sphere anyway.
    Davidson, Falorsi, De Cao, Kipf, Tomczak, "Hyperspherical variational auto-encoders" (2018). Departures: those of
    `distributions.VonMisesFisher`, whose gradients are unbiased as they are.

    Args:
        network: maps data to features.
        num_latents: D, at least 2: the dimensions of the space around the sphere, which itself has D - 1.

    Raises:
        ConfigError: for fewer than two latents, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> z = VonMisesFisher(MLP(3, [8]), num_latents=4)(torch.zeros(5, 3)).rsample((7,))
        >>> z.shape, bool((z.norm(dim=-1) - 1).abs().max() < 1e-5)
        (torch.Size([7, 5, 4]), True)
    """

    def __init__(self, network: Component, num_latents: int) -> None:
        super().__init__(network, num_latents, num_parameters=1)
        if num_latents < 2:
            raise ConfigError("`num_latents` of a sphere must be at least 2, got 1. Use 2 for a circle.")
        self.space = f"sphere({num_latents})"
        self.concentration_head = as_network(network, type(self).__name__).make_head(1, (1,))

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> sphere.VonMisesFisher:
        """vMF(m, k), batch shape (B,)."""
        features = self.network(x, condition, mask)
        towards, raw = self.head(features).squeeze(-2), self.concentration_head(features)[..., 0, 0]
        if towards.dtype != torch.float64:
            towards, raw = towards.float(), raw.float()
        return sphere.VonMisesFisher(F.normalize(towards, dim=-1), positive(raw))
