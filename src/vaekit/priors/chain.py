"""Several levels of latents, generated from the top down, as one latent."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vaekit import distributions
from vaekit.component import Component
from vaekit.errors import ConfigError
from vaekit.priors.base import Prior


class Chain(Prior):
    """p(z) = p(z_L) p(z_{L-1}|z_L) ... p(z_1|z_2), where z is z_1, ..., z_L laid end to end.

    It goes with the posterior `Chain`, and with a likelihood that reads z_1 alone (`networks.Part`).
    Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders" (2016), section 3, has two such levels.

    Args:
        top: p(z_L), over vectors.
        conditionals: p(z_{L-1}|z_L), ..., p(z_1|z_2), from the top down. A network and a family, such as
            `posteriors.DiagonalNormal`, whose network reads what is right of the bar. All are given the condition.

    Raises:
        ConfigError: if a part is not over vectors, the top is made of the model's posterior (as `Vamp` is), or a conditional is
            a point, over codes, or one that refines itself.

    Example:
        >>> import torch
        >>> from vaekit.networks import MLP
        >>> from vaekit.posteriors import DiagonalNormal
        >>> from vaekit.priors import StandardNormal
        >>> _ = torch.manual_seed(0)
        >>> p = Chain(StandardNormal(2), [DiagonalNormal(MLP(2, [8]), 3)])()
        >>> p.sample((7,)).shape
        torch.Size([7, 5])
    """

    def __init__(self, top: Prior, conditionals: Sequence[Component]) -> None:
        super().__init__()
        shapes = [getattr(part, "shape", None) for part in (top, *conditionals)]
        if any(shape is None or len(shape) != 1 for shape in shapes):
            raise ConfigError(
                f"The parts of a Chain must be over vectors, got latents of shapes {shapes}. Give such as normals."
            )
        if top.made_of_posterior:
            raise ConfigError(
                f"The top of a Chain must not be made of the model's posterior, got a {type(top).__name__}: that one is over "
                "all levels, and the top over the highest alone. Use a `MixtureOfNormals` or a `Flow`."
            )
        for part in conditionals:
            if not getattr(part, "has_density", True) or getattr(part, "space", "real").startswith("codes"):
                raise ConfigError(
                    f"The conditionals of a Chain must have densities, got a {type(part).__name__}. Use `DiagonalNormal`."
                )
            if getattr(part, "refines", False):
                raise ConfigError(
                    f"The conditionals of a Chain must not refine themselves, got a {type(part).__name__}. Give the one within."
                )
        self.top, self.conditionals = top, nn.ModuleList(conditionals)
        self.widths = [shape[0] for shape in shapes if shape is not None]
        self.shape = (sum(self.widths),)

    @property
    def spaces(self) -> tuple[str, ...]:
        """Those of z_1, ..., z_L, end to end."""
        parts = [self.top, *self.conditionals]
        known = [getattr(part, "spaces", ("real",) * width) for part, width in zip(parts, self.widths, strict=True)]
        return tuple(space for spaces in reversed(known) for space in spaces)

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> distributions.Chain:
        """p(z|c), with every level's scales multiplied by the temperature."""
        top = self.top(condition, temperature)
        return distributions.Chain(top, list(self.conditionals), self.widths, condition, True, temperature)

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """The start of the top."""
        self.top.initialize(x, mask)
