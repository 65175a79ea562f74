"""Bounds of several samples: their values against quadrature, and their gradients against those of the exact expectation.

The model of most tests has one latent: z ~ N(shift, 1), x|z ~ N(weight z + bias + shift, e^(2 log_noise)), and q = N(mean +
shift, e^(2 log_scale)). `shift` stands for what p and q share, such as the features of a condition. Every replica has its
own copies of the parameters, so one backward pass gives independent draws of the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import AffineTransform, ExpTransform, Normal, TransformedDistribution

from vaekit.data.transforms import Levels
from vaekit.distributions import diagonal_normal, mixture_of_normals
from vaekit.errors import ConfigError
from vaekit.likelihoods import Bernoulli
from vaekit.networks import MLP, ConditionEncoder
from vaekit.objectives import (
    CIWAE,
    DIP,
    ELBO,
    IWAE,
    MIWAE,
    PIWAE,
    WAE,
    DReG,
    InfoVAE,
    Objective,
    StickingTheLanding,
    TotalCorrelation,
    log_mean_weight,
)
from vaekit.posteriors import Chain, DiagonalNormal, FullNormal, Posterior
from vaekit.priors import MixtureOfNormals, StandardNormal
from vaekit.training.run import train
from vaekit.types import Latent, Trace
from vaekit.vae import VAE

Check = Callable[..., None]
X = 1.3
PARAMETERS = {"weight": 0.9, "bias": -0.2, "log_noise": math.log(0.6), "shift": 0.15, "mean": 0.4, "log_scale": math.log(0.8)}
THETA, PHI = ("weight", "bias", "log_noise"), ("mean", "log_scale")


def log_densities(z: Tensor, p: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """log p(x, z) and log q(z|x) of the one-latent model, for z that broadcasts with the parameters."""
    likelihood = Normal(p["weight"] * z + p["bias"] + p["shift"], p["log_noise"].exp())
    log_p = likelihood.log_prob(torch.tensor(X, dtype=torch.float64)) + Normal(p["shift"], 1.0).log_prob(z)
    return log_p, Normal(p["mean"] + p["shift"], p["log_scale"].exp()).log_prob(z)


def double(value: object) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def values(**changes: float) -> dict[str, Tensor]:
    return {name: double(value) for name, value in (PARAMETERS | changes).items()}


def exact_bound(p: dict[str, Tensor], num_samples: int) -> Tensor:
    """E log 1/K sum_k w_k for K = 1 or 2, by Gauss-Hermite quadrature with 80 nodes a sample."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(80))
    weights = weights / weights.sum()
    log_p, log_q = log_densities(p["mean"] + p["shift"] + p["log_scale"].exp() * nodes, p)
    log_w = log_p - log_q
    if num_samples == 1:
        return (weights * log_w).sum()
    pairs = torch.logaddexp(log_w[:, None], log_w[None, :]) - math.log(2.0)
    return (weights[:, None] * weights[None, :] * pairs).sum()


def exact_gradient(num_samples: int, **changes: float) -> dict[str, float]:
    """Central differences of the exact bound; the gradient of `shift` is that of both its uses."""
    found = {}
    for name, value in (PARAMETERS | changes).items():
        ends = [exact_bound(values(**(changes | {name: value + h})), num_samples).item() for h in (1e-5, -1e-5)]
        found[name] = (ends[0] - ends[1]) / 2e-5
    return found


def replicas(num: int, num_samples: int, **changes: float) -> tuple[Trace, dict[str, Tensor]]:
    """A trace of `num` examples that are all the same, and its parameters, each (num,)."""
    p = {name: value.repeat(num).requires_grad_() for name, value in values(**changes).items()}
    column = {name: value.unsqueeze(-1) for name, value in p.items()}
    posterior = diagonal_normal(column["mean"] + column["shift"], column["log_scale"].exp())
    prior = diagonal_normal(column["shift"], torch.ones_like(column["shift"]))
    z = posterior.rsample((num_samples,))
    likelihood = diagonal_normal(column["weight"] * z + column["bias"] + column["shift"], column["log_noise"].exp())
    x = torch.full((num, 1), X, dtype=torch.float64)
    return Trace(x, likelihood, likelihood.log_prob(x), (Latent(z, posterior, prior),)), p


