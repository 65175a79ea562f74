"""Prediction: Bayes' rule on a linear-Gaussian model, whose p(c|x) is known, and what a classifier says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from condition_models import KINDS, LABELS, QUANTILES, Known, data
from small_models import image_bundle, image_data, vector_bundle, vector_data
from vaekit.errors import ConfigError
from vaekit.jobs.predict import CELLS, predict

COUNTS = {"label": [6, 1, 3], "kind": [1, 4]}
TRAINING = {"condition_counts": COUNTS, "condition_quantiles": {"angle": QUANTILES.tolist()}}


def exact(known: Known, dataset, numbers: np.ndarray | None) -> torch.Tensor:
    """(N, labels, kinds, numbers): p(c|x), by brute force; the angle is the data's own where `numbers` is None."""
    x = torch.from_numpy(dataset.x).double()
    num = len(x)
    grid = [None] if numbers is None else numbers.tolist()
    out = torch.zeros(num, LABELS, KINDS, len(grid), dtype=torch.float64)
    for label in range(LABELS):
        for kind in range(KINDS):
            for place, angle in enumerate(grid):
                own = torch.from_numpy(dataset.columns["angle"]) if angle is None else torch.full((num,), angle).double()
                told = {"label": torch.full((num,), label), "kind": torch.full((num,), kind), "angle": own}
                prior = math.log(COUNTS["label"][label] * COUNTS["kind"][kind])
                out[:, label, kind, place] = known.evidence(x, told) + prior
    return out.flatten(1).softmax(1).view(out.shape)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_bayes_rule_is_exact_where_the_bound_is(num_samples: int):
    known, dataset = Known(numbers=True, kinds=True), data()
    expected = exact(known, dataset, None)
    found = predict(known.bundle(dataset, **TRAINING), dataset, ["label", "kind"], method="bayes", num_samples=num_samples)
    np.testing.assert_allclose(found.probabilities["label"], expected.sum((2, 3)), atol=1e-5)
    np.testing.assert_allclose(found.probabilities["kind"], expected.sum((1, 3)), atol=1e-5)
    assert found.labels["label"].tolist() == [str(code) for code in expected.sum((2, 3)).argmax(1).tolist()]
    assert set(found.labels["kind"]) <= {"a", "b"}
    table = found.to_columns(every=True)
    assert list(table)[:2] == ["index", "label"]
    np.testing.assert_allclose(table["label_probability"], found.probabilities["label"].max(1))
    np.testing.assert_array_equal(table["kind_probability_b"], found.probabilities["kind"][:, 1])


def test_numbers_are_weighed_at_equal_masses():
    known, dataset = Known(numbers=True, kinds=True), data(6)
    grid = np.interp((np.arange(CELLS) + 0.5) / CELLS, np.linspace(0, 1, 101), QUANTILES)
    own = replace(dataset, columns={**dataset.columns, "angle": np.full(6, 77.0)})  # which is not read
    found = predict(known.bundle(dataset, **TRAINING), own, method="bayes", num_samples=1)
    expected = exact(known, dataset, grid)  # 3 * 2 * 33 combinations are weighed together
    p = expected.sum((1, 2)).numpy()
    np.testing.assert_allclose(found.labels["angle"], p @ grid, atol=1e-4)
    np.testing.assert_allclose(found.scales["angle"], np.sqrt(p @ grid**2 - (p @ grid) ** 2), atol=1e-4)
    np.testing.assert_allclose(found.probabilities["label"], expected.sum((2, 3)), atol=1e-5)
    assert found.notes == ()
    assert list(found.to_columns()) == [
        "index",
        "label",
        "label_probability",
        "kind",
        "kind_probability",
        "angle",
        "angle_scale",
    ]


def test_what_is_not_predicted_is_as_the_data_say_and_what_is_not_known_stays_unknown():
    known, dataset = Known(numbers=True, kinds=True), data()
    bundle = known.bundle(dataset, **TRAINING)
    assert np.isnan(dataset.columns["angle"]).any()
    kinds = torch.from_numpy(dataset.columns["kind"])
    expected = exact(known := Known(numbers=True, kinds=True), dataset, None)[torch.arange(len(dataset)), :, kinds, 0]
    found = predict(bundle, dataset, ["label"], method="bayes", num_samples=1)
    np.testing.assert_allclose(found.probabilities["label"], expected / expected.sum(1, keepdim=True), atol=1e-5)
    bare = predict(bundle, replace(dataset, columns={}), ["label"], method="bayes", num_samples=1)
    assert np.abs(bare.probabilities["label"] - found.probabilities["label"]).max() > 0.01


def test_a_uniform_prior_and_a_column_that_is_too_much(monkeypatch: pytest.MonkeyPatch):
    known, dataset = Known(numbers=True, kinds=True), data()
    even = predict(known.bundle(dataset, **TRAINING), dataset, ["label"], method="bayes", num_samples=1, uniform=True)
    frequent = predict(known.bundle(dataset, **TRAINING), dataset, ["label"], method="bayes", num_samples=1)
    ratio = even.probabilities["label"] * np.array(COUNTS["label"])
    np.testing.assert_allclose(frequent.probabilities["label"], ratio / ratio.sum(1, keepdims=True), atol=1e-6)
    monkeypatch.setattr("vaekit.jobs.predict.MOST_COMBINATIONS", 5)
    apart = predict(known.bundle(dataset, **TRAINING), replace(dataset, columns={}), ["label", "kind"], method="bayes")
    assert "each is predicted by itself" in apart.notes[0]
    alone = predict(known.bundle(dataset, **TRAINING), replace(dataset, columns={}), ["label"], method="bayes")
    np.testing.assert_allclose(apart.probabilities["label"], alone.probabilities["label"])


def test_the_classifier_speaks_where_there_is_one():
    known, dataset = Known(numbers=True, kinds=True), data()
    expected = known.vae.classifier(torch.from_numpy(dataset.x).double())["kind"].exp().detach()
    calls = []
    found = predict(known.bundle(dataset), dataset, progress=lambda done, num: calls.append((done, num)))
    assert (found.method, list(found.labels), calls[-1]) == ("classifier", ["label", "kind"], (12, 12))
    np.testing.assert_allclose(found.probabilities["kind"], expected, atol=1e-5)
    assert predict(known.bundle(dataset), dataset, ["angle"], num_samples=1).method == "bayes"
    alone = predict(known.bundle(dataset), dataset.select([3]))
    np.testing.assert_array_equal(alone.probabilities["kind"], found.probabilities["kind"][3:4])


def test_what_cannot_be_predicted():
    with pytest.raises(ConfigError, match="must be conditioned on a column to predict it, this one is on none"):
        predict(vector_bundle(), vector_data())
    with pytest.raises(ConfigError, match="`hue` must be one of the columns that the model is conditioned on: label"):
        predict(image_bundle(conditional=True), image_data(), ["hue"])
    with pytest.raises(ConfigError, match="must have a classifier of label, it has one of nothing"):
        predict(image_bundle(conditional=True), image_data(), method="classifier")
    with pytest.raises(ConfigError, match="`method` must be"):
        predict(image_bundle(conditional=True), image_data(), method="guess")
    calls = []
    found = predict(
        image_bundle(conditional=True), image_data(), num_samples=2, progress=lambda *numbers: calls.append(numbers)
    )
    assert calls[-1] == (90, 90)
    np.testing.assert_array_equal(found.probabilities["label"][:, 0], 0.0)  # which training never had
    np.testing.assert_allclose(found.probabilities["label"].sum(1), 1.0)
