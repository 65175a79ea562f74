"""Continuous posteriors, and the priors and networks that go with them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vaekit import posteriors, priors
from vaekit.component import Component
from vaekit.networks import MLP, Part


def normal(inputs: int, latents: int) -> posteriors.DiagonalNormal:
    return posteriors.DiagonalNormal(MLP(inputs, [4]), latents)


def flow(kind: str, num_context: int = 3) -> posteriors.Flow:
    return posteriors.Flow(MLP(3, [4]), 2, kind, num_context, hidden=[6], num_transforms=2)


EXAMPLES: dict[str, list[Callable[[], Component]]] = {
    "networks.Part": [lambda: Part(MLP(2, [4]), 0, 2)],
    "posteriors.Chain": [lambda: posteriors.Chain([normal(3, 1), normal(1, 1)])],
    "posteriors.Flow": [
        lambda: flow("iaf"),
        lambda: flow("maf", num_context=0),
        lambda: flow("nice"),
        lambda: flow("nsf"),
        lambda: flow("planar"),
        lambda: flow("radial", num_context=0),
    ],
    "posteriors.LowRankNormal": [lambda: posteriors.LowRankNormal(MLP(3, [4]), 2, rank=1)],
    "posteriors.SemiAmortized": [lambda: posteriors.SemiAmortized(normal(3, 2), steps=3, unroll=False)],
    "posteriors.VonMisesFisher": [lambda: posteriors.VonMisesFisher(MLP(3, [4]), 2)],
    "priors.Chain": [lambda: priors.Chain(priors.MixtureOfNormals(1, 3), [normal(1, 1)])],
    "priors.UniformSphere": [lambda: priors.UniformSphere(2)],
}


def part(network: Part) -> Tensor:
    return network(torch.linspace(-1, 1, 20, dtype=next(network.parameters()).dtype).reshape(5, 4))


NUMBERS = {Part: part}
