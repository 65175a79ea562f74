"""How well latents keep what is near in the data: of maps that are looked at, and of features.

With n examples, the ranks r_x(i, j) of j among the neighbours of i in the data (the nearest has rank 1) and r_z(i, j) in the
latents, and their k nearest N_x(i) and N_z(i):

    trustworthiness(k) = 1 - 2 / (n k (2n - 3k - 1)) sum_i sum_(j in N_z(i)) max(0, r_x(i, j) - k)
    continuity(k)      = 1 - 2 / (n k (2n - 3k - 1)) sum_i sum_(j in N_x(i)) max(0, r_z(i, j) - k)

Untrusted are neighbours on the map that are none in the data; discontinuous are neighbours in the data that the map tears
apart. Both are 1 for a map that keeps all neighbourhoods, and near 1/2 for one that knows nothing. Venna, Kaski, "Neighborhood
preservation in nonlinear projection methods: an experimental study" (2001), equations 1 and 2.

Distances are Euclidean, in float64, and memory is bounded: a chunk of examples at a time is compared with all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from vaekit.data.dataset import spaced
from vaekit.errors import DataError
from vaekit.types import Json

_MAX_ELEMENTS = 2**23


@dataclass(frozen=True)
class MapReport:
    """How well a map keeps neighbourhoods.

    Attributes:
        trustworthiness: whether neighbours on the map are neighbours in the data.
        continuity: whether neighbours in the data are neighbours on the map.
        knn_accuracy: the share of examples whose label is that of most of their neighbours on the map, themselves left out;
            None without labels.
        num_neighbours: k.
        num_examples: that were compared.
    """

    trustworthiness: float
    continuity: float
    knn_accuracy: float | None
    num_neighbours: int
    num_examples: int

    def to_json(self) -> Json:
        """The figures by name."""
        return asdict(self)


def evaluate_map(
    points: np.ndarray, latents: np.ndarray, labels: np.ndarray | None = None, *, num_neighbours: int = 5, limit: int = 10_000
) -> MapReport:
    """Trustworthiness, continuity, and the accuracy of neighbours on the map.

    Args:
        points: (n, F), the data as points between which distances mean something.
        latents: (n, D), the map.
        labels: (n,) codes, -1 where unknown, or None.
        num_neighbours: k, below n / 2.
        limit: at most so many examples, evenly spaced.

    Raises:
        DataError: if the arrays are not finite or not of one length, or k is not below n / 2.

    Example:
        >>> line = np.arange(10.0)[:, None] ** 2
        >>> evaluate_map(line, -line, num_neighbours=3).trustworthiness
        1.0
    """
    _check(points, latents)
    if labels is not None and len(labels) != len(latents):
        raise DataError(f"There must be a label for each example, found {len(labels)} for {len(latents)}. Give one an example.")
    rows = spaced(len(latents), limit)
    points, latents = points[rows], latents[rows]
    trusted = trustworthiness(points, latents, num_neighbours)
    continued = trustworthiness(latents, points, num_neighbours)
    accuracy = None
    if labels is not None and len(known := rows[labels[rows] >= 0]) > num_neighbours:
        accuracy = _own_accuracy(latents[labels[rows] >= 0], labels[known], num_neighbours)
    return MapReport(trusted, continued, accuracy, num_neighbours, len(rows))


def trustworthiness(points: np.ndarray, latents: np.ndarray, num_neighbours: int = 5) -> float:
    """The share of trust that neighbours on a map deserve, in [0, 1]; see the top of the page. With the arguments exchanged, it
    is the continuity.

    Of equal distances the rank is the best that any of them could have.

    Args:
        points: (n, F), the data.
        latents: (n, D), the map.
        num_neighbours: k, below n / 2.

    Raises:
        DataError: if the arrays are not finite or not of one length, or k is not below n / 2.
    """
    _check(points, latents)
    num, k = len(points), num_neighbours
    if not 1 <= k < num / 2:
        raise DataError(f"`num_neighbours` must be at least 1 and below half of the {num} examples, got {k}. Use 5.")
    penalty = 0
    there = _distances(latents, latents)
    for (rows, here), (_, mapped) in zip(_distances(points, points), there, strict=True):
        own = torch.arange(len(rows)), torch.from_numpy(rows)
        here[own], mapped[own] = np.inf, np.inf
        neighbours = mapped.topk(k, largest=False).indices
        for column in neighbours.T:
            rank = 1 + (here < here.gather(1, column[:, None])).sum(1)
            penalty += int((rank - k).clamp_min(0).sum())
    return 1.0 - 2.0 * penalty / (num * k * (2 * num - 3 * k - 1))


def knn_accuracy(
    latents: np.ndarray, labels: np.ndarray, new: np.ndarray, new_labels: np.ndarray, num_neighbours: int = 5
) -> float:
    """The share of new examples whose label is the commonest among their k nearest in the latents of labelled ones.

    Of labels that are equally common, the least counts.

    Args:
        latents: (N, D) of labelled examples.
        labels: (N,) whole numbers from 0.
        new: (M, D).
        new_labels: (M,).
        num_neighbours: k, at most N.

    Raises:
        DataError: if the arrays are not finite or do not fit each other.
    """
    if len(latents) != len(labels) or len(new) != len(new_labels) or latents.shape[1:] != new.shape[1:]:
        raise DataError(
            f"Latents and labels must fit each other, found {latents.shape} with {len(labels)} labels, and {new.shape} with "
            f"{len(new_labels)}. Give one label an example."
        )
    if not 1 <= num_neighbours <= len(latents):
        raise DataError(f"`num_neighbours` must be from 1 to the {len(latents)} examples, got {num_neighbours}. Use 5.")
    _check_finite(latents, new)
    codes, hits = torch.from_numpy(np.asarray(labels, dtype=np.int64)), 0
    for rows, apart in _distances(new, latents):
        found = _commonest(codes[apart.topk(num_neighbours, largest=False).indices])
        hits += int((found.numpy() == np.asarray(new_labels)[rows]).sum())
    return hits / len(new)


def _own_accuracy(latents: np.ndarray, labels: np.ndarray, num_neighbours: int) -> float:
    """As `knn_accuracy` of the examples themselves, each left out of its own neighbours."""
    codes, hits = torch.from_numpy(np.asarray(labels, dtype=np.int64)), 0
    for rows, apart in _distances(latents, latents):
        apart[torch.arange(len(rows)), torch.from_numpy(rows)] = np.inf
        found = _commonest(codes[apart.topk(num_neighbours, largest=False).indices])
        hits += int((found.numpy() == labels[rows]).sum())
    return hits / len(latents)


def _commonest(labels: Tensor) -> Tensor:
    """(n,): of labels (n, k) the commonest, the least of equally common ones."""
    counts = (labels[:, :, None] == labels[:, None, :]).sum(2)
    labels = torch.where(counts == counts.max(1, keepdim=True).values, labels, torch.iinfo(torch.int64).max)
    return labels.min(1).values


def _distances(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Squared distances (n, N) of a chunk of x to all of y, in float64, and which rows of x they are of."""
    whole = torch.from_numpy(np.ascontiguousarray(y, dtype=np.float64))
    squares = whole.square().sum(1)
    chunk = max(1, _MAX_ELEMENTS // len(y))
    for start in range(0, len(x), chunk):
        part = torch.from_numpy(np.ascontiguousarray(x[start : start + chunk], dtype=np.float64))
        apart = (part.square().sum(1, keepdim=True) + squares).addmm_(part, whole.T, alpha=-2.0)
        yield np.arange(start, start + len(part)), apart.clamp_min_(0.0)


def _check(points: np.ndarray, latents: np.ndarray) -> None:
    if points.ndim != 2 or latents.ndim != 2 or len(points) != len(latents):
        raise DataError(
            f"Data and map must be (n, F) and (n, D), found {points.shape} and {latents.shape}. Give one row an example."
        )
    _check_finite(points, latents)


def _check_finite(*arrays: np.ndarray) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise DataError("Data and map must be finite, found NaN or infinities. Remove those rows.")
