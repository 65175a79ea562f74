"""Rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.distributions.cells import CellLayout, Grouped
from vaekit.distributions.cells import Cells as CellDistribution
from vaekit.errors import ConfigError
from vaekit.likelihoods.base import Likelihood, last_bias


class Cells(Likelihood):
    """The columns of a table, each divided into cells: a mass for each cell, a uniform place inside it.

    All columns come from one linear layer and are normalised together, a thousand of them in a few operations. Formula:
    `vaekit.distributions.Cells`. What the cells are of numbers, categories, words and missing values is the business of the
    data's transform, `data.tables.CellGrid`.

    Args:
        network: maps latents to features.
        sizes: n_c, the cells of each column.
        ordered: whether the cells of a column have an order; None for none.
        rank: features of the cells of columns with more than `distributions.cells.MOST_FLAT` cells, inside their groups.

    Raises:
        ConfigError: for no column, a column without cells, `ordered` of another length, a rank below 1, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> p = Cells(MLP(2, [8]), sizes=[3, 5000])(torch.zeros(4, 2))
        >>> x = p.sample()
        >>> x.shape, p.log_prob(x).shape
        (torch.Size([4, 2]), torch.Size([4]))
    """

    discrete = False
    """Some columns may be masses and others densities; the transform's log-determinant says which."""

    def __init__(self, network: Component, sizes: Sequence[int], ordered: Sequence[bool] | None = None, rank: int = 64) -> None:
        if not sizes or min(sizes) < 1 or rank < 1 or (ordered is not None and len(ordered) != len(sizes)):
            raise ConfigError(
                "Cells must have columns of at least 1 cell, a flag in `ordered` for each, and a rank of at least 1, got "
                f"{len(sizes)} columns, {'no' if ordered is None else len(ordered)} flags and the rank {rank}."
                " Give one size a column."
            )
        layout = CellLayout(sizes)
        super().__init__(network, [len(sizes)], 1, (layout.num_logits,))
        self.sizes, self.ordered, self.rank = list(sizes), None if ordered is None else list(ordered), rank
        self.layout = layout
        self.twice_differentiable = bool(getattr(network, "twice_differentiable", True))
        self.register_buffer("_padding", layout.padding(), persistent=False)
        self.register_buffer("_grouped_padding", layout.grouped_padding(), persistent=False)
        if layout.groups:
            self.grouped_head = network.make_head(rank, ())  # pyright: ignore[reportCallIssue]
            self.grouped_weight = nn.Parameter(torch.randn(layout.num_grouped, rank) * rank**-0.5)
            self.grouped_bias = nn.Parameter(torch.zeros(layout.num_grouped))

    def forward(self, z: Tensor, condition: Tensor | None = None) -> CellDistribution:
        """See `Likelihood.forward`."""
        features = self.network(z, condition)
        logits = self.head(features).to(z.dtype).squeeze(-2) + self._padding
        grouped = None
        if self.layout.groups:
            bias = self.grouped_bias + cast(Tensor, self._grouped_padding)
            grouped = Grouped(self.grouped_head(features).to(z.dtype), self.grouped_weight, bias)
        return CellDistribution(logits, self.layout, self.ordered or [False] * len(self.sizes), grouped)

    @torch.no_grad()
    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Sets the biases so that training starts at the frequencies of x (B, C).

        Each cell has half a row more than there are; of a column with groups, each group has, and each cell within its group.
        """
        bias = last_bias(self.head)
        if bias is None:
            return
        observed = torch.ones_like(x, dtype=torch.bool) if mask is None else mask.expand(x.shape)
        for column, (first, width) in enumerate(zip(self.layout.firsts(), self.layout.widths, strict=True)):
            cells = x[observed[:, column], column].floor().long().clamp(0, self.sizes[column] - 1)
            groups = self.layout.groups.get(column)
            if groups is not None:
                counts = torch.bincount(cells, minlength=groups.count * groups.size) + 0.5
                self.grouped_bias[groups.rows] = counts.log().to(bias.dtype)
                cells = cells // groups.size
            counts = torch.bincount(cells, minlength=width) + 0.5
            bias[first : first + width] = (counts / counts.sum()).log().to(bias.dtype)

    def peak_elements(self) -> int:
        """See `Likelihood.peak_elements`; of a column with groups, the weights of one group's cells, or the masses of all."""
        largest = max((max(g.size * self.rank, g.count * g.size) for g in self.layout.groups.values()), default=0)
        return max(super().peak_elements(), self.layout.num_logits, largest)

    def check(self, x: Tensor, mask: Tensor | None = None) -> str | None:
        """Places must lie in [0, n) of their column."""
        sizes = torch.tensor(self.sizes, device=x.device)
        outside = ~((x >= 0) & (x < sizes))
        if mask is not None:
            outside &= mask
        if not bool(outside.any()):
            return None
        column = int(outside.any(0).nonzero()[0])
        return f"places from 0 to below {self.sizes[column]} in column {column}"
