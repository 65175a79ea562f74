"""The standard normal, and mixtures of normals."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal

from vaekit.distributions import Independent, diagonal_normal
from vaekit.distributions.scales import SOFTPLUS_ONE, full_float
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

    Where asked for, the weights change with the features f of a condition: w = softmax(a + G f), and softmax(a) without one.
    The components are those of all conditions, of which each takes its own part: Jacobs, Jordan, Nowlan, Hinton, "Adaptive
    mixtures of local experts" (1991), have such a gate.
    Dilokthanakul et al., "Deep unsupervised clustering with Gaussian mixture variational autoencoders" (2016), is the use
    of the components as clusters. Fitted by EM to the latents of a trained model (`vaekit refit`) it is the density
    estimate of Ghosh et al., "From variational to deterministic autoencoders" (2020).

    Args:
        num_latents: D.
        num_components: M.
        spread: standard deviation of the initial means; the components start apart, each of scale 1.
        covariance: `diagonal`, or `full`: D (D - 1) / 2 more parameters a component.
        condition_features: width of f; 0 for weights that do not depend on a condition.

    Raises:
        ConfigError: for fewer than one latent or component, a negative spread or width, or an unknown covariance.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> MixtureOfNormals(2, num_components=5)().sample((7,)).shape
        torch.Size([7, 2])
    """

    def __init__(
        self,
        num_latents: int,
        num_components: int = 100,
        spread: float = 1.0,
        covariance: str = "diagonal",
        condition_features: int = 0,
    ) -> None:
        super().__init__()
        if num_components < 1:
            raise ConfigError(f"`num_components` must be at least 1, got {num_components}. Use 1 for a single learned normal.")
        if not spread >= 0:
            raise ConfigError(f"`spread` must be >= 0, got {spread}. Use 0 for components that start in one place.")
        if covariance not in ("diagonal", "full"):
            raise ConfigError(f"`covariance` must be diagonal or full, got {covariance!r}. Use `diagonal` for many latents.")
        if condition_features < 0:
            raise ConfigError(f"`condition_features` must be >= 0, got {condition_features}. Use 0 for no conditions.")
        self.shape = (check_num_latents(num_latents),)
        self.covariance, self.condition_features = covariance, condition_features
        self.gate = nn.Parameter(torch.zeros(num_components, condition_features)) if condition_features else None
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.means = nn.Parameter(torch.randn(num_components, num_latents) * spread)
        self.raw_scale = nn.Parameter(torch.full((num_components, num_latents), SOFTPLUS_ONE))
        if covariance == "full":  # below the diagonal, a row after the other
            self.lower = nn.Parameter(torch.zeros(num_components, num_latents * (num_latents - 1) // 2))

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> MixtureSameFamily:
        """The mixture, with every component's scale multiplied by the temperature; a batch of them for conditions (B, F)."""
        scale = (F.softplus(self.raw_scale) + _LEAST_SCALE) * temperature
        if self.covariance == "diagonal":
            components: Distribution = diagonal_normal(self.means, scale)
        else:
            rows, columns = torch.tril_indices(*2 * self.shape, offset=-1, device=scale.device)
            component = torch.arange(len(scale), device=scale.device)[:, None]
            scale_tril = torch.diag_embed(scale).index_put((component, rows, columns), self.lower * temperature)
            components = MultivariateNormal(self.means, scale_tril=scale_tril, validate_args=False)
        if self.gate is None or condition is None:
            return MixtureSameFamily(Categorical(logits=self.logits, validate_args=False), components, validate_args=False)
        return WeightedNormals(self.logits + F.linear(full_float(condition), full_float(self.gate)), components)

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


class WeightedNormals(MixtureSameFamily):
    """A batch of mixtures with weights of their own and the same components, which are not repeated for them.

    Args:
        logits: (*batch, M), log w up to a constant.
        components: M normals over D units, their batch shape being (M,).
    """

    def __init__(self, logits: Tensor, components: Distribution) -> None:
        super().__init__(Categorical(logits=logits, validate_args=False), components, validate_args=False)
        self._batch_shape = logits.shape[:-1]

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample_shape, *batch, D): a component first, then of that one alone."""
        with torch.no_grad():
            chosen = cast(Tensor, self.mixture_distribution.sample(sample_shape))
            components = self.component_distribution
            noise = torch.randn(*chosen.shape, *components.event_shape, device=chosen.device, dtype=components.mean.dtype)
            if isinstance(components, MultivariateNormal):
                spread = torch.einsum("...ij,...j->...i", components.scale_tril[chosen], noise)
            else:
                spread = components.stddev[chosen] * noise
            return components.mean[chosen] + spread
