"""The sphere: Bessel functions against 50 digits, densities against quadrature, draws and gradients against expectations."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch import Tensor

from vaekit.distributions import UniformSphere, VonMisesFisher, centre, closed_form_kl, diagonal_normal, stopped
from vaekit.distributions.bessel import bessel_ratio, divergence_from_uniform, log_series_excess, normaliser
from vaekit.distributions.sphere import _angle_slope, _draw_angle, log_area

UNITS = [2, 3, 4, 17, 49, 50, 51, 256]
KAPPAS = [1e-3, 0.1, 1.0, 5.0, 30.0, 100.0, 1e3, 1e6]


def exact(kappa: float, units: int) -> dict[str, float]:
    """g, k - g, A, 1 - A, A' and k A - g, to 50 digits and then rounded."""
    with mpmath.workdps(50):
        k, order = mpmath.mpf(kappa), mpmath.mpf(units) / 2 - 1
        below, above = mpmath.besseli(order, k), mpmath.besseli(order + 1, k)
        ratio = above / below
        g = mpmath.log(mpmath.gamma(order + 1) * (2 / k) ** order * below)
        slope = 1 - ratio**2 - (units - 1) * ratio / k
        numbers = {"log_series": g, "excess": k - g, "ratio": ratio, "gap": 1 - ratio, "slope": slope, "kl": k * ratio - g}
        return {name: float(value) for name, value in numbers.items()}


def of(kappa: float, units: int, dtype: torch.dtype) -> dict[str, Tensor]:
    k = torch.tensor(kappa, dtype=dtype)
    return {**normaliser(k, units)._asdict(), "kl": divergence_from_uniform(k, units)}


@pytest.mark.parametrize("units", UNITS)
def test_bessel_functions_in_float64(units: int) -> None:
    for kappa in KAPPAS:
        expected, found = exact(kappa, units), of(kappa, units, torch.float64)
        for name, value in expected.items():
            assert math.isclose(found[name].item(), value, rel_tol=2e-8, abs_tol=1e-9), (name, kappa)


@pytest.mark.parametrize("units", UNITS)
def test_bessel_functions_in_float32(units: int) -> None:
    for kappa in KAPPAS:
        single = torch.tensor(kappa).item()
        expected, found = exact(single, units), of(single, units, torch.float32)
        for name, value in expected.items():
            assert math.isclose(found[name].item(), value, rel_tol=3e-6, abs_tol=4e-5), (name, kappa)
        for name in ("ratio", "gap", "slope"):
            assert math.isclose(found[name].item(), expected[name], rel_tol=1e-4), (name, kappa)


@pytest.mark.parametrize("units", [2, 3, 50, 256])
def test_gradients_of_the_bessel_functions(units: int) -> None:
    kappa = torch.tensor([0.01, 0.5, 3.0, 40.0, 2e3], dtype=torch.float64, requires_grad=True)
    for function in (bessel_ratio, log_series_excess, divergence_from_uniform):
        assert torch.autograd.gradcheck(lambda k, f=function: f(k, units), (kappa,), rtol=1e-4, atol=1e-8)


def test_at_zero_everything_is_that_of_the_uniform() -> None:
    kappa = torch.zeros(3, requires_grad=True)
    for units in (2, 3, 256):
        torch.testing.assert_close(divergence_from_uniform(kappa, units), torch.zeros(3), rtol=0, atol=1e-7)
        assert torch.equal(bessel_ratio(kappa, units), torch.zeros(3))
    torch.testing.assert_close(normaliser(kappa, 4).slope, torch.full((3,), 0.25))


