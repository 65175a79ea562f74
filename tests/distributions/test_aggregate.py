"""The densities of all latents under all posteriors, against sums over every pair."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, LogNormal, MultivariateNormal, Normal

from vaekit.distributions import aggregate, diagonal_normal
from vaekit.distributions.aggregate import information_terms, mixture_log_probs


def brute(z, log_density, num):
    log_q = torch.tensor([[log_density(z[i], n) for n in range(num)] for i in range(num)], dtype=torch.float64)
    off = log_q.masked_fill(torch.eye(num, dtype=torch.bool), -math.inf)
    return log_q.diagonal(), torch.logsumexp(off, 1)


def blocks(values, sizes):
    return list(values.split(sizes))


@pytest.mark.parametrize("sizes", [[11], [4, 7], [1, 3, 7]])
@pytest.mark.parametrize("shape", [(3,), (2, 2, 1)])
def test_normals_by_matrix_products(sizes, shape):
    torch.manual_seed(0)
    mean, scale = 5 + 2 * torch.randn(11, *shape), torch.rand(11, *shape) + 0.05
    z = mean + scale * torch.randn(11, *shape)
    parts = [diagonal_normal(m, s, len(shape)) for m, s in zip(blocks(mean, sizes), blocks(scale, sizes), strict=True)]
    own, others = mixture_log_probs(blocks(z, sizes), parts)
    expected = brute(z, lambda z, n: Normal(mean[n].double(), scale[n].double()).log_prob(z.double()).sum(), 11)
    torch.testing.assert_close(own, expected[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(others, expected[1], rtol=1e-9, atol=1e-9)


def test_narrow_normals_far_from_0_keep_their_digits():
    """Terms of the square are 10^14 and cancel to a few nats."""
    torch.manual_seed(1)
    mean = 1000 + torch.randn(40, 4, dtype=torch.float64)
    scale = torch.full_like(mean, 1e-4)
    z = mean + scale * torch.randn_like(mean)
    own, _ = mixture_log_probs([z], [diagonal_normal(mean, scale)])
    torch.testing.assert_close(own, Normal(mean, scale).log_prob(z).sum(1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("small", [False, True])
def test_other_families_by_their_own_density(small, monkeypatch):
    if small:
        monkeypatch.setattr(aggregate, "_MAX_ELEMENTS", 12)  # a row or two at a time
    torch.manual_seed(2)
    mean, tril = torch.randn(9, 2), torch.eye(2) + 0.3 * torch.tril(torch.randn(9, 2, 2), -1)
    full = MultivariateNormal(mean, scale_tril=tril)
    z = full.sample()
    parts = [MultivariateNormal(m, scale_tril=t) for m, t in zip(mean.split([4, 5]), tril.split([4, 5]), strict=True)]
    own, others = mixture_log_probs(z.split([4, 5]), parts)
    expected = brute(z, lambda z, n: MultivariateNormal(mean[n], scale_tril=tril[n]).log_prob(z), 9)
    torch.testing.assert_close(own, expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(others, expected[1], rtol=1e-5, atol=1e-5)
    positive = Independent(LogNormal(torch.zeros(9, 2), torch.ones(9, 2)), 1)
    own, others = mixture_log_probs([z.exp()], [positive])
    torch.testing.assert_close(others - own, torch.full((9,), math.log(8), dtype=torch.float64))


def test_information_from_nothing_to_log_n():
    q = diagonal_normal(torch.zeros(50, 2), torch.ones(50, 2))
    same = information_terms(*mixture_log_probs([q.sample()], [q]))
    torch.testing.assert_close(same, torch.zeros(50, dtype=torch.float64), rtol=0, atol=1e-9)
    apart = diagonal_normal(100.0 * torch.arange(50.0)[:, None].expand(50, 2), torch.ones(50, 2))
    known = information_terms(*mixture_log_probs([apart.sample()], [apart]))
    torch.testing.assert_close(known, torch.full((50,), math.log(50), dtype=torch.float64))
