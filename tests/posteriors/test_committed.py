"""Posteriors whose rate has a floor: the floor itself, the moments behind it, and what they are like in evaluation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vaekit.component import Component
from vaekit.distributions import closed_form_kl, diagonal_normal, unit_kl
from vaekit.errors import ConfigError
from vaekit.likelihoods import Normal
from vaekit.networks import MLP
from vaekit.posteriors import BatchNormNormal, DeltaNormal
from vaekit.posteriors.committed import greatest_scale
from vaekit.priors import StandardNormal, Vamp
from vaekit.vae import VAE


class Said(Component):
    """A network whose features, and the parameters made of them, are the data: (B, 2 D) as mean and raw scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_shape = (width,)

    def make_head(self, num_parameters, event_shape):
        return nn.Unflatten(-1, (num_parameters, *event_shape))

    def forward(self, x, condition=None, mask=None):
        return x


def standard(num: int, dtype: torch.dtype = torch.float32):
    return diagonal_normal(torch.zeros(num, dtype=dtype), torch.ones(num, dtype=dtype))


# ------------------------------------------------------------------------------------------------------------------ delta


@given(
    delta=st.floats(1e-4, 5.0),
    mean=st.floats(-1e3, 1e3),
    raw=st.floats(-1e4, 1e4),
)
@settings(max_examples=200, deadline=None)
def test_no_parameters_have_a_rate_below_delta(delta, mean, raw):
    q = DeltaNormal(Said(2), 1, delta).double()(torch.tensor([[mean, raw]], dtype=torch.float64))
    assert unit_kl(q, standard(1, torch.float64)).item() >= delta * (1 - 1e-9)


@pytest.mark.parametrize("delta", [1e-3, 0.1, 0.7, 5.0])
def test_the_floor_is_reached_at_mean_0_and_nowhere_else(delta):
    """So that the family is no smaller than it must be: the greatest scale is that with a rate of delta, to the last digits."""
    scale = greatest_scale(delta)
    assert (scale**2 - 1) / 2 - math.log(scale) == pytest.approx(delta, rel=1e-9)
    posterior = DeltaNormal(Said(2), 1, delta).double()
    q = posterior(torch.tensor([[0.0, 40.0], [0.0, -40.0], [1e-3, 40.0]], dtype=torch.float64))
    rates = unit_kl(q, standard(1, torch.float64)).flatten()
    assert rates[0].item() == pytest.approx(delta, rel=1e-9)
    assert rates[1] > 8  # nearly a point
    assert rates[2].item() - rates[0].item() == pytest.approx(5e-7, rel=1e-6)  # half the square of the mean
    narrower = torch.linspace(1e-4, scale, 1000, dtype=torch.float64)
    assert ((narrower**2 - 1) / 2 - narrower.log() >= delta * (1 - 1e-9)).all()


