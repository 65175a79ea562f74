"""Normals whose parameters a network gives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from vaekit import distributions
from vaekit.component import Component
from vaekit.distributions import Independent, diagonal_normal
from vaekit.distributions.scales import positive
from vaekit.errors import ConfigError
from vaekit.posteriors.base import NormalPosterior


class DiagonalNormal(NormalPosterior):
    """q(z|x) = N(z; mean(x), diag(scale(x)^2)).

    Kingma, Welling, "Auto-Encoding Variational Bayes" (2014), equation 9. Departure: the network gives the scale through
    a softplus and not the log-variance, so a large output cannot overflow an exponential.

    Args:
        network: maps data to features.
        num_latents: D.

    Raises:
        ConfigError: for fewer than one latent, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> DiagonalNormal(MLP(3, [8]), num_latents=2)(torch.zeros(5, 3)).rsample((7,)).shape
        torch.Size([7, 5, 2])
    """

    def __init__(self, network: Component, num_latents: int) -> None:
        super().__init__(network, num_latents, num_parameters=2)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Independent:
        """N(mean, diag(scale^2)), batch shape (B,)."""
        mean, raw = self.parameters_at(x, condition, mask).unbind(-2)
        return diagonal_normal(mean, positive(raw))


class FullNormal(NormalPosterior):
    """q(z|x) = N(z; mean(x), L(x) L(x)^T), with L lower-triangular and positive on its diagonal.

    For few latents whose posteriors are correlated: D (D + 1) / 2 parameters instead of D.
    Kingma, Welling, "An introduction to variational autoencoders" (2019), section 2.5.1.

    Args:
        network: maps data to features.
        num_latents: D.

    Raises:
        ConfigError: for fewer than one latent, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> FullNormal(MLP(3, [8]), num_latents=2)(torch.zeros(5, 3)).covariance_matrix.shape
        torch.Size([5, 2, 2])
    """

    def __init__(self, network: Component, num_latents: int) -> None:
        super().__init__(network, num_latents, num_parameters=2 + num_latents)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> MultivariateNormal:
        """N(mean, L L^T), batch shape (B,)."""
        parameters = self.parameters_at(x, condition, mask)
        mean, raw, lower = parameters[..., 0, :], parameters[..., 1, :], parameters[..., 2:, :]
        scale_tril = torch.tril(lower, diagonal=-1) + torch.diag_embed(positive(raw))
        return MultivariateNormal(mean, scale_tril=scale_tril, validate_args=False)


class LowRankNormal(NormalPosterior):
    """q(z|x) = N(z; mean(x), S (I + V V^T) S), S = diag(scale(x)), with V(x) of R columns.

    Between `DiagonalNormal` and `FullNormal`: (R + 2) D numbers from the network, and a rate and a density that cost O(D R^2).
    Rezende, Mohamed, Wierstra, "Stochastic backpropagation and approximate inference in deep generative models" (2014), section
    4.3, has one such direction, in the precision and not in the covariance. An element of V is at most 100 in size, so that
    I + V^T V has a Cholesky factor in float32.

    Args:
        network: maps data to features.
        num_latents: D.
        rank: R, from 1 to D.

    Raises:
        ConfigError: for fewer than one latent, a rank outside 1..D, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> LowRankNormal(MLP(3, [8]), num_latents=4, rank=2)(torch.zeros(5, 3)).covariance_matrix.shape
        torch.Size([5, 4, 4])
    """

    def __init__(self, network: Component, num_latents: int, rank: int) -> None:
        super().__init__(network, num_latents, num_parameters=2 + rank)
        if not 1 <= rank <= num_latents:
            raise ConfigError(f"`rank` must be from 1 to `num_latents`, got {rank} for {num_latents}. Use 1 for one direction.")

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> distributions.LowRankNormal:
        """N(mean, S (I + V V^T) S), batch shape (B,)."""
        parameters = self.parameters_at(x, condition, mask)
        mean, raw, factor = parameters[..., 0, :], parameters[..., 1, :], parameters[..., 2:, :].mT
        return distributions.LowRankNormal(mean, positive(raw), factor / (1.0 + 0.01 * factor.abs()))
