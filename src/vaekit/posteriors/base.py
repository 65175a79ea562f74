"""What every posterior is."""

from __future__ import annotations

import abc
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from vaekit.component import Component
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

    def refine(self, q: Distribution, log_joint: Callable[[Tensor], Tensor]) -> Distribution:
        """q(z|x, c) after steps of its own towards the true posterior; the same q where a family takes none.

        Args:
            q: what `forward` gave.
            log_joint: maps latents (K, B, *Z) to log p(x, z|c), (K, B).
        """
        return q

    def initialize(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> None:
        """Data-dependent start from a batch; arguments as those of `forward`."""


class NormalPosterior(Posterior, abc.ABC):
    """A family whose parameters, `num_parameters` numbers a unit, a network gives."""

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


def positive(raw: Tensor) -> Tensor:
    """A scale from an unbounded number: 1 at 0, near-linear above, never below 1e-4, so that no KL overflows."""
    return F.softplus(raw + 0.5413248546) + 1e-4