@pytest.mark.parametrize("kappa", [0.0, 0.5, 20.0])
def test_density_integrates_to_one_on_the_circle(kappa: float) -> None:
    angle = torch.arange(4000, dtype=torch.float64) * (2 * math.pi / 4000)
    z = torch.stack([angle.cos(), angle.sin()], dim=-1)
    direction = torch.tensor([0.6, -0.8], dtype=torch.float64)
    p = VonMisesFisher(direction, torch.tensor(kappa, dtype=torch.float64))
    assert math.isclose(p.log_prob(z).exp().mean().item() * 2 * math.pi, 1.0, rel_tol=1e-9)
    uniform = UniformSphere(torch.zeros(2).double())
    assert math.isclose(uniform.log_prob(z).exp().mean().item() * 2 * math.pi, 1.0, rel_tol=1e-12)


def grid_on_the_sphere(num: int = 400) -> tuple[Tensor, Tensor]:
    """Points of S^2 and their shares of its surface, by the midpoint rule in (height, longitude)."""
    height = -1 + (2 * torch.arange(num, dtype=torch.float64) + 1) / num
    longitude = torch.arange(num, dtype=torch.float64) * (2 * math.pi / num)
    w, a = torch.meshgrid(height, longitude, indexing="ij")
    s = (1 - w**2).sqrt()
    return torch.stack([s * a.cos(), s * a.sin(), w], dim=-1).reshape(-1, 3), torch.full(
        (num**2,), 4 * math.pi / num**2
    ).double()


