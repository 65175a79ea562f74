"""A residual convolutional pair that fits any C x H x W."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.errors import ConfigError
from vaekit.networks.inputs import Inputs, append_condition
from vaekit.networks.mlp import LinearHead


class ConvHead(nn.Module):
    """A 1 x 1 convolution whose output is (..., num_parameters, C, H, W)."""

    def __init__(self, in_shape: tuple[int, ...], num_parameters: int, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_shape[0], num_parameters * event_shape[0], 1)
        self.out_shape = (num_parameters, *event_shape)

    def forward(self, features: Tensor) -> Tensor:
        """(..., F, H, W) to (..., num_parameters, C, H, W)."""
        lead = features.shape[:-3]
        return self.conv(features.flatten(0, len(lead) - 1)).reshape(*lead, *self.out_shape)


class ResidualBlock(nn.Module):
    """h + W_2 act(W_1 act(h)), both 3 x 3, the second starting at `last_scale` times its usual size."""

    def __init__(self, channels: int, last_scale: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(last_scale)

    def forward(self, h: Tensor) -> Tensor:
        """(N, F, H, W) to the same shape."""
        return h + self.second(F.silu(self.first(F.silu(h))))


def channels_last(module: nn.Module) -> None:
    """Weights in the layout of the activations, so that no convolution has to rearrange them."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def stage_sizes(height: int, width: int, num_stages: int) -> list[tuple[int, int]]:
    """The size of each stage: the image's, then halved (rounding up) at every further stage.

    Example:
        >>> stage_sizes(28, 17, 3)
        [(28, 17), (14, 9), (7, 5)]
    """
    sizes = [(height, width)]
    for _ in range(num_stages - 1):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def check_stages(shape: Sequence[int], channels: Sequence[int], num_blocks: int) -> tuple[int, int, int]:
    """(C, H, W), if these are stages of images."""
    if len(shape) != 3 or min(shape) < 1:
        raise ConfigError(f"`shape` must be (C, H, W) with sizes of at least 1, got {tuple(shape)}. Use an MLP for others.")
    if not channels or min(channels) < 1 or num_blocks < 0:
        raise ConfigError(
            f"`channels` must hold widths of at least 1 and `num_blocks` be >= 0, got {tuple(channels)} and {num_blocks}. "
            "Give a width for each stage, such as [32, 64]."
        )
    return shape[0], shape[1], shape[2]


class ConvEncoder(Component):
    """Images to features: a 3 x 3 stem, then stages of residual blocks, each halving the size (rounding up).

    Residual blocks with a damped last layer train at depth without normalisation layers, so an example's features never
    depend on its batch: Child, "Very deep VAEs" (2021), section 3.

    Args:
        shape: (C, H, W), any sizes.
        channels: width of each stage; the first works at full size.
        num_blocks: residual blocks a stage.
        features: width of the vector that comes out.
        condition_features: width of the condition, 0 for none.
        input_range: (low, high) of the data, brought to [-1, 1].
        observe_mask: whether the mask of missing elements is part of the input.

    Raises:
        ConfigError: for sizes or widths below 1, a negative `num_blocks`, or an `input_range` that does not rise.

    Example:
        >>> ConvEncoder([1, 5, 7], [4, 8], features=6)(torch.zeros(2, 1, 5, 7)).shape
        torch.Size([2, 6])
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int],
        num_blocks: int = 1,
        features: int = 256,
        condition_features: int = 0,
        input_range: Sequence[float] | None = None,
        observe_mask: bool = False,
    ) -> None:
        super().__init__()
        c, h, w = check_stages(shape, channels, num_blocks)
        self.condition_features = condition_features
        self.inputs = Inputs(input_range, observe_mask)
        self.stem = nn.Conv2d(c * (2 if observe_mask else 1), channels[0], 3, padding=1)
        last_scale = 1 / math.sqrt(max(1, len(channels) * num_blocks))
        layers: list[nn.Module] = []
        for i, width in enumerate(channels):
            if i > 0:
                layers.append(nn.Conv2d(channels[i - 1], width, 3, stride=2, padding=1))
            layers += [ResidualBlock(width, last_scale) for _ in range(num_blocks)]
        self.stages = nn.Sequential(*layers)
        last = stage_sizes(h, w, len(channels))[-1]
        self.project = nn.Linear(channels[-1] * last[0] * last[1] + condition_features, features)
        self.out_shape = (features,)
        channels_last(self)

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> LinearHead:
        """A linear layer to (..., num_parameters, *event_shape)."""
        return LinearHead(self.out_shape[0], num_parameters, event_shape)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(..., C, H, W) to (..., F).

        Raises:
            ConfigError: for a condition of another width than the network was built for.
        """
        lead = x.shape[:-3]
        observed = None if mask is None else mask.expand(x.shape).flatten(0, -4)
        h = self.inputs(x.flatten(0, -4), observed, self.stem.weight.dtype)
        h = self.stages(self.stem(h.contiguous(memory_format=torch.channels_last)))
        h = F.silu(h).flatten(1).unflatten(0, lead)
        return F.silu(self.project(append_condition(h, condition, self.condition_features)))


