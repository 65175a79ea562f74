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
        ConfigError: for no parts, or a part whose latent is no vector; when bound, if a part that is made of the posterior has
            none of its own.

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

        self.made_of_posterior = any(part.made_of_posterior for part in parts)

    def _priors(self) -> list[Prior]:
        return [part for part in self.parts if isinstance(part, Prior)]

    @property
    def spaces(self) -> tuple[str, ...]:
        """Those of the parts, end to end."""
        return tuple(space for part in self._priors() for space in part.spaces)

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> JointDistribution:
        """prod_i p_i(z_i|c)."""
        return JointDistribution([part(condition, temperature) for part in self.parts])

    def of_batch(self, q: Distribution, condition: Tensor | None = None) -> JointDistribution:
        """Each part as it is charged to the posterior of that part."""
        if not isinstance(q, JointDistribution) or q.widths != [part.shape[0] for part in self._priors()]:
            return self(condition)
        return JointDistribution([p.of_batch(own, condition) for p, own in zip(self._priors(), q.parts, strict=True)])

    def bind(self, posterior: Callable[..., Distribution]) -> None:
        """Gives each part of a `posteriors.Joint` to the prior of that part.

        Raises:
            ConfigError: if a prior that is made of a posterior finds no part of its own size.
        """
        priors, given = self._priors(), list(getattr(posterior, "parts", ()))
        if [tuple(part.shape) for part in given] == [tuple(part.shape) for part in priors]:
            for part, its_posterior in zip(priors, given, strict=True):
                part.bind(its_posterior)
        elif self.made_of_posterior:
            names = ", ".join(type(part).__name__ for part in priors if part.made_of_posterior)
            raise ConfigError(
                f"A part of a Joint prior that is made of the posterior must have a posterior of its own, got {names} and a "
                f"{type(posterior).__name__}. Use `posteriors.Joint` with parts of the same sizes."
            )

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """The start of every part."""
        for part in self._priors():
            part.initialize(x, mask)
