"""Each family against scipy's, from tiny to huge parameters, and in float32, where log-Gammas lose their digits."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from likelihood_cases import MODES, B, D, K, latents, mlp, wild, without_features
from vaekit import distributions
from vaekit.distributions.stirling import deviance, log_factorial_remainder, stirling_remainder
from vaekit.errors import ConfigError
from vaekit.likelihoods import (
    Beta,
    BetaBinomial,
    HyperbolicSecant,
    Laplace,
    Logistic,
    LogNormal,
    NegativeBinomial,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)
from vaekit.networks import ConvDecoder

stats = pytest.importorskip("scipy.stats")
COUNTS = torch.cat([torch.arange(40.0), torch.tensor([100.0, 1e3, 12345.0, 1e5, 1e6])]).double()


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def agrees(found: Tensor, expected: Any, rtol: float = 1e-9) -> None:
    """To `rtol` of the log-density, which is what scipy's own formulas keep."""
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=torch.float64), rtol=rtol, atol=rtol)


def single_agrees(p: Any, x: Tensor, exact: Tensor, *parameters: float) -> None:
    """float32 within 1e-4 wherever the density is not negligible."""
    near = exact > -50
    found = p(*(torch.tensor(value) for value in parameters)).log_prob(x.float())[near]
    torch.testing.assert_close(found.double(), exact[near], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("mean", [1e-6, 0.3, 5.0, 77.0, 1e4, 1e6])
def test_poisson(mean: float) -> None:
    p = distributions.Poisson(number(mean).log())
    exact = p.log_prob(COUNTS)
    agrees(exact, stats.poisson.logpmf(COUNTS.numpy(), mean))
    assert p.mean.item() == pytest.approx(mean)
    assert p.variance.item() == pytest.approx(mean)
    single_agrees(lambda m: distributions.Poisson(m.log()), COUNTS, stats_like(exact, mean), mean)


def stats_like(exact: Tensor, mean: float) -> Tensor:
    """The exact values, where float32 can hold the parameter log(mean) well enough to tell: within a few deviations."""
    return torch.where((COUNTS - mean).abs() < 6 * math.sqrt(mean) + 6, exact, -math.inf)


@pytest.mark.parametrize(("mean", "shape"), list(itertools.product([0.3, 5.0, 1e4], [1e-3, 0.5, 3.0, 1e3])))
def test_negative_binomial(mean: float, shape: float) -> None:
    p = distributions.NegativeBinomial(number(mean).log(), number(shape).log())
    reference = stats.nbinom(shape, shape / (shape + mean))
    exact = p.log_prob(COUNTS)
    agrees(exact, reference.logpmf(COUNTS.numpy()), rtol=1e-8)
    agrees(p.mean, reference.mean())
    agrees(p.variance, reference.var())
    single_agrees(lambda m, r: distributions.NegativeBinomial(m.log(), r.log()), COUNTS, exact, mean, shape)


def test_negative_binomial_of_no_dispersion_is_poisson() -> None:
    for mean in (0.5, 20.0, 1e4):
        x = (mean + math.sqrt(mean) * torch.arange(-3.0, 4.0)).round().clamp_min(0).double()
        p = distributions.NegativeBinomial(number(mean).log(), number(20.0))
        agrees(p.log_prob(x), distributions.Poisson(number(mean).log()).log_prob(x), rtol=1e-4)  # of the order m / r


def test_negative_binomial_is_its_textbook_formula() -> None:
    m, r, x = number(3.7), number(1.3), COUNTS[:40]
    expected = (
        torch.lgamma(x + r) - torch.lgamma(r) - torch.lgamma(x + 1) + r * torch.log(r / (r + m)) + x * torch.log(m / (r + m))
    )
    agrees(distributions.NegativeBinomial(m.log(), r.log()).log_prob(x), expected)


def test_zero_inflated() -> None:
    w, base = number(0.3), distributions.Poisson(number(2.0).log())
    p = distributions.ZeroInflated(base, torch.logit(w))
    expected = (1 - w) * base.log_prob(COUNTS).exp() + w * (COUNTS == 0)
    agrees(p.log_prob(COUNTS).exp(), expected)
    x = COUNTS[:40]
    mean = (expected[:40] * x).sum()
    agrees(p.mean, mean)
    agrees(p.variance, (expected[:40] * (x - mean).square()).sum())


@pytest.mark.parametrize("total", [1, 4, 255, 65535])
@pytest.mark.parametrize(("a", "b"), [(1e-6, 1e-6), (1e-3, 2.0), (1.0, 1.0), (30.0, 7.0), (1e4, 3e4)])
def test_beta_binomial(total: int, a: float, b: float) -> None:
    x = torch.linspace(0, total, min(total + 1, 300)).round().unique().double()
    p, reference = distributions.BetaBinomial(number(a), number(b), total), stats.betabinom(total, a, b)
    exact = p.log_prob(x)
    agrees(exact, reference.logpmf(x.numpy()), rtol=1e-8)
    agrees(p.mean, reference.mean())
    agrees(p.variance, reference.var(), rtol=1e-7)
    if len(x) == total + 1:
        assert torch.logsumexp(exact, 0).item() == pytest.approx(0.0, abs=1e-12)
    single_agrees(lambda a, b: distributions.BetaBinomial(a, b, total), x, exact, a, b)


@pytest.mark.parametrize(("a", "b"), [(1e-6, 1e-6), (1e-3, 2.0), (1.0, 1.0), (30.0, 7.0), (1e4, 3e4), (1e6, 1e2)])
def test_beta(a: float, b: float) -> None:
    x = torch.tensor([1e-30, 1e-6, 0.1, 0.25, 0.5, 0.9, 1 - 1e-6]).double()
    exact = distributions.Beta(number(a), number(b), validate_args=False).log_prob(x)
    agrees(exact, stats.beta.logpdf(x.numpy(), a, b))
    single_agrees(lambda a, b: distributions.Beta(a, b, validate_args=False), x[:-1], exact[:-1], a, b)


def test_beta_draws_where_both_gammas_vanish() -> None:
    """a = b = 1e-4: all but a thousandth of the mass is within 1e-5 of the ends, half of it at each."""
    p = distributions.Beta(torch.tensor(1e-4), torch.tensor(1e-4), validate_args=False)
    x = p.sample((4000,))
    assert ((x > 0) & (x < 1)).all()
    assert ((x < 1e-5) | (x > 1 - 1e-5)).double().mean().item() > 0.99
    assert (x > 0.5).double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(4000))