def gradients(objective: Objective, num: int, num_samples: int, **changes: float) -> dict[str, Tensor]:
    """Independent draws (num,) of the gradient of the bound, by parameter."""
    trace, p = replicas(num, num_samples, **changes)
    objective(trace).loss.backward()
    assert all(parameter.grad is not None for parameter in p.values())
    return {name: -num * parameter.grad for name, parameter in p.items() if parameter.grad is not None}


# --------------------------------------------------------------------------------------------------------------- gradients


def test_the_quadrature_is_right() -> None:
    """Below log p(x), rising with K, and at log p(x) where q is the posterior."""
    evidence = Normal(double(0.9 * 0.15 - 0.2 + 0.15), math.sqrt(0.9**2 + 0.6**2)).log_prob(double(X))
    bounds = [exact_bound(values(), k).item() for k in (1, 2)]
    assert bounds[0] < bounds[1] < evidence.item()
    assert exact_bound(values(**true_posterior()), 2).item() == pytest.approx(evidence.item(), rel=1e-12)


def true_posterior() -> dict[str, float]:
    """mean and log_scale of p(z|x)."""
    p = PARAMETERS
    precision = 1 + (p["weight"] / math.exp(p["log_noise"])) ** 2
    residual = X - p["bias"] - p["shift"]
    mean = (p["shift"] + p["weight"] * residual / math.exp(2 * p["log_noise"])) / precision
    return {"mean": mean - p["shift"], "log_scale": -0.5 * math.log(precision)}


@pytest.mark.parametrize(
    ("objective", "num_samples", "exact_samples"),
    [
        (IWAE(), 2, 2),
        (DReG(), 2, 2),
        (DReG(), 1, 1),
        (StickingTheLanding(), 1, 1),
        (StickingTheLanding(), 3, 1),
        (MIWAE(num_groups=2), 4, 2),
        (MIWAE(num_groups=3), 3, 1),
        (CIWAE(beta=1.0), 2, 1),
        (CIWAE(beta=0.0), 2, 2),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Objective) else str(value),
)
def test_gradient_is_that_of_the_exact_bound(
    objective: Objective, num_samples: int, exact_samples: int, within_standard_errors: Check
) -> None:
    drawn = gradients(objective, 100_000, num_samples)
    for name, exact in exact_gradient(exact_samples).items():
        within_standard_errors(drawn[name], exact)


@pytest.mark.parametrize("groups", [1, 2])
def test_piwae_follows_two_bounds(groups: int, within_standard_errors: Check) -> None:
    """With K = 2: theta's gradient is that of two samples, phi's that of one where M = 2."""
    drawn = gradients(PIWAE(groups), 100_000, 2)
    tight, loose = exact_gradient(2), exact_gradient(1 if groups == 2 else 2)
    for name in THETA:
        within_standard_errors(drawn[name], tight[name])
    for name in PHI:
        within_standard_errors(drawn[name], loose[name])
        if groups == 2:
            assert abs(tight[name] - loose[name]) > 0.02, "the two bounds must differ for this to say anything"


def test_mixture_of_bounds_has_the_mixture_of_gradients(within_standard_errors: Check) -> None:
    drawn, one, two = gradients(CIWAE(beta=0.3), 100_000, 2), exact_gradient(1), exact_gradient(2)
    for name, draws in drawn.items():
        within_standard_errors(draws, 0.3 * one[name] + 0.7 * two[name])


@pytest.mark.parametrize("num_samples", [1, 2, 7])
@pytest.mark.parametrize("objective", [StickingTheLanding(), DReG()], ids=["stl", "dreg"])
def test_no_noise_at_the_true_posterior(objective: Objective, num_samples: int) -> None:
    """phi's gradient is zero in every single draw; automatic differentiation of the bound has noise there."""
    exact = true_posterior()
    drawn = gradients(objective, 500, num_samples, **exact)
    noisy = gradients(IWAE(), 500, num_samples, **exact)
    for name in PHI:
        assert drawn[name].abs().max() < 1e-12
        assert noisy[name].std() > 0.05


