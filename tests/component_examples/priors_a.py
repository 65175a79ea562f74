"""Learned priors, and the objective that fits them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vaekit.component import Component
from vaekit.likelihoods import Normal
from vaekit.networks import MLP
from vaekit.objectives import PriorFit
from vaekit.posteriors import DiagonalNormal, FullNormal
from vaekit.priors import (
    Autoregressive,
    Exemplar,
    Flow,
    FlowMatching,
    MixtureOfNormals,
    SecondStage,
    Standardized,
    StandardNormal,
    Vamp,
)

EXAMPLES: dict[str, list[Callable[[], Component]]] = {
    "objectives.PriorFit": [lambda: PriorFit()],
    "priors.Autoregressive": [lambda: Autoregressive(2, 3, [5, 4])],
    "priors.Exemplar": [lambda: Exemplar(2, [3], 4), lambda: Exemplar(2, [3], 4, "uint8")],
    "priors.Flow": [lambda: Flow(2, "maf", [6], 2), lambda: Flow(2, hidden=(6,))],
    "priors.FlowMatching": [
        lambda: FlowMatching(2, [6, 6, 4], num_steps=3),
        lambda: FlowMatching(2, (5,), divergence="exact"),
    ],
    "priors.SecondStage": [
        lambda: SecondStage(StandardNormal(3), DiagonalNormal(MLP(2, [4]), 3), Normal(MLP(3, [4]), [2]), num_samples=2),
        lambda: SecondStage(MixtureOfNormals(2, 3), FullNormal(MLP(2, [4]), 2), Normal(MLP(2, [4]), [2])),
    ],
    "priors.Standardized": [lambda: Standardized(MixtureOfNormals(2, 3, covariance="full"))],
    "priors.Vamp": [lambda: Vamp(2, [3], 4), lambda: Vamp(2, (3,), 4, (0, 1), condition_features=2)],
}


def at_fixed_latents(component: Component) -> Tensor:
    return torch.linspace(-1, 1, 24, dtype=next(component.parameters()).dtype).reshape(4, 3, 2)


def with_posterior(prior: Vamp | Exemplar) -> Tensor:
    """The log-density with a posterior that is no part of the prior; an exemplar prior gets examples too."""
    z = at_fixed_latents(prior)
    width = 0 if isinstance(prior, Exemplar) or prior.pseudo_condition is None else prior.pseudo_condition.shape[1]
    prior.bind(DiagonalNormal(MLP(3, [5], condition_features=width), 2).to(z.dtype))
    if isinstance(prior, Exemplar):
        prior.store(torch.arange(9).reshape(3, 3) % 4)
    return prior().log_prob(z)


def without_noise(second: SecondStage) -> Tensor:
    """The terms of the bound at latents u that are not drawn."""
    z = at_fixed_latents(second)
    u = torch.linspace(-1, 1, 12 * second.prior.shape[0], dtype=z.dtype).reshape(4, 3, -1)
    return (
        second.likelihood(u).log_prob(z)
        + second.prior().log_prob(u)
        - second.posterior(z.flatten(0, 1)).log_prob(u.flatten(0, 1)).reshape(4, 3)
    )


NUMBERS = {Exemplar: with_posterior, SecondStage: without_noise, Vamp: with_posterior}
