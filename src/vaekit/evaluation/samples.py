"""How good and how varied generated examples are, by the features of a network of one's own choice.

Every measure compares two sets of feature vectors, so figures of different feature networks, or of different numbers of
examples, do not compare. Fidelity and variety are best told apart (precision and recall, density and coverage); the Frechet
and kernel distances put both into one number.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vaekit.errors import ConfigError, DataError
from vaekit.types import Json

_ELEMENTS = 2**22


@dataclass(frozen=True)
class SampleQuality:
    """Generated examples against real ones, by their features.

    Attributes:
        frechet_distance: 0 for two sets of the same mean and covariance; it falls with the number of examples.
        kernel_distance: the squared maximum mean discrepancy, without bias: about 0, and often below, for two sets of one kind.
        kernel_distance_error: standard error of `kernel_distance`.
        precision: the share of the generated that lie among the real.
        recall: the share of the real that lie among the generated.
        density: as precision, where outliers of the real weigh less; 1 for two sets of one kind, above 1 for samples that
            are more typical than the real.
        coverage: the share of the real that have a generated neighbour.
        num_neighbours: k of the last four.
        num_real: how many real examples.
        num_generated: how many generated ones.
    """

    frechet_distance: float
    kernel_distance: float
    kernel_distance_error: float
    precision: float
    recall: float
    density: float
    coverage: float
    num_neighbours: int
    num_real: int
    num_generated: int

    def to_json(self) -> Json:
        """The figures as a JSON object."""
        return asdict(self)


def sample_quality(real: Any, generated: Any, *, num_neighbours: int = 5, seed: int = 0) -> SampleQuality:
    """All measures of this module.

    Args:
        real: (N, F) features of real examples that training did not see.
        generated: (M, F) features of generated ones.
        num_neighbours: k.
        seed: of the subsets of the kernel distance.

    Raises:
        DataError: if the features are not two finite matrices of one width.
        ConfigError: if there are not more than `num_neighbours` examples on each side.

    Example:
        >>> points = np.random.default_rng(0).normal(size=(200, 3))
        >>> found = sample_quality(points, points)
        >>> round(found.frechet_distance, 6), found.precision, found.recall, found.coverage
        (0.0, 1.0, 1.0, 1.0)
    """
    real, generated = _features(real, generated)
    distance, error = kernel_distance(real, generated, seed=seed)
    shares = neighbourhoods(real, generated, num_neighbours)
    return SampleQuality(
        frechet_distance=frechet_distance(real, generated),
        kernel_distance=distance,
        kernel_distance_error=error,
        **shares,
        num_neighbours=num_neighbours,
        num_real=len(real),
        num_generated=len(generated),
    )


def frechet_distance(real: Any, generated: Any) -> float:
    """The squared Frechet distance of the two normals that have the features' means and covariances.

        |m - n|^2 + tr(A + B - 2 (A^(1/2) B A^(1/2))^(1/2))

    The root's trace is the sum of the square roots of the eigenvalues of a symmetric matrix, which are real and, but for
    rounding, not negative; no general matrix root is taken. In float64.
    Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, "GANs trained by a two time-scale update rule converge to a local Nash
    equilibrium" (2017), equation 6, with the features of a network of one's own in place of Inception's.

    Args:
        real: (N, F), N >= 2.
        generated: (M, F), M >= 2.

    Raises:
        DataError: if the features are not two finite matrices of one width.
        ConfigError: if there are fewer than two examples on a side.

    Example:
        >>> x = np.array([[-1.0], [0.0], [1.0]])
        >>> round(frechet_distance(x, 2 * x + 3), 6)  # (3 - 0)^2 + (2 - 1)^2
        10.0
    """
    real, generated = _features(real, generated)
    _check_count(2, real, generated)
    (mean, a), (other, b) = ((x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))) for x in (real, generated))
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    between = np.linalg.eigvalsh(root @ b @ root)
    trace = np.trace(a) + np.trace(b) - 2 * np.sqrt(np.maximum(between, 0.0)).sum()
    return float(np.square(mean - other).sum() + max(trace, 0.0))


def kernel_distance(
    real: Any, generated: Any, *, num_subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The squared maximum mean discrepancy with the kernel k(a, b) = (<a, b> / F + 1)^3, and its standard error.

        mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

    A mean over random subsets, each without bias, so figures from different numbers of examples compare. The error is that of
    the mean over the subsets: it does not know that all of them are of the same examples.
    Binkowski, Sutherland, Arbel, Gretton, "Demystifying MMD GANs" (2018), section 4.

    Args:
        real: (N, F).
        generated: (M, F).
        num_subsets: how many.
        subset_size: examples a side in each, at most as many as there are.
        seed: of the subsets.

    Returns:
        The distance, and its standard error.

    Raises:
        DataError: if the features are not two finite matrices of one width.
        ConfigError: if there are fewer than two examples on a side, or fewer than two subsets.
    """
    real, generated = _features(real, generated)
    _check_count(2, real, generated)
    if num_subsets < 2 or subset_size < 2:
        raise ConfigError(
            f"There must be at least 2 subsets of 2 examples, got {num_subsets} of {subset_size}. Use 100 of 1000."
        )
    generator, size = np.random.default_rng(seed), min(subset_size, len(real), len(generated))
    found = []
    for _ in range(num_subsets):
        x = real[generator.choice(len(real), size, replace=False)]
        y = generated[generator.choice(len(generated), size, replace=False)]
        same = [(k.sum() - np.trace(k)) / (size * (size - 1)) for k in (_cubic(x, x), _cubic(y, y))]
        found.append(sum(same) - 2 * _cubic(x, y).mean())
    return float(np.mean(found)), float(np.std(found, ddof=1) / math.sqrt(num_subsets))


