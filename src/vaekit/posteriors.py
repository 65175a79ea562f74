"""q(z|x, c): what the latent may have been, given the data.

A posterior is a network and a family. Called with data (B, *S) it returns a distribution over latents with batch shape
(B,). Missing elements are told to the network by the mask; what stands at them is not read.
"""

from __future__ import annotations

import abc

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from vaekit.component import Component
from vaekit.distributions import Independent, diagonal_normal
from vaekit.errors import ConfigError
from vaekit.types import as_network


class Posterior(Component, abc.ABC):
    """A module whose call returns q(z|x, c) over latents of shape `shape`."""

    shape: tuple[int, ...]

    @abc.abstractmethod
    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Distribution:
        """q(z|x, c) with batch shape (B,).

        Args:
            x: (B, *S), data on the likelihood's support.
            condition: (B, F) features, or None.
            mask: (B, *S) bool, True where observed, or None.
        """


class _NormalPosterior(Posterior, abc.ABC):
    """A normal whose parameters a network gives."""

    def __init__(self, network: Component, num_latents: int, num_parameters: int) -> None:
        super().__init__()
        if num_latents < 1:
            raise ConfigError(f"`num_latents` must be at least 1, got {num_latents}. Give the number of latent units.")
        self.network = network
        self.shape = (num_latents,)
        self.head = as_network(network, type(self).__name__).make_head(num_parameters, self.shape)

    def parameters_at(self, x: Tensor, condition: Tensor | None, mask: Tensor | None) -> Tensor:
        """(..., num_parameters, D), in float32 or better: a reduced precision ends before the density."""
        raw = self.head(self.network(x, condition, mask))
        return raw if raw.dtype == torch.float64 else raw.float()


def _positive(raw: Tensor) -> Tensor:
    """A scale from an unbounded number: 1 at 0, near-linear above, never below 1e-4, so that no KL overflows."""
    return F.softplus(raw + 0.5413248546) + 1e-4


class DiagonalNormal(_NormalPosterior):
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
        return diagonal_normal(mean, _positive(raw))


class FullNormal(_NormalPosterior):
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
        scale_tril = torch.tril(lower, diagonal=-1) + torch.diag_embed(_positive(raw))
        return MultivariateNormal(mean, scale_tril=scale_tril, validate_args=False)
