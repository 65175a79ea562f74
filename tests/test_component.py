"""Components: the spec is the constructor, and a contract that every registered component of the core keeps."""

from __future__ import annotations

import copy
import importlib
import json
import math
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import component_examples
from vaekit.component import Component, build, device_of, registered
from vaekit.distributions import diagonal_normal
from vaekit.errors import ConfigError, ModelFormatError
from vaekit.likelihoods import Bernoulli, Likelihood
from vaekit.networks import MLP, ConditionEncoder, ConvEncoder
from vaekit.objectives import ELBO, Objective
from vaekit.posteriors import DiagonalNormal, Posterior
from vaekit.priors import MixtureOfNormals, Prior, StandardNormal
from vaekit.types import Latent, Trace
from vaekit.vae import VAE

CORE = ("likelihoods", "networks", "objectives", "posteriors", "priors", "vae")


def core_classes() -> dict[str, type[Component]]:
    """Every final component that the modules of tiers 1 to 3 define."""
    modules = set()
    for name in CORE:
        module = importlib.import_module(f"vaekit.{name}")
        modules.add(module.__name__)
        modules |= {found.name for found in pkgutil.walk_packages(getattr(module, "__path__", []), f"{module.__name__}.")}
    for name in modules:
        importlib.import_module(name)
    return {name: cls for name, cls in registered().items() if cls.__module__ in modules}


def collected(name: str) -> dict[Any, Any]:
    """The entries of all modules of `component_examples` under one name; none may come twice."""
    found: dict[Any, Any] = {}
    for info in pkgutil.iter_modules(component_examples.__path__):
        part = getattr(importlib.import_module(f"component_examples.{info.name}"), name, {})
        assert not found.keys() & part.keys(), f"{found.keys() & part.keys()} in {info.name} and elsewhere"
        found |= part
    return found


EXAMPLES: dict[str, list[Callable[[], Component]]] = collected("EXAMPLES")
NUMBERS: dict[type[Component], Callable[[Any], Tensor]] = collected("NUMBERS")
CASES = [pytest.param(make, id=f"{name}-{i}") for name, makes in EXAMPLES.items() for i, make in enumerate(makes)]
component_cases = pytest.mark.parametrize("make", CASES)


def dtype_of(component: Component) -> torch.dtype:
    return next((t.dtype for t in (*component.parameters(), *component.buffers())), torch.float32)


def linear(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers from -1 to 1, evenly spaced."""
    return torch.linspace(-1, 1, math.prod(shape), dtype=dtype).reshape(shape)


def data_of(likelihood: Likelihood, dtype: torch.dtype) -> Tensor:
    """A fixed batch of 3 on the support of any likelihood: zeros and ones."""
    size = math.prod(likelihood.shape)
    return ((torch.arange(3 * size) * 5 % 7) < 3).to(dtype).reshape(3, *likelihood.shape)


def numbers(component: Component) -> Tensor:
    """The component's output at a fixed input, as one tensor; the same for the same weights and seed."""
    dtype = dtype_of(component)

    def ramp(*shape: int) -> Tensor:
        return linear(shape, dtype)

    torch.manual_seed(11)
    if type(component) in NUMBERS:
        return NUMBERS[type(component)](component)
    match component:
        case Prior():
            return component().log_prob(ramp(4, 3, 2))
        case Posterior():
            q = component(ramp(3, 3))
            return q.log_prob(q.rsample((4,))) + q.log_prob(ramp(4, 3, 2))
        case Likelihood():
            return component(ramp(2, 3, 2)).log_prob(data_of(component, dtype))
        case Objective():
            q, p = diagonal_normal(ramp(3, 2), ramp(3, 2).exp()), diagonal_normal(ramp(1, 2)[0], torch.ones(2))
            z = q.rsample((2,))
            trace = Trace(ramp(3, 1), p, ramp(2, 3), (Latent(z, q, p),))
            return component(trace, step=3).loss
        case VAE():
            condition = {"label": torch.tensor([0, 2, -1])} if component.condition is not None else None
            return component(data_of(component.likelihood, dtype), condition=condition, num_samples=4).log_weights
        case ConvEncoder() | MLP():
            spec = component.spec()
            shape = spec["shape"] if "shape" in spec else spec["in_shape"]
            return component(ramp(3, *([shape] if isinstance(shape, int) else shape)))
    raise AssertionError(f"say in `numbers` how a {type(component).__name__} is called")


def test_every_component_has_an_example() -> None:
    assert set(core_classes()) == set(EXAMPLES)


@component_cases
def test_spec_round_trip(make: Callable[[], Component]) -> None:
    component = make()
    spec = component.spec()
    text = json.dumps(spec, allow_nan=False)
    again = build(json.loads(text))
    assert type(again) is type(component)
    assert again.spec() == spec
    assert json.dumps(again.spec(), allow_nan=False) == text
    again.load_state_dict(component.state_dict())
    assert torch.equal(numbers(again), numbers(component))


@component_cases
def test_spec_names_every_argument(make: Callable[[], Component]) -> None:
    import inspect

    component = make()
    parameters = inspect.signature(type(component)).parameters.values()
    assert set(component.spec()) == {"type", *(p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))}


