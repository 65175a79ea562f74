"""A ladder of feature maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.errors import ConfigError
from vaekit.networks.conv import channels_last, stage_sizes
from vaekit.networks.hierarchy import Ladder, make_rung, widest_latents
from vaekit.networks.hierarchy_blocks import Block, ConditionShift, ConvBlock, Residual, branch_scale, in_logs, scale_last
from vaekit.networks.inputs import Inputs

_LARGEST_BIAS = 64
"""Sizes up to which a stage has a learned start of its own: beyond, it would have more parameters than all blocks."""


class ConvLadder(Ladder):
    """Latents (C_z, H_l, W_l) at rising sizes, from data to feature maps and back, for any C x H x W.

    Bottom up: a 3 x 3 stem, bottleneck blocks, average pooling between stages. Top down: levels of the smallest stage
    first, nearest-neighbour upsampling to each stage's exact size with a learned start of its own, and at each level prior,
    posterior and a bottleneck block. What every level adds stays in the one state that reaches the likelihood, so all of
    them are connected to the data directly, which is what the skip connections of Dieng et al., "Avoiding latent variable
    collapse with generative skip models" (2019), are for.

    Child, "Very deep VAEs generalize autoregressive models and can outperform them on images" (2021), section 3 and
    figure 3; the top-down inference is that of Sonderby et al., "Ladder variational autoencoders" (2016), and Kingma et al.,
    "Improved variational inference with inverse autoregressive flow" (2016). Departures: the last layers of the posterior's
    blocks are scaled by sqrt(1 / L) too, and stages may differ in width.

    Args:
        shape: (C, H, W) of the data, any sizes.
        channels: width of each stage; the first works at full size, each further at half of it, rounded up.
        levels: how many levels of latents each stage has, in the same order; the last has at least one.
        num_latents: C_z, channels of the latent of each level.
        num_blocks: bottleneck blocks a stage on the way up.
        bottleneck: a block is this many times narrower inside.
        condition_features: width of the condition, 0 for none.
        input_range: (low, high) of the data, brought to [-1, 1].
        observe_mask: whether the mask of missing elements is part of the input.
        log_input: whether the data enter as sign(x) log(1 + |x|), as counts should; `input_range` is then that of the logs.

    Raises:
        ConfigError: for sizes or widths below 1, or levels that do not fit the stages.

    Example:
        >>> ladder = ConvLadder([1, 5, 7], [8, 8, 8], levels=[0, 2, 1], num_latents=3)
        >>> ladder.latent_shapes
        ((3, 2, 2), (3, 3, 4), (3, 3, 4))
        >>> [tuple(features.shape) for features in ladder.bottom_up(torch.zeros(9, 1, 5, 7))]
        [(9, 8, 2, 2), (9, 8, 3, 4), (9, 8, 3, 4)]
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int],
        levels: Sequence[int],
        num_latents: int = 16,
        num_blocks: int = 1,
        bottleneck: int = 4,
        condition_features: int = 0,
        input_range: Sequence[float] | None = None,
        observe_mask: bool = False,
        log_input: bool = False,
    ) -> None:
        super().__init__()
        _check(shape, channels, levels, num_latents, num_blocks, bottleneck)
        self.sizes = stage_sizes(shape[1], shape[2], len(channels))
        self.channels, self.condition_features = tuple(channels), condition_features
        self.hidden = [max(1, width // bottleneck) for width in channels]
        self.stages = [stage for stage in reversed(range(len(channels))) for _ in range(levels[stage])]
        """The stage of each level."""
        self.latent_shapes = tuple((num_latents, *self.sizes[stage]) for stage in self.stages)
        self.out_shape = (channels[0], *self.sizes[0])
        self.inputs, self.log_input = Inputs(input_range, observe_mask), log_input
        self._make_bottom_up(shape[0] * (2 if observe_mask else 1), num_blocks)
        self._make_top_down(num_latents)
        channels_last(self)

    def _make_bottom_up(self, in_channels: int, num_blocks: int) -> None:
        stages, scale = range(len(self.channels)), branch_scale(len(self.channels) * num_blocks)
        self.stem = nn.Conv2d(in_channels, self.channels[0], 3, padding=1)
        self.up_blocks = nn.ModuleList(
            nn.Sequential(*(Residual(self._block(i, self.channels[i], self.channels[i], scale, 0)) for _ in range(num_blocks)))
            for i in stages
        )
        self.up_widen = nn.ModuleList(_widen(self.channels[max(0, i - 1)], self.channels[i]) for i in stages)
        self.up_shift = nn.ModuleList(ConditionShift(self.condition_features, (self.channels[i], 1, 1)) for i in stages)

    def _make_top_down(self, num_latents: int) -> None:
        top, stages, scale = len(self.channels) - 1, range(len(self.channels)), branch_scale(len(self.stages))
        begun = [i for i, size in enumerate(self.sizes) if i == top or max(size) <= _LARGEST_BIAS]
        self.starts = nn.ParameterDict({str(i): torch.zeros(self.channels[i], *self.sizes[i]) for i in begun})
        self.down_widen = nn.ModuleList(_widen(self.channels[min(top, i + 1)], self.channels[i]) for i in stages)
        self.down_shift = nn.ModuleList(ConditionShift(self.condition_features, (self.channels[i], 1, 1)) for i in stages)
        self.rungs = nn.ModuleList(
            make_rung(
                lambda *arguments, i=i: self._block(i, *arguments),
                _projection(num_latents, self.channels[i], scale),
                (num_latents, *self.sizes[i]),
                self.channels[i],
                self.channels[i],
                scale,
            )
            for i in self.stages
        )

    def _block(self, stage: int, inward: int, outward: int, scale: float, beside: int) -> Block:
        return ConvBlock(inward, self.hidden[stage], outward, self.sizes[stage], scale, beside)

    def bottom_up(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """See `Ladder.bottom_up`; the levels of a stage read the same features (B, width, H_l, W_l)."""
        observed = None if mask is None else mask.expand(x.shape)
        x = in_logs(x, self.stem.weight.dtype) if self.log_input else x
        x = self.inputs(x, observed, self.stem.weight.dtype)
        h = _laid_out(self.stem(_laid_out(x)))
        found = []
        for i in range(len(self.channels)):
            if i > 0:
                h = self.up_widen[i](_halved(h))
            h = self.up_blocks[i](self.up_shift[i](h, condition))
            found.append(h)
        return tuple(found[stage] for stage in self.stages)

    def enter(self, level: int, state: Tensor | None, condition: Tensor | None) -> Tensor:
        """See `Ladder.enter`."""
        if state is None:
            stage = self.stages[0]
            return self.down_shift[stage](_laid_out(self.starts[str(stage)].unsqueeze(0)), condition)
        before, stage = self.stages[level - 1], self.stages[level] if level < len(self.stages) else 0
        h: Tensor = state
        for i in reversed(range(stage, before)):
            h = self.down_shift[i](self._enlarged(h, i), condition)
        return h

    def _enlarged(self, state: Tensor, stage: int) -> Tensor:
        """The state of the stage below, at the size of this one, with the stage's own start."""
        lead, widen = state.shape[:-3], cast(nn.Module, self.down_widen[stage])
        state = F.interpolate(widen(state.flatten(0, -4)), size=self.sizes[stage], mode="nearest")
        state = _laid_out(state).unflatten(0, lead)
        return state + self.starts[str(stage)] if str(stage) in self.starts else state

    def peak_elements(self) -> int:
        """See `Ladder.peak_elements`: what the prior's block gives, the state at full size, or all that a trace keeps."""
        levels = zip(self.stages, self.latent_shapes, strict=True)
        blocks = [(2 * shape[0] + self.channels[stage]) * math.prod(shape[1:]) for stage, shape in levels]
        return max(*blocks, math.prod(self.out_shape), widest_latents(self.latent_shapes))


def _laid_out(h: Tensor) -> Tensor:
    """Channels last: where channels or pixels are one, torch would guess, and convolutions of the other layout are slow."""
    return h.contiguous(memory_format=torch.channels_last)


def _halved(h: Tensor) -> Tensor:
    """Means of 2 x 2 pixels, of as many as there are at the ends of odd sizes."""
    kernel = (min(2, h.shape[-2]), min(2, h.shape[-1]))
    return F.avg_pool2d(h, kernel, stride=2, ceil_mode=True, count_include_pad=False)


def _widen(inward: int, outward: int) -> nn.Module:
    return nn.Identity() if inward == outward else nn.Conv2d(inward, outward, 1)


def _projection(num_latents: int, width: int, scale: float) -> nn.Conv2d:
    layer = nn.Conv2d(num_latents, width, 1)
    scale_last(layer, scale)
    return layer


def _check(
    shape: Sequence[int], channels: Sequence[int], levels: Sequence[int], num_latents: int, num_blocks: int, bottleneck: int
) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise ConfigError(
            f"`shape` must be (C, H, W) with sizes of at least 1, got {tuple(shape)}. Use DenseLadder for others."
        )
    if not channels or min(channels) < 1 or len(levels) != len(channels):
        raise ConfigError(
            f"`channels` must hold widths of at least 1, and `levels` a count for each of them, got {tuple(channels)} and "
            f"{tuple(levels)}. Give both for each stage, such as [32, 32] and [1, 2]."
        )
    if min(levels) < 0 or levels[-1] < 1:
        raise ConfigError(
            f"`levels` must be counts >= 0, and >= 1 at the last stage, got {tuple(levels)}. Leave out stages "
            "below the last that has latents."
        )
    if num_latents < 1 or num_blocks < 0 or bottleneck < 1:
        raise ConfigError(
            f"`num_latents` and `bottleneck` must be at least 1 and `num_blocks` >= 0, got {num_latents}, {bottleneck} and "
            f"{num_blocks}. Give 16 latent channels when in doubt."
        )
