"""Latents that depend on each other in a row, as one latent."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from vaekit.component import stopped_copy
from vaekit.distributions.affine import tempered
from vaekit.distributions.divergence import centre, measures, stopped

Conditional = Callable[[Tensor, Tensor | None], Distribution]
"""Maps a vector (*batch, D) and features of the condition to the distribution of the next vector, batch shape (*batch)."""


class Chain(Distribution):
    """p(u_1) p(u_2|u_1) ... p(u_L|u_{L-1}), where z (D,) is u_1, ..., u_L laid end to end, or u_L, ..., u_1.

    A draw draws each part given the one before it, with gradients through all of them.

    Args:
        first: p(u_1), over vectors.
        conditionals: p(u_{l+1}|u_l), modules of (u_l, condition).
        widths: how many numbers each of u_1, ..., u_L has.
        condition: (B, F) features that every conditional is given, or None.
        backwards: whether the parts lie in z from the last to the first.
        temperature: factor on the scales of the conditionals, about their centres.

    Example:
        >>> from vaekit.distributions import diagonal_normal
        >>> unit = diagonal_normal(torch.zeros(1), torch.ones(1))
        >>> walk = Chain(unit, [lambda u, condition: diagonal_normal(u, torch.ones_like(u))], [1, 1])
        >>> round(walk.log_prob(torch.tensor([0.0, 1.0])).item(), 4)  # -log(2 pi) - 1 / 2
        -2.3379
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    support: ClassVar[constraints.Constraint] = constraints.real_vector  # pyright: ignore
    has_rsample = True

    def __init__(
        self,
        first: Distribution,
        conditionals: Sequence[Conditional],
        widths: Sequence[int],
        condition: Tensor | None = None,
        backwards: bool = False,
        temperature: float = 1.0,
    ) -> None:
        self.first, self.conditionals, self.widths = first, tuple(conditionals), list(widths)
        self.condition, self.backwards, self.temperature = condition, backwards, temperature
        super().__init__(first.batch_shape, torch.Size([sum(widths)]), validate_args=False)

    def _end_to_end(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([*reversed(parts)] if self.backwards else [*parts], dim=-1)

    def _parts(self, value: Tensor) -> list[Tensor]:
        """u_1, ..., u_L of z."""
        if self.backwards:
            return [*reversed(value.split(self.widths[::-1], dim=-1))]
        return [*value.split(self.widths, dim=-1)]

    def _given(self, conditional: Conditional, part: Tensor) -> Distribution:
        return tempered(conditional(part, self.condition), self.temperature)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch, D)."""
        shape = torch.Size(sample_shape)
        if not shape and not self.batch_shape:  # a network wants a batch
            return self.rsample((1,))[0]
        parts = [self.first.rsample(shape)]
        for conditional in self.conditionals:
            parts.append(self._given(conditional, parts[-1]).rsample())
        return self._end_to_end(parts)

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): the sum of the parts' log-densities, each given the part before it."""
        if value.dim() == 1:
            return self.log_prob(value[None]).reshape(self.batch_shape)
        parts = self._parts(value)
        log_p = self.first.log_prob(parts[0])
        for conditional, (given, part) in zip(self.conditionals, itertools.pairwise(parts), strict=True):
            log_p = log_p + self._given(conditional, given).log_prob(part)
        return log_p

    def centre(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each part given the mean of the one before it, each (*batch, D).

        The mean of the whole has no closed form, for networks stand between the parts.
        """
        means, scales = zip(*self._centres(), strict=True)
        return self._end_to_end(means), self._end_to_end(scales)

    def _centres(self) -> list[tuple[Tensor, Tensor]]:
        found = [centre(self.first)]
        for conditional in self.conditionals:
            mean = found[-1][0]
            if mean.dim() > 1:
                found.append(centre(self._given(conditional, mean)))
            else:
                found.append(tuple(moment[0] for moment in centre(self._given(conditional, mean[None]))))  # pyright: ignore[reportArgumentType]
        return found

    def measures(self) -> frozenset[str]:
        """Those of all parts, as far as conditionals tell it (`has_density`); see `distributions.measures`."""
        points = any(not getattr(conditional, "has_density", True) for conditional in self.conditionals)
        return measures(self.first) | {"mass" if points else "density"}

    def stopped(self) -> Chain:
        """The same with parameters that no gradient reaches; each part still depends on the value of the one before it."""
        condition = None if self.condition is None else self.condition.detach()
        conditionals = [stopped_copy(c) if isinstance(c, nn.Module) else c for c in self.conditionals]
        return Chain(stopped(self.first), conditionals, self.widths, condition, self.backwards, self.temperature)
