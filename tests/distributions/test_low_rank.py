"""The normal of low rank is the normal whose covariance it says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from vaekit.distributions import LowRankNormal, closed_form_kl, diagonal_normal, mixture_of_normals, stopped


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def pair(units: int, rank: int) -> tuple[LowRankNormal, MultivariateNormal]:
    torch.manual_seed(0)
    mean, scale, factor = normal(4, units), normal(4, units).exp(), 2.0 * normal(4, units, rank)
    low = scale[..., None] * factor
    return LowRankNormal(mean, scale, factor), MultivariateNormal(mean, low @ low.mT + torch.diag_embed(scale**2))


@pytest.mark.parametrize(("units", "rank"), [(1, 1), (3, 1), (5, 3), (4, 4)])
def test_it_is_the_full_normal(units: int, rank: int) -> None:
    q, full = pair(units, rank)
    z = 3.0 * normal(6, 4, units)
    torch.testing.assert_close(q.log_prob(z), full.log_prob(z))
    torch.testing.assert_close(q.covariance_matrix, full.covariance_matrix)
    torch.testing.assert_close(q.variance, full.variance)
    torch.testing.assert_close(q.entropy(), full.entropy())
    mean, scale = normal(units), normal(units).exp()
    expected = kl_divergence(full, MultivariateNormal(mean, torch.diag(scale**2)).expand([4]))
    kl = closed_form_kl(q, diagonal_normal(mean, scale))
    assert kl is not None
    torch.testing.assert_close(kl, expected)


def test_no_closed_divergence_to_a_mixture() -> None:
    q, _ = pair(2, 1)
    assert closed_form_kl(q, mixture_of_normals(torch.zeros(3), torch.zeros(3, 2), torch.ones(3, 2))) is None


def test_draws_have_the_moments(within_standard_errors) -> None:
    q, full = pair(3, 2)
    shift = q.sample((20_000,)) - full.mean
    within_standard_errors(shift, 0.0)
    within_standard_errors(shift[..., :, None] * shift[..., None, :], full.covariance_matrix, errors=4.5)


def test_gradients() -> None:
    q, _ = pair(3, 2)
    z = normal(2, 4, 3)
    inputs = tuple(t.clone().requires_grad_() for t in (q.loc, q.scale, q.factor))
    assert torch.autograd.gradcheck(lambda *p: LowRankNormal(*p).log_prob(z), inputs)

    def draw(*parameters: Tensor) -> Tensor:
        torch.manual_seed(1)
        return LowRankNormal(*parameters).rsample((3,))

    assert torch.autograd.gradcheck(draw, inputs)
    held = stopped(LowRankNormal(*inputs))
    assert not held.log_prob(z).requires_grad
    torch.testing.assert_close(held.log_prob(z), q.log_prob(z))


def test_a_broken_step_raises_nothing() -> None:
    q = LowRankNormal(torch.zeros(2), torch.ones(2), torch.full((2, 1), torch.nan))
    assert q.log_prob(torch.zeros(2)).isnan()
