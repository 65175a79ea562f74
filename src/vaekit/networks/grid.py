"""A convolutional pair that keeps the grid: images to feature maps, and latents (C, H, W) to images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.errors import ConfigError
from vaekit.networks.conv import ConvHead, Enlarging, ResidualBlock, channels_last, check_stages, stage_sizes
from vaekit.networks.inputs import Inputs, append_condition
from vaekit.types import as_network


class _ConditionMap(nn.Module):
    """Feature maps with a condition (B, F), mapped to their channels, added at every position."""

    def __init__(self, condition_features: int, channels: int) -> None:
        super().__init__()
        self.condition_features = condition_features
        self.linear = nn.Linear(condition_features, channels) if condition_features else None

    def forward(self, h: Tensor, condition: Tensor | None, lead: torch.Size) -> Tensor:
        """(N, F, H, W) to the same shape, where `lead` (..., B) says how the N rows lie."""
        empty = h.new_zeros(*lead, 0)
        features = append_condition(empty, condition, self.condition_features)
        if self.linear is None:
            return h
        return h + self.linear(features.to(self.linear.weight.dtype)).flatten(0, -2)[..., None, None]


class GridEncoder(Component):
    """Images to feature maps: a 3 x 3 stem, then stages of residual blocks, each halving the size (rounding up).

    `ConvEncoder` without its last layer, for latents that lie on a grid: with n stages, of 1 / 2^(n-1) of the image's size.

    Args:
        shape: (C, H, W), any sizes.
        channels: width of each stage; the first works at full size, and the last is the number of features that come out.
        num_blocks: residual blocks a stage.
        condition_features: width of the condition, 0 for none.
        input_range: (low, high) of the data, brought to [-1, 1].
        observe_mask: whether the mask of missing elements is part of the input.

    Raises:
        ConfigError: for sizes or widths below 1, a negative `num_blocks`, or an `input_range` that does not rise.

    Example:
        >>> GridEncoder([3, 32, 32], [4, 8, 8]).out_shape
        (8, 8, 8)
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int],
        num_blocks: int = 1,
        condition_features: int = 0,
        input_range: Sequence[float] | None = None,
        observe_mask: bool = False,
    ) -> None:
        super().__init__()
        c, h, w = check_stages(shape, channels, num_blocks)
        self.inputs = Inputs(input_range, observe_mask)
        self.stem = nn.Conv2d(c * (2 if observe_mask else 1), channels[0], 3, padding=1)
        last_scale = 1 / math.sqrt(max(1, len(channels) * num_blocks))
        self.narrow = nn.ModuleList(
            nn.Conv2d(channels[i - 1], channels[i], 3, stride=2, padding=1) for i in range(1, len(channels))
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width, last_scale) for _ in range(num_blocks))) for width in channels
        )
        self.condition_map = _ConditionMap(condition_features, channels[-1])
        self.out_shape = (channels[-1], *stage_sizes(h, w, len(channels))[-1])
        channels_last(self)

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> ConvHead:
        """A 1 x 1 convolution to (..., num_parameters, C, H, W).

        Raises:
            ConfigError: if the event is not of the grid that comes out.
        """
        if len(event_shape) != 3 or event_shape[1:] != self.out_shape[1:]:
            raise ConfigError(
                f"The encoder gives a grid of {self.out_shape[1:]}, got latents of the shape {event_shape}. Give `positions` "
                f"as {list(self.out_shape[1:])}, or another number of stages."
            )
        return ConvHead(self.out_shape, num_parameters, event_shape)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(..., C, H, W) to (..., F, H', W').

        Raises:
            ConfigError: for a condition of another width than the network was built for.
        """
        lead = x.shape[:-3]
        observed = None if mask is None else mask.expand(x.shape).flatten(0, -4)
        h = self.inputs(x.flatten(0, -4), observed, self.stem.weight.dtype)
        h = self.stem(h.contiguous(memory_format=torch.channels_last))
        for i, blocks in enumerate(self.blocks):
            h = self.narrow[i - 1](h) if i else h
            h = self.condition_map(h, condition, lead) if i == len(self.narrow) else h
            h = blocks(h)
        return F.silu(h).reshape(*lead, *self.out_shape)


class GridDecoder(Enlarging, Component):
    """Latents on a grid to feature maps of images: the mirror of `GridEncoder`.

    Args:
        latent_shape: (C, H', W').
        shape: (C, H, W) of the images; feature maps come out at H x W.
        channels: width of each stage, in the encoder's order: the first works at full size.
        num_blocks: residual blocks a stage.
        condition_features: width of the condition, 0 for none.

    Raises:
        ConfigError: for sizes or widths below 1, a negative `num_blocks`, or a grid that these stages do not start from.

    Example:
        >>> GridDecoder([5, 8, 8], [3, 32, 32], [4, 8, 8])(torch.zeros(2, 9, 5, 8, 8)).shape
        torch.Size([2, 9, 4, 32, 32])
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        shape: Sequence[int],
        channels: Sequence[int],
        num_blocks: int = 1,
        condition_features: int = 0,
    ) -> None:
        super().__init__()
        self.build_stages(check_stages(shape, channels, num_blocks), channels, num_blocks)
        if len(latent_shape) != 3 or min(latent_shape) < 1 or tuple(latent_shape[1:]) != self.sizes[-1]:
            raise ConfigError(
                f"`latent_shape` must be (C, {self.sizes[-1][0]}, {self.sizes[-1][1]}) for {len(channels)} stages, got "
                f"{tuple(latent_shape)}. Give another grid, or another number of stages."
            )
        self.start = nn.Conv2d(latent_shape[0], channels[-1], 3, padding=1)
        self.condition_map = _ConditionMap(condition_features, channels[-1])
        channels_last(self)

    def forward(self, z: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(..., C, H', W') to (..., F, H, W).

        Raises:
            ConfigError: for a condition of another width than the network was built for.
        """
        lead = z.shape[:-3]
        h = self.start(z.flatten(0, -4).contiguous(memory_format=torch.channels_last))
        h = self.condition_map(h, condition, lead)
        return self.enlarged(h).reshape(*lead, *self.out_shape)


class SumOfLayers(Component):
    """A network of the sum of a latent's layers, such as those of `posteriors.ResidualQuantized`.

    Args:
        network: takes one layer.
        layer_dims: how many dimensions one layer has: 1 for vectors, 3 for grids (C, H, W).

    Raises:
        ConfigError: for what is no network, or fewer than one dimension.

    Example:
        >>> from vaekit.networks import MLP
        >>> SumOfLayers(MLP(3, [8]))(torch.zeros(2, 9, 4, 3)).shape
        torch.Size([2, 9, 8])
    """

    def __init__(self, network: Component, layer_dims: int = 1) -> None:
        super().__init__()
        if layer_dims < 1:
            raise ConfigError(f"`layer_dims` must be at least 1, got {layer_dims}. Use 1 for vectors and 3 for grids.")
        self.network, self.layer_dims = network, layer_dims
        self.out_shape = as_network(network, "SumOfLayers").out_shape

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> nn.Module:
        """The network's own head."""
        return as_network(self.network, "SumOfLayers").make_head(num_parameters, event_shape)

    def forward(self, z: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(..., layers, *layer) to (..., *out_shape)."""
        return self.network(z.sum(-1 - self.layer_dims), condition, mask)
