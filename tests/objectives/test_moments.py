"""Covariances of the aggregate posterior, against torch.cov and against samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from vaekit.distributions import diagonal_normal
from vaekit.errors import ConfigError
from vaekit.networks import MLP
from vaekit.objectives import DIP, ELBO
from vaekit.posteriors import GumbelSoftmax
from vaekit.types import Latent, Trace

B, D = 6, 3
MEAN = torch.randn(B, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SCALE = torch.rand(B, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.2
TRIL = torch.tril(torch.randn(B, D, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64), -1) + torch.diag_embed(
    SCALE
)
PRIOR = diagonal_normal(torch.zeros(D).double(), torch.ones(D).double())


class Centred(Distribution):
    """A family without closed moments, whose `centre` stands in for its mean."""

    def __init__(self) -> None:
        super().__init__(torch.Size([B]), torch.Size([D]), validate_args=False)

    def centre(self) -> tuple[Tensor, Tensor]:
        return MEAN, torch.full_like(MEAN, math.nan)

    def log_prob(self, value: Tensor) -> Tensor:
        return diagonal_normal(MEAN, SCALE).log_prob(value)


def trace_of(posterior: Distribution, z: Tensor | None = None) -> Trace:
    z = diagonal_normal(MEAN, SCALE).sample((4,)) if z is None else z
    return Trace(torch.zeros(B, 1), PRIOR, torch.full(z.shape[:2], -7.0).double(), (Latent(z, posterior, PRIOR),))


def covariance(posterior: Distribution, kind: str) -> Tensor:
    return DIP(kind=kind).covariance(trace_of(posterior).latents[0])


def test_covariance_of_the_means() -> None:
    expected = torch.cov(MEAN.T, correction=0)
    for posterior in (diagonal_normal(MEAN, SCALE), MultivariateNormal(MEAN, scale_tril=TRIL), Centred()):
        torch.testing.assert_close(covariance(posterior, "i"), expected, rtol=1e-12, atol=1e-14)


def test_covariance_of_the_samples() -> None:
    between = torch.cov(MEAN.T, correction=0)
    torch.testing.assert_close(
        covariance(diagonal_normal(MEAN, SCALE), "ii"), between + torch.diag((SCALE**2).mean(0)), rtol=1e-12, atol=1e-14
    )
    full = MultivariateNormal(MEAN, scale_tril=TRIL)
    exact = covariance(full, "ii")
    torch.testing.assert_close(exact, between + (TRIL @ TRIL.mT).mean(0), rtol=1e-12, atol=1e-14)
    z = full.sample((100_000,))
    torch.testing.assert_close(torch.cov(z.flatten(0, 1).T), exact, rtol=0, atol=0.02)


def test_a_family_without_moments_is_measured_by_its_samples() -> None:
    z = torch.randn(5, B, D, dtype=torch.float64)
    found = DIP(kind="ii").covariance(trace_of(Centred(), z).latents[0])
    torch.testing.assert_close(found, torch.cov(z.reshape(-1, D).T, correction=0), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["i", "ii"])
def test_penalty_by_hand(kind: str) -> None:
    """Means (1, 1), (-1, -1), (1, -1), (-1, 3): variances 1 and 2.75, covariance -1 + ..."""
    mean = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 3.0]], dtype=torch.float64)
    q = diagonal_normal(mean, torch.full_like(mean, 0.5))
    p = diagonal_normal(torch.zeros(2).double(), torch.ones(2).double())
    trace = Trace(torch.zeros(4, 1), p, torch.zeros(2, 4).double(), (Latent(q.sample((2,)), q, p),))
    # means of the columns 0 and 0.5; of squares 1 and 3; of the product (1 + 1 - 1 - 3) / 4 = -0.5
    off, first, second = 2 * 0.5**2, (1.0 - 1) ** 2, (2.75 - 1) ** 2
    if kind == "ii":
        first, second = (1.25 - 1) ** 2, (3.0 - 1) ** 2
    bound, elbo = DIP(3.0, 7.0, kind=kind)(trace), ELBO()(trace)
    assert bound.terms["covariance_off"].item() == pytest.approx(off, rel=1e-13)
    assert bound.terms["covariance_diag"].item() == pytest.approx(first + second, rel=1e-13)
    assert bound.loss.item() == pytest.approx(elbo.loss.item() + 3.0 * off + 7.0 * (first + second), rel=1e-13)
    assert (bound.elbo, bound.rate, bound.distortion) == (elbo.elbo, elbo.rate, elbo.distortion)


def test_no_penalty_where_the_covariance_is_that_of_the_prior() -> None:
    """Means at (+-1, +-1) have the unit matrix; with scales s the means must shrink to sqrt(1 - s^2)."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    p = diagonal_normal(torch.zeros(2).double(), torch.ones(2).double())
    for kind, scale, size in (("i", 0.6, 1.0), ("ii", 0.6, 0.8)):
        q = diagonal_normal(size * corners, torch.full_like(corners, scale))
        trace = Trace(torch.zeros(4, 1), p, torch.zeros(1, 4).double(), (Latent(q.sample((1,)), q, p),))
        terms = DIP(kind=kind)(trace).terms
        assert all(abs(t.item()) < 1e-25 for t in terms.values())


