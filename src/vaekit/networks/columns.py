"""Transformers over the columns of a table: a token a column."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from vaekit.attention import attention
from vaekit.component import Component
from vaekit.distributions.cells import CellLayout
from vaekit.errors import ConfigError
from vaekit.networks.inputs import Inputs, append_condition
from vaekit.networks.mlp import LinearHead
from vaekit.networks.residual import GatedBlock


class ColumnEncoder(Component):
    """Layers in which the columns of a row attend to each other, and tokens that gather what the row says.

        t_c = W x_c + u_c,   t = (s_1, ..., s_S, t_1, ..., t_C),   t = mlp(t + attention(norm(t))) in each layer,
        features = norm(s_1, ..., s_S)

    The summaries s are learned, and of the last layer they alone are computed, which costs a fraction of the others. Columns
    have no order; each has its own u_c. Made for the embeddings of a `CellEmbedding`. A step costs a multiple of one of a
    `ResidualMLP`.

    Gorishniy, Rubachev, Khrulkov, Babenko, "Revisiting deep learning models for tabular data" (2021), section 3.3, is the
    FT-Transformer. Departures: several summaries, since a single token of the width that columns need holds little; and
    gated blocks of twice the width as its MLP.

    Args:
        in_shape: (C, E), columns and the numbers of each.
        width: H, features of a token in each layer, a multiple of the heads.
        depth: how many layers.
        heads: of each layer's attention.
        summaries: S, tokens that become the features.
        dropout: the share of each MLP's hidden units that is set to 0 in training.
        condition_features: width of the condition, which is a token more; 0 for none.

    Raises:
        ConfigError: for an `in_shape` that is not (C, E), sizes below 1, a width that the heads do not divide, or a dropout
            outside [0, 1).

    Example:
        >>> ColumnEncoder([5, 4], width=8, depth=1, heads=2, summaries=3)(torch.zeros(7, 5, 4)).shape
        torch.Size([7, 24])
    """

    twice_differentiable = False  # fused attention is differentiable once

    def __init__(
        self,
        in_shape: Sequence[int],
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        summaries: int = 4,
        dropout: float = 0.0,
        condition_features: int = 0,
    ) -> None:
        super().__init__()
        _check_sizes("ColumnEncoder", width, depth, heads, dropout)
        if len(in_shape) != 2 or min(*in_shape, summaries) < 1:
            raise ConfigError(
                "A ColumnEncoder must have an `in_shape` of columns and numbers a column, and at least 1 summary, got "
                f"in_shape={tuple(in_shape)} and summaries={summaries}. Give the shape that a CellEmbedding hands on, such as "
                "[14, 16]."
            )
        self.condition_features = condition_features
        self.inputs = Inputs(None, False)
        self.first = nn.Linear(in_shape[1], width, bias=False)
        self.columns = nn.Parameter(torch.randn(in_shape[0], width) * _SPREAD)
        self.summaries = nn.Parameter(torch.randn(summaries, width) * _SPREAD)
        self.told = nn.Linear(condition_features, width) if condition_features else None
        self.blocks = nn.ModuleList(ColumnBlock(width, heads, dropout, depth) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out_shape = (summaries * width,)

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> LinearHead:
        """A linear layer to (..., num_parameters, *event_shape)."""
        return LinearHead(self.out_shape[0], num_parameters, event_shape)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(..., C, E) to (..., S * H); what `mask` (..., C, E) hides counts as 0.

        Raises:
            ConfigError: for a condition of another width than the network was built for.
        """
        lead = x.shape[:-2]
        columns = self.first(self.inputs(x, mask, self.first.weight.dtype)) + self.columns
        tokens = [self.summaries.to(columns.dtype).expand(*lead, *self.summaries.shape), columns]
        told = append_condition(columns[..., 0, :0], condition, self.condition_features)
        if self.told is not None:
            tokens.append(self.told(told).unsqueeze(-2))
        h = _through(self.blocks, torch.cat(tokens, -2), len(self.summaries))
        return self.norm(h).flatten(-2)