def test_no_noise_at_the_true_posterior_of_several_latents(linear_gaussian: Any) -> None:
    vae = linear_gaussian.exact_vae()
    x = torch.randn(5, 3, dtype=torch.float64)
    for objective in (StickingTheLanding(), DReG()):
        vae.zero_grad()
        bound = objective(vae(x, num_samples=4))
        bound.loss.backward()
        assert bound.loss.item() == pytest.approx(-linear_gaussian.evidence(x).mean().item(), rel=1e-9)
        assert all(p.grad.abs().max() < 1e-11 for p in vae.posterior.parameters() if p.grad is not None)
        assert vae.likelihood.head.linear.weight.grad.abs().max() > 1e-3


def test_variance_near_the_posterior() -> None:
    exact = true_posterior()
    near = {"mean": exact["mean"] + 0.03, "log_scale": exact["log_scale"] + 0.03}
    plain, doubly = gradients(IWAE(), 4000, 16, **near), gradients(DReG(), 4000, 16, **near)
    for name in PHI:
        assert doubly[name].var() < 0.01 * plain[name].var()


def test_signal_to_noise_with_more_samples() -> None:
    """Rainforth et al. (2018): IWAE's falls with K; Tucker et al. (2019): the doubly reparameterised one's rises."""

    def ratio(objective: Objective, num_samples: int) -> float:
        draws = gradients(objective, 20_000, num_samples)["mean"]
        return (draws.mean().abs() / draws.std()).item()

    assert ratio(IWAE(), 64) < 0.6 * ratio(IWAE(), 2)
    assert ratio(DReG(), 64) > 1.5 * ratio(DReG(), 2)


# ------------------------------------------------------------------------------ whole models, against graphs of their own


Family = Callable[[MLP, int], Posterior]


def chain(network: MLP, num_latents: int) -> Chain:
    """Two levels in one latent."""
    second = DiagonalNormal(MLP(1, [4], "tanh", condition_features=2), num_latents - 1)
    return Chain([DiagonalNormal(network, 1), second])


def conditional_vae(family: Family) -> VAE:
    """Condition features feed encoder and decoder, and the prior is learned."""
    vae = VAE(
        MixtureOfNormals(2, num_components=3),
        family(MLP(3, [4], "tanh", condition_features=2), 2),
        Bernoulli(MLP(2, [4], "tanh", condition_features=2), [3]),
        ConditionEncoder({"label": 3}, features=2),
    ).double()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return vae


