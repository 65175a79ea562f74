"""Latents on the Poincare ball, for data with a hierarchy."""

from __future__ import annotations

import torch
from torch import Tensor

from vaekit.component import Component
from vaekit.distributions import WrappedNormal as WrappedNormalDistribution
from vaekit.distributions.scales import positive
from vaekit.errors import ConfigError
from vaekit.posteriors.base import NormalPosterior

_FARTHEST = 3.5
"""Half the greatest distance of a mean from the centre, in units of 1 / sqrt(c): there |mean| is 0.998 of the radius, and
float32 still tells its neighbours apart."""


class WrappedNormal(NormalPosterior):
    """q(z|x) = the wrapped normal on the Poincare ball with mean m(x) and tangent scales scale(x).

        m(x) = tanh(l) r(x) / (sqrt(c) |r(x)|),   l = 3.5 tanh(sqrt(c) |r(x)| / 3.5)

    where r(x) and scale(x) are what the network gives. Near the centre l is sqrt(c) |r|, and m is then exp_0(r), at a distance
    of 2 |r|, as the metric at 0 is 4: in the orthonormal frame, which the scales are of, that tangent vector is 2 r.

    Trees embed in hyperbolic space with little distortion. Formula: `vaekit.distributions.WrappedNormal`. Mathieu, Le Lan,
    Maddison, Tomioka, Teh, "Continuous hierarchical representations with Poincare variational auto-encoders" (2019).
    Departures: the decoder reads the point's coordinates, there is no gyroplane layer; l is a soft limit, by which
    means stay within a distance of 7 / sqrt(c) of the centre.

    Args:
        network: maps data to features.
        num_latents: D.
        curvature: c > 0, of the ball |z| < 1 / sqrt(c).

    Raises:
        ConfigError: for fewer than one latent, a curvature that is not above 0, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> z = WrappedNormal(MLP(3, [8]), num_latents=2)(torch.zeros(5, 3)).rsample((7,))
        >>> bool((z.norm(dim=-1) < 1).all())
        True
    """

    def __init__(self, network: Component, num_latents: int, curvature: float = 1.0) -> None:
        if not curvature > 0:
            raise ConfigError(f"`curvature` must be > 0, got {curvature}. Use a small one for a space that is nearly flat.")
        super().__init__(network, num_latents, num_parameters=2)
        self.curvature = curvature
        self.space = f"ball({num_latents}, c={float(curvature)})"

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> WrappedNormalDistribution:
        """The wrapped normal, batch shape (B,)."""
        raw_mean, raw_scale = self.parameters_at(x, condition, mask).unbind(-2)
        root = self.curvature**0.5
        length = root * raw_mean.square().sum(-1, keepdim=True).clamp_min(1e-30).sqrt()
        mean = torch.tanh(_FARTHEST * torch.tanh(length / _FARTHEST)) * raw_mean / length
        return WrappedNormalDistribution(mean, positive(raw_scale), self.curvature)
