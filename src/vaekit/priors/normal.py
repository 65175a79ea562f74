"""The standard normal, and mixtures of normals."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from vaekit.distributions import Independent, diagonal_normal, mixture_of_normals
from vaekit.distributions.scales import SOFTPLUS_ONE
from vaekit.errors import ConfigError
from vaekit.priors.base import Prior, check_num_latents

_LEAST_SCALE = 1e-4


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
    """p(z) = sum_m w_m N(z; mean_m, Sigma_m), learned with the rest.

    Fits the aggregate posterior better than one normal, which is what a KL to the prior asks for; the KL is sampled.
    Sigma_m = diag(scale_m^2), or L_m L_m^T with L_m lower-triangular, for few latents that are correlated.
    Dilokthanakul et al., "Deep unsupervised clustering with Gaussian mixture variational autoencoders" (2016), is the use
    of the components as clusters. Fitted by EM to the latents of a trained model (`vaekit refit`) it is the density
    estimate of Ghosh et al., "From variational to deterministic autoencoders" (2020).

    Args:
        num_latents: D.
        num_components: M.
        spread: standard deviation of the initial means; the components start apart, each of scale 1.
        covariance: `diagonal`, or `full`: D (D - 1) / 2 more parameters a component.

    Raises:
        ConfigError: for fewer than one latent or component, a negative spread, or an unknown covariance.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> MixtureOfNormals(2, num_components=5)().sample((7,)).shape
        torch.Size([7, 2])
    """

    def __init__(self, num_latents: int, num_components: int = 100, spread: float = 1.0, covariance: str = "diagonal") -> None:
        super().__init__()
        if num_components < 1:
            raise ConfigError(f"`num_components` must be at least 1, got {num_components}. Use 1 for a single learned normal.")
        if not spread >= 0:
            raise ConfigError(f"`spread` must be >= 0, got {spread}. Use 0 for components that start in one place.")
        if covariance not in ("diagonal", "full"):
            raise ConfigError(f"`covariance` must be diagonal or full, got {covariance!r}. Use `diagonal` for many latents.")
        self.shape = (check_num_latents(num_latents),)
        self.covariance = covariance
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.means = nn.Parameter(torch.randn(num_components, num_latents) * spread)
        self.raw_scale = nn.Parameter(torch.full((num_components, num_latents), SOFTPLUS_ONE))
        if covariance == "full":  # below the diagonal, a row after the other
            self.lower = nn.Parameter(torch.zeros(num_components, num_latents * (num_latents - 1) // 2))

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> MixtureSameFamily:
        """The mixture, with every component's scale multiplied by the temperature."""
        scale = (F.softplus(self.raw_scale) + _LEAST_SCALE) * temperature
        if self.covariance == "diagonal":
            return mixture_of_normals(self.logits, self.means, scale)
        rows, columns = torch.tril_indices(*2 * self.shape, offset=-1, device=scale.device)
        scale_tril = torch.diag_embed(scale)
        scale_tril = scale_tril.index_put(
            (torch.arange(len(scale), device=scale.device)[:, None], rows, columns), self.lower * temperature
        )
        components = MultivariateNormal(self.means, scale_tril=scale_tril, validate_args=False)
        return MixtureSameFamily(Categorical(logits=self.logits, validate_args=False), components, validate_args=False)

    @torch.no_grad()
    def set_components(self, weights: Tensor, means: Tensor, scale: Tensor) -> None:
        """Writes the mixture's parameters, as a fit by EM finds them.

        Args:
            weights: (M,), above 0.
            means: (M, D).
            scale: (M, D) standard deviations; with full covariance the lower-triangular factors (M, D, D). Scales below
                1e-4, the least that the prior holds, are raised to it.
        """
        self.logits.copy_(weights.log())
        self.means.copy_(means)
        diagonal = scale
        if self.covariance == "full":
            diagonal = scale.diagonal(dim1=-2, dim2=-1)
            rows, columns = torch.tril_indices(*2 * self.shape, offset=-1, device=scale.device)
            self.lower.copy_(scale[:, rows, columns])
        above = (diagonal.double() - _LEAST_SCALE).clamp_min(1e-6 * _LEAST_SCALE)
        self.raw_scale.copy_(above + torch.log(-torch.expm1(-above)))
