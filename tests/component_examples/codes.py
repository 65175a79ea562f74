"""Discrete latents, their priors, and networks that keep a grid."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vaekit import networks, objectives, posteriors, priors
from vaekit.component import Component
from vaekit.distributions import CodeLayout, Quantized
from vaekit.networks import MLP
from vaekit.priors import Prior
from vaekit.types import Latent, Trace


def _vectors(**options: float) -> posteriors.VectorQuantized:
    options = {"decay": 0.9, "revival": 0.0, **options}
    return posteriors.VectorQuantized(MLP(3, [4]), num_codes=4, code_dims=1, positions=2, **options)


EXAMPLES: dict[str, list[Callable[[], Component]]] = {
    "networks.GridDecoder": [
        lambda: networks.GridDecoder([2, 2, 3], [1, 3, 5], [3, 4]),
        lambda: networks.GridDecoder([3, 4, 4], (3, 4, 4), (3,), num_blocks=2),
    ],
    "networks.GridEncoder": [
        lambda: networks.GridEncoder([1, 3, 5], [3, 4]),
        lambda: networks.GridEncoder((3, 4, 4), (3,), num_blocks=2, input_range=(0, 255), observe_mask=True),
    ],
    "networks.SumOfLayers": [lambda: networks.SumOfLayers(MLP(3, [4]))],
    "objectives.Quantization": [
        lambda: objectives.Quantization(0.5, 2.0),
        lambda: objectives.Quantization(base=objectives.ELBO(beta=2.0)),
    ],
    "posteriors.FiniteScalar": [lambda: posteriors.FiniteScalar(MLP(3, [4]), levels=[4, 3], positions=1)],
    "posteriors.GumbelSoftmax": [
        lambda: posteriors.GumbelSoftmax(MLP(3, [4]), num_categories=2, positions=1),
        lambda: posteriors.GumbelSoftmax(MLP(3, [4]), 3, 2, 2.0, 0.2, 1e-3, straight_through=True),
    ],
    "posteriors.ResidualQuantized": [
        lambda: posteriors.ResidualQuantized(MLP(3, [4]), num_codes=4, code_dims=1, positions=2, depth=2, decay=0.0),
        lambda: posteriors.ResidualQuantized(MLP(3, [4]), 4, 2, 1, depth=3, shared=True, initialization="rows"),
    ],
    "posteriors.VectorQuantized": [lambda: _vectors(), lambda: _vectors(decay=0.0, revival=0.5)],
    "priors.AutoregressiveCodes": [
        lambda: priors.AutoregressiveCodes([2], num_codes=4, num_tokens=2, features=4, num_layers=2, num_heads=2),
        lambda: priors.AutoregressiveCodes([2], 4, 2, features=4, num_layers=1, num_heads=1, condition_features=3),
    ],
    "priors.CategoricalCodes": [lambda: priors.CategoricalCodes([2], num_codes=4, num_tokens=2)],
    "priors.UniformCodes": [lambda: priors.UniformCodes(2, num_codes=4, num_tokens=2)],
}


def _ramp(component: Component, *shape: int) -> Tensor:
    dtypes = [t.dtype for t in (*component.parameters(), *component.buffers()) if t.is_floating_point()]
    size = torch.Size(shape).numel()
    return torch.linspace(-1, 1, size, dtype=dtypes[0] if dtypes else torch.float32).reshape(shape)


def _quantized(posterior: Component) -> Tensor:
    """In evaluation mode, as training moves the codebook."""
    q = posterior.eval()(_ramp(posterior, 3, 3))
    return q.rsample((4,)).sum(-1).flatten(1) + q.commitment.sum() + q.codebook_distance.sum()


def _gumbel(posterior: posteriors.GumbelSoftmax) -> Tensor:
    q = posterior.eval()(_ramp(posterior, 3, 3))
    z = q.rsample((4,))
    return q.log_prob(z) + q.entropy() + q.log_prob(_ramp(posterior, 4, 3, *posterior.shape))


def _prior(prior: Prior) -> Tensor:
    prior.bind(_vectors().to(_ramp(prior, 1).dtype))
    codes = torch.tensor([[0, 0], [0, 1], [1, 3], [2, 2], [3, 1], [3, 3]])
    prior.eval()
    p = prior(_ramp(prior, 6, 3) if getattr(prior, "condition_features", 0) else None)
    return p.log_mass(codes)


def _objective(objective: objectives.Quantization) -> Tensor:
    inputs = _ramp(objective, 3, 2, 1)
    codes = (inputs > 0).long().squeeze(-1)
    q = Quantized(CodeLayout(2, 1), inputs, inputs.round(), codes, num_codes=2, learned=True)
    p = priors.UniformCodes(2, 4, 2)
    p.bind(_vectors())
    trace = Trace(_ramp(objective, 3, 1), q, _ramp(objective, 2, 3), (Latent(q.rsample((2,)), q, p()),))
    return objective(trace, step=3).loss


NUMBERS = {
    networks.GridDecoder: lambda decoder: decoder(_ramp(decoder, 2, 3, *decoder.spec()["latent_shape"])),
    networks.GridEncoder: lambda encoder: encoder(_ramp(encoder, 3, *encoder.spec()["shape"])),
    networks.SumOfLayers: lambda network: network(_ramp(network, 2, 4, 5, 3)),
    objectives.Quantization: _objective,
    posteriors.FiniteScalar: lambda p: p(_ramp(p, 3, 3)).rsample((4,)),
    posteriors.GumbelSoftmax: _gumbel,
    posteriors.ResidualQuantized: _quantized,
    posteriors.VectorQuantized: _quantized,
    priors.AutoregressiveCodes: _prior,
    priors.CategoricalCodes: _prior,
    priors.UniformCodes: _prior,
}
