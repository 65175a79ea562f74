"""The standard normal, and mixtures of normals."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import MixtureSameFamily

from vaekit.distributions import Independent, diagonal_normal, mixture_of_normals
from vaekit.errors import ConfigError
from vaekit.priors.base import Prior, check_num_latents


class StandardNormal(Prior):
    """p(z) = N(0, I).

    Args:
        num_latents: D.

    Raises:
        ConfigError: for fewer than one latent.

    Example:
        >>> round(StandardNormal(2)().log_prob(torch.zeros(2)).item(), 4)
        -1.8379
    """

    zero: Tensor

    def __init__(self, num_latents: int) -> None:
        super().__init__()
        self.shape = (check_num_latents(num_latents),)
        self.register_buffer("zero", torch.zeros(num_latents), persistent=False)

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> Independent:
        """N(0, temperature^2 I)."""
        return diagonal_normal(self.zero, torch.full_like(self.zero, temperature))


class MixtureOfNormals(Prior):
    """p(z) = sum_m w_m N(z; mean_m, diag(scale_m^2)), learned with the rest.

    Fits the aggregate posterior better than one normal, which is what a KL to the prior asks for; the KL is sampled.
    Dilokthanakul et al., "Deep unsupervised clustering with Gaussian mixture variational autoencoders" (2016), is the use
    of the components as clusters.

    Args:
        num_latents: D.
        num_components: M.
        spread: standard deviation of the initial means; the components start apart, each of scale 1.

    Raises:
        ConfigError: for fewer than one latent or component, or a negative spread.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> MixtureOfNormals(2, num_components=5)().sample((7,)).shape
        torch.Size([7, 2])
    """

    def __init__(self, num_latents: int, num_components: int = 100, spread: float = 1.0) -> None:
        super().__init__()
        if num_components < 1:
            raise ConfigError(f"`num_components` must be at least 1, got {num_components}. Use 1 for a single learned normal.")
        if not spread >= 0:
            raise ConfigError(f"`spread` must be >= 0, got {spread}. Use 0 for components that start in one place.")
        self.shape = (check_num_latents(num_latents),)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.means = nn.Parameter(torch.randn(num_components, num_latents) * spread)
        self.raw_scale = nn.Parameter(torch.full((num_components, num_latents), 0.5413248546))  # softplus^-1(1)

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> MixtureSameFamily:
        """The mixture, with every component's scale multiplied by the temperature."""
        return mixture_of_normals(self.logits, self.means, (F.softplus(self.raw_scale) + 1e-4) * temperature)
