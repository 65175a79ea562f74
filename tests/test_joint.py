"""Several independent latents as one, and positive latents: by their parts, by quadrature, and through a whole model."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as td

from vaekit import posteriors, priors
from vaekit.distributions import Joint, centre, closed_form_kl, diagonal_normal, positive, stopped, unit_kl
from vaekit.errors import ConfigError
from vaekit.likelihoods import Bernoulli
from vaekit.networks import MLP
from vaekit.objectives import ELBO
from vaekit.vae import VAE


def normal(width: int, shift: float = 0.0, *batch: int) -> td.Distribution:
    return diagonal_normal(torch.full((*batch, width), shift).double(), torch.full((*batch, width), 0.5).double())


def test_log_prob_is_the_sum_of_the_parts() -> None:
    parts = [normal(2, 0.3, 4), normal(1, -1.0)]  # the second has no batch of its own
    p, z = Joint(parts), torch.randn(7, 4, 3).double()
    assert p.batch_shape == (4,)
    assert p.event_shape == (3,)
    torch.testing.assert_close(p.log_prob(z), parts[0].log_prob(z[..., :2]) + parts[1].log_prob(z[..., 2:]))


def test_samples_moments_and_centre_lie_end_to_end() -> None:
    torch.manual_seed(0)
    p = Joint([normal(2, 0.3, 4), normal(1, -1.0)])
    assert p.rsample((5,)).shape == (5, 4, 3)
    draws = p.sample((40_000,))
    expected = torch.tensor([0.3, 0.3, -1.0]).double().expand(4, 3)
    torch.testing.assert_close(p.mean, expected)
    torch.testing.assert_close(centre(p)[1], torch.full((4, 3), 0.5).double())
    assert (draws.mean(0) - expected).abs().max() < 5 * 0.5 / 200


def test_kl_is_the_sum_where_every_part_has_one() -> None:
    q, p = Joint([normal(2, 0.3), normal(1, -1.0)]), Joint([normal(2), normal(1)])
    kl = closed_form_kl(q, p)
    assert kl is not None
    torch.testing.assert_close(kl, torch.tensor((2 * 0.3**2 + 1.0) / (2 * 0.25)).double())
    assert unit_kl(q, p) is None
    mixture = priors.MixtureOfNormals(1, 2).double()()
    assert closed_form_kl(q, Joint([normal(2), mixture])) is None
    assert closed_form_kl(q, Joint([normal(1), normal(2)])) is None


def test_stopped_parts_keep_the_gradient_of_the_value() -> None:
    mean = torch.zeros(2, requires_grad=True)
    z = torch.ones(3, requires_grad=True)
    stopped(Joint([diagonal_normal(mean, torch.ones(2)), diagonal_normal(torch.zeros(1), torch.ones(1))])).log_prob(
        z
    ).backward()
    assert mean.grad is None
    torch.testing.assert_close(z.grad, -torch.ones(3))


def test_gamma_density_integrates_to_one_and_its_mean_is_a_over_b() -> None:
    z = torch.linspace(1e-6, 60, 400_001).double()[:, None]
    prior = priors.Gamma(1, concentration=2.5, rate=0.7).double()
    for temperature in (1.0, 0.5, 1.5):
        p = prior(temperature=temperature)
        density = p.log_prob(z).exp()
        assert torch.trapezoid(density, z[:, 0]).item() == pytest.approx(1.0, abs=2e-4)
        mean = torch.trapezoid(density * z[:, 0], z[:, 0]).item()
        variance = torch.trapezoid(density * (z[:, 0] - mean) ** 2, z[:, 0]).item()
        assert mean == pytest.approx(2.5 / 0.7, rel=1e-3)
        assert variance == pytest.approx(temperature**2 * 2.5 / 0.7**2, rel=3e-3)


def test_concentration_and_rate_are_those_of_the_network() -> None:
    posterior, x = posteriors.Gamma(MLP(3, [5]), 2).double(), torch.randn(7, 3).double()
    concentration, rate = positive(posterior.head(posterior.network(x))).unbind(1)
    q = posterior(x)
    torch.testing.assert_close(q.mean, concentration / rate)
    torch.testing.assert_close(q.variance, concentration / rate**2)


def test_gamma_rate_is_closed_and_equals_its_sampled_form() -> None:
    torch.manual_seed(0)
    q = posteriors.Gamma(MLP(3, [8]), 2).double()(torch.randn(1, 3).double())
    p = priors.Gamma(2, 0.8, 1.5).double()()
    closed = closed_form_kl(q, p)
    z = q.sample((200_000,))
    terms = q.log_prob(z) - p.log_prob(z)
    error = terms.std() / 200_000**0.5
    assert closed is not None
    assert (closed - terms.mean()).abs() < 5 * error


def test_gradient_through_gamma_samples_is_that_of_the_mean() -> None:
    torch.manual_seed(0)
    a, b = torch.tensor([0.6]).double().requires_grad_(), torch.tensor([1.7]).double().requires_grad_()
    z = td.Gamma(a, b).rsample((400_000,))
    grads = torch.autograd.grad(z.mean(), [a, b])
    assert grads[0].item() == pytest.approx(1 / 1.7, rel=0.02)  # d(a / b)/da
    assert grads[1].item() == pytest.approx(-0.6 / 1.7**2, rel=0.02)


def test_temperature_reaches_every_part() -> None:
    prior = priors.Joint([priors.StandardNormal(1), priors.Gamma(1, 3.0, 2.0)]).double()
    torch.testing.assert_close(prior(temperature=0.5).mean, torch.tensor([0.0, 1.5]).double())
    torch.testing.assert_close(prior(temperature=0.5).variance, 0.25 * torch.tensor([1.0, 0.75]).double())


def test_a_condition_reaches_every_part() -> None:
    conditional = priors.Chain(priors.StandardNormal(1), [posteriors.DiagonalNormal(MLP(1, [4], condition_features=2), 1)])
    parts = [conditional, priors.StandardNormal(1)]
    prior, z, c = priors.Joint(parts).double(), torch.randn(4, 3).double(), torch.randn(4, 2).double()
    expected = parts[0](c).log_prob(z[:, :2]) + parts[1]().log_prob(z[:, 2:])
    torch.testing.assert_close(prior(c).log_prob(z), expected)
    assert (prior(c).log_prob(z) - prior(-c).log_prob(z)).abs().min() > 1e-4


def test_a_model_of_a_joint_latent_learns() -> None:
    torch.manual_seed(0)
    vae = VAE(
        priors.Joint([priors.StandardNormal(2), priors.Gamma(1)]),
        posteriors.Joint([posteriors.DiagonalNormal(MLP(4, [16]), 2), posteriors.Gamma(MLP(4, [16]), 1)]),
        Bernoulli(MLP(3, [16]), [4]),
    )
    x = torch.eye(4).repeat(8, 1)
    optimizer = torch.optim.Adam(vae.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = ELBO()(vae(x)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < sum(losses[:10]) / 10 - 0.3
    mean, scale = vae.encode_flat(x)
    assert mean.shape == scale.shape == (32, 3)
    assert (mean[:, 2] > 0).all()
    assert vae.sample_prior(6).shape == (1, 6, 3)


def test_there_must_be_parts() -> None:
    for family in (posteriors.Joint, priors.Joint):
        with pytest.raises(ConfigError, match="must be"):
            family([])


def test_gamma_refuses_parameters_at_zero() -> None:
    with pytest.raises(ConfigError, match="must be > 0"):
        priors.Gamma(2, concentration=0.0)
