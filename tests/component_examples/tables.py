"""Rows of a table: their likelihood and the networks that read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vaekit.component import Component
from vaekit.likelihoods import Cells
from vaekit.networks import MLP, CellEmbedding, ResidualMLP

SIZES = [3, 1, 7]


def dtype_of(component: Component) -> torch.dtype:
    return next(component.parameters()).dtype


def rows(component: Any) -> Tensor:
    """The first and the last place of each column, and one between."""
    sizes = torch.tensor(component.sizes, dtype=dtype_of(component))
    return torch.stack([0 * sizes, sizes / 2, sizes - 0.001])


def every_mass(likelihood: Any) -> Tensor:
    """log p of rows, one column missing, and the masses of every cell: groups of which no row is have weights too."""
    z = torch.linspace(-1, 1, 12, dtype=dtype_of(likelihood)).reshape(2, 3, 2)
    p = likelihood(z)
    mask = torch.ones(3, len(likelihood.sizes), dtype=torch.bool)
    mask[1, 0] = False
    masses = [p.column_log_masses(column).flatten() for column in range(len(likelihood.sizes))]
    return torch.cat([p.log_prob(rows(likelihood), mask).flatten(), *masses])


def every_cell(network: Any) -> Tensor:
    """A row for each cell, with and without a column that is not known."""
    dtype = dtype_of(network)
    sizes = torch.tensor(network.spec()["sizes"], dtype=dtype)
    x = torch.minimum(torch.arange(max(sizes.tolist()), dtype=dtype)[:, None] + 0.25, sizes - 0.125)
    known = torch.ones(len(x), len(sizes), dtype=torch.bool)
    hidden = ~torch.eye(len(sizes), dtype=torch.bool)
    rows, mask = torch.cat([x, x[: len(sizes)]]), torch.cat([known, hidden])
    return torch.cat([network(rows, mask=mask), network(x)])


def read(network: Any) -> Tensor:
    """Features of three inputs, one element missing."""
    shape = network.spec()["in_shape"]
    shape = [shape] if isinstance(shape, int) else shape
    condition_features = network.spec()["condition_features"]
    dtype = dtype_of(network)
    x = torch.sin(torch.arange(3 * torch.Size(shape).numel(), dtype=dtype)).reshape(3, *shape)
    condition = torch.sin(torch.arange(3 * condition_features, dtype=dtype)).reshape(3, -1) if condition_features else None
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 0] = False
    return network(x, condition, mask)


EXAMPLES: dict[str, list[Callable[[], Component]]] = {
    "likelihoods.Cells": [
        lambda: Cells(MLP(2, [4]), SIZES),
        lambda: Cells(MLP(2, [4]), [3, 1100, 1025], [False, True, False], rank=2),
        lambda: Cells(ResidualMLP(2, width=4, depth=1), [2]),
    ],
    "networks.CellEmbedding": [
        lambda: CellEmbedding(MLP([3, 2], [4]), SIZES, [True, True, True], features=2),
        lambda: CellEmbedding(ResidualMLP([2, 3], width=4), [5, 40], [True, True], features=3),
    ],
    "networks.ResidualMLP": [
        lambda: ResidualMLP(3, width=4),
        lambda: ResidualMLP([3, 2], width=4, depth=0, condition_features=2),
        lambda: ResidualMLP(3, width=4, depth=1, input_range=[0.0, 2.0], observe_mask=True),
    ],
}

NUMBERS: dict[type[Component], Callable[[Any], Tensor]] = {
    Cells: every_mass,
    CellEmbedding: every_cell,
    ResidualMLP: read,
}
