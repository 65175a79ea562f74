"""Ladders, their tails, and the model that is made of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vaekit.component import Component
from vaekit.likelihoods import Bernoulli, Normal
from vaekit.networks import ConditionEncoder, ConvLadder, DenseLadder, Tail
from vaekit.networks.hierarchy import Ladder
from vaekit.vae import HierarchicalVAE


def conv_vae() -> HierarchicalVAE:
    ladder = ConvLadder([1, 3, 5], [4, 6, 6], [1, 0, 2], num_latents=2, condition_features=3, observe_mask=True)
    return HierarchicalVAE(
        ladder, Normal(Tail(ladder.out_shape), [1, 3, 5]), ConditionEncoder({"label": 3}, features=3), relative=False
    )


def dense_vae() -> HierarchicalVAE:
    return HierarchicalVAE(DenseLadder(3, [1, 2], width=6), Bernoulli(Tail([6]), [3]))


EXAMPLES: dict[str, list[Callable[[], Component]]] = {
    "networks.ConvLadder": [
        lambda: ConvLadder([1, 3, 5], [4, 6], [1, 2], num_latents=2),
        lambda: ConvLadder((2, 4, 4), (3,), (1,), 2, num_blocks=2, bottleneck=1, input_range=(0, 255), observe_mask=True),
    ],
    "networks.DenseLadder": [
        lambda: DenseLadder(3, [2, 1], width=5),
        lambda: DenseLadder([1, 2, 2], (1, 2), 6, 4, 2, "gated", input_range=[0, 1], observe_mask=True),
    ],
    "networks.Tail": [
        lambda: Tail([4]),
        lambda: Tail([5], num_blocks=2, activation="gated"),
        lambda: Tail((4, 3, 2), 2, bottleneck=2),
    ],
    "vae.HierarchicalVAE": [conv_vae, dense_vae],
}


def _ramp(component: Component, *shape: int) -> Tensor:
    numbers = torch.linspace(-1, 1, int(torch.tensor(shape).prod()), dtype=next(component.parameters()).dtype)
    return numbers.reshape(shape)


def _descended(ladder: Ladder) -> Tensor:
    """All that a ladder gives on the way down, with the posterior's means as latents."""
    spec = ladder.spec()
    shape = spec["shape"] if "shape" in spec else spec["in_shape"]
    evidence = ladder.bottom_up(_ramp(ladder, 3, *([shape] if isinstance(shape, int) else shape)))
    state, found = None, []
    for level in range(len(ladder.latent_shapes)):
        state = ladder.enter(level, state, None)
        prior, after = ladder.prior(level, state)
        posterior = ladder.posterior(level, state, evidence[level])
        state = ladder.update(level, after, posterior.mean + prior.mean + posterior.raw_scale * prior.raw_scale)
        found.append(posterior.raw_scale + prior.raw_scale)
    end = ladder.enter(len(ladder.latent_shapes), state, None)
    return torch.cat([part.expand(3, *part.shape[1:]).flatten() for part in (*found, end)])


def _encoded(vae: HierarchicalVAE) -> Tensor:
    """What is encoded, and the data's density where it is decoded again; nothing is drawn."""
    condition = None if vae.condition is None else {"label": torch.tensor([0, 2, -1])}
    x = (_ramp(vae, 3, *vae.likelihood.shape) > 0).to(next(vae.parameters()).dtype)
    mean, scale = vae.encode_flat(x, condition=condition)
    return torch.cat([mean.flatten(), scale.flatten(), vae.decode_flat(mean, condition).log_prob(x)])


def _tail(tail: Tail) -> Tensor:
    return tail(_ramp(tail, 2, 3, *tail.out_shape))


NUMBERS = {ConvLadder: _descended, DenseLadder: _descended, Tail: _tail, HierarchicalVAE: _encoded}
