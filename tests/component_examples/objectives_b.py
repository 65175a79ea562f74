"""The objectives with a player, regularised autoencoders, objectives of features, and what they are used with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vaekit.component import Component
from vaekit.distributions import diagonal_normal
from vaekit.networks import MLP, ConvEncoder, Spectral
from vaekit.objectives import MSSSIM, RAE, VAEGAN, AdversarialAE, Discriminator, FactorVAE, FeatureMatching, Objective
from vaekit.posteriors import Deterministic
from vaekit.posteriors.deterministic import Point
from vaekit.types import Latent, Trace

EXAMPLES: dict[str, list[Callable[[], Component]]] = {
    "networks.Spectral": [
        lambda: Spectral(MLP(3, [4])),
        lambda: Spectral(ConvEncoder([1, 3, 5], [3, 4], features=6)),
    ],
    "objectives.AdversarialAE": [
        lambda: AdversarialAE(MLP(2, [4])),
        lambda: AdversarialAE(Discriminator(MLP(2, [4])), 10.0, 1e-3, [0.9, 0.99]),
    ],
    "objectives.Discriminator": [lambda: Discriminator(MLP(3, [4]))],
    "objectives.FactorVAE": [lambda: FactorVAE(MLP(2, [4])), lambda: FactorVAE(Spectral(MLP(2, [4])), gamma=3.0)],
    "objectives.FeatureMatching": [
        lambda: FeatureMatching(MLP([1, 4, 4], [4])),
        lambda: FeatureMatching(ConvEncoder([1, 4, 4], [2, 3]), ["stem", "stages.1"], 2.0, 0.5, 0.1),
    ],
    "objectives.MSSSIM": [lambda: MSSSIM(window_size=3), lambda: MSSSIM(2.0, 0.5, 3.0, 1, 3, 0.1)],
    "objectives.RAE": [lambda: RAE(), lambda: RAE(0.5, gradient_penalty=2.0)],
    "objectives.VAEGAN": [lambda: VAEGAN(MLP([1, 4, 4], [4])), lambda: VAEGAN(ConvEncoder([1, 4, 4], [2]), gamma=0.1)],
    "posteriors.Deterministic": [lambda: Deterministic(MLP(3, [4]), 2)],
}


def _ramp(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.linspace(-1, 1, math.prod(shape), dtype=dtype).reshape(shape)


def _dtype(component: Component) -> torch.dtype:
    return next((parameter.dtype for parameter in component.parameters()), torch.float32)


def image_trace(dtype: torch.dtype) -> Trace:
    """Two samples of three examples (1, 4, 4), with a prior whose draws are the same in every precision."""

    def decode(z: Tensor) -> Any:
        grid = _ramp((2, 16), dtype)
        return diagonal_normal(torch.tanh(z @ grid).unflatten(-1, (1, 4, 4)), torch.ones(1, 4, 4, dtype=dtype), 3)

    posterior = diagonal_normal(_ramp((3, 2), dtype), _ramp((3, 2), dtype).exp())
    z = torch.stack([_ramp((3, 2), dtype), _ramp((3, 2), dtype).flip(0) + 0.5])
    prior = Point(torch.tensor([0.3, -0.2], dtype=dtype))
    x = _ramp((3, 1, 4, 4), dtype).sin()
    likelihood = decode(z)
    return Trace(x, likelihood, likelihood.log_prob(x), (Latent(z, posterior, prior),), decode=decode)


def _both_losses(objective: Objective) -> Tensor:
    """Through the sum gradients reach the model and the player."""
    torch.manual_seed(11)
    bound = objective.eval()(image_trace(_dtype(objective)), step=3)
    return bound.loss if bound.adversary is None else bound.loss + bound.adversary


def _spectral(network: Spectral) -> Tensor:
    shape = (3, 1, 3, 5) if isinstance(network.network, ConvEncoder) else (3, 3)
    return network.eval()(_ramp(shape, _dtype(network)))


NUMBERS: dict[type[Component], Callable[[Any], Tensor]] = {
    Spectral: _spectral,
    Discriminator: lambda discriminator: discriminator(_ramp((4, 3), _dtype(discriminator))),
    Deterministic: lambda posterior: posterior(_ramp((3, 3), _dtype(posterior))).rsample((2,)),
    **dict.fromkeys((AdversarialAE, FactorVAE, FeatureMatching, MSSSIM, RAE, VAEGAN), _both_losses),
}