class ColumnDecoder(Component):
    """A token a column, made of the latent; layers in which they attend to each other, and a head of its own for each.

        t = W z + b,   t = mlp(t + attention(norm(t))) in each layer,   logits of column c = V_c norm(t_c) + a_c

    W z + b holds a token for each of the C columns, with a linear map of the latent of its own, and M more as a memory, which
    the last layer reads and does not change. For `likelihoods.Cells` with the same `sizes`; any other head is a linear layer
    that reads all columns. Layers are those of `ColumnEncoder`.

    Args:
        num_latents: D.
        sizes: n_c, the cells of each column.
        width: H, features of a token in each layer, a multiple of the heads.
        depth: how many layers.
        heads: of each layer's attention.
        memory: M.
        dropout: the share of each MLP's hidden units that is set to 0 in training.
        condition_features: width of the condition, which stands beside the latent; 0 for none.

    Raises:
        ConfigError: for no column, sizes below 1, a negative memory, a width that the heads do not divide, or a dropout outside
            [0, 1).

    Example:
        >>> network = ColumnDecoder(2, sizes=[3, 7], width=8, depth=1, heads=2)
        >>> network(torch.zeros(5, 2)).shape
        torch.Size([5, 2, 8])
        >>> network.make_head(1, (4 + 8,))(network(torch.zeros(5, 2))).shape
        torch.Size([5, 1, 12])
    """

    twice_differentiable = False  # fused attention is differentiable once

    def __init__(
        self,
        num_latents: int,
        sizes: Sequence[int],
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        memory: int = 2,
        dropout: float = 0.0,
        condition_features: int = 0,
    ) -> None:
        super().__init__()
        _check_sizes("ColumnDecoder", width, depth, heads, dropout)
        if not sizes or min(*sizes, num_latents) < 1 or memory < 0:
            raise ConfigError(
                "A ColumnDecoder must have columns of at least 1 cell, at least 1 latent and a memory of at least 0, got "
                f"{len(sizes)} columns, num_latents={num_latents} and memory={memory}. Give the `sizes` of the likelihood."
            )
        self.condition_features = condition_features
        self.layout = CellLayout(sizes)
        self.first = nn.Linear(num_latents + condition_features, (len(sizes) + memory) * width)
        nn.init.normal_(self.first.bias, std=_SPREAD)
        self.blocks = nn.ModuleList(ColumnBlock(width, heads, dropout, depth) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out_shape = (len(sizes), width)

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> nn.Module:
        """Of the logits of all cells, a layer of its own for each column; of anything else, a linear layer from all columns."""
        if (num_parameters, event_shape) == (1, (self.layout.num_logits,)):
            return ColumnHead(self.layout, self.out_shape[1])
        return nn.Sequential(nn.Flatten(-2), LinearHead(math.prod(self.out_shape), num_parameters, event_shape))

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Latents (..., D) to (..., C, H).

        Raises:
            ConfigError: for a condition of another width than the network was built for.
        """
        h = self.first(append_condition(x, condition, self.condition_features)).unflatten(-1, (-1, self.out_shape[1]))
        return self.norm(_through(self.blocks, h, self.out_shape[0]))


class ColumnHead(nn.Module):
    """Logits of each column from its own token: (..., C, H) to (..., 1, layout.num_logits).

    The columns of one rectangle of the layout are one batch of matrix products, so that a thousand take a few operations.

    Args:
        layout: of the columns.
        width: H.
    """

    def __init__(self, layout: CellLayout, width: int) -> None:
        super().__init__()
        self.layout = layout
        self.weight = nn.Parameter(torch.empty(layout.num_logits, width).uniform_(-(width**-0.5), width**-0.5))
        self.bias = nn.Parameter(torch.zeros(layout.num_logits))

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        lead, (num_columns, width) = tokens.shape[:-2], tokens.shape[-2:]
        by_column = tokens.reshape(math.prod(lead), num_columns, width).transpose(0, 1)  # (C, N, H)
        shapes = [(len(columns), cells) for columns, cells in self.layout.blocks]
        rows = [num * cells for num, cells in shapes]
        parts = zip(shapes, self.layout.on(tokens.device).blocks, self.weight.split(rows), self.bias.split(rows), strict=True)
        logits = [
            torch.baddbmm(
                bias.view(num, 1, cells), by_column.index_select(0, columns), weight.view(num, cells, width).transpose(1, 2)
            )
            .transpose(0, 1)
            .flatten(1)
            for (num, cells), columns, weight, bias in parts
        ]
        return torch.cat(logits, -1).reshape(*lead, 1, self.layout.num_logits)


class ColumnBlock(nn.Module):
    """One layer: attention, then a `GatedBlock`, each added to what came in.

    At the start, what the attention adds is smaller by sqrt(2 depth), and the gated block adds nothing.
    """

    def __init__(self, width: int, heads: int, dropout: float, depth: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.pair = nn.Linear(width, 2 * width, bias=False)  # keys and values
        self.mix = nn.Linear(width, width, bias=False)
        self.mlp = GatedBlock(width, 2 * width, dropout)
        with torch.no_grad():
            self.mix.weight.mul_((2 * depth) ** -0.5)

    def forward(self, h: Tensor, count: int) -> Tensor:
        """(N, T, H) to (N, count, H): the first tokens of a layer in which all are read."""
        normed = self.norm(h)
        q = self.query(normed[:, :count]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.pair(normed).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        gathered = attention(q, k, v).transpose(1, 2).flatten(2)
        return self.mlp(h[:, :count] + self.mix(gathered))


_SPREAD = 0.5
"""Standard deviation of learned tokens at the start."""


def _through(blocks: nn.ModuleList, tokens: Tensor, count: int) -> Tensor:
    """Tokens (..., T, H) through all layers, the last of which gives the first `count` alone: (..., count, H)."""
    lead, (num_tokens, width) = tokens.shape[:-2], tokens.shape[-2:]
    h = tokens.reshape(math.prod(lead), num_tokens, width)
    for block in itertools.islice(blocks, len(blocks) - 1):
        h = cast(ColumnBlock, block)(h, num_tokens)
    return blocks[-1](h, count).reshape(*lead, count, width)


def _check_sizes(owner: str, width: int, depth: int, heads: int, dropout: float) -> None:
    if min(width, depth, heads) < 1 or width % heads or not 0.0 <= dropout < 1.0:
        raise ConfigError(
            f"A {owner} must have sizes of at least 1, a `width` that the `heads` divide and a dropout in [0, 1), got "
            f"width={width}, depth={depth}, heads={heads} and dropout={dropout}. Two layers of 64 with 4 heads are a start."
        )
