"""From stored values to what a likelihood is defined on, and back.

y = T(x),   log p(x) = log p(y) + log |det dT/dx|
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from vaekit.component import Component
from vaekit.data.dataset import Dataset
from vaekit.errors import ConfigError

_FIT_ROWS = 100_000
_FIT_BYTES = 2**30
_CHUNK_ELEMENTS = 2**21  # 16 MiB of float64, of which there are two at a time


class Transform(Component, ABC):
    """A map of stored values, element by element.

    Attributes:
        stochastic: whether two calls on the same values may differ.
    """

    stochastic: bool = False

    @abstractmethod
    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """float32 values (..., *S) of stored values (..., *S); int64 codes of text."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """Stored values, in float level units where they are levels, of values that a model gives."""

    def log_abs_det(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log |det dT/dx| of the observed elements, in nats; 0 where masses of levels are compared, not densities.

        Args:
            x: (B, *S) stored values at which the map is taken.
            mask: (B, *S) bool, True where observed, or None.

        Returns:
            (B,) float64, on the CPU: not every device has float64.
        """
        return torch.zeros(len(x), dtype=torch.float64)


class Levels(Transform):
    """Level codes as floats: y = x.

    Example:
        >>> Levels()(torch.tensor([[0, 255]], dtype=torch.uint8))
        tensor([[  0., 255.]])
    """

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """The codes (..., *S) as float32."""
        return x.to(torch.float32)

    def inverse(self, y: Tensor) -> Tensor:
        """y as it is, in level units."""
        return y


class Binarize(Transform):
    """Levels as probabilities of a binary value, drawn anew at every call: y ~ Bernoulli(x / (V - 1)).

    The dynamic binarisation of R. Salakhutdinov and I. Murray, On the Quantitative Analysis of Deep Belief Networks,
    2008, as it is used by Y. Burda, R. Grosse and R. Salakhutdinov, Importance Weighted Autoencoders, 2016. With two
    levels nothing is drawn.

    Args:
        levels: the number of levels V, at least 2.

    Example:
        >>> Binarize(2)(torch.tensor([[0, 1]], dtype=torch.uint8))
        tensor([[0., 1.]])
        >>> Binarize(256).inverse(torch.tensor(0.5))
        tensor(127.5000)
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        if levels < 2:
            raise ConfigError(f"`levels` must be at least 2, got {levels}. Give the number of levels that the data have.")
        self.levels = levels
        self.stochastic = levels > 2

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Zeros and ones (..., *S), from `generator` or the global one."""
        probability = x.to(torch.float32) / (self.levels - 1)
        return torch.bernoulli(probability, generator=generator) if self.stochastic else probability

    def inverse(self, y: Tensor) -> Tensor:
        """Probabilities (..., *S) in level units: y (V - 1)."""
        return y * (self.levels - 1)


class Tokens(Transform):
    """The codes of a text's tokens, as they are: y = x, whole numbers of 64 bits.

    Example:
        >>> Tokens()(torch.tensor([[3, 1, 0]], dtype=torch.uint8))
        tensor([[3, 1, 0]])
    """

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """The codes (..., T) as int64."""
        return x.to(torch.int64)

    def inverse(self, y: Tensor) -> Tensor:
        """y as it is."""
        return y


class Standardize(Transform):
    """Values moved and scaled: y = (x - shift) / scale, log |det| = - sum log scale.

    Args:
        shift: one number, or nested lists of the shape of an example.
        scale: likewise, above 0.

    Example:
        >>> Standardize(1.0, 2.0)(torch.tensor([[1.0, 5.0]]))
        tensor([[0., 2.]])
        >>> round(Standardize(1.0, 2.0).log_abs_det(torch.zeros(1, 3)).item(), 4)
        -2.0794
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: float | list[Any], scale: float | list[Any]) -> None:
        super().__init__()
        # Not persistent: the constructor's arguments hold them, and a second copy could disagree.
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float32), persistent=False)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32), persistent=False)
        if not bool((self.scale > 0).all()):
            raise ConfigError(f"`scale` must be above 0, got {float(self.scale.min())}. Use 1 where values do not vary.")

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """(x - shift) / scale."""
        return (x.to(torch.float32) - self.shift) / self.scale

    def inverse(self, y: Tensor) -> Tensor:
        """shift + scale * y."""
        return self.shift + self.scale * y

    def log_abs_det(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B,): - sum over the observed elements of an example of log scale, whatever its values."""
        log_scale = torch.log(self.scale.cpu().double()).expand(x.shape[1:])
        if mask is None:
            return -log_scale.sum().expand(len(x))
        return -(log_scale * mask.cpu()).flatten(1).sum(1)

    @classmethod
    def fit(cls, dataset: Dataset, per_dimension: bool, seed: int = 0) -> Standardize:
        """Mean 0 and standard deviation 1 over the observed values of at most 100,000 examples, or 1 GiB of them.

        The moments of chunks are merged in float64 by Chan, Golub, LeVeque, "Algorithms for computing the sample
        variance" (1983), equation 2.1, so that memory does not grow with the data.

        Args:
            dataset: to fit.
            per_dimension: one shift and scale for each element of an example; one for all otherwise.
            seed: of the choice of examples, where there are more.
        """
        most = max(1, min(_FIT_ROWS, _FIT_BYTES // max(1, dataset.x[:1].nbytes)))
        rows = np.arange(len(dataset))
        if len(rows) > most:
            rows = np.sort(np.random.default_rng(seed).choice(len(dataset), most, replace=False))
        chunk = max(1, _CHUNK_ELEMENTS // dataset.schema.num_dimensions)
        count, shift, spread = np.float64(0), np.float64(0), np.float64(0)
        for start in range(0, len(rows), chunk):
            num, mean, squares = _moments(dataset, rows[start : start + chunk], 0 if per_dimension else None)
            total = np.maximum(count + num, 1)
            spread = spread + squares + (mean - shift) ** 2 * (count * num / total)
            shift = shift + (mean - shift) * (num / total)
            count = count + num
        scale = np.sqrt(spread / np.maximum(count, 1))
        # A scale that is nothing but rounding of the mean is none: dividing by it would blow up rounding errors.
        constant = scale <= 1e-7 * np.maximum(np.abs(shift), 1e-30)
        return cls(shift.tolist(), np.where(constant, 1.0, scale).tolist())


def _moments(dataset: Dataset, rows: np.ndarray, axis: int | None) -> tuple[Any, Any, Any]:
    """Count, mean, and sum of squares about the mean of the observed values, over the examples or over everything."""
    x = dataset.stored(rows).astype(np.float64)
    mask = dataset.observed(rows)
    missing = None if mask is None else ~mask
    num = np.float64(x.size if axis is None else len(x)) if mask is None else mask.sum(axis=axis, dtype=np.float64)
    if missing is not None:
        x[missing] = 0.0
    mean = x.sum(axis=axis) / np.maximum(num, 1)
    x -= mean
    if missing is not None:
        x[missing] = 0.0
    np.square(x, out=x)
    return num, mean, x.sum(axis=axis)