REAL = torch.tensor([-1e20, -40.0, -1.0, 0.0, 0.3, 2.0, 1e3, 1e10]).double()


@pytest.mark.parametrize(("cls", "name"), [(distributions.Logistic, "logistic"), (distributions.HyperbolicSecant, "hypsecant")])
def test_location_scale(cls: Any, name: str) -> None:
    p, reference = cls(number(0.2), number(0.7)), getattr(stats, name)(0.2, 0.7)
    near = REAL.abs() < 100  # scipy takes the log of a hyperbolic secant that is 0 further off
    agrees(p.log_prob(REAL)[near], reference.logpdf(REAL[near].numpy()))
    agrees(p.cdf(REAL)[near], reference.cdf(REAL[near].numpy()))
    agrees(p.mean, reference.mean())
    agrees(p.variance, reference.var())
    slope = (REAL[0] - 0.2).abs() / 0.7
    assert p.log_prob(REAL)[0].item() == pytest.approx(-slope.item())


def test_hyperbolic_secant_is_log_cosh_and_its_normaliser() -> None:
    t = torch.linspace(-5, 5, 11).double()
    agrees(distributions.HyperbolicSecant(number(0.0), number(1.0)).log_prob(t), -t.cosh().log() - math.log(math.pi))
    with torch.enable_grad():
        t.requires_grad_()
        distributions.HyperbolicSecant(number(0.0), number(1.0)).log_prob(t).sum().backward()
    assert t.grad is not None
    agrees(t.grad, -torch.tanh(t.detach()))


@pytest.mark.parametrize("df", [0.5, 1.0, 2.0, 5.0, 1e3, 1e8])
def test_student_t(df: float) -> None:
    p = distributions.StudentT(number(df), number(0.2), number(0.7), validate_args=False)
    agrees(p.log_prob(REAL), stats.t.logpdf(REAL.numpy(), df, 0.2, 0.7))
    single = distributions.StudentT(torch.tensor(df), torch.tensor(0.2), torch.tensor(0.7), validate_args=False)
    near = REAL[2:6]
    torch.testing.assert_close(single.log_prob(near.float()).double(), p.log_prob(near), rtol=1e-6, atol=1e-6)


