"""The bound against exact evidence, and what is reported beside it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from small_models import image_bundle, image_data, vector_bundle, vector_data
from vaekit import inference
from vaekit.data import loading
from vaekit.data.transforms import Levels, Standardize
from vaekit.errors import ConfigError
from vaekit.evaluation.bounds import evaluate_bounds
from vaekit.inference import bounds, seeded
from vaekit.storage import Bundle

CPU = torch.device("cpu")


@pytest.fixture
def points():
    return np.random.default_rng(0).normal(0.0, 1.2, (40, 3)).astype(np.float32)


def bundle_of(vae, data, transform=None):
    return Bundle(vae.float().eval(), transform or Levels(), data.schema)


def test_exact_posterior_gives_the_exact_evidence(linear_gaussian, points):
    data = loading.open(points)
    report = evaluate_bounds(bundle_of(linear_gaussian.exact_vae(), data), data, num_samples=3)
    evidence = linear_gaussian.evidence(torch.from_numpy(points).double())
    assert report.nll_nats == pytest.approx(-evidence.mean().item(), abs=1e-5)
    assert report.effective_sample_size == pytest.approx(3.0, abs=1e-3)
    assert report.standard_error == pytest.approx(evidence.std().item() / math.sqrt(40), rel=1e-4)
    assert report.elbo == pytest.approx(-report.nll_nats, abs=0.5)
    assert report.active_units == 2
    assert report.bits_per_dim is None


def test_density_is_of_the_data_as_stored(linear_gaussian, points):
    stored = 5.0 + points * np.array([2.0, 0.5, 3.0], np.float32)
    data = loading.open(stored)
    transform = Standardize([5.0, 5.0, 5.0], [2.0, 0.5, 3.0])
    report = evaluate_bounds(bundle_of(linear_gaussian.exact_vae(), data, transform), data, num_samples=2)
    evidence = linear_gaussian.evidence(torch.from_numpy(points).double()).mean().item()
    assert report.nll_nats == pytest.approx(-evidence + math.log(2.0 * 0.5 * 3.0), abs=1e-4)
    assert -report.elbo == pytest.approx(report.rate + report.distortion, abs=1e-9)


def test_missing_values_are_integrated_out_of_density_and_jacobian(linear_gaussian, points):
    stored = 1.0 + 2.0 * points
    stored[:, 1] = np.nan
    data = loading.open(stored, missing="nan")
    observed = torch.tensor([True, False, True])
    bundle = bundle_of(linear_gaussian.exact_vae(observed), data, Standardize(1.0, 2.0))
    report = evaluate_bounds(bundle, data, num_samples=2)
    evidence = linear_gaussian.evidence(torch.from_numpy(points).double(), observed).mean().item()
    assert report.nll_nats == pytest.approx(-evidence + 2 * math.log(2.0), abs=1e-4)


def test_bound_rises_with_samples_to_the_evidence(linear_gaussian, points):
    data = loading.open(points)
    gain, offset, scale_tril = linear_gaussian.exact_posterior()
    bundle = bundle_of(linear_gaussian.vae(0.8 * gain, offset, 1.4 * scale_tril), data)
    nll = [evaluate_bounds(bundle, data, num_samples=k).nll_nats for k in (1, 8, 3000)]
    evidence = linear_gaussian.evidence(torch.from_numpy(points).double()).mean().item()
    assert nll[0] > nll[1] > nll[2]
    assert nll[2] == pytest.approx(-evidence, abs=0.01)


def test_chunks_sum_to_the_brute_force_bound(monkeypatch):
    bundle, data = image_bundle(), image_data(7)
    brute = {}

    def remember(vae, inputs, num_samples):
        trace = vae(inputs.x, condition=inputs.condition, mask=inputs.mask, num_samples=num_samples)
        brute.setdefault(inputs.x.data_ptr(), []).append(trace.log_weights.double())
        return trace

    monkeypatch.setattr(inference, "MAX_ELEMENTS", 3 * 30 * 8 * 64)
    parts = []
    with seeded(0, CPU):
        generator = bounds(bundle, data, 50)
        monkeypatch.setattr(inference, "_rows_at_once", lambda *_: 12)
        monkeypatch.setattr(inference, "_trace", remember)
        for _, _, part in generator:
            (weights,) = brute.values()
            log_weights = torch.cat(weights)
            assert len(weights) > 1
            assert log_weights.shape[0] == 50
            expected = torch.logsumexp(log_weights, 0) - math.log(50)
            np.testing.assert_allclose(part.log_likelihood, expected.numpy(), rtol=1e-12)
            normalised = torch.softmax(log_weights, 0)
            np.testing.assert_allclose(part.effective_sample_size, (1 / normalised.square().sum(0)).numpy(), rtol=1e-9)
            parts.append(len(part.rate))
            brute.clear()
    assert sum(parts) == 7


def test_active_units_are_those_whose_means_vary():
    bundle, data = image_bundle(), image_data(20)
    head = bundle.vae.posterior.head.linear
    with torch.no_grad():
        head.weight[:4] *= torch.tensor([30.0, 30.0, 0.0, 0.0])[:, None]
    assert evaluate_bounds(bundle, data, num_samples=1).active_units == 2


def test_bits_per_dim_and_psnr_of_levels():
    bundle, data = image_bundle(), image_data(20)
    report = evaluate_bounds(bundle, data, num_samples=4)
    assert report.bits_per_dim == pytest.approx(report.nll_nats / (30 * math.log(2)))
    assert report.num_dimensions == 30
    mean = data.raw().astype(float)
    assert report.reconstruction_mse < np.square(mean).mean()
    assert report.psnr == pytest.approx(10 * math.log10(15**2 / report.reconstruction_mse))
    assert report.binarisation == "none"


def test_dynamic_binarisation_is_said_and_seeded():
    bundle, data = image_bundle(binarize=True), image_data(20)
    reports = [evaluate_bounds(bundle, data, num_samples=2, seed=seed) for seed in (0, 0, 1)]
    assert reports[0].binarisation == "dynamic"
    assert reports[0] == reports[1]
    assert reports[0].nll_nats != reports[2].nll_nats
    assert reports[0].reconstruction_mse == reports[2].reconstruction_mse


def test_limit_takes_examples_of_the_whole_range_and_leaves_the_random_state():
    bundle, data = vector_bundle(), vector_data()
    state = torch.get_rng_state()
    limited = evaluate_bounds(bundle, data, num_samples=2, limit=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert limited == evaluate_bounds(bundle, data.select([0, 7, 14, 21, 29]), num_samples=2)
    assert limited.num_examples == 5


def test_report_is_json_without_nan():
    report = evaluate_bounds(vector_bundle(), vector_data(1), num_samples=1)
    record = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert record["standard_error"] is None
    assert record["bits_per_dim"] is None
    assert record["psnr"] is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"num_samples": 0}, "`num_samples` must be at least 1"),
        ({"limit": 0}, "`limit` must be at least 1"),
        ({"seed": -1}, "`seed` must be"),
    ],
)
def test_wrong_arguments(arguments, sentence):
    with pytest.raises(ConfigError, match=sentence):
        evaluate_bounds(vector_bundle(), vector_data(), **arguments)