@component_cases
def test_deepcopy_is_whole_and_apart(make: Callable[[], Component]) -> None:
    component = make()
    twin = copy.deepcopy(component)
    assert twin.spec() == component.spec()
    before = numbers(component)
    assert torch.equal(numbers(twin), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert torch.equal(numbers(component), before)


@component_cases
def test_state_dict_holds_all_that_was_learned(make: Callable[[], Component]) -> None:
    component, other = make(), make()
    with torch.no_grad():
        for parameter in component.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    other.load_state_dict(component.state_dict())
    assert torch.equal(numbers(other), numbers(component))


@component_cases
def test_gradient_reaches_every_parameter(make: Callable[[], Component]) -> None:
    component = make()
    with torch.no_grad():
        for parameter in component.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    out = numbers(component)
    if not any(parameter.requires_grad for parameter in component.parameters()):
        return  # nothing is trained
    (out * torch.linspace(0.5, 1.5, out.numel()).reshape(out.shape)).sum().backward()
    for name, parameter in component.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@component_cases
def test_same_seed_same_component(make: Callable[[], Component]) -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(7)
        results.append(numbers(make()))
    assert torch.equal(*results)


@component_cases
def test_float64_is_float32_with_more_digits(make: Callable[[], Component]) -> None:
    component = make()
    single = numbers(component)
    noisy = isinstance(component, Posterior | VAE)  # their noise is drawn anew in another precision
    double = numbers(component.double())
    if any(True for _ in component.parameters()) or any(True for _ in component.buffers()):
        assert double.dtype == torch.float64
    assert double.shape == single.shape
    assert torch.isfinite(double).all()
    if not noisy:
        torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-4)  # a few hundred roundings of float32


# --------------------------------------------------------------------------------------------------------- spec, by itself


class Scale(Component):
    """A component of a user's own."""

    def __init__(self, by: float = 1.0, *, inner: Component | None = None, options: Any = None) -> None:
        super().__init__()
        self.by, self.inner, self.options = by, inner, options


class Pair(Component):
    def __init__(self, parts: list[Component], named: Mapping[str, Component] | None = None) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.named = nn.ModuleDict(named or {})


SCALE = Scale.registered_name


def test_defaults_and_keywords_are_in_the_spec() -> None:
    assert Scale().spec() == {"type": SCALE, "by": 1.0, "inner": None, "options": None}
    assert Scale(2.0, options=(1, [2])).spec()["options"] == [1, [2]]


def test_a_replaced_part_is_in_the_spec() -> None:
    vae = VAE(StandardNormal(2), DiagonalNormal(MLP(3, [4]), 2), Bernoulli(MLP(2, [4]), [3]))
    vae.prior = MixtureOfNormals(2, num_components=5)
    vae.posterior.network = MLP(3, [7, 4])
    spec = vae.spec()
    prior = {"num_latents": 2, "num_components": 5, "spread": 1.0, "covariance": "diagonal", "condition_features": 0}
    assert spec["prior"] == {"type": "priors.MixtureOfNormals", **prior}
    assert spec["posterior"]["network"]["hidden"] == [7, 4]
    again = build(spec)
    again.load_state_dict(vae.state_dict())


def test_a_removed_or_added_part_is_in_the_spec() -> None:
    outer = Scale(inner=Scale(2.0))
    outer.inner = None
    assert outer.spec()["inner"] is None
    outer.inner = Scale(3.0)
    assert outer.spec()["inner"]["by"] == 3.0


