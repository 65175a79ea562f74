"""What every posterior is."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.distributions import Distribution

from vaekit.component import Component
from vaekit.distributions import full_float
from vaekit.errors import ConfigError
from vaekit.types import as_network


class Posterior(Component, abc.ABC):
    """A module whose call returns q(z|x, c) over latents of shape `shape`.

    What it says of itself lets a model refuse what it cannot go with: a prior over another space, or one that would take a
    point for a density.
    """

    shape: tuple[int, ...]

    space: str = "real"
    """The space that a latent is in: `real`, `positive`, or one that names its size and whatever else makes two of it the same,
    such as `sphere(3)`."""

    has_density: bool = True
    """Whether log q is a density over that space, or over codes a mass; not where all mass is at one point of R^D."""

    mixes_examples: bool = False
    """Whether q(z|x, c) of an example depends, in training, on what else is in the batch."""

    differentiates: int = 0
    """How many times training differentiates the likelihood to find q: 1 by gradient steps, 2 through them."""

    @property
    def spaces(self) -> tuple[str, ...]:
        """(D,): the space that each number of a latent belongs to; it must be that of the prior."""
        return (self.space,) * math.prod(self.shape)

    @property
    def refines(self) -> bool:
        """Whether `refine` does anything."""
        return type(self).refine is not Posterior.refine

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

    def settle(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> None:
        """What was measured on batches of training is measured again on a large one, for weights that are kept.

        Asked for only where `mixes_examples`; arguments as those of `forward`.
        """


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
        return full_float(raw)


def check_unrefined(parts: Sequence[Posterior], owner: str) -> None:
    """Raises a ConfigError if a part refines itself, where nothing would ask it to."""
    for part in parts:
        if getattr(part, "refines", False):
            raise ConfigError(
                f"The parts of a {owner} must not refine themselves, got a {type(part).__name__}. Refine the whole of it "
                "(`Hamiltonian` takes one of normals), or give the posterior within."
            )
