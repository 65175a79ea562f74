"""Distortions that are no likelihood: of features, and of structure."""

from __future__ import annotations

import abc
import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.distributions.scales import full_float
from vaekit.errors import ConfigError
from vaekit.objectives.base import Bound, Objective, bound_of, rate
from vaekit.similarity import SCALE_WEIGHTS, ms_ssim, num_scales
from vaekit.types import Trace, as_network


class Perceptual(Objective, abc.ABC):
    """loss = weight * dissimilarity + beta * rate + pixel_weight * distortion.

    The dissimilarity of x and the mean of p(x|z) is in no unit of information, so `weight` is there to be chosen, and the loss
    is no bound. Elbo, rate and distortion are reported in nats as ever. With `pixel_weight=0` parameters that only the density
    sees, such as a shared scale, are not trained.

    Args:
        weight: of the dissimilarity, >= 0.
        beta: of the rate, >= 0.
        pixel_weight: of the distortion, -log p(x|z), >= 0.
    """

    def __init__(self, weight: float, beta: float, pixel_weight: float) -> None:
        super().__init__()
        for name, value in (("weight", weight), ("beta", beta), ("pixel_weight", pixel_weight)):
            if not 0 <= value < math.inf:
                raise ConfigError(f"`{name}` must be >= 0, got {value}. Use `{name}=0` to drop its term.")
        self.weight, self.beta, self.pixel_weight = weight, beta, pixel_weight

    @abc.abstractmethod
    def dissimilarity(self, trace: Trace) -> Tensor:
        """(K, B): how unlike x and the mean of p(x|z) are; 0 where they are equal."""

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The weighted sum; the dissimilarity is logged as `dissimilarity`."""
        rates, dissimilarity = rate(trace), self.dissimilarity(trace).mean()
        loss = self.weight * dissimilarity + self.beta * rates.mean()
        if self.pixel_weight:
            loss = loss - self.pixel_weight * trace.log_likelihood.mean()
        return bound_of(trace, loss, rates, dissimilarity=dissimilarity)


class FeatureMatching(Perceptual):
    """Distortion in the features of a trained network: sum_l mean_i 1/2 (h_l(x)_i - h_l(m(z))_i)^2.

    m(z) is the mean of p(x|z), h_l the output of a layer l and i its elements. What the network's features ignore, the loss
    forgives: with a network that recognises objects, noise and small shifts. The network is yours, such as the encoder of a
    classifier or of another model; a copy of it is frozen here, weights and all that it does in training only.

    Its weights are those that the component has: built from a spec alone they are random, so give the trained component.

    Hou et al., "Deep feature consistent variational autoencoder" (2017), equations 3 and 4.

    Args:
        network: maps examples (*S) to features.
        layers: names of parts of the network whose outputs are compared, as in `network.named_modules()`; its features if
            there are none.
        weight: of the dissimilarity, >= 0.
        beta: of the rate, >= 0.
        pixel_weight: of the distortion, -log p(x|z), >= 0.

    Raises:
        ConfigError: for a negative weight, a layer that the network has not, or what is no network.

    Example:
        >>> from vaekit.networks import ConvEncoder
        >>> network = ConvEncoder([1, 8, 8], [4, 8], input_range=[0, 1])
        >>> FeatureMatching(network, layers=["stages.0", "stages.2"], weight=100.0).layers
        ('stages.0', 'stages.2')
    """

    def __init__(
        self,
        network: Component,
        layers: Sequence[str] = (),
        weight: float = 1.0,
        beta: float = 1.0,
        pixel_weight: float = 0.0,
    ) -> None:
        super().__init__(weight, beta, pixel_weight)
        as_network(network, "FeatureMatching")
        names = [name for name, _ in network.named_modules() if name]
        missing = [layer for layer in layers if layer not in names]
        if missing:
            raise ConfigError(f"`layers` must be parts of the network, got {', '.join(missing)}. It has {', '.join(names)}.")
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.layers = tuple(layers)

    def train(self, mode: bool = True) -> Self:
        """As that of any module, but the frozen network stays in evaluation."""
        super().train(mode)
        self.network.eval()
        return self

    def dissimilarity(self, trace: Trace) -> Tensor:
        """See `Perceptual.dissimilarity`."""
        mean = trace.likelihood.mean
        real, made = self._features(trace.x.unsqueeze(0), trace.mask), self._features(mean, trace.mask)
        return torch.stack([0.5 * (a - b).square().mean(-1) for a, b in zip(made, real, strict=True)]).sum(0)

    def _features(self, x: Tensor, mask: Tensor | None) -> list[Tensor]:
        """What is compared of x (K, B, *S), each (K, B, F)."""
        found: dict[str, Tensor] = {}
        hooks = [self.network.get_submodule(name).register_forward_hook(_keeper(found, name)) for name in self.layers]
        try:
            features = self.network(x, None, mask)
        finally:
            for hook in hooks:
                hook.remove()
        compared = [found[name] for name in self.layers] if self.layers else [features]
        return [full_float(output).reshape(*x.shape[:2], -1) for output in compared]


class MSSSIM(Perceptual):
    """Distortion of structure: 1 - MS-SSIM of x and the mean of p(x|z); see `vaekit.similarity`.

    For images (C, H, W). Contrast and structure count where they are, so blur costs more than an even shift of brightness.
    Missing pixels are taken to be as decoded. A scale's similarity counts at least 0.01: none takes the gradient of all.

    Snell et al., "Learning to generate images with perceptual similarity metrics" (2017). Departure: images that are too small
    for five scales have as many as fit, their weights brought to sum 1.

    Args:
        weight: of the dissimilarity, >= 0.
        beta: of the rate, >= 0.
        data_range: highest less lowest value that a pixel can have: 1 for Bernoulli, V - 1 for V levels.
        scales: how many; None for as many as fit, at most five.
        window_size: of the Gaussian window, odd, no larger than the image.
        pixel_weight: of the distortion, -log p(x|z), >= 0.

    Raises:
        ConfigError: for a negative weight or scales that are not 1 to 5; when called, for data that are no images, or too small
            for the window.

    Example:
        >>> MSSSIM(weight=100.0, data_range=255.0).spec()["scales"] is None
        True
    """

    def __init__(
        self,
        weight: float = 1.0,
        beta: float = 1.0,
        data_range: float = 1.0,
        scales: int | None = None,
        window_size: int = 11,
        pixel_weight: float = 0.0,
    ) -> None:
        super().__init__(weight, beta, pixel_weight)
        if scales is not None and not 1 <= scales <= len(SCALE_WEIGHTS):
            raise ConfigError(f"`scales` must be 1 to {len(SCALE_WEIGHTS)} or None, got {scales}. Use None for all that fit.")
        self.data_range, self.scales, self.window_size = data_range, scales, window_size

    def dissimilarity(self, trace: Trace) -> Tensor:
        """See `Perceptual.dissimilarity`."""
        mean = trace.likelihood.mean
        if mean.dim() != 5:
            raise ConfigError(f"MSSSIM must be given images (C, H, W), got {tuple(mean.shape[2:])}. Use another objective.")
        x = trace.x.to(mean.dtype).expand_as(mean)
        if trace.mask is not None:
            x = torch.where(trace.mask.expand_as(mean), x, mean.detach())
        height, width = mean.shape[-2:]
        scales = self.scales or min(len(SCALE_WEIGHTS), max(1, num_scales(height, width, self.window_size)))
        total = sum(SCALE_WEIGHTS[:scales])
        weights = [weight / total for weight in SCALE_WEIGHTS[:scales]]
        images = (mean.flatten(0, 1), x.flatten(0, 1))
        alike = ms_ssim(*images, self.data_range, weights, self.window_size, floor=_FLOOR)
        return 1 - alike.unflatten(0, mean.shape[:2])


_FLOOR = 1e-2


def _keeper(found: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    """A hook that keeps a layer's output under its name."""

    def keep(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        found[name] = output

    return keep
