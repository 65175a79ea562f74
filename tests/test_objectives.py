"""Objectives against numbers worked out by hand, and against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.distributions import diagonal_normal, mixture_of_normals
from vaekit.errors import ConfigError
from vaekit.likelihoods import Bernoulli
from vaekit.networks import MLP
from vaekit.objectives import ELBO, IWAE, Objective, log_mean_weight, rate
from vaekit.posteriors import DiagonalNormal, FullNormal
from vaekit.priors import MixtureOfNormals, StandardNormal
from vaekit.types import Latent, Trace
from vaekit.vae import VAE

# Two examples, two units, two samples. KL(N(m, s^2) || N(0, 1)) = (m^2 + s^2 - 1) / 2 - log s:
#   example 0: N(1, 1): 0.5               N(0, 2^2): 1.5 - log 2
#   example 1: N(0, 1): 0                 N(3, 1):   4.5
LOG2 = math.log(2.0)
KL = [[0.5, 1.5 - LOG2], [0.0, 4.5]]
RATES = [2.0 - LOG2, 4.5]
LOG_LIKELIHOOD = [[-3.0, -10.0], [-5.0, -12.0]]  # (K, B)
DISTORTION = 7.5
RATE = (6.5 - LOG2) / 2


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def level(prior: Distribution | None = None, num_samples: int = 2) -> Latent:
    q = diagonal_normal(double([[1.0, 0.0], [0.0, 3.0]]), double([[1.0, 2.0], [1.0, 1.0]]))
    p = prior or diagonal_normal(double([0.0, 0.0]), double([1.0, 1.0]))
    z = q.sample((num_samples,))
    return Latent(z, q, p)


def trace_of(*latents: Latent, log_likelihood: object = LOG_LIKELIHOOD) -> Trace:
    found = double(log_likelihood)
    return Trace(torch.zeros(2, 1), diagonal_normal(torch.zeros(1), torch.ones(1)), found, latents or (level(),))


def weighted(log_weights: Tensor) -> Trace:
    """A trace whose log-weights are the given (K, B)."""
    zero = torch.zeros_like(log_weights)
    p = diagonal_normal(torch.zeros(1), torch.ones(1))
    return Trace(torch.zeros(log_weights.shape[1], 1), p, log_weights, (Latent(zero[..., None], p, p),))


# ------------------------------------------------------------------------------------------------------------------- ELBO


def test_elbo_by_hand() -> None:
    bound = ELBO()(trace_of())
    assert bound.rate.item() == pytest.approx(RATE, rel=1e-14)
    assert bound.distortion.item() == pytest.approx(DISTORTION, rel=1e-14)
    assert bound.elbo.item() == pytest.approx(-(DISTORTION + RATE), rel=1e-14)
    assert bound.loss.item() == pytest.approx(DISTORTION + RATE, rel=1e-14)
    torch.testing.assert_close(rate(trace_of()), double(RATES))


@pytest.mark.parametrize("beta", [0.0, 0.25, 4.0])
def test_beta_weighs_the_rate_and_leaves_the_bound(beta: float) -> None:
    bound = ELBO(beta=beta)(trace_of())
    assert bound.loss.item() == pytest.approx(DISTORTION + beta * RATE, rel=1e-14)
    assert bound.elbo.item() == pytest.approx(-(DISTORTION + RATE), rel=1e-14)
    assert bound.rate.item() == pytest.approx(RATE, rel=1e-14)


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (1, 0.01), (50, 0.5), (100, 1.0), (1000, 1.0), (None, 1.0)])
def test_warm_up(step: int | None, share: float) -> None:
    bound = ELBO(beta=2.0, warm_up=100)(trace_of(), step=step)
    assert bound.loss.item() == pytest.approx(DISTORTION + 2.0 * share * RATE, rel=1e-14)
    assert ELBO(beta=2.0, warm_up=100).beta_at(step) == pytest.approx(2.0 * share)


def test_two_levels_add() -> None:
    bound = ELBO(beta=3.0)(trace_of(level(), level()))
    assert bound.rate.item() == pytest.approx(2 * RATE, rel=1e-14)
    assert bound.loss.item() == pytest.approx(DISTORTION + 6 * RATE, rel=1e-14)


# batch means of each unit: 0.25 and 3 - log(2) / 2 = 2.6534
@pytest.mark.parametrize(
    ("free_bits", "charged"),
    [(0.2, 0.25 + 3 - LOG2 / 2), (0.3, 0.3 + 3 - LOG2 / 2), (2.6, 2.6 + 3 - LOG2 / 2), (2.7, 5.4), (5.0, 10.0)],
)
@pytest.mark.parametrize("num_samples", [2, 1])
def test_free_bits_of_each_unit(free_bits: float, charged: float, num_samples: int) -> None:
    trace = trace_of(level(num_samples=num_samples), log_likelihood=LOG_LIKELIHOOD[:num_samples])
    bound = ELBO(free_bits=free_bits)(trace)
    assert bound.loss.item() == pytest.approx(bound.distortion.item() + charged, rel=1e-14)
    assert bound.rate.item() == pytest.approx(RATE, rel=1e-14)
    weighed = ELBO(free_bits=free_bits, beta=2.0, warm_up=4)(trace, step=1)
    assert weighed.loss.item() == pytest.approx(bound.distortion.item() + 0.5 * charged, rel=1e-14)


def test_free_bits_of_a_level_whose_distributions_depend_on_the_sample() -> None:
    """A second level's q and p have batch (K, B): a unit's mean is over samples and examples."""
    mean = double([[[0.0, 2.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 4.0]]])  # KL = mean^2 / 2
    q, p = diagonal_normal(mean, torch.ones_like(mean)), diagonal_normal(torch.zeros_like(mean), torch.ones_like(mean))
    second = Latent(mean, q, p)
    bound = ELBO(free_bits=0.6)(trace_of(second))
    unit_means = [0.25, 2.5]
    assert bound.loss.item() == pytest.approx(DISTORTION + max(0.6, unit_means[0]) + max(0.6, unit_means[1]), rel=1e-14)
    assert bound.rate.item() == pytest.approx(sum(unit_means), rel=1e-14)
    # q of each sample, p of each example: the shapes of ladder and of conditional models
    shared = Latent(mean, q, diagonal_normal(torch.zeros(2, 2).double(), torch.ones(2, 2).double()))
    assert ELBO(free_bits=0.6)(trace_of(shared)).loss.item() == pytest.approx(bound.loss.item(), rel=1e-14)
    assert ELBO()(trace_of(shared)).rate.item() == pytest.approx(sum(unit_means), rel=1e-14)


def test_free_bits_are_shared_over_a_level_with_a_mixture_prior() -> None:
    mixture = mixture_of_normals(double([0.0, 0.3]), double([[0.0, 0.0], [1.0, 2.0]]), double([[1.0, 1.0], [2.0, 0.5]]))
    latent = level(mixture)
    sampled = (latent.log_q - latent.log_p).mean().item()
    assert ELBO(free_bits=0.0)(trace_of(latent)).loss.item() == pytest.approx(DISTORTION + sampled, rel=1e-14)
    below, above = sampled / 2 - 0.1, sampled / 2 + 0.1  # lambda times two units
    assert ELBO(free_bits=below)(trace_of(latent)).loss.item() == pytest.approx(DISTORTION + sampled, rel=1e-14)
    assert ELBO(free_bits=above)(trace_of(latent)).loss.item() == pytest.approx(DISTORTION + sampled + 0.2, rel=1e-13)


# 2 examples of (2 channels, 1 row, 2 columns), q = N(mean, 1), p = N(0, 1), so that KL = mean^2 / 2.
MAP = [[[[1.0, 0.0]], [[2.0, 2.0]]], [[[0.0, 1.0]], [[4.0, 0.0]]]]
# batch means: channel 0 [0.25, 0.25], channel 1 [5, 1]: 0.5 and 6 by channel, 6.5 the level


def map_latent() -> Latent:
    mean, zero = double(MAP), double([[[0.0, 0.0]], [[0.0, 0.0]]])
    q, p = diagonal_normal(mean, torch.ones_like(mean), 3), diagonal_normal(zero, torch.ones_like(zero), 3)
    return Latent(mean.expand(2, *mean.shape), q, p)


@pytest.mark.parametrize(
    ("per", "free_bits", "charged"),
    [
        ("unit", 0.2, 6.5),
        ("unit", 0.3, 0.6 + 6.0),
        ("unit", 1.5, 4.5 + 5.0),
        ("channel", 0.4, 6.5),
        ("channel", 0.7, 0.7 + 6.0),
        ("channel", 7.0, 14.0),
        ("level", 6.4, 6.5),
        ("level", 7.0, 7.0),
    ],
)
def test_free_bits_of_each_group(per: str, free_bits: float, charged: float) -> None:
    trace = trace_of(map_latent())
    bound = ELBO(free_bits=free_bits, free_bits_per=per)(trace)
    assert bound.loss.item() == pytest.approx(DISTORTION + charged, rel=1e-14)
    assert bound.rate.item() == pytest.approx(6.5, rel=1e-14)


def test_a_channel_of_a_vector_is_a_unit_and_levels_are_charged_apart() -> None:
    trace = trace_of(level(), level(), map_latent())
    by_unit, by_channel = (ELBO(free_bits=0.3, free_bits_per=per)(trace).loss.item() for per in ("unit", "channel"))
    assert by_unit - by_channel == pytest.approx(0.6 - 0.5, rel=1e-12)  # only the map's channel of two units differs
    each = ELBO(free_bits=5.0, free_bits_per="level")(trace)
    assert each.loss.item() == pytest.approx(DISTORTION + 5.0 + 5.0 + 6.5, rel=1e-14)


@pytest.mark.parametrize(("per", "groups"), [("unit", 2), ("channel", 2), ("level", 1)])
def test_free_bits_of_groups_that_have_no_rate_of_their_own(per: str, groups: int) -> None:
    mixture = mixture_of_normals(double([0.0, 0.3]), double([[0.0, 0.0], [1.0, 2.0]]), double([[1.0, 1.0], [2.0, 0.5]]))
    latent = level(mixture)
    sampled = (latent.log_q - latent.log_p).mean().item()
    for free_bits in (sampled / groups - 0.1, sampled / groups + 0.1):
        bound = ELBO(free_bits=free_bits, free_bits_per=per)(trace_of(latent))
        assert bound.loss.item() == pytest.approx(DISTORTION + max(sampled, groups * free_bits), rel=1e-13)


@pytest.mark.parametrize(
    ("step", "share"),
    [(0, 0), (1, 0.1), (10, 1), (19, 1), (20, 0), (25, 0.5), (30, 1), (39, 1), (40, 0), (59, 1), (60, 1), (65, 1), (None, 1)],
)
def test_cycles_of_the_warm_up(step: int | None, share: float) -> None:
    """Ten steps up, ten at beta, three times; then beta for good."""
    assert ELBO(beta=2.0, warm_up=10, cycles=3).beta_at(step) == pytest.approx(2.0 * share)


@pytest.mark.parametrize("capacity", [0.0, 1.0, 3.0, 10.0])
def test_capacity(capacity: float) -> None:
    bound = ELBO(beta=5.0, capacity=capacity)(trace_of())
    charged = (abs(RATES[0] - capacity) + abs(RATES[1] - capacity)) / 2
    assert bound.loss.item() == pytest.approx(DISTORTION + 5.0 * charged, rel=1e-14)
    assert bound.elbo.item() == pytest.approx(-(DISTORTION + RATE), rel=1e-14)


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (5, 0.25), (20, 1.0), (99, 1.0), (None, 1.0)])
def test_capacity_opens_over_steps(step: int | None, share: float) -> None:
    bound = ELBO(beta=5.0, capacity=4.0, capacity_steps=20)(trace_of(), step=step)
    charged = (abs(RATES[0] - 4.0 * share) + abs(RATES[1] - 4.0 * share)) / 2
    assert bound.loss.item() == pytest.approx(DISTORTION + 5.0 * charged, rel=1e-14)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"beta": -1.0}, "`beta` must be finite and >= 0, got -1.0. Use `beta=0`"),
        ({"beta": math.nan}, "`beta` must be finite and >= 0, got nan"),
        ({"beta": math.inf}, "`beta` must be finite and >= 0, got inf"),
        ({"free_bits": math.inf}, "`free_bits` must be finite and >= 0, got inf"),
        ({"capacity": math.inf}, "`capacity` must be finite and >= 0, or None, got inf"),
        ({"warm_up": -1}, "`warm_up` and `capacity_steps` must be >= 0"),
        ({"capacity_steps": -1}, "`warm_up` and `capacity_steps` must be >= 0"),
        ({"free_bits": -0.1}, "`free_bits` must be finite and >= 0"),
        ({"capacity": -0.1}, "`capacity` must be finite and >= 0"),
        ({"capacity": 1.0, "free_bits": 0.1}, "must not be set together"),
        ({"free_bits": 1.0, "free_bits_per": "group"}, "`free_bits_per` must be unit, channel or level, got 'group'"),
        ({"cycles": 0}, "`cycles` must be at least 1, and 1 without a warm-up, got 0"),
        ({"cycles": 2}, "`cycles` must be at least 1, and 1 without a warm-up, got 2 with `warm_up=0`"),
    ],
)
def test_an_argument_that_cannot_be(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ELBO(**arguments)


# ------------------------------------------------------------------------------------------------------------------- IWAE


def test_iwae_by_hand() -> None:
    """Weights 1, 2, 6 of one example and 4, 4, 4 of another: log 3 and log 4."""
    bound = IWAE()(weighted(double([[1.0, 4.0], [2.0, 4.0], [6.0, 4.0]]).log()))
    expected = (math.log(3.0) + math.log(4.0)) / 2
    assert bound.loss.item() == pytest.approx(-expected, rel=1e-14)
    assert bound.terms["k_sample_bound"].item() == pytest.approx(expected, rel=1e-14)


def test_log_weights_are_the_bound_in_its_parts() -> None:
    trace = trace_of(level(), level())
    expected = trace.log_likelihood.clone()
    for latent in trace.latents:
        expected += latent.log_p
        expected -= latent.log_q
    torch.testing.assert_close(trace.log_weights, expected)
    weights = trace.log_weights.exp()
    torch.testing.assert_close(log_mean_weight(trace), ((weights[0] + weights[1]) / 2).log())


def test_iwae_reports_the_elbo_beside_its_loss() -> None:
    bound = IWAE()(trace_of())
    assert bound.elbo.item() == pytest.approx(-(DISTORTION + RATE), rel=1e-14)
    assert bound.rate.item() == pytest.approx(RATE, rel=1e-14)


def test_iwae_with_one_sample_is_the_sampled_elbo() -> None:
    mixture = mixture_of_normals(double([0.0, 0.3]), double([[0.0, 0.0], [1.0, 2.0]]), double([[1.0, 1.0], [2.0, 0.5]]))
    trace = trace_of(level(mixture, num_samples=1), log_likelihood=LOG_LIKELIHOOD[:1])
    assert IWAE()(trace).loss.item() == pytest.approx(ELBO()(trace).loss.item(), rel=1e-14)


@pytest.mark.parametrize("offset", [-1e5, -1e3, 1e3, 1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_log_weights_do_not_overflow(offset: float, dtype: torch.dtype) -> None:
    log_weights = (torch.tensor([[0.0], [-2.0], [-1.0]], dtype=dtype) + offset).requires_grad_()
    bound = IWAE()(weighted(log_weights))
    bound.loss.backward()
    expected = offset + math.log((1 + math.exp(-2) + math.exp(-1)) / 3)
    assert -bound.loss.item() == pytest.approx(expected, rel=1e-6 if dtype == torch.float32 else 1e-12)
    assert log_weights.grad is not None
    # float32 has steps of 0.008 at 1e5: log-weights are known to that, and their softmax relatively to that
    torch.testing.assert_close(
        log_weights.grad[:, 0], -torch.softmax(torch.tensor([0.0, -2.0, -1.0], dtype=dtype), 0), rtol=1e-2, atol=0
    )


# -------------------------------------------------------------------------------------------------------------- gradients

OBJECTIVES: dict[str, tuple[Objective, int | None]] = {
    "elbo": (ELBO(), None),
    "beta": (ELBO(beta=4.0), None),
    "warm-up": (ELBO(beta=2.0, warm_up=10), 3),
    "free bits": (ELBO(free_bits=0.25), None),
    "free bits of a level": (ELBO(free_bits=0.1, free_bits_per="level"), None),
    "capacity": (ELBO(beta=10.0, capacity=1.0), None),
    "iwae": (IWAE(), None),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("family", [DiagonalNormal, FullNormal])
@pytest.mark.parametrize("mixture", [False, True])
def test_gradient_of_every_parameter(name: str, family: Callable[..., DiagonalNormal | FullNormal], mixture: bool) -> None:
    """The loss with its noise fixed by a seed, against central differences in float64."""
    objective, step = OBJECTIVES[name]
    prior = MixtureOfNormals(2, num_components=2) if mixture else StandardNormal(2)
    vae = VAE(prior, family(MLP(3, [4], "tanh"), 2), Bernoulli(MLP(2, [4], "tanh"), [3])).double()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    x = double([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    names, values = zip(*vae.named_parameters(), strict=True)

    def loss(*parameters: Tensor) -> Tensor:
        torch.manual_seed(5)
        trace = torch.func.functional_call(vae, dict(zip(names, parameters, strict=True)), (x,), {"num_samples": 3})
        return objective(trace, step).loss

    assert torch.autograd.gradcheck(loss, values, fast_mode=False)


def test_free_bits_do_not_push_a_unit_below_them() -> None:
    mean = double([[0.1, 3.0]]).requires_grad_()
    q, p = diagonal_normal(mean, torch.ones_like(mean)), diagonal_normal(double([0.0, 0.0]), double([1.0, 1.0]))
    z = mean.detach()[None]
    trace = Trace(torch.zeros(1, 1), p, double([[0.0]]), (Latent(z, q, p),))
    ELBO(free_bits=0.5)(trace).loss.backward()
    assert mean.grad is not None
    torch.testing.assert_close(mean.grad, double([[0.0, 3.0]]))
