"""A ladder of vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaekit.errors import ConfigError
from vaekit.networks.hierarchy import Ladder, make_rung, widest_latents
from vaekit.networks.hierarchy_blocks import Block, ConditionShift, DenseBlock, Residual, branch_scale, in_logs, scale_last
from vaekit.networks.inputs import Inputs


class DenseLadder(Ladder):
    """Latents (D_l,) one after another, with one state vector, for vectors and small images.

    Bottom up: a linear layer, then residual blocks, level after level from the bottom one to the top. Top down: prior,
    posterior and a residual block a level. All levels stay in the state that reaches the likelihood.

    Sonderby et al., "Ladder variational autoencoders" (2016), is the top-down inference; the residual state and the scaled
    blocks are those of Child, "Very deep VAEs generalize autoregressive models and can outperform them on images" (2021).

    Args:
        in_shape: features of the data, or the shape of one example, which is flattened.
        num_latents: D_l of each level, the top one, which is sampled first, at the front.
        width: of the state, and of the features on the way up.
        hidden: width inside the blocks; None for `width`.
        num_blocks: residual blocks a level on the way up.
        activation: `silu`, `relu`, ..., or `gated`.
        condition_features: width of the condition, 0 for none.
        input_range: (low, high) of the data, brought to [-1, 1].
        observe_mask: whether the mask of missing elements is part of the input.
        log_input: whether the data enter as sign(x) log(1 + |x|), as counts should; `input_range` is then that of the logs.

    Raises:
        ConfigError: for no level, or sizes below 1.

    Example:
        >>> ladder = DenseLadder(5, num_latents=[2, 3], width=8)
        >>> [tuple(features.shape) for features in ladder.bottom_up(torch.zeros(9, 5))]
        [(9, 8), (9, 8)]
        >>> ladder.enter(0, None, None).shape
        torch.Size([1, 8])
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        num_latents: Sequence[int],
        width: int = 256,
        hidden: int | None = None,
        num_blocks: int = 1,
        activation: str = "silu",
        condition_features: int = 0,
        input_range: Sequence[float] | None = None,
        observe_mask: bool = False,
        log_input: bool = False,
    ) -> None:
        super().__init__()
        shape = (in_shape,) if isinstance(in_shape, int) else tuple(in_shape)
        inside = width if hidden is None else hidden
        if not shape or not num_latents or min(*shape, *num_latents, width, inside) < 1 or num_blocks < 0:
            raise ConfigError(
                f"A ladder must have sizes, widths and latents of at least 1 and `num_blocks` >= 0, got in_shape={shape}, "
                f"num_latents={tuple(num_latents)}, width={width}, hidden={inside} and num_blocks={num_blocks}. Give at least "
                "one level."
            )
        self.condition_features, self.width, num_levels = condition_features, width, len(num_latents)
        self.latent_shapes, self.out_shape = tuple((d,) for d in num_latents), (width,)
        self.num_inputs = math.prod(shape) * (2 if observe_mask else 1)
        self.inputs, self.log_input = Inputs(input_range, observe_mask), log_input
        self.stem = nn.Linear(self.num_inputs, width)

        def block(inward: int, outward: int, last_scale: float, beside: int) -> Block:
            return DenseBlock(inward, inside, outward, activation, last_scale, beside)

        upward, downward = branch_scale(num_levels * num_blocks), branch_scale(num_levels)
        self.up_shift = ConditionShift(condition_features, (width,))
        self.up_blocks = nn.ModuleList(
            nn.Sequential(*(Residual(block(width, width, upward, 0)) for _ in range(num_blocks))) for _ in num_latents
        )
        self.begin = nn.Parameter(torch.zeros(width))
        self.down_shift = nn.ModuleList(ConditionShift(condition_features, (width,)) for _ in num_latents)
        self.rungs = nn.ModuleList(
            make_rung(block, _projection(d, width, downward), (d,), width, width, downward) for d in num_latents
        )

    def bottom_up(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """See `Ladder.bottom_up`; the higher the level, the more blocks have made its features (B, width)."""
        observed = None if mask is None else mask.expand(x.shape)
        x = in_logs(x, self.stem.weight.dtype) if self.log_input else x
        h = self.up_shift(self.stem(self.inputs(x, observed, self.stem.weight.dtype).flatten(1)), condition)
        found = []
        for blocks in self.up_blocks:
            h = blocks(h)
            found.append(h)
        return tuple(reversed(found))

    def enter(self, level: int, state: Tensor | None, condition: Tensor | None) -> Tensor:
        """See `Ladder.enter`."""
        if state is None:
            state = self.begin.unsqueeze(0)
        return self.down_shift[level](state, condition) if level < len(self.rungs) else state

    def peak_elements(self) -> int:
        """See `Ladder.peak_elements`."""
        block = self.width + 2 * max(shape[0] for shape in self.latent_shapes)
        return max(self.num_inputs, block, widest_latents(self.latent_shapes))


def _projection(num_latents: int, width: int, scale: float) -> nn.Linear:
    layer = nn.Linear(num_latents, width)
    scale_last(layer, scale)
    return layer
