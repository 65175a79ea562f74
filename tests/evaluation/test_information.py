"""Mutual information and the marginal divergence against their closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from small_models import image_bundle, image_data, vector_bundle, vector_data
from vaekit.data import loading
from vaekit.data.transforms import Levels
from vaekit.evaluation import information as module
from vaekit.evaluation.information import information
from vaekit.storage import Bundle

NUM = 3000


def closed_forms(linear_gaussian, gain, offset, scale_tril):
    """I(x; z) and KL(q(z) || p(z)) where x is of the model and q(z|x) = N(gain x + offset, scale_tril scale_tril^T)."""
    w, b = linear_gaussian.weight, linear_gaussian.bias
    covariance = gain @ (w @ w.T + linear_gaussian.scale**2 * torch.eye(len(b))) @ gain.T + scale_tril @ scale_tril.T
    q = MultivariateNormal(gain @ b + offset, covariance)
    d = len(offset)
    p = MultivariateNormal(torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64))
    mutual = 0.5 * (torch.logdet(covariance) - torch.logdet(scale_tril @ scale_tril.T))
    return mutual.item(), kl_divergence(q, p).item()


@pytest.mark.parametrize(("times", "shift", "wide"), [(1.0, 0.0, 1.0), (0.6, 0.5, 1.5)])
def test_both_bounds_hold_and_are_near(linear_gaussian, population, times, shift, wide):
    gain, offset, scale_tril = linear_gaussian.exact_posterior()
    q = (times * gain, offset + shift, wide * scale_tril)
    data = loading.open(population(NUM))
    found = information(Bundle(linear_gaussian.vae(*q).float().eval(), Levels(), data.schema), data, num_examples=NUM)
    mutual, marginal = closed_forms(linear_gaussian, *q)
    error = 4 * found.mutual_information_error
    assert found.mutual_information < found.mutual_information_upper
    assert found.mutual_information == pytest.approx(mutual, abs=error)
    assert found.mutual_information_upper == pytest.approx(mutual, abs=error)
    assert found.mutual_information_upper - found.mutual_information < 0.02
    assert found.marginal_kl_lower < found.marginal_kl
    assert found.marginal_kl == pytest.approx(marginal, abs=4 * found.marginal_kl_error)
    assert found.marginal_kl_error < 0.03
    assert found.whole_latent


def test_the_errors_are_the_spread_over_populations(linear_gaussian, population):
    """40 populations: their spread is known to 1 / sqrt(80), 11 %."""
    gain, offset, scale_tril = linear_gaussian.exact_posterior()
    vae = linear_gaussian.vae(0.6 * gain, offset + 0.5, 1.5 * scale_tril).float().eval()
    found = []
    for seed, x in enumerate(population(40 * 300).reshape(40, 300, -1)):
        data = loading.open(x)
        found.append(information(Bundle(vae, Levels(), data.schema), data, seed=seed))
    for value, error in (("mutual_information", "mutual_information_error"), ("marginal_kl", "marginal_kl_error")):
        spread = np.std([getattr(one, value) for one in found], ddof=1)
        assert np.mean([getattr(one, error) for one in found]) == pytest.approx(spread, rel=0.4)


def test_it_is_the_brute_force_sum(monkeypatch):
    monkeypatch.setattr(module, "MAX_ELEMENTS", 16 * 7 * 4 * 3)  # blocks of 7 examples and fewer
    monkeypatch.setattr(module, "_BLOCK", 7)
    bundle, data = vector_bundle(), vector_data(30)
    with torch.inference_mode():
        parts = module._Parts(bundle, data)
        assert len(parts.samples) == 5
        own, others = module.mixture_log_probs(parts.samples, parts.posteriors)
        z, posteriors = torch.cat(parts.samples), parts.posteriors
        means = torch.cat([q.mean for q in posteriors]).double()
        scales = torch.cat([q.stddev for q in posteriors]).double()
        log_q = torch.distributions.Normal(means, scales).log_prob(z.double()[:, None]).sum(-1)
    np.testing.assert_allclose(own, log_q.diagonal(), rtol=1e-5)
    off = log_q.masked_fill(torch.eye(30, dtype=torch.bool), -math.inf)
    np.testing.assert_allclose(others, torch.logsumexp(off, 1), rtol=1e-5)


def test_far_apart_posteriors_give_log_n():
    bundle, data = vector_bundle(), vector_data(30)
    with torch.no_grad():
        bundle.vae.posterior.head.linear.weight.mul_(300.0)
        bundle.vae.posterior.head.linear.bias[4:] = -8.0
        bundle.vae.posterior.head.linear.weight[4:] = 0.0
    found = information(bundle, data)
    assert found.mutual_information == pytest.approx(math.log(30), abs=1e-9)
    assert found.mutual_information <= found.log_num_examples + 1e-12
    assert found.mutual_information_upper > 100
    assert found.num_examples == 30


def test_a_latent_that_ignores_the_data_carries_nothing():
    bundle, data = vector_bundle(), vector_data(30)
    with torch.no_grad():
        bundle.vae.posterior.head.linear.weight.zero_()
        bundle.vae.posterior.head.linear.bias.zero_()
    found = information(bundle, data)
    assert found.mutual_information == pytest.approx(0.0, abs=1e-6)
    assert found.mutual_information_upper == pytest.approx(0.0, abs=1e-6)


def test_a_share_of_the_examples_and_none(monkeypatch):
    bundle, data = image_bundle(conditional=True), image_data(30)
    found = information(bundle, data, num_examples=7)
    assert found == information(bundle, data.select([0, 4, 9, 14, 19, 24, 29]))
    assert found.num_examples == 7
    assert found.marginal_kl is not None
    assert information(bundle, data.select([0])) is None

    def no_density(*arguments):
        raise NotImplementedError

    monkeypatch.setattr(module, "mixture_log_probs", no_density)
    assert information(bundle, data) is None
