"""The posterior on the sphere."""

from __future__ import annotations

import math

import pytest
import torch

from vaekit.distributions import closed_form_kl, positive
from vaekit.errors import ConfigError
from vaekit.likelihoods import Normal
from vaekit.networks import MLP
from vaekit.objectives import ELBO
from vaekit.posteriors import VonMisesFisher
from vaekit.priors import StandardNormal, UniformSphere
from vaekit.vae import VAE


def test_direction_and_concentration_are_those_of_the_network() -> None:
    posterior, x = VonMisesFisher(MLP(3, [5]), 4).double(), torch.randn(7, 3).double()
    features, q = posterior.network(x), posterior(x)
    towards = posterior.head(features)[:, 0]
    torch.testing.assert_close(q.direction, towards / towards.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(q.concentration, positive(posterior.concentration_head(features)[:, 0, 0]))


def test_the_rate_is_closed_to_the_uniform_and_sampled_to_the_normal() -> None:
    q = VonMisesFisher(MLP(3, [5]), 4)(torch.randn(7, 3))
    kl = closed_form_kl(q, UniformSphere(4)())
    assert kl is not None
    assert kl.shape == (7,)
    assert closed_form_kl(q, StandardNormal(4)()) is None


@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_extreme_outputs_are_finite(size: float) -> None:
    posterior = VonMisesFisher(MLP(3, [5]), 4)
    torch.nn.init.constant_(posterior.concentration_head.linear.bias, size)
    q = posterior(torch.randn(4, 3))
    kl = closed_form_kl(q, UniformSphere(4)())
    assert kl is not None
    (kl.sum() + q.log_prob(q.rsample((2,))).sum() + q.rsample()[:, 0].sum()).backward()
    assert torch.isfinite(kl).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in posterior.parameters())


def test_it_learns_directions() -> None:
    """Points on a circle in the plane are coded by a latent on a circle: the error falls far below the data's spread."""
    torch.manual_seed(0)
    angle = torch.rand(256) * 2 * math.pi
    x = torch.stack([angle.cos(), angle.sin()], dim=-1)
    vae = VAE(UniformSphere(2), VonMisesFisher(MLP(2, [16]), 2), Normal(MLP(2, [16]), [2], scale="shared"))
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.02)
    for _ in range(200):
        loss = ELBO(beta=0.3)(vae(x)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        z, _ = vae.encode_flat(x)
        torch.testing.assert_close(z.norm(dim=-1), torch.ones(256))
        error = (vae.decode_flat(z).mean - x).square().sum(-1).mean()
        drawn = vae.sample_prior(100)
    assert error < 0.1
    torch.testing.assert_close(drawn.norm(dim=-1), torch.ones(1, 100))


@pytest.mark.parametrize("make", [lambda: UniformSphere(1), lambda: VonMisesFisher(MLP(3, [5]), 1)])
def test_a_sphere_has_two_dimensions_around_it(make) -> None:
    with pytest.raises(ConfigError, match="`num_latents` of a sphere must be at least 2, got 1"):
        make()
