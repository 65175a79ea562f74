"""Annealed importance sampling against exact evidence, and where it is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import distributions as td

from small_models import image_bundle, image_data, vector_bundle, vector_data
from vaekit import posteriors
from vaekit.data import loading
from vaekit.data.transforms import Levels, Standardize
from vaekit.distributions import Joint, diagonal_normal, mixture_of_normals
from vaekit.distributions.affine import Affine
from vaekit.distributions.hyperbolic import WrappedNormal
from vaekit.distributions.sphere import UniformSphere
from vaekit.errors import ConfigError
from vaekit.evaluation import annealing
from vaekit.evaluation.annealing import anneal
from vaekit.evaluation.bounds import evaluate_bounds
from vaekit.inference import Inputs
from vaekit.likelihoods import Bernoulli
from vaekit.networks import MLP, DenseLadder, Tail
from vaekit.posteriors import Deterministic, DiagonalNormal
from vaekit.priors import StandardNormal
from vaekit.storage import Bundle
from vaekit.vae import VAE, HierarchicalVAE

SMALL = {"num_leapfrogs": 4, "num_chains": 16}


@pytest.fixture
def points():
    return np.random.default_rng(0).normal(0.0, 1.2, (30, 3)).astype(np.float32)


def poor(linear_gaussian):
    """A posterior that is far off: the K-sample bound is loose."""
    gain, offset, scale_tril = linear_gaussian.exact_posterior()
    return linear_gaussian.vae(0.2 * gain, offset, 0.3 * scale_tril)


@pytest.mark.parametrize(("start", "num_steps"), [("posterior", 100), ("prior", 50)])
def test_it_is_the_evidence_where_the_bound_is_loose(linear_gaussian, points, start, num_steps):
    data = loading.open(points)
    bundle = Bundle(poor(linear_gaussian).float().eval(), Levels(), data.schema)
    found = anneal(bundle, data, num_steps=num_steps, num_samples=20, start=start, **SMALL)
    evidence = linear_gaussian.evidence(torch.from_numpy(points).double())
    assert found.monte_carlo_error < 0.05
    assert found.nll_nats == pytest.approx(-evidence.mean().item(), abs=4 * found.monte_carlo_error + 0.01)
    assert found.gap > 1.0 > found.gap_error
    assert found.gap == pytest.approx(found.bound_nll_nats - found.nll_nats)
    assert found.standard_error == pytest.approx(evidence.std().item() / math.sqrt(30), rel=0.1)
    assert 0.5 < found.acceptance < 0.85
    assert (found.num_steps, found.num_chains, found.num_samples, found.num_examples) == (num_steps, 16, 20, 30)


def test_weights_are_unbiased(linear_gaussian, within_standard_errors):
    vae = poor(linear_gaussian)
    x = torch.tensor([[0.3, -0.5, 1.0]], dtype=torch.float64).expand(200, 3)
    with annealing._frozen(vae):
        log_weights, _ = annealing._Run(vae, Inputs(x, None, None), "prior", 12, 3).weights(16)
    assert torch.unique(log_weights).numel() > 3000
    weights = torch.exp(log_weights - linear_gaussian.evidence(x[:1]))
    within_standard_errors(weights.mean(0), 1.0)
    assert weights.std() > 0.05


def test_a_transition_leaves_its_distribution_as_it_is(linear_gaussian, within_standard_errors):
    vae = linear_gaussian.exact_vae()
    x = torch.tensor([[0.3, -0.5, 1.0]], dtype=torch.float64)
    run = annealing._Run(vae, Inputs(x, None, None), "prior", 1, 3)
    exact = linear_gaussian.posterior_at(x)
    state = run._state(exact.sample((20000,)))
    for _ in range(3):
        state, probability = run._move(state, 1.0, torch.full((1,), 1.3, dtype=torch.float64))
    assert 0.2 < probability.mean() < 0.9
    z = state.z[:, 0]
    within_standard_errors(z, exact.mean[0])
    centred = z - exact.mean[0]
    within_standard_errors(centred[:, :, None] * centred[:, None, :], exact.covariance_matrix[0])


def test_one_step_is_importance_sampling(linear_gaussian):
    vae = poor(linear_gaussian)
    x = torch.tensor([[0.3, -0.5, 1.0]], dtype=torch.float64)
    run = annealing._Run(vae, Inputs(x, None, None), "posterior", 1, 2)
    torch.manual_seed(1)
    run._tuned_steps = lambda num_chains: [torch.ones(1)]
    log_weights, accepted = run.weights(7)
    torch.manual_seed(1)
    q = vae.encode(x)
    z = td.Independent(td.Normal(q.mean, q.stddev), 1).sample((7,))
    expected = vae.decode(z).log_prob(x) + td.Normal(0.0, 1.0).log_prob(z).sum(-1)
    expected = expected - td.Independent(td.Normal(q.mean, q.stddev), 1).log_prob(z)
    torch.testing.assert_close(log_weights, expected.detach())
    assert accepted.item() == 0.0


def test_it_agrees_with_a_grid_for_binary_data():
    torch.manual_seed(3)
    x = np.random.default_rng(1).integers(0, 2, (6, 8), dtype=np.uint8)
    data = loading.open(x)
    vae = VAE(StandardNormal(1), DiagonalNormal(MLP(8, [4]), 1), Bernoulli(MLP(1, [8], "tanh"), [8]))
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(3.0)
        grid = torch.linspace(-8, 8, 4001)[:, None, None]
        joint = vae.decode(grid).log_prob(torch.from_numpy(x).float()) + td.Normal(0.0, 1.0).log_prob(grid[..., 0])
        exact = torch.logsumexp(joint.double(), 0) + math.log(16 / 4000)
    found = anneal(Bundle(vae.eval(), Levels(), data.schema), data, num_steps=80, start="prior", **SMALL)
    assert found.nll_nats == pytest.approx(-exact.mean().item(), abs=4 * found.monte_carlo_error + 1e-3)
    assert found.monte_carlo_error < 0.05


def test_a_ladder_is_taken_together():
    torch.manual_seed(0)
    x = np.random.default_rng(0).integers(0, 2, (5, 6), dtype=np.uint8)
    data = loading.open(x)
    vae = HierarchicalVAE(DenseLadder(6, num_latents=[1, 2], width=8), Bernoulli(Tail([8]), shape=[6]))
    bundle = Bundle(vae.eval(), Levels(), data.schema)
    found = anneal(bundle, data, num_steps=50, num_samples=4000, **SMALL)
    assert found.gap == pytest.approx(0.0, abs=0.01 + 4 * found.monte_carlo_error)


def test_density_is_of_the_data_as_stored(linear_gaussian, points):
    data = loading.open(5.0 + 2.0 * points)
    bundle = Bundle(linear_gaussian.exact_vae().float().eval(), Standardize(5.0, 2.0), data.schema)
    found = anneal(bundle, data.select(range(5)), num_steps=40, num_samples=2, **SMALL)
    evidence = linear_gaussian.evidence(torch.from_numpy(points[:5]).double()).mean().item()
    assert found.bound_nll_nats == pytest.approx(-evidence + 3 * math.log(2.0), abs=1e-4)
    assert found.nll_nats == pytest.approx(-evidence + 3 * math.log(2.0), abs=4 * found.monte_carlo_error + 0.01)


def test_a_share_of_the_examples_seeded_and_in_blocks(monkeypatch):
    bundle, data = image_bundle(binarize=True, conditional=True), image_data(20)
    short = {"num_steps": 3, "num_chains": 2, "num_leapfrogs": 2, "num_samples": 3}
    state, asked = torch.get_rng_state(), [p.requires_grad for p in bundle.vae.parameters()]
    found = anneal(bundle, data, num_examples=4, **short)
    assert found == anneal(bundle, data.select([0, 6, 12, 19]), **short)
    assert found.nll_nats != anneal(bundle, data, num_examples=4, seed=1, **short).nll_nats
    assert found.num_examples == 4
    assert torch.equal(torch.get_rng_state(), state)
    assert [p.requires_grad for p in bundle.vae.parameters()] == asked
    assert all(p.grad is None for p in bundle.vae.parameters())
    done = []
    monkeypatch.setattr(annealing, "MAX_ELEMENTS", 1)
    anneal(bundle, data, num_examples=3, progress=lambda *at: done.append(at), **short)
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_the_report_has_it_where_it_is_asked_for():
    report = evaluate_bounds(vector_bundle(), vector_data(6), num_samples=5, annealing_steps=2)
    assert report.annealing.num_steps == 2
    assert report.annealing.num_samples == 5
    assert report.to_json()["annealing"]["gap"] == report.annealing.gap


def test_which_latents_chains_can_walk_through():
    normal = diagonal_normal(torch.zeros(2), torch.ones(2))
    ok = [normal, td.MultivariateNormal(torch.zeros(2), torch.eye(2)), Joint([normal, normal])]
    ok.append(mixture_of_normals(torch.zeros(3), torch.zeros(3, 2), torch.ones(3, 2)))
    refused = [
        td.Independent(td.Gamma(torch.ones(2), torch.ones(2)), 1),
        td.OneHotCategorical(torch.ones(3)),
        Joint([normal, td.OneHotCategorical(torch.ones(3))]),
    ]
    ok.append(Affine(normal, torch.ones(2), torch.ones(2)))
    refused += [UniformSphere(torch.zeros(3)), WrappedNormal(torch.zeros(2), torch.ones(2))]
    assert [annealing._is_real(p) for p in ok] == [True] * 5
    assert [annealing._is_real(p) for p in refused] == [False] * 5


def test_supports_of_bounded_latents_hold_what_is_drawn():
    for p in (UniformSphere(torch.zeros(3)), WrappedNormal(torch.zeros(3), torch.ones(3))):
        z = p.rsample((100,))
        assert p.support.check(z).all()
        assert not p.support.check(1.5 * z / z.norm(dim=-1, keepdim=True)).any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Deterministic(MLP(3, [4]), 2),
        lambda: posteriors.Joint([DiagonalNormal(MLP(3, [4]), 1), Deterministic(MLP(3, [4]), 1)]),
        lambda: posteriors.Chain([DiagonalNormal(MLP(3, [4]), 1), Deterministic(MLP(1, [4]), 1)]),
    ],
    ids=["whole", "joint", "chain"],
)
def test_a_posterior_without_spread_begins_at_the_prior(linear_gaussian, points, make):
    data = loading.open(points[:10])
    likelihood = linear_gaussian.exact_vae().likelihood
    vae = VAE(StandardNormal(2), make(), likelihood)
    bundle = Bundle(vae.float().eval(), Levels(), data.schema)
    report = evaluate_bounds(bundle, data, num_samples=3, annealing_steps=60)
    evidence = linear_gaussian.evidence(torch.from_numpy(points[:10]).double()).mean().item()
    assert report.annealing.start == "prior"
    assert report.annealing.nll_nats == pytest.approx(-evidence, abs=0.02 + 4 * report.annealing.monte_carlo_error)
    assert report.bias is None
    assert report.information is None
    assert "bounds nothing" in report.warning


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [({"num_steps": 0}, "must each be at least 1"), ({"start": "nowhere"}, "`start` must be posterior or prior")],
)
def test_wrong_arguments(arguments, sentence):
    with pytest.raises(ConfigError, match=sentence):
        anneal(vector_bundle(), vector_data(3), **arguments)


def test_bounded_latents_are_refused(monkeypatch):
    bundle = vector_bundle()
    monkeypatch.setattr(StandardNormal, "forward", lambda *_: td.Independent(td.Gamma(torch.ones(4), torch.ones(4)), 1))
    with pytest.raises(ConfigError, match="known on all of R.D, got priors.StandardNormal: its latents"):
        anneal(bundle, vector_data(3))
