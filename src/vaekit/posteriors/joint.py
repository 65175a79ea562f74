"""Several independent latents side by side, such as continuous and discrete ones."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vaekit.distributions import Joint as JointDistribution
from vaekit.errors import ConfigError
from vaekit.posteriors.base import Posterior, check_unrefined


class Joint(Posterior):
    """q(z|x) = prod_i q_i(z_i|x), where z is z_1, z_2, ... laid end to end.

    Normal units beside a Gumbel-softmax are the JointVAE: Dupont, "Learning disentangled joint continuous and discrete
    representations" (2018), section 3. Each part has a network of its own.

    Args:
        parts: posteriors over vectors.

    Raises:
        ConfigError: for no parts, or a part whose latent is no vector, or that refines itself.

    Example:
        >>> from vaekit.networks import MLP
        >>> from vaekit.posteriors import DiagonalNormal
        >>> Joint([DiagonalNormal(MLP(3, [4]), 2), DiagonalNormal(MLP(3, [4]), 1)]).shape
        (3,)
    """

    def __init__(self, parts: Sequence[Posterior]) -> None:
        super().__init__()
        if not parts or any(len(part.shape) != 1 for part in parts):
            shapes = [tuple(part.shape) for part in parts]
            raise ConfigError(f"`parts` must be posteriors over vectors, got latents of shapes {shapes}. Give at least one.")
        check_unrefined(parts, "Joint")
        self.parts = nn.ModuleList(parts)
        self.has_density = all(part.has_density for part in parts)
        self.shape = (sum(part.shape[0] for part in parts),)

    @property
    def spaces(self) -> tuple[str, ...]:
        """Those of the parts, end to end."""
        return tuple(space for part in self.parts if isinstance(part, Posterior) for space in part.spaces)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> JointDistribution:
        """prod_i q_i(z_i|x, c), batch shape (B,)."""
        return JointDistribution([part(x, condition, mask) for part in self.parts])

    def initialize(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> None:
        """The start of every part."""
        for part in self.parts:
            assert isinstance(part, Posterior)
            part.initialize(x, condition, mask)
