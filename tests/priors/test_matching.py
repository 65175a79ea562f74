"""Flow matching: the divergence, the order of the solver, the closed form of a normal, and the fit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vaekit.priors import FlowMatching
from vaekit.priors.matching import FlowOfVelocity, Velocity

Check = Callable[..., None]
MEAN = torch.tensor([1.5, -0.5], dtype=torch.float64)
SCALE = torch.tensor([0.4, 2.0], dtype=torch.float64)


class ExactVelocity(Velocity):
    """The velocity that carries N(0, I) to N(m, diag(s^2)) when noise and latents are paired by chance:

    v(z, t) = E[z_1 - e | z_t = z] = m + (t s^2 - (1 - t)) / ((1 - t)^2 + t^2 s^2) (z - t m)
    """

    def __init__(self) -> None:
        super().__init__(2, [1])
        self.double()

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return MEAN + self.gain(t) * (z - t[..., None] * MEAN)

    def gain(self, t: Tensor) -> Tensor:
        t = t[..., None]
        return (t * SCALE.square() - (1 - t)) / ((1 - t).square() + t.square() * SCALE.square())

    def with_divergence(self, z: Tensor, t: Tensor, probe: Tensor | None) -> tuple[Tensor, Tensor]:
        gain = self.gain(t)
        directions = torch.ones_like(z) if probe is None else probe.square()
        return self(z, t), (gain * directions).sum(-1)


def exact_log_prob(z: Tensor) -> Tensor:
    return (-0.5 * ((z - MEAN) / SCALE).square() - SCALE.log()).sum(-1) - math.log(2 * math.pi)


def test_the_velocity_of_a_normal_gives_the_normal() -> None:
    """The error of the density falls with the square of the steps."""
    z = MEAN + SCALE * torch.randn(200, 2, dtype=torch.float64)
    errors = [
        (FlowOfVelocity(ExactVelocity(), n, True).log_prob(z) - exact_log_prob(z)).abs().max().item() for n in (16, 32, 64, 128)
    ]
    assert errors[-1] < 2e-3
    for coarse, fine in itertools.pairwise(errors[1:]):
        assert 3.2 < coarse / fine < 4.8, errors
    hutchinson = FlowOfVelocity(ExactVelocity(), 128, False)  # of a diagonal Jacobian any sign gives the trace
    torch.testing.assert_close(hutchinson.log_prob(z), exact_log_prob(z), rtol=0, atol=2e-3)


def test_samples_of_the_velocity_of_a_normal(within_standard_errors: Check) -> None:
    z = FlowOfVelocity(ExactVelocity(), 64, True).rsample((20_000,))
    within_standard_errors(z, MEAN)
    within_standard_errors((z - MEAN).square(), SCALE.square())
    half = FlowOfVelocity(ExactVelocity(), 64, True, scale=0.5).rsample((20_000,))  # the map is affine: temperature is exact
    within_standard_errors((half - MEAN).square(), 0.25 * SCALE.square())


def test_the_exact_velocity_has_the_least_matching_loss() -> None:
    """The loss of v is that of the best velocity plus E ||v - best||^2: any other is worse by just that."""
    torch.manual_seed(2)
    z = MEAN + SCALE * torch.randn(200_000, 2, dtype=torch.float64)

    def loss(shift: float) -> Tensor:
        velocity = ExactVelocity()
        plain = velocity.forward
        velocity.forward = lambda z, t: plain(z, t) + shift  # pyright: ignore
        torch.manual_seed(3)
        return FlowOfVelocity(velocity, 8, True).matching_loss(z)

    best = loss(0.0)
    for shift in (-0.3, 0.2):
        excess = loss(shift) - best
        standard_error = excess.std().item() / math.sqrt(len(z))
        assert abs(excess.mean().item() - 2 * shift**2) < 4 * standard_error


def shaken(num_units: int) -> FlowMatching:
    torch.manual_seed(4)
    prior = FlowMatching(num_units, [9, 9, 7], num_steps=6).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return prior


@pytest.mark.parametrize("num_units", [1, 3])
def test_divergence_is_the_trace_of_the_jacobian(num_units: int) -> None:
    velocity, z, t = shaken(num_units).velocity, torch.randn(5, num_units).double(), torch.tensor(0.3).double()
    v, divergence = velocity.with_divergence(z, t, None)
    torch.testing.assert_close(v, velocity(z, t))
    probe = torch.randint_like(z, 2) * 2 - 1
    _, estimate = velocity.with_divergence(z, t, probe)
    for i in range(5):
        jacobian = torch.autograd.functional.jacobian(lambda row: velocity(row, t), z[i])
        torch.testing.assert_close(divergence[i], jacobian.trace())
        torch.testing.assert_close(estimate[i], probe[i] @ jacobian @ probe[i])


def test_hutchinson_is_right_in_the_mean(within_standard_errors: Check) -> None:
    prior = shaken(3)
    z = torch.randn(3).double()
    with torch.no_grad():
        exact = prior().log_prob(z)
        within_standard_errors(FlowOfVelocity(prior.velocity, 6, False).log_prob(z.expand(4000, 3)), exact)
    assert FlowMatching(64, [4]).exact
    assert not FlowMatching(65, [4]).exact
    assert not FlowMatching(3, [4], divergence="hutchinson").exact


def test_the_density_works_where_there_is_no_autograd_and_sends_gradients_where_there_is() -> None:
    prior, z = shaken(2), torch.randn(4, 2).double()
    expected = prior().log_prob(z)
    with torch.inference_mode():
        torch.testing.assert_close(prior().log_prob(z.clone()), expected.detach().clone())
    assert torch.autograd.gradcheck(lambda z: prior().log_prob(z), z.clone().requires_grad_())
    expected.sum().backward()
    flat, step = prior.velocity.first.weight.data.view(-1), 1e-6
    flat[0] += step
    above = prior().log_prob(z).sum().item()
    flat[0] -= 2 * step
    difference = (above - prior().log_prob(z).sum().item()) / (2 * step)
    assert prior.velocity.first.weight.grad is not None
    assert prior.velocity.first.weight.grad.view(-1)[0].item() == pytest.approx(difference, rel=1e-5)


def test_matching_recovers_a_known_normal() -> None:
    """Trained by its loss alone: samples, densities and velocity are those of the normal."""
    torch.manual_seed(0)
    mean, scale = torch.tensor([1.0, -0.5]), torch.tensor([0.5, 1.5])
    prior = FlowMatching(2, [64, 64], num_steps=24)
    optimizer = torch.optim.Adam(prior.parameters(), lr=5e-3)
    steps = 500
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        prior().matching_loss(mean + scale * torch.randn(256, 2)).mean().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        z = mean + scale * torch.randn(2000, 2)
        exact = (-0.5 * ((z - mean) / scale).square() - scale.log()).sum(-1) - math.log(2 * math.pi)
        divergence = (exact - prior().log_prob(z)).mean().item()  # KL(normal || fitted)
        drawn = prior().sample((2000,))
        axis = torch.linspace(-8, 8, 81)
        total = prior().log_prob(torch.cartesian_prod(axis, axis)).exp().sum().item() * (axis[1] - axis[0]).item() ** 2
    assert abs(divergence) < 0.02
    assert total == pytest.approx(1.0, abs=0.01)
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=0.08)
    torch.testing.assert_close(drawn.std(0), scale, rtol=0.08, atol=0)
