"""Coverage and reliability: nominal where the model is right, and not where it is too sure of itself."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import distributions as td

from small_models import image_bundle, image_data
from vaekit.data import loading
from vaekit.data.transforms import Levels
from vaekit.distributions import DiscretizedLogisticMixture, Independent
from vaekit.evaluation import calibration as module
from vaekit.evaluation.calibration import calibration, integral_transform
from vaekit.likelihoods import Bernoulli, Categorical
from vaekit.networks import MLP
from vaekit.posteriors import DiagonalNormal
from vaekit.priors import StandardNormal
from vaekit.storage import Bundle
from vaekit.vae import VAE


def bundle_of(vae, data):
    return Bundle(vae.float().eval(), Levels(), data.schema)


def normal_coverage(share, ratio):
    """How much of N(0, ratio^2) lies in the central `share` of N(0, 1)."""
    normal = td.Normal(0.0, 1.0)
    reach = normal.icdf(torch.tensor(0.5 + share / 2))
    return float(2 * normal.cdf(reach / ratio) - 1)


@pytest.mark.parametrize("how", ["cdf", "ranks"])
def test_the_models_own_data_are_covered_as_they_should_be(linear_gaussian, population, monkeypatch, how):
    if how == "ranks":
        monkeypatch.setattr(td.Normal, "cdf", lambda *_: (_ for _ in ()).throw(NotImplementedError))
    data = loading.open(population(4000))
    found = calibration(bundle_of(linear_gaussian.exact_vae(), data), data)
    assert found.measure == "coverage"
    assert found.coverage_50 == pytest.approx(0.5, abs=4 * found.coverage_50_error)
    assert found.coverage_90 == pytest.approx(0.9, abs=4 * found.coverage_90_error)
    assert 0.003 < found.coverage_50_error < 0.006  # 12,000 values, three an example
    assert found.error < 0.01
    assert dict(found.curve)[0.5] == pytest.approx(found.coverage_50)


def test_the_errors_are_the_spread_over_populations(linear_gaussian, population):
    """60 populations: their spread is known to 1 / sqrt(120), 9 %."""
    vae, found = linear_gaussian.exact_vae(), []
    for seed, x in enumerate(population(60 * 300).reshape(60, 300, -1)):
        data = loading.open(x)
        found.append(calibration(bundle_of(vae, data), data, seed=seed))
    for value in ("coverage_50", "coverage_90"):
        spread = np.std([getattr(one, value) for one in found], ddof=1)
        assert np.mean([getattr(one, f"{value}_error") for one in found]) == pytest.approx(spread, rel=0.35)


def test_a_model_that_is_too_sure_of_itself_covers_too_little(linear_gaussian, population):
    data = loading.open(population(4000))
    vae = linear_gaussian.exact_vae()
    with torch.no_grad():
        vae.likelihood.raw_scale.copy_(torch.tensor(math.log(math.expm1(0.35 - 1e-3))))
    found = calibration(bundle_of(vae, data), data)
    assert found.coverage_50 == pytest.approx(normal_coverage(0.5, 2.0), abs=4 * found.coverage_50_error)
    assert found.coverage_90 == pytest.approx(normal_coverage(0.9, 2.0), abs=4 * found.coverage_90_error)
    nominal = np.arange(1, 10) / 10
    expected = np.mean([share - normal_coverage(share, 2.0) for share in nominal])
    assert found.error == pytest.approx(expected, abs=0.02)


def test_missing_values_do_not_count(linear_gaussian, population):
    x = population(500)
    x[:, 1] = np.nan
    data = loading.open(x, missing="nan")
    observed = torch.tensor([True, False, True])
    found = calibration(bundle_of(linear_gaussian.exact_vae(observed), data), data)
    assert found.coverage_50 == pytest.approx(0.5, abs=4 * found.coverage_50_error)
    x[1:] = np.nan
    x[0, 2] = np.nan
    only = replace(data, x=x, mask=~np.isnan(x))
    alone = calibration(bundle_of(linear_gaussian.exact_vae(observed), data), only)
    assert alone.coverage_50 in (0.0, 1.0)
    assert alone.coverage_50_error is None
    assert calibration(bundle_of(linear_gaussian.exact_vae(observed), data), only.select([1, 2])) is None


def fixed(likelihood, bias):
    """A model whose latent changes nothing, with p(x) of a given last bias."""
    with torch.no_grad():
        likelihood.head.linear.weight.zero_()
        likelihood.head.linear.bias.copy_(bias)
    return VAE(StandardNormal(1), DiagonalNormal(MLP(math.prod(likelihood.shape), [2]), 1), likelihood)


def test_reliability_of_binary_values():
    truth = torch.linspace(0.05, 0.95, 10)
    claimed = torch.sigmoid(2 * torch.logit(truth))
    data = loading.open(np.random.default_rng(0).binomial(1, truth.numpy(), (4000, 10)).astype(np.uint8))
    right = calibration(bundle_of(fixed(Bernoulli(MLP(1, [2]), [10]), torch.logit(truth)), data), data)
    wrong = calibration(bundle_of(fixed(Bernoulli(MLP(1, [2]), [10]), torch.logit(claimed)), data), data)
    assert right.measure == "probabilities"
    assert right.error < 0.01
    assert wrong.error == pytest.approx((claimed - truth).abs().mean().item(), abs=0.02)
    assert sum(row[2] for row in wrong.curve) == pytest.approx(1.0)
    rows = {round(row[0], 3): row[1] for row in wrong.curve}
    assert rows[round(claimed[3].item(), 3)] == pytest.approx(truth[3].item(), abs=0.04)
    assert right.coverage_50 is None


def test_reliability_of_categories_is_that_of_the_likeliest():
    truth = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    rng = np.random.default_rng(0)
    x = np.stack([rng.choice(3, 4000, p=p) for p in truth.double().numpy()], axis=1).astype(np.uint8)
    data = loading.open(x, levels=3)
    vae = fixed(Categorical(MLP(1, [2]), [2], 3), truth.log().T.flatten())
    found = calibration(bundle_of(vae, data), data)
    assert found.error < 0.02
    assert sorted(round(row[0], 3) for row in found.curve) == [0.5, 0.7]
    sure = fixed(Categorical(MLP(1, [2]), [2], 3), 5 * truth.log().T.flatten())
    assert calibration(bundle_of(sure, data), data).error > 0.25


def colour_mixture(batch=(1, 2000)):
    generator = torch.Generator().manual_seed(3)
    m, c, p = 3, 3, 2

    def draw(*shape):
        return torch.randn(*shape, generator=generator).expand(*batch, *shape)

    return DiscretizedLogisticMixture(draw(m, p), 0.5 * draw(m, c, p), 0.5 * draw(m, c, p) - 1.5, draw(m, 3, p), 8, (c, 1, p))


def test_ends_of_a_level_are_sums_of_masses():
    p = colour_mixture((1, 1))
    x = torch.tensor([[[3.0, 0.0]], [[7.0, 4.0]], [[0.0, 2.0]]])
    below, above = p.cdf_ends(x)
    for channel in range(3):
        masses = []
        for level in range(8):
            y = x.clone()
            y[channel, 0, :] = level
            u = p._unit(p._positions(y))
            log_p = module_log_prob(p, u)[:, :, : channel + 1]
            masses.append(torch.logsumexp(log_p.sum(2) + torch.log_softmax(p.logits[0], -2), dim=1).exp()[0])
        masses = torch.stack(masses) / torch.stack(masses).sum(0)
        for position in range(2):
            level = int(x[channel, 0, position])
            assert below[0, 0, channel, 0, position] == pytest.approx(float(masses[:level, position].sum()), abs=1e-5)
            assert above[0, 0, channel, 0, position] == pytest.approx(float(masses[: level + 1, position].sum()), abs=1e-5)


def module_log_prob(p, u):
    from vaekit.distributions import discretized_logistic_log_prob

    return discretized_logistic_log_prob(u[..., None, :, :], p._conditional_mean(u), p.log_scale, p.levels)[0]


@pytest.mark.parametrize(
    "p",
    [
        colour_mixture(),
        Independent(td.Poisson(torch.tensor([0.3, 4.0]).expand(1, 2000, 2)), 1),
        Independent(td.Gamma(torch.tensor([0.5, 4.0]).expand(1, 2000, 2), torch.ones(())), 1),
        td.MultivariateNormal(torch.zeros(1, 2000, 2), torch.tensor([[1.0, 0.8], [0.8, 1.0]])),
    ],
    ids=["levels", "counts", "gamma", "full"],
)
def test_the_integral_transform_of_own_draws_is_uniform(p):
    u = integral_transform(p, p.sample()[0]).flatten()
    share = torch.histc(u, 20, 0.0, 1.0) / len(u)
    assert (share - 0.05).abs().max() < 4 * math.sqrt(0.05 * 0.95 / len(u))
    assert u.mean().item() == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / len(u)) * 1.4)


def test_levels_of_a_model_and_no_measure(monkeypatch):
    bundle, data = image_bundle(), image_data(30)
    state = torch.get_rng_state()
    found = calibration(bundle, data, seed=3)
    assert found == calibration(bundle, data, seed=3)
    assert found.coverage_90 != calibration(bundle, data, seed=4).coverage_90
    assert torch.equal(torch.get_rng_state(), state)
    assert found.measure == "coverage"
    monkeypatch.setattr(module, "_measure", lambda p: None)
    assert calibration(bundle, data) is None


def test_tokens_have_no_coverage():
    assert module._measure(Independent(td.OneHotCategorical(torch.ones(1, 2, 3)), 1)) is None
    assert isinstance(module._measure(Independent(td.Poisson(torch.ones(1, 2)), 1)), module._Coverage)
