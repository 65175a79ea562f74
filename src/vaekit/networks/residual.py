"""Dense residual networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.errors import ConfigError
from vaekit.networks.inputs import Inputs, append_condition
from vaekit.networks.mlp import LinearHead


class GatedBlock(nn.Module):
    """h + W (a * silu(b)) with (a, b) = V LayerNorm(h): Shazeer, "GLU variants improve transformer" (2020), equation 6.

    W starts at 0, so a stack of blocks starts as the identity.

    Args:
        width: of h.
        hidden: of a and b.
        dropout: the share of a * silu(b) that is set to 0 in training.
    """

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, h: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        value, gate = self.up(self.norm(h)).chunk(2, dim=-1)
        return h + self.down(self.dropout(value * F.silu(gate)))


class ResidualMLP(Component):
    """A linear layer, gated residual blocks and a normalisation: features = LayerNorm(b_n(... b_1(W x))).

    For tables, where it is ahead of plain dense layers at equal cost: blocks as in a transformer without attention.
    Gorishniy, Rubachev, Khrulkov, Babenko, "Revisiting deep learning models for tabular data" (2021), section 3.3 for
    residual networks on tables.

    Args:
        in_shape: features of the input, or the shape of one example, which is flattened.
        width: of the residual stream, and the number of features that come out.
        depth: blocks.
        dropout: the share of each block's hidden units that is set to 0 in training.
        condition_features: width of the condition, 0 for none.
        input_range: (low, high) of the data, brought to [-1, 1]; None to leave it.
        observe_mask: whether the mask of missing elements is part of the input.

    Raises:
        ConfigError: for a width or size below 1, a negative depth, or a dropout outside [0, 1).

    Example:
        >>> import torch
        >>> ResidualMLP(4, width=8, depth=2)(torch.zeros(3, 4)).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        width: int,
        depth: int = 2,
        dropout: float = 0.0,
        condition_features: int = 0,
        input_range: Sequence[float] | None = None,
        observe_mask: bool = False,
    ) -> None:
        super().__init__()
        shape = (in_shape,) if isinstance(in_shape, int) else tuple(in_shape)
        if min(width, *shape) < 1 or depth < 0 or not 0.0 <= dropout < 1.0:
            raise ConfigError(
                "A ResidualMLP must have sizes of at least 1, a depth of at least 0 and a dropout in [0, 1), got "
                f"in_shape={shape}, width={width}, depth={depth}, dropout={dropout}. Two blocks of 256 are a good start."
            )
        self.in_dims, self.condition_features = len(shape), condition_features
        self.inputs = Inputs(input_range, observe_mask)
        self.first = nn.Linear(math.prod(shape) * (2 if observe_mask else 1) + condition_features, width)
        self.blocks = nn.Sequential(*(GatedBlock(width, width, dropout) for _ in range(depth)), nn.LayerNorm(width))
        self.out_shape = (width,)

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> LinearHead:
        """A linear layer to (..., num_parameters, *event_shape)."""
        return LinearHead(self.out_shape[0], num_parameters, event_shape)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(..., *in_shape) to (..., width).

        Raises:
            ConfigError: for a condition of another width than the network was built for.
        """
        lead = x.shape[: x.dim() - self.in_dims]
        observed = None if mask is None else mask.expand(x.shape).flatten(0, len(lead) - 1)
        h = self.inputs(x.flatten(0, len(lead) - 1), observed, self.first.weight.dtype)
        h = append_condition(h.flatten(1).unflatten(0, lead), condition, self.condition_features)
        return self.blocks(self.first(h))
