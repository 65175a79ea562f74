"""Models with one latent, whose every expectation is a sum over a grid: the evidence, the bounds, and what stands between them.

    log p(x) = log int p(z) p(x|z) dz,    ELBO = log p(x) - KL(q(z|x) || p(z|x)),    L_1 = ELBO < L_2 < L_3 < ... < log p(x)

Integrands are smooth and vanish at both ends, so trapezoids are exact to rounding; all of it is float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from likelihood_cases import CASES, wild
from vaekit.data import loading
from vaekit.data.transforms import Levels, Standardize, Transform
from vaekit.evaluation.bounds import evaluate_bounds
from vaekit.likelihoods import (
    Bernoulli,
    BetaBinomial,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogisticMixture,
    Likelihood,
    LogNormal,
    Normal,
    Poisson,
    StudentT,
)
from vaekit.networks import MLP
from vaekit.objectives import ELBO, IWAE
from vaekit.posteriors import DiagonalNormal
from vaekit.priors import MixtureOfNormals, Prior, StandardNormal
from vaekit.storage import Bundle
from vaekit.vae import VAE

Check = Callable[..., None]
B = 3


def decoder() -> MLP:
    return MLP(1, [6], "tanh")


def one_latent(case: str) -> tuple[Likelihood, Tensor]:
    """A likelihood of vectors of 3 over one latent, and data for it."""
    bits = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]).double()
    match case:
        case "bernoulli":
            return Bernoulli(decoder(), [3]), bits
        case "continuous bernoulli":
            return ContinuousBernoulli(decoder(), [3]), 0.1 + 0.7 * bits
        case "categorical":
            return Categorical(decoder(), [3], levels=4), bits + torch.tensor([0.0, 1.0, 2.0])
        case "mixture":
            return DiscretizedLogisticMixture(decoder(), [3], levels=8, num_components=2), 5 * bits + 1
    found = CASES[case]
    likelihood = found.make()
    spec = likelihood.spec()
    spec["network"] = decoder().spec()
    return type(likelihood).from_spec(spec), found.data(B, 3)


OWN = ("bernoulli", "continuous bernoulli", "categorical", "mixture")
NAMES = (*OWN, *(name for name in CASES if "conv" not in name and "shared" not in name))
names = pytest.mark.parametrize("name", NAMES)


def model(name: str, prior: Prior | None = None) -> tuple[VAE, Tensor]:
    torch.manual_seed(2)
    likelihood, x = one_latent(name)
    vae = VAE(prior or StandardNormal(1), DiagonalNormal(MLP(3, [5], "tanh"), 1), likelihood).double()
    wild(likelihood)
    with torch.no_grad():
        for parameter in (*vae.posterior.parameters(), *vae.prior.parameters()):
            parameter.add_(torch.randn_like(parameter) * 0.4)
    return vae, x


def widened(vae: VAE) -> VAE:
    """The same model with q(z|x) = N(0.1, 1.3^2), wider than the prior: its weights are bounded, and their means tame."""
    with torch.no_grad():
        vae.posterior.head.linear.weight.zero_()
        vae.posterior.head.linear.bias.copy_(torch.tensor([0.1, 0.5]))
    return vae


def line(num: int, reach: float) -> tuple[Tensor, Tensor]:
    """Points and log-weights of the trapezoids on [-reach, reach]."""
    t = torch.linspace(-reach, reach, num, dtype=torch.float64)
    return t, torch.full_like(t, math.log(2 * reach / (num - 1)))


def joint(vae: VAE, x: Tensor, z: Tensor) -> Tensor:
    """(N, B): log p(x, z) at z (N, B, 1)."""
    return vae.decode(z).log_prob(x) + vae.prior().log_prob(z)


def evidence(vae: VAE, x: Tensor, num: int = 3001) -> Tensor:
    """(B,): log p(x)."""
    t, log_weight = line(num, 15.0)
    return torch.logsumexp(joint(vae, x, t[:, None, None].expand(-1, len(x), 1)) + log_weight[:, None], 0)


def over_posterior(vae: VAE, x: Tensor, num: int = 1201, reach: float = 11.0) -> tuple[Tensor, Tensor, Tensor]:
    """log w = log p(x, z) - log q(z|x) and log p(x|z), (N, B), at z = mean + scale t, and the mass of q at t, (N, 1)."""
    t, log_step = line(num, reach)
    q = vae.encode(x)
    z = q.mean + q.stddev * t[:, None, None]
    mass = torch.exp(-0.5 * t.square() - 0.5 * math.log(2 * math.pi) + log_step)
    return joint(vae, x, z) - q.log_prob(z), vae.decode(z).log_prob(x), mass[:, None]


@names
def test_the_elbo_is_the_evidence_less_the_divergence_from_the_true_posterior(name: str) -> None:
    """The rate in closed form and the distortion by a sum, against the divergence of q from p(z|x), both on one grid."""
    vae, x = model(name)
    _, log_likelihood, mass = over_posterior(vae, x)
    rate = ELBO()(vae(x)).rate
    elbo = (mass * log_likelihood).sum(0).mean() - rate
    t, log_step = line(6001, 15.0)
    z = t[:, None, None].expand(-1, B, 1)
    log_q = vae.encode(x).log_prob(z) + log_step[:, None]
    log_post = joint(vae, x, z) + log_step[:, None]
    log_post = log_post - torch.logsumexp(log_post, 0)
    divergence = (log_q.exp() * (log_q - log_post)).sum(0)
    assert (divergence > 1e-4).all()  # else nothing is tested
    tolerance = 1e-3 if name.startswith("laplace") else 1e-7  # whose densities have kinks
    torch.testing.assert_close(elbo, (evidence(vae, x) - divergence).mean(), rtol=tolerance, atol=tolerance)


@names
def test_the_bound_rises_with_the_number_of_samples(name: str) -> None:
    """E L_K exactly, as a sum over K axes: ELBO < L_2 < L_3 < log p(x) for every example."""
    vae, x = model(name)
    log_p = evidence(vae, x).detach()
    log_w, _, mass = (part.detach() for part in over_posterior(vae, x, num=81, reach=8.5))
    log_w = log_w.T
    one = (log_w * mass[:, 0]).sum(1)
    pairs = torch.logaddexp(log_w[:, :, None], log_w[:, None])
    joint_mass = mass * mass.T
    two = ((pairs - math.log(2)) * joint_mass).sum((1, 2))
    triples = torch.stack([torch.logaddexp(pairs, log_w[:, i, None, None]) * mass[i] for i in range(81)]).sum(0)
    three = ((triples - math.log(3)) * joint_mass).sum((1, 2))
    assert (one < two).all()
    assert (two < three).all()
    assert (three < log_p).all()


@names
def test_the_library_draws_what_the_grid_sums(name: str, within_standard_errors: Check) -> None:
    """Log-weights, the ELBO of the objective, and the bound of two samples."""
    vae, x = model(name)
    log_w, log_likelihood, mass = (part.detach() for part in over_posterior(vae, x))
    with torch.no_grad():
        trace = vae(x, num_samples=20_000)
        bound = ELBO()(trace)
    within_standard_errors(trace.log_weights, (mass * log_w).sum(0), 4.5)
    within_standard_errors(trace.log_likelihood.mean(1), (mass * log_likelihood).sum(0).mean(), 4.5)
    assert bound.elbo.item() == pytest.approx((trace.log_likelihood.mean() - bound.rate).item(), abs=1e-9)
    grid, _, coarse = (part.detach() for part in over_posterior(vae, x, num=161, reach=8.5))
    pairs = torch.logaddexp(grid.T[:, :, None], grid.T[:, None]) - math.log(2)
    halves = trace.log_weights.reshape(2, -1, B)
    found = torch.logsumexp(halves, 0) - math.log(2)
    within_standard_errors(found, (pairs * (coarse * coarse.T)).sum((1, 2)), 4.5)


@names
def test_weights_have_the_evidence_as_their_mean(name: str, within_standard_errors: Check) -> None:
    vae, x = model(name)
    log_p = evidence(widened(vae), x).detach()
    with torch.no_grad():
        relative = torch.exp(vae(x, num_samples=20_000).log_weights - log_p)
    assert (relative.var(0) < 100).all()  # else a mean of 20,000 draws is not yet normal
    within_standard_errors(relative, 1.0, 4.5)


@pytest.mark.parametrize("name", ["bernoulli", "normal per_dimension", "poisson", "betabinomial predicted"])
def test_the_bound_nears_the_evidence_as_one_by_k(name: str, within_standard_errors: Check) -> None:
    """K (log p(x) - L_K) -> Var(w) / (2 p(x)^2): Maddison et al., "Filtering variational objectives" (2017)."""
    vae, x = model(name)
    widened(vae)
    log_p = evidence(vae, x).detach()
    log_w, _, mass = over_posterior(vae, x)
    relative = torch.exp(log_w - log_p)
    moments = [(mass * (relative - 1) ** k).sum(0) for k in (2, 3)]
    k, repeats = 100, 3000
    with torch.no_grad():
        traces = [vae(x.repeat(repeats // 100, 1), num_samples=k) for _ in range(100)]
        losses = torch.stack([IWAE()(trace).loss for trace in traces])
    weights = torch.stack([trace.log_weights for trace in traces], 1).reshape(k, repeats, B)
    found = torch.logsumexp(weights, 0) - math.log(k) - log_p
    # E log(1 + e) = -E e^2 / 2 + E e^3 / 3 - E e^4 / 4 with e of variance m2 / K: the second order is m3 / 3 - 3 m2^2 / 4
    expected = -moments[0] / (2 * k) + (moments[1] / 3 - 0.75 * moments[0].square()) / k**2
    assert (moments[0] > 0.05).all()
    assert (moments[0] < 10.0).all()
    within_standard_errors(found, expected.detach(), 4.5)
    within_standard_errors(losses, -(log_p + expected.detach()).mean(), 4.5)


@pytest.mark.parametrize("name", ["bernoulli", "student predicted", "zinb predicted"])
def test_the_gradient_of_the_elbo_is_that_of_the_grid(name: str, within_standard_errors: Check) -> None:
    """Of every parameter of posterior and likelihood, as the mean of 150 gradients of 50 samples each."""
    vae, x = model(name)
    _, log_likelihood, mass = over_posterior(vae, x)
    exact = ELBO()(vae(x)).rate - (mass * log_likelihood).sum(0).mean()
    parameters = list(vae.parameters())
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(exact, parameters)])
    found = torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(ELBO()(vae(x, num_samples=50)).loss, parameters)])
            for _ in range(150)
        ]
    )
    within_standard_errors(found, expected, 5.0)  # of up to a hundred numbers at once


@pytest.mark.parametrize("name", ["bernoulli", "logistic predicted", "negativebinomial per_dimension"])
def test_a_prior_without_closed_rate(name: str, within_standard_errors: Check) -> None:
    """A mixture as prior: rate and ELBO are means over the samples."""
    vae, x = model(name, MixtureOfNormals(1, num_components=3, spread=1.5))
    log_w, log_likelihood, mass = (part.detach() for part in over_posterior(vae, x))
    with torch.no_grad():
        bounds = [ELBO()(vae(x, num_samples=50)) for _ in range(200)]
    within_standard_errors(torch.stack([b.elbo for b in bounds]), (mass * log_w).sum(0).mean())
    rate = (mass * (log_likelihood - log_w)).sum(0).mean()
    within_standard_errors(torch.stack([b.rate for b in bounds]), rate)
    assert ((mass * log_w).sum(0) < evidence(vae, x)).all()


@pytest.mark.parametrize(("name", "levels"), [("bernoulli", 2), ("categorical", 4), ("betabinomial per_dimension", 9)])
def test_the_evidence_sums_to_one_over_all_data(name: str, levels: int) -> None:
    vae, _ = model(name)
    everything = torch.tensor(list(itertools.product(range(levels), repeat=3)), dtype=torch.float64)
    log_p = torch.cat([evidence(vae, part, num=401) for part in everything.split(50)])
    assert torch.logsumexp(log_p, 0).item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", ["bernoulli", "student per_dimension", "poisson", "beta predicted"])
def test_the_evidence_of_what_is_observed(name: str, within_standard_errors: Check) -> None:
    """A missing element is integrated out of p(x), whatever stands there."""
    vae, x = model(name)
    widened(vae)
    mask = torch.tensor([[True, False, True], [True, True, True], [False, True, False]])
    t, log_step = line(3001, 15.0)
    z = t[:, None, None].expand(-1, B, 1)
    log_p = torch.logsumexp(vae.decode(z).log_prob(x, mask) + vae.prior().log_prob(z) + log_step[:, None], 0)
    with torch.no_grad():
        trace = vae(torch.where(mask, x, math.nan), mask=mask, num_samples=20_000)
    relative = torch.exp(trace.log_weights - log_p.detach())
    assert (relative.var(0) < 100).all()
    within_standard_errors(relative, 1.0, 4.5)


@pytest.mark.parametrize(
    ("cls", "transform", "x"),
    [
        (Normal, Standardize(2.0, 3.0), [[1.5, 2.0, 7.0], [-3.0, 0.5, 4.0]]),
        (StudentT, Standardize([1.0, 2.0, 3.0], [0.5, 2.0, 10.0]), [[1.5, 2.0, 7.0], [-3.0, 0.5, 4.0]]),
        (LogNormal, Standardize(0.0, 0.01), [[0.01, 0.002, 0.3], [0.5, 0.01, 0.07]]),
        (Poisson, Standardize(-1.0, 1.0), [[1, 4, 2], [3, 1, 9]]),
        (lambda network, shape: BetaBinomial(network, shape, 9), Levels(), [[0, 4, 2], [3, 8, 8]]),
    ],
)
def test_evaluate_finds_the_evidence_in_the_units_of_the_data(
    cls: Callable[..., Likelihood], transform: Transform, x: list[list[float]]
) -> None:
    """`evaluate_bounds` in float32 with 5,000 samples, against the sum over the grid and the log-determinant by hand."""
    torch.manual_seed(4)
    likelihood = cls(decoder(), [3])
    vae = VAE(StandardNormal(1), DiagonalNormal(MLP(3, [5], "tanh"), 1), likelihood)
    data = loading.open(torch.tensor(x).numpy())
    stored = data.batch([0, 1]).x
    y = transform(stored)
    likelihood.initialize(y)
    report = evaluate_bounds(Bundle(widened(vae).eval(), transform, data.schema), data, num_samples=5000)
    scale = 1.0 if isinstance(transform, Levels) else transform.scale.double()
    log_p = evidence(vae.double(), y.double()) - torch.as_tensor(scale).log().expand(3).sum()
    assert report.nll_nats == pytest.approx(-log_p.mean().item(), abs=0.05)
    assert report.elbo < log_p.mean().item()