@pytest.mark.parametrize("kappa", [0.3, 8.0])
def test_density_moments_entropy_and_divergence_on_the_sphere(kappa: float) -> None:
    z, share = grid_on_the_sphere()
    direction = torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64) / 3
    q, p = VonMisesFisher(direction, torch.tensor(kappa, dtype=torch.float64)), UniformSphere(torch.zeros(3).double())
    mass = share * q.log_prob(z).exp()
    assert math.isclose(mass.sum().item(), 1.0, rel_tol=1e-4)
    mean = (mass[:, None] * z).sum(0)
    torch.testing.assert_close(q.mean, mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(q.variance, (mass[:, None] * (z - mean) ** 2).sum(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(q.entropy(), -(mass * q.log_prob(z)).sum(), rtol=1e-4, atol=1e-4)
    kl = closed_form_kl(q, p)
    assert kl is not None
    torch.testing.assert_close(kl, (mass * (q.log_prob(z) - p.log_prob(z))).sum(), rtol=1e-4, atol=1e-4)
    assert closed_form_kl(q, diagonal_normal(torch.zeros(3), torch.ones(3))) is None


def test_the_density_on_s2_is_its_elementary_formula() -> None:
    """D = 3: C(k) = k / (4 pi sinh k)."""
    direction, z = torch.tensor([0.0, 0.0, 1.0]).double(), torch.tensor([0.6, 0.0, 0.8]).double()
    for kappa in (0.1, 2.0, 30.0):
        q = VonMisesFisher(direction, torch.tensor(kappa).double())
        expected = kappa * 0.8 + math.log(kappa / (4 * math.pi * math.sinh(kappa)))
        assert math.isclose(q.log_prob(z).item(), expected, rel_tol=1e-6)


def unit(units: int) -> Tensor:
    return torch.nn.functional.normalize(torch.cos(torch.arange(units, dtype=torch.float64) + 1), dim=0)


@pytest.mark.parametrize("units", [2, 3, 10, 256])
@pytest.mark.parametrize("kappa", [1e-3, 1.0, 50.0, 1e4])
def test_draws_have_the_moments(units: int, kappa: float, within_standard_errors) -> None:
    torch.manual_seed(0)
    q = VonMisesFisher(unit(units), torch.tensor(kappa, dtype=torch.float64))
    z = q.sample((8000,))
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(8000).double())
    height = z @ unit(units)
    ratio = bessel_ratio(q.concentration, units)
    slope = normaliser(q.concentration, units).slope
    within_standard_errors(height, ratio)
    within_standard_errors((height - ratio) ** 2, slope)
    across = torch.zeros(units).double()
    across[0], across[1] = unit(units)[1], -unit(units)[0]
    across = across / across.norm()
    within_standard_errors(z @ across, 0.0)
    within_standard_errors((z @ across) ** 2, ratio / kappa)


@pytest.mark.parametrize(("units", "kappa"), [(2, 3.0), (3, 0.4), (5, 20.0)])
def test_draws_have_the_distribution_of_the_angle(units: int, kappa: float) -> None:
    """Kolmogorov-Smirnov: 1.95 / sqrt(n) is passed by one seed in a thousand."""
    torch.manual_seed(1)
    angle = torch.sort(_draw_angle(torch.full((20_000,), kappa, dtype=torch.float64), units)).values
    grid = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
    density = torch.exp(kappa * (grid.cos() - 1)) * grid.sin() ** (units - 2)
    mass = torch.cumulative_trapezoid(density, grid)
    mass = torch.cat([torch.zeros(1).double(), mass / mass[-1]])
    at = torch.searchsorted(grid, angle).clamp(1, 20_000)
    share = (angle - grid[at - 1]) / (grid[at] - grid[at - 1])
    expected = mass[at - 1] + share * (mass[at] - mass[at - 1])
    found = (torch.arange(20_000).double() + 0.5) / 20_000
    assert (expected - found).abs().max() < 1.95 / math.sqrt(20_000)


@pytest.mark.parametrize("units", [2, 3, 40, 256])
@pytest.mark.parametrize("kappa", [1e-2, 2.0, 200.0, 1e5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_angle_moves_along_its_quantile(units: int, kappa: float, dtype: torch.dtype) -> None:
    """da / dk = -(dF / dk) / f, with both by a fine sum over the whole of where the density is."""
    width = math.sqrt((units + 150) / (kappa + units / math.pi**2 + 10))
    grid = torch.linspace(0, min(math.pi, width), 400_001, dtype=torch.float64)
    fall = -2 * torch.sin(grid / 2) ** 2  # cos - 1
    log_density = kappa * fall + (units - 2) * torch.log(grid.sin().abs().clamp_min(1e-300))
    density = torch.exp(log_density - log_density.max())
    change = torch.cat([torch.zeros(1).double(), torch.cumulative_trapezoid(density, grid)])
    mean = torch.trapezoid(density * fall, grid) / change[-1]
    moved = torch.cat([torch.zeros(1).double(), torch.cumulative_trapezoid(density * (fall - mean), grid)])
    for quantile in (1e-3, 0.3, 0.7, 0.999):
        at = int(torch.searchsorted(change, quantile * change[-1]))
        expected = -(moved[at] / density[at]).item()
        found = _angle_slope(torch.tensor(kappa, dtype=dtype), grid[at].to(dtype), units).item()
        assert math.isclose(found, expected, rel_tol=1e-4 if dtype == torch.float64 else 1e-3), (quantile, found, expected)


@pytest.mark.parametrize(("units", "kappa"), [(2, 1.5), (3, 4.0), (8, 10.0)])
def test_gradients_of_draws_are_those_of_expectations(units: int, kappa: float, within_standard_errors) -> None:
    """d / dk and d / dm of E[b.z + (a.z)^2], whose moments are closed: the gradient of one draw has them as its mean."""
    a, b = unit(units + 3)[3:], unit(units + 1)[1:]

    def expectation(raw: Tensor, k: Tensor) -> Tensor:
        m = raw / raw.norm()
        ratio = bessel_ratio(k, units)
        second = ratio / k + (1 - units * ratio / k) * (a @ m) ** 2 / (a @ a)
        return ratio * (b @ m) + second * (a @ a)

    raw, k = 1.7 * unit(units), torch.tensor(kappa, dtype=torch.float64)
    step = 1e-4
    by_kappa = (expectation(raw, k + step) - expectation(raw, k - step)) / (2 * step)
    by_raw = torch.stack(
        [(expectation(raw + s, k) - expectation(raw - s, k)) / (2 * step) for s in step * torch.eye(units).double()]
    )
    torch.manual_seed(2)
    raws = raw.expand(20_000, units).clone().requires_grad_()
    ks = k.expand(20_000).clone().requires_grad_()
    z = VonMisesFisher(torch.nn.functional.normalize(raws, dim=-1), ks).rsample()
    (z @ b + (z @ a) ** 2).sum().backward()
    assert ks.grad is not None
    assert raws.grad is not None
    within_standard_errors(ks.grad, by_kappa)
    within_standard_errors(raws.grad, by_raw)


@pytest.mark.parametrize("units", [2, 3, 40, 256])
def test_float32_is_stable_over_all_concentrations(units: int) -> None:
    torch.manual_seed(0)
    kappa = torch.logspace(-3, 6, 19).requires_grad_()
    raw = torch.randn(19, units).requires_grad_()
    q = VonMisesFisher(torch.nn.functional.normalize(raw, dim=-1), kappa)
    z = q.rsample((200,))
    log_q, kl = q.log_prob(z), closed_form_kl(q, UniformSphere(torch.zeros(units)))
    assert kl is not None
    assert (z.norm(dim=-1) - 1).abs().max() < 1e-5
    double = VonMisesFisher(q.direction.double(), kappa.double())
    torch.testing.assert_close(log_q.double(), double.log_prob(z.double()), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(kl.double(), divergence_from_uniform(kappa.double(), units), rtol=1e-5, atol=1e-4)
    sampled = (log_q + log_area(units)).mean(0)
    error = (log_q.std(0) / math.sqrt(200)).detach()
    assert ((sampled - kl).abs() < 4.5 * error + 1e-3).all()
    (log_q.mean() + kl.sum() + z.square()[..., 0].sum()).backward()
    for gradient in (kappa.grad, raw.grad):
        assert gradient is not None
        assert torch.isfinite(gradient).all()


def test_centre_is_on_the_sphere_and_stopped_follows_the_value() -> None:
    raw, kappa = torch.randn(4, 3).requires_grad_(), torch.rand(4).requires_grad_()
    q = VonMisesFisher(torch.nn.functional.normalize(raw, dim=-1), kappa)
    point, scale = centre(q)
    torch.testing.assert_close(point.norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(scale, q.variance.sqrt())
    z = torch.nn.functional.normalize(torch.randn(4, 3), dim=-1).requires_grad_()
    (gradient,) = torch.autograd.grad(stopped(q).log_prob(z).sum(), z)
    torch.testing.assert_close(gradient, (kappa[:, None] * (q.direction - z)).detach())  # k m, but for what points along z


def test_the_uniform_on_the_sphere(within_standard_errors) -> None:
    torch.manual_seed(0)
    p = UniformSphere(torch.zeros(5))
    z = p.sample((4000,))
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(4000))
    within_standard_errors(z, p.mean)
    within_standard_errors(z**2, p.variance)
    assert math.isclose(log_area(2), math.log(2 * math.pi))
    assert math.isclose(log_area(4), math.log(2 * math.pi**2))
    assert p.log_prob(z[:, None]).shape == (4000, 1)


def test_the_nodes_of_the_quadrature_are_made_once_a_device_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    def backward(dtype: torch.dtype) -> None:
        kappa = torch.tensor([2.0, 3.0], dtype=dtype, requires_grad=True)
        VonMisesFisher(torch.eye(3, dtype=dtype)[:2], kappa).rsample().sum().backward()

    with torch.inference_mode():
        _angle_slope(torch.tensor([2.0]), torch.tensor([0.5]), 3)
    backward(torch.float32)
    backward(torch.float64)
    made, tensor = [], torch.tensor

    def counted(data: object, *args: object, **options: object) -> Tensor:
        made.extend([data] if hasattr(data, "__len__") and len(data) > 10 else [])
        return tensor(data, *args, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(torch, "tensor", counted)
    backward(torch.float32)
    backward(torch.float64)
    assert not made
