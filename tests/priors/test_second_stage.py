"""A second stage: against a linear normal one, whose density is known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from conftest import LinearGaussian
from vaekit.distributions import stopped
from vaekit.errors import ConfigError
from vaekit.likelihoods import Normal
from vaekit.networks import MLP
from vaekit.posteriors import DiagonalNormal
from vaekit.priors import SecondStage, StandardNormal

Check = Callable[..., None]


def stage(model: LinearGaussian, exact: bool, num_samples: int) -> SecondStage:
    gain, offset, scale_tril = model.exact_posterior()
    vae = model.exact_vae() if exact else model.vae(0.7 * gain, offset + 0.2, 1.4 * scale_tril)
    return SecondStage(vae.prior, vae.posterior, vae.likelihood, num_samples=num_samples).double()


def test_with_the_exact_posterior_the_bound_is_the_density(linear_gaussian: LinearGaussian) -> None:
    z = torch.randn(4, 3, 3).double()
    for num_samples in (1, 5):
        log_p = stage(linear_gaussian, True, num_samples)().log_prob(z)
        torch.testing.assert_close(log_p, linear_gaussian.evidence(z.flatten(0, 1)).reshape(4, 3))


def test_the_bound_lies_below_the_density_and_rises_with_the_samples(linear_gaussian: LinearGaussian) -> None:
    z = torch.randn(3).double()
    exact = linear_gaussian.evidence(z[None]).item()
    means = []
    for num_samples in (1, 4, 64):
        p = stage(linear_gaussian, False, num_samples)()
        with torch.no_grad():
            draws = p.log_prob(z.expand(4000, 3))
        means.append(draws.mean().item())
        assert means[-1] < exact + 4 * draws.std().item() / math.sqrt(4000)
    assert means[0] < means[1] < means[2] < exact + 0.01
    assert means[0] < exact - 0.05
    assert means[2] > exact - 0.05


def test_matching_loss_is_minus_the_bound_of_one_sample(linear_gaussian: LinearGaussian, within_standard_errors: Check) -> None:
    z = torch.randn(3).double().expand(20_000, 3)
    p = stage(linear_gaussian, False, 1)()
    with torch.no_grad():
        within_standard_errors(p.matching_loss(z) + p.log_prob(z), 0.0)
    assert p.matching_loss(torch.randn(2, 5, 3).double()).shape == (2, 5)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_have_the_moments_of_the_marginal(
    linear_gaussian: LinearGaussian, temperature: float, within_standard_errors: Check
) -> None:
    """Both scales are tempered, so the covariance is that of the marginal times the temperature squared."""
    p = stage(linear_gaussian, True, 1)(temperature=temperature)
    z = p.sample((20_000,)) - linear_gaussian.bias
    w = linear_gaussian.weight
    covariance = temperature**2 * (w @ w.T + linear_gaussian.scale**2 * torch.eye(3).double())
    within_standard_errors(z, 0.0)
    within_standard_errors(z[:, :, None] * z[:, None, :], covariance)
    assert p.sample().shape == (3,)
    assert p.sample((2, 4)).shape == (2, 4, 3)


def test_stopped_keeps_the_gradient_to_the_value_alone(linear_gaussian: LinearGaussian) -> None:
    second = stage(linear_gaussian, True, 2)
    z = torch.randn(4, 3).double().requires_grad_()
    stopped(second()).log_prob(z).sum().backward()
    x = z.detach().clone().requires_grad_()
    linear_gaussian.evidence(x).sum().backward()
    torch.testing.assert_close(z.grad, x.grad)
    assert all(parameter.grad is None for parameter in second.parameters())


def test_parts_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="must share the shape of u"):
        SecondStage(StandardNormal(2), DiagonalNormal(MLP(3, [4]), 4), Normal(MLP(2, [4]), [3]))
    with pytest.raises(ConfigError, match="must share the shape of u"):
        SecondStage(StandardNormal(2), MLP(3, [4]), Normal(MLP(2, [4]), [3]))
    with pytest.raises(ConfigError, match="`num_samples` must be at least 1, got 0"):
        SecondStage(StandardNormal(2), DiagonalNormal(MLP(3, [4]), 2), Normal(MLP(2, [4]), [3]), num_samples=0)