def model_trace(vae: VAE, num_samples: int) -> Trace:
    torch.manual_seed(5)
    x = double([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    return vae(x, condition={"label": torch.tensor([0, 2, 1])}, num_samples=num_samples)


def grads_of(vae: VAE, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*vae.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, found, strict=True)}


def by_role(vae: VAE, num_samples: int, a: Tensor, b: Tensor, c: Tensor) -> dict[str, Tensor]:
    """-1/B sum_k [a_k d log w_k through p's parameters + b_k through z - c_k through q's own], each from a graph of its own."""
    trace = model_trace(vae, num_samples)
    z = trace.latents[0].z.detach()
    through_p = grads_of(vae, (a * log_joint(trace, z)).sum(0).mean())

    trace, leaf = model_trace(vae, num_samples), z.clone().requires_grad_()
    log_w = log_joint(trace, leaf) - trace.latents[0].posterior.log_prob(leaf)
    slope = torch.autograd.grad(log_w.sum(), leaf)[0]
    through_z = grads_of(vae, (b[..., None] * slope * model_trace(vae, num_samples).latents[0].z).sum((0, 2)).mean())

    own = grads_of(vae, (c * model_trace(vae, num_samples).latents[0].posterior.log_prob(z)).sum(0).mean())
    return {n: -(through_p[n] + through_z[n] - own[n]) for n in through_p}


def log_joint(trace: Trace, z: Tensor) -> Tensor:
    """log p(x, z|c) at other latents."""
    assert trace.decode is not None
    return trace.decode(z).log_prob(trace.x) + trace.latents[0].prior.log_prob(z)


def softmax_of(vae: VAE, num_samples: int, groups: int = 1) -> Tensor:
    log_weights = model_trace(vae, num_samples).log_weights.detach()
    return torch.softmax(log_weights.unflatten(0, (groups, -1)), dim=1).flatten(0, 1) / groups


@pytest.mark.parametrize("family", [DiagonalNormal, FullNormal, chain])
@pytest.mark.parametrize("name", ["iwae", "dreg", "stl", "miwae", "piwae"])
def test_each_use_of_a_parameter_has_its_own_weight(name: str, family: Family) -> None:
    vae = conditional_vae(family)
    a, b = softmax_of(vae, 6), softmax_of(vae, 6, groups=3)
    sixth, zero = torch.full_like(a, 1 / 6), torch.zeros_like(a)
    objective, weights = {
        "iwae": (IWAE(), (a, a, a)),
        "dreg": (DReG(), (a, a * a, zero)),
        "stl": (StickingTheLanding(), (sixth, sixth, zero)),
        "miwae": (MIWAE(3), (b, b, b)),
        "piwae": (PIWAE(3), (a, b, b)),
    }[name]
    expected = by_role(vae, 6, *weights)
    found = grads_of(vae, objective(model_trace(vae, 6)).loss)
    assert set(found) == set(expected)
    for parameter, value in found.items():
        torch.testing.assert_close(value, expected[parameter], rtol=1e-9, atol=1e-12)
    assert all(value.any() for value in found.values())


def test_piwae_is_iwae_for_theta_and_miwae_for_phi() -> None:
    vae = conditional_vae(FullNormal)
    found = grads_of(vae, PIWAE(2)(model_trace(vae, 6)).loss)
    tight, loose = (grads_of(vae, objective(model_trace(vae, 6)).loss) for objective in (IWAE(), MIWAE(2)))
    for name, value in found.items():
        if not name.startswith("condition"):
            expected = loose if name.startswith("posterior") else tight
            torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_piwae_keeps_the_gradient_of_a_group_that_is_far_behind(dtype: torch.dtype) -> None:
    """Two samples 300 nats apart, each a group of its own: theta hears one of them, phi both alike."""
    mean = torch.zeros(1, 1, dtype=dtype, requires_grad=True)
    weight = torch.zeros(2, 1, dtype=dtype, requires_grad=True)
    posterior = diagonal_normal(mean, torch.ones_like(mean))
    z = mean + torch.tensor([[[0.5]], [[-0.25]]], dtype=dtype)
    log_likelihood = 2.0 * z[..., 0] + weight + torch.tensor([[0.0], [-300.0]], dtype=dtype)
    prior = diagonal_normal(torch.zeros(1, dtype=dtype), torch.ones(1, dtype=dtype))
    PIWAE(2)(Trace(torch.zeros(1, 1), prior, log_likelihood, (Latent(z, posterior, prior),))).loss.backward()
    assert mean.grad is not None
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, torch.tensor([[-1.0], [0.0]], dtype=dtype), rtol=1e-6, atol=1e-18)
    # d log w / d mean = 2 - z for each sample, once z's part and q's own part of log q have cancelled
    expected = -(2.0 - (0.5 - 0.25) / 2)
    torch.testing.assert_close(mean.grad, torch.full_like(mean, expected), rtol=1e-5, atol=0)


# ------------------------------------------------------------------------------------------------------------------ values


def log_weights_of(rows: list[list[float]]) -> Trace:
    """A trace whose weights are the given (K, B)."""
    found = double(rows).log()
    p = diagonal_normal(torch.zeros(1).double(), torch.ones(1).double())
    return Trace(torch.zeros(found.shape[1], 1), p, found, (Latent(torch.zeros_like(found)[..., None], p, p),))


