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
from vaekit.errors import ConfigError, DataError
from vaekit.evaluation.bounds import evaluate_bounds
from vaekit.inference import bounds, seeded
from vaekit.jobs.reconstruct import reconstruct
from vaekit.jobs.score import score
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


def test_no_examples_are_no_data():
    empty = vector_data().select(np.arange(0))
    for job in (evaluate_bounds, score, reconstruct):
        with pytest.raises(DataError, match="The data must hold at least one example, found none. Give another split or file."):
            job(vector_bundle(), empty)


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


def off_posterior(linear_gaussian, gain=0.8, scale=1.4):
    exact_gain, offset, scale_tril = linear_gaussian.exact_posterior()
    return linear_gaussian.vae(gain * exact_gain, offset, scale * scale_tril)


def test_the_weights_tell_how_far_another_seed_moves_the_bound(linear_gaussian, points):
    data = loading.open(points)
    bundle = bundle_of(off_posterior(linear_gaussian), data)
    reports = [evaluate_bounds(bundle, data, num_samples=50, seed=seed) for seed in range(40)]
    found = np.array([report.nll_nats for report in reports])
    error = np.mean([report.monte_carlo_error for report in reports])
    assert error == pytest.approx(found.std(ddof=1), rel=0.4)  # the deviation of 40 draws is known to a ninth
    assert error < 0.2 * reports[0].standard_error
    assert all(report.low_effective_sample_share == 0.0 and report.warning is None for report in reports)


def test_the_weights_tell_how_far_the_bound_is_off(linear_gaussian, points):
    data = loading.open(points[:1].repeat(3000, axis=0))  # one x: what differs between the examples are the draws
    report = evaluate_bounds(bundle_of(off_posterior(linear_gaussian, 0.3, 2.0), data), data, num_samples=20)
    evidence = linear_gaussian.evidence(torch.from_numpy(points[:1]).double()).item()
    assert report.monte_carlo_error == pytest.approx(report.standard_error, rel=0.1)
    assert report.bias > 6 * report.standard_error
    assert report.nll_nats + evidence == pytest.approx(report.bias, abs=3 * report.standard_error)


def test_few_effective_samples_are_said(linear_gaussian, points):
    data = loading.open(points)
    report = evaluate_bounds(bundle_of(off_posterior(linear_gaussian, gain=0.0, scale=0.1), data), data, num_samples=40)
    assert report.low_effective_sample_share > 0.5
    assert "fewer than 10 of the 40 samples carry the bound" in report.warning
    few = evaluate_bounds(bundle_of(linear_gaussian.exact_vae(), data), data, num_samples=4)
    assert (few.low_effective_sample_share, few.warning) == (0.0, None)
    one = evaluate_bounds(bundle_of(linear_gaussian.exact_vae(), data), data, num_samples=1)
    assert (one.monte_carlo_error, one.bias, one.low_effective_sample_share, one.warning) == (None, None, None, None)


def test_level_rates_and_unit_variances(linear_gaussian, points):
    data = loading.open(points)
    report = evaluate_bounds(bundle_of(linear_gaussian.exact_vae(), data), data, num_samples=3)
    assert report.level_rates == (pytest.approx(report.rate),)
    means = points @ linear_gaussian.exact_posterior()[0].numpy().T
    np.testing.assert_allclose(report.unit_variances, means.var(axis=0), rtol=1e-4)


def test_each_level_of_a_ladder_has_its_rate():
    from vaekit.likelihoods import Bernoulli
    from vaekit.networks import DenseLadder, Tail
    from vaekit.vae import HierarchicalVAE

    torch.manual_seed(0)
    data = loading.open(np.random.default_rng(0).integers(0, 2, (9, 5), dtype=np.uint8))
    vae = HierarchicalVAE(DenseLadder(5, num_latents=[2, 3], width=8), Bernoulli(Tail([8]), shape=[5]))
    with torch.no_grad():
        for parameter in vae.ladder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    report = evaluate_bounds(bundle_of(vae, data), data, num_samples=2000)
    with torch.no_grad():
        trace = vae.float()(torch.from_numpy(data.raw()).float(), num_samples=20000)
        terms = torch.stack([(latent.log_q - latent.log_p).mean() for latent in trace.latents])
    assert sum(report.level_rates) == pytest.approx(report.rate)
    np.testing.assert_allclose(report.level_rates, terms.numpy(), rtol=0.03, atol=0.002)
    assert len(report.unit_variances) == 5
    assert not report.information.whole_latent


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
    assert record["information"] is None
    assert record["calibration"]["coverage_50_error"] is None
    assert record["annealing"] is None


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