def test_log_normal() -> None:
    p, reference = distributions.LogNormal(number(0.2), number(0.7)), stats.lognorm(0.7, scale=math.exp(0.2))
    x = torch.tensor([1e-30, 1e-3, 1.0, 50.0, 1e20]).double()
    agrees(p.log_prob(x), reference.logpdf(x.numpy()))
    agrees(p.cdf(x), reference.cdf(x.numpy()))
    agrees(p.mean, reference.mean())
    agrees(p.variance, reference.var())


def test_stirling() -> None:
    a = torch.logspace(-6, 7, 200, dtype=torch.float64)
    large = torch.lgamma(a) - (a - 0.5) * a.log() + a - 0.5 * math.log(2 * math.pi)
    agrees(stirling_remainder(a), large, rtol=1e-7)  # which itself loses digits
    edge = torch.tensor([10.0 - 1e-9, 10.0]).double()
    assert stirling_remainder(edge).diff().abs().item() < 1e-11
    x = torch.arange(60.0).double()
    agrees(log_factorial_remainder(x), torch.lgamma(x + 1) - torch.special.xlogy(x, x) + x)
    a, b = torch.tensor([0.0, 1.0, 3.0, 1e5]).double(), torch.tensor([2.0, 1.3, 100.0, 1e5 + 1]).double()
    expected = torch.special.xlogy(a, a / b) + b - a
    agrees(deviance(a, b, torch.where(a > 0, a, 1.0).log() - b.log()), expected, rtol=1e-8)


# ------------------------------------------------------------------------------------------ what the network's output means


