"""Flows: what comes out has the density that is said, in both directions, and the last draw's for nothing."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.distributions import FLOW_KINDS, FlowDistribution, centre, diagonal_normal, make_flow, stopped
from vaekit.distributions.flow import Flow
from vaekit.distributions.flow_steps import Autoregressive, Conditioner
from vaekit.errors import ConfigError, MissingExtraError

kinds = pytest.mark.parametrize("kind", FLOW_KINDS)


def a_flow(kind: str, units: int, context: int = 0, seed: int = 0, spread: float = 0.3) -> Flow:
    """A flow far from the identity, in float64."""
    torch.manual_seed(seed)
    flow = make_flow(kind, units, context, [7, 8], 3).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return flow


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@kinds
@pytest.mark.parametrize("units", [1, 2, 5])
@pytest.mark.parametrize("context", [0, 3])
def test_pull_undoes_push_and_its_log_determinant(kind: str, units: int, context: int) -> None:
    flow = a_flow(kind, units, context)
    noise, features = 2.0 * normal(6, 4, units), normal(4, context).expand(6, 4, -1) if context else None
    z, log_det = flow.push(noise, features)
    again, back = flow.pull(z, features)
    torch.testing.assert_close(again, noise, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(back, -log_det, rtol=1e-9, atol=1e-9)
    assert (z - noise).abs().mean() > 0.05


@kinds
def test_log_determinant_is_that_of_the_jacobian(kind: str) -> None:
    flow, features = a_flow(kind, 4, 2), normal(2)
    for noise in normal(3, 4):
        jacobian = torch.autograd.functional.jacobian(lambda e: flow.push(e[None], features[None])[0][0], noise)
        expected = torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(flow.push(noise[None], features[None])[1][0], expected, rtol=1e-9, atol=1e-9)


@kinds
def test_density_integrates_to_one_in_one_dimension(kind: str) -> None:
    p = FlowDistribution(a_flow(kind, 1))
    grid = torch.linspace(-40, 40, 40_001, dtype=torch.float64)
    with torch.no_grad():
        mass = torch.trapezoid(p.log_prob(grid[:, None]).exp(), grid)
    assert math.isclose(mass.item(), 1.0, abs_tol=1e-3)


@kinds
def test_density_integrates_to_one_in_two_dimensions(kind: str) -> None:
    p = FlowDistribution(a_flow(kind, 2, 2, spread=0.15), normal(2))
    grid = torch.linspace(-12, 12, 241, dtype=torch.float64)
    with torch.no_grad():
        density = p.log_prob(torch.cartesian_prod(grid, grid)).exp().reshape(241, 241)
    mass = torch.trapezoid(torch.trapezoid(density, grid), grid)
    assert math.isclose(mass.item(), 1.0, abs_tol=1e-3)


@kinds
def test_the_gradient_of_a_density_elsewhere(kind: str) -> None:
    """Against finite differences: the steps that invert a map leave no trace in the gradient."""
    flow, features, z = a_flow(kind, 2, 2), normal(3, 2).requires_grad_(), normal(3, 2).requires_grad_()
    mean = normal(3, 2).requires_grad_()
    scale = torch.ones(3, 2, dtype=torch.float64)

    def density(z: Tensor, features: Tensor, mean: Tensor) -> Tensor:
        return FlowDistribution(flow, features, diagonal_normal(mean, scale)).log_prob(z)

    assert torch.autograd.gradcheck(density, (z, features, mean))
    names = [name for name, _ in flow.named_parameters()]

    def of_parameters(*values: Tensor) -> Tensor:
        return torch.func.functional_call(_Density(flow), dict(zip(_under(names), values, strict=True)), (z.detach(), features))

    values = [p.detach().requires_grad_() for p in flow.parameters()]
    assert torch.autograd.gradcheck(of_parameters, values, fast_mode=True)


class _Density(torch.nn.Module):
    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, z: Tensor, features: Tensor) -> Tensor:
        return FlowDistribution(self.flow, features.detach()).log_prob(z)


def _under(names: list[str]) -> list[str]:
    return [f"flow.{name}" for name in names]


@kinds
def test_the_last_draw_is_remembered_with_its_density(kind: str) -> None:
    flow, features = a_flow(kind, 3, 2), normal(4, 2)
    p = FlowDistribution(flow, features)
    z = p.rsample((5,))
    assert p.log_prob(z) is p.log_prob(z)
    elsewhere = p.log_prob(z.clone())
    torch.testing.assert_close(p.log_prob(z), elsewhere, rtol=1e-9, atol=1e-9)
    remembered, computed = (
        torch.autograd.grad(d.sum(), list(flow.parameters()), retain_graph=True, materialize_grads=True)
        for d in (p.log_prob(z), elsewhere)
    )
    for a, b in zip(remembered, computed, strict=True):  # through the draw as well as through the density
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_a_draw_without_gradient_is_not_mistaken_for_one_with() -> None:
    flow = a_flow("iaf", 2)
    p = FlowDistribution(flow)
    z = p.sample((3,))
    score = p.log_prob(z)
    assert score.requires_grad
    assert torch.autograd.grad(score.sum(), next(flow.parameters()))[0].abs().max() > 0
    with torch.no_grad():
        z = p.rsample((3,))
        assert p.log_prob(z) is p.log_prob(z)


@pytest.mark.parametrize(("kind", "draws", "densities"), [("iaf", 1, 5), ("maf", 5, 1), ("nsf", 2, 1), ("nsf-ar", 5, 1)])
def test_how_many_passes_a_draw_and_a_density_take(kind: str, draws: int, densities: int) -> None:
    flow, calls = a_flow(kind, 5), []
    for module in flow.modules():
        if isinstance(module, Conditioner):
            module.register_forward_hook(lambda *_: calls.append(1))
    p = FlowDistribution(flow)
    z = p.rsample((2,))
    assert len(calls) == 3 * draws
    p.log_prob(z)
    assert len(calls) == 3 * draws
    p.log_prob(z.clone())
    assert len(calls) == 3 * (draws + densities)


def test_a_step_depends_on_the_groups_before_alone() -> None:
    order = [2, 0, 1, 3]
    torch.manual_seed(0)
    step = Autoregressive(order, 0, [9, 9], "affine", draws_in_one_pass=True).double()
    jacobian = torch.autograd.functional.jacobian(lambda e: step(e[None], None)[0][0], normal(4))
    before = torch.tensor([[order[j] < order[i] for j in range(4)] for i in range(4)])
    assert (jacobian[~before & ~torch.eye(4, dtype=torch.bool)] == 0).all()
    assert (jacobian[before] != 0).all()


def test_stopped_holds_the_parameters_and_follows_the_value() -> None:
    flow, features = a_flow("iaf", 2, 2), normal(3, 2).requires_grad_()
    p = FlowDistribution(flow, features, diagonal_normal(normal(3, 2).requires_grad_(), torch.ones(3, 2, dtype=torch.float64)))
    z = p.rsample((4,))
    held = stopped(p)
    gradient = torch.autograd.grad(held.log_prob(z).sum(), [z], retain_graph=True)[0]
    free = z.detach().requires_grad_()
    expected = torch.autograd.grad(p.log_prob(free).sum(), [free])[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)
    assert not held.log_prob(z.detach()).requires_grad
    step = 1e-6 * torch.eye(2, dtype=torch.float64)
    with torch.no_grad():
        difference = torch.stack([(p.log_prob(z + s) - p.log_prob(z - s)) / 2e-6 for s in step], dim=-1)
    torch.testing.assert_close(gradient, difference, rtol=1e-5, atol=1e-6)


def test_a_planar_step_is_its_formula() -> None:
    """With w.u above the bound, z = e + v tanh(w.e + b), and v differs from u along w alone."""
    flow = make_flow("planar", 2, 0, [], 1).double()
    (step,) = flow.steps
    u, w, b = torch.tensor([0.7, -0.2]).double(), torch.tensor([0.5, 1.5]).double(), 0.3
    with torch.no_grad():
        step.parameters_at.offset.copy_(torch.cat([u, w, torch.tensor([b]).double()]))
    e = normal(5, 2)
    gain = math.log1p((math.e - 1) * math.exp((w @ u).item())) - 1
    v = u + (gain - w @ u) * w / (w @ w)
    t = torch.tanh(e @ w + b)
    z, log_det = flow.push(e, None)
    torch.testing.assert_close(z, e + t[:, None] * v)
    torch.testing.assert_close(log_det, torch.log1p((1 - t**2) * (w @ v)))


@pytest.mark.parametrize("size", [-40.0, -5.0, 5.0])
def test_a_planar_step_stays_invertible(size: float) -> None:
    """w.u far below -1 would fold the plane over."""
    flow = make_flow("planar", 3, 0, [], 1).double()
    (step,) = flow.steps
    with torch.no_grad():
        w = torch.tensor([1.0, 2.0, -2.0]).double()
        step.parameters_at.offset.copy_(torch.cat([size * w / 9, w, torch.tensor([0.1]).double()]))
    e = normal(50, 3)
    z, log_det = flow.push(e, None)
    assert torch.isfinite(log_det).all()
    again, _ = flow.pull(z, None)
    assert (again - e).abs().max() < 1e-5


def test_a_radial_step_is_its_formula() -> None:
    flow = make_flow("radial", 2, 0, [], 1).double()
    (step,) = flow.steps
    centre_, alpha, beta = torch.tensor([0.4, -1.0]).double(), 0.8, -0.5
    raw = [math.log(math.expm1(alpha)), math.log(math.expm1(alpha + beta))]
    with torch.no_grad():
        step.parameters_at.offset.copy_(torch.cat([centre_, torch.tensor(raw).double()]))
    e = normal(5, 2)
    r = (e - centre_).norm(dim=-1, keepdim=True)
    z, log_det = flow.push(e, None)
    torch.testing.assert_close(z, e + beta * (e - centre_) / (alpha + r))
    h = beta / (alpha + r)
    torch.testing.assert_close(log_det, torch.log((1 + h) * (1 + h - beta * r / (alpha + r) ** 2))[:, 0])


def test_centre_is_exact_for_an_affine_flow() -> None:
    """One step whose network is linear, for it has no hidden layer: z_i = s_i e_i + m_i with m linear and s constant."""
    torch.manual_seed(0)
    units = 5
    flow = make_flow("nice", units, 0, [], 2).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.normal_()
    base = diagonal_normal(normal(units), normal(units).exp())
    matrix = torch.autograd.functional.jacobian(lambda e: flow.push(e[None], None)[0][0], torch.zeros(units).double())
    mean, scale = centre(FlowDistribution(flow, None, base))
    expected = (matrix @ torch.diag(base.variance) @ matrix.T).diagonal().sqrt()
    torch.testing.assert_close(mean, flow.push(base.mean[None], None)[0][0])
    torch.testing.assert_close(scale, expected)


@pytest.mark.parametrize("units", [1, 2, 3, 8])
def test_centre_of_a_bent_flow_is_near_the_moments(units: int) -> None:
    p = FlowDistribution(a_flow("iaf", units, spread=0.1))
    with torch.no_grad():
        mean, scale = centre(p)
        z = p.sample((100_000,))
    assert (mean - z.mean(0)).abs().max() < 0.05
    assert (scale / z.std(0) - 1).abs().max() < 0.05


def test_temperature_multiplies_the_scale_of_the_noise() -> None:
    flow, mean = a_flow("maf", 2), normal(2)
    base = diagonal_normal(mean, torch.tensor([0.5, 2.0]).double())
    cold = FlowDistribution(flow, None, base, temperature=0.5)
    torch.testing.assert_close(cold.base.stddev, torch.tensor([0.25, 1.0]).double())
    torch.testing.assert_close(cold.base.mean, mean)
    z = normal(4, 2)
    noise, log_det = flow.pull(z, None)
    torch.testing.assert_close(cold.log_prob(z), cold.base.log_prob(noise) + log_det)


@kinds
def test_a_fresh_flow_is_near_the_identity(kind: str) -> None:
    torch.manual_seed(0)
    flow, noise = make_flow(kind, 4, 3, [32], 3), torch.randn(100, 4)
    z, log_det = flow.push(noise, torch.randn(100, 3))
    assert (z - noise).abs().mean() < 0.3
    assert log_det.abs().mean() < 0.3


@kinds
def test_float32_keeps_its_digits(kind: str) -> None:
    flow, z, features = a_flow(kind, 6, 2, spread=0.1), 3.0 * normal(50, 6), normal(50, 2)
    double = FlowDistribution(flow, features).log_prob(z)
    single = FlowDistribution(flow.float(), features.float()).log_prob(z.float())
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


def test_reduced_precision_ends_before_the_density() -> None:
    flow, z = make_flow("maf", 3, 2, [8], 2), torch.randn(4, 3)
    features = torch.randn(4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = FlowDistribution(flow, features).log_prob(z)
    assert reduced.dtype == torch.float32
    assert torch.equal(reduced, FlowDistribution(flow, features).log_prob(z))


@kinds
def test_an_outline_takes_no_memory(kind: str) -> None:
    with torch.device("meta"):
        flow = make_flow(kind, 3, 2, [8], 2)
    assert all(t.is_meta for t in (*flow.parameters(), *flow.buffers()))
    assert {k: v.shape for k, v in flow.state_dict().items()} == {
        k: v.shape for k, v in make_flow(kind, 3, 2, [8], 2).state_dict().items()
    }


def test_splines_need_zuko(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zuko.transforms", None)
    make_flow("iaf", 2, 0, [4], 1)
    with pytest.raises(MissingExtraError, match=r"A flow of splines needs the package `zuko`.*vaekit\[flow\]"):
        make_flow("nsf", 2, 0, [4], 1)


def test_zuko_does_not_switch_off_the_checks_of_others() -> None:
    make_flow("nsf", 2, 0, [4], 1)
    assert Distribution._validate_args
    with pytest.raises(ValueError, match="scale"):
        torch.distributions.Normal(0.0, -1.0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("other", 2, 0, [4], 1), "`kind` must be one of iaf, maf"),
        (("iaf", 0, 0, [4], 1), "got 0 units"),
        (("iaf", 2, -1, [4], 1), "a context of -1"),
        (("iaf", 2, 0, [0], 1), r"widths \(0,\)"),
        (("iaf", 2, 0, [4], 0), "0 steps"),
    ],
)
def test_what_is_no_flow(arguments: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make_flow(*arguments)
