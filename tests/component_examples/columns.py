"""Transformers over the columns of a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vaekit.component import Component
from vaekit.networks import ColumnDecoder, ColumnEncoder


def wave(network: Any, *shape: int) -> Tensor:
    """Numbers from -1 to 1 that no pattern of the shape repeats."""
    dtype = next(network.parameters()).dtype
    return torch.sin(1.7 * torch.arange(torch.Size(shape).numel(), dtype=dtype)).reshape(shape)


def condition_of(network: Any) -> Tensor | None:
    return wave(network, 3, network.condition_features) if network.condition_features else None


def encoded(network: Any) -> Tensor:
    """Features of three rows, a number of one not known."""
    x = wave(network, 2, 3, *network.spec()["in_shape"])
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 1, 0] = False
    return network(x, condition_of(network), mask)


def decoded(network: Any) -> Tensor:
    """The columns' tokens."""
    return network(wave(network, 2, 3, network.spec()["num_latents"]), condition_of(network))


EXAMPLES: dict[str, list[Callable[[], Component]]] = {
    "networks.ColumnDecoder": [
        lambda: ColumnDecoder(2, [3, 1, 7], width=4, depth=1, heads=1),
        lambda: ColumnDecoder(2, [3, 1100], width=8, depth=2, heads=2, memory=0, condition_features=2),
        lambda: ColumnDecoder(3, [2], width=4, depth=2, heads=2, memory=3),
    ],
    "networks.ColumnEncoder": [
        lambda: ColumnEncoder([3, 2], width=4, depth=1, heads=1),
        lambda: ColumnEncoder([1, 5], width=6, depth=2, heads=2, summaries=1),
        lambda: ColumnEncoder([4, 2], width=8, depth=3, heads=2, summaries=2, condition_features=3),
    ],
}

NUMBERS: dict[type[Component], Callable[[Any], Tensor]] = {ColumnDecoder: decoded, ColumnEncoder: encoded}