def test_values_by_hand() -> None:
    """Weights 1, 3, 2, 6 of one example; 4, 4, 1, 1 of another."""
    trace = log_weights_of([[1.0, 4.0], [3.0, 4.0], [2.0, 1.0], [6.0, 1.0]])
    tight = (math.log(3.0) + math.log(2.5)) / 2
    loose = (math.log(2.0) + math.log(4.0) + math.log(4.0) + math.log(1.0)) / 4
    elbo = (math.log(36.0) + math.log(16.0)) / 8
    assert DReG()(trace).loss.item() == pytest.approx(-tight, rel=1e-14)
    assert StickingTheLanding()(trace).loss.item() == pytest.approx(-elbo, rel=1e-14)
    assert MIWAE(2)(trace).loss.item() == pytest.approx(-loose, rel=1e-14)
    assert MIWAE(2)(trace).terms["k_sample_bound"].item() == pytest.approx(tight, rel=1e-14)
    found = PIWAE(2)(trace)
    assert found.loss.item() == pytest.approx(-tight, rel=1e-14)
    assert found.terms["group_bound"].item() == pytest.approx(loose, rel=1e-14)
    assert CIWAE(beta=0.25)(trace).loss.item() == pytest.approx(-(0.25 * elbo + 0.75 * tight), rel=1e-14)


def test_ends_of_the_families() -> None:
    vae = conditional_vae(DiagonalNormal)
    trace = model_trace(vae, 6)
    iwae, sampled = IWAE()(trace).loss.item(), -trace.log_weights.mean().item()
    assert MIWAE(1)(trace).loss.item() == pytest.approx(iwae, rel=1e-14)
    assert MIWAE(6)(trace).loss.item() == pytest.approx(sampled, rel=1e-14)
    assert CIWAE(0.0)(trace).loss.item() == pytest.approx(iwae, rel=1e-14)
    assert CIWAE(1.0)(trace).loss.item() == pytest.approx(ELBO()(trace).loss.item(), rel=1e-14)
    same = grads_of(vae, IWAE()(model_trace(vae, 6)).loss)
    for objective in (MIWAE(1), CIWAE(0.0), PIWAE(1)):
        for name, value in grads_of(vae, objective(model_trace(vae, 6)).loss).items():
            torch.testing.assert_close(value, same[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "objective", [DReG(), StickingTheLanding(), MIWAE(2), CIWAE(), PIWAE(2)], ids=lambda o: type(o).__name__
)
def test_the_bound_beside_the_loss_is_the_elbo(objective: Objective) -> None:
    trace = model_trace(conditional_vae(DiagonalNormal), 4)
    bound, elbo = objective(trace), ELBO()(trace)
    for name in ("elbo", "rate", "distortion"):
        assert getattr(bound, name).item() == pytest.approx(getattr(elbo, name).item(), rel=1e-14)


@pytest.mark.parametrize("offset", [-1e4, 1e4])
@pytest.mark.parametrize("objective", [DReG(), MIWAE(3), PIWAE(3), CIWAE(0.0)], ids=lambda o: type(o).__name__)
def test_large_log_weights_do_not_overflow(offset: float, objective: Objective) -> None:
    log_weights = (torch.tensor([[0.0], [-2.0], [-400.0]]) + offset).requires_grad_()
    p = diagonal_normal(torch.zeros(1), torch.ones(1))
    bound = objective(Trace(torch.zeros(1, 1), p, log_weights, (Latent(torch.zeros(3, 1, 1), p, p),)))
    bound.loss.backward()
    assert torch.isfinite(bound.loss)
    assert log_weights.grad is not None
    assert log_weights.grad.sum().item() == pytest.approx(-1.0, rel=1e-4)  # float32 has steps of 0.001 at 1e4


# --------------------------------------------------------------------------------------------- how the samples are scaled


def test_called_twice_scales_once() -> None:
    vae = conditional_vae(DiagonalNormal)
    once = grads_of(vae, DReG()(model_trace(vae, 4)).loss)
    trace = model_trace(vae, 4)
    DReG()(trace)
    for name, value in grads_of(vae, DReG()(trace).loss).items():
        torch.testing.assert_close(value, once[name], rtol=0, atol=0)


@pytest.mark.parametrize("objective", [DReG(), PIWAE(2)], ids=["dreg", "piwae"])
def test_without_gradients_nothing_is_scaled(objective: Objective) -> None:
    vae = conditional_vae(DiagonalNormal)
    expected = grads_of(vae, IWAE()(model_trace(vae, 4)).loss)
    with torch.no_grad():
        silent = objective(model_trace(vae, 4)).loss
    trace = model_trace(vae, 4)
    with torch.no_grad():
        again = objective(trace).loss  # a look at a trace that is yet to be differentiated
    assert silent.item() == again.item() == pytest.approx(-log_mean_weight(trace).mean().item(), rel=1e-14)
    for name, value in grads_of(vae, IWAE()(trace).loss).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("objective", [DReG(), PIWAE(2), StickingTheLanding()], ids=["dreg", "piwae", "stl"])
def test_a_frozen_encoder_leaves_the_decoders_gradient(objective: Objective) -> None:
    vae = conditional_vae(DiagonalNormal)
    free = grads_of(vae, objective(model_trace(vae, 4)).loss)
    vae.posterior.requires_grad_(False)
    assert vae.condition is not None
    vae.condition.requires_grad_(False)
    trace = model_trace(vae, 4)
    assert not trace.latents[0].z.requires_grad
    objective(trace).loss.backward()
    for name, parameter in vae.likelihood.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, free[f"likelihood.{name}"], rtol=1e-12, atol=1e-15)


