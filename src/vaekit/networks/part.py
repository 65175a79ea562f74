"""A network that reads a part of its input."""

from __future__ import annotations

from torch import Tensor, nn

from vaekit.component import Component
from vaekit.errors import ConfigError
from vaekit.types import as_network


class Part(Component):
    """features = network(x[..., start:stop]): a likelihood that sees some of the latents, a posterior that sees some inputs.

    Args:
        network: what reads the part; its input is a vector of stop - start numbers.
        start: the first number that it reads, from 0.
        stop: one past the last.

    Raises:
        ConfigError: unless 0 <= start < stop, or for what is no network.

    Example:
        >>> import torch
        >>> from vaekit.networks import MLP
        >>> Part(MLP(2, [4]), 1, 3)(torch.zeros(7, 5, 6)).shape
        torch.Size([7, 5, 4])
    """

    def __init__(self, network: Component, start: int, stop: int) -> None:
        super().__init__()
        if not 0 <= start < stop:
            raise ConfigError(
                f"`start` and `stop` must hold 0 <= start < stop, got {start} and {stop}. Give a part that is not empty."
            )
        self.out_shape = as_network(network, type(self).__name__).out_shape
        self.network, self.start, self.stop = network, start, stop

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> nn.Module:
        """The layer that the network itself makes."""
        return as_network(self.network, type(self).__name__).make_head(num_parameters, event_shape)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Features (..., *out_shape) of x (..., D), with D >= stop."""
        return self.network(
            x[..., self.start : self.stop], condition, None if mask is None else mask[..., self.start : self.stop]
        )
