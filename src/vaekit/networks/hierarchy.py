"""Ladders: the networks of a hierarchy of latents, and the tail that turns a ladder's state into features.

A ladder reads the data once, bottom up, and goes down through its levels with one state h:

    h_0                     learned, with the condition
    prior                   mean_p, scale_p of z_l from h, and a residual that h takes in
    posterior               mean_q, scale_q of z_l from h and the data's features at this level
    update                  h <- block(h + residual + W z_l), brought to the size of the next level

It knows nothing of densities: `HierarchicalVAE` makes them of what the ladder gives.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.errors import ConfigError
from vaekit.networks.conv import ConvHead, channels_last
from vaekit.networks.hierarchy_blocks import Block, ConvBlock, DenseBlock, Residual, branch_scale
from vaekit.networks.inputs import activation_of
from vaekit.networks.mlp import LinearHead


class Normals(NamedTuple):
    """Parameters of normals: the mean, and a number from which the scale is made, each (..., *Z)."""

    mean: Tensor
    raw_scale: Tensor


class Rung(nn.Module):
    """One level: where its latent comes from, and what it does to the state.

    Args:
        prior_block: from the state to 2 C + width channels: mean and scale of p, and the residual.
        posterior_block: from the state, and the data's features beside it, to 2 C channels: mean and scale of q.
        project: from the latent to the state.
        after: refines the state.
        latent_shape: *Z, (C, H, W) or (D,).
        width: channels of the state.
    """

    def __init__(
        self,
        prior_block: Block,
        posterior_block: Block,
        project: nn.Module,
        after: nn.Module,
        latent_shape: tuple[int, ...],
        width: int,
    ) -> None:
        super().__init__()
        self.prior_block, self.posterior_block, self.project, self.after = prior_block, posterior_block, project, after
        self.latent_shape, self.dim = latent_shape, -len(latent_shape)
        self.parts = (latent_shape[0], latent_shape[0], width)

    def prior(self, h: Tensor) -> tuple[Normals, Tensor]:
        """p of a state (..., width, *), and the state with the residual."""
        mean, raw_scale, residual = self.prior_block(h).split(self.parts, dim=self.dim)
        return Normals(mean, raw_scale), h + residual

    def posterior(self, h: Tensor, evidence: Tensor) -> Normals:
        """q of a state (..., width, *) before the residual, and of the data's features (B, *)."""
        return Normals(*self.posterior_block(h, evidence).chunk(2, dim=self.dim))

    def update(self, h: Tensor, z: Tensor) -> Tensor:
        """The state after a latent (..., *Z); leading axes that only the latent has become those of the state."""
        lead = z.shape[: self.dim]
        z = self.project(z.flatten(0, len(lead) - 1)).unflatten(0, lead)
        return self.after(h + z)


