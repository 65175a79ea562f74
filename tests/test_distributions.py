"""Densities sum to one, agree with brute force, and stay finite; KLs agree with Monte Carlo."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch import distributions as td

from vaekit.distributions import (
    ContinuousBernoulli,
    DiscretizedLogisticMixture,
    Independent,
    closed_form_kl,
    diagonal_normal,
    discretized_logistic_log_prob,
    discretized_logistic_mean,
    log1mexp,
    mixture_of_normals,
    unit_kl,
)

Check = Callable[..., None]


def make_mixture(
    channels: int,
    positions: int,
    levels: int,
    components: int = 3,
    dtype: torch.dtype = torch.float64,
    batch: tuple[int, ...] = (),
    event_shape: tuple[int, ...] | None = None,
) -> DiscretizedLogisticMixture:
    """A mixture with every parameter random and every coefficient away from zero."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*batch, *shape, dtype=dtype)

    pairs = channels * (channels - 1) // 2
    return DiscretizedLogisticMixture(
        normal(components, positions),
        normal(components, channels, positions),
        normal(components, channels, positions) * 0.7 - 1.0,
        None if channels == 1 else normal(components, pairs, positions).sign() * (0.3 + torch.rand(1, dtype=dtype)),
        levels,
        event_shape or ((channels, 1, positions) if channels > 1 else (positions,)),
    )


def all_values(levels: int, shape: tuple[int, ...]) -> Tensor:
    """(V^S, *S): every value that an example can take."""
    values = list(itertools.product(range(levels), repeat=math.prod(shape)))
    return torch.tensor(values, dtype=torch.float64).reshape(-1, *shape)


