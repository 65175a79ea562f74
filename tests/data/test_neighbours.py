"""The graph of nearest neighbours: closed forms, brute force, and draws in proportion to the weights."""

from __future__ import annotations

import math

import numpy as np
import pytest

from small_models import image_data, vector_data
from vaekit.data import loading
from vaekit.data.dataset import Dataset
from vaekit.data.neighbours import (
    NeighbourGraph,
    check_neighbours,
    coordinates,
    membership,
    nearest,
    neighbour_graph,
    symmetrised,
    without_itself,
)
from vaekit.data.tables.grid import CellGrid
from vaekit.data.transforms import Levels, Standardize
from vaekit.errors import ConfigError, DataError


def dense(graph: NeighbourGraph) -> np.ndarray:
    """(N, N) weights."""
    found = np.zeros((len(graph), len(graph)))
    for i in range(len(graph)):
        for edge in range(graph.starts[i], graph.starts[i + 1]):
            found[i, graph.ends[edge]] = graph.cumulative[edge + 1] - graph.cumulative[edge]
    return found


def test_membership_of_two_neighbours_in_closed_form():
    """k = 2: 1 + exp(-gap / sigma) = log2 2 = 1 asks for sigma = 0, which is held at 1/1000 of the mean distance."""
    found = membership(np.array([[1.0, 1.003]]))
    assert found == pytest.approx(np.array([[1.0, math.exp(-0.003 / (1e-3 * 1.0015))]]), rel=1e-6)


def test_membership_of_four_neighbours_in_closed_form():
    """Distances 1, 2, 2, 2: 1 + 3 exp(-1 / sigma) = 2, so each of the three has the weight 1/3."""
    found = membership(np.array([[1.0, 2.0, 2.0, 2.0], [5.0, 9.0, 9.0, 9.0]]))
    assert found == pytest.approx(np.array([[1.0, 1 / 3, 1 / 3, 1 / 3]] * 2), rel=1e-6)


@pytest.mark.parametrize("count", [3, 8, 15, 40])
def test_rows_sum_to_log2_k_whatever_the_scale(count):
    distances = np.sort(np.random.default_rng(0).gamma(4.0, size=(200, count)), 1)
    distances[100:] *= 1e-4
    found = membership(distances)
    assert found.sum(1) == pytest.approx(math.log2(count), rel=1e-5)
    assert found[:, 0] == pytest.approx(1.0)
    assert (np.diff(found, axis=1) <= 0).all()


def test_rho_is_the_least_distance_above_zero_and_a_lost_neighbour_counts_nothing():
    found = membership(np.array([[0.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 2.0, np.inf]]))
    assert found[0, 0] == found[0, 1] == 1.0  # a copy is as near as the nearest other
    assert found[0, 2] < 0.05  # two of weight 1 are log2 4 already
    assert (found[1] == 1.0).all()
    assert found[2, 3] == 0.0
    assert found[2] == pytest.approx([1.0, 0.5, 0.5, 0.0], rel=1e-5)


def test_symmetrised_is_the_fuzzy_union():
    rng = np.random.default_rng(1)
    indices = np.array([rng.permutation([j for j in range(9) if j != i])[:4] for i in range(9)])
    weights = rng.uniform(0.1, 1.0, (9, 4))
    v = np.zeros((9, 9))
    np.put_along_axis(v, indices, weights, 1)
    graph = symmetrised(indices, weights)
    assert dense(graph) == pytest.approx(v + v.T - v * v.T, abs=1e-6)
    assert graph.degrees == pytest.approx((v + v.T - v * v.T).sum(1), rel=1e-6)


def test_nearest_is_brute_force_without_itself_even_among_copies():
    points = np.random.default_rng(2).normal(size=(60, 20)).astype(np.float32)
    points[7] = points[8]
    indices, distances = nearest(points, 5)
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert distances == pytest.approx(np.sort(apart, 1)[:, :5], abs=1e-4)
    assert (indices != np.arange(60)[:, None]).all()
    assert indices[7, 0] == 8


def test_what_descent_finds_of_a_point_itself_is_left_out():
    indices = np.array([[0, 2, 1], [2, 0, 1], [1, -1, 0]])
    distances = np.array([[0.0, 1.0, 2.0], [0.0, 0.5, 3.0], [1.0, 2.0, 4.0]])
    found = without_itself(indices, distances)
    assert found[0].tolist() == [[2, 1], [2, 0], [1, 0]]
    assert found[1].tolist() == [[1.0, 2.0], [0.0, 0.5], [1.0, 4.0]]


