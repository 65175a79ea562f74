"""Levels as codes, and relaxed categoricals: bijections, frequencies, limits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from codes_support import Through
from vaekit.distributions import CodeLayout, IndependentCodes, RelaxedCodes, centre, closed_form_kl, stopped
from vaekit.errors import ConfigError
from vaekit.likelihoods import Bernoulli, Normal
from vaekit.networks import MLP
from vaekit.objectives import ELBO, IWAE, Quantization
from vaekit.posteriors import DiagonalNormal, FiniteScalar, GumbelSoftmax, Joint
from vaekit.priors import CategoricalCodes, StandardNormal, UniformCodes
from vaekit.priors import Joint as JointPrior
from vaekit.vae import VAE

# ------------------------------------------------------------------------------------------------------------------ levels


@given(levels=st.lists(st.integers(2, 9), min_size=1, max_size=4), positions=st.sampled_from([1, 2, (2, 1)]))
def test_codes_and_latents_are_one_to_one(levels, positions) -> None:
    shape = CodeLayout.of(positions, len(levels)).shape
    posterior = FiniteScalar(Through(list(shape)), levels, positions)
    codes = torch.arange(posterior.num_codes)[:, None].expand(-1, posterior.num_tokens)
    assert posterior.num_codes == math.prod(levels)
    z = posterior.embed(codes)
    assert torch.equal(posterior.codes_of(z), codes)
    assert len(z.flatten(1).unique(dim=0)) == posterior.num_codes
    assert z.min() >= -1
    assert z.max() <= 1
    # What the network gives in the middle of a code's cell is rounded to that code, its latent to itself.
    q = posterior(atanh_of(posterior, z))
    assert torch.equal(q.codes, codes)
    assert torch.equal(q.rsample(), z)


def atanh_of(posterior: FiniteScalar, z: Tensor) -> Tensor:
    """f with tanh(f + s) (L - 1) / 2 - o at the level that z stands for, in float64 loops."""
    tokens = posterior.layout.tokens(z)
    out = torch.empty_like(tokens)
    for i, size in enumerate(posterior.sizes.tolist()):
        reach, offset = (size - 1) * 1.001 / 2, 0.5 if size % 2 == 0 else 0.0
        shift = math.atanh(offset / reach) if size > 2 else 0.0
        levels = (tokens[..., i] * (size // 2)).double()
        out[..., i] = ((levels + offset) / reach).clamp(-0.9999, 0.9999).atanh().float() - shift
    return posterior.layout.latent(out)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 255, 256])
def test_a_sweep_meets_every_level_in_order_and_no_other(size) -> None:
    posterior = FiniteScalar(Through([1]), [size], 1).double()
    x = torch.linspace(-9, 9, 40_001).double()[:, None]
    codes = posterior(x).codes[:, 0]
    assert codes.unique().tolist() == list(range(size))
    assert (codes.diff() >= 0).all()
    if size > 2:
        assert posterior(torch.zeros(1, 1).double()).mean.item() == 0.0


def test_the_gradient_of_levels_is_that_of_the_bounded_number() -> None:
    posterior = FiniteScalar(Through([2]), [5, 8], 1).double()
    x = torch.tensor([[0.3, -0.8]]).double().requires_grad_()
    z = posterior(x).rsample()
    z.sum().backward()
    shift = math.atanh(0.5 / (7 * 1.001 / 2))
    expected = [
        (4 * 1.001 / 2) / 2 * (1 - math.tanh(0.3) ** 2),
        (7 * 1.001 / 2) / 4 * (1 - math.tanh(-0.8 + shift) ** 2),
    ]
    assert x.grad.flatten().tolist() == pytest.approx(expected)


def test_levels_start_from_data_once() -> None:
    posterior = FiniteScalar(Through([6]), [5, 8], 3).double()
    x = (7 + 0.01 * torch.randn(400, 3, 2)).double().flatten(1)
    assert posterior(x).codes.unique().numel() == 1
    posterior.initialize(x)
    assert posterior.codes_of(posterior(x).mean).unique().numel() > 20
    before = posterior.shift.clone()
    posterior.initialize(x + 1)
    assert torch.equal(posterior.shift, before)


def test_levels_are_trained_by_the_bound_alone() -> None:
    torch.manual_seed(0)
    posterior = FiniteScalar(MLP(4, [16]), [4, 4], positions=1)
    vae = VAE(UniformCodes(2, 16, 1), posterior, Normal(MLP(2, [16]), [4], scale="shared"))
    x = torch.eye(4).repeat(8, 1)
    optimizer = torch.optim.Adam(vae.parameters(), 1e-2)
    for _ in range(120):
        trace = vae(x)
        bound = ELBO()(trace)
        optimizer.zero_grad()
        bound.loss.backward()
        optimizer.step()
    assert posterior(torch.eye(4)).codes.unique().numel() == 4
    assert bound.rate.item() == pytest.approx(math.log(16))
    torch.testing.assert_close(Quantization()(trace).loss, bound.loss)  # nothing has to be held together


@pytest.mark.parametrize("levels", [[], [1, 5], [257], [256] * 4])
def test_levels_that_cannot_be(levels) -> None:
    with pytest.raises(ConfigError, match="`levels` must be numbers from 2 to 256"):
        FiniteScalar(MLP(3, [4]), levels, 1)


# -------------------------------------------------------------------------------------------------------------- categories


def relaxed(temperature: float, hard: bool = False, batch: int = 1) -> RelaxedCodes:
    torch.manual_seed(5)
    logits = (1.5 * torch.randn(batch, 2, 3)).double()
    return RelaxedCodes(CodeLayout(2, 3), logits, torch.tensor(temperature).double(), hard)


@pytest.mark.parametrize("temperature", [0.05, 0.7, 3.0])
@pytest.mark.parametrize("hard", [False, True])
def test_the_largest_entry_is_at_a_code_as_often_as_it_is_probable(temperature, hard, within_standard_errors) -> None:
    q = relaxed(temperature, hard)
    z = q.layout.tokens(q.sample((40_000,)))
    torch.testing.assert_close(z.sum(-1), torch.ones(40_000, 1, 2).double())
    chosen = torch.nn.functional.one_hot(z.argmax(-1), 3).double()
    within_standard_errors(chosen, q.probs)
    if hard:
        assert torch.equal(z, chosen)


def test_the_limits_of_the_temperature() -> None:
    """Towards 0 samples are one-hot, so their mean is pi; far above, every entry is 1 / V."""
    cold, hot = relaxed(1e-4), relaxed(1e5)
    z = cold.layout.tokens(cold.sample((5000,)))
    assert (z.max(-1).values > 0.999).double().mean() > 0.995
    torch.testing.assert_close(z.mean(0), cold.probs, atol=0.03, rtol=0)
    torch.testing.assert_close(hot.sample((100,)), torch.full((100, 1, 6), 1 / 3).double(), atol=1e-3, rtol=0)


def test_a_relaxed_sample_has_the_density_of_the_concrete_distribution() -> None:
    """The share of samples in cells, against the density of Maddison et al. (2017), equation 10, for two categories."""
    torch.manual_seed(0)
    alpha, temperature = torch.tensor([0.7, 0.3]).double(), 0.6
    q = RelaxedCodes(CodeLayout(1, 2), alpha.log()[None, None], torch.tensor(temperature).double(), hard=False)
    first = q.sample((200_000,))[:, 0, 0]
    grid = torch.linspace(1e-6, 1 - 1e-6, 200_001).double()
    a, b = (alpha[0] * grid ** (-temperature), alpha[1] * (1 - grid) ** (-temperature))
    density = temperature * a * b / (a + b) ** 2 / (grid * (1 - grid))
    for low, high in itertools.pairwise([0.0, 0.1, 0.3, 0.5, 0.8, 1.0]):
        inside = (grid >= low) & (grid < high)
        mass = torch.trapezoid(density[inside], grid[inside]).item()
        assert ((first >= low) & (first < high)).double().mean().item() == pytest.approx(mass, abs=0.006)


def test_divergences_by_brute_force_over_all_codes() -> None:
    q = relaxed(0.5, batch=4)
    posterior = GumbelSoftmax(MLP(3, [4]), 3, 2).double()
    priors = [UniformCodes(6, 3, 2).double(), CategoricalCodes(6, 3, 2).double()]
    with torch.no_grad():
        priors[1].logits.normal_()
    for prior in priors:
        prior.bind(posterior)
        p = prior()
        expected = torch.zeros(4).double()
        for code in itertools.product(range(3), repeat=2):
            z = posterior.embed(torch.tensor(code))
            log_q = q.log_prob(z)
            expected += log_q.exp() * (log_q - p.log_prob(z))
        torch.testing.assert_close(closed_form_kl(q, p), expected)
    torch.testing.assert_close(closed_form_kl(q, priors[0]()), 2 * math.log(3) - q.entropy())


def test_moments_are_those_of_one_hot_samples() -> None:
    q = relaxed(0.5, hard=True)
    z = q.sample((50_000,))
    mean, scale = centre(q)
    torch.testing.assert_close(z.mean(0), mean, atol=0.01, rtol=0)
    torch.testing.assert_close(z.std(0), scale, atol=0.01, rtol=0)


def test_hard_samples_have_the_gradient_of_the_relaxed_ones() -> None:
    gradients = []
    for hard in (False, True):
        logits = torch.tensor([[[0.3, -0.4, 0.9]]]).double().requires_grad_()
        q = RelaxedCodes(CodeLayout(1, 3), logits, torch.tensor(0.7).double(), hard)
        torch.manual_seed(2)
        (q.rsample((5,)) * torch.tensor([1.0, 2.0, 4.0]).double()).sum().backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().min() > 0


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[[300.0, -300.0, 0.0]]], requires_grad=True)
    q = RelaxedCodes(CodeLayout(1, 3), logits, torch.tensor(0.1), hard=False)
    posterior = GumbelSoftmax(MLP(3, [4]), 3, 1)
    prior = UniformCodes(3, 3, 1)
    prior.bind(posterior)
    value = q.rsample((1000,)).sum() + closed_form_kl(q, prior()).sum() + q.usage_entropy()
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


def test_the_temperature_falls_with_the_steps_of_training_alone() -> None:
    posterior = GumbelSoftmax(MLP(3, [4]), 3, 2, temperature=2.0, min_temperature=0.5, anneal_rate=0.1)
    x = torch.randn(5, 3)
    for step in range(20):
        assert posterior(x).temperature.item() == pytest.approx(max(0.5, 2.0 * math.exp(-0.1 * step)))
    posterior.eval()(x)
    with torch.no_grad():
        posterior.train()(x)
    assert posterior.steps.item() == 20
    again = GumbelSoftmax(MLP(3, [4]), 3, 2, temperature=2.0, min_temperature=0.5, anneal_rate=0.1)
    again.load_state_dict(posterior.state_dict())
    assert again(x).temperature.item() == 0.5


def test_evaluation_is_of_the_discrete_model() -> None:
    """The K-sample bound of one-hot samples rises to log p(x) = log sum_codes p(codes) p(x|codes)."""
    torch.manual_seed(0)
    vae = VAE(UniformCodes(6, 3, 2), GumbelSoftmax(MLP(4, [8]), 3, 2), Bernoulli(MLP(6, [8]), [4])).double().eval()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(2.0)
    x = torch.bernoulli(torch.full((5, 4), 0.5)).double()
    codes = torch.tensor(list(itertools.product(range(3), repeat=2)))
    z = vae.posterior.embed(codes)[:, None].expand(-1, 5, -1)
    exact = (vae.decode(z).log_prob(x) - 2 * math.log(3)).logsumexp(0)
    with torch.no_grad():
        trace = vae(x, num_samples=20_000)
        assert trace.latents[0].z.unique().tolist() == [0.0, 1.0]
        estimate = trace.log_weights.logsumexp(0) - math.log(20_000)
    torch.testing.assert_close(estimate, exact, atol=0.02, rtol=0)
    assert (ELBO()(trace).elbo < exact.mean()).item()
    assert IWAE()(trace).loss.item() == pytest.approx(-exact.mean().item(), abs=0.02)


@pytest.mark.parametrize("straight_through", [False, True])
def test_continuous_beside_discrete_learns(straight_through) -> None:
    torch.manual_seed(0)
    gumbel = GumbelSoftmax(MLP(4, [16]), 4, 1, straight_through=straight_through)
    vae = VAE(
        JointPrior([StandardNormal(1), UniformCodes(4, 4, 1)]),
        Joint([DiagonalNormal(MLP(4, [16]), 1), gumbel]),
        Bernoulli(MLP(5, [16]), [4]),
    )
    x = torch.eye(4).repeat(8, 1)
    optimizer = torch.optim.Adam(vae.parameters(), 1e-2)
    losses = []
    for _ in range(120):
        bound = ELBO()(vae(x))
        optimizer.zero_grad()
        bound.loss.backward()
        optimizer.step()
        losses.append(bound.loss.item())
    assert sum(losses[-10:]) / 10 < sum(losses[:10]) / 10 - 0.3
    terms = Quantization()(vae(x)).terms
    assert 0 < terms["code_entropy"] <= math.log(4) + 1e-5
    mean, scale = vae.encode_flat(x)
    assert mean.shape == scale.shape == (32, 5)
    assert vae.sample_prior(6)[..., 1:].sum(-1).tolist() == [[1.0] * 6]


def test_relaxed_latents_are_charged_between_codes() -> None:
    """log p and log q of a relaxed latent are means over each token, through which gradients reach the latent."""
    q = stopped(relaxed(0.5))
    z = q.rsample().requires_grad_()
    posterior = GumbelSoftmax(MLP(3, [4]), 3, 2).double()
    p = IndependentCodes(posterior, torch.randn(2, 3).double().log_softmax(-1))
    weights = z.view(1, 2, 3)
    torch.testing.assert_close(q.log_prob(z), (weights * q.log_probs).sum((1, 2)))
    torch.testing.assert_close(p.log_prob(z), (weights * p.log_probs).sum((1, 2)))
    (gradient,) = torch.autograd.grad(p.log_prob(z).sum(), z)
    torch.testing.assert_close(gradient.view(2, 3), p.log_probs)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_categories": 1}, "`num_categories` must be at least 2"),
        ({"min_temperature": 0.0}, "`min_temperature` must be > 0"),
        ({"temperature": 0.1}, "at most `temperature`"),
        ({"anneal_rate": -1.0}, "`anneal_rate` must be >= 0"),
    ],
)
def test_arguments_that_cannot_be(options, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        GumbelSoftmax(MLP(3, [4]), **{"num_categories": 3, "positions": 2, **options})
