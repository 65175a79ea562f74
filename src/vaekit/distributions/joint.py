"""Several independent latents side by side as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.kl import register_kl

from vaekit.distributions.divergence import centre, closed_form_kl, measures, stopped


class Joint(Distribution):
    """p(z) = prod_i p_i(z_i), where z (D,) is z_1, z_2, ... laid end to end.

    Args:
        parts: distributions with events (D_i,), of one batch shape or of none.

    Example:
        >>> from vaekit.distributions import diagonal_normal
        >>> p = Joint([diagonal_normal(torch.zeros(2), torch.ones(2)), diagonal_normal(torch.zeros(1), torch.ones(1))])
        >>> round(p.log_prob(torch.zeros(3)).item(), 4)
        -2.7568
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, parts: Sequence[Distribution]) -> None:
        self.parts = tuple(parts)
        self.widths = [part.event_shape[0] for part in self.parts]
        batch = torch.broadcast_shapes(*(part.batch_shape for part in self.parts))
        super().__init__(batch, torch.Size([sum(self.widths)]), validate_args=False)

    @property
    def has_rsample(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether every part has it."""
        return all(part.has_rsample for part in self.parts)

    def _side_by_side(self, values: Sequence[Tensor]) -> Tensor:
        lead = torch.broadcast_shapes(*(value.shape[:-1] for value in values))
        return torch.cat([value.expand(*lead, value.shape[-1]) for value in values], dim=-1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch, D)."""
        return self._side_by_side([part.rsample(self._shape_for(part, sample_shape)) for part in self.parts])

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch, D)."""
        return self._side_by_side([part.sample(self._shape_for(part, sample_shape)) for part in self.parts])

    def _shape_for(self, part: Distribution, sample_shape: Any) -> torch.Size:
        """What a part must be asked for, so that one without a batch draws for each element of the batch."""
        return torch.Size(sample_shape) + (self.batch_shape if not part.batch_shape else torch.Size())

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): sum over the parts."""
        pieces = value.split(self.widths, dim=-1)
        terms = [part.log_prob(piece) for part, piece in zip(self.parts, pieces, strict=True)]
        return torch.stack(torch.broadcast_tensors(*terms)).sum(0)

    @property
    def mean(self) -> Tensor:
        """(*batch, D)."""
        return self._side_by_side([part.mean for part in self.parts])

    @property
    def variance(self) -> Tensor:
        """(*batch, D)."""
        return self._side_by_side([part.variance for part in self.parts])

    def centre(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, each (*batch, D), as each part gives them."""
        means, scales = zip(*(centre(part) for part in self.parts), strict=True)
        return self._side_by_side(means), self._side_by_side(scales)

    def measures(self) -> frozenset[str]:
        """Those of all parts; see `distributions.measures`."""
        return frozenset().union(*(measures(part) for part in self.parts))

    def stopped(self) -> Joint:
        """The same with parameters that no gradient reaches."""
        return Joint([stopped(part) for part in self.parts])


@register_kl(Joint, Joint)
def _kl_joint(q: Joint, p: Joint) -> Tensor:
    """The sum of the parts' divergences, where all of them are known."""
    if q.widths != p.widths:
        raise NotImplementedError
    terms = [closed_form_kl(a, b) for a, b in zip(q.parts, p.parts, strict=True)]
    known = [term for term in terms if term is not None]
    if len(known) < len(terms):
        raise NotImplementedError
    return torch.stack(torch.broadcast_tensors(*known)).sum(0)