# -------------------------------------------------------------------------------------------------------------- two levels


def ladder(num: int, num_samples: int, p: dict[str, Tensor] | None = None) -> tuple[Trace, dict[str, Tensor]]:
    """z1 ~ N(0, 1), z2|z1 ~ N(z1, 1), x|z2 ~ N(z2, 0.6^2); q(z1) = N(a, 0.7^2), q(z2|z1) = N(b z1 + c, 0.5^2)."""
    p = p or {
        k: torch.full((num, 1), v, dtype=torch.float64, requires_grad=True) for k, v in {"a": 0.3, "b": 0.4, "c": 0.6}.items()
    }

    def normal(mean: Tensor, scale: float) -> Any:
        return diagonal_normal(mean, torch.full_like(mean, scale))

    first = normal(p["a"], 0.7)
    z1 = first.rsample((num_samples,))
    second = normal(p["b"] * z1 + p["c"], 0.5)
    z2 = second.rsample()
    likelihood = normal(z2, 0.6)
    x = torch.full((num, 1), X, dtype=torch.float64)
    levels = (Latent(z1, first, normal(double([0.0]), 1.0)), Latent(z2, second, normal(z1, 1.0)))
    return Trace(x, likelihood, likelihood.log_prob(x), levels), p


def test_sticking_the_landing_in_a_ladder(within_standard_errors: Check) -> None:
    """E log w in closed form, as a polynomial of a, b and c; its gradient by automatic differentiation."""
    a, b, c = (double(v).requires_grad_() for v in (0.3, 0.4, 0.6))
    second = 0.7**2 * b * b + 0.5**2 + (b * a + c) ** 2  # E z2^2
    joint = b * (a * a + 0.7**2) + c * a  # E z1 z2
    first = a * a + 0.7**2
    mean2 = b * a + c
    exact = -0.5 * first - 0.5 * (second - 2 * joint + first) - 0.5 * (second - 2 * X * mean2 + X * X) / 0.6**2
    expected = torch.autograd.grad(exact, (a, b, c))
    trace, p = ladder(100_000, 2)
    StickingTheLanding()(trace).loss.backward()
    for parameter, value in zip(p.values(), expected, strict=True):
        assert parameter.grad is not None
        within_standard_errors(-100_000 * parameter.grad[:, 0], value.item())


@pytest.mark.parametrize("objective", [DReG(), PIWAE(2)], ids=["DReG", "PIWAE"])
def test_several_levels_are_refused(objective: Objective) -> None:
    with pytest.raises(ConfigError, match=r"must be given one level of latents, got 2\. Put .* `posteriors\.Chain`"):
        objective(ladder(3, 2)[0])


