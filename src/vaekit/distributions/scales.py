"""From what a network gives to what a density takes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SOFTPLUS_ONE = 0.5413248546
"""The number whose softplus is 1."""


def positive(raw: Tensor, least: float = 1e-4) -> Tensor:
    """A scale from an unbounded number: 1 at 0, near-linear above, never below `least`, so that no KL overflows.

    Example:
        >>> positive(torch.tensor([-100.0, 0.0]))
        tensor([1.0000e-04, 1.0001e+00])
    """
    return F.softplus(raw + SOFTPLUS_ONE) + least


def full_float(values: Tensor) -> Tensor:
    """The same numbers in float32 or better: a reduced precision ends before a density or a loss."""
    return values if values.dtype == torch.float64 else values.float()