def logistic_cdf(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x > 0 else math.exp(x) / (1.0 + math.exp(x))


def reference_log_prob(p: DiscretizedLogisticMixture, x: Tensor) -> float:
    """The formula of the docstring, one number at a time, by plain subtraction of distribution functions."""
    c_count, levels, half = p.num_channels, p.levels, 1.0 / (p.levels - 1)
    values = x.reshape(c_count, -1)
    total = 0.0
    for at in range(values.shape[1]):
        u = [2.0 * values[c, at].item() / (levels - 1) - 1.0 for c in range(c_count)]
        weights = torch.softmax(p.logits[:, at], 0)
        density = 0.0
        for k, weight in enumerate(weights.tolist()):
            mass, pair = weight, 0
            for c in range(c_count):
                mean, scale = p.component_mean[k, c, at].item(), math.exp(p.log_scale[k, c, at].item())
                for b in range(c):
                    assert p.coefficients is not None
                    mean += p.coefficients[k, pair, at].item() * u[b]
                    pair += 1
                below = 0.0 if values[c, at] == 0 else logistic_cdf((u[c] - half - mean) / scale)
                above = 1.0 if values[c, at] == levels - 1 else logistic_cdf((u[c] + half - mean) / scale)
                mass *= above - below
            density += mass
        total += math.log(density)
    return total


# ---------------------------------------------------------------------------------------------------------------- log1mexp


@given(st.floats(min_value=1e-300, max_value=700.0))
def test_log1mexp_agrees_with_the_standard_library(x: float) -> None:
    found = log1mexp(torch.tensor(x, dtype=torch.float64)).item()
    expected = math.log(-math.expm1(-x)) if x < 1 else math.log1p(-math.exp(-x))
    assert found == pytest.approx(expected, rel=1e-13, abs=1e-300)  # a few roundings of float64


def test_log1mexp_is_finite_at_the_ends_in_float32() -> None:
    x = torch.tensor([0.0, 1e-45, 1e-38, 1e-10, math.log(2.0), 100.0, 1e30], requires_grad=True)
    y = log1mexp(x)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_log1mexp_gradient() -> None:
    x = torch.tensor([1e-3, 0.1, 0.69, 0.7, 3.0, 20.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log1mexp, (x,), eps=1e-8, atol=1e-6)


# ------------------------------------------------------------------------------------------------- discretised logistics


@pytest.mark.parametrize("levels", [2, 3, 7, 256, 65536])
@pytest.mark.parametrize("log_scale", [-4.0, -1.0, 0.0, 3.0])
@pytest.mark.parametrize("mean", [-3.0, -0.98, 0.123, 2.0])
def test_levels_sum_to_one_in_float64(levels: int, log_scale: float, mean: float) -> None:
    u = torch.arange(levels, dtype=torch.float64) * (2 / (levels - 1)) - 1
    log_p = discretized_logistic_log_prob(u, torch.tensor(mean).double(), torch.tensor(log_scale).double(), levels)
    # one rounding (2e-16) of u or of an exponent is scaled by up to 1/s = 55 and by the number of levels at most
    assert torch.logsumexp(log_p, 0).item() == pytest.approx(0.0, abs=1e-11)


def test_one_level_against_arbitrary_precision() -> None:
    """A level in the far tail, where both distribution functions round to one: log F(b) - F(a) by 80-digit decimals."""
    from decimal import Decimal, localcontext

    levels, mean, log_scale = 256, -0.5, -3.0
    with localcontext() as context:
        context.prec = 80
        scale = Decimal(log_scale).exp()
        for level in (1, 60, 128, 200, 254):
            u, half = Decimal(2 * level) / 255 - 1, 1 / Decimal(255)
            b, a = (u + half - Decimal(mean)) / scale, (u - half - Decimal(mean)) / scale
            expected = float((1 / (1 + (-b).exp()) - 1 / (1 + (-a).exp())).ln())
            for dtype, relative in ((torch.float64, 1e-12), (torch.float32, 1e-5)):  # about 100 roundings of each
                found = discretized_logistic_log_prob(
                    torch.tensor(2 * level / 255 - 1, dtype=dtype),
                    torch.tensor(mean, dtype=dtype),
                    torch.tensor(log_scale, dtype=dtype),
                    levels,
                )
                assert found.item() == pytest.approx(expected, rel=relative)


def test_discretized_logistic_gradient() -> None:
    u = (torch.arange(5, dtype=torch.float64) * 0.5 - 1)[:, None]
    mean = torch.tensor([-2.0, -0.3, 0.9], dtype=torch.float64, requires_grad=True)
    log_scale = torch.tensor([-1.5, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, s: discretized_logistic_log_prob(u, m, s, 5), (mean, log_scale))


@pytest.mark.parametrize("levels", [2, 256, 65536])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_parameters_stay_finite(levels: int, dtype: torch.dtype) -> None:
    u = torch.tensor([0, 1, levels // 2, levels - 2, levels - 1], dtype=dtype)[:, None, None] * (2 / (levels - 1)) - 1
    mean = torch.tensor([-1e6, -50.0, -1.0, 0.0, 1.0, 1e6], dtype=dtype)[:, None].requires_grad_()
    log_scale = torch.tensor([-math.log(levels - 1) - 2.0, 0.0, 10.0, 60.0], dtype=dtype).requires_grad_()
    log_p = discretized_logistic_log_prob(u, mean, log_scale, levels)
    log_p.sum().backward()
    assert torch.isfinite(log_p).all()
    assert (log_p <= 0).all()
    assert mean.grad is not None
    assert torch.isfinite(mean.grad).all()
    assert log_scale.grad is not None
    assert torch.isfinite(log_scale.grad).all()


@pytest.mark.parametrize(
    ("channels", "positions", "levels"), [(1, 1, 2), (1, 2, 6), (3, 1, 4), (3, 1, 6), (3, 2, 3), (4, 1, 3), (2, 1, 17)]
)
def test_mixture_sums_to_one_over_all_values(channels: int, positions: int, levels: int) -> None:
    p = make_mixture(channels, positions, levels)
    log_p = p.log_prob(all_values(levels, tuple(p.event_shape)))
    assert torch.logsumexp(log_p, 0).item() == pytest.approx(0.0, abs=1e-11)  # float64 roundings over at most 4913 terms


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
@pytest.mark.parametrize("log_scale", [-math.log(65535) - 2.0, -8.0, -2.0])
def test_65536_levels_sum_to_one(dtype: torch.dtype, tolerance: float, log_scale: float) -> None:
    """In float32 u has a rounding of 6e-8, up to 3% of the narrowest s; off a half-level by 7 s it moves exp(-7) of it."""
    x = torch.arange(65536)[:, None]
    p = DiscretizedLogisticMixture(
        torch.zeros(2, 1, dtype=dtype),
        torch.tensor([-0.4, 0.7], dtype=dtype).reshape(2, 1, 1),
        torch.full((2, 1, 1), log_scale, dtype=dtype),
        None,
        65536,
        (1,),
    )
    assert p.log_prob(x).double().exp().sum().item() == pytest.approx(1.0, abs=tolerance)


def test_256_levels_in_a_vector_sum_to_one_each() -> None:
    p = make_mixture(1, 3, 256)
    levels = torch.arange(256.0).double()
    for at in range(3):
        observed = torch.arange(3) == at
        x = torch.zeros(256, 3, dtype=torch.float64)
        x[:, at] = levels
        assert p.log_prob(x, mask=observed).exp().sum().item() == pytest.approx(1.0, abs=1e-11)


@pytest.mark.parametrize(("channels", "positions", "levels"), [(1, 4, 9), (2, 3, 5), (3, 3, 8), (4, 2, 4)])
def test_mixture_is_the_formula_of_its_docstring(channels: int, positions: int, levels: int) -> None:
    p = make_mixture(channels, positions, levels)
    x = torch.randint(levels, (20, *p.event_shape)).double()
    x[0], x[1] = 0, levels - 1
    expected = torch.tensor([reference_log_prob(p, row) for row in x], dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(x), expected, rtol=1e-9, atol=1e-9)  # the reference cancels: 1e-16 of masses > 1e-7


def test_mixture_accepts_any_dtype_and_leading_axes() -> None:
    p = make_mixture(3, 4, 256, dtype=torch.float32, batch=(2, 5), event_shape=(3, 2, 2))
    x = torch.randint(256, (5, 3, 2, 2), dtype=torch.uint8)
    log_p = p.log_prob(x)
    assert log_p.shape == (2, 5)
    assert torch.equal(log_p, p.log_prob(x.float()))
    assert torch.equal(log_p[1], p.log_prob(x.expand(2, 5, 3, 2, 2))[1])


def test_first_channel_does_not_depend_on_the_others() -> None:
    """Summing the later channels out leaves the first channel's own mixture."""
    p = make_mixture(3, 1, 5)
    alone = DiscretizedLogisticMixture(p.logits, p.component_mean[:, :1], p.log_scale[:, :1], None, 5, (1,))
    joint = p.log_prob(all_values(5, (3, 1, 1))).reshape(5, 25)
    torch.testing.assert_close(torch.logsumexp(joint, 1), alone.log_prob(torch.arange(5)[:, None]), rtol=0, atol=1e-12)


def chi_square(samples: Tensor, log_p: Tensor) -> float:
    """How many standard deviations the chi-square of counts is above its mean; cells below 8 expected are pooled."""
    n = samples.numel()
    counts = torch.bincount(samples, minlength=log_p.numel()).double()
    expected = log_p.exp() * n
    big = expected >= 8
    counts = torch.cat([counts[big], counts[~big].sum()[None]])
    expected = torch.cat([expected[big], expected[~big].sum()[None]])
    counts, expected = counts[expected > 1], expected[expected > 1]
    freedom = counts.numel() - 1
    return (((counts - expected).square() / expected).sum().item() - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize(("channels", "levels"), [(1, 20), (3, 4), (4, 3)])
def test_samples_follow_log_prob(channels: int, levels: int) -> None:
    p = make_mixture(channels, 1, levels)
    x = p.sample((40_000,)).reshape(-1, channels).long()
    assert x.min() >= 0
    assert x.max() <= levels - 1
    index = sum(x[:, c] * levels ** (channels - 1 - c) for c in range(channels))
    assert isinstance(index, Tensor)
    log_p = p.log_prob(all_values(levels, tuple(p.event_shape)))
    assert chi_square(index, log_p) < 5  # in standard deviations of the statistic


def test_samples_have_the_shape_and_position_of_their_parameters() -> None:
    """Narrow components at known levels: each (batch, channel, position) must come out at its own."""
    levels = torch.randint(256, (2, 5, 3, 4)).double()
    p = DiscretizedLogisticMixture(
        torch.zeros(2, 5, 1, 4).double(), (levels / 127.5 - 1)[:, :, None], torch.full((2, 5, 1, 3, 4), -8.0).double(),
        torch.zeros(2, 5, 1, 3, 4).double(), 256, (3, 2, 2),
    )  # fmt: skip
    assert torch.equal(p.sample((7,)), levels.reshape(2, 5, 3, 2, 2).expand(7, 2, 5, 3, 2, 2))
    # at an end, half of the mass is beyond it: the logistic that is not yet rounded loses s log 2, 0.03 of a level
    torch.testing.assert_close(p.mean, levels.reshape(2, 5, 3, 2, 2), rtol=0, atol=0.03)


def test_mean_of_one_channel_is_exact_far_from_the_edges() -> None:
    """With s = 2.5 levels the rounding to levels moves the mean by exp(-2 pi^2 2.5), and the edges are 30 s away."""
    p = DiscretizedLogisticMixture(
        torch.tensor([[0.3], [-0.4]]).double(),
        torch.tensor([-0.2, 0.1]).double().reshape(2, 1, 1),
        torch.full((2, 1, 1), math.log(2.5 * 2 / 255)).double(),
        None,
        256,
        (1,),
    )
    x = torch.arange(256.0).double()
    expected = (x * p.log_prob(x[:, None]).exp()).sum()
    torch.testing.assert_close(p.mean[0], expected, rtol=0, atol=1e-9)


def test_mean_follows_the_channels_before() -> None:
    """One narrow component: the mean of each channel is its own plus its coefficients times the channels before it."""
    zero = torch.zeros(1, 1).double()
    mean = torch.tensor([0.2, -0.15, 0.05], dtype=torch.float64)
    coefficients = torch.tensor([0.5, -0.4, 0.3], dtype=torch.float64)
    p = DiscretizedLogisticMixture(
        zero, mean.reshape(1, 3, 1), torch.full((1, 3, 1), -8.0).double(), coefficients.reshape(1, 3, 1), 65536, (3, 1, 1)
    )
    u0 = 0.2
    u1 = -0.15 + 0.5 * u0
    u2 = 0.05 - 0.4 * u0 + 0.3 * u1
    expected = (torch.tensor([u0, u1, u2], dtype=torch.float64) + 1) * 32767.5
    torch.testing.assert_close(p.mean.flatten(), expected, rtol=0, atol=1e-6)
    # a sample is rounded channel by channel, so it is within a level of the mean, and noise is 11 levels a standard unit
    torch.testing.assert_close(p.sample((2000,)).mean(0).flatten(), expected, rtol=0, atol=2.0)


def mixture_of_one_channel(levels: int, means: list[float], scales: list[float]) -> DiscretizedLogisticMixture:
    """Equal weights, scales in units of a level."""
    count, level = len(means), 2 / (levels - 1)
    return DiscretizedLogisticMixture(
        torch.zeros(count, 1).double(),
        torch.tensor(means).double().reshape(count, 1, 1),
        (torch.tensor(scales).double() * level).log().reshape(count, 1, 1),
        None,
        levels,
        (1,),
    )


@pytest.mark.parametrize("levels", [2, 3, 17, 32, 33, 256])
@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0, 4.0, 300.0])
@pytest.mark.parametrize("means", [[-5.0, 1.0], [0.3], [-1.0], [1.0], [0.999, -1.3, 0.2], [40.0]])
def test_mean_of_one_channel_by_brute_force(levels: int, scale: float, means: list[float]) -> None:
    """The sum over all levels; ends, means outside of the range and scales wider than it included."""
    p = mixture_of_one_channel(levels, means, [scale] * len(means))
    x = torch.arange(levels).double()
    expected = (x * p.log_prob(x[:, None]).exp()).sum()
    # Up to 32 levels exact. Above, the rounding is left out: half a level at most, and for s of a level or more only at
    # the ends, by the first term of Euler and Maclaurin: the slope of F there, at most 1 / (4 s), over 24 for each.
    tolerance = 1e-9 if levels <= 32 else 0.5 if scale < 1 else 1.1 / (48 * scale) + 1e-6
    assert p.mean.item() == pytest.approx(expected.item(), abs=tolerance)


def test_components_beyond_opposite_ends_are_mid_grey() -> None:
    p = mixture_of_one_channel(256, [-5.0, 1.0], [0.01, 0.01])
    assert p.mean.item() == pytest.approx(127.5, abs=0.01)
    p = mixture_of_one_channel(256, [-5.0, 7.0], [0.01, 0.01])
    assert p.mean.item() == pytest.approx(127.5, abs=1e-9)


@pytest.mark.parametrize("levels", [2, 256, 65536])
def test_discretized_logistic_mean_in_float32(levels: int) -> None:
    """Against float64, from the narrowest scale to an overflowing one: it stays on [-1, 1] and rises with the mean."""
    mean = torch.tensor([-1e6, -5.0, -1.0, -0.3, 0.0, 1e-4, 0.7, 1.0, 1.001, 30.0, 1e6])
    for log_scale in (-math.log(levels - 1) - 2.0, -1.0, 0.6, 0.8, 5.0, 60.0, 1000.0):
        scales = torch.full_like(mean, log_scale)
        single = discretized_logistic_mean(mean, scales, levels)
        double = discretized_logistic_mean(mean.double(), scales.double(), levels)
        torch.testing.assert_close(single.double(), double, rtol=0, atol=2e-6)  # 2e-7 an operation
        assert (single.diff() >= -1e-6).all()
        assert (single.abs() <= 1.0 + 1e-6).all()


def test_mean_of_three_channels_by_brute_force() -> None:
    """Two components apart, whose channels follow each other: E[u_c] of each component, and then their weights.

    The scale is a level, which rounding moves by 3e-8, and the ends are 12 s away, beyond which lies exp(-12) of the mass.
    """
    levels = 41
    p = DiscretizedLogisticMixture(
        torch.tensor([[0.4], [-0.3]]).double(),
        torch.tensor([[0.4, 0.1, -0.2], [-0.4, 0.2, 0.1]]).double()[..., None],
        torch.full((2, 3, 1), math.log(2 / (levels - 1))).double(),
        torch.tensor([[0.5, -0.3, 0.4], [-0.2, 0.4, -0.3]]).double()[..., None],
        levels,
        (3, 1, 1),
    )
    x = all_values(levels, (3, 1, 1))
    expected = (x * p.log_prob(x).exp()[:, None, None, None]).sum(0)
    torch.testing.assert_close(p.mean, expected, rtol=0, atol=1e-4)


def test_a_position_that_is_observed_in_part_counts_as_missing() -> None:
    p = make_mixture(3, 4, 8, event_shape=(3, 2, 2))
    x = torch.randint(8, (3, 2, 2)).double()
    part, whole = torch.ones(2, 3, 2, 2, dtype=torch.bool)
    part[1, 0, 1] = False
    whole[:, 0, 1] = False
    assert torch.equal(p.log_prob(torch.where(part, x, math.nan), mask=part), p.log_prob(x, mask=whole))


def test_mixture_support() -> None:
    p = make_mixture(3, 1, 8)
    assert p.support.check(torch.tensor([0, 3, 7]).reshape(3, 1, 1))
    assert not p.support.check(torch.tensor([0, 3, 8]).reshape(3, 1, 1))


# ------------------------------------------------------------------------------------------------- continuous Bernoulli


@pytest.mark.parametrize("logit", [-60.0, -16.0, -3.0, -0.1001, -0.0999, -1e-4, 0.0, 1e-6, 0.0999, 0.1001, 1.0, 14.0, 30.0])
def test_continuous_bernoulli_integrates_to_one(logit: float) -> None:
    p = ContinuousBernoulli(logits=torch.tensor(logit, dtype=torch.float64))
    x = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    density = p.log_prob(x).exp()
    # trapezoids are off by h^2 / 12 times the change of slope, at most 60^2
    assert torch.trapezoid(density, x).item() == pytest.approx(1.0, abs=1e-6)
    assert torch.trapezoid(density * x, x).item() == pytest.approx(p.mean.item(), abs=1e-6)


def test_continuous_bernoulli_in_float32_is_that_of_float64() -> None:
    logits = torch.tensor([-100.0, -30.0, -1.0, -0.01, 0.0, 0.02, 0.2, 20.0, 60.0])
    x = torch.linspace(0, 1, 7)[:, None]
    single, double = ContinuousBernoulli(logits=logits), ContinuousBernoulli(logits=logits.double())
    torch.testing.assert_close(single.log_prob(x).double(), double.log_prob(x.double()), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(single.mean.double(), double.mean, rtol=1e-6, atol=1e-6)


def test_continuous_bernoulli_agrees_with_torch_where_torch_is_exact() -> None:
    logits = torch.tensor([-5.0, -1.0, 0.5, 4.0], dtype=torch.float64)
    ours, torchs = ContinuousBernoulli(logits=logits), td.ContinuousBernoulli(logits=logits)
    x = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    torch.testing.assert_close(ours.log_prob(x), torchs.log_prob(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.mean, torchs.mean, rtol=1e-10, atol=1e-10)


def test_continuous_bernoulli_gradient() -> None:
    logits = torch.tensor([-3.0, -0.2, -0.05, 0.03, 2.0, 40.0], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)[:, None]
    assert torch.autograd.gradcheck(lambda v: ContinuousBernoulli(logits=v, validate_args=False).log_prob(x), (logits,))


@pytest.mark.parametrize("logit", [-40.0, -2.0, -1e-4, 0.0, 1e-4, 0.5, 6.0, 40.0])
def test_continuous_bernoulli_samples(logit: float, within_standard_errors: Check) -> None:
    p = ContinuousBernoulli(logits=torch.tensor(logit, dtype=torch.float64))
    x = p.sample((20_000,))
    assert x.min() >= 0
    assert x.max() <= 1
    within_standard_errors(x, p.mean)
    u = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    points = p.icdf(u)
    for mass, point in zip(u.tolist(), points.tolist(), strict=True):
        grid = torch.linspace(0, point, 5001, dtype=torch.float64)
        assert torch.trapezoid(p.log_prob(grid).exp(), grid).item() == pytest.approx(mass, abs=1e-5)  # trapezoids


# ---------------------------------------------------------------------------------------------------------------- products


def test_independent_masks_and_broadcasts() -> None:
    base = td.Normal(torch.randn(4, 2, 3).double(), torch.rand(4, 2, 3).double() + 0.5)
    p = Independent(base, 1)
    x, mask = torch.randn(2, 3).double(), torch.tensor([[True, False, True], [False, False, False]])
    terms = base.log_prob(x)
    torch.testing.assert_close(p.log_prob(x), terms.sum(-1))
    torch.testing.assert_close(p.log_prob(x, mask), (terms * mask).sum(-1))
    assert torch.equal(p.log_prob(x, mask)[:, 1], torch.zeros(4).double())


def test_independent_expands_and_keeps_masks() -> None:
    p = diagonal_normal(torch.zeros(3), torch.ones(3)).expand((5,))
    assert isinstance(p, Independent)
    assert p.log_prob(torch.zeros(5, 3), mask=torch.ones(3, dtype=torch.bool)).shape == (5,)


def test_integer_values_are_read_as_numbers() -> None:
    p = Independent(td.Bernoulli(logits=torch.tensor([0.3, -1.2]), validate_args=False), 1)
    for dtype in (torch.uint8, torch.int64, torch.bool):
        x = torch.tensor([1, 0]).to(dtype)
        assert torch.equal(p.log_prob(x), p.log_prob(x.float()))
        assert torch.equal(
            p.log_prob(x, mask=torch.tensor([True, False])), p.log_prob(x.float(), mask=torch.tensor([True, False]))
        )


# --------------------------------------------------------------------------------------------------------------------- KL


def random_diagonal(*shape: int) -> Independent:
    return diagonal_normal(torch.randn(*shape).double(), torch.rand(*shape).double() + 0.3)


def random_full(batch: int, size: int) -> td.MultivariateNormal:
    lower = torch.tril(torch.randn(batch, size, size).double(), -1) + torch.diag_embed(torch.rand(batch, size).double() + 0.4)
    return td.MultivariateNormal(torch.randn(batch, size).double(), scale_tril=lower)


def normal_kl(q_mean: Tensor, q_covariance: Tensor, p_mean: Tensor, p_covariance: Tensor) -> Tensor:
    """The textbook formula, with inverses and determinants."""
    inverse, shift = torch.linalg.inv(p_covariance), p_mean - q_mean
    trace = (inverse @ q_covariance).diagonal(dim1=-2, dim2=-1).sum(-1)
    square = (shift[..., None, :] @ inverse @ shift[..., None])[..., 0, 0]
    return 0.5 * (trace + square - shift.shape[-1] + torch.logdet(p_covariance) - torch.logdet(q_covariance))


def test_diagonal_kl(within_standard_errors: Check) -> None:
    q, p = random_diagonal(5, 3), random_diagonal(3)
    kl = closed_form_kl(q, p)
    assert kl is not None
    torch.testing.assert_close(kl, normal_kl(q.mean, torch.diag_embed(q.variance), p.mean, torch.diag_embed(p.variance)))
    z = q.rsample((100_000,))
    within_standard_errors(q.log_prob(z) - p.log_prob(z), kl)


@pytest.mark.parametrize("p_batch", [(), (5,)])
def test_full_to_diagonal_kl(p_batch: tuple[int, ...], within_standard_errors: Check) -> None:
    q, p = random_full(5, 3), random_diagonal(*p_batch, 3)
    kl = closed_form_kl(q, p)
    assert kl is not None
    assert kl.shape == (5,)
    torch.testing.assert_close(kl, normal_kl(q.mean, q.covariance_matrix, p.mean, torch.diag_embed(p.variance)))
    torch.testing.assert_close(kl, td.kl_divergence(q, td.MultivariateNormal(p.mean, torch.diag_embed(p.variance))))
    z = q.rsample((100_000,))
    within_standard_errors(q.log_prob(z) - p.log_prob(z), kl)


def test_full_kl_gradient() -> None:
    mean = torch.randn(2, 3).double().requires_grad_()
    lower = (torch.randn(2, 3, 3).double().tril(-1) + torch.eye(3).double()).requires_grad_()
    p_mean, p_scale = torch.randn(3).double().requires_grad_(), (torch.rand(3).double() + 0.5).requires_grad_()

    def kl(m: Tensor, t: Tensor, pm: Tensor, ps: Tensor) -> Tensor:
        q = td.MultivariateNormal(m, scale_tril=t.tril(), validate_args=False)
        found = closed_form_kl(q, diagonal_normal(pm, ps))
        assert found is not None
        return found

    assert torch.autograd.gradcheck(kl, (mean, lower, p_mean, p_scale))


def test_unit_kl_sums_to_the_whole_and_is_each_units_own(within_standard_errors: Check) -> None:
    q, p = random_diagonal(4, 3), random_diagonal(3)
    units, whole = unit_kl(q, p), closed_form_kl(q, p)
    assert units is not None
    assert units.shape == (4, 3)
    torch.testing.assert_close(units.sum(-1), whole)
    z = q.rsample((100_000,))
    within_standard_errors(q.base_dist.log_prob(z) - p.base_dist.log_prob(z), units)


def test_unit_kl_of_a_map_of_latents() -> None:
    q, p = (diagonal_normal(torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5) + 0.1, event_dims=3) for _ in range(2))
    units, whole = unit_kl(q, p), closed_form_kl(q, p)
    assert units is not None
    assert units.shape == (2, 3, 4, 5)
    torch.testing.assert_close(units.sum((1, 2, 3)), whole)


def test_unit_kl_needs_units_of_one_number() -> None:
    def pairs(*batch: int) -> Independent:
        return Independent(td.MultivariateNormal(torch.randn(*batch, 3, 2), torch.eye(2)), 1)

    q, p = pairs(4), pairs()
    assert q.event_shape == (3, 2)
    assert unit_kl(q, p) is None
    assert closed_form_kl(q, p) is not None


def test_no_closed_form_is_none() -> None:
    q = random_diagonal(4, 3)
    p = mixture_of_normals(torch.zeros(2), torch.zeros(2, 3), torch.ones(2, 3))
    assert closed_form_kl(q, p) is None
    assert unit_kl(q, p) is None
    assert unit_kl(random_full(4, 3), diagonal_normal(torch.zeros(3), torch.ones(3))) is None
    assert closed_form_kl(random_full(1, 3), Independent(td.Laplace(torch.zeros(3), torch.ones(3)), 1)) is None


def test_mixture_of_normals_density() -> None:
    logits, mean, scale = torch.randn(3).double(), torch.randn(3, 2).double(), torch.rand(3, 2).double() + 0.2
    z = torch.randn(7, 2).double()
    expected = torch.zeros(7).double()
    for k, weight in enumerate(torch.softmax(logits, 0)):
        square = ((z - mean[k]) / scale[k]).square().sum(-1)
        expected += weight * torch.exp(-0.5 * square) / (2 * math.pi * scale[k].prod())
    torch.testing.assert_close(mixture_of_normals(logits, mean, scale).log_prob(z), expected.log())