class Ladder(Component, abc.ABC):
    """What `HierarchicalVAE` asks of its networks. Levels are counted from the top, that which is sampled first.

    Subclasses fill `rungs`, one a level.

    Attributes:
        latent_shapes: *Z of each level.
        out_shape: the shape of the last state of one example.
        condition_features: width of the condition, 0 for none.
    """

    latent_shapes: tuple[tuple[int, ...], ...]
    out_shape: tuple[int, ...]
    condition_features: int
    rungs: nn.ModuleList

    @abc.abstractmethod
    def bottom_up(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """The data's features at each level, (B, ...) each.

        Args:
            x: (B, *S); what stands at missing elements is not read.
            condition: (B, G) features, or None.
            mask: (B, *S) bool, True where observed, or None.
        """

    @abc.abstractmethod
    def enter(self, level: int, state: Tensor | None, condition: Tensor | None) -> Tensor:
        """The state as level `level` takes it, from that which the level above left.

        Args:
            level: from 0; the number of levels stands for the end, where the state has `out_shape`.
            state: (..., *), or None at level 0.
            condition: (B, G) features, or None.

        Returns:
            (..., *); at level 0 (1, *), or (B, *) with a condition.
        """

    @abc.abstractmethod
    def peak_elements(self) -> int:
        """Elements of the widest tensor that going down with one latent makes."""

    def prior(self, level: int, state: Tensor) -> tuple[Normals, Tensor]:
        """p(z_l | z_<l) of the state, and the state with what the prior's branch adds to it."""
        return cast(Rung, self.rungs[level]).prior(state)

    def posterior(self, level: int, state: Tensor, evidence: Tensor) -> Normals:
        """q(z_l | z_<l, x) of the state as `enter` gave it, and of the level's entry of `bottom_up`."""
        return cast(Rung, self.rungs[level]).posterior(state, evidence)

    def update(self, level: int, state: Tensor, z: Tensor) -> Tensor:
        """The state that `prior` gave, after the latent z (..., *Z) of the level."""
        return cast(Rung, self.rungs[level]).update(state, z)


BlockMaker = Callable[[int, int, float, int], Block]
"""From widths in and out, the last layer's scale, and the width beside, to a block."""


def make_rung(
    block: BlockMaker, project: nn.Module, latent_shape: tuple[int, ...], width: int, evidence: int, scale: float
) -> Rung:
    """A level of blocks that `block` makes.

    The prior starts at the standard normal with no residual, and the posterior near it: the branches' last layers are
    scaled by sqrt(1 / L), so the rate of a fresh ladder of L levels does not grow with L.
    """
    channels = latent_shape[0]
    return Rung(
        block(width, 2 * channels + width, 0.0, 0),
        block(width, 2 * channels, scale, evidence),
        project,
        Residual(block(width, width, scale, 0)),
        latent_shape,
        width,
    )


class Tail(Component):
    """From a ladder's last state to features, and the head after them: what a ladder's likelihood takes as its network.

        features = act(h + block_1(h) + ...)

    The condition is in the state already and is not read again.

    Args:
        in_shape: `out_shape` of the ladder: (F, H, W), for images of that size, or (F,).
        num_blocks: residual blocks; with none, the head reads the state's activations as they are. A ladder without
            latents at full size needs one or more, for its state has been enlarged to it pixel by pixel.
        bottleneck: the blocks of images are this many times narrower inside.
        activation: of vectors; images have GELU.

    Raises:
        ConfigError: for a shape of another length or sizes below 1, or a negative `num_blocks`.

    Example:
        >>> import torch
        >>> Tail([4, 5, 7])(torch.zeros(2, 9, 4, 5, 7)).shape
        torch.Size([2, 9, 4, 5, 7])
    """

    def __init__(self, in_shape: Sequence[int], num_blocks: int = 1, bottleneck: int = 4, activation: str = "silu") -> None:
        super().__init__()
        shape = tuple(in_shape)
        if len(shape) not in (1, 3) or min(shape) < 1 or num_blocks < 0 or bottleneck < 1:
            raise ConfigError(
                f"A tail must have `in_shape` (F,) or (F, H, W) with sizes of at least 1, `num_blocks` >= 0 and `bottleneck` "
                f">= 1, got {shape}, {num_blocks} and {bottleneck}. Give the ladder's `out_shape`."
            )
        self.out_shape, scale = shape, branch_scale(num_blocks)
        blocks: list[nn.Module] = []
        for _ in range(num_blocks):
            if len(shape) == 3:
                block: Block = ConvBlock(shape[0], max(1, shape[0] // bottleneck), shape[0], shape[1:], scale)
            else:
                block = DenseBlock(shape[0], shape[0], shape[0], activation, scale)
            blocks.append(Residual(block))
        self.blocks = nn.Sequential(*blocks)
        channels_last(self)
        self.activation = nn.Identity() if activation == "gated" else activation_of(activation)

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> nn.Module:
        """A 1 x 1 convolution after images, a linear layer after vectors.

        Raises:
            ConfigError: if the state is an image and the event no image of its size.
        """
        if len(self.out_shape) == 1:
            return LinearHead(self.out_shape[0], num_parameters, event_shape)
        if len(event_shape) != 3 or event_shape[1:] != self.out_shape[1:]:
            raise ConfigError(
                f"The tail makes images of {self.out_shape[1:]}, got the event shape {event_shape}. Give both the same size."
            )
        return ConvHead(self.out_shape, num_parameters, event_shape)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(..., *in_shape) to features of the same shape."""
        h = self.blocks(x)
        return F.gelu(h) if len(self.out_shape) == 3 else self.activation(h)


def widest_latents(shapes: Sequence[Sequence[int]]) -> int:
    """Elements that a trace keeps of one latent, as a bound on the tensors of a chunk takes them: two numbers a unit.

    Sample, mean and scale of every level stay until the bound is made, while one level's features come and go.
    """
    return 2 * sum(math.prod(shape) for shape in shapes)