def test_parts_in_lists_and_dicts() -> None:
    pair = Pair([Scale(1.0), Scale(2.0)], {"a": Scale(3.0)})
    again = build(json.loads(json.dumps(pair.spec())))
    assert isinstance(again, Pair)
    assert [part.by for part in again.parts] == [1.0, 2.0]
    assert again.spec() == pair.spec()


@pytest.mark.parametrize("value", [torch.zeros(2), {1: "x"}, object(), [1, {"a": torch.nn.ReLU()}], b"x"])
def test_an_argument_that_is_not_json(value: object) -> None:
    with pytest.raises(ConfigError, match=r"Scale\(options=\.\.\.\) must be a JSON value or a Component to be saved, got"):
        Scale(options=value).spec()


def test_a_dict_that_looks_like_a_component_is_refused() -> None:
    with pytest.raises(ConfigError, match="a spec would take it for a component"):
        Scale(options={"type": "priors.StandardNormal"}).spec()


def test_a_column_named_type_is_a_column() -> None:
    encoder = build(json.loads(json.dumps(ConditionEncoder({"type": 3, "colour": 2}).spec())))
    assert isinstance(encoder, ConditionEncoder)
    assert encoder.categories == {"type": 3, "colour": 2}


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (None, 'must be an object with a "type"'),
        ([], 'must be an object with a "type"'),
        ({}, 'must be an object with a "type"'),
        ({"type": 3}, 'must be an object with a "type"'),
        ({"type": "os.system"}, "must be registered, found the type 'os.system'"),
        ({"type": "component.Component"}, "must be registered"),
        ({"type": "priors.Prior"}, "must fit its arguments"),
        ({"type": "priors.StandardNormal"}, "must fit its arguments"),
        ({"type": "priors.StandardNormal", "num_latents": 0}, "must be at least 1"),
        ({"type": "priors.StandardNormal", "num_latents": "two"}, "must fit its arguments"),
        ({"type": "priors.StandardNormal", "num_latents": 2, "extra": 1}, "unexpected keyword"),
        ({"type": "likelihoods.Bernoulli", "network": None, "shape": [3]}, "must fit its arguments"),
        ({"type": "likelihoods.Bernoulli", "network": {"type": 3}, "shape": [3]}, "must fit its arguments"),
        ({"type": "likelihoods.Bernoulli", "network": {"type": "gone.MLP"}, "shape": [3]}, "must be registered"),
        (
            {"type": "likelihoods.Bernoulli", "network": {"type": "priors.StandardNormal", "num_latents": 2}, "shape": [3]},
            "must fit its arguments",
        ),
        ({"type": "networks.MLP", "in_shape": 3, "hidden": []}, "must have layers"),
        ({"type": "networks.MLP", "in_shape": 3, "hidden": 8}, "must fit its arguments"),
        ({"type": "networks.MLP", "in_shape": [], "hidden": [8]}, "must fit its arguments"),
        ({"type": "networks.MLP", "in_shape": 3, "hidden": [10**15]}, "must fit its arguments"),
        ({"type": "networks.MLP", "in_shape": 3, "hidden": [8], "input_range": [1]}, "must fit its arguments"),
        ({"type": "networks.ConvEncoder", "shape": [1, 4, 4], "channels": {"a": 1}}, "must fit its arguments"),
    ],
)
def test_a_spec_that_is_none(spec: Any, sentence: str) -> None:
    with pytest.raises(ModelFormatError, match=sentence):
        build(spec)


def test_from_spec_checks_the_class() -> None:
    spec = StandardNormal(2).spec()
    assert isinstance(Prior.from_spec(spec), StandardNormal)
    with pytest.raises(ModelFormatError, match=r"A Posterior must be here, found priors\.StandardNormal"):
        Posterior.from_spec(spec)


def test_registered_holds_final_classes_only() -> None:
    priors = registered(Prior)
    assert priors["priors.StandardNormal"] is StandardNormal
    assert not {"priors.Prior", "posteriors.Posterior", "posteriors._NormalPosterior", "objectives.Objective"} & set(
        registered()
    )
    assert all(issubclass(cls, Prior) for cls in priors.values())


def test_a_wrong_call_raises_pythons_own_error() -> None:
    with pytest.raises(TypeError, match="num_latents"):
        StandardNormal()  # pyright: ignore[reportCallIssue]


def test_device_of() -> None:
    assert device_of(MLP(2, [3])) == torch.device("cpu")
    assert device_of(ELBO()) == torch.device("cpu")
    assert device_of(StandardNormal(2).to("meta")) == torch.device("meta")
