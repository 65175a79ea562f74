"""Priors: their densities, their temperature, and the KL to a mixture."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from vaekit.distributions import closed_form_kl, diagonal_normal
from vaekit.errors import ConfigError
from vaekit.objectives import level_rate
from vaekit.priors import MixtureOfNormals, Prior, StandardNormal
from vaekit.types import Latent

Check = Callable[..., None]


def test_standard_normal_density() -> None:
    z = torch.randn(4, 7, 3).double()
    p = StandardNormal(3).double()()
    torch.testing.assert_close(p.log_prob(z), -0.5 * z.square().sum(-1) - 1.5 * math.log(2 * math.pi))
    assert p.batch_shape == ()


def make_mixture(num_components: int = 4) -> MixtureOfNormals:
    prior = MixtureOfNormals(2, num_components=num_components, spread=2.0).double()
    with torch.no_grad():
        prior.logits.normal_()
        prior.raw_scale.normal_()
    return prior


@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.0])
def test_mixture_density(temperature: float) -> None:
    prior, z = make_mixture(), torch.randn(5, 2).double()
    scale = (torch.nn.functional.softplus(prior.raw_scale) + 1e-4) * temperature
    weights = torch.softmax(prior.logits, 0)
    expected = torch.zeros(5).double()
    for k in range(4):
        square = ((z - prior.means[k]) / scale[k]).square().sum(-1)
        expected = expected + weights[k] * torch.exp(-0.5 * square) / (2 * math.pi * scale[k].prod())
    torch.testing.assert_close(prior(temperature=temperature).log_prob(z), expected.log())


def test_mixture_starts_with_scale_one_and_spread_means() -> None:
    prior = MixtureOfNormals(3, num_components=2000, spread=5.0)
    scale = prior().component_distribution.stddev
    torch.testing.assert_close(scale, torch.full_like(scale, 1.0001), rtol=0, atol=1e-6)
    # the deviation of 6,000 draws is known to 5 / sqrt(12,000) = 0.05; four of them
    assert prior.means.std().item() == pytest.approx(5.0, abs=0.2)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_temperature_multiplies_the_scales(temperature: float, within_standard_errors: Check) -> None:
    """Mean sum w m and second moment sum w (m^2 + (T s)^2): the centres of a mixture stay where they are."""
    z = StandardNormal(2)(temperature=temperature).sample((20_000,))
    within_standard_errors(z, 0.0)
    within_standard_errors(z.square(), temperature**2)
    prior = make_mixture()
    weights = torch.softmax(prior.logits, 0)[:, None].detach()
    means, scale = prior.means.detach(), torch.nn.functional.softplus(prior.raw_scale.detach()) + 1e-4
    z = prior(temperature=temperature).sample((20_000,))
    within_standard_errors(z, (weights * means).sum(0))
    within_standard_errors(z.square(), (weights * (means.square() + (temperature * scale).square())).sum(0))


def test_sampled_kl_to_a_mixture_of_one_is_the_closed_form(within_standard_errors: Check) -> None:
    """A mixture of one component is a normal, of which the KL is known; the mixture's is sampled."""
    prior = make_mixture(num_components=1)
    q = diagonal_normal(torch.randn(3, 2).double(), torch.rand(3, 2).double() + 0.3)
    p = prior()
    assert closed_form_kl(q, p) is None
    component = p.component_distribution
    exact = closed_form_kl(q, diagonal_normal(component.mean[0], component.stddev[0]))
    assert exact is not None
    z = q.rsample((20_000,))
    latent = Latent(z, q, p)
    torch.testing.assert_close(level_rate(latent), (q.log_prob(z) - p.log_prob(z)).mean(0))
    within_standard_errors((latent.log_q - latent.log_p).detach(), exact.detach())


def test_sampled_kl_to_a_mixture_by_quadrature(within_standard_errors: Check) -> None:
    prior = make_mixture()
    q, p = diagonal_normal(torch.tensor([0.3, -0.8]).double(), torch.tensor([0.5, 0.9]).double()), prior()
    axis = torch.linspace(-9, 9, 601).double()
    grid = torch.cartesian_prod(axis, axis)
    log_q = q.log_prob(grid)
    exact = (log_q.exp() * (log_q - p.log_prob(grid))).sum() * (axis[1] - axis[0]) ** 2  # exact for smooth tails: 1e-10
    z = q.rsample((50_000,))
    within_standard_errors((q.log_prob(z) - p.log_prob(z)).detach(), exact.detach())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: StandardNormal(0), "`num_latents` must be at least 1, got 0"),
        (lambda: MixtureOfNormals(0), "`num_latents` must be at least 1, got 0"),
        (lambda: MixtureOfNormals(2, num_components=0), "`num_components` must be at least 1, got 0"),
        (lambda: MixtureOfNormals(2, spread=-1.0), "`spread` must be >= 0, got -1.0"),
        (lambda: MixtureOfNormals(2, spread=math.nan), "`spread` must be >= 0, got nan"),
    ],
)
def test_an_argument_that_cannot_be(make: Callable[[], Prior], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()
