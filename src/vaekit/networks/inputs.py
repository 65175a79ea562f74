"""What a network does with its input before its first layer: scale, missing elements, conditions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaekit.errors import ConfigError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "softplus": nn.Softplus,
}


def activation_of(name: str) -> nn.Module:
    """A fresh activation by its name.

    Raises:
        ConfigError: for a name that is not in `ACTIVATIONS`.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"`activation` must be one of {', '.join(ACTIVATIONS)}; got {name!r}. Use `silu` if in doubt.")
    return ACTIVATIONS[name]()


class Inputs(nn.Module):
    """Brings data to about [-1, 1] and tells a network what is missing.

        y = (2 x - low - high) / (high - low) where observed, 0 where not

    Args:
        input_range: (low, high) of the data, or None to leave it as it is.
        observe_mask: whether the network gets the mask beside the data; see `forward`.

    Raises:
        ConfigError: for a range that does not rise.
    """

    def __init__(self, input_range: Sequence[float] | None, observe_mask: bool) -> None:
        super().__init__()
        if input_range is not None and (len(input_range) != 2 or not input_range[0] < input_range[1]):
            raise ConfigError(
                f"`input_range` must be (low, high) with low < high, got {tuple(input_range)}. Use None to leave the data."
            )
        self.centre = 0.0 if input_range is None else (input_range[0] + input_range[1]) / 2
        self.factor = 1.0 if input_range is None else 2 / (input_range[1] - input_range[0])
        self.observe_mask = observe_mask

    def forward(self, x: Tensor, mask: Tensor | None, dtype: torch.dtype = torch.float32) -> Tensor:
        """The scaled input; with `observe_mask`, the mask (1 observed, 0 missing) is appended along dimension 1.

        A missing element is 0, the centre of the range, whatever stands there, so that NaN never enters. Whole numbers and
        booleans become `dtype`, that of the network's weights; floating numbers stay in theirs.
        """
        y = (x if x.is_floating_point() else x.to(dtype)).sub(self.centre).mul(self.factor)
        if mask is not None:
            y = torch.where(mask, y, 0.0)
        if not self.observe_mask:
            return y
        observed = torch.ones_like(y) if mask is None else mask.to(y.dtype).expand_as(y)
        return torch.cat([y, observed], dim=1)


def append_condition(features: Tensor, condition: Tensor | None, condition_features: int) -> Tensor:
    """Features (..., B, F) with a condition (B, G) appended: (..., B, F + G).

    Raises:
        ConfigError: if a network that takes a condition gets none, or the other way round, or one of another width.
    """
    found = 0 if condition is None else condition.shape[-1]
    if found != condition_features:
        raise ConfigError(
            f"The network takes a condition of {condition_features} features, got {found}. Pass what it was built for."
        )
    if condition is None:
        return features
    return torch.cat([features, condition.expand(*features.shape[:-1], found).to(features.dtype)], dim=-1)
