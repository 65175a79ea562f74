"""Networks that read the rows of a table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.errors import ConfigError
from vaekit.types import Network, as_network


class CellEmbedding(Component):
    """A network that is given an embedding for the cell of each column, and of a column with an order also the place in it.

        e_c = E_c[floor(x_c)] + (2 x_c / n_c - 1) w_c    where x_c is observed;  e_c = u_c where it is not

    so that what is missing has an embedding of its own, and a column of many categories costs a row of E a category and no
    one-hot vector. The network gets (..., C, E).

    Args:
        network: the network inside, for inputs of (C, features).
        sizes: n_c, the cells of each column.
        ordered: whether the cells of a column have an order.
        features: E, numbers a column.

    Raises:
        ConfigError: for what is no network, no column, a column without cells, or `ordered` of another length.

    Example:
        >>> from vaekit.networks import ResidualMLP
        >>> network = CellEmbedding(ResidualMLP([2, 4], width=8), sizes=[3, 10], ordered=[False, True], features=4)
        >>> network(torch.tensor([[1.5, 9.25]])).shape
        torch.Size([1, 8])
    """

    def __init__(self, network: Component, sizes: Sequence[int], ordered: Sequence[bool], features: int = 16) -> None:
        super().__init__()
        if not sizes or min(*sizes, features) < 1 or len(ordered) != len(sizes):
            raise ConfigError(
                "A CellEmbedding must have columns of at least 1 cell, as many flags in `ordered`, and at least 1 feature, got "
                f"{len(sizes)} columns, {len(ordered)} flags and {features} features. Give one size and one flag a column."
            )
        self.network = network
        self.out_shape = as_network(network, "CellEmbedding").out_shape
        firsts = [0, *itertools.accumulate(sizes)]
        self.cells = nn.Embedding(firsts[-1], features)
        self.unknown = nn.Parameter(torch.randn(len(sizes), features) * 0.3)
        self.slope = nn.Parameter(torch.zeros(len(sizes), features))
        nn.init.normal_(self.cells.weight, std=0.3)
        # Not persistent: the constructor's arguments hold them.
        self.register_buffer("_firsts", torch.tensor(firsts[:-1]), persistent=False)
        self.register_buffer("_sizes", torch.tensor(sizes), persistent=False)
        self.register_buffer("_ordered", torch.tensor(ordered, dtype=torch.float32), persistent=False)

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> nn.Module:
        """The inner network's head."""
        return cast(Network, self.network).make_head(num_parameters, event_shape)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(..., C) to (..., *out_shape); what stands at a missing column is not read, NaN included."""
        sizes, firsts, ordered = cast(Tensor, self._sizes), cast(Tensor, self._firsts), cast(Tensor, self._ordered)
        known = x if mask is None else torch.where(mask, x, 0.5)
        cell = torch.minimum(known.floor().long().clamp(min=0), sizes - 1)
        place = (2 * known / sizes - 1) * ordered.to(known.dtype)
        embedded = self.cells(cell + firsts) + place.unsqueeze(-1) * self.slope
        if mask is not None:
            embedded = torch.where(mask.unsqueeze(-1), embedded, self.unknown)
        return self.network(embedded.to(self.slope.dtype), condition)
