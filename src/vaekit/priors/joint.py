"""Several independent latents side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.distributions import Joint as JointDistribution
from vaekit.errors import ConfigError
from vaekit.priors.base import Prior


class Joint(Prior):
    """p(z) = prod_i p_i(z_i), where z is z_1, z_2, ... laid end to end; the counterpart of `posteriors.Joint`.

    Dupont, "Learning disentangled joint continuous and discrete representations" (2018), section 3.

    Args:
        parts: priors over vectors.

    Raises:
        ConfigError: for no parts, or a part whose latent is no vector.

    Example:
        >>> from vaekit.priors import StandardNormal
        >>> Joint([StandardNormal(2), StandardNormal(1)])().sample((5,)).shape
        torch.Size([5, 3])
    """

    def __init__(self, parts: Sequence[Prior]) -> None:
        super().__init__()
        if not parts or any(len(part.shape) != 1 for part in parts):
            shapes = [tuple(part.shape) for part in parts]
            raise ConfigError(f"`parts` must be priors over vectors, got latents of shapes {shapes}. Give at least one.")
        self.parts = nn.ModuleList(parts)
        self.shape = (sum(part.shape[0] for part in parts),)

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> JointDistribution:
        """prod_i p_i(z_i|c)."""
        return JointDistribution([part(condition, temperature) for part in self.parts])

    def bind(self, posterior: Callable[..., Distribution]) -> None:
        """Gives each part of a `posteriors.Joint` to the prior of that part."""
        for part, its_posterior in zip(self.parts, getattr(posterior, "parts", ()), strict=False):
            assert isinstance(part, Prior)
            part.bind(its_posterior)

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """The start of every part."""
        for part in self.parts:
            assert isinstance(part, Prior)
            part.initialize(x, mask)
