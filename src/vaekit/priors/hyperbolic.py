"""The wrapped normal at the centre of the Poincare ball."""

from __future__ import annotations

import torch
from torch import Tensor

from vaekit.distributions import WrappedNormal as WrappedNormalDistribution
from vaekit.errors import ConfigError
from vaekit.priors.base import Prior, check_num_latents


class WrappedNormal(Prior):
    """p(z) = the wrapped normal with mean 0 and one scale, on the Poincare ball |z| < 1 / sqrt(c).

    Mathieu, Le Lan, Maddison, Tomioka, Teh, "Continuous hierarchical representations with Poincare variational
    auto-encoders" (2019), section 3.2.

    Args:
        num_latents: D.
        curvature: c > 0; that of the posterior.
        scale: standard deviation in the tangent space, > 0.

    Raises:
        ConfigError: for fewer than one latent, or a number that is not above 0.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> bool((WrappedNormal(2)().sample((100,)).norm(dim=-1) < 1).all())
        True
    """

    zero: Tensor

    def __init__(self, num_latents: int, curvature: float = 1.0, scale: float = 1.0) -> None:
        super().__init__()
        if not (curvature > 0 and scale > 0):
            raise ConfigError(f"`curvature` and `scale` must be > 0, got {curvature} and {scale}. Use 1 and 1.")
        self.shape = (check_num_latents(num_latents),)
        self.curvature, self.scale = curvature, scale
        self.space = f"ball({num_latents}, c={float(curvature)})"
        self.register_buffer("zero", torch.zeros(num_latents), persistent=False)

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> WrappedNormalDistribution:
        """The wrapped normal at 0; the temperature multiplies its scale."""
        scale = torch.full_like(self.zero, self.scale * temperature)
        return WrappedNormalDistribution(self.zero, scale, self.curvature)
