"""Posteriors and objectives that draw by themselves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vaekit import objectives, posteriors
from vaekit.component import Component
from vaekit.networks import MLP

EXAMPLES: dict[str, list[Callable[[], Component]]] = {
    "objectives.SlicedWAE": [lambda: objectives.SlicedWAE(lambda_=2.0, num_slices=5)],
    "posteriors.Hamiltonian": [lambda: posteriors.Hamiltonian(posteriors.DiagonalNormal(MLP(3, [4]), 2), steps=2)],
}


def _hamiltonian(posterior: posteriors.Hamiltonian) -> Tensor:
    dtype = next(posterior.parameters()).dtype
    q = posterior(torch.linspace(-1, 1, 9, dtype=dtype).reshape(3, 3))
    moved = posterior.refine(q, lambda z: -0.5 * (z - 1).square().sum(-1))
    z = moved.rsample((4,))
    return moved.log_prob(z) + z.sum(-1)


NUMBERS = {posteriors.Hamiltonian: _hamiltonian}