@pytest.mark.parametrize("kind", ["i", "ii"])
@pytest.mark.parametrize("full", [False, True])
def test_gradient(kind: str, full: bool) -> None:
    noise = torch.randn(2, 3, 2, dtype=torch.float64)

    def loss(mean: Tensor, log_scale: Tensor) -> Tensor:
        q = diagonal_normal(mean, log_scale.exp())
        if full:
            q = MultivariateNormal(mean, scale_tril=torch.diag_embed(log_scale.exp()) + torch.tensor([[0.0, 0.0], [0.4, 0.0]]))
        p = diagonal_normal(torch.zeros(2).double(), torch.ones(2).double())
        z = mean + log_scale.exp() * noise
        return DIP(2.0, 3.0, kind)(Trace(torch.zeros(3, 1), p, -z.square().sum(-1), (Latent(z, q, p),))).loss

    assert torch.autograd.gradcheck(loss, tuple(torch.randn(3, 2, dtype=torch.float64).requires_grad_() for _ in range(2)))


def test_a_batch_of_one_has_no_covariance_and_is_finite() -> None:
    q = diagonal_normal(MEAN[:1], SCALE[:1])
    trace = Trace(torch.zeros(1, 1), PRIOR, torch.zeros(1, 1).double(), (Latent(MEAN[None, :1], q, PRIOR),))
    terms = DIP()(trace).terms
    assert terms["covariance_off"].item() == 0.0
    assert terms["covariance_diag"].item() == D  # each variance is 0, one away from 1


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: DIP(lambda_off=-1.0), "`lambda_off` and `lambda_diag` must be >= 0, got -1.0"),
        (lambda: DIP(lambda_diag=math.nan), "`lambda_off` and `lambda_diag` must be >= 0"),
        (lambda: DIP(kind="iii"), "`kind` must be i or ii, got 'iii'"),
        (lambda: DIP()(two_levels()), "DIP must be given one level of latents, got 2"),
    ],
)
def test_what_cannot_be(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()


def two_levels() -> Trace:
    trace = trace_of(diagonal_normal(MEAN, SCALE))
    return Trace(trace.x, trace.likelihood, trace.log_likelihood, trace.latents * 2)


@pytest.mark.parametrize("positions", [2, (1, 2)])
def test_the_samples_of_codes_are_correlated_within_a_token(positions, within_standard_errors) -> None:
    posterior = GumbelSoftmax(MLP(3, [4]), num_categories=3, positions=positions).double().eval()
    q = posterior(torch.randn(1, 3).double() * 3)
    z = q.rsample((20_000,))[:, 0].flatten(1)
    deviations = (z - z.mean(0)).detach()
    expected = q.covariance_matrix[0].detach()
    within_standard_errors((deviations[:, :, None] * deviations[:, None, :]).flatten(1), expected.flatten(), errors=5.0)
    assert (expected - torch.diag(expected.diagonal())).abs().max() > 0.05
    latent = Latent(z, q, q)
    torch.testing.assert_close(DIP(kind="ii").covariance(latent).detach(), expected)
