"""Sequences of tokens: their likelihood and networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vaekit.component import Component
from vaekit.likelihoods import Tokens
from vaekit.networks import LSTMDecoder, LSTMEncoder, TransformerDecoder, TransformerEncoder

CODES = torch.tensor([[3, 4, 4, 1, 0], [5, 1, 0, 0, 0], [2, 3, 5, 4, 1]])


def wave(component: Component, *shape: int) -> Tensor:
    """Numbers from -1 to 1 in the precision of the component's weights."""
    dtype = next(component.parameters()).dtype
    return torch.sin(torch.arange(torch.Size(shape).numel(), dtype=dtype)).reshape(shape)


def condition_of(network: Any) -> Tensor | None:
    return wave(network, 3, network.condition_features) if network.condition_features else None


def every_mass(likelihood: Any) -> Tensor:
    """log p of sequences at two latents each, those that cannot be left out."""
    z = wave(likelihood, 2, 3, 2)
    log_prob = likelihood(z, condition_of(likelihood.network)).log_prob(CODES)
    return log_prob[log_prob.isfinite()]


def decoded(network: Any) -> Tensor:
    """Features of all positions: of whole sequences, and of a first step."""
    z, condition = wave(network, 3, 2), condition_of(network)
    first, _ = network.step(CODES[:, 0], network.begin(z, condition))
    return torch.cat([network(CODES, z, condition).flatten(), first.flatten()])


def encoded(network: Any) -> Tensor:
    """Features of sequences, with a token hidden and without."""
    mask = torch.ones_like(CODES, dtype=torch.bool)
    mask[0, 1] = mask[2, 4] = False
    condition = condition_of(network)
    return torch.cat([network(CODES, condition), network(CODES, condition, mask)])


EXAMPLES: dict[str, list[Callable[[], Component]]] = {
    "likelihoods.Tokens": [
        lambda: Tokens(LSTMDecoder(6, 2, 4, 5), 5),
        lambda: Tokens(LSTMDecoder(6, 2, 4, 5, condition_features=3), 6, [2]),
        lambda: Tokens(TransformerDecoder(6, 2, 8, 1, 2), 5, [2, 5]),
    ],
    "networks.LSTMDecoder": [
        lambda: LSTMDecoder(6, 2, 4, 5),
        lambda: LSTMDecoder(6, 2, 4, 5, condition_features=2, dropout=0.2, word_dropout=0.3, skip=False),
    ],
    "networks.LSTMEncoder": [
        lambda: LSTMEncoder(6, 4, 5),
        lambda: LSTMEncoder(6, 4, 5, bidirectional=True, condition_features=2, dropout=0.2, hide=0.3),
    ],
    "networks.TransformerDecoder": [
        lambda: TransformerDecoder(6, 2, 8, 2, 2),
        lambda: TransformerDecoder(6, 2, 12, 1, 3, "attend", condition_features=2, dropout=0.2, word_dropout=0.3),
        lambda: TransformerDecoder(6, 2, 8, 3, 2, "attend"),
    ],
    "networks.TransformerEncoder": [
        lambda: TransformerEncoder(6, 8, 2, 2),
        lambda: TransformerEncoder(6, 12, 1, 3, condition_features=2, dropout=0.2, hide=0.3),
    ],
}

NUMBERS: dict[type[Component], Callable[[Any], Tensor]] = {
    Tokens: every_mass,
    LSTMDecoder: decoded,
    LSTMEncoder: encoded,
    TransformerDecoder: decoded,
    TransformerEncoder: encoded,
}
