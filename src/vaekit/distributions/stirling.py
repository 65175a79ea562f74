"""Gamma functions by their Stirling series, so that those of large arguments cancel before they are computed.

The log-mass of a count is a difference of log-Gammas that are thousands of times as large as the result. Written as

    log Gamma(a) = (a - 1/2) log a - a + 1/2 log(2 pi) + r(a),

the large parts of numerator and denominator join to deviances, which are small where the mass is, and only the remainders r
are left: Loader, "Fast and accurate computation of binomial probabilities" (2000). In float32 a mass at a count of 100,000
is then exact to six digits, where the difference of log-Gammas is off by a tenth.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
_SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
_FAR = 10.0
"""From here on six terms of the series are exact in float64."""


def stirling_remainder(a: Tensor) -> Tensor:
    """r(a) = log Gamma(a) - (a - 1/2) log a + a - 1/2 log(2 pi), for a > 0.

    Example:
        >>> stirling_remainder(torch.tensor([1.0, 1e6]))
        tensor([8.1061e-02, 8.3333e-08])
    """
    near, inverse = a.clamp_max(_FAR), a.clamp_min(_FAR).reciprocal()
    square = inverse.square()
    series = torch.zeros_like(inverse)
    for coefficient in reversed(_SERIES):
        series = series * square + coefficient
    exact = torch.lgamma(near) - (near - 0.5) * near.log() + near - _HALF_LOG_TWO_PI
    return torch.where(a < _FAR, exact, series * inverse)


def deviance(a: Tensor, b: Tensor, log_ratio: Tensor) -> Tensor:
    """a log(a / b) + b - a, which is at least 0, and 0 where a = b.

    Args:
        a: at least 0.
        b: at least 0.
        log_ratio: log(a / b) as exactly as it can be had; any finite number where a is 0.

    Example:
        >>> deviance(torch.tensor([0.0, 3.0]), torch.tensor([2.0, 3.0]), torch.tensor([-1.0, 0.0]))
        tensor([2., 0.])
    """
    near = (log_ratio.abs() < 0.5) & (a > 0)
    small = torch.where(near, log_ratio, 0.0)
    return torch.where(near, a * (small + torch.expm1(-small)), a * log_ratio + (b - a))


def log_factorial_remainder(x: Tensor) -> Tensor:
    """log x! - x log x + x for x >= 0, which is 0 at 0.

    Example:
        >>> log_factorial_remainder(torch.tensor([0.0, 1.0]))
        tensor([0., 1.])
    """
    positive = torch.where(x > 0, x, 1.0)
    return torch.where(x > 0, stirling_remainder(positive) + 0.5 * positive.log() + _HALF_LOG_TWO_PI, 0.0)
