"""Chains: the density is the product of its factors, draws follow it, and a stopped one still hands values on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from vaekit.distributions import Chain, centre, closed_form_kl, diagonal_normal, stopped
from vaekit.networks import MLP
from vaekit.posteriors import DiagonalNormal


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


class Linear(torch.nn.Module):
    """N(W u + b, s^2)."""

    def __init__(self, inputs: int, outputs: int, scale: float) -> None:
        super().__init__()
        self.linear, self.scale = torch.nn.Linear(inputs, outputs).double(), scale

    def forward(self, u: Tensor, condition: Tensor | None = None):
        mean = self.linear(u)
        return diagonal_normal(mean, torch.full_like(mean, self.scale))


def linear_chain(backwards: bool = False) -> tuple[Chain, Tensor, Tensor]:
    """A chain of linear normals, and the mean and covariance of the whole, in the order in which it lies."""
    torch.manual_seed(0)
    steps = [Linear(2, 3, 0.5), Linear(3, 1, 2.0)]
    mean, scale = normal(2), normal(2).exp()
    chain = Chain(diagonal_normal(mean, scale), steps, [2, 3, 1], backwards=backwards)
    means, covariance = [mean], torch.zeros(6, 6).double()
    covariance[:2, :2] = torch.diag(scale**2)
    for step, (a, b, c) in zip(steps, ((0, 2, 5), (2, 5, 6)), strict=True):
        w = step.linear.weight.detach()
        means.append((means[-1] @ w.T + step.linear.bias).detach())
        covariance[b:c, :b] = w @ covariance[a:b, :b]
        covariance[:b, b:c] = covariance[b:c, :b].T
        covariance[b:c, b:c] = w @ covariance[a:b, a:b] @ w.T + step.scale**2 * torch.eye(c - b).double()
    order = torch.tensor([5, 2, 3, 4, 0, 1] if backwards else [0, 1, 2, 3, 4, 5])
    return chain, torch.cat(means)[order], covariance[order][:, order]


@pytest.mark.parametrize("backwards", [False, True])
def test_a_chain_of_linear_normals_is_a_normal(backwards: bool, within_standard_errors) -> None:
    chain, mean, covariance = linear_chain(backwards)
    whole = MultivariateNormal(mean, covariance)
    z = normal(7, 6)
    torch.testing.assert_close(chain.log_prob(z), whole.log_prob(z))
    torch.testing.assert_close(chain.log_prob(z[0]), whole.log_prob(z[0]))
    drawn = chain.sample((20_000,))
    within_standard_errors(drawn, mean)
    shift = drawn - mean
    within_standard_errors(shift[:, :, None] * shift[:, None, :], covariance)
    assert chain.sample().shape == (6,)


def test_density_by_hand() -> None:
    """Two levels of one unit, given three examples: q(z_1) q(z_2|z_1) with a network between."""
    torch.manual_seed(0)
    conditional = DiagonalNormal(MLP(1, [4]), 1).double()
    mean, scale = normal(3, 1), normal(3, 1).exp()
    q, z = Chain(diagonal_normal(mean, scale), [conditional], [1, 1]), normal(5, 3, 2)

    def log_normal(x: Tensor, m: Tensor, s: Tensor) -> Tensor:
        return -0.5 * ((x - m) / s) ** 2 - s.log() - 0.5 * math.log(2 * math.pi)

    second = conditional(z[..., :1])
    expected = log_normal(z[..., 0], mean[:, 0], scale[:, 0]) + log_normal(
        z[..., 1], second.mean[..., 0], second.stddev[..., 0]
    )
    torch.testing.assert_close(q.log_prob(z), expected)
    assert q.rsample((5,)).shape == (5, 3, 2)
    assert q.batch_shape == (3,)
    grid = torch.linspace(-15, 15, 401, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)[:, None]
    with torch.no_grad():
        one = Chain(diagonal_normal(mean[:1], scale[:1]), [conditional], [1, 1])
        density = one.log_prob(points).exp().reshape(401, 401)
    assert math.isclose(torch.trapezoid(torch.trapezoid(density, grid), grid).item(), 1.0, abs_tol=1e-6)


def test_stopped_holds_the_parameters_and_follows_the_value() -> None:
    torch.manual_seed(0)
    conditional = DiagonalNormal(MLP(2, [5]), 2).double()
    mean, scale = normal(3, 2).requires_grad_(), normal(3, 2).exp().requires_grad_()
    q = Chain(diagonal_normal(mean, scale), [conditional], [2, 2])
    held, z = stopped(q), q.rsample((4,)).detach().requires_grad_()
    log_q = held.log_prob(z)
    torch.testing.assert_close(log_q, q.log_prob(z))
    (gradient,) = torch.autograd.grad(log_q.sum(), z)
    step = 1e-6
    with torch.no_grad():
        shifts = step * torch.eye(4, dtype=torch.float64)
        difference = torch.stack([(q.log_prob(z + s) - q.log_prob(z - s)) / (2 * step) for s in shifts], dim=-1)
    torch.testing.assert_close(gradient, difference, rtol=1e-6, atol=1e-6)
    own = -(z[..., :2] - mean) / scale**2  # what q(z_1) alone gives: the rest is q(z_2|z_1), through z_1
    assert (gradient[..., :2] - own).abs().min() > 1e-4
    assert not held.log_prob(z.detach()).requires_grad
    assert all(p.requires_grad for p in conditional.parameters())


def test_draws_carry_gradients_through_every_level() -> None:
    torch.manual_seed(0)
    conditional = DiagonalNormal(MLP(1, [4], "tanh"), 1).double()
    mean = normal(1, 1).requires_grad_()

    def last(mean: Tensor) -> Tensor:
        torch.manual_seed(3)
        return Chain(diagonal_normal(mean, torch.ones(1, 1).double()), [conditional], [1, 1]).rsample((6,))

    assert torch.autograd.gradcheck(last, (mean,))


def test_centre_is_held_at_means_and_the_mean_is_unknown() -> None:
    chain, mean, _ = linear_chain(backwards=True)
    middle, scale = centre(chain)
    torch.testing.assert_close(middle, mean)  # of linear steps, the mean itself
    torch.testing.assert_close(scale[:4], torch.tensor([2.0, 0.5, 0.5, 0.5]).double())
    torch.testing.assert_close(scale[4:], chain.first.stddev)
    with pytest.raises(NotImplementedError):
        _ = chain.mean
    assert closed_form_kl(chain, chain) is None


def test_temperature_multiplies_the_scale_of_each_conditional() -> None:
    chain, _, _ = linear_chain()
    cold = Chain(chain.first, chain.conditionals, chain.widths, temperature=0.1)
    torch.testing.assert_close(centre(cold)[0], centre(chain)[0])
    torch.testing.assert_close(centre(cold)[1][2:], 0.1 * centre(chain)[1][2:])
