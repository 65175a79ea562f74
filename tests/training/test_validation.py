"""Validation tells what latent and data share, from its own passes, with fixed noise, and only where it can be told."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vaekit import likelihoods, networks, posteriors, priors
from vaekit.data.dataset import spaced
from vaekit.data.loading import open as open_data
from vaekit.data.transforms import Standardize
from vaekit.evaluation.information import information
from vaekit.objectives import ELBO
from vaekit.storage import Bundle
from vaekit.training import validation
from vaekit.training.config import TrainConfig
from vaekit.training.run import make_fabric, split, train
from vaekit.training.validation import validate
from vaekit.vae import VAE, HierarchicalVAE

DIMS = 4


def make_vae(posterior=None, seed=0):
    torch.manual_seed(seed)
    posterior = posterior or posteriors.DiagonalNormal
    return VAE(
        priors.StandardNormal(2),
        posterior(networks.MLP(DIMS, [16], "tanh"), 2),
        likelihoods.Normal(networks.MLP(2, [16], "tanh"), [DIMS]),
    )


@pytest.fixture(scope="module")
def data():
    return open_data((3 * np.random.default_rng(0).normal(size=(300, DIMS))).astype("float32"))


def numbers(vae, data, **settings):
    config = TrainConfig.make(**{"steps": 1, "seed": 9, **settings})
    return validate(vae, Standardize(0.0, 1.0), ELBO(), data, config, make_fabric("cpu"))


def brute(z, q):
    """The mean over i of log q(z_i|x_i) - log 1/N sum_n q(z_i|x_n), over every pair."""
    log_q = torch.stack([q.log_prob(one.expand(q.batch_shape + one.shape)) for one in z]).double()
    return (log_q.diagonal() - torch.logsumexp(log_q, 1) + math.log(len(z))).mean().item()


def passes(vae, data, sizes, num_samples=1):
    """What the validation's own passes give, in its order."""
    torch.manual_seed(10)
    with torch.no_grad():
        return [
            vae(torch.from_numpy(data.x[rows]), num_samples=num_samples).latents[0]
            for rows in np.split(np.arange(len(data)), np.cumsum(sizes)[:-1])
        ]


@pytest.mark.parametrize("num_samples", [1, 3])
def test_it_is_that_of_the_samples_of_its_passes(data, num_samples):
    vae = make_vae()
    found = numbers(vae, data, validation_samples=num_samples)["mutual_information"]
    latents = passes(vae.eval(), data, [150, 150], num_samples)
    z = torch.cat([latent.z[0] for latent in latents])
    q = torch.distributions.Independent(
        torch.distributions.Normal(*(torch.cat([getattr(p.posterior, n) for p in latents]) for n in ("mean", "stddev"))), 1
    )
    assert found == pytest.approx(brute(z, q), abs=1e-5)
    assert numbers(vae, data, validation_samples=num_samples)["mutual_information"] == found


def test_of_many_examples_evenly_spaced_ones_are_taken(data, monkeypatch):
    monkeypatch.setattr(validation, "_MOST_NORMALS", 40)
    monkeypatch.setattr(validation, "_BLOCK", 7)
    monkeypatch.setattr(validation, "_MAX_BATCH", 64)
    vae = make_vae()
    found = numbers(vae, data)["mutual_information"]
    latents = passes(vae.eval(), data, [60] * 5)
    rows = spaced(300, 40)
    z, mean, scale = (
        torch.cat([get(latent) for latent in latents])[rows]
        for get in (lambda p: p.z[0], lambda p: p.posterior.mean, lambda p: p.posterior.stddev)
    )
    assert found == pytest.approx(
        brute(z, torch.distributions.Independent(torch.distributions.Normal(mean, scale), 1)), abs=1e-5
    )


def test_other_families_are_looked_at_in_few_examples(data, monkeypatch):
    monkeypatch.setattr(validation, "_MOST_OTHERS", 30)
    vae = make_vae(posteriors.FullNormal)
    found = numbers(vae, data)["mutual_information"]
    passes(vae.eval(), data, [150, 150])  # whose draws come before
    with torch.no_grad():
        latent = vae(torch.from_numpy(data.x[spaced(300, 30)])).latents[0]
    assert found == pytest.approx(brute(latent.z[0], latent.posterior), abs=1e-5)
    assert found <= math.log(30)


def test_it_is_near_that_of_evaluation(data):
    vae = make_vae()
    bundle = Bundle(vae.eval(), Standardize(0.0, 1.0), data.schema)
    report = information(bundle, data)
    assert numbers(vae, data)["mutual_information"] == pytest.approx(
        report.mutual_information, abs=4 * report.mutual_information_error
    )


def ladder():
    return HierarchicalVAE(networks.DenseLadder(DIMS, [2, 3], width=8), likelihoods.Normal(networks.Tail([8]), [DIMS]))


@pytest.mark.parametrize("make", [ladder, lambda: make_vae(posteriors.Deterministic)])
def test_it_is_left_out_where_there_is_none(data, make):
    assert "mutual_information" not in numbers(make(), data)


def test_a_single_example_shares_nothing_that_can_be_told(data):
    assert "mutual_information" not in numbers(make_vae(), data.select([3]))


def test_training_draws_what_it_would_have_drawn(data):
    """Whatever the family, and whatever is computed on the way."""
    for posterior in (posteriors.DiagonalNormal, posteriors.FullNormal):
        torch.manual_seed(77)
        before = torch.get_rng_state()
        vae = make_vae(posterior)
        torch.set_rng_state(before)
        numbers(vae, data)
        assert torch.equal(torch.get_rng_state(), before)


def test_moments_are_those_of_the_averaged_weights_and_are_saved(data, tmp_path):
    """A posterior whose means are normalised: the model that is published encodes by the moments of its own weights, not by
    those of the batches that the latest weights have seen."""
    vae = make_vae(posteriors.BatchNormNormal)
    given = {"vae": vae, "transform": Standardize(0.0, 1.0), "batch_size": 32, "ema": 0.99, "precision": "float32"}
    bundle = train(data, tmp_path / "run", steps=120, validate_every=20, learning_rate=0.01, display_as="quiet", **given)
    posterior = bundle.vae.posterior
    assert bool((posterior.running_variance != 1).all())
    x = torch.from_numpy(data.x)
    with torch.no_grad():
        mean, _ = bundle.vae.encode_flat(x)
        alone, _ = bundle.vae.encode_flat(x[5:6])
    np.testing.assert_allclose(mean[5:6], alone, rtol=1e-4, atol=1e-5)
    trained_on, _ = split(data)
    assert len(trained_on) <= 1024  # all of which are measured
    with torch.no_grad():
        mean_trained_on, _ = bundle.vae.encode_flat(torch.from_numpy(trained_on.stored()))
    np.testing.assert_allclose(mean_trained_on.std(0), posterior.gamma, rtol=1e-3)
    np.testing.assert_allclose(mean_trained_on.mean(0), posterior.shift.detach(), atol=1e-4)
    assert bundle.metrics["validation_rate"] > 2 * 0.18 * 0.8
    from vaekit import storage

    loaded = storage.load(tmp_path / "run").vae
    with torch.no_grad():
        assert torch.equal(loaded.encode_flat(x)[0], mean)