class Enlarging(nn.Module):
    """Stages from small feature maps to those of whole images, by nearest neighbours, and the head on top.

    Args:
        shape: (C, H, W) of the images.
        channels: width of each stage, the first at full size.
        num_blocks: residual blocks a stage.
    """

    def build_stages(self, shape: Sequence[int], channels: Sequence[int], num_blocks: int) -> None:
        """Makes the stages; `sizes` are theirs, from full size down."""
        _, h, w = shape
        self.sizes = stage_sizes(h, w, len(channels))
        last_scale = 1 / math.sqrt(max(1, len(channels) * num_blocks))
        self.blocks = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width, last_scale) for _ in range(num_blocks))) for width in reversed(channels)
        )
        self.widen = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i - 1], 3, padding=1) for i in range(len(channels) - 1, 0, -1)
        )
        self.out_shape = (channels[0], h, w)

    def enlarged(self, h: Tensor) -> Tensor:
        """(N, C, *sizes[-1]) to (N, *out_shape)."""
        for i, blocks in enumerate(self.blocks):
            if i > 0:
                h = F.interpolate(self.widen[i - 1](h), size=self.sizes[-1 - i], mode="nearest")
            h = blocks(h)
        return F.silu(h)

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> nn.Module:
        """A 1 x 1 convolution to (..., num_parameters, C, H, W).

        Raises:
            ConfigError: if the event is not an image of this size.
        """
        if len(event_shape) != 3 or event_shape[1:] != self.out_shape[1:]:
            raise ConfigError(
                f"The decoder makes images of {self.out_shape[1:]}, got the event shape {event_shape}. Give both the same size."
            )
        return ConvHead(self.out_shape, num_parameters, event_shape)


class ConvDecoder(Enlarging, Component):
    """Latents to feature maps: the mirror of `ConvEncoder`, with nearest-neighbour upsampling to each stage's exact size.

    Args:
        num_latents: D.
        shape: (C, H, W) of the images; feature maps come out at H x W.
        channels: width of each stage, in the encoder's order: the first works at full size.
        num_blocks: residual blocks a stage.
        condition_features: width of the condition, 0 for none.

    Raises:
        ConfigError: for sizes or widths below 1, or a negative `num_blocks`.

    Example:
        >>> ConvDecoder(3, [1, 5, 7], [4, 8])(torch.zeros(2, 9, 3)).shape
        torch.Size([2, 9, 4, 5, 7])
    """

    def __init__(
        self,
        num_latents: int,
        shape: Sequence[int],
        channels: Sequence[int],
        num_blocks: int = 1,
        condition_features: int = 0,
    ) -> None:
        super().__init__()
        self.build_stages(check_stages(shape, channels, num_blocks), channels, num_blocks)
        self.condition_features = condition_features
        self.start_shape = (channels[-1], *self.sizes[-1])
        self.start = nn.Linear(num_latents + condition_features, math.prod(self.start_shape))
        channels_last(self)

    def forward(self, z: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(..., D) to (..., F, H, W).

        Raises:
            ConfigError: for a condition of another width than the network was built for.
        """
        lead = z.shape[:-1]
        z = append_condition(z, condition, self.condition_features)
        h = self.start(z.flatten(0, -2)).unflatten(1, self.start_shape).contiguous(memory_format=torch.channels_last)
        return self.enlarged(h).reshape(*lead, *self.out_shape)
