"""The linear probe and the vote of neighbours, on labels whose best accuracy is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from vaekit.errors import ConfigError, DataError
from vaekit.evaluation.probe import probe

pytest.importorskip("sklearn")


def two_normals(num: int, seed: int, distance: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """x ~ N(+-distance, 1) by label, in the first of three columns of other widths."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, num)
    x = rng.normal(size=(num, 3)) * [1.0, 0.01, 100.0]
    x[:, 0] += distance * (2 * y - 1)
    return x, y


def test_the_accuracy_is_that_of_the_best_classifier_where_that_is_linear():
    (a, b), (x, y) = two_normals(4000, 0), two_normals(8000, 1)
    found = probe(x, y, a, b)
    best = stats.norm.cdf(1.0)  # of the sign of x
    assert found.standard_error == pytest.approx(math.sqrt(best * (1 - best) / 8000), rel=0.02)
    assert abs(found.accuracy - best) < 4 * found.standard_error
    assert (found.scheme, found.num_fitted, found.num_examples) == ("held out", 4000, 8000)
    assert (found.num_classes, found.num_features) == (2, 3)
    assert found.majority == pytest.approx(np.mean(y == np.bincount(b).argmax()))


def test_neighbours_vote_as_often_right_as_their_labels_say():
    (a, b), (x, y) = two_normals(8000, 2), two_normals(8000, 3)
    found = probe(x[:, :1], y, a[:, :1], b)
    # the labels of 5 near neighbours are draws of p(y|x): integrated over x
    grid = np.linspace(-6, 6, 4001)
    density = 0.5 * (stats.norm.pdf(grid, 1) + stats.norm.pdf(grid, -1))
    one = 1 / (1 + np.exp(-2 * grid))
    vote = stats.binom.sf(2, 5, one)
    expected = np.trapezoid(density * (one * vote + (1 - one) * (1 - vote)), grid)
    assert 0.8 < expected < stats.norm.cdf(1.0)
    assert abs(found.knn_accuracy - expected) < 4 * math.sqrt(expected * (1 - expected) / 8000)


def test_neighbours_are_those_of_scikit_learn_in_standardised_features():
    from sklearn.neighbors import KNeighborsClassifier

    (a, b), (x, y) = two_normals(300, 4), two_normals(200, 5)
    centre, spread = a.mean(0), a.std(0)
    other = KNeighborsClassifier(5).fit((a - centre) / spread, b)
    assert probe(x, y, a, b).knn_accuracy == pytest.approx(other.score((x - centre) / spread, y))


def test_cross_validation_scores_each_example_once_by_what_the_others_say():
    x, y = two_normals(2000, 6)
    found = probe(x, y)
    assert (found.scheme, found.num_examples, found.num_fitted) == ("5-fold", 2000, 1600)
    assert abs(found.accuracy - stats.norm.cdf(1.0)) < 4 * found.standard_error
    # each example has a label of its own place: what is told must come from others, and there is nothing
    noise = np.random.default_rng(0).normal(size=(400, 30))
    assert abs(probe(noise, np.arange(400) % 4).accuracy - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 400)
    assert probe(x, y) == found


def test_of_features_that_say_nothing_the_accuracy_is_the_share_of_the_commonest_label():
    y = np.repeat([0, 1, 2], [70, 20, 10])
    found = probe(np.ones((100, 2)), y)
    assert found.accuracy == found.majority == pytest.approx(0.7)
    assert found.standard_error == pytest.approx(math.sqrt(0.7 * 0.3 / 100))
    other = probe(np.ones((50, 2)), np.repeat([0, 1], [20, 30]), np.ones((100, 2)), y)
    assert other.accuracy == other.majority == pytest.approx(0.4)


def test_labels_that_were_never_seen_are_not_told_and_unknown_ones_are_left_out():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(100, 2)), np.arange(100) % 2
    a[:, 0] += 20 * b
    x, y = a.copy(), b.copy()
    assert probe(x, y, a, b).accuracy == 1.0
    y[:30] = 2
    assert probe(x, y, a, b).accuracy == pytest.approx(0.7)
    y[:30] = -1
    found = probe(x, y, a, b)
    assert (found.accuracy, found.num_examples) == (1.0, 70)


def test_the_penalty_is_strong_where_features_are_many_and_weak():
    rng = np.random.default_rng(1)
    y = np.arange(120) % 2
    weak = rng.normal(size=(120, 300)) + 0.15 * (2 * y - 1)[:, None]
    found = probe(weak, y)
    assert found.penalty <= 0.1
    assert found.accuracy > 0.8
    clear = rng.normal(size=(600, 2)) * 0.3 + np.stack([y, 1 - y], 1).repeat(5, 0)
    assert probe(clear, y.repeat(5)).accuracy > 0.9


def test_more_examples_than_the_limit_are_taken_evenly_spaced():
    x, y = two_normals(1000, 7)
    found = probe(x, y, limit=200)
    assert found.num_examples == 200
    rows = np.arange(200) * 999 // 199
    assert found == probe(x[rows], y[rows])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((np.zeros((60, 2)), np.zeros(59, int)), {}, DataError, "one label an example"),
        ((np.zeros((60, 2)), np.zeros(60, int)), {}, DataError, "At least two labels"),
        ((np.zeros((60, 2)), np.arange(60)), {}, DataError, "more than once, `label` has 60 in 60"),
        ((np.zeros((40, 2)), np.arange(40) % 2), {}, DataError, "At least 50 labelled examples"),
        ((np.full((60, 2), np.nan), np.arange(60) % 2), {}, DataError, "must be finite"),
        (
            (np.zeros((60, 2)), np.arange(60) % 2, np.zeros((60, 3)), np.arange(60) % 2),
            {},
            DataError,
            "one width, found 3",
        ),
        ((np.zeros((2, 2)), np.arange(2), np.zeros((60, 2)), np.arange(60) % 2), {}, DataError, "must be scored on"),
        ((np.zeros((60, 2)), np.arange(60) % 2), {"limit": 9}, ConfigError, "`limit` must be at least 50"),
    ],
)
def test_refusals(arguments, options, error, words):
    with pytest.raises(error, match=words):
        probe(*arguments, **options)