def test_the_gradient_of_a_scale_is_that_of_its_logarithm_however_small_it_is():
    raw = torch.tensor([-6.0, -3.0, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    q = DeltaNormal(Said(8), 4, 0.1).double()(torch.cat([torch.zeros(4), raw])[None])
    q.base_dist.scale.log().sum().backward()
    assert (raw.grad > 0.04).all()
    assert raw.grad[1] == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("delta", [0.0, -1.0, 5.1, math.nan])
def test_deltas_that_cannot_be(delta):
    with pytest.raises(ConfigError, match=r"`delta` must be above 0 and at most 5 nats a unit, got .* `DiagonalNormal`"):
        DeltaNormal(MLP(3, [4]), 2, delta)


# ------------------------------------------------------------------------------------------------------------- batch norm


def test_the_means_of_a_batch_are_normalised_and_nothing_else_is():
    torch.manual_seed(0)
    x = torch.randn(50, 4) * torch.tensor([3.0, 0.1, 1.0, 1.0]) + torch.tensor([7.0, -2.0, 0.0, 0.5])
    posterior = BatchNormNormal(Said(4), 2, gamma=0.4)
    with torch.no_grad():
        posterior.shift.copy_(torch.tensor([0.0, 0.3]))
    q = posterior(x)
    np.testing.assert_allclose(q.mean.mean(0).detach(), [0.0, 0.3], atol=1e-5)
    np.testing.assert_allclose(q.mean.std(0, correction=0).detach(), [0.4, 0.4], rtol=1e-5)
    reference = nn.BatchNorm1d(2, eps=1e-12, affine=False)
    np.testing.assert_allclose(q.mean.detach(), 0.4 * reference(x[:, :2]) + torch.tensor([0.0, 0.3]), atol=1e-4)
    np.testing.assert_allclose(posterior.running_mean, reference.running_mean, rtol=1e-5)
    np.testing.assert_allclose(posterior.running_variance, reference.running_var, rtol=1e-5)
    np.testing.assert_allclose(q.stddev.detach(), torch.nn.functional.softplus(x[:, 2:] + 0.5413248546) + 1e-4, rtol=1e-5)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_the_rate_of_a_batch_is_at_least_half_the_square_of_gamma_and_of_the_shift(size):
    """Reached where scales are 1: the loss is flat there but for the data."""
    torch.manual_seed(1)
    raw = torch.cat([size * torch.randn(64, 3), torch.randn(64, 3)], dim=1)
    posterior = BatchNormNormal(Said(6), 3, gamma=0.6)
    with torch.no_grad():
        posterior.shift.copy_(torch.tensor([0.0, 0.5, -1.0]))
    floor = 0.5 * (0.6**2 + posterior.shift.detach() ** 2)
    assert (unit_kl(posterior(raw), standard(3)).mean(0) >= floor - 1e-5).all()
    raw[:, 3:] = -1e-4 / torch.sigmoid(torch.tensor(0.5413248546))  # the least scale is added to the softplus
    torch.testing.assert_close(unit_kl(posterior(raw), standard(3)).mean(0).detach(), floor, rtol=1e-5, atol=1e-5)


def test_no_step_of_training_collapses_it():
    """The rate alone is minimised: a diagonal normal falls to 0, this one to its floor."""
    torch.manual_seed(0)
    x = torch.randn(64, 3)
    posterior = BatchNormNormal(MLP(3, [8]), 2, gamma=0.6)
    optimizer = torch.optim.Adam(posterior.parameters(), lr=0.02)
    for _ in range(300):
        rate = closed_form_kl(posterior(x), standard(2)).mean()
        optimizer.zero_grad()
        rate.backward()
        optimizer.step()
    assert rate.item() == pytest.approx(2 * 0.18, abs=2e-3)
    assert rate.item() >= 2 * 0.18 - 1e-5


def test_gradients_go_through_the_moments():
    torch.manual_seed(2)
    posterior = BatchNormNormal(Said(4), 2).double()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: posterior(x).mean, (x,))


def test_in_evaluation_an_example_is_by_itself():
    torch.manual_seed(3)
    posterior = BatchNormNormal(MLP(3, [8]), 2, momentum=0.2)
    x = 2 + torch.randn(4000, 3)
    for batch in x.split(100):
        posterior(batch)
    posterior.eval()
    before = posterior.running_mean.clone()
    alone = torch.cat([posterior(row[None]).mean for row in x[:5]])
    torch.testing.assert_close(posterior(x).mean[:5], alone, rtol=1e-5, atol=1e-6)
    assert torch.equal(posterior.running_mean, before)
    np.testing.assert_allclose(posterior(x).mean.std(0).detach(), [0.6, 0.6], rtol=0.1)


def test_it_starts_from_data():
    torch.manual_seed(4)
    vae = VAE(StandardNormal(2), BatchNormNormal(MLP(3, [8]), 2, gamma=0.5), Normal(MLP(2, [8]), [3]))
    x = 5 + 3 * torch.randn(1000, 3)
    vae.initialize(x)
    vae.eval()
    mean, _ = vae.encode_flat(x)
    np.testing.assert_allclose(mean.mean(0).detach(), 0.0, atol=1e-4)
    np.testing.assert_allclose(mean.std(0).detach(), 0.5, rtol=1e-4)
    untouched = BatchNormNormal(MLP(3, [8]), 2)
    untouched.initialize(x[:1])
    assert torch.equal(untouched.running_variance, torch.ones(2))


def test_what_is_missing_is_not_read():
    posterior = BatchNormNormal(MLP(3, [8], observe_mask=True), 2)
    x = torch.randn(6, 3)
    mask = torch.rand(6, 3) < 0.5
    mask[:, 0] = True
    other = torch.where(mask, x, torch.nan)
    torch.testing.assert_close(posterior(x, mask=mask).mean, posterior(other, mask=mask).mean)


def test_samples_share_the_moments_of_the_batch():
    torch.manual_seed(5)
    vae = VAE(StandardNormal(2), BatchNormNormal(MLP(3, [8]), 2), Normal(MLP(2, [8]), [3]))
    trace = vae(torch.randn(16, 3), num_samples=7)
    assert trace.latents[0].z.shape == (7, 16, 2)
    np.testing.assert_allclose(trace.latents[0].posterior.mean.std(0, correction=0).detach(), 0.6, rtol=1e-4)


def test_a_batch_of_one_has_no_variance():
    posterior = BatchNormNormal(MLP(3, [8]), 2)
    with pytest.raises(
        ConfigError, match="must be trained on batches of at least 2 examples, got 1. Use a larger `batch_size`"
    ):
        posterior(torch.zeros(1, 3))
    assert posterior.eval()(torch.zeros(1, 3)).mean.shape == (1, 2)


@pytest.mark.parametrize("wrong", [{"gamma": 0.0}, {"gamma": math.inf}, {"momentum": 0.0}, {"momentum": 1.5}])
def test_arguments_that_cannot_be(wrong):
    with pytest.raises(ConfigError, match=r"must be .* got"):
        BatchNormNormal(MLP(3, [4]), 2, **wrong)


def test_a_prior_that_is_made_of_it_is_refused():
    with pytest.raises(
        ConfigError, match="A Vamp prior must be made of a posterior that reads each example by itself, got a Bat"
    ):
        VAE(Vamp(2, [3], 5), BatchNormNormal(MLP(3, [8]), 2), Normal(MLP(2, [8]), [3]))
