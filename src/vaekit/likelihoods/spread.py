"""What widens a likelihood about its mean, such as a scale or a dispersion: one for all, one an element, or predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaekit.errors import ConfigError

MODES = ("shared", "per_dimension", "predicted")


def check_mode(name: str, mode: str) -> None:
    """Raises a ConfigError unless the mode is one of the three."""
    if mode not in MODES:
        raise ConfigError(f"`{name}` must be shared, per_dimension or predicted, got {mode!r}. Use `shared` for one number.")


def raw_spread(mode: str, shape: Sequence[int], start: float) -> nn.Parameter | None:
    """The parameter () or (*S) of a spread that is not predicted; None where the network gives it."""
    return None if mode == "predicted" else nn.Parameter(torch.full(() if mode == "shared" else tuple(shape), start))


def per_element(per_bias: Tensor, shape: Sequence[int]) -> Tensor:
    """(*S): each element's own of one number a bias."""
    return per_bias.repeat_interleave(math.prod(shape) // per_bias.numel()).reshape(tuple(shape))


def grouped(per_element: Tensor, mode: str, num_biases: int) -> Tensor:
    """Sums of numbers (*S) over the elements that share one spread: (), (*S), or (num_biases,) where it is predicted."""
    if mode == "predicted":
        return per_element.reshape(num_biases, -1).sum(1)
    return per_element.sum() if mode == "shared" else per_element


def ratio_of(over: Tensor, under: Tensor, mode: str, num_biases: int, empty: float) -> Tensor:
    """Sum of `over` by sum of `under` in each group, of all together where a group has none, of nothing at all `empty`."""
    total, weight = grouped(over, mode, num_biases), grouped(under, mode, num_biases)
    together = torch.where(under.sum() > 0, over.sum() / under.sum().clamp_min(1e-30), empty)
    return torch.where(weight > 0, total / weight.clamp_min(1e-30), together)


def squares_about(centre: Tensor, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """(*S) each: sum over the batch of the observed (x - centre)^2, and how many were observed."""
    observed = torch.ones_like(x, dtype=torch.bool) if mask is None else mask.expand(x.shape)
    return torch.where(observed, x - centre, 0).float().square().sum(0), observed.float().sum(0)
