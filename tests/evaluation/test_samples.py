"""Measures of generated examples against cases that are worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import linalg

from vaekit.errors import ConfigError, DataError
from vaekit.evaluation import samples
from vaekit.evaluation.samples import frechet_distance, kernel_distance, neighbourhoods, sample_quality


def with_moments(mean, covariance, num=40):
    """Points (num, D) whose mean and covariance are exactly these."""
    d = len(mean)
    x = np.random.default_rng(1).normal(size=(num, d))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return mean + x @ np.linalg.cholesky(covariance).T


def test_frechet_distance_of_two_normals():
    a, b = np.array([[2.0, 0.3], [0.3, 1.0]]), np.array([[1.0, -0.5], [-0.5, 3.0]])
    x, y = with_moments(np.array([1.0, 2.0]), a), with_moments(np.array([4.0, -2.0]), b, num=70)
    expected = 25.0 + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-10)
    commuting = with_moments(np.zeros(2), np.diag([4.0, 9.0])), with_moments(np.zeros(2), np.diag([1.0, 25.0]))
    assert frechet_distance(*commuting) == pytest.approx((2 - 1) ** 2 + (3 - 5) ** 2, rel=1e-10)


def test_frechet_distance_with_fewer_examples_than_features():
    x = np.random.default_rng(0).normal(size=(10, 50)).astype(np.float32)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-5)
    assert frechet_distance(x, x + 1) == pytest.approx(50.0, rel=1e-6)


def test_kernel_distance_is_the_brute_force_sum():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 3)), rng.normal(1.0, 2.0, size=(6, 3))

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    pairs = list(itertools.permutations(range(6), 2))
    expected = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs) / 30
    expected -= 2 * sum(k(a, b) for a in x for b in y) / 36
    found, error = kernel_distance(x, y, num_subsets=3, subset_size=6)
    assert found == pytest.approx(expected)
    assert error == pytest.approx(0.0, abs=1e-12)


def test_kernel_distance_has_no_bias():
    rng = np.random.default_rng(0)
    found = [kernel_distance(*rng.normal(size=(2, 20, 2)), num_subsets=2, subset_size=20)[0] for _ in range(300)]
    assert np.mean(found) == pytest.approx(0.0, abs=4 * np.std(found) / np.sqrt(300))
    assert min(found) < 0 < max(found)
    assert kernel_distance(rng.normal(size=(500, 2)), rng.normal(1.0, 1.0, (500, 2)), num_subsets=4)[0] > 1.0


def test_kernel_distance_error_is_the_spread_over_seeds():
    """60 choices of the subsets: their spread is known to 1 / sqrt(120), 9 %."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 2)), rng.normal(0.5, 1.2, (400, 2))
    distances, errors = zip(*(kernel_distance(x, y, num_subsets=20, subset_size=40, seed=s) for s in range(60)), strict=True)
    assert np.mean(errors) == pytest.approx(np.std(distances, ddof=1), rel=0.4)


LINE = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [13.0, 0.0]])


def test_neighbourhoods_by_hand():
    # Radii with k = 1: the four on the line 1, the outlier 10.
    generated = np.array([[0.5, 0.0], [1.0, 0.0], [8.0, 0.0], [30.0, 0.0]])
    found = neighbourhoods(LINE, generated, num_neighbours=1)
    # 0.5 lies in the balls of 0 and 1; 1 in those of 0, 1 and 2; 8 in that of 13; 30 in none.
    assert found["precision"] == 3 / 4
    assert found["density"] == (2 + 3 + 1 + 0) / 4
    # Balls of the real: 0, 1, 2 hold a generated one, 3 holds none (2..4), 13 holds 8.
    assert found["coverage"] == 4 / 5
    # Radii of the generated: 0.5, 0.5, 7 and 22. 0 and 1 lie in that of 0.5; 2 and 3 in that of 8 (1..15), as does 13.
    assert found["recall"] == 1.0
    narrow = neighbourhoods(LINE, generated[[0, 1]] + [[0.0, 0.0], [0.0, 0.1]], num_neighbours=1)
    assert narrow["recall"] == 2 / 5


def test_precision_and_recall_tell_apart_what_is_missing():
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(0, 1, (300, 2)), rng.normal(50, 1, (300, 2))])
    one_mode = rng.normal(0, 1, (600, 2))
    found = neighbourhoods(real, one_mode)
    assert found["precision"] > 0.97
    assert found["recall"] == pytest.approx(0.5, abs=0.02)
    assert found["coverage"] == pytest.approx(0.5, abs=0.02)
    noisy = np.concatenate([real[:300], rng.uniform(100, 1000, (300, 2))])
    found = neighbourhoods(real, noisy)
    assert found["precision"] == 0.5
    assert found["density"] < 0.7


def test_two_sets_of_one_kind():
    rng = np.random.default_rng(0)
    found = neighbourhoods(rng.normal(size=(2000, 3)), rng.normal(size=(2000, 3)))
    assert found["density"] == pytest.approx(1.0, abs=0.05)
    # Not covered is whose k nearest of all others are real ones, each by a chance of about a half.
    assert found["coverage"] == pytest.approx(1 - 0.5**5, abs=0.02)


def test_copies_lie_at_no_distance():
    x = 1e3 + np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    doubled = np.concatenate([x, x])
    np.testing.assert_array_equal(samples._radii(doubled.astype(np.float64), 1), 0.0)
    found = neighbourhoods(doubled, doubled, num_neighbours=1)
    assert found == {"precision": 1.0, "recall": 1.0, "density": 2.0, "coverage": 1.0}


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)), rng.normal(0.3, 1.2, size=(41, 4))
    whole = neighbourhoods(x, y, 3)
    distances = np.linalg.norm(x[:, None] - x, axis=-1)
    np.testing.assert_allclose(samples._radii(x, 3), np.sort(distances, axis=1)[:, 3] ** 2)
    monkeypatch.setattr(samples, "_ELEMENTS", 7 * 41)
    assert neighbourhoods(x, y, 3) == whole


def test_all_measures_at_once():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), rng.normal(0.5, 1.0, size=(50, 3))
    found = sample_quality(x, y, num_neighbours=4, seed=2)
    assert found.frechet_distance == frechet_distance(x, y)
    assert (found.kernel_distance, found.kernel_distance_error) == kernel_distance(x, y, seed=2)
    record = found.to_json()
    assert {name: record[name] for name in ("precision", "recall", "density", "coverage")} == neighbourhoods(x, y, 4)
    assert (found.num_neighbours, found.num_real, found.num_generated) == (4, 60, 50)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda x: neighbourhoods(x, x[:5]), ConfigError, "at least 6 examples, got 8 and 5"),
        (lambda x: neighbourhoods(x, x, 0), ConfigError, "`num_neighbours` must be at least 1"),
        (lambda x: frechet_distance(x[:1], x), ConfigError, "at least 2 examples"),
        (lambda x: kernel_distance(x, x, num_subsets=1), ConfigError, "at least 2 subsets"),
        (lambda x: frechet_distance(x, x[:, :2]), DataError, "of one width"),
        (lambda x: frechet_distance(x, x * np.nan), DataError, "must be finite"),
    ],
)
def test_refusals(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call(np.random.default_rng(0).normal(size=(8, 3)))
