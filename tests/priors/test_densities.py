"""Every learned prior: its density integrates to one, its samples follow it, and the temperature does what it says."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vaekit.distributions import stopped
from vaekit.errors import ConfigError
from vaekit.networks import MLP
from vaekit.posteriors import DiagonalNormal, FullNormal
from vaekit.priors import Autoregressive, Exemplar, Flow, FlowMatching, MixtureOfNormals, Prior, Standardized, Vamp
from vaekit.priors.matching import FlowOfVelocity

Check = Callable[..., None]


def shaken(module: nn.Module, by: float = 0.3) -> nn.Module:
    """A copy in float64 whose parameters are no longer what they start as."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return module.double()


def vamp(d: int = 2) -> Vamp:
    prior = shaken(Vamp(d, [3], num_pseudo_inputs=4))
    prior.bind(shaken(FullNormal(MLP(3, [8]), d)))
    return prior


def exemplar(d: int = 2) -> Exemplar:
    prior = shaken(Exemplar(d, [3], num_exemplars=6))
    prior.bind(shaken(DiagonalNormal(MLP(3, [8]), d), 1.0))
    prior.store(torch.linspace(-2, 2, 12).reshape(4, 3).sin() * 3)
    return prior.eval()


def standardized(prior: Prior) -> Standardized:
    outer = Standardized(prior)
    outer.shift.copy_(torch.tensor([1.0, -0.5])[: prior.shape[0]])
    outer.scale.copy_(torch.tensor([0.5, 1.5])[: prior.shape[0]])
    return outer.double()


def make(name: str, d: int = 2) -> Prior:
    makers: dict[str, Callable[[], Prior]] = {
        "full": lambda: shaken(MixtureOfNormals(d, 3, covariance="full"), 0.7),
        "vamp": lambda: vamp(d),
        "exemplar": lambda: exemplar(d),
        "maf": lambda: shaken(Flow(d, "maf", [8], 2), 0.15),
        "nsf": lambda: shaken(Flow(d, "nsf", [8], 2), 0.15),
        "realnvp": lambda: shaken(Flow(d, "realnvp", [8], 2), 0.15),
        "autoregressive": lambda: shaken(Autoregressive(d, 3, [8, 8])),
        "matching": lambda: shaken(FlowMatching(d, [8, 8], num_steps=16), 0.15),
        "standardized": lambda: standardized(shaken(Autoregressive(d, 3, [8]))),
        "standardized mixture": lambda: standardized(shaken(MixtureOfNormals(d, 3, covariance="full"))),
    }
    torch.manual_seed(1)
    return makers[name]()


NAMES = (
    "full",
    "vamp",
    "exemplar",
    "maf",
    "nsf",
    "realnvp",
    "autoregressive",
    "matching",
    "standardized",
    "standardized mixture",
)


def grid(d: int, reach: float = 14.0, num: int = 401) -> tuple[Tensor, float]:
    """Points and the volume of each."""
    axis = torch.linspace(-reach, reach, num if d == 2 else 10 * num, dtype=torch.float64)
    return torch.cartesian_prod(*[axis] * d).reshape(-1, d), (axis[1] - axis[0]).item() ** d


