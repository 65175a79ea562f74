"""Networks that see the logs of their input."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.types import Network, as_network


class LogInput(Component):
    """A network that is given sign(x) log(1 + |x|) in place of x, element by element.

    For counts, and for numbers over orders of magnitude: what differs by a factor then differs by a step. The `input_range`
    of the inner network is that of the logs.

    Args:
        network: the network inside.

    Raises:
        ConfigError: for what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> inner = MLP(2, [4])
        >>> x = torch.tensor([[0.0, 999.0]])
        >>> torch.equal(LogInput(inner)(x), inner(torch.log1p(x)))
        True
    """

    def __init__(self, network: Component) -> None:
        super().__init__()
        self.network = network
        self.out_shape = as_network(network, "LogInput").out_shape

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> nn.Module:
        """The inner network's head."""
        return cast(Network, self.network).make_head(num_parameters, event_shape)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(..., *in_shape) to (..., *out_shape)."""
        y = x if x.is_floating_point() else x.to(next(self.parameters()).dtype)
        return self.network(torch.copysign(torch.log1p(y.abs()), y), condition, mask)
