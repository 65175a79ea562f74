"""The bound with a neighbour term."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vaekit.component import Component
from vaekit.distributions import diagonal_normal
from vaekit.objectives import ELBO, IWAE, Neighbours
from vaekit.types import Latent, Partners, Trace

EXAMPLES: dict[str, list[Callable[[], Component]]] = {
    "objectives.Neighbours": [
        lambda: Neighbours(),
        lambda: Neighbours(ELBO(beta=0.5), 10.0, 5, 0.3, 0.8, "cross-entropy", 2.0),
        lambda: Neighbours(IWAE()),
    ],
}


def _numbers(component: Neighbours) -> Tensor:
    def ramp(*shape: int) -> Tensor:
        return torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape)

    q, p = diagonal_normal(ramp(3, 2), ramp(3, 2).exp()), diagonal_normal(ramp(1, 2)[0], torch.ones(2))
    z = q.rsample((2,))
    partners = Partners(ramp(3, 2).flip(0) * 0.7, torch.tensor([0.5, 1.0, 1.5]))
    return component(Trace(ramp(3, 1), p, ramp(2, 3), (Latent(z, q, p),), partners=partners), step=3).loss


NUMBERS: dict[type[Component], Callable[..., Tensor]] = {Neighbours: _numbers}
