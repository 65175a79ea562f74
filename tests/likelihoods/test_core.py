"""Every likelihood is a density: it sums to one, its masks are marginals, its samples and start are its own."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from likelihood_cases import CASES, B, D, K, latents, without_features
from vaekit import likelihoods
from vaekit.distributions import MaskableDistribution
from vaekit.errors import ConfigError
from vaekit.likelihoods import (
    Bernoulli,
    Categorical,
    Cells,
    ContinuousBernoulli,
    DiscretizedLogisticMixture,
    Likelihood,
    Normal,
)
from vaekit.networks import MLP, ConvDecoder
from vaekit.priors import StandardNormal

Check = Callable[..., None]


def mlp(condition_features: int = 0) -> MLP:
    return MLP(D, [6], "tanh", condition_features=condition_features)


def mixture(shape: list[int], levels: int, num_components: int = 2) -> DiscretizedLogisticMixture:
    return DiscretizedLogisticMixture(mlp(), shape, levels=levels, num_components=num_components)


DISCRETE: dict[str, tuple[Callable[[], Likelihood], int]] = {
    "bernoulli": (lambda: Bernoulli(mlp(), [3]), 2),
    "bernoulli image": (lambda: Bernoulli(mlp(), [2, 1, 2]), 2),
    "bernoulli conv": (lambda: Bernoulli(ConvDecoder(D, [1, 2, 2], [3]), [1, 2, 2]), 2),
    "categorical": (lambda: Categorical(mlp(), [4], levels=3), 3),
    "categorical conv": (lambda: Categorical(ConvDecoder(D, [2, 1, 2], [3]), [2, 1, 2], levels=4), 4),
    "mixture vector": (lambda: mixture([3], 5), 5),
    "mixture grey": (lambda: mixture([1, 2, 2], 4), 4),
    "mixture colour": (lambda: mixture([3, 1, 1], 6), 6),
    "mixture colour conv": (
        lambda: DiscretizedLogisticMixture(ConvDecoder(D, [3, 2, 1], [4]), [3, 2, 1], levels=3, num_components=2),
        3,
    ),
    "mixture four channels": (lambda: mixture([4, 1, 1], 3), 3),
    "mixture binary": (lambda: mixture([3], 2, 1), 2),
}
CONTINUOUS: dict[str, Callable[[], Likelihood]] = {
    "continuous bernoulli": lambda: ContinuousBernoulli(mlp(), [3]),
}
PLACES: dict[str, Callable[[], Likelihood]] = {
    "cells": lambda: Cells(mlp(), [3, 1, 9]),  # sums over cells are in `test_cells`
    "cells in groups": lambda: Cells(mlp(), [2, 1100], rank=4),
}
ALL: dict[str, Callable[[], Likelihood]] = {**{name: make for name, (make, _) in DISCRETE.items()}, **CONTINUOUS, **PLACES}


def wild(likelihood: Likelihood) -> Likelihood:
    """Float64, with every parameter far from its start, so that no term of a formula is near zero."""
    likelihood = likelihood.double()
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.7)
    return likelihood


def values_of(levels: int, shape: tuple[int, ...]) -> Tensor:
    """(V^S, 1, *S), to be broadcast over a batch."""
    values = itertools.product(range(levels), repeat=math.prod(shape))
    return torch.tensor(list(values), dtype=torch.float64).reshape(-1, 1, 1, *shape)


def data_for(likelihood: Likelihood, batch: int = B) -> Tensor:
    levels = 2 if isinstance(likelihood, Bernoulli) else getattr(likelihood, "levels", None)
    shape = (batch, *likelihood.shape)
    return torch.randint(levels, shape).double() if levels else torch.rand(shape, dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------- normalised


@pytest.mark.parametrize("name", DISCRETE)
def test_sums_to_one(name: str) -> None:
    make, levels = DISCRETE[name]
    likelihood = wild(make())
    p = likelihood(latents())
    assert p.batch_shape == (K, B)
    assert p.event_shape == likelihood.shape
    log_p = p.log_prob(values_of(levels, likelihood.shape))
    total = torch.logsumexp(log_p, 0)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-10)  # float64 roundings over <= 729 terms


@pytest.mark.parametrize("name", CONTINUOUS)
def test_integrates_to_one(name: str) -> None:
    """Each element on its own, the others masked: a product is one when its factors are."""
    likelihood = wild(CONTINUOUS[name]())
    p = likelihood(latents())
    grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    for at in range(3):
        x = torch.zeros(grid.numel(), 1, 1, 3, dtype=torch.float64)
        x[..., at] = grid[:, None, None]
        density = p.log_prob(x, mask=torch.arange(3) == at).exp()
        total = torch.trapezoid(density, grid, dim=0)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)  # trapezoids of 1/20,000th of the range


@pytest.mark.parametrize("name", DISCRETE)
def test_masked_is_the_marginal_by_brute_force(name: str) -> None:
    """Missing elements (whole pixels for the mixture) are summed out one value at a time."""
    make, levels = DISCRETE[name]
    likelihood = wild(make())
    p, x = likelihood(latents()), data_for(likelihood)
    shape = likelihood.shape
    mask = torch.ones(shape, dtype=torch.bool)
    if len(shape) == 3 and name.startswith("mixture"):
        mask[:, 0, 0] = False  # a pixel with all its channels
    else:
        mask.view(-1)[[0, -1]] = False
    everything = values_of(levels, shape)
    same = (everything == x) | ~mask  # (V^S, 1, B, *S)
    agrees = same.flatten(3).all(-1)
    log_p = p.log_prob(everything).masked_fill(~agrees, -math.inf)
    expected = torch.logsumexp(log_p, 0)
    torch.testing.assert_close(p.log_prob(x, mask=mask), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(p.log_prob(x, mask=mask.expand(B, *shape)), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_masked_density_is_the_marginal(name: str) -> None:
    likelihood = wild(CONTINUOUS[name]())
    p, x = likelihood(latents()), data_for(likelihood)
    grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    full = x.expand(grid.numel(), 1, B, 3).clone()
    full[..., 1] = grid[:, None, None]
    expected = torch.trapezoid(p.log_prob(full).exp(), grid, dim=0).log()
    found = p.log_prob(x, mask=torch.tensor([True, False, True]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # trapezoids


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("junk", [math.nan, math.inf, -1.0, 1e9])
def test_what_stands_at_a_missing_element_is_not_read(name: str, junk: float) -> None:
    likelihood = wild(ALL[name]())
    x, z = data_for(likelihood), latents().requires_grad_()
    mask = torch.ones(likelihood.shape, dtype=torch.bool)
    mask[..., 0] = False
    p = likelihood(z)
    assert isinstance(p, MaskableDistribution)
    clean = p.log_prob(x, mask=mask)
    dirty = p.log_prob(torch.where(mask, x, junk), mask=mask)
    assert torch.equal(clean, dirty)
    grads = torch.autograd.grad(dirty.sum(), [z, *likelihood.parameters()], retain_graph=True, allow_unused=True)
    again = torch.autograd.grad(clean.sum(), [z, *likelihood.parameters()], allow_unused=True)
    for a, b in zip(grads, again, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert b is not None
            assert torch.isfinite(a).all()
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", ALL)
def test_nothing_observed_is_certain_and_everything_observed_is_no_mask(name: str) -> None:
    likelihood = wild(ALL[name]())
    p, x = likelihood(latents()), data_for(likelihood)
    assert torch.equal(p.log_prob(x, mask=torch.zeros(likelihood.shape, dtype=torch.bool)), torch.zeros(K, B).double())
    torch.testing.assert_close(p.log_prob(x, mask=torch.ones_like(x, dtype=torch.bool)), p.log_prob(x), rtol=1e-13, atol=1e-13)


def test_a_split_pixel_is_refused() -> None:
    likelihood = mixture([3, 2, 2], 4)
    x, mask = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2, dtype=torch.bool)
    assert likelihood.check(x, mask) is None
    mask[0, :, 1, 1] = False
    assert likelihood.check(torch.where(mask, x, math.nan), mask) is None
    mask[1, 2, 0, 0] = False
    sentence = likelihood.check(torch.where(mask, x, math.nan), mask)
    assert sentence == "A mixture of logistics must have the channels of a pixel missing together, and some are missing alone"


@pytest.mark.parametrize("name", ALL)
def test_check_does_not_read_missing_elements(name: str) -> None:
    likelihood = ALL[name]()
    x = data_for(likelihood)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0] = False
    assert likelihood.check(x, mask) is None
    for junk in (math.nan, math.inf, -0.5, 1e9):
        dirty = torch.where(mask, x, junk)
        assert likelihood.check(dirty, mask) is None
        assert likelihood.check(dirty, ~mask) is not None
    assert likelihood.check(x, torch.zeros_like(mask)) is None


# --------------------------------------------------------------------------------------------- formulas and their gradients


def test_bernoulli_is_its_formula() -> None:
    likelihood, z, x = wild(Bernoulli(mlp(), [3])), latents(), torch.tensor([[0, 1, 1], [1, 1, 0], [0, 0, 0]]).double()
    probability = torch.sigmoid(likelihood.head(likelihood.network(z))[:, :, 0])
    expected = (x * probability.log() + (1 - x) * (1 - probability).log()).sum(-1)
    torch.testing.assert_close(likelihood(z).log_prob(x), expected)
    torch.testing.assert_close(likelihood(z).mean, probability)


def test_categorical_is_its_formula() -> None:
    likelihood, z = wild(Categorical(mlp(), [2, 2], levels=5)), latents()
    x = torch.randint(5, (B, 2, 2))
    log_p = torch.log_softmax(likelihood.head(likelihood.network(z)), dim=2)  # (K, B, V, 2, 2)
    expected = torch.zeros(K, B).double()
    for k, b, i, j in itertools.product(range(K), range(B), range(2), range(2)):
        expected[k, b] += log_p[k, b, x[b, i, j], i, j]
    torch.testing.assert_close(likelihood(z).log_prob(x), expected)
    torch.testing.assert_close(likelihood(z).mean, (log_p.exp() * torch.arange(5.0).double()[:, None, None]).sum(2))


@pytest.mark.parametrize("scale", ["shared", "per_dimension", "predicted"])
def test_normal_is_its_formula(scale: str) -> None:
    likelihood, z, x = wild(Normal(mlp(), [3], scale=scale, min_scale=0.05)), latents(), torch.randn(B, 3).double()
    raw = likelihood.head(likelihood.network(z))
    mean = raw[:, :, 0]
    offset = math.log(math.e - 1)  # softplus^-1(1): a predicted scale starts at 1
    deviation = nn.functional.softplus(raw[:, :, 1] + offset if scale == "predicted" else likelihood.raw_scale) + 0.05
    expected = (-0.5 * ((x - mean) / deviation).square() - deviation.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
    p = likelihood(z)
    torch.testing.assert_close(p.log_prob(x), expected)
    torch.testing.assert_close(p.mean, mean)
    torch.testing.assert_close(p.stddev, deviation.expand_as(mean))


def test_normal_starts_at_scale_one() -> None:
    for scale in ("shared", "per_dimension", "predicted"):
        likelihood = Normal(mlp(), [3], scale=scale, min_scale=1e-3).double()
        nn.init.zeros_(likelihood.head.linear.weight)
        nn.init.zeros_(likelihood.head.linear.bias)
        torch.testing.assert_close(likelihood(latents()).stddev, torch.full((K, B, 3), 1.001).double(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ALL)
def test_gradient(name: str) -> None:
    """log p with respect to the latents and every parameter, against central differences."""
    likelihood = wild(ALL[name]())
    x, z = data_for(likelihood), latents().requires_grad_()
    names, values = zip(*likelihood.named_parameters(), strict=True)

    def log_prob(z: Tensor, *parameters: Tensor) -> Tensor:
        p = torch.func.functional_call(likelihood, dict(zip(names, parameters, strict=True)), (z,))
        return p.log_prob(x)

    assert torch.autograd.gradcheck(log_prob, (z, *values), fast_mode=True)


@pytest.mark.parametrize("levels", [2, 256, 65536])
@pytest.mark.parametrize("shape", [[4], [1, 2, 2], [3, 2, 1]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e3, -1e3])
def test_mixture_is_finite_at_extreme_outputs(levels: int, shape: list[int], dtype: torch.dtype, size: float) -> None:
    """Every output of the network at +-1000: scales at their clamp or far above the range, means far outside of it."""
    likelihood = mixture(shape, levels).to(dtype)
    z = torch.randn(K, B, D, dtype=dtype, requires_grad=True)
    x = torch.randint(levels, (B, *shape))
    for which in range(4):
        with torch.no_grad():
            bias = likelihood.head.linear.bias.zero_().view(-1, math.prod(shape[1:]) if len(shape) == 3 else shape[0])
            blocks = bias.tensor_split(4)
            blocks[which].fill_(size)
        log_p = likelihood(z).log_prob(x)
        gradients = torch.autograd.grad(log_p.sum(), [z, *likelihood.parameters()])
        assert torch.isfinite(log_p).all()
        assert (log_p <= 1e-4).all()
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_mixture_scale_has_a_floor() -> None:
    likelihood = mixture([3], 256)
    with torch.no_grad():
        likelihood.head.linear.bias.fill_(-1e4)
    floor = -math.log(255) - 2.0
    assert likelihood(torch.zeros(1, 1, D)).log_scale.min().item() == pytest.approx(floor)


# ----------------------------------------------------------------------------------------------------------------- samples


@pytest.mark.parametrize("name", DISCRETE)
def test_samples_have_the_marginals_of_log_prob(name: str, within_standard_errors: Check) -> None:
    make, levels = DISCRETE[name]
    likelihood = wild(make())
    z = torch.randn(1, 1, D, dtype=torch.float64)
    p = likelihood(z)
    x = p.sample((20_000,)).double()
    everything = values_of(levels, likelihood.shape)
    probability = p.log_prob(everything).exp().reshape(-1, *[1] * len(likelihood.shape))
    # within 4.5: up to 2 x 6 x 6 numbers are compared at once, with 11 likelihoods
    within_standard_errors(x[:, 0, 0], (probability * everything[:, 0, 0]).sum(0), 4.5)
    first, last = everything[:, 0, 0].flatten(1)[:, 0], everything[:, 0, 0].flatten(1)[:, -1]
    product = (probability.flatten() * first * last).sum()
    within_standard_errors(x.flatten(1)[:, 0] * x.flatten(1)[:, -1], product, 4.5)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_samples_have_the_mean(name: str, within_standard_errors: Check) -> None:
    p = wild(CONTINUOUS[name]())(latents())
    within_standard_errors(p.sample((20_000,)), p.mean.detach(), 4.5)


@pytest.mark.parametrize("name", [n for n in DISCRETE if not n.startswith("mixture")])
def test_mean_is_the_mean(name: str) -> None:
    make, levels = DISCRETE[name]
    likelihood = wild(make())
    p = likelihood(latents())
    everything = values_of(levels, likelihood.shape)
    probability = p.log_prob(everything).exp()
    expected = (probability.reshape(*probability.shape, *[1] * len(likelihood.shape)) * everything).sum(0)
    torch.testing.assert_close(p.mean, expected)


# ------------------------------------------------------------------------------------------------------- data-dependent start


def test_bernoulli_starts_at_the_marginal() -> None:
    x = (torch.rand(50, 2, 3) < torch.linspace(0, 1, 6).reshape(2, 3)).float()
    likelihood = without_features(Bernoulli(mlp(), [2, 3]))
    likelihood.initialize(x)
    torch.testing.assert_close(likelihood(torch.randn(1, 1, D)).mean[0, 0], (x.sum(0) + 0.5) / 51)


def test_bernoulli_with_one_bias_a_channel_starts_at_the_channels_mean() -> None:
    """The mean of the pixels and not of their logits: with a black border the two are far apart."""
    x = torch.zeros(20, 2, 4, 4)
    x[:, 0, 1:3, 1:3] = 1.0
    x[:, 1] = (torch.rand(20, 4, 4) < 0.7).float()
    likelihood = without_features(Bernoulli(ConvDecoder(D, [2, 4, 4], [3]), [2, 4, 4]))
    likelihood.initialize(x)
    mean = likelihood(torch.randn(1, 1, D)).mean[0, 0]
    torch.testing.assert_close(mean, x.mean((0, 2, 3))[:, None, None].expand(2, 4, 4), rtol=0, atol=0.5 / 320)  # half a count


def test_categorical_starts_at_each_elements_frequencies() -> None:
    """(count + pooled) / (n + 1), where pooled adds one count to each level of the whole batch."""
    x = torch.randint(3, (20, 2, 3))
    x[:, 0, 0], x[:, 1, 2] = 3, 0
    likelihood = without_features(Categorical(mlp(), [2, 3], levels=5))
    likelihood.initialize(x)
    probabilities = likelihood(torch.randn(1, 1, D)).base_dist.probs[0, 0]
    pooled = (nn.functional.one_hot(x, 5).sum((0, 1, 2)) + 1) / (120 + 5)
    torch.testing.assert_close(probabilities, (nn.functional.one_hot(x, 5).sum(0) + pooled) / 21)
    assert probabilities[0, 0].argmax() == 3
    assert probabilities[1, 2, 0] > 0.95


def test_categorical_with_one_bias_a_channel_starts_at_the_channels_frequencies() -> None:
    x = torch.tensor([0, 1, 1, 2, 2, 2] * 4).reshape(4, 2, 3, 1)
    likelihood = without_features(Categorical(ConvDecoder(D, [2, 3, 1], [4]), [2, 3, 1], levels=4))
    likelihood.initialize(x)
    probabilities = likelihood(torch.randn(1, 1, D)).base_dist.probs[0, 0]
    pooled = torch.tensor([5, 9, 13, 1]) / 28
    expected = (torch.tensor([[4, 8, 0, 0], [0, 0, 12, 0]]) + pooled) / 13
    torch.testing.assert_close(probabilities, expected[:, None, None].expand(2, 3, 1, 4))


@pytest.mark.parametrize("scale", ["shared", "per_dimension", "predicted"])
def test_normal_starts_at_the_mean(scale: str) -> None:
    x = torch.randn(30, 3) * 2 + torch.tensor([100.0, -5.0, 0.0])
    likelihood = without_features(Normal(mlp(), [3], scale=scale))
    likelihood.initialize(x)
    torch.testing.assert_close(likelihood(torch.randn(1, 1, D)).mean[0, 0], x.mean(0))


def test_normal_with_one_bias_a_channel_starts_at_each_channels_mean() -> None:
    x = torch.randn(10, 3, 4, 4) + torch.tensor([1.0, 20.0, -3.0])[:, None, None]
    likelihood = without_features(Normal(ConvDecoder(D, [3, 4, 4], [3]), [3, 4, 4]))
    likelihood.initialize(x)
    expected = x.mean((0, 2, 3))[:, None, None].expand(3, 4, 4)
    torch.testing.assert_close(likelihood(torch.randn(1, 1, D)).mean[0, 0], expected)


@pytest.mark.parametrize("scale", ["shared", "per_dimension", "predicted"])
def test_normal_starts_at_the_standard_deviation(scale: str) -> None:
    """About each element's mean, of the observed values; of all elements together where the scale is shared."""
    x = torch.randn(40, 3) * torch.tensor([2.0, 0.5, 3000.0]) + torch.tensor([100.0, -5.0, 0.0])
    mask = torch.rand(40, 3) < 0.7
    likelihood = without_features(Normal(mlp(), [3], scale=scale))
    likelihood.initialize(torch.where(mask, x, math.nan), mask)
    columns = [x[mask[:, i], i].double() for i in range(3)]
    own = torch.stack([column.var() for column in columns])
    freedom = torch.tensor([len(column) - 1.0 for column in columns]).double()
    variance = ((own * freedom).sum() / freedom.sum()).expand(3) if scale == "shared" else own
    found = likelihood(torch.randn(1, 1, D)).stddev[0, 0].double()
    torch.testing.assert_close(found, variance.sqrt(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("scale", ["shared", "per_dimension", "predicted"])
def test_normal_starts_no_narrower_than_its_least_scale(scale: str) -> None:
    likelihood = without_features(Normal(mlp(), [3], scale=scale, min_scale=0.02))
    likelihood.initialize(torch.full((10, 3), 7.0))
    found = likelihood(torch.randn(1, 1, D)).stddev[0, 0]
    torch.testing.assert_close(found, torch.full((3,), 0.022), rtol=1e-4, atol=0)  # a tenth above, where gradients flow


@pytest.mark.parametrize("scale", ["per_dimension", "predicted"])
def test_normal_starts_elements_that_do_not_vary_at_the_scale_of_all(scale: str) -> None:
    x = torch.randn(40, 3)
    x[:, 1] = 5.0
    mask = torch.ones(40, 3, dtype=torch.bool)
    mask[1:, 2] = False
    likelihood = without_features(Normal(mlp(), [3], scale=scale))
    likelihood.initialize(x, mask)
    found = likelihood(torch.randn(1, 1, D)).stddev[0, 0]
    together = (x[:, 0].var() * 39 / 78).sqrt()  # 39 degrees of freedom each, of the first two
    torch.testing.assert_close(found, torch.stack([x[:, 0].std(), together, together]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("scale", ["shared", "per_dimension", "predicted"])
def test_normal_keeps_its_scale_where_one_example_says_nothing_of_it(scale: str) -> None:
    likelihood = without_features(Normal(mlp(), [3], scale=scale))
    likelihood.initialize(torch.tensor([[1.0, 2.0, 3.0]]))
    p = likelihood(torch.randn(1, 1, D))
    torch.testing.assert_close(p.mean[0, 0], torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(p.stddev[0, 0], torch.full((3,), 1.001))


@pytest.mark.parametrize("scale", ["shared", "per_dimension", "predicted"])
def test_normal_with_one_bias_a_channel_starts_at_the_deviation_about_it(scale: str) -> None:
    x = torch.randn(30, 2, 4, 4) * torch.tensor([0.5, 4.0])[:, None, None] + torch.arange(16.0).reshape(4, 4)
    likelihood = without_features(Normal(ConvDecoder(D, [2, 4, 4], [3]), [2, 4, 4], scale=scale))
    likelihood.initialize(x)
    squares = (x - x.mean((0, 2, 3))[:, None, None]).square()
    found = likelihood(torch.randn(1, 1, D)).stddev[0, 0]
    expected = {
        "shared": squares.sum() / (2 * (30 * 16 - 1)),
        "per_dimension": squares.sum(0) / 29,
        "predicted": (squares.sum((0, 2, 3)) / (30 * 16 - 1))[:, None, None],
    }[scale]
    torch.testing.assert_close(found, expected.sqrt().expand(2, 4, 4), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_start_does_not_read_missing_elements(name: str) -> None:
    likelihood = ALL[name]()
    x = data_for(likelihood, batch=16).float()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[8:] = False
    only = copy.deepcopy(likelihood)
    only.initialize(x[:8])
    likelihood.initialize(torch.where(mask, x, math.nan), mask)
    for a, b in zip(only.parameters(), likelihood.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    likelihood.initialize(torch.full_like(x, math.nan), torch.zeros_like(mask))
    assert all(torch.isfinite(p).all() for p in likelihood.parameters())


@pytest.mark.parametrize("shape", [[64], [1, 8, 8], [3, 8, 8]])
@pytest.mark.parametrize("levels", [16, 256, 65536])
@pytest.mark.parametrize("seed", [0, 1])
def test_mixture_starts_better_than_uniform_on_skewed_data(shape: list[int], levels: int, seed: int) -> None:
    """Levels from an exponential with mean V / 20: its entropy is 2 nats below log V, of which the start gets half."""
    torch.manual_seed(seed)
    x = (torch.empty(64, *shape).exponential_() * levels / 20).floor().clamp_max(levels - 1)
    likelihood = without_features(DiscretizedLogisticMixture(mlp(), shape, levels=levels))
    likelihood.initialize(x)
    per_value = likelihood(torch.zeros(1, 64, D)).log_prob(x).mean().item() / math.prod(shape)
    assert per_value > -math.log(levels) + 1.0


def test_mixture_start_spreads_its_means_over_the_data() -> None:
    x = torch.arange(256.0).repeat(4).reshape(64, 16)
    likelihood = without_features(mixture([16], 256, num_components=4))
    likelihood.initialize(x)
    p = likelihood(torch.zeros(1, 1, D))
    means = (p.component_mean[0, 0, :, 0, 0] + 1) * 127.5
    torch.testing.assert_close(means, torch.tensor([31.5, 95.5, 159.5, 223.5]), rtol=0, atol=1.0)  # quantiles 1/8, 3/8, ...
    expected = x.std(unbiased=False) / 4  # the spacing is sqrt(12) / 4 of it
    torch.testing.assert_close(p.log_scale.exp() * 127.5, expected.expand_as(p.log_scale), rtol=1e-3, atol=0)
    assert torch.equal(p.logits, torch.zeros_like(p.logits))


def test_mixture_start_of_grey_pixels_is_as_narrow_as_of_one_channel() -> None:
    grey = torch.randint(256, (64, 1, 4, 4)).float()
    one, three = (DiscretizedLogisticMixture(mlp(), [c, 4, 4], levels=256) for c in (1, 3))
    one.initialize(grey)
    three.initialize(grey.expand(64, 3, 4, 4))
    scales = [without_features(p)(torch.zeros(1, 1, D)).log_scale.mean().item() for p in (one, three)]
    assert scales[0] == pytest.approx(scales[1], abs=1e-4)  # the quantiles are of other subsamples


def test_mixture_start_gives_the_channels_of_a_component_the_same_mean() -> None:
    likelihood = without_features(mixture([3, 2, 2], 256, num_components=4))
    likelihood.initialize(torch.randint(256, (64, 3, 2, 2)))
    p = likelihood(torch.zeros(1, 1, D))
    means = p.component_mean[0, 0]
    assert torch.equal(means, means[:, :1, :1].expand(4, 3, 4))
    assert (means[:, 0, 0].diff() > 0.2).all()
    assert torch.equal(p.coefficients, torch.zeros_like(p.coefficients))


def test_mixture_start_reads_large_batches() -> None:
    """More values than float32 counts: their indices must not be rounded past the end."""
    x = torch.zeros(2**12, 2**13 - 1, dtype=torch.uint8)[:, None, :, None]
    x[: 2**11] = 255
    shape = [1, 2**13 - 1, 1]
    likelihood = DiscretizedLogisticMixture(ConvDecoder(D, shape, [1], num_blocks=0), shape, levels=256, num_components=2)
    likelihood.initialize(x)
    assert likelihood.head.conv.bias[2:4].tolist() == [-1.0, 1.0]


# ------------------------------------------------------------------------------------------------------------- constructors


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Bernoulli(mlp(), []), "`shape` must hold sizes of at least 1"),
        (lambda: Bernoulli(mlp(), [3, 0]), "`shape` must hold sizes of at least 1"),
        (lambda: Normal(mlp(), [3], scale="diagonal"), "`scale` must be shared, per_dimension or predicted, got 'diagonal'"),
        (lambda: Normal(mlp(), [3], min_scale=0.0), "`min_scale` must be > 0"),
        (lambda: mixture([3], 1), "`levels` must be from 2 to 65536, got 1"),
        (lambda: mixture([3], 65537), "`levels` must be from 2 to 65536, got 65537"),
        (lambda: mixture([3], 256, num_components=0), "`num_components` must be at least 1, got 0"),
        (lambda: Categorical(mlp(), [3], levels=1), "`levels` must be at least 2, got 1"),
        (lambda: Bernoulli(ConvDecoder(D, [1, 4, 4], [2]), [1, 4, 5]), r"images of \(4, 4\), got .*\(1, 4, 5\)"),
        (lambda: Bernoulli(ConvDecoder(D, [1, 4, 4], [2]), [16]), r"images of \(4, 4\), got .*\(16,\)"),
    ],
)
def test_an_argument_that_cannot_be(make: Callable[[], Likelihood], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("make", "good", "bad"),
    [
        (lambda: Bernoulli(mlp(), [2]), [0.0, 1.0], [0.0, 0.5]),
        (lambda: ContinuousBernoulli(mlp(), [2]), [0.0, 0.3], [0.0, 1.01]),
        (lambda: Normal(mlp(), [2]), [-1e9, 0.3], [0.0, math.nan]),
        (lambda: mixture([2], 4), [0.0, 3.0], [0.0, 4.0]),
        (lambda: mixture([2], 4), [0.0, 3.0], [0.5, 3.0]),
        (lambda: Categorical(mlp(), [2], levels=4), [0.0, 3.0], [-1.0, 3.0]),
    ],
)
def test_check_says_what_is_wrong(make: Callable[[], Likelihood], good: list[float], bad: list[float]) -> None:
    likelihood = make()
    assert likelihood.check(torch.tensor([good])) is None
    sentence = likelihood.check(torch.tensor([bad]))
    assert sentence is not None
    assert "must have" in sentence


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Bernoulli(mlp(), [2, 5]), 10),  # an example
        (lambda: Bernoulli(mlp(), [3]), 6),  # the features of the network
        (lambda: Bernoulli(ConvDecoder(D, [1, 4, 5], [7]), [1, 4, 5]), 7 * 4 * 5),  # its feature maps
        (lambda: ContinuousBernoulli(mlp(), [11]), 11),
        (lambda: Normal(mlp(), [11]), 11),
        (lambda: Normal(mlp(), [11], scale="per_dimension"), 11),
        (lambda: Normal(mlp(), [11], scale="predicted"), 2 * 11),
        (lambda: mixture([11], 256, num_components=4), 4 * (1 + 1 + 1) * 11),
        (lambda: mixture([1, 4, 5], 256, num_components=4), 4 * (1 + 1 + 1) * 20),
        (lambda: mixture([3, 4, 5], 256, num_components=4), 4 * (1 + 3 + 3 + 3) * 20),
        (lambda: Categorical(mlp(), [3, 4, 5], levels=9), 9 * 60),
        (lambda: Categorical(ConvDecoder(D, [1, 4, 5], [7]), [1, 4, 5], levels=9), 9 * 20),
    ],
)
def test_peak_elements(make: Callable[[], Likelihood], expected: int) -> None:
    likelihood = make()
    assert likelihood.peak_elements() == expected
    features = likelihood.network(torch.zeros(1, D))
    assert expected == max(features.numel(), likelihood.head(features).numel(), math.prod(likelihood.shape))


@pytest.mark.parametrize("network", [StandardNormal(2), nn.Linear(2, 3), None])
def test_what_is_no_network_is_refused(network: object) -> None:
    sentence = (
        rf"The `network` of a Bernoulli must be a network, .* got a {type(network).__name__}\. Use one of vaekit\.networks"
    )
    with pytest.raises(ConfigError, match=sentence):
        Bernoulli(network, [3])  # pyright: ignore[reportArgumentType]


def test_a_condition_reaches_the_density() -> None:
    likelihood = Bernoulli(mlp(condition_features=2), [3])
    z = torch.zeros(K, B, D)
    x = torch.ones(B, 3)
    one, other = (likelihood(z, torch.full((B, 2), value)).log_prob(x) for value in (0.0, 1.0))
    assert not torch.allclose(one, other)


def test_every_likelihood_of_the_module_is_tested_in_this_folder() -> None:
    defined = {
        value
        for value in vars(likelihoods).values()
        if isinstance(value, type) and issubclass(value, Likelihood) and value is not Likelihood
    }
    defined = {cls for cls in defined if not inspect.isabstract(cls)}
    elsewhere = {likelihoods.Tokens}  # of sequences: test_tokens.py
    assert defined == {type(make()) for make in ALL.values()} | {type(case.make()) for case in CASES.values()} | elsewhere
