"""Spectral normalisation of any network."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from vaekit.component import Component
from vaekit.errors import ConfigError
from vaekit.types import Network, as_network

_START_STEPS = 15


class UnitNorm(nn.Module):
    """W -> W / sigma(W), with the largest singular value sigma = u^T W v by power iteration.

    Each call in training mode takes one step of it, u <- W v / |W v| and v <- W^T u / |W^T u|, from where the last one ended;
    in evaluation nothing moves. u and v are buffers, so they are saved with the weights.

    Args:
        weight: the weight that it starts from.
        out_dim: the dimension of the weight that is the layer's output.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, out_dim: int = 0) -> None:
        super().__init__()
        self.out_dim = out_dim
        matrix = self._matrix(weight.detach())
        self.register_buffer("u", F.normalize(torch.randn_like(matrix[:, 0]), dim=0))
        self.register_buffer("v", F.normalize(torch.randn_like(matrix[0]), dim=0))
        for _ in range(_START_STEPS):
            self._step(matrix)

    def forward(self, weight: Tensor) -> Tensor:
        """A weight whose largest singular value is 1, in the same shape; zeros stay zeros."""
        with torch.autocast(weight.device.type, enabled=False):
            matrix = self._matrix(weight)
            if self.training:
                self._step(matrix.detach())
            # Copies: a second call in the same step may not change what the first one's gradient needs.
            return weight / torch.dot(self.u.clone(), torch.mv(matrix, self.v.clone())).clamp_min(1e-12)

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.movedim(self.out_dim, 0).flatten(1)

    @torch.no_grad()
    def _step(self, matrix: Tensor) -> None:
        self.u.copy_(F.normalize(torch.mv(matrix, self.v), dim=0, eps=1e-12))
        self.v.copy_(F.normalize(torch.mv(matrix.T, self.u), dim=0, eps=1e-12))


class Spectral(Component):
    """A network whose linear and convolutional layers, those of its heads included, have weights of spectral norm 1.

        W / sigma(W), sigma the largest singular value of W, a convolution's kernel taken as a matrix of its outputs

    Layers then stretch nothing (a convolution, for all its shifted copies, by a bounded factor), so a decoder's slope is
    bounded: RAE-SN is `objectives.RAE` with a decoder of this kind. A discriminator of this kind cannot grow too steep for its
    opponent. sigma is followed by one step of power iteration a call in training, and held fixed in evaluation.

    Miyato et al., "Spectral normalization for generative adversarial networks" (2018), equation 8.

    Args:
        network: any network; its layers are changed in place.

    Raises:
        ConfigError: for what is no network, or one in which there is nothing to normalise.

    Example:
        >>> from vaekit.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> network = Spectral(MLP(3, [8])).eval()
        >>> weight = network.network.layers[0][0].weight
        >>> bool((torch.linalg.matrix_norm(weight, 2) - 1).abs() < 1e-3)
        True
    """

    def __init__(self, network: Component) -> None:
        super().__init__()
        self.network = network
        self.out_shape = as_network(network, "Spectral").out_shape
        if not _normalize(network):
            raise ConfigError(
                f"A Spectral network must have linear or convolutional layers, found none in a {type(network).__name__}. "
                "Use the network by itself."
            )

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> nn.Module:
        """The network's own head, normalised."""
        head = cast(Network, self.network).make_head(num_parameters, event_shape)
        _normalize(head)
        return head

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """What the network gives: (..., *in_shape) to (..., *out_shape)."""
        with parametrize.cached():  # one step and one division a call, however often a layer's weight is looked at
            return self.network(x, condition, mask)


def _normalize(module: nn.Module) -> int:
    """Puts `UnitNorm` on every layer that has none yet; how many layers have one."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | _ConvNd)]
    for layer in layers:
        if not parametrize.is_parametrized(layer, "weight"):
            out_dim = 1 if isinstance(layer, _ConvTransposeNd) else 0
            norm = UnitNorm(cast(Tensor, layer.weight), out_dim)
            # Not tried out here: it keeps shape and precision, and an outline on the meta device has no values to try.
            parametrize.register_parametrization(layer, "weight", norm, unsafe=True)
    return len(layers)
