"""Integer probabilities. Every mass is at least 1 and the sum is exactly 2^precision.

Tables are computed once, when a model is converted, and stored with it: coding looks up integers and
evaluates no transcendental.
"""

from __future__ import annotations

import dataclasses
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

Ints = NDArray[np.int64]

_CDF_BITS = 30  # of an entry of the normal CDF
_STEP_BITS = 12  # a step of the CDF's argument is 2^-12
_REACH = 8 << _STEP_BITS  # beyond 8 standard deviations the CDF is 0 or 1
_INVERSE_BITS = 20  # of 1 / scale


@dataclasses.dataclass(frozen=True)
class BernoulliTable:
    """Mass of a one by logit: round(2^p sigmoid(g / 2^grid)), kept within 1..2^p - 1.

    Args:
        ones: (2 R + 1,) masses for the logits -R..R, in steps of the grid.
        precision: p.
    """

    ones: Ints
    precision: int

    @classmethod
    def build(cls, grid_bits: int = 6, reach: int = 16, precision: int = 24) -> BernoulliTable:
        """Logits from -reach to reach in steps of 2^-grid_bits."""
        logits = np.arange(-reach << grid_bits, (reach << grid_bits) + 1) / (1 << grid_bits)
        ones = np.rint(expit(logits) * (1 << precision)).astype(np.int64)
        return cls(ones.clip(1, (1 << precision) - 1), precision)

    def mass_of_one(self, logits: Ints) -> Ints:
        """Masses for logits on the grid; those out of reach count as the outermost."""
        reach = len(self.ones) // 2
        return self.ones[logits.clip(-reach, reach) + reach]

    def intervals(self, x: Ints, logits: Ints) -> tuple[Ints, Ints]:
        """(start, mass) of the values x: 0 lies before 1."""
        one = self.mass_of_one(logits)
        zero = (1 << self.precision) - one
        return np.where(x == 1, zero, 0), np.where(x == 1, one, zero)

    def find(self, slot: Ints, logits: Ints) -> tuple[Ints, Ints, Ints]:
        """(x, start, mass) of the values whose intervals hold the slots."""
        x = (slot >= (1 << self.precision) - self.mass_of_one(logits)).astype(np.int64)
        return x, *self.intervals(x, logits)


@dataclasses.dataclass(frozen=True)
class NormalTable:
    """Normals over 2^n cells of equal mass under N(0, 1).

    cum(j) = j + floor((2^p - 2^n) Phi((edge_j - mean) / scale)) with Phi, the edges and 1 / scale from stored integers. The
    term j gives each cell its 1; Phi and its argument do not fall with j, so the sum is exact and each mass at least 1.

    Args:
        edges: (2^n - 1,) inner edges, in steps of 2^-grid_bits.
        centres: (2^n,) medians of the cells, in steps of 2^-grid_bits.
        inverse_scales: (S,) 2^20 / scale for each log-scale on its grid.
        cdf: Phi from -8 to 8 in steps of 2^-12, in units of 2^-30.
        cell_bits, grid_bits, precision: n, the grid of means and edges, and p.
    """

    edges: Ints
    centres: Ints
    inverse_scales: Ints
    cdf: Ints
    cell_bits: int
    grid_bits: int
    precision: int
    least_log_scale: int
    log_grid_bits: int

    @classmethod
    def build(cls, cell_bits: int = 12, grid_bits: int = 16, precision: int = 28, log_grid_bits: int = 5) -> NormalTable:
        """Scales from e^-8 to e^4 in steps of e^(2^-log_grid_bits)."""
        n, normal = 1 << cell_bits, NormalDist()
        quantile = [round(normal.inv_cdf(j / (2 * n)) * (1 << grid_bits)) for j in range(1, 2 * n)]
        logs = np.arange(-8 << log_grid_bits, (4 << log_grid_bits) + 1)
        inverse = np.rint((1 << _INVERSE_BITS) * np.exp(-logs / (1 << log_grid_bits))).astype(np.int64)
        cdf = np.rint(ndtr(np.arange(-_REACH, _REACH + 1) / (1 << _STEP_BITS)) * (1 << _CDF_BITS)).astype(np.int64)
        cdf[0], cdf[-1] = 0, 1 << _CDF_BITS
        points = np.array(quantile, dtype=np.int64)
        return cls(
            points[1::2], points[0::2], inverse, cdf, cell_bits, grid_bits, precision, -8 << log_grid_bits, log_grid_bits
        )

    def cumulative(self, cell: Ints, mean: Ints, log_scale: Ints) -> Ints:
        """cum(cell), for cells 0..2^n."""
        n, total = 1 << self.cell_bits, 1 << self.precision
        inverse = self.inverse_scales[(log_scale - self.least_log_scale).clip(0, len(self.inverse_scales) - 1)]
        distance = self.edges[(cell - 1).clip(0, n - 2)] - mean.clip(-64 << self.grid_bits, 64 << self.grid_bits)
        at = (distance * inverse) >> (self.grid_bits + _INVERSE_BITS - _STEP_BITS)
        inner = cell + ((self.cdf[at.clip(-_REACH, _REACH) + _REACH] * (total - n)) >> _CDF_BITS)
        return np.where(cell <= 0, 0, np.where(cell >= n, total, inner))

    def intervals(self, cell: Ints, mean: Ints, log_scale: Ints) -> tuple[Ints, Ints]:
        """(start, mass) of cells under N(mean, scale^2)."""
        start = self.cumulative(cell, mean, log_scale)
        return start, self.cumulative(cell + 1, mean, log_scale) - start

    def find(self, slot: Ints, mean: Ints, log_scale: Ints) -> tuple[Ints, Ints, Ints]:
        """(cell, start, mass) of the cells whose intervals hold the slots, by halving."""
        cell = np.zeros_like(slot)
        for bit in reversed(range(self.cell_bits)):
            higher = cell + (1 << bit)
            cell = np.where(self.cumulative(higher, mean, log_scale) <= slot, higher, cell)
        return cell, *self.intervals(cell, mean, log_scale)