def _cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def neighbourhoods(real: Any, generated: Any, num_neighbours: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage, by balls about examples that reach to their k-th nearest neighbour.

        precision = mean_j [y_j in some B(x_i)]          recall   = mean_i [x_i in some B(y_j)]
        density   = 1/k mean_j #{i: y_j in B(x_i)}       coverage = mean_i [B(x_i) holds some y_j]

    B(x_i) is closed, and its radius is the distance of x_i to the k-th nearest of the other x; B(y_j) likewise.
    Kynkaanniemi, Karras, Laine, Lehtinen, Aila, "Improved precision and recall metric for assessing generative models" (2019),
    equations 1 and 2; Naeem, Oh, Uh, Choi, Yoo, "Reliable fidelity and diversity metrics for generative models" (2020),
    equations 3 and 4. They use k = 3 and k = 5, and as many examples on both sides, of which recall and coverage depend.

    Distances are float64, a block of rows at a time, so memory does not grow with N times M.

    Args:
        real: x (N, F).
        generated: y (M, F).
        num_neighbours: k.

    Returns:
        The four by name.

    Raises:
        DataError: if the features are not two finite matrices of one width.
        ConfigError: if k is less than 1, or there are not more than k examples on each side.

    Example:
        >>> x = np.array([[0.0], [1.0], [2.0], [10.0]])
        >>> neighbourhoods(x, x + 0.5, num_neighbours=1)
        {'precision': 1.0, 'recall': 1.0, 'density': 1.75, 'coverage': 1.0}
    """
    real, generated = _features(real, generated)
    if num_neighbours < 1:
        raise ConfigError(f"`num_neighbours` must be at least 1, got {num_neighbours}. Use 5 when in doubt.")
    _check_count(num_neighbours + 1, real, generated)
    of_real, of_generated = _radii(real, num_neighbours), _radii(generated, num_neighbours)
    balls = np.zeros(len(generated))
    recalled, covered = np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
    for rows, squares in _squared_distances(real, generated):
        inside = squares <= of_real[rows, None]
        balls += inside.sum(0)
        covered[rows] = inside.any(1)
        recalled[rows] = (squares <= of_generated).any(1)
    return {
        "precision": float((balls > 0).mean()),
        "recall": float(recalled.mean()),
        "density": float(balls.mean() / num_neighbours),
        "coverage": float(covered.mean()),
    }


def _radii(x: np.ndarray, num_neighbours: int) -> np.ndarray:
    """(N,): the squared distance of each to its k-th nearest other."""
    found = np.empty(len(x))
    for rows, squares in _squared_distances(x, x):
        squares[np.arange(len(squares)), np.arange(rows.start, rows.stop)] = -1.0  # itself, before all others
        found[rows] = np.partition(squares, num_neighbours, axis=1)[:, num_neighbours]
    return found


def _squared_distances(x: np.ndarray, y: np.ndarray) -> Any:
    """Blocks of rows of |x_i - y_j|^2; what is nothing but rounding of the norms is 0, so that copies lie at no distance."""
    of_x, of_y = np.square(x).sum(1), np.square(y).sum(1)
    block = max(1, _ELEMENTS // len(y))
    for start in range(0, len(x), block):
        rows = slice(start, min(start + block, len(x)))
        norms = of_x[rows, None] + of_y
        squares = norms - 2 * (x[rows] @ y.T)
        squares[squares < 1e-13 * norms] = 0.0
        yield rows, squares


def _features(real: Any, generated: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.asarray(values, dtype=np.float64) for values in (real, generated))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise DataError(
            f"Features must be two matrices (N, F) of one width, found shapes {x.shape} and {y.shape}. Flatten each example."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError("Features must be finite, found NaN or infinite values. Look at what the feature network gives.")
    return x, y


def _check_count(least: int, *sets: np.ndarray) -> None:
    if min(map(len, sets)) < least:
        found = " and ".join(str(len(x)) for x in sets)
        raise ConfigError(f"Each side must have at least {least} examples, got {found}. Give more examples, or a smaller k.")
