"""A network that hands its input on, so that tests choose what is quantised."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaekit.component import Component


class _Hand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        return (self.scale * features).unsqueeze(1)


class Through(Component):
    """Features are the input, and parameters are the features, times a parameter that is 1."""

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.shape = list(shape)
        self.out_shape = tuple(shape)

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> nn.Module:
        assert num_parameters == 1
        assert tuple(event_shape) == self.out_shape
        return _Hand()

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return x
