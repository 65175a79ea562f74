"""From stored values to what a likelihood is defined on, and back.

y = T(x),   log p(x) = log p(y) + log |det dT/dx|
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from vaekit.component import Component
from vaekit.data.dataset import Dataset
from vaekit.errors import ConfigError

_FIT_ROWS = 100_000


class Transform(Component, ABC):
    """A map of stored values, element by element.

    Attributes:
        stochastic: whether two calls on the same values may differ.
    """

    stochastic: bool = False

    @abstractmethod
    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """float32 values (..., *S) of stored values (..., *S)."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """Stored values, in float level units where they are levels, of values that a model gives."""

    def log_abs_det(self, event_shape: Sequence[int], mask: Tensor | None = None) -> Tensor:
        """log |det dT/dx| of the observed elements, in nats; 0 where masses of levels are compared, not densities.

        Args:
            event_shape: *S, the shape of one example.
            mask: (B, *S) bool, True where observed, or None.

        Returns:
            () float64, the same for every example, or (B,) with a mask.
        """
        return torch.zeros((), dtype=torch.float64)


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
            raise ConfigError(f"`levels` must be at least 2, got {levels}.")
        self.levels = levels
        self.stochastic = levels > 2

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Zeros and ones (..., *S), from `generator` or the global one."""
        probability = x.to(torch.float32) / (self.levels - 1)
        return torch.bernoulli(probability, generator=generator) if self.stochastic else probability

    def inverse(self, y: Tensor) -> Tensor:
        """Probabilities (..., *S) in level units: y (V - 1)."""
        return y * (self.levels - 1)


class Standardize(Transform):
    """Values moved and scaled: y = (x - shift) / scale, log |det| = - sum log scale.

    Args:
        shift: one number, or nested lists of the shape of an example.
        scale: likewise, above 0.

    Example:
        >>> Standardize(1.0, 2.0)(torch.tensor([[1.0, 5.0]]))
        tensor([[0., 2.]])
        >>> round(Standardize(1.0, 2.0).log_abs_det((3,)).item(), 4)
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
            raise ConfigError(f"`scale` must be above 0, got {float(self.scale.min())}.")

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """(x - shift) / scale."""
        return (x.to(torch.float32) - self.shift) / self.scale

    def inverse(self, y: Tensor) -> Tensor:
        """shift + scale * y."""
        return self.shift + self.scale * y

    def log_abs_det(self, event_shape: Sequence[int], mask: Tensor | None = None) -> Tensor:
        """- sum over the observed elements of an example of log scale."""
        log_scale = torch.log(self.scale.double()).expand(tuple(event_shape))
        return -log_scale.sum() if mask is None else -(log_scale * mask).flatten(1).sum(1)

    @classmethod
    def fit(cls, dataset: Dataset, per_dimension: bool, seed: int = 0) -> Standardize:
        """Mean 0 and standard deviation 1 over the observed values of at most 100,000 rows.

        Args:
            dataset: to fit.
            per_dimension: one shift and scale for each element of an example; one for all otherwise.
            seed: of the choice of rows, where there are more.
        """
        rows = np.arange(len(dataset))
        if len(rows) > _FIT_ROWS:
            rows = np.sort(np.random.default_rng(seed).choice(len(dataset), _FIT_ROWS, replace=False))
        x = dataset.x[rows].astype(np.float64)
        seen = np.ones(x.shape, bool) if dataset.mask is None else dataset.mask[rows]
        axis = 0 if per_dimension else None
        count = np.maximum(seen.sum(axis=axis), 1)
        shift = np.where(seen, x, 0.0).sum(axis=axis) / count
        spread = np.sqrt((np.where(seen, x - shift, 0.0) ** 2).sum(axis=axis) / count)
        # A spread that is nothing but rounding of the mean is none: dividing by it would blow up rounding errors.
        constant = spread <= 1e-7 * np.maximum(np.abs(shift), 1e-30)
        return cls(shift.tolist(), np.where(constant, 1.0, spread).tolist())
