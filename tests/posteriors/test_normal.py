"""Posteriors: the normal that the network's numbers say, whatever stands at missing elements."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vaekit.distributions import closed_form_kl, diagonal_normal
from vaekit.errors import ConfigError
from vaekit.networks import MLP, ConvEncoder
from vaekit.posteriors import DiagonalNormal, FullNormal, LowRankNormal, Posterior
from vaekit.priors import StandardNormal


class RankOne(LowRankNormal):
    """A normal of low rank whose constructor is that of the others."""

    def __init__(self, network: MLP, num_latents: int) -> None:
        super().__init__(network, num_latents, rank=1)


FAMILIES = [DiagonalNormal, FullNormal, RankOne]


def raw_of(posterior: Posterior, x: Tensor) -> Tensor:
    return posterior.head(posterior.network(x))


def scale_of(raw: Tensor) -> Tensor:
    """softplus(raw + softplus^-1(1)) + 1e-4, as the docstring of the module says."""
    return torch.log1p(torch.exp(raw + math.log(math.e - 1))) + 1e-4


def test_diagonal_normal_is_its_formula() -> None:
    posterior, x, z = DiagonalNormal(MLP(3, [5]), 2).double(), torch.randn(4, 3).double(), torch.randn(6, 4, 2).double()
    raw = raw_of(posterior, x)
    mean, scale = raw[:, 0], scale_of(raw[:, 1])
    expected = (-0.5 * ((z - mean) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
    q = posterior(x)
    torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-7, atol=1e-7)  # the constant 0.5413248546 has ten digits
    torch.testing.assert_close(q.mean, mean)


def test_full_normal_is_its_formula() -> None:
    posterior, x, z = FullNormal(MLP(3, [5]), 3).double(), torch.randn(4, 3).double(), torch.randn(6, 4, 3).double()
    raw = raw_of(posterior, x)
    lower = torch.stack([torch.tril(row, -1) for row in raw[:, 2:]]) + torch.diag_embed(scale_of(raw[:, 1]))
    covariance = lower @ lower.mT
    shift = z - raw[:, 0]
    square = (shift[..., None, :] @ torch.linalg.inv(covariance) @ shift[..., None])[..., 0, 0]
    expected = -0.5 * (square + torch.logdet(covariance) + 3 * math.log(2 * math.pi))
    q = posterior(x)
    torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-6, atol=1e-6)  # as above
    assert (lower.tril(-1).abs() > 0).any()


def test_low_rank_normal_is_its_formula() -> None:
    posterior, x = LowRankNormal(MLP(3, [5]), 3, rank=2).double(), torch.randn(4, 3).double()
    raw = raw_of(posterior, x)
    factor = (raw[:, 2:] / (1 + raw[:, 2:].abs() / 100)).mT
    scale = torch.diag_embed(scale_of(raw[:, 1]))
    q = posterior(x)
    torch.testing.assert_close(q.mean, raw[:, 0])
    torch.testing.assert_close(q.covariance_matrix, scale @ (torch.eye(3) + factor @ factor.mT) @ scale, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rank", [0, 4])
def test_rank_must_be_from_one_to_all(rank: int) -> None:
    with pytest.raises(ConfigError, match=f"`rank` must be from 1 to `num_latents`, got {rank} for 3"):
        LowRankNormal(MLP(3, [5]), 3, rank)


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_outputs_are_about_the_standard_normal(family: type[Posterior]) -> None:
    posterior = family(MLP(3, [5]), 2).double()
    torch.nn.init.zeros_(posterior.head.linear.weight)
    torch.nn.init.zeros_(posterior.head.linear.bias)
    kl = closed_form_kl(posterior(torch.randn(4, 3).double()), diagonal_normal(torch.zeros(2), torch.ones(2)))
    assert kl is not None
    assert kl.abs().max().item() < 1e-6  # the floor of 1e-4 in the scale costs its square for each unit


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_kl_is_finite_at_extreme_outputs(family: type[Posterior], size: float) -> None:
    posterior = family(MLP(3, [5]), 2)
    torch.nn.init.constant_(posterior.head.linear.bias, size)
    kl = closed_form_kl(posterior(torch.randn(4, 3)), diagonal_normal(torch.zeros(2), torch.ones(2)))
    assert kl is not None
    kl.sum().backward()
    assert torch.isfinite(kl).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in posterior.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_are_reparameterised(family: type[Posterior]) -> None:
    """z = mean + L noise: with the noise fixed, dz / d mean is the identity."""
    posterior, x = family(MLP(3, [5]), 2).double(), torch.randn(1, 3).double()
    bias = posterior.head.linear.bias

    def sample(value: Tensor) -> Tensor:
        torch.manual_seed(3)
        return torch.func.functional_call(posterior, {"head.linear.bias": value}, (x,)).rsample((5,))

    assert torch.autograd.gradcheck(sample, (bias,))
    jacobian = torch.autograd.functional.jacobian(sample, bias)[:, 0, :, :2]
    torch.testing.assert_close(jacobian, torch.eye(2).double().expand(5, 2, 2))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("observe_mask", [False, True])
@pytest.mark.parametrize("junk", [math.nan, math.inf, 1e30, -7.0])
def test_what_stands_at_a_missing_element_is_not_read(family: type[Posterior], observe_mask: bool, junk: float) -> None:
    for network, shape in (
        (MLP(6, [5], input_range=[0, 255], observe_mask=observe_mask), (6,)),
        (ConvEncoder([1, 2, 3], [3], features=4, observe_mask=observe_mask), (1, 2, 3)),
    ):
        posterior = family(network, 2)
        x, mask = torch.rand(4, *shape), torch.rand(4, *shape) < 0.6
        clean, dirty = posterior(x, mask=mask), posterior(torch.where(mask, x, junk), mask=mask)
        assert torch.equal(clean.mean, dirty.mean)
        assert torch.equal(clean.variance, dirty.variance)
        (dirty.mean.sum() + dirty.variance.sum()).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in posterior.parameters())


def test_an_observed_mask_tells_zero_from_missing() -> None:
    blind, seeing = (DiagonalNormal(MLP(4, [5], observe_mask=observe), 2) for observe in (False, True))
    x, mask = torch.zeros(1, 4), torch.tensor([[True, False, True, True]])
    assert torch.equal(blind(x, mask=mask).mean, blind(x).mean)
    assert not torch.equal(seeing(x, mask=mask).mean, seeing(x).mean)
    assert torch.equal(seeing(x, mask=torch.ones_like(mask)).mean, seeing(x).mean)


@pytest.mark.parametrize("family", FAMILIES)
def test_num_latents_must_be_positive(family: type[Posterior]) -> None:
    with pytest.raises(ConfigError, match="`num_latents` must be at least 1, got 0"):
        family(MLP(3, [5]), 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("network", [StandardNormal(2), torch.nn.Linear(3, 2), None])
def test_what_is_no_network_is_refused(family: type[Posterior], network: object) -> None:
    sentence = rf"The `network` of a {family.__name__} must be a network, .* got a {type(network).__name__}\. Use one of"
    with pytest.raises(ConfigError, match=sentence):
        family(network, 2)