@pytest.mark.slow
def test_descent_finds_nearly_what_brute_force_does_and_the_same_again(monkeypatch):
    pytest.importorskip("pynndescent")
    from vaekit.data import neighbours

    points = np.random.default_rng(3).normal(size=(2000, 6)).astype(np.float32)
    exact = nearest(points, 10)[0]
    monkeypatch.setattr(neighbours, "EXACT_ROWS", 100)
    found, again = nearest(points, 10, seed=4), nearest(points, 10, seed=4)
    assert np.array_equal(found[0], again[0])
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact.tolist(), found[0].tolist(), strict=True)]) > 0.95


def test_partners_are_drawn_in_proportion_to_their_weights():
    indices = np.array([[1, 2], [0, 3], [0, 1], [1, 0]])
    graph = symmetrised(indices, np.array([[0.9, 0.2], [0.4, 0.6], [0.5, 0.1], [0.3, 0.8]]))
    weights = dense(graph)
    draws = 4000
    at = (np.arange(draws) + 0.5) / draws  # evenly spaced, so the shares are exact to one draw
    for i in range(4):
        shares = np.bincount(graph.partners(np.full(draws, i), at), minlength=4) / draws
        assert shares == pytest.approx(weights[i] / weights[i].sum(), abs=2 / draws)
    ends = graph.partners(np.arange(4), np.full(4, np.nextafter(1.0, 0.0)))
    assert (weights[np.arange(4), ends] > 0).all()


def test_levels_are_taken_as_they_are_and_columns_in_their_own_units():
    images, vectors = image_data(), vector_data()
    found = coordinates(images, Levels(), components=100)
    flat = images.stored().reshape(30, -1).astype(float)
    assert found == pytest.approx(flat - flat.mean(0), abs=1e-4)
    found = coordinates(vectors, Standardize(0.0, 1.0))
    x = vectors.stored().astype(float)
    assert found == pytest.approx((x - x.mean(0)) / x.std(0), abs=1e-4)


def test_principal_components_keep_distances_of_data_that_lie_in_a_plane():
    rng = np.random.default_rng(4)
    x = (rng.normal(size=(50, 2)) @ rng.normal(size=(2, 90))).astype(np.float32)
    data = loading.open(x)
    found, whole = coordinates(data, Levels(), components=2), coordinates(data, Levels(), components=90)
    assert found.shape == (50, 2)
    assert np.linalg.norm(found[:, None] - found, axis=-1) == pytest.approx(
        np.linalg.norm(whole[:, None] - whole, axis=-1), abs=1e-2
    )
    assert np.array_equal(found, coordinates(data, Levels(), components=2))


def test_missing_values_lie_at_the_mean():
    x = np.array([[0.0, 1.0], [2.0, np.nan], [4.0, 3.0], [6.0, 5.0]], dtype=np.float32)
    data = loading.open(x, missing="nan", values="continuous")
    assert coordinates(data, Levels())[1, 1] == pytest.approx(0.0, abs=1e-6)


def test_categories_of_a_table_are_as_far_apart_as_the_ends_of_a_number():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": [float(v) for v in range(40)], "b": ["x", "y"] * 20})
    data = loading.open(frame, kind="table")
    found = coordinates(data, CellGrid.fit(data))
    apart = np.square(found[:, None] - found).sum(-1)
    assert apart[0, 1] == pytest.approx(1.0, abs=0.01)  # neighbouring numbers, other categories
    assert 0.85 < apart[0, 38] <= 1.0  # the ends of the number, one category
    graph = neighbour_graph(data, CellGrid.fit(data), 3)
    codes = np.arange(40) % 2
    assert (codes[graph.ends] == np.repeat(codes, np.diff(graph.starts))).all()


def test_refusals():
    with pytest.raises(DataError, match="more examples than the 15 neighbours of each, found 15"):
        check_neighbours(15, 15)
    with pytest.raises(ConfigError, match="at least 2, got 1"):
        check_neighbours(15, 1)
    texts: Dataset = loading.open(["a cat sat", "a dog ran", "the end"] * 5)
    with pytest.raises(ConfigError, match="found text"):
        neighbour_graph(texts, Levels(), 3)
