"""The Poincare ball: mass, maps and distances by closed forms and quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vaekit import posteriors, priors
from vaekit.distributions import WrappedNormal, mobius_add, positive, stopped
from vaekit.errors import ConfigError
from vaekit.likelihoods import Bernoulli
from vaekit.networks import MLP
from vaekit.objectives import ELBO
from vaekit.vae import VAE

Check = Callable[..., None]


def wrapped(mean: list[float], scale: list[float], curvature: float) -> WrappedNormal:
    return WrappedNormal(torch.tensor(mean).double(), torch.tensor(scale).double(), curvature)


def disc(curvature: float) -> tuple[Tensor, Tensor]:
    """Points of the disc and their areas, by a polar midpoint rule that is fine at the border: radius tanh(t) / sqrt(c)."""
    t = (torch.arange(3000).double() + 0.5) / 3000 * 9
    angle = (torch.arange(400).double() + 0.5) / 400 * 2 * math.pi
    radius = t.tanh() / math.sqrt(curvature)
    area = radius * (1 - t.tanh() ** 2) / math.sqrt(curvature) * (9 / 3000) * (2 * math.pi / 400)
    points = torch.stack([radius[:, None] * angle.cos(), radius[:, None] * angle.sin()], -1)
    return points, area[:, None].expand(3000, 400)


@pytest.mark.parametrize(
    ("mean", "scale", "curvature"),
    [
        ([0.0, 0.0], [1.0, 1.0], 1.0),
        ([0.5, -0.3], [0.4, 0.8], 1.0),
        ([0.9, 0.6], [0.7, 0.2], 0.5),
        ([0.2, 0.1], [1.0, 2.0], 0.01),
    ],
)
def test_density_integrates_to_one(mean: list[float], scale: list[float], curvature: float) -> None:
    points, area = disc(curvature)
    assert (wrapped(mean, scale, curvature).log_prob(points).exp() * area).sum().item() == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize(("mean", "scale", "curvature"), [([0.5, -0.3], [0.4, 0.8], 1.0), ([0.9, 0.6], [0.7, 0.2], 0.5)])
def test_samples_are_of_the_density_away_from_the_centre(
    mean: list[float], scale: list[float], curvature: float, within_standard_errors: Check
) -> None:
    """The characteristic function of the samples against that of the density."""
    p, (points, area) = wrapped(mean, scale, curvature), disc(curvature)
    z, mass = p.rsample((20_000,)), p.log_prob(points).exp() * area
    waves = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -3.0], [5.0, 4.0], [-1.0, 6.0]]).double()
    for wave in (torch.cos, torch.sin):
        expected = torch.stack([(mass * wave(points @ w)).sum() for w in waves])
        within_standard_errors(wave(z @ waves.T), expected, 4.5)


def test_in_one_dimension_the_density_is_that_of_the_map() -> None:
    """D = 1: z = tanh(v / 2) at mean 0, so p(z) = N(v) dv/dz with v = 2 atanh(z)."""
    z = torch.linspace(-0.99, 0.99, 41).double()[:, None]
    v = 2 * torch.atanh(z[:, 0])
    expected = torch.distributions.Normal(0.0, 0.7).log_prob(v) + torch.log(2 / (1 - z[:, 0] ** 2))
    torch.testing.assert_close(wrapped([0.0], [0.7], 1.0).log_prob(z), expected)


def test_the_maps_are_inverse_and_the_distance_is_hyperbolic() -> None:
    torch.manual_seed(0)
    p = wrapped([0.4, -0.2, 0.1], [1.0, 1.0, 1.0], 0.8)
    v = torch.randn(50, 3).double()
    z = p._wrapped(v)
    torch.testing.assert_close(p.tangent(z), v)
    between = mobius_add(-p.loc.expand_as(z), z, 0.8).norm(dim=-1)
    distance = 2 / math.sqrt(0.8) * torch.atanh(math.sqrt(0.8) * between)
    torch.testing.assert_close(distance, v.norm(dim=-1))
    by_cosh = 1 + 2 * 0.8 * (z - p.loc).square().sum(-1) / ((1 - 0.8 * p.loc.square().sum()) * (1 - 0.8 * z.square().sum(-1)))
    torch.testing.assert_close(distance, torch.acosh(by_cosh) / math.sqrt(0.8))


def test_log_prob_is_the_change_of_variables() -> None:
    torch.manual_seed(0)
    p = wrapped([0.4, -0.2, 0.1], [0.5, 1.5, 1.0], 0.8)
    for _ in range(5):
        v = torch.randn(3).double() * p.scale
        jacobian = torch.autograd.functional.jacobian(p._wrapped, v)
        assert isinstance(jacobian, Tensor)
        base = torch.distributions.Normal(torch.zeros(3).double(), p.scale).log_prob(v).sum()
        torch.testing.assert_close(p.log_prob(p._wrapped(v)), base - torch.linalg.slogdet(jacobian)[1])


def test_flat_in_the_limit() -> None:
    """c -> 0: the ball is R^D with metric 4, so z is N(mean, scale^2 / 4)."""
    z = torch.randn(20, 2).double()
    flat = torch.distributions.Normal(torch.tensor([0.5, -1.0]).double(), torch.tensor([0.5, 1.0]).double() / 2)
    torch.testing.assert_close(
        wrapped([0.5, -1.0], [0.5, 1.0], 1e-8).log_prob(z), flat.log_prob(z).sum(-1), atol=1e-5, rtol=1e-5
    )


def test_float32_is_finite_at_the_border() -> None:
    mean = torch.tensor([[0.999999, 0.0], [0.0, 0.0], [-50.0, 50.0]], requires_grad=True)
    scale = torch.full((3, 2), 5.0, requires_grad=True)
    p = WrappedNormal(mean, scale)
    torch.manual_seed(0)
    z = p.rsample((200,))
    assert (z.norm(dim=-1) < 1).all()
    log_p = p.log_prob(z)
    log_p.sum().backward()
    assert torch.isfinite(log_p).all()
    assert torch.isfinite(mean.grad).all()
    assert torch.isfinite(scale.grad).all()


@pytest.mark.parametrize("curvature", [0.5, 2.0])
def test_the_networks_numbers_are_half_the_way_from_the_centre(curvature: float) -> None:
    """The mean lies towards r at a distance of 2 |r|, but for the limit at 7 / sqrt(c)."""
    posterior, x = posteriors.WrappedNormal(MLP(3, [5]), 2, curvature).double(), torch.randn(7, 3).double()
    with torch.no_grad():
        posterior.head.linear.weight.mul_(8.0)  # some of them far enough to be limited
    raw, q = posterior.head(posterior.network(x)), posterior(x)
    root, length = math.sqrt(curvature), raw[:, 0].norm(dim=-1)
    distance = 2 / root * torch.atanh(root * q.loc.norm(dim=-1))
    torch.testing.assert_close(distance, 7 / root * torch.tanh(root * length / 3.5))
    assert (distance / (2 * length)).min() < 0.97
    torch.testing.assert_close(q.loc / q.loc.norm(dim=-1, keepdim=True), raw[:, 0] / length[:, None])
    torch.testing.assert_close(q.scale, positive(raw[:, 1]))


def test_temperature_multiplies_the_scale_in_the_tangent_space() -> None:
    z = 0.5 * torch.rand(20, 2).double()
    found = priors.WrappedNormal(2, 0.8, 0.7).double()(temperature=0.5).log_prob(z)
    torch.testing.assert_close(found, wrapped([0.0, 0.0], [0.35, 0.35], 0.8).log_prob(z), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("size", "scale", "dims"), [(4.5, 0.5, 2), (6.0, 0.1, 2), (50.0, 0.1, 2), (4.0, 1.0, 10)])
def test_float32_rates_are_those_of_float64_however_far_the_network_goes(
    size: float, scale: float, dims: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    posterior = posteriors.WrappedNormal(MLP(1, [1]), dims)
    raw = torch.zeros(1, 2, dims)
    raw[..., 0, 0], raw[..., 1, :] = size, math.log(math.expm1(scale)) - 0.5413
    posterior.parameters_at = lambda x, condition, mask: raw  # what a network could say
    noise = torch.randn(4000, 1, dims)
    monkeypatch.setattr(torch, "randn", lambda *_, dtype, **__: noise.to(dtype))  # one draw for both precisions
    rates = []
    for dtype in (torch.float32, torch.float64):
        raw = raw.to(dtype)
        q, p = posterior(torch.zeros(1, 1)), priors.WrappedNormal(dims).to(dtype)()
        z = q.rsample((4000,))
        rates.append((q.log_prob(z) - p.log_prob(z)).double())
    assert (rates[0] - rates[1]).abs().max() < 0.3
    assert (rates[0].mean() - rates[1].mean()).abs() < 0.02


def test_stopped_gradients_go_through_the_point_alone() -> None:
    torch.manual_seed(0)
    mean, scale = torch.tensor([0.4, -0.2]).double().requires_grad_(), torch.tensor([0.5, 0.8]).double().requires_grad_()
    p = WrappedNormal(mean, scale)
    z = p.rsample((3,)).detach().requires_grad_()
    stopped(p).log_prob(z).sum().backward()
    assert mean.grad is None
    assert scale.grad is None
    expected = torch.autograd.functional.jacobian(lambda at: WrappedNormal(mean.detach(), scale.detach()).log_prob(at).sum(), z)
    torch.testing.assert_close(z.grad, expected)


def test_a_model_on_the_ball_learns() -> None:
    torch.manual_seed(0)
    vae = VAE(priors.WrappedNormal(2), posteriors.WrappedNormal(MLP(4, [16]), 2), Bernoulli(MLP(2, [16]), [4]))
    x = torch.eye(4).repeat(8, 1)
    optimizer = torch.optim.Adam(vae.parameters(), 1e-2)
    losses = []
    for _ in range(80):
        loss = ELBO()(vae(x)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < sum(losses[:10]) / 10 - 0.2
    mean, _ = vae.encode_flat(x)
    assert (mean.norm(dim=-1) < 1).all()


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="must be > 0"):
        priors.WrappedNormal(2, curvature=0.0)
    with pytest.raises(ConfigError, match="must be > 0"):
        posteriors.WrappedNormal(MLP(3, [4]), 2, curvature=-1.0)
