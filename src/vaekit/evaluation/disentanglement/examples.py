"""Codes beside the true factors of the same examples, checked once, and rows that share a factor's value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vaekit.data.dataset import as_numpy
from vaekit.errors import ConfigError, DataError

LEAST_EXAMPLES = 10
"""Fewer examples than this measure nothing."""

REACH = 1e100
"""The squares of codes below it are finite."""

Matrix = tuple[tuple[float, ...], ...]
"""Rows of numbers, as a report holds them."""


@dataclass(frozen=True, eq=False)
class Examples:
    """N examples, D latent units, F factors.

    Attributes:
        codes: (N, D) float64, what a model says of each example: the means of its posterior.
        values: (N, F) int64, the true factors as they were given.
        factors: (N, F) int64, the same as 0 ... V_f - 1, in the order of the values.
        num_values: (F,) V_f, how many values each factor takes.
    """

    codes: np.ndarray
    values: np.ndarray
    factors: np.ndarray
    num_values: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def num_units(self) -> int:
        """D."""
        return self.codes.shape[1]

    @property
    def num_factors(self) -> int:
        """F."""
        return self.factors.shape[1]


@dataclass(frozen=True, eq=False)
class Groups:
    """Rows that share a value of one factor, value after value; values that a single example has are left out.

    Attributes:
        order: (n,) the rows, those of one value beside each other.
        starts: (V,) where in `order` each value begins.
        sizes: (V,) how many rows it has, at least 2.
    """

    order: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    def rows(self, value: int) -> np.ndarray:
        """The rows of one value."""
        return self.order[self.starts[value] : self.starts[value] + self.sizes[value]]

    def draw(self, values: np.ndarray, num: int, generator: np.random.Generator) -> np.ndarray:
        """(B, num): for each of B values, so many of its rows, with replacement."""
        places = (generator.random((len(values), num)) * self.sizes[values, None]).astype(np.int64)
        return self.order[self.starts[values, None] + places]

    def draw_values(self, num: int, generator: np.random.Generator) -> np.ndarray:
        """(num,) values, each as often as the data have it."""
        return generator.choice(len(self.sizes), size=num, p=self.sizes / self.sizes.sum())


def as_examples(codes: Any, factors: Any, least_factors: int = 1) -> Examples:
    """Arrays as `Examples`.

    Args:
        codes: (N, D) real numbers.
        factors: (N, F) whole numbers from 0.
        least_factors: how many factors a measure needs.

    Raises:
        DataError: if the shapes do not fit, a code is NaN or infinite, a factor is unknown or constant, or N is below 10.

    Example:
        >>> found = as_examples(np.zeros((10, 3)), np.arange(20).reshape(10, 2))
        >>> found.num_units, found.num_values, found.factors[1].tolist(), found.values[1].tolist()
        (3, (10, 10), [1, 1], [2, 3])
    """
    units, true = as_numpy(codes), as_numpy(factors)
    _check_shapes(units, true, least_factors)
    if units.dtype.kind not in "biuf":
        raise DataError(f"`codes` must be real numbers, found the dtype {units.dtype}. Give the means of the posterior.")
    units = units.astype(np.float64)
    outside = ~(np.abs(units) < REACH)
    if outside.any():
        row, unit = map(int, np.argwhere(outside)[0])
        raise DataError(
            f"`codes` must be finite numbers below {REACH:g}, found {units[row, unit]} in row {row}, unit {unit}. "
            "Look at the model that made them, or leave these examples out."
        )
    if true.dtype.kind not in "biu":
        raise DataError(f"`factors` must be whole numbers, found the dtype {true.dtype}. Give the code of each value, from 0.")
    true = true.astype(np.int64)
    if (true < 0).any():
        row, factor = map(int, np.argwhere(true < 0)[0])
        raise DataError(
            f"Every factor must be known, found {true[row, factor]} in row {row}, factor {factor}. Leave these examples out."
        )
    dense, counts = np.empty_like(true), []
    for factor in range(true.shape[1]):
        found, dense[:, factor] = np.unique(true[:, factor], return_inverse=True)
        counts.append(len(found))
        if len(found) < 2:
            raise DataError(f"Every factor must take at least 2 values, factor {factor} is always {found[0]}. Leave it out.")
    return Examples(units, true, dense, tuple(counts))


def _check_shapes(codes: np.ndarray, factors: np.ndarray, least_factors: int) -> None:
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors):
        raise DataError(
            f"`codes` (N, D) and `factors` (N, F) must be of the same examples, got the shapes {codes.shape} and "
            f"{factors.shape}. Give a row an example in both."
        )
    if len(codes) < LEAST_EXAMPLES:
        raise DataError(f"There must be at least {LEAST_EXAMPLES} examples, found {len(codes)}. Give more, 10,000 if you can.")
    if codes.shape[1] < 1 or factors.shape[1] < least_factors:
        raise DataError(
            f"There must be at least 1 unit and {least_factors} of the factors, found {codes.shape[1]} and {factors.shape[1]}. "
            "Give more of them."
        )


def groups_of(examples: Examples, factor: int) -> Groups:
    """The rows of each value of a factor that at least two examples share.

    Raises:
        DataError: if no two examples share one.
    """
    sizes = np.bincount(examples.factors[:, factor], minlength=examples.num_values[factor])
    shared = sizes >= 2
    if not shared.any():
        raise DataError(
            f"Two examples must share a value of each factor, none do of factor {factor}. Give more examples, or join values."
        )
    starts = np.cumsum(sizes) - sizes
    return Groups(np.argsort(examples.factors[:, factor], kind="stable"), starts[shared], sizes[shared])


def check_matrix(name: str, matrix: Any) -> np.ndarray:
    """A matrix (D, F) of numbers that are not negative, as float64.

    Raises:
        ConfigError: if it is none.
    """
    found = np.asarray(matrix, dtype=np.float64)
    if found.ndim != 2 or not found.size or not (found >= 0).all() or not np.isfinite(found).all():
        raise ConfigError(
            f"`{name}` must be a matrix (D, F) of finite numbers >= 0, got the shape {found.shape} and the least value "
            f"{found.min(initial=np.inf)}. Give a row a unit and a column a factor."
        )
    return found


def check_at_least(least: int, **settings: int) -> None:
    """Raises a sentence for the first setting that is below `least`.

    Raises:
        ConfigError: if there is one.
    """
    for name, value in settings.items():
        if value < least:
            raise ConfigError(f"`{name}` must be at least {least}, got {value}. Leave it out when in doubt.")


def leads(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far the best unit of each factor leads the second best (0 where there is one unit), and which it is: both (F,).

    Example:
        >>> leads(np.array([[0.5, 0.0], [0.25, 1.0]]))
        (array([0.25, 1.  ]), array([0, 1]))
    """
    ordered = np.sort(np.concatenate([np.zeros((1, matrix.shape[1])), matrix]), axis=0)
    return ordered[-1] - ordered[-2], matrix.argmax(0)


def floats(values: np.ndarray) -> tuple[float, ...]:
    """A vector as a tuple of Python's floats."""
    return tuple(float(value) for value in values)


def integers(values: Sequence[Any] | np.ndarray) -> tuple[int, ...]:
    """A vector as a tuple of Python's integers."""
    return tuple(int(value) for value in values)


def rows(values: np.ndarray) -> Matrix:
    """A matrix as a tuple of rows."""
    return tuple(floats(row) for row in values)
