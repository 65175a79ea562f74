"""Several latents side by side, and positive ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vaekit import posteriors, priors
from vaekit.component import Component
from vaekit.networks import MLP

EXAMPLES: dict[str, list[Callable[[], Component]]] = {
    "posteriors.Gamma": [lambda: posteriors.Gamma(MLP(3, [4]), 2)],
    "posteriors.Joint": [
        lambda: posteriors.Joint([posteriors.DiagonalNormal(MLP(3, [4]), 1), posteriors.FullNormal(MLP(3, [4]), 1)]),
    ],
    "priors.Gamma": [lambda: priors.Gamma(2, concentration=2.0, rate=0.5)],
    "priors.Joint": [lambda: priors.Joint([priors.StandardNormal(1), priors.MixtureOfNormals(1, 3)])],
}


def _positive(component: Component, num: int) -> Tensor:
    dtype = next((t.dtype for t in (*component.parameters(), *component.buffers())), torch.float32)
    return torch.linspace(0.2, 2.0, num, dtype=dtype)


def _posterior(posterior: posteriors.Gamma) -> Tensor:
    q = posterior(_positive(posterior, 9).reshape(3, 3))
    return q.log_prob(_positive(posterior, 24).reshape(4, 3, 2)) + q.rsample((4,)).sum(-1)


NUMBERS = {
    posteriors.Gamma: _posterior,
    priors.Gamma: lambda prior: prior().log_prob(_positive(prior, 24).reshape(4, 3, 2)),
}
