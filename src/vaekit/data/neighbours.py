"""Which examples of a data set are near each other: nearest neighbours, and how firmly each pair belongs together.

The pairs are the edges of a graph whose weights are UMAP's. Of the k nearest neighbours of example i, at distances d_ij,

    v_ij = exp(-max(0, d_ij - rho_i) / sigma_i)        rho_i = the least d_ij above 0, sigma_i so that sum_j v_ij = log2 k
    w_ij = v_ij + v_ji - v_ij v_ji

so that each example is as near to its neighbours as any other is to its own, however dense the data are around it. McInnes,
Healy, Melville, "UMAP: uniform manifold approximation and projection for dimension reduction" (2018), section 3 and
algorithms 2 and 3. Memory grows with N k, and the data themselves are read in chunks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from vaekit.data.dataset import Dataset, spaced
from vaekit.data.tables.grid import CellGrid
from vaekit.data.transforms import Standardize, Transform
from vaekit.errors import ConfigError, DataError, require

COMPONENTS = 64
"""Principal components that distances are taken in, where examples have more numbers."""
EXACT_ROWS = 100_000
"""Examples up to which neighbours are found by comparing all pairs, which is exact; beyond, by descent in a graph."""

_CHUNK_ELEMENTS, _FIT_ELEMENTS, _FIT_ROWS = 2**22, 2**26, 20_000
_BISECTIONS = 48
_LEAST_SIGMA = 1e-3
"""Of the mean distance to the neighbours: many equal distances ask for a sigma of 0."""


@dataclass(frozen=True)
class NeighbourGraph:
    """The edges of N examples, each from both of its ends.

    Attributes:
        starts: (N + 1,) where the edges of each example begin.
        ends: (E,) the example at the other end, int32.
        cumulative: (E + 1,) sums of the weights of all edges before, in float64.
    """

    starts: np.ndarray
    ends: np.ndarray
    cumulative: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def degrees(self) -> np.ndarray:
        """(N,): the sum of the weights of each example's edges."""
        return np.diff(self.cumulative[self.starts])

    def partners(self, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        """(n,): one neighbour of each example, j with probability w_ij / sum_j w_ij.

        Args:
            rows: (n,) examples.
            at: (n,) uniform numbers in [0, 1), one for each.
        """
        begin, end = self.starts[rows], self.starts[rows + 1]
        low, high = self.cumulative[begin], self.cumulative[end]
        place = np.searchsorted(self.cumulative, low + at * (high - low), side="right") - 1
        return self.ends[np.clip(place, begin, end - 1)]  # rounding may step over an end


def neighbour_graph(dataset: Dataset, transform: Transform, num_neighbours: int = 15, seed: int = 0) -> NeighbourGraph:
    """The weighted graph of a data set's nearest neighbours; see the top of the page.

    Args:
        dataset: N examples.
        transform: of a model of them; of a table it says what its columns are.
        num_neighbours: k, at least 2.
        seed: of the principal components, and of the descent where that is used.

    Raises:
        ConfigError: for fewer than two neighbours, or text, between which there is no distance.
        DataError: if there are no more than k examples.
        MissingExtraError: if scikit-learn, or beyond `EXACT_ROWS` examples pynndescent, is not installed.
    """
    check_neighbours(len(dataset), num_neighbours)
    indices, distances = nearest(coordinates(dataset, transform, seed=seed), num_neighbours, seed)
    return symmetrised(indices, membership(distances))


def check_kind(dataset: Dataset) -> None:
    """Raises a ConfigError for text."""
    if dataset.schema.kind == "text":
        raise ConfigError(
            "Neighbours must be of images, vectors or tables, found text, whose tokens have no distance. Leave the neighbour "
            "term out, with the objective `elbo`."
        )


def check_neighbours(num_examples: int, num_neighbours: int) -> None:
    """Refuses numbers that make no graph.

    Raises:
        ConfigError: for fewer than two neighbours.
        DataError: if there are no more examples than neighbours.
    """
    if num_neighbours < 2:
        raise ConfigError(f"`num_neighbours` must be at least 2, got {num_neighbours}. 15 is a good start.")
    if num_examples <= num_neighbours:
        raise DataError(
            f"There must be more examples than the {num_neighbours} neighbours of each, found {num_examples}. Add data, or ask "
            "for fewer neighbours."
        )


# ---------------------------------------------------------------------------------------------------------- coordinates


def coordinates(dataset: Dataset, transform: Transform, components: int = COMPONENTS, seed: int = 0) -> np.ndarray:
    """(N, F) float32: the examples as points between which distances mean something.

    Images, levels and binary values, which share one scale, are taken as they are; other real numbers in units of the standard
    deviation of their column; of tables, numbers as their place in [0, 1] on the model's grid and categories as 1/sqrt(2) times
    a unit vector, so that two of them are as far apart as the least and the greatest number. What is missing is at the mean.
    More than `components` numbers are reduced to their principal components, fitted to at most 20,000 evenly spaced examples.

    Raises:
        ConfigError: for text, or a table with another transform than a `CellGrid`.
    """
    check_kind(dataset)
    scale = None
    if dataset.schema.kind == "vectors" and dataset.schema.levels is None:
        scale = Standardize.fit(dataset, per_dimension=True)
    width = _points(dataset, transform, scale, np.zeros(1, dtype=np.int64)).shape[1]
    sample = _points(dataset, transform, scale, spaced(len(dataset), min(_FIT_ROWS, max(1000, _FIT_ELEMENTS // width))))
    mean = np.nan_to_num(np.nanmean(np.where(np.isnan(sample).all(0), 0.0, sample), axis=0)).astype(np.float32)
    axes = None
    if width > components:
        centred = torch.from_numpy(np.where(np.isnan(sample), 0.0, sample - mean).astype(np.float32))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            axes = torch.svd_lowrank(centred, min(components, *centred.shape), niter=4)[2].numpy()
    del sample
    found = np.empty((len(dataset), width if axes is None else axes.shape[1]), dtype=np.float32)
    chunk = max(1, _CHUNK_ELEMENTS // width)
    for start in range(0, len(dataset), chunk):
        rows = np.arange(start, min(start + chunk, len(dataset)))
        points = _points(dataset, transform, scale, rows) - mean
        points[np.isnan(points)] = 0.0
        found[start : start + len(rows)] = points if axes is None else points @ axes
    return found


def _points(dataset: Dataset, transform: Transform, scale: Standardize | None, rows: np.ndarray) -> np.ndarray:
    """(n, F) float32, NaN where missing."""
    stored, observed = dataset.stored(rows), dataset.observed(rows)
    if dataset.schema.kind == "table":
        if not isinstance(transform, CellGrid):
            raise ConfigError(
                f"A table must have a `CellGrid` for its rows to have neighbours, got the transform {type(transform).__name__}."
            )
        places = transform(torch.from_numpy(np.ascontiguousarray(stored))).numpy()
        places = places if observed is None else np.where(observed, places, np.nan)
        channels = enumerate(zip(transform.sizes, transform.ordered, strict=True))
        return np.concatenate([_column(places[:, channel], size, ordered) for channel, (size, ordered) in channels], axis=1)
    points = (
        torch.from_numpy(stored.astype(np.float32)) if scale is None else scale(torch.from_numpy(stored.astype(np.float32)))
    )
    flat = points.numpy().reshape(len(rows), -1)
    return flat if observed is None else np.where(observed.reshape(len(rows), -1), flat, np.nan).astype(np.float32)


def _column(places: np.ndarray, size: int, ordered: bool) -> np.ndarray:
    """(n, 1) numbers in [0, 1], or (n, size) categories."""
    if ordered:
        return (places[:, None] / size).astype(np.float32)
    codes = np.floor(places)[:, None]
    return np.where(np.isnan(codes), np.nan, (codes == np.arange(size)) * math.sqrt(0.5)).astype(np.float32)


# ------------------------------------------------------------------------------------------------------------ the graph


def nearest(points: np.ndarray, num_neighbours: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest neighbours of each point, itself left out, and their Euclidean distances.

    All pairs are compared (scikit-learn) up to `EXACT_ROWS` points. Beyond, neighbours of neighbours are tried until nothing
    gets nearer (pynndescent: Dong, Moses, Li, "Efficient k-nearest neighbor graph construction for generic similarity
    measures", 2011), which finds nearly all of them; it is deterministic for a seed.

    Args:
        points: (N, F) float32.
        num_neighbours: k < N.
        seed: of the descent.

    Returns:
        Indices (N, k) int32 and distances (N, k) float32, the nearest first. A neighbour that was not found is the point
        itself, at an infinite distance.

    Raises:
        MissingExtraError: if the package that is needed is not installed.

    Example:
        >>> nearest(np.array([[0.0], [1.0], [3.0]], dtype=np.float32), 1)[0].ravel()
        array([1, 0, 1], dtype=int32)
    """
    if len(points) <= EXACT_ROWS:
        search = require("sklearn.neighbors", "map", "Finding neighbours").NearestNeighbors(n_neighbors=num_neighbours)
        distances, indices = search.fit(points).kneighbors()
        return indices.astype(np.int32), distances.astype(np.float32)
    descent = require("pynndescent", "map", f"Finding neighbours among more than {EXACT_ROWS:,} examples")
    found = descent.NNDescent(points, n_neighbors=num_neighbours + 1, random_state=seed, low_memory=True, compressed=False)
    return without_itself(*found.neighbor_graph)


def without_itself(indices: np.ndarray, distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, k) of (N, k + 1) neighbours among which may be the point itself, or -1 for none."""
    own = np.arange(len(indices), dtype=np.int32)[:, None]
    indices, distances = indices.astype(np.int32), distances.astype(np.float32)
    lost = (indices == own) | (indices < 0)
    distances[lost], indices = np.inf, np.where(lost, own, indices)
    order = np.argsort(distances, axis=1, kind="stable")[:, :-1]
    return np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)


def membership(distances: np.ndarray) -> np.ndarray:
    """v_ij, (N, k) float32: how firmly each neighbour belongs to each example, in (0, 1], 1 for the nearest.

    sigma is found by bisection. Where so many neighbours are as near as the nearest that any sigma gives more than log2 k,
    it is 1/1000 of their mean distance.

    Args:
        distances: (N, k), k >= 2; an infinite one counts 0.

    Example:
        >>> membership(np.array([[1.0, 2.0, 3.0, 4.0]])).sum().round(4).item()
        2.0
    """
    found = np.empty(distances.shape, dtype=np.float32)
    chunk = max(1, _CHUNK_ELEMENTS // distances.shape[1])
    for start in range(0, len(distances), chunk):
        found[start : start + chunk] = _membership(distances[start : start + chunk].astype(np.float64))
    return found


def _membership(distances: np.ndarray) -> np.ndarray:
    count, finite = distances.shape[1], np.isfinite(distances)
    wanted = math.log2(count)
    rho = np.where((distances > 0) & finite, distances, np.inf).min(1, keepdims=True)
    beyond = np.maximum(distances - np.where(np.isfinite(rho), rho, 0.0), 0.0)
    farthest = np.where(finite, beyond, 0.0).max(1, keepdims=True)
    low, high = np.zeros_like(farthest), farthest / math.log(count / wanted) + 1e-30  # where the sum is at least log2 k
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = np.exp(-beyond / np.maximum(middle, 1e-300)).sum(1, keepdims=True) > wanted
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    mean = np.where(finite, distances, 0.0).sum(1, keepdims=True) / np.maximum(finite.sum(1, keepdims=True), 1)
    sigma = np.maximum(np.maximum((low + high) / 2, _LEAST_SIGMA * mean), 1e-30)
    return np.exp(-beyond / sigma)


def symmetrised(indices: np.ndarray, weights: np.ndarray) -> NeighbourGraph:
    """w_ij = v_ij + v_ji - v_ij v_ji, where v is 0 for what is no neighbour.

    Args:
        indices: (N, k) neighbours.
        weights: (N, k), v in [0, 1].

    Example:
        >>> graph = symmetrised(np.array([[1], [0], [0]]), np.array([[0.5], [0.5], [1.0]]))
        >>> graph.degrees
        array([1.75, 0.75, 1.  ])
    """
    sparse = require("scipy.sparse", "map", "Weighing neighbours")
    num, count = indices.shape
    starts = np.arange(num + 1, dtype=np.int64) * count
    one = sparse.csr_matrix((weights.astype(np.float32).ravel(), indices.astype(np.int32).ravel(), starts), (num, num))
    other = one.T.tocsr()
    both = one + other - one.multiply(other)
    both.eliminate_zeros()
    both.sort_indices()
    cumulative = np.concatenate([[0.0], np.cumsum(both.data, dtype=np.float64)])
    return NeighbourGraph(both.indptr.astype(np.int64), both.indices.astype(np.int32), cumulative)
