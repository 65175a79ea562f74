"""The maximum mean discrepancy against loops and closed forms, and the objectives that are made of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.distributions import diagonal_normal, mixture_of_normals
from vaekit.errors import ConfigError
from vaekit.objectives import ELBO, WAE, InfoVAE, Objective, maximum_mean_discrepancy
from vaekit.objectives.divergences import SCALES
from vaekit.types import Latent, Trace

Check = Callable[..., None]


def by_loops(x: Tensor, y: Tensor, kernel: str, scales: tuple[float, ...]) -> float:
    def k(a: Tensor, b: Tensor) -> float:
        squared = sum((p - q) ** 2 for p, q in zip(a.tolist(), b.tolist(), strict=True))
        widths = [2 * len(a) * s for s in scales]
        return sum(c / (c + squared) if kernel == "inverse_multiquadratic" else math.exp(-squared / c) for c in widths)

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@pytest.mark.parametrize("kernel", ["inverse_multiquadratic", "rbf"])
@pytest.mark.parametrize("scales", [(1.0,), (0.3, 2.0), SCALES])
def test_by_loops(kernel: str, scales: tuple[float, ...]) -> None:
    x, y = torch.randn(5, 3, dtype=torch.float64), 1 + 2 * torch.randn(4, 3, dtype=torch.float64)
    assert maximum_mean_discrepancy(x, y, kernel, scales).item() == pytest.approx(by_loops(x, y, kernel, scales), rel=1e-12)


def rbf_expectation(mean: Tensor, variance: Tensor, width: float) -> float:
    """E exp(-|a - b|^2 / width) for a - b ~ N(mean, diag(variance)): prod (1 + 2 v / w)^-1/2 exp(-m^2 / (w + 2 v))."""
    factors = (1 + 2 * variance / width).rsqrt() * torch.exp(-mean.square() / (width + 2 * variance))
    return factors.prod().item()


def test_normals_in_closed_form(within_standard_errors: Check) -> None:
    """The mean of many small estimates is the MMD itself: no bias, whatever the size of the sets."""
    mean, scale, scales = torch.tensor([0.7, -0.4]).double(), torch.tensor([1.5, 0.6]).double(), (0.25, 1.0)
    x = mean + scale * torch.randn(20_000, 4, 2, dtype=torch.float64)
    y = torch.randn(20_000, 3, 2, dtype=torch.float64)
    zero, one = torch.zeros(2).double(), torch.ones(2).double()
    expected = sum(
        rbf_expectation(zero, 2 * scale**2, 4 * s)
        + rbf_expectation(zero, 2 * one, 4 * s)
        - 2 * rbf_expectation(mean, scale**2 + 1, 4 * s)
        for s in scales
    )
    draws = maximum_mean_discrepancy(x, y, "rbf", scales)
    assert draws.shape == (20_000,)
    within_standard_errors(draws, expected)
    assert draws.min() < 0 < expected


@pytest.mark.parametrize("kernel", ["inverse_multiquadratic", "rbf"])
def test_equal_distributions_have_none(kernel: str, within_standard_errors: Check) -> None:
    x, y = torch.randn(2, 20_000, 5, 2, dtype=torch.float64)
    within_standard_errors(maximum_mean_discrepancy(x, y, kernel), 0.0)
    apart = maximum_mean_discrepancy(x + 0.5, y, kernel)
    assert apart.mean() > 20 * apart.std() / math.sqrt(len(apart))


def test_far_from_the_origin_in_float32() -> None:
    """Squared distances are differences of large numbers there; the estimate must stay close and its gradient finite."""
    x, y = 10 + torch.randn(30, 4), 10 + torch.randn(30, 4)
    exact = maximum_mean_discrepancy(x.double(), y.double())
    x.requires_grad_()
    found = maximum_mean_discrepancy(x, y)
    found.backward()
    assert found.item() == pytest.approx(exact.item(), abs=1e-4)
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_points_that_coincide() -> None:
    x = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    found = maximum_mean_discrepancy(x, torch.zeros(3, 2, dtype=torch.float64), scales=(1.0,))
    found.backward()
    assert found.item() == pytest.approx(0.0, abs=1e-15)
    torch.testing.assert_close(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("kernel", ["inverse_multiquadratic", "rbf"])
def test_gradient(kernel: str) -> None:
    x, y = torch.randn(4, 2, dtype=torch.float64).requires_grad_(), torch.randn(3, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: maximum_mean_discrepancy(x, y, kernel), (x, y))


# -------------------------------------------------------------------------------------------------------------- objectives


class Dirac(Distribution):
    """A deterministic encoder: all mass at one point, log q counted as 0."""

    def __init__(self, at: Tensor) -> None:
        super().__init__(at.shape[:1], at.shape[1:], validate_args=False)
        self.at = at

    def log_prob(self, value: Tensor) -> Tensor:
        return value.new_zeros(value.shape[:2])


def trace_of(prior: Distribution | None = None, num_samples: int = 2) -> Trace:
    q = diagonal_normal(torch.linspace(-2, 2, 8).double().reshape(4, 2), torch.full((4, 2), 0.5).double())
    p = prior or diagonal_normal(torch.zeros(2).double(), torch.ones(2).double())
    log_likelihood = -torch.arange(4.0 * num_samples).double().reshape(num_samples, 4)
    return Trace(torch.zeros(4, 1), p, log_likelihood, (Latent(q.sample((num_samples,)), q, p),))


def mmd_of(trace: Trace, kernel: str, scales: tuple[float, ...]) -> float:
    """The mean over the K draws, with the draws of the prior that follow the seed."""
    latent = trace.latents[0]
    torch.manual_seed(8)
    drawn = latent.prior.sample(latent.z.shape[: 1 if latent.prior.batch_shape else 2])
    return sum(by_loops(z, y, kernel, scales) for z, y in zip(latent.z, drawn, strict=True)) / len(drawn)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_losses_by_hand(num_samples: int) -> None:
    trace = trace_of(num_samples=num_samples)
    elbo = ELBO()(trace)
    imq, rbf = mmd_of(trace, "inverse_multiquadratic", SCALES), mmd_of(trace, "rbf", (1.0,))
    torch.manual_seed(8)
    wae = WAE(lambda_=7.0)(trace)
    assert wae.terms["mmd"].item() == pytest.approx(imq, rel=1e-12)
    assert wae.loss.item() == pytest.approx(elbo.distortion.item() + 7.0 * imq, rel=1e-12)
    torch.manual_seed(8)
    info = InfoVAE(alpha=0.25, lambda_=7.0)(trace)
    expected = elbo.distortion.item() + 0.75 * elbo.rate.item() + (0.25 + 7.0 - 1.0) * rbf
    assert info.loss.item() == pytest.approx(expected, rel=1e-12)
    for bound in (wae, info):
        assert (bound.elbo, bound.rate, bound.distortion) == (elbo.elbo, elbo.rate, elbo.distortion)


def test_ends_of_infovae() -> None:
    trace = trace_of()
    assert InfoVAE(alpha=0.0, lambda_=1.0)(trace).loss.item() == pytest.approx(ELBO()(trace).loss.item(), rel=1e-14)
    torch.manual_seed(8)
    without_rate = InfoVAE(alpha=1.0, lambda_=20.0)(trace).loss.item()
    torch.manual_seed(8)
    assert without_rate == pytest.approx(WAE(20.0, "rbf", (1.0,))(trace).loss.item(), rel=1e-14)


def test_several_samples_of_an_example_are_not_taken_for_independent(within_standard_errors: Check) -> None:
    """q(z|x) = N(mean(x), 0.5^2) with mean(x) ~ N(0, 0.75) aggregates to N(0, 1): an MMD of zero, whatever K."""
    torch.manual_seed(2)
    batches, num, k = 1200, 4, 3
    p = diagonal_normal(torch.zeros(1).double(), torch.ones(1).double())
    draws = []
    for mean in torch.randn(batches, num, 1, dtype=torch.float64) * math.sqrt(0.75):
        q = diagonal_normal(mean, torch.full_like(mean, 0.5))
        trace = Trace(torch.zeros(num, 1), p, torch.zeros(k, num).double(), (Latent(q.sample((k,)), q, p),))
        draws.append(WAE(1.0, scales=(0.2,))(trace).terms["mmd"])
    within_standard_errors(torch.stack(draws), 0.0)


def test_a_deterministic_encoder_is_moved_towards_the_prior() -> None:
    at = torch.tensor([[2.0, 0.0], [3.0, 1.0], [2.5, -1.0]], dtype=torch.float64, requires_grad=True)
    p = diagonal_normal(torch.zeros(2).double(), torch.ones(2).double())
    trace = Trace(torch.zeros(3, 1), p, torch.zeros(1, 3).double(), (Latent(at[None], Dirac(at), p),))
    bound = WAE()(trace)
    bound.loss.backward()
    assert at.grad is not None
    assert at.grad.sum(0)[0] > 0, "moving all points together changes the distance to the prior alone"
    assert bound.rate.item() == pytest.approx(-p.log_prob(at).mean().item(), rel=1e-12)


@pytest.mark.parametrize("objective", [WAE(), InfoVAE()], ids=["wae", "infovae"])
def test_priors_of_every_kind(objective: Objective) -> None:
    mixture = mixture_of_normals(torch.zeros(3).double(), torch.randn(3, 2).double(), torch.ones(3, 2).double())
    conditional = diagonal_normal(torch.randn(4, 2).double().requires_grad_(), torch.ones(4, 2).double())
    kernel, scales = ("rbf", (1.0,)) if isinstance(objective, InfoVAE) else ("inverse_multiquadratic", SCALES)
    for prior in (mixture, conditional):
        trace = trace_of(prior)
        expected = mmd_of(trace, kernel, scales)
        torch.manual_seed(8)
        assert objective(trace).terms["mmd"].item() == pytest.approx(expected, rel=1e-12)
    objective(trace_of(conditional)).loss.backward()
    assert conditional.base_dist.loc.grad.abs().max() > 0, "a learned prior is moved towards the aggregate"


def test_latents_of_any_shape() -> None:
    """A feature map of (2, 2) is a point of four numbers."""
    mean = torch.randn(3, 2, 2).double()
    q, p = (diagonal_normal(m, torch.ones_like(m), 2) for m in (mean, torch.zeros(2, 2).double()))
    trace = Trace(torch.zeros(3, 1), p, torch.zeros(1, 3).double(), (Latent(q.sample((1,)), q, p),))
    torch.manual_seed(8)
    drawn = p.sample((1, 3)).flatten(2)[0]
    torch.manual_seed(8)
    expected = by_loops(trace.latents[0].z.flatten(2)[0], drawn, "inverse_multiquadratic", SCALES)
    assert WAE()(trace).terms["mmd"].item() == pytest.approx(expected, rel=1e-12)


def test_a_batch_of_one_says_nothing() -> None:
    trace = trace_of()
    latent = trace.latents[0]
    one = diagonal_normal(latent.posterior.mean[:1], torch.ones(1, 2).double())
    trace = replace(trace, log_likelihood=trace.log_likelihood[:, :1], latents=(Latent(latent.z[:, :1], one, latent.prior),))
    for objective in (WAE(), InfoVAE(alpha=1.0)):
        bound = objective(trace)
        assert bound.terms["mmd"].item() == 0.0
        assert bound.loss == bound.distortion


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: InfoVAE(alpha=1.5), "`alpha` must be at most 1, got 1.5"),
        (lambda: InfoVAE(alpha=math.nan), "`alpha` must be at most 1, got nan"),
        (lambda: InfoVAE(alpha=0.5, lambda_=0.25), r"`alpha` \+ `lambda_` must be at least 1, got 0.5 and 0.25"),
        (lambda: WAE(lambda_=-1.0), "`lambda_` must be >= 0, got -1.0"),
        (lambda: WAE(kernel="linear"), "`kernel` must be inverse_multiquadratic or rbf, got 'linear'"),
        (lambda: InfoVAE(kernel="linear"), "`kernel` must be inverse_multiquadratic or rbf"),
        (lambda: WAE(scales=[]), r"`scales` must be numbers > 0, at least one, got \[\]"),
        (lambda: WAE(scales=[1.0, 0.0]), r"`scales` must be numbers > 0"),
        (lambda: WAE()(two_levels()), "WAE must be given one level of latents, got 2"),
        (lambda: InfoVAE()(two_levels()), "InfoVAE must be given one level of latents, got 2"),
    ],
)
def test_what_cannot_be(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()


def two_levels() -> Trace:
    trace = trace_of()
    return replace(trace, latents=trace.latents * 2)