def outputs(likelihood: Any) -> tuple[Tensor, ...]:
    z = latents()
    return z, *likelihood.head(likelihood.network(z)).unbind(2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cls", [Laplace, Logistic, HyperbolicSecant, LogNormal, StudentT])
def test_location_and_scale_of_the_output(cls: Any, mode: str) -> None:
    likelihood = wild(cls(mlp(), [3], mode, 0.05))
    z, location, *rest = outputs(likelihood)
    offset = math.log(math.e - 1)  # softplus^-1(1): a predicted scale starts at 1
    base = likelihood(z).base_dist
    scale = nn.functional.softplus(rest[0] + offset if mode == "predicted" else likelihood.raw_scale) + 0.05
    agrees(base.loc, location)
    agrees(base.scale, scale.expand_as(location))
    if cls is StudentT:
        raw = rest[1] + math.log(math.expm1(3)) if mode == "predicted" else likelihood.raw_df
        agrees(base.df, (2 + nn.functional.softplus(raw)).expand_as(location))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cls", [NegativeBinomial, ZeroInflatedNegativeBinomial])
def test_parameters_of_counts(cls: Any, mode: str) -> None:
    likelihood = wild(cls(mlp(), [3], mode))
    z, log_mean, *rest = outputs(likelihood)
    base = likelihood(z).base_dist
    if cls is ZeroInflatedNegativeBinomial:
        agrees(base.logits, rest.pop(0))
        base = base.base
    agrees(base.log_mean, log_mean)
    log_shape = rest.pop() if mode == "predicted" else likelihood.log_inverse_dispersion
    agrees(base.log_inverse_dispersion, log_shape.expand_as(log_mean))
    assert not rest


@pytest.mark.parametrize("mode", MODES)
def test_parameters_of_shares(mode: str) -> None:
    for likelihood in (wild(Beta(mlp(), [3], mode)), wild(BetaBinomial(mlp(), [3], 9, mode))):
        z, logit, *rest = outputs(likelihood)
        c = (rest[0] if mode == "predicted" else likelihood.log_concentration).exp()
        base = likelihood(z).base_dist
        agrees(base.concentration1, torch.sigmoid(logit) * c)
        agrees(base.concentration0, torch.sigmoid(-logit) * c)
        agrees(base.mean, torch.sigmoid(logit) * (8 if isinstance(likelihood, BetaBinomial) else 1))


# ----------------------------------------------------------------------------------------------------------------- the start


def test_counts_start_at_the_mean_of_what_was_seen() -> None:
    """Elements without a count start at half a count; those that were never observed at the mean of all."""
    x = torch.tensor([[0.0, 4.0, 1.0], [0.0, 6.0, 7.0]])
    mask = torch.tensor([[True, True, False], [True, True, False]])
    likelihood = without_features(Poisson(mlp(), [3]))
    likelihood.initialize(x, mask)
    torch.testing.assert_close(likelihood(torch.zeros(1, 1, D)).mean[0, 0], torch.tensor([0.25, 5.0, 2.5]))


def test_counts_with_one_bias_a_channel_start_at_the_channels_mean() -> None:
    x = torch.poisson(torch.tensor([1.0, 9.0])[:, None, None].expand(50, 2, 3, 4))
    likelihood = without_features(NegativeBinomial(ConvDecoder(D, [2, 3, 4], [3]), [2, 3, 4], "predicted"))
    likelihood.initialize(x)
    expected = x.mean((0, 2, 3))[:, None, None].expand(2, 3, 4)
    torch.testing.assert_close(likelihood(torch.zeros(1, 1, D)).mean[0, 0], expected)


def test_shared_dispersion_starts_at_the_pooled_moments() -> None:
    x = torch.poisson(torch.distributions.Gamma(2.0, torch.tensor([1.0, 0.2, 0.05])).sample((4000,)))
    likelihood = NegativeBinomial(mlp(), [3], "shared")
    likelihood.initialize(x)
    mean, variance = x.mean(0), x.var(0, unbiased=False)
    expected = (mean.square().sum() / (variance - mean).sum()).log()
    torch.testing.assert_close(likelihood.log_inverse_dispersion.detach(), expected, rtol=1e-3, atol=1e-3)
    assert expected.item() == pytest.approx(math.log(2.0), abs=0.15)


def test_zero_inflated_counts_start_with_their_zeros() -> None:
    """A Poisson with a third of its counts hidden: the start knows the third."""
    x = torch.poisson(torch.full((6000, 3), 5.0)) * (torch.rand(6000, 3) < 2 / 3)
    for cls in (ZeroInflatedPoisson, ZeroInflatedNegativeBinomial):
        likelihood = without_features(cls(mlp(), [3]))
        likelihood.initialize(x)
        base = likelihood(torch.zeros(1, 1, D)).base_dist
        torch.testing.assert_close(base.mean[0, 0], x.mean(0))
        share = torch.sigmoid(base.logits)
        if cls is ZeroInflatedPoisson:
            torch.testing.assert_close(share, torch.full_like(share, 1 / 3), rtol=0, atol=0.04)
        else:  # whose own zeros explain a part
            assert ((share > 0.02) & (share < 0.34)).all()


# -------------------------------------------------------------------------------------------------------------- constructors


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Laplace(mlp(), [3], scale="diagonal"), "`scale` must be shared, per_dimension or predicted, got 'diagonal'"),
        (lambda: StudentT(mlp(), [3], min_scale=0.0), "`min_scale` must be > 0"),
        (lambda: StudentT(mlp(), [3], min_df=0.5), "`min_df` must be at least 1, got 0.5"),
        (lambda: NegativeBinomial(mlp(), [3], "gene"), "`dispersion` must be shared, per_dimension or predicted, got 'gene'"),
        (lambda: Beta(mlp(), [3], "x"), "`concentration` must be shared, per_dimension or predicted, got 'x'"),
        (lambda: BetaBinomial(mlp(), [3], 1), "`levels` must be from 2 to 65536, got 1"),
        (lambda: Poisson(mlp(), []), "`shape` must hold sizes of at least 1"),
    ],
)
def test_an_argument_that_cannot_be(make: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()


def test_which_are_masses() -> None:
    masses = (Poisson(mlp(), [3]), NegativeBinomial(mlp(), [3]), ZeroInflatedPoisson(mlp(), [3]), BetaBinomial(mlp(), [3]))
    assert all(likelihood.discrete for likelihood in masses)
    assert not any(likelihood.discrete for likelihood in (Beta(mlp(), [3]), LogNormal(mlp(), [3]), StudentT(mlp(), [3])))


def test_shapes_of_the_parameters() -> None:
    likelihood = StudentT(mlp(), [2, 3], "predicted")
    assert likelihood.peak_elements() == 3 * 6
    assert likelihood(torch.zeros(K, B, D)).batch_shape == (K, B)
    assert NegativeBinomial(mlp(), [2, 3]).log_inverse_dispersion.shape == (2, 3)
    assert NegativeBinomial(mlp(), [2, 3], "shared").log_inverse_dispersion.shape == ()
