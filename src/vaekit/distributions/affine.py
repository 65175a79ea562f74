"""A distribution moved and scaled, unit by unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.distributions.divergence import centre, stopped


class Affine(Distribution):
    """z = shift + scale * u with u from another distribution: log p(z) = log p_u((z - shift) / scale) - sum log scale.

    Unlike torch's TransformedDistribution it keeps mean and variance where the base has them.

    Args:
        base: of u, event shape *Z.
        shift: broadcasts to (*batch, *Z).
        scale: likewise, above 0.

    Example:
        >>> from vaekit.distributions import diagonal_normal
        >>> d = Affine(diagonal_normal(torch.zeros(2), torch.ones(2)), torch.tensor(1.0), torch.tensor(3.0))
        >>> d.mean, d.stddev
        (tensor([1., 1.]), tensor([3., 3.]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, base: Distribution, shift: Tensor, scale: Tensor) -> None:
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)
        self.base, self.shift, self.scale = base, shift, scale

    @property
    def has_rsample(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the base has it."""
        return self.base.has_rsample

    @property
    def mean(self) -> Tensor:
        """(*batch, *Z)."""
        return self.shift + self.scale * self.base.mean

    @property
    def variance(self) -> Tensor:
        """(*batch, *Z)."""
        return self.scale.square() * self.base.variance

    def centre(self) -> tuple[Tensor, Tensor]:
        """The base's centre, moved and scaled."""
        mean, scale = centre(self.base)
        return self.shift + self.scale * mean, self.scale * scale

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): the log-density of `value` (*batch, *Z)."""
        log_scale = self.scale.log().expand(self.batch_shape + self.event_shape)
        if self.event_shape:
            log_scale = log_scale.flatten(-len(self.event_shape)).sum(-1)
        return self.base.log_prob((value - self.shift) / self.scale) - log_scale

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample_shape, *batch, *Z), without gradient."""
        with torch.no_grad():
            return self.shift + self.scale * self.base.sample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample_shape, *batch, *Z), with gradients through the base's own `rsample`."""
        return self.shift + self.scale * self.base.rsample(sample_shape)

    def stopped(self) -> Affine:
        """The same, with parameters that no gradient reaches."""
        return Affine(stopped(self.base), self.shift.detach(), self.scale.detach())

    @property
    def matching_loss(self) -> Callable[[Tensor], Tensor] | None:
        """The base's own loss of values in the base's units, or None where it has none."""
        inner = getattr(self.base, "matching_loss", None)
        return None if inner is None else lambda value: inner((value - self.shift) / self.scale)


def tempered(distribution: Distribution, temperature: float) -> Distribution:
    """The distribution drawn together about its centre: z = c + temperature (u - c), which multiplies its scales.

    Example:
        >>> from vaekit.distributions import diagonal_normal
        >>> d = tempered(diagonal_normal(torch.ones(2), torch.ones(2)), 0.5)
        >>> d.mean, d.stddev
        (tensor([1., 1.]), tensor([0.5000, 0.5000]))
    """
    if temperature == 1.0:
        return distribution
    mean, _ = centre(distribution)
    return Affine(distribution, (1 - temperature) * mean, torch.full_like(mean, temperature))