def test_groups_that_do_not_divide_are_refused() -> None:
    trace = model_trace(conditional_vae(DiagonalNormal), 4)
    for objective in (MIWAE(3), PIWAE(3), MIWAE(8)):
        with pytest.raises(ConfigError, match="`num_groups` must divide the number of samples, got . groups of 4 samples"):
            objective(trace)
    one = model_trace(conditional_vae(DiagonalNormal), 1)
    assert MIWAE(3)(one).loss.item() == PIWAE(3)(one).loss.item() == pytest.approx(IWAE()(one).loss.item(), rel=1e-14)


@pytest.mark.parametrize(
    "make", [lambda: MIWAE(0), lambda: PIWAE(0), lambda: CIWAE(-0.1), lambda: CIWAE(1.1), lambda: CIWAE(math.nan)]
)
def test_an_argument_that_cannot_be(make: Callable[[], Objective]) -> None:
    with pytest.raises(ConfigError, match=r"`num_groups` must be at least 1|`beta` must be in \[0, 1\]"):
        make()


def test_a_mixture_posterior_needs_no_closed_form() -> None:
    """The rate that is reported is sampled, from the same log q that the loss uses."""
    p = diagonal_normal(torch.zeros(2).double(), torch.ones(2).double())
    q = mixture_of_normals(double([[0.0, 0.3]] * 2), torch.randn(2, 2, 2).double(), torch.ones(2, 2, 2).double())
    z = q.sample((3,))
    trace = Trace(torch.zeros(2, 1), p, torch.randn(3, 2).double(), (Latent(z, q, p),))
    expected = (q.log_prob(z) - p.log_prob(z)).mean().item()
    for objective in (DReG(), StickingTheLanding(), PIWAE(3)):
        assert objective(replace(trace)).rate.item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("cache_size", [0, 1])
@pytest.mark.parametrize("objective", [DReG(), StickingTheLanding(), PIWAE(2)], ids=["dreg", "stl", "piwae"])
def test_the_inverse_of_a_cached_sample_does_not_go_round_it(objective: Objective, cache_size: int) -> None:
    """A log-normal posterior whose transforms remember z's origin: the gradient must still pass through z."""
    found = []
    for size in (0, cache_size):
        torch.manual_seed(4)
        shift = torch.full((3, 1), 0.3, dtype=torch.float64, requires_grad=True)
        base = diagonal_normal(torch.zeros(3, 1).double(), torch.ones(3, 1).double())
        q = TransformedDistribution(base, [AffineTransform(shift, shift.exp(), 1, size), ExpTransform(size)])
        p = TransformedDistribution(diagonal_normal(torch.zeros(1).double(), torch.ones(1).double()), [ExpTransform()])
        z = q.rsample((4,))
        log_likelihood = -(z - 2.0).square()[..., 0]
        objective(Trace(torch.zeros(3, 1), p, log_likelihood, (Latent(z, q, p),))).loss.backward()
        found.append(shift.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)
    assert found[0] is not None
    assert found[0].abs().min() > 1e-3


# ---------------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    "objective",
    [DReG(), StickingTheLanding(), MIWAE(2), CIWAE(), PIWAE(2), TotalCorrelation(), DIP(), DIP(kind="ii"), InfoVAE(), WAE()],
    ids=lambda o: type(o).__name__,
)
def test_training_and_validation_of_one_example(objective: Objective) -> None:
    """Ten rows hold one out: a validation batch of one example with one sample, under no_grad."""
    rows = np.random.default_rng(0).integers(0, 2, size=(10, 5), dtype=np.uint8)
    vae = VAE(StandardNormal(2), DiagonalNormal(MLP(5, [8]), 2), Bernoulli(MLP(2, [8]), [5]))
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    bundle = train(
        rows,
        vae=vae,
        transform=Levels(),
        objective=objective,
        num_samples=4,
        steps=3,
        display_as="quiet",
        data_options={"levels": 2},
    )
    assert math.isfinite(bundle.metrics["validation_elbo"])
    moved = [name for name, p in vae.named_parameters() if not torch.equal(p, before[name])]
    assert moved == list(before)
