"""Several levels of latents, inferred from the bottom up, as one latent."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vaekit import distributions
from vaekit.errors import ConfigError
from vaekit.posteriors.base import Posterior, check_unrefined


class Chain(Posterior):
    """q(z|x) = q(z_1|x) q(z_2|z_1) ... q(z_L|z_{L-1}), where z is z_1, ..., z_L laid end to end.

    With the prior `Chain`, and a likelihood whose network reads z_1 alone (`networks.Part`), a plain VAE has several stochastic
    layers: the two of Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders" (2016), section 3. Bounds of several
    samples and doubly reparameterised gradients see one latent. The rate is sampled.

    Args:
        posteriors: q(z_1|x), then q(z_2|z_1), ..., each of whose networks reads what is left of the bar; over vectors. All are
            given the condition.

    Raises:
        ConfigError: for no posteriors, or one whose latent is no vector, or that refines itself.

    Example:
        >>> import torch
        >>> from vaekit.networks import MLP
        >>> from vaekit.posteriors import DiagonalNormal
        >>> _ = torch.manual_seed(0)
        >>> q = Chain([DiagonalNormal(MLP(6, [8]), 3), DiagonalNormal(MLP(3, [8]), 2)])(torch.zeros(5, 6))
        >>> q.rsample((7,)).shape
        torch.Size([7, 5, 5])
    """

    def __init__(self, posteriors: Sequence[Posterior]) -> None:
        super().__init__()
        if not posteriors or any(len(part.shape) != 1 for part in posteriors):
            shapes = [tuple(part.shape) for part in posteriors]
            raise ConfigError(f"`posteriors` must be over vectors, got latents of shapes {shapes}. Give at least one.")
        check_unrefined(posteriors, "Chain")
        self.posteriors = nn.ModuleList(posteriors)
        self.has_density = all(part.has_density for part in posteriors)
        self.widths = [part.shape[0] for part in posteriors]
        self.shape = (sum(self.widths),)

    @property
    def spaces(self) -> tuple[str, ...]:
        """Those of the parts, end to end."""
        return tuple(space for part in self.posteriors if isinstance(part, Posterior) for space in part.spaces)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> distributions.Chain:
        """q(z|x, c), batch shape (B,)."""
        first, *rest = self.posteriors
        return distributions.Chain(first(x, condition, mask), rest, self.widths, condition)

    def initialize(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> None:
        """The start of the first part; the others see no data."""
        first = self.posteriors[0]
        assert isinstance(first, Posterior)
        first.initialize(x, condition, mask)
