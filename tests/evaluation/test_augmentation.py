"""The check of augmentation: where it must help, where it cannot, and its arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from small_models import image_bundle, image_data
from vaekit.errors import ConfigError, DataError
from vaekit.evaluation.augmentation import _standard_error, _weights, evaluate_augmentation
from vaekit.model import Model


def gaussians(num: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two classes in 20 dimensions that differ in their means; the best classifier has Phi(1.5) = 0.933."""
    y = rng.permutation(np.arange(num) % 2)
    return (rng.normal(size=(num, 20)) + (2 * y[:, None] - 1) * 1.5 / 20**0.5).astype(np.float32), y


def test_draws_of_the_true_classes_help_where_labels_are_few():
    rng = np.random.default_rng(0)
    train, test = gaussians(12, rng), gaussians(1000, rng)
    how = {"num_seeds": 3, "num_steps": 150, "hidden": 16}
    found = evaluate_augmentation(train, lambda seed: gaussians(2000, np.random.default_rng(seed + 9)), test, **how)
    assert found.verdict == "helps"
    assert found.augmented > 0.88 > 0.8 > found.accuracy  # the best classifier has 0.933
    assert found.difference == pytest.approx(found.augmented - found.accuracy)
    assert found.sentence.startswith("Augmentation helps.")
    assert found.to_json()["verdict"] == "helps"


def test_labels_at_random_harm():
    rng = np.random.default_rng(1)
    train, test = gaussians(200, rng), gaussians(1000, rng)

    def noise(seed: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = gaussians(2000, np.random.default_rng(seed))
        return x, np.random.default_rng(seed).permutation(y)

    found = evaluate_augmentation(train, noise, test, num_seeds=5, num_steps=150, hidden=16)
    assert found.verdict == "harms"
    assert "train without it" in found.sentence


def test_copies_make_no_difference():
    """Each example once more: the two classifiers draw from the same distribution."""
    rng = np.random.default_rng(2)
    train, test = gaussians(60, rng), gaussians(500, rng)
    found = evaluate_augmentation(train, lambda seed: train, test, num_seeds=4, num_steps=100, hidden=16)
    assert found.verdict == "no difference"
    assert "does not help" in found.sentence
    nothing = evaluate_augmentation(train, lambda seed: (train[0][:0], train[1][:0]), test, num_seeds=2, num_steps=10)
    assert (nothing.difference, nothing.standard_error) == (0.0, 0.0)
    assert nothing.verdict == "no difference"


def test_the_error_is_that_of_seeds_and_examples():
    weight = np.full(4, 0.25)
    by_example = np.array([1.0, 0.0, 0.0, -1.0])
    by_seed = np.array([0.1, 0.3])
    exact = by_seed.var(ddof=1) / 2 + by_example.var(ddof=1) / 4
    assert _standard_error(by_seed, by_example, weight) == pytest.approx(exact**0.5)
    np.testing.assert_allclose(_weights(np.array([0, 0, 0, 1]), True), [1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_test_examples_that_were_trained_on_are_left_out():
    rng = np.random.default_rng(3)
    train, test = gaussians(20, rng), gaussians(30, rng)
    mixed = np.concatenate([test[0], train[0][:7]]), np.concatenate([test[1], train[1][:7]])
    found = evaluate_augmentation(train, lambda seed: train, mixed, num_seeds=2, num_steps=2)
    assert (found.num_test, found.num_left_out) == (30, 7)
    with pytest.raises(DataError, match="none of the training ones, found 0"):
        evaluate_augmentation(train, lambda seed: train, train)
    with pytest.raises(DataError, match="two labels"):
        evaluate_augmentation((train[0], np.zeros(20)), lambda seed: train, test)
    with pytest.raises(ConfigError, match="`num_seeds` must be at least 2"):
        evaluate_augmentation(train, lambda seed: train, test, num_seeds=1)


def test_a_model_is_checked_with_draws_of_its_own():
    """An untrained model makes noise: it can be no help, whatever the labels."""
    model, state = Model(image_bundle()), torch.get_rng_state()
    how = {"balance": "label", "factor": 2, "num_seeds": 2, "num_steps": 20, "hidden": 8}
    found = model.evaluate_augmentation(image_data(30), image_data(60, seed=1), **how)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.balanced
    assert (found.num_train, found.num_new, found.num_test) == (30, 30, 60)
    assert found.verdict != "helps"
    assert model.evaluate_augmentation(image_data(30), image_data(60, seed=1), **how) == found
    with pytest.raises(DataError, match="must have the column"):
        model.evaluate_augmentation(image_data(30), image_data(30, seed=1).raw(), balance="label")
