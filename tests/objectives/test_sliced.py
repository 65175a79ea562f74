"""The sliced Wasserstein distance: closed forms, and an autoencoder that it draws to the prior."""

from __future__ import annotations

import pytest
import torch

from vaekit.errors import ConfigError
from vaekit.likelihoods import Normal
from vaekit.networks import MLP
from vaekit.objectives import ELBO
from vaekit.objectives.sliced import SlicedWAE, sliced_wasserstein
from vaekit.posteriors import Deterministic, DiagonalNormal
from vaekit.priors import StandardNormal
from vaekit.vae import VAE


def test_in_one_dimension_it_is_the_wasserstein_distance() -> None:
    x, y = torch.tensor([[0.0], [3.0], [1.0]]), torch.tensor([[5.0], [2.0], [0.0]])
    assert sliced_wasserstein(x, y, 7).item() == pytest.approx((0 + 1 + 4) / 3)  # 0-0, 1-2, 3-5


def test_a_shift_counts_its_squared_length() -> None:
    torch.manual_seed(0)
    x, shift = torch.randn(64, 5).double(), torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0]).double()
    found = torch.stack([sliced_wasserstein(x, x + shift, 500) for _ in range(40)])
    assert abs(found.mean() - shift.square().sum()) < 4 * found.std() / 40**0.5


def test_normals_of_two_scales() -> None:
    """W_2^2 of N(0, 1) and N(0, s^2) along a line is (1 - s)^2, whatever the line."""
    torch.manual_seed(0)
    x, y = torch.randn(4000, 3).double(), 2.5 * torch.randn(4000, 3).double()
    assert sliced_wasserstein(x, y, 50).item() == pytest.approx(3 * 1.5**2, rel=0.05)


def test_the_loss_is_the_distortion_and_the_weighted_distance_by_hand() -> None:
    """Every sample's cloud against one of its own from the prior, along the same directions; the rate is no part of it."""
    torch.manual_seed(0)
    vae = VAE(StandardNormal(2), DiagonalNormal(MLP(3, [4]), 2), Normal(MLP(2, [4]), [3])).double()
    trace = vae(torch.randn(6, 3).double(), num_samples=3)
    torch.manual_seed(8)
    bound = SlicedWAE(7.0, num_slices=5)(trace)
    torch.manual_seed(8)
    drawn, along = vae.prior().sample((3, 6)), torch.randn(2, 5, dtype=torch.float64)
    along = along / along.norm(dim=0)
    distance = torch.zeros(()).double()
    for k in range(3):
        for s in range(5):
            x, y = ((points[k] @ along[:, s]).sort().values for points in (trace.latents[0].z, drawn))
            distance = distance + 2 * (x - y).square().mean() / (3 * 5)
    torch.testing.assert_close(bound.terms["sliced_wasserstein"], distance)
    torch.testing.assert_close(bound.loss, -trace.log_likelihood.mean() + 7.0 * distance)
    torch.testing.assert_close(bound.rate, ELBO()(trace).rate)


def test_it_brings_the_aggregate_to_the_prior() -> None:
    torch.manual_seed(0)
    x = torch.randn(512, 3) * torch.tensor([4.0, 1.0, 0.2]) + 3
    vae = VAE(StandardNormal(2), Deterministic(MLP(3, [32]), 2), Normal(MLP(2, [32]), [3]))
    objective, optimizer = SlicedWAE(lambda_=50.0), torch.optim.Adam(vae.parameters(), 5e-3)
    first = objective(vae(x)).terms["sliced_wasserstein"].item()
    for _ in range(300):
        bound = objective(vae(x))
        optimizer.zero_grad()
        bound.loss.backward()
        optimizer.step()
    z = vae.encode(x).mean
    assert bound.terms["sliced_wasserstein"].item() < 0.1 < first
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=0.15, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(2), atol=0.2, rtol=0)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="must be >= 0"):
        SlicedWAE(lambda_=-1.0)
    with pytest.raises(ConfigError, match="at least 1"):
        SlicedWAE(num_slices=0)
