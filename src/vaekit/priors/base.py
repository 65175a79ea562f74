"""What every prior is."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.component import Component
from vaekit.errors import ConfigError


class Prior(Component, abc.ABC):
    """A module whose call returns p(z|c) over latents of shape `shape`."""

    shape: tuple[int, ...]

    space: str = "real"
    """The space that a latent is in, in the words of `Posterior.space`."""

    made_of_posterior: bool = False
    """Whether it cannot do without the model's posterior, which `bind` gives."""

    @property
    def spaces(self) -> tuple[str, ...]:
        """(D,): the space that each number of a latent belongs to; it must be that of the posterior."""
        return (self.space,) * math.prod(self.shape)

    @abc.abstractmethod
    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> Distribution:
        """p(z|c).

        Args:
            condition: (B, F) features, or None.
            temperature: factor on the scales, > 0.
        """

    def of_batch(self, q: Distribution, condition: Tensor | None = None) -> Distribution:
        """p(z|c) as inference charges it to a batch: `forward`, unless a prior that is made of examples leaves each out.

        Args:
            q: the posterior of the B examples of the batch.
            condition: (B, F) features, or None.
        """
        return self(condition)

    def bind(self, posterior: Callable[..., Distribution]) -> None:
        """Gives the model's posterior to a prior that is made of it; others leave it alone.

        A prior keeps it by `keep`, outside the module tree: the weights are saved once, with the posterior.
        """

    def keep(self, posterior: Callable[..., Distribution]) -> None:
        """Remembers the posterior as `self.posterior`, without making it a part."""
        object.__setattr__(self, "posterior", posterior)  # the module's own would register it

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Data-dependent start from a batch x (B, *S), of which `mask` (B, *S) says what is observed."""


def check_num_latents(num_latents: int) -> int:
    """The same number, if it is one of latents."""
    if num_latents < 1:
        raise ConfigError(f"`num_latents` must be at least 1, got {num_latents}. Give the number of latent units.")
    return num_latents


def in_chunks(function: Callable[[Tensor], Tensor], value: Tensor, event_dims: int, rows: int) -> Tensor:
    """`function` of the rows of `value` (*batch, *event), one number each, as (*batch).

    Where no gradient is asked for, so many rows at once that memory is bounded; else all of them.
    """
    batch = value.shape[: value.dim() - event_dims]
    flat = value.reshape(-1, *value.shape[len(batch) :])
    parts = [flat] if torch.is_grad_enabled() else flat.split(max(1, rows))
    return torch.cat([function(part) for part in parts]).reshape(batch)
