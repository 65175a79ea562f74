"""Trustworthiness, continuity and the accuracy of neighbours: by hand, and beside scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.manifold import trustworthiness as of_sklearn
from sklearn.neighbors import KNeighborsClassifier

from vaekit.errors import DataError
from vaekit.evaluation import latents
from vaekit.evaluation.latents import evaluate_map, knn_accuracy, trustworthiness


@pytest.mark.parametrize("k", [1, 5, 20])
def test_trustworthiness_is_that_of_scikit_learn_in_chunks_too(k, monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 6))
    z = x[:, :2] + 0.5 * rng.normal(size=(120, 2))
    expected = of_sklearn(x, z, n_neighbors=k)
    assert trustworthiness(x, z, k) == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr(latents, "_MAX_ELEMENTS", 120 * 7)
    assert trustworthiness(x, z, k) == pytest.approx(expected, abs=1e-12)


def test_trustworthiness_by_hand():
    """On a line 0 1 3 7 15, k = 1: the map puts 15 beside 0. To the neighbour of 0 in the map, rank 4 in the data, belongs a
    penalty of 3; to that of 15, whose ranks are 7 3 1 0, one of 3 as well; all others are right. 1 - 2 / (5 * 6) * 6."""
    line = np.array([[0.0], [1.0], [3.0], [7.0], [15.0]])
    bent = np.array([[0.0], [1.0], [2.1], [4.0], [-0.5]])
    assert trustworthiness(line, bent, 1) == pytest.approx(1 - 2 / (5 * 1 * (10 - 3 - 1)) * 6)


def test_a_fold_is_continuous_and_not_to_be_trusted_and_a_tear_the_other_way_round():
    line = np.linspace(-1.0, 1.0, 61)[:, None] + 1e-4 * np.random.default_rng(0).normal(size=(61, 1))
    folded = evaluate_map(line, np.abs(line))
    torn = evaluate_map(line, line + 100.0 * (np.arange(61)[:, None] % 30 == 0))
    same = evaluate_map(line, -3.0 * line)
    assert (same.trustworthiness, same.continuity) == (1.0, 1.0)
    assert folded.continuity > 0.93
    assert folded.trustworthiness < 0.8
    assert torn.continuity < torn.trustworthiness


def test_knn_accuracy_is_that_of_scikit_learn(monkeypatch):
    rng = np.random.default_rng(1)
    y, other = rng.integers(0, 4, 150), rng.integers(0, 4, 80)
    x, new = rng.normal(size=(150, 2)) + y[:, None], rng.normal(size=(80, 2)) + other[:, None]
    monkeypatch.setattr(latents, "_MAX_ELEMENTS", 1000)
    for k in (1, 4, 5):
        expected = KNeighborsClassifier(k).fit(x, y).score(new, other)
        assert knn_accuracy(x, y, new, other, k) == pytest.approx(expected)


def test_own_labels_do_not_count_and_unknown_ones_are_left_out():
    places = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2], [9.0], [9.1]])
    labels = np.array([0, 0, 1, 1, 1, 1, -1, -1])
    found = evaluate_map(places, places, labels, num_neighbours=2)
    # of 0.0: labels 0 and 1, the least counts: right; of 0.1 likewise; of 0.2: 0 and 0: wrong; the other three right
    assert found.knn_accuracy == pytest.approx(5 / 6)


def test_refusals():
    x = np.zeros((10, 2))
    with pytest.raises(DataError, match="below half of the 10 examples, got 5"):
        trustworthiness(x, x, 5)
    with pytest.raises(DataError, match="must be finite"):
        trustworthiness(x, np.where(np.arange(20).reshape(10, 2) == 3, np.nan, 0.0), 2)
    with pytest.raises(DataError, match="one row an example"):
        trustworthiness(x, x[:5], 2)
    with pytest.raises(DataError, match="a label for each example"):
        evaluate_map(x, x, np.zeros(3))
    with pytest.raises(DataError, match="from 1 to the 10 examples"):
        knn_accuracy(x, np.zeros(10, int), x, np.zeros(10, int), 11)
