"""What ladders are made of: residual blocks of images and of vectors, and the shift by a condition."""

from __future__ import annotations

import abc
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.errors import ConfigError
from vaekit.networks.inputs import activation_of


class Block(nn.Module, abc.ABC):
    """From features, and others beside them, to features; its last layer starts at `last_scale` times its usual size.

    The features beside, such as those of the data, may lack leading axes: what they give is computed once and added, so
    that the K samples of a latent share it.
    """

    @abc.abstractmethod
    def forward(self, h: Tensor, beside: Tensor | None = None) -> Tensor:
        """(..., *in) to (..., *out), with the features `beside` broadcast over the leading axes."""


class ConvBlock(Block):
    """W_4 act(W_3 act(W_2 act(W_1 act(h) + V act(beside)))), a bottleneck: 1 x 1, 3 x 3, 3 x 3, 1 x 1, with GELU.

    Where the image is at most 2 x 2, the two in the middle are 1 x 1 as well. Child, "Very deep VAEs generalize
    autoregressive models and can outperform them on images" (2021), figure 3.

    Args:
        in_channels, hidden, out_channels: channels of the input, between, and of the output.
        size: (H, W).
        last_scale: factor on the initial weights of the last layer, whose bias starts at 0.
        beside_channels: channels of the features beside, 0 for none.
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        size: tuple[int, int],
        last_scale: float = 1.0,
        beside_channels: int = 0,
    ) -> None:
        super().__init__()
        kernel = 1 if max(size) <= 2 else 3
        self.first = nn.Conv2d(in_channels, hidden, 1)
        self.beside = nn.Conv2d(beside_channels, hidden, 1, bias=False) if beside_channels else None
        self.middle = nn.ModuleList(nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2) for _ in range(2))
        self.last = nn.Conv2d(hidden, out_channels, 1)
        scale_last(self.last, last_scale)

    def forward(self, h: Tensor, beside: Tensor | None = None) -> Tensor:
        """(..., C, H, W) to (..., out_channels, H, W)."""
        h = over_images(self.first, F.gelu(h))
        if self.beside is not None:
            assert beside is not None
            h = h + over_images(self.beside, F.gelu(beside))
        lead, h = h.shape[:-3], h.flatten(0, -4)
        for layer in self.middle:
            h = layer(F.gelu(h))
        return self.last(F.gelu(h)).unflatten(0, lead)


class DenseBlock(Block):
    """W_2 act(W_1 act(h) + V act(beside)); with gates, W_2 (u * sigmoid(v)) with u, v = W_1 h + V beside.

    Args:
        in_features, hidden, out_features: width of the input, between, and of the output.
        activation: a name of `activation_of`, or `gated`.
        last_scale: factor on the initial weights of the last layer, whose bias starts at 0.
        beside_features: width of the features beside, 0 for none.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        out_features: int,
        activation: str,
        last_scale: float = 1.0,
        beside_features: int = 0,
    ) -> None:
        super().__init__()
        self.gated = activation == "gated"
        self.activation = nn.Identity() if self.gated else activation_of(activation)
        between = 2 * hidden if self.gated else hidden
        self.first = nn.Linear(in_features, between)
        self.beside = nn.Linear(beside_features, between, bias=False) if beside_features else None
        self.last = nn.Linear(hidden, out_features)
        scale_last(self.last, last_scale)

    def forward(self, h: Tensor, beside: Tensor | None = None) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        h = self.first(self.activation(h))
        if self.beside is not None:
            assert beside is not None
            h = h + self.beside(self.activation(beside))
        if self.gated:
            value, gate = h.chunk(2, dim=-1)
            return self.last(value * torch.sigmoid(gate))
        return self.last(self.activation(h))


class Residual(nn.Module):
    """h + block(h)."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, h: Tensor) -> Tensor:
        """(..., *in) to the same shape."""
        return h + self.block(h)


class ConditionShift(nn.Module):
    """h + W c, the same at every place of an image; h itself for a network without conditions.

    Args:
        condition_features: width of the condition, 0 for none.
        shape: the shape of h for one example: (C, H, W) or (F,).
    """

    def __init__(self, condition_features: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.condition_features, self.places = condition_features, (1,) * (len(shape) - 1)
        self.linear = nn.Linear(condition_features, shape[0]) if condition_features else None

    def forward(self, h: Tensor, condition: Tensor | None) -> Tensor:
        """(..., B, *shape) shifted by a condition (B, G); an h for one example (1, *shape) becomes one for each.

        Raises:
            ConfigError: for a condition of another width than the network was built for.
        """
        found = 0 if condition is None else condition.shape[-1]
        if found != self.condition_features:
            raise ConfigError(
                f"The ladder takes a condition of {self.condition_features} features, got {found}. Pass what it was built for."
            )
        if self.linear is None or condition is None:
            return h
        shift = self.linear(condition.to(self.linear.weight.dtype))
        return h + shift.reshape(*shift.shape, *self.places)


def scale_last(layer: nn.Conv2d | nn.Linear, factor: float) -> None:
    """Scales the initial weights of a branch's last layer and sets its bias to 0, as biases would add up with depth."""
    with torch.no_grad():
        layer.weight.mul_(factor)
        if layer.bias is not None:
            layer.bias.zero_()


def over_images(layer: nn.Module, h: Tensor) -> Tensor:
    """A layer of (N, C, H, W) on (..., C, H, W)."""
    return layer(h.flatten(0, -4)).unflatten(0, h.shape[:-3])


def in_logs(x: Tensor, dtype: torch.dtype) -> Tensor:
    """sign(x) log(1 + |x|), by which what differs by a factor differs by a step; whole numbers become `dtype`."""
    x = x if x.is_floating_point() else x.to(dtype)
    return torch.copysign(torch.log1p(x.abs()), x)


def branch_scale(num_blocks: int) -> float:
    """sqrt(1 / N), by which the last layer of each of N residual branches starts smaller, so that depth adds no variance."""
    return math.sqrt(1 / max(1, num_blocks))