FREQUENCIES = torch.tensor([[0.3, 0.0], [0.0, 0.4], [0.5, -0.5], [1.0, 0.7], [-0.2, 1.3]], dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("name", NAMES)
def test_samples_follow_a_density_that_integrates_to_one(name: str, temperature: float, within_standard_errors: Check) -> None:
    """The integral over a grid, and the characteristic function of the samples against that of the density."""
    p = make(name)(temperature=temperature)
    points, volume = grid(2, 8.0, 101) if name == "matching" else grid(2)
    with torch.no_grad():
        density = p.log_prob(points).exp() * volume
        z = p.sample((20_000,))
    assert density.sum().item() == pytest.approx(1.0, abs=2e-3)  # splines have kinks, a solver has steps
    for waves in (torch.cos, torch.sin):
        within_standard_errors(waves(z @ FREQUENCIES.T), (density[:, None] * waves(points @ FREQUENCIES.T)).sum(0), 4.5)


@pytest.mark.parametrize("name", NAMES)
def test_density_of_one_unit(name: str) -> None:
    points, volume = grid(1)
    with torch.no_grad():
        total = make(name, 1)().log_prob(points).exp().sum() * volume
    assert total.item() == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_leading_axes_are_kept_and_rows_do_not_meet(name: str) -> None:
    p, z = make(name)(), torch.randn(4, 3, 2, dtype=torch.float64)
    log_p = p.log_prob(z)
    assert log_p.shape == (4, 3)
    torch.testing.assert_close(log_p[2, 1], p.log_prob(z[2, 1]))
    with torch.no_grad():
        torch.testing.assert_close(p.log_prob(z), log_p.detach())
        assert p.sample((5, 6)).shape == (5, 6, 2)
        assert p.sample().shape == (2,)


@pytest.mark.parametrize("name", NAMES)
def test_stopped_keeps_the_gradient_to_the_value_alone(name: str) -> None:
    prior = make(name)
    own = list(prior.parameters()) + list(getattr(getattr(prior, "posterior", None), "parameters", list)())
    z = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(prior().log_prob(z).sum(), z)
    p = stopped(prior())
    p.log_prob(z).sum().backward()
    torch.testing.assert_close(z.grad, expected)
    assert all(parameter.grad is None for parameter in own)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_scales_components_about_their_centres(temperature: float, within_standard_errors: Check) -> None:
    """Second moments sum w (m m^T + T^2 S): of mixtures the centres stay."""
    for name in ("full", "vamp", "exemplar", "standardized mixture"):
        prior = make(name)
        p, one = prior(temperature=temperature), prior()
        z = p.sample((20_000,))
        shift, scale = (prior.shift, prior.scale) if isinstance(prior, Standardized) else (torch.zeros(2), torch.ones(2))
        inner = one.base if isinstance(prior, Standardized) else one
        weights = inner.mixture_distribution.probs[:, None].detach()
        means = inner.component_distribution.mean.detach() * scale + shift
        variance = inner.component_distribution.variance.detach() * scale.square()
        within_standard_errors(z, (weights * means).sum(0))
        within_standard_errors(z.square(), (weights * (means.square() + temperature**2 * variance)).sum(0))


def test_temperature_of_an_autoregressive_prior_is_that_of_its_factors() -> None:
    """Against the product of the two factors, written out."""
    prior, z = make("autoregressive"), torch.randn(5, 2, dtype=torch.float64)
    logits, mean, scale = prior().factors(z)
    density = (logits.softmax(-1) * torch.exp(-0.5 * ((z[..., None] - mean) / (0.6 * scale)).square()) / (0.6 * scale)).sum(-1)
    expected = density.log().sum(-1) - math.log(2 * math.pi)
    torch.testing.assert_close(prior(temperature=0.6).log_prob(z), expected)


@pytest.mark.parametrize("name", ["maf", "nsf", "realnvp"])
def test_temperature_of_a_flow_is_that_of_its_noise(name: str) -> None:
    """log p_T(z) - log p(z) is what the two scales say of the noise; the volume is the same."""
    prior, z = make(name), torch.randn(5, 2, dtype=torch.float64)
    noise, _ = prior.flow.pull(z, None)
    expected = (0.5 - 0.5 / 0.6**2) * noise.square().sum(-1) - 2 * math.log(0.6)
    torch.testing.assert_close(prior(temperature=0.6).log_prob(z) - prior().log_prob(z), expected)


def test_temperature_of_flow_matching_is_that_of_its_noise() -> None:
    prior, z = make("matching"), torch.randn(5, 2, dtype=torch.float64)
    expected = FlowOfVelocity(prior.velocity, 16, True, scale=0.6).log_prob(z)
    torch.testing.assert_close(prior(temperature=0.6).log_prob(z), expected)
    assert (expected - prior().log_prob(z)).abs().min() > 1e-3


@pytest.mark.parametrize("num_units", [1, 2, 5])
def test_a_masked_network_sees_the_units_before_alone(num_units: int) -> None:
    network = shaken(Autoregressive(num_units, 2, [7, 9])).network
    z = torch.randn(num_units, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(network, z).abs().sum(1)  # (D, D): unit out, unit in
    sees = torch.tril(torch.ones(num_units, num_units), diagonal=-1).bool()
    assert bool((jacobian[sees] > 0).all())
    assert bool((jacobian[~sees] == 0).all())


def test_full_covariance_by_hand() -> None:
    prior = MixtureOfNormals(2, 2, covariance="full").double()
    weights = torch.tensor([0.25, 0.75]).double()
    means = torch.tensor([[0.0, 1.0], [2.0, -1.0]]).double()
    covariance = torch.tensor([[[1.0, 0.6], [0.6, 2.0]], [[0.5, -0.3], [-0.3, 0.4]]]).double()
    prior.set_components(weights, means, torch.linalg.cholesky(covariance))
    z = torch.randn(6, 2).double()
    expected = torch.zeros(6).double()
    for w, m, s in zip(weights, means, 0.49 * covariance, strict=True):
        square = ((z - m) @ torch.linalg.inv(s) * (z - m)).sum(-1)
        expected = expected + w * torch.exp(-0.5 * square) / (2 * math.pi * torch.linalg.det(s).sqrt())
    torch.testing.assert_close(prior(temperature=0.7).log_prob(z), expected.log())
    diagonal = MixtureOfNormals(2, 2).double()
    diagonal.set_components(weights, means, torch.tensor([[1.0, 2.0], [3.0, 1e-7]]).double())
    torch.testing.assert_close(diagonal().component_distribution.stddev[0], torch.tensor([1.0, 2.0]).double())
    assert diagonal().component_distribution.stddev[1, 1].item() == pytest.approx(1e-4, rel=1e-5)
    torch.testing.assert_close(diagonal().mixture_distribution.probs, weights)


def test_models_saved_before_there_was_a_covariance_are_read() -> None:
    old = {"type": "priors.MixtureOfNormals", "num_latents": 2, "num_components": 3, "spread": 1.0}
    again = Prior.from_spec(old)
    assert set(again.state_dict()) == {"logits", "means", "raw_scale"}
    assert again.spec()["covariance"] == "diagonal"


def test_standardized_is_the_inner_density_in_other_units() -> None:
    z = torch.tensor([[1.0, 7.0, 4.0], [3.0, 7.0, -2.0]], dtype=torch.float64)
    prior = Standardized(MixtureOfNormals(3, 2)).double()
    prior.fit(z)
    torch.testing.assert_close(prior.shift, torch.tensor([2.0, 7.0, 1.0]).double())
    torch.testing.assert_close(prior.scale, torch.tensor([1.0, 1.0, 3.0]).double())
    expected = prior.prior().log_prob((z - prior.shift) / prior.scale) - math.log(3.0)
    torch.testing.assert_close(prior().log_prob(z), expected)
    torch.testing.assert_close(prior().mean, prior.shift + prior.scale * prior.prior().mean)
    torch.testing.assert_close(prior().variance, prior.scale.square() * prior.prior().variance)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: MixtureOfNormals(2, covariance="tied"), "`covariance` must be diagonal or full, got 'tied'"),
        (lambda: Vamp(2, []), "`data_shape` must hold sizes"),
        (lambda: Vamp(2, [3], 0), "`num_pseudo_inputs` must be at least 1, got 0"),
        (lambda: Vamp(2, [3], input_range=[1, 0]), "`input_range` must be"),
        (lambda: Vamp(2, [3], condition_features=-1), "`condition_features` must be >= 0"),
        (lambda: Vamp(2, [3])(), "must have the posterior of a model, got none"),
        (lambda: Exemplar(0, [3]), "`num_latents` must be at least 1"),
        (lambda: Exemplar(2, [0]), "`data_shape` must hold sizes"),
        (lambda: Exemplar(2, [3], 0), "`num_exemplars` must be at least 1"),
        (lambda: Exemplar(2, [3], dtype="int8"), "`dtype` must be float32 or uint8"),
        (lambda: Exemplar(2, [3])(), "must have the posterior of a model, got none"),
        (lambda: Flow(2, "spiral"), "`kind` must be one of"),
        (lambda: Flow(2, hidden=[]), "`hidden` must hold at least one width"),
        (lambda: Flow(2, num_transforms=0), "steps"),
        (lambda: Autoregressive(2, 0), "`num_components` must be at least 1"),
        (lambda: Autoregressive(2, hidden=[]), "`hidden` must hold widths"),
        (lambda: FlowMatching(2, hidden=[0]), "`hidden` must hold widths"),
        (lambda: FlowMatching(2, num_steps=0), "`num_steps` must be at least 1"),
        (lambda: FlowMatching(2, divergence="trace"), "`divergence` must be auto, exact or hutchinson"),
    ],
)
def test_an_argument_that_cannot_be(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()
