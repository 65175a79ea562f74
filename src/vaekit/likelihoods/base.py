"""What every likelihood is, and the data-dependent start of its last bias."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.component import Component
from vaekit.errors import ConfigError
from vaekit.types import Network, as_network


class Likelihood(Component, abc.ABC):
    """A module whose call returns p(x|z, c).

    Args:
        network: maps latents (..., *Z) to features, and makes the head.
        shape: the shape of one example *S.
        num_parameters: how many numbers the family takes at each of `positions`.
        positions: the event shape of the head; *S unless channels share parameters.
    """

    discrete = False
    """Whether p is a mass over whole levels (bits per dimension are defined) or a density."""

    twice_differentiable = True
    """Whether the gradient of log p has a gradient, which posteriors that differentiate through steps of their own ask for."""

    def __init__(
        self, network: Component, shape: Sequence[int], num_parameters: int, positions: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        if not shape or min(shape) < 1:
            raise ConfigError(f"`shape` must hold sizes of at least 1, got {tuple(shape)}. Give the shape of one example.")
        self.network = network
        self.shape, self.num_parameters, self.positions = tuple(shape), num_parameters, positions or tuple(shape)
        self.head = as_network(network, type(self).__name__).make_head(num_parameters, self.positions)
        self.parameter_dim = -1 - len(self.positions)

    def parameters_at(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """(..., num_parameters, *positions), in the precision of z: a reduced precision ends before the density."""
        return self.head(self.network(z, condition)).to(z.dtype)

    @abc.abstractmethod
    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """p(x|z, c) with batch shape (K, B).

        Args:
            z: (K, B, *Z).
            condition: (B, F) features, or None.
        """

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Sets the output bias from a batch x (B, *S), so that training starts at the marginal of each element.

        Args:
            x: (B, *S), data on the support; what stands at a missing element is not read.
            mask: (B, *S) bool, True where observed, or None.
        """

    def peak_elements(self) -> int:
        """Elements of the widest tensor that decoding one latent makes, from which callers choose how many to decode at once.

        It is the largest of the network's features, the parameters of the family, and one example. Parameters are counted for
        every component of a mixture and every level of a categorical; layers inside the network are not looked at.
        """
        positions = math.prod(self.positions)
        features = math.prod(cast(Network, self.network).out_shape)
        return max(features, self.num_parameters * positions, math.prod(self.shape))

    def check(self, x: Tensor, mask: Tensor | None = None) -> str | None:
        """What x must hold to be data of this family, as the start of a sentence that the caller ends; None where it fits.

        Args:
            x: (B, *S), a sample of the data; what stands at a missing element is not read.
            mask: (B, *S) bool, True where observed, or None.
        """
        return None


def last_bias(head: nn.Module) -> nn.Parameter | None:
    """The bias of a head's last layer, which a data-dependent start overwrites."""
    layers = [module for module in head.modules() if isinstance(getattr(module, "bias", None), nn.Parameter)]
    return cast(nn.Parameter, layers[-1].bias) if layers else None


def observed_sums(head: nn.Module, num_parameters: int, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sum and count of the observed values of x (B, *S) behind each bias of a parameter: an element's, or a channel's
    where a convolutional head has one bias for all its pixels."""
    bias = last_bias(head)
    size = 1 if bias is None else bias.numel() // num_parameters
    observed = torch.ones_like(x, dtype=torch.bool) if mask is None else mask.expand(x.shape)
    total, count = torch.where(observed, x, 0).float().sum(0), observed.float().sum(0)
    return total.reshape(size, -1).sum(1), count.reshape(size, -1).sum(1)


def observed_values(x: Tensor, mask: Tensor | None) -> Tensor:
    """(N,): the observed values of x."""
    return x.flatten() if mask is None else x[mask.expand(x.shape)]


def set_bias(head: nn.Module, per_parameter: Sequence[Tensor]) -> None:
    """Writes one value, or one for each position, of each parameter into a head's bias."""
    bias = last_bias(head)
    if bias is None:
        return
    with torch.no_grad():
        bias.view(len(per_parameter), -1).copy_(
            torch.stack(torch.broadcast_tensors(*per_parameter)).reshape(len(per_parameter), -1)
        )


def inverse_softplus(y: float) -> float:
    """x with softplus(x) = y, for y > 0."""
    return math.log(math.expm1(y))
