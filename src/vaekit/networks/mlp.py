"""Dense networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.errors import ConfigError
from vaekit.networks.inputs import Inputs, activation_of, append_condition


class LinearHead(nn.Module):
    """A linear layer whose output is (..., num_parameters, *event_shape)."""

    def __init__(self, in_features: int, num_parameters: int, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, num_parameters * math.prod(event_shape))
        self.out_shape = (num_parameters, *event_shape)

    def forward(self, features: Tensor) -> Tensor:
        """(..., F) to (..., num_parameters, *event_shape)."""
        return self.linear(features).unflatten(-1, self.out_shape)


class GatedLinear(nn.Module):
    """h = (W x + b) * sigmoid(V x + c): Dauphin et al., "Language modeling with gated convolutional networks" (2017)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, 2 * out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        value, gate = self.linear(x).chunk(2, dim=-1)
        return value * torch.sigmoid(gate)


class MLP(Component):
    """Dense layers: features = f_n(... f_1(x)), f_i(h) = activation(W_i h + b_i), or gated layers.

    Args:
        in_shape: features of the input, or the shape of one example, which is flattened.
        hidden: width of each layer; the last is the number of features that come out.
        activation: `relu`, `gelu`, `silu`, `tanh`, ..., or `gated` (tends to win half a nat over tanh on images).
        residual: whether a layer as wide as its input adds it: h + f(h).
        condition_features: width of the condition, 0 for none.
        input_range: (low, high) of the data, brought to [-1, 1]; None to leave it.
        observe_mask: whether the mask of missing elements is part of the input.
        initialization: `default`, that of torch (Kaiming uniform), or `glorot`: weights U(-a, a) with a = sqrt(6 / (in + out))
            and biases 0, the head's included (Glorot, Bengio, "Understanding the difficulty of training deep feedforward
            neural networks", 2010).

    Raises:
        ConfigError: for an empty or non-positive width, an unknown activation or initialisation, or an `input_range` that
            does not rise.

    Example:
        >>> MLP(4, [8, 6])(torch.zeros(3, 4)).shape
        torch.Size([3, 6])
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        hidden: Sequence[int],
        activation: str = "silu",
        residual: bool = False,
        condition_features: int = 0,
        input_range: Sequence[float] | None = None,
        observe_mask: bool = False,
        initialization: str = "default",
    ) -> None:
        super().__init__()
        if initialization not in ("default", "glorot"):
            raise ConfigError(
                f"`initialization` must be default or glorot, got {initialization!r}. Use `default` when in doubt."
            )
        shape = (in_shape,) if isinstance(in_shape, int) else tuple(in_shape)
        if not hidden or min(*hidden, *shape) < 1:
            raise ConfigError(
                f"An MLP must have layers and sizes of at least 1, got in_shape={shape} and hidden={tuple(hidden)}. "
                "Give at least one width."
            )
        self.in_dims, self.condition_features, self.residual = len(shape), condition_features, residual
        self.inputs = Inputs(input_range, observe_mask)
        widths = [math.prod(shape) * (2 if observe_mask else 1) + condition_features, *hidden]
        self.layers = nn.ModuleList(_layer(i, o, activation) for i, o in itertools.pairwise(widths))
        self.out_shape = (hidden[-1],)
        self.initialization = initialization
        if initialization == "glorot":
            self.layers.apply(_glorot)

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> LinearHead:
        """A linear layer to (..., num_parameters, *event_shape)."""
        head = LinearHead(self.out_shape[0], num_parameters, event_shape)
        return head.apply(_glorot) if self.initialization == "glorot" else head

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(..., *in_shape) to (..., F).

        Raises:
            ConfigError: for a condition of another width than the network was built for.
        """
        lead = x.shape[: x.dim() - self.in_dims]
        observed = None if mask is None else mask.expand(x.shape).flatten(0, len(lead) - 1)
        h = self.inputs(x.flatten(0, len(lead) - 1), observed, next(self.parameters()).dtype)
        h = append_condition(h.flatten(1).unflatten(0, lead), condition, self.condition_features)
        for layer in self.layers:
            out = layer(h)
            h = h + out if self.residual and out.shape == h.shape else out
        return h


def _glorot(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def _layer(in_features: int, out_features: int, activation: str) -> nn.Module:
    if activation == "gated":
        return GatedLinear(in_features, out_features)
    return nn.Sequential(nn.Linear(in_features, out_features), activation_of(activation))
