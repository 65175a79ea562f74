"""The hierarchy: a linear-Gaussian ladder against its exact evidence, its shapes, its masks and conditions, its start."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.distributions import Normal as TorchNormal

from conftest import inverse_softplus
from small_models import shaken
from vaekit.component import build
from vaekit.errors import ConfigError
from vaekit.likelihoods import Bernoulli, DiscretizedLogisticMixture, Normal
from vaekit.networks import ConditionEncoder, ConvLadder, DenseLadder, Tail
from vaekit.objectives import ELBO, IWAE, level_rate, log_mean_weight, rate
from vaekit.vae import HierarchicalVAE

Check = Callable[..., None]

X = torch.tensor([[0.3, -1.0, 2.0], [-4.0, 0.0, 0.5], [0.0, 6.0, -3.0], [0.5, -1.0, 0.2]], dtype=torch.float64)
UNIT = 0.5413248546
FLOOR = 1e-3


def raw(scale: Tensor) -> Tensor:
    """What a network must give for a scale."""
    return inverse_softplus(scale - FLOOR) - UNIT


@dataclass(frozen=True)
class LinearLadder:
    """z_0 ~ N(m_0, s_0^2), z_1|z_0 ~ N(A z_0 + a, diag s_1^2), x|z ~ N(W_0 z_0 + W_1 z_1 + b, s^2 I), in 1, 2 and 3 numbers.

    W_1 has orthogonal columns, so z_1 given z_0 and x is a normal of independent units: a ladder can hold the exact posterior.
    """

    top: Tensor = field(default_factory=lambda: torch.tensor([0.4, 1.3], dtype=torch.float64))
    a: Tensor = field(default_factory=lambda: torch.tensor([[0.8], [-1.5]], dtype=torch.float64))
    a_bias: Tensor = field(default_factory=lambda: torch.tensor([0.2, -0.7], dtype=torch.float64))
    a_scale: Tensor = field(default_factory=lambda: torch.tensor([0.6, 1.4], dtype=torch.float64))
    w0: Tensor = field(default_factory=lambda: torch.tensor([[0.5], [-0.3], [0.9]], dtype=torch.float64))
    w1: Tensor = field(default_factory=lambda: torch.tensor([[1.0, 2.0], [2.0, -1.0], [-0.4, 0.0]], dtype=torch.float64))
    bias: Tensor = field(default_factory=lambda: torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64))
    scale: float = 0.7

    @property
    def noise(self) -> Tensor:
        return self.scale**2 * torch.eye(3, dtype=torch.float64)

    def given_top(self) -> tuple[Tensor, Tensor, Tensor]:
        """M, m, C with x|z_0 ~ N(M z_0 + m, C)."""
        covariance = self.w1 @ torch.diag(self.a_scale**2) @ self.w1.T + self.noise
        return self.w0 + self.w1 @ self.a, self.bias + self.w1 @ self.a_bias, covariance

    def evidence(self, x: Tensor) -> Tensor:
        m, b, c = self.given_top()
        return MultivariateNormal(b + m[:, 0] * self.top[0], c + self.top[1] ** 2 * m @ m.T).log_prob(x)

    def top_posterior(self) -> tuple[Tensor, Tensor, Tensor]:
        """G (1, 3), g (1,), t (1,) with z_0|x ~ N(G x + g, t^2)."""
        m, b, c = self.given_top()
        precision = 1 / self.top[1] ** 2 + (m.T @ torch.linalg.solve(c, m))[0, 0]
        gain = torch.linalg.solve(c, m).T / precision
        return gain, self.top[:1] / self.top[1] ** 2 / precision - gain @ b, precision.rsqrt().reshape(1)

    def bottom_posterior(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """H (2, 1), G (2, 3), g (2,), t (2,) with z_1|z_0, x ~ N(H z_0 + G x + g, diag t^2)."""
        precision = 1 / self.a_scale**2 + (self.w1**2).sum(0) / self.scale**2
        gain = self.w1.T / self.scale**2 / precision[:, None]
        inner = self.a / self.a_scale[:, None] ** 2 / precision[:, None]
        return inner - gain @ self.w0, gain, self.a_bias / self.a_scale**2 / precision - gain @ self.bias, precision.rsqrt()

    def log_joint(self, x: Tensor, z0: Tensor, z1: Tensor) -> Tensor:
        """log p(x, z) by the definitions."""
        top = TorchNormal(self.top[0], self.top[1]).log_prob(z0).sum(-1)
        bottom = TorchNormal(z0 @ self.a.T + self.a_bias, self.a_scale).log_prob(z1).sum(-1)
        return top + bottom + TorchNormal(z0 @ self.w0.T + z1 @ self.w1.T + self.bias, self.scale).log_prob(x).sum(-1)

    def vae(self, relative: bool, shift: float = 0.0, widen: float = 1.0) -> HierarchicalVAE:
        """The model; its posteriors are the exact ones, moved by `shift` and widened by `widen`.

        Networks are linear, as states hold pairs (v, -v): relu(v) - relu(-v) = v. The state is (z_0, -z_0, z_1, -z_1).
        """
        ladder = DenseLadder(3, [1, 2], width=6, hidden=12, num_blocks=0, activation="relu")
        likelihood = Normal(Tail([6], num_blocks=0, activation="relu"), [3], min_scale=FLOOR)
        vae = HierarchicalVAE(ladder, likelihood, relative=relative, min_scale=FLOOR).double()
        eye = torch.eye(3, dtype=torch.float64)
        for parameter in vae.parameters():
            parameter.data.zero_()
        ladder.stem.weight.data.copy_(torch.cat([eye, -eye]))
        top, bottom = ladder.rungs
        pair = torch.tensor([1.0, -1.0], dtype=torch.float64)
        top.project.weight.data[:2, 0] = pair
        for unit in range(2):
            bottom.project.weight.data[2 + 2 * unit : 4 + 2 * unit, unit] = pair
        for rung in (top, bottom):  # inside: the state's six numbers, then the data's six
            for block in (rung.prior_block, rung.posterior_block):
                block.first.weight.data[:6] = torch.eye(6)
            rung.posterior_block.beside.weight.data[6:] = torch.eye(6)
        top.prior_block.last.bias.data[:2] = torch.stack([self.top[0], raw(self.top[1])])
        bottom.prior_block.last.weight.data[:2, :2] = self.a * pair
        bottom.prior_block.last.bias.data[:4] = torch.cat([self.a_bias, raw(self.a_scale)])
        gain, offset, spread = self.top_posterior()
        zero = torch.zeros(1, 1, dtype=torch.float64)
        self._set(top, zero, gain, offset + shift, spread * widen, (zero, *self.top.split(1)) if relative else None)
        inner, gain, offset, spread = self.bottom_posterior()
        prior = (self.a, self.a_bias, self.a_scale) if relative else None
        self._set(bottom, inner, gain, offset + shift, spread * widen, prior)
        head = likelihood.head.linear
        head.weight.data[:, :2] = self.w0 * pair
        head.weight.data[:, 2:] = torch.stack([self.w1, -self.w1], dim=-1).flatten(1)
        head.bias.data.copy_(self.bias)
        likelihood.raw_scale.data.copy_(inverse_softplus(torch.tensor(self.scale - FLOOR, dtype=torch.float64)))
        return vae

    def _set(self, rung, inner, gain, offset, spread, prior) -> None:
        """The posterior N(inner z_0 + gain x + offset, spread^2), of z or relative to a prior N(A z_0 + a, s^2)."""
        if prior is not None:
            slope, start, scale = prior
            inner, gain = (inner - slope) / scale[:, None], gain / scale[:, None]
            offset, spread = (offset - start) / scale, spread / scale
        last, num = rung.posterior_block.last, len(offset)
        last.weight.data[:num, :2] = inner * torch.tensor([1.0, -1.0], dtype=torch.float64)
        last.weight.data[:num, 6:] = torch.cat([gain, -gain], dim=1)
        last.bias.data.copy_(torch.cat([offset, raw(spread)]))


LADDER = LinearLadder()


@pytest.mark.parametrize("relative", [True, False])
def test_at_the_exact_posterior_every_log_weight_is_the_evidence(relative: bool) -> None:
    trace = LADDER.vae(relative)(X, num_samples=50)
    torch.testing.assert_close(trace.log_weights, LADDER.evidence(X).expand(50, 4), rtol=0, atol=1e-9)


@pytest.mark.parametrize("relative", [True, False])
def test_log_weights_are_the_densities_by_hand(relative: bool) -> None:
    shift, widen = 0.3, 1.7
    trace = LADDER.vae(relative, shift, widen)(X, num_samples=20)
    noise0, noise1 = (latent.z for latent in trace.latents)
    z0 = LADDER.top[0] + LADDER.top[1] * noise0
    z1 = z0 @ LADDER.a.T + LADDER.a_bias + LADDER.a_scale * noise1
    gain, offset, spread = LADDER.top_posterior()
    log_q = TorchNormal(X @ gain.T + offset + shift, spread * widen).log_prob(z0).sum(-1)
    inner, gain, offset, spread = LADDER.bottom_posterior()
    log_q = log_q + TorchNormal(z0 @ inner.T + X @ gain.T + offset + shift, spread * widen).log_prob(z1).sum(-1)
    torch.testing.assert_close(trace.log_weights, LADDER.log_joint(X, z0, z1) - log_q, rtol=0, atol=1e-9)


@pytest.mark.parametrize("relative", [True, False])
def test_the_bound_rises_to_the_evidence(relative: bool, within_standard_errors: Check) -> None:
    vae, evidence = LADDER.vae(relative, 0.5, 1.5), LADDER.evidence(X)
    with torch.no_grad():
        means = [log_mean_weight(vae(X, num_samples=k)).mean().item() for k in (1, 10, 100, 20_000)]
        log_weights = vae(X, num_samples=20_000).log_weights
    assert means == sorted(means)
    assert means[0] < evidence.mean().item() - 0.3
    within_standard_errors((log_weights - evidence).exp(), torch.ones(4))  # E w = p(x), exactly
    assert means[-1] == pytest.approx(evidence.mean().item(), abs=0.02)


def test_the_rate_is_the_sum_over_levels_and_as_sampled(within_standard_errors: Check) -> None:
    trace = LADDER.vae(True, 0.3, 1.3)(X, num_samples=20_000)
    levels = [level_rate(latent) for latent in trace.latents]
    torch.testing.assert_close(rate(trace), levels[0] + levels[1])
    for latent, level in zip(trace.latents, levels, strict=True):
        within_standard_errors((latent.log_q - latent.log_p).detach() - level.detach(), 0.0)
    assert trace.latents[0].posterior.batch_shape == (4,)
    assert trace.latents[1].posterior.batch_shape == (20_000, 4)


def test_the_elbo_has_the_gradient_of_finite_differences() -> None:
    vae = LADDER.vae(True, 0.3, 1.3)

    def loss() -> Tensor:
        torch.manual_seed(3)
        return ELBO()(vae(X, num_samples=2)).loss

    loss().backward()
    for name, index in (
        ("ladder.rungs.0.project.weight", (0, 0)),
        ("ladder.rungs.0.posterior_block.last.bias", (1,)),
        ("ladder.rungs.1.prior_block.last.bias", (2,)),
        ("ladder.rungs.1.posterior_block.last.weight", (0, 7)),
        ("ladder.stem.weight", (1, 1)),
    ):
        parameter = dict(vae.named_parameters())[name]
        with torch.no_grad():
            values = []
            for step in (1e-5, -2e-5):
                parameter[index] += step
                values.append(loss().item())
            parameter[index] += 1e-5
        assert parameter.grad is not None
        assert parameter.grad[index].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-7), name


def test_prior_samples_have_the_moments_of_the_model(within_standard_errors: Check) -> None:
    """Decoded draws of the prior are draws of p(x), also where every scale is halved."""
    vae = LADDER.vae(True)
    m, b, _ = LADDER.given_top()
    for temperature in (1.0, 0.5):
        z = vae.sample_prior(20_000, temperature=temperature)
        assert z.shape == (1, 20_000, 3)
        mean = vae.decode_flat(z).mean[0].detach()
        top = torch.square(temperature * LADDER.top[1]) * m @ m.T
        covariance = top + LADDER.w1 @ torch.diag((temperature * LADDER.a_scale) ** 2) @ LADDER.w1.T
        expected = b + m[:, 0] * LADDER.top[0]
        within_standard_errors(mean, expected)
        centred = mean - expected
        within_standard_errors(centred[:, :, None] * centred[:, None, :], covariance)


# ----------------------------------------------------------------------------------------------------------- real ladders


def dense(condition: bool = False, levels: tuple[int, ...] = (2, 3), **options: object) -> HierarchicalVAE:
    encoder = ConditionEncoder({"label": 3}, features=2) if condition else None
    ladder = DenseLadder([1, 6, 5], levels, width=16, condition_features=2 if condition else 0, observe_mask=True)
    likelihood = DiscretizedLogisticMixture(Tail([16]), [30], 16, 2) if options.pop("flat", False) else None
    return HierarchicalVAE(ladder, likelihood or Bernoulli(Tail([16]), [1, 6, 5]), encoder, **options)


def conv(
    condition: bool = False, levels: tuple[int, ...] = (1, 2, 0, 1), num_latents: int = 3, **options: object
) -> HierarchicalVAE:
    encoder = ConditionEncoder({"label": 3}, features=2) if condition else None
    channels = [8, 8, 12, 12][: len(levels)]
    width = 2 if condition else 0
    ladder = ConvLadder([1, 6, 5], channels, levels, num_latents, condition_features=width, observe_mask=True)
    return HierarchicalVAE(ladder, Bernoulli(Tail(ladder.out_shape), [1, 6, 5]), encoder, **options)


MAKERS = [dense, conv, lambda **o: conv(relative=False, **o), lambda **o: dense(relative=False, **o)]
makers = pytest.mark.parametrize("make", MAKERS, ids=["dense", "conv", "conv-absolute", "dense-absolute"])


def binary(num: int = 5) -> Tensor:
    return (torch.rand(num, 1, 6, 5, generator=torch.Generator().manual_seed(4)) < 0.4).float()


def test_shapes_of_levels_follow_the_stages() -> None:
    vae = conv()
    assert vae.ladder.latent_shapes == ((3, 1, 1), (3, 3, 3), (3, 3, 3), (3, 6, 5))
    assert vae.num_latents == 3 + 27 + 27 + 90
    trace = vae(binary(), num_samples=4)
    assert [tuple(latent.z.shape[2:]) for latent in trace.latents] == list(vae.ladder.latent_shapes)
    assert trace.log_weights.shape == (4, 5)
    assert trace.posterior_mean.shape == (5, 147)
    odd = ConvLadder([2, 28, 17], [4] * 6, [0, 1, 1, 1, 1, 1], 2)
    assert [shape[1:] for shape in odd.latent_shapes] == [(1, 1), (2, 2), (4, 3), (7, 5), (14, 9)]
    assert [f.shape[2:] for f in odd.bottom_up(torch.zeros(1, 2, 28, 17))] == [(1, 1), (2, 2), (4, 3), (7, 5), (14, 9)]


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 9), (2, 7, 2), (1, 4, 4)])
def test_any_size_of_image(shape: tuple[int, int, int]) -> None:
    ladder = ConvLadder(shape, [4, 4, 4], [1, 0, 1], 2)
    vae = HierarchicalVAE(ladder, Normal(Tail(ladder.out_shape), shape))
    x = torch.randn(3, *shape)
    loss = ELBO()(vae(x, num_samples=2)).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert vae.decode_flat(vae.sample_prior(4)).mean.shape == (1, 4, *shape)


@makers
def test_flat_latents_of_a_trace_decode_to_its_likelihood(make: Callable[..., HierarchicalVAE]) -> None:
    vae, x, condition = shaken(make(condition=True)).double(), binary().double(), {"label": torch.tensor([0, 1, 2, -1, 0])}
    trace = vae(x, condition=condition, num_samples=3)
    flat = torch.cat([latent.z.flatten(2) for latent in trace.latents], dim=-1)
    for features in (condition, vae.encode_condition(condition)):
        torch.testing.assert_close(vae.decode_flat(flat, features).mean, trace.likelihood.mean, rtol=1e-10, atol=1e-12)
    one = vae.decode_flat(flat[0], condition)
    assert one.batch_shape == (5,)
    torch.testing.assert_close(one.mean, trace.likelihood.mean[0], rtol=1e-10, atol=1e-12)
    assert trace.decode is not None
    again = trace.decode(*(latent.z for latent in trace.latents))
    torch.testing.assert_close(again.log_prob(x), trace.log_likelihood, rtol=1e-10, atol=1e-10)


@makers
def test_encoding_is_the_posterior_with_the_levels_above_at_their_means(make: Callable[..., HierarchicalVAE]) -> None:
    """With scales next to nothing a trace stands at the means; encode gives those means, whatever the scales are."""
    vae, x = shaken(make()).double(), binary().double()
    mean, scale = vae.encode_flat(x)
    assert mean.shape == scale.shape == (5, vae.num_latents)
    assert (scale > 0).all()
    trace = vae(x)
    first = vae.ladder.latent_shapes[0]
    size = math.prod(first)
    torch.testing.assert_close(mean[:, :size], trace.latents[0].posterior.mean.flatten(1))
    torch.testing.assert_close(scale[:, :size], trace.latents[0].posterior.stddev.flatten(1))
    vae.min_scale = 1e-12
    with torch.no_grad():
        for rung in vae.ladder.rungs:
            rung.posterior_block.last.weight[math.prod(first[:1]) :] = 0.0
            rung.posterior_block.last.bias[math.prod(first[:1]) :] = -30.0
    torch.testing.assert_close(vae(x).posterior_mean, vae.encode_flat(x)[0], rtol=1e-6, atol=1e-8)


@makers
def test_an_unused_level_is_the_prior(make: Callable[..., HierarchicalVAE]) -> None:
    """Where the posterior's network says what the prior says, the latent is N(0, I) and the rate is 0."""
    vae = make()
    with torch.no_grad():
        for rung in vae.ladder.rungs:
            rung.posterior_block.last.weight.zero_()
            rung.posterior_block.last.bias.zero_()
        if vae.relative:
            vae.min_scale = 1e-9
    mean, scale = vae.encode_flat(binary())
    torch.testing.assert_close(mean, torch.zeros_like(mean))
    torch.testing.assert_close(scale, torch.ones_like(scale), rtol=1e-5, atol=0)
    torch.testing.assert_close(rate(vae(binary(), num_samples=2)), torch.zeros(5), rtol=0, atol=1e-5)


@makers
def test_gradient_reaches_every_parameter(make: Callable[..., HierarchicalVAE]) -> None:
    vae = shaken(make(condition=True))
    mask = torch.rand(5, 1, 6, 5) < 0.7
    loss = ELBO()(vae(binary(), condition={"label": torch.tensor([0, 1, 2, -1, 0])}, mask=mask, num_samples=2)).loss
    loss.backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@makers
def test_one_sample_and_five_agree_in_distribution(make: Callable[..., HierarchicalVAE], within_standard_errors: Check) -> None:
    vae, x = shaken(make(), 0.1).double(), binary(2).double()
    with torch.no_grad():
        alone = vae(x.repeat(300, 1, 1, 1)).log_weights.reshape(300, 2)
        five = vae(x.repeat(60, 1, 1, 1), num_samples=5).log_weights.reshape(300, 2)
        many = vae(x, num_samples=4000).log_weights
    for draws in (alone, five):
        within_standard_errors(draws - many.mean(0), 0.0, errors=4.5)
        within_standard_errors((draws - many.mean(0)).square() - many.var(0), 0.0, errors=4.5)


@makers
def test_seeds(make: Callable[..., HierarchicalVAE]) -> None:
    vae, weights = make(), []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        weights.append(vae(binary(), num_samples=3).log_weights)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    z = torch.cat([latent.z.flatten() for latent in vae(binary(), num_samples=3).latents])
    assert z.unique().numel() == z.numel() == 3 * 5 * vae.num_latents


@makers
def test_an_example_does_not_depend_on_its_batch(make: Callable[..., HierarchicalVAE]) -> None:
    vae, x, mask = shaken(make()).double(), binary().double(), torch.rand(5, 1, 6, 5) < 0.7
    mean, scale = vae.encode_flat(x, mask=mask)
    for b in range(5):
        one = vae.encode_flat(x[b : b + 1], mask=mask[b : b + 1])
        torch.testing.assert_close(one[0][0], mean[b], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(one[1][0], scale[b], rtol=1e-9, atol=1e-11)


@makers
def test_nan_at_missing_elements_is_never_read(make: Callable[..., HierarchicalVAE]) -> None:
    vae, x, mask = shaken(make()), binary(), torch.rand(5, 1, 6, 5) < 0.6
    losses, gradients = [], []
    for junk in (0.0, math.nan):
        torch.manual_seed(1)
        loss = IWAE()(vae(torch.where(mask, x, junk), mask=mask, num_samples=3)).loss
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, list(vae.parameters())))
    assert torch.equal(*losses)
    assert torch.isfinite(losses[1])
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(vae.encode_flat(x)[0], vae.encode_flat(x, mask=mask)[0])  # and the mask is


@makers
def test_a_condition_reaches_prior_posterior_and_likelihood(make: Callable[..., HierarchicalVAE]) -> None:
    vae = shaken(make(condition=True))
    labels = [{"label": torch.full((5,), code)} for code in (0, 1)]
    means = [vae.encode_flat(binary(), condition=label)[0] for label in labels]
    assert not torch.equal(*means)
    z = vae.sample_prior(5, condition=labels[0])
    assert not torch.equal(*(vae.decode_flat(z, label).mean for label in labels))
    for condition in (None, {}):
        for call in (lambda c=condition: vae(binary(), condition=c), lambda c=condition: vae.sample_prior(3, condition=c)):
            with pytest.raises(ConfigError, match="label must be given"):
                call()
    with pytest.raises(ConfigError, match="The model has no conditions, got label"):
        make()(binary(), condition=labels[0])
    with pytest.raises(ConfigError, match="The ladder takes a condition of 2 features, got 0"):
        vae.ladder.enter(0, None, None)


def test_the_condition_alone_can_decide_the_image() -> None:
    vae = dense(condition=True)
    label = torch.tensor([0, 1, 2, -1] * 6)
    x = torch.zeros(24, 1, 6, 5)
    x[torch.arange(24), 0, label] = 1.0
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.01)
    for _ in range(120):
        loss = ELBO()(vae(x, condition={"label": label})).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    asked = {"label": torch.tensor([0, 1, 2])}
    rows = vae.decode_flat(vae.sample_prior(3, condition=asked), asked).mean[0, :, 0].mean(-1)
    assert rows[:, :3].argmax(1).tolist() == [0, 1, 2]
    assert rows[:, :3].diagonal().min() > 0.7


# -------------------------------------------------------------------------------------------------------- start and depth


def start_of(vae: HierarchicalVAE, x: Tensor) -> tuple[float, float]:
    """Loss before training, and the size of the last state."""
    vae.initialize(x)
    states: list[Tensor] = []
    vae.likelihood.network.register_forward_pre_hook(lambda module, inputs: states.append(inputs[0]))
    with torch.no_grad():
        loss = ELBO()(vae(x)).loss.item()
    return loss, states[0].square().mean().item()


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_depth_does_not_change_the_start(kind: str) -> None:
    """Levels of 24 units together, so that the number of levels is all that differs."""
    losses, powers = [], []
    for depth in (2, 8, 24):
        found = []
        for seed in range(4):
            torch.manual_seed(seed)
            if kind == "dense":
                vae = dense(levels=(24 // depth,) * depth)
            else:
                vae = conv(levels=(0, depth - 1, 0, 1), num_latents=2)
            found.append(start_of(vae, binary(64)))
        losses.append(np.mean([loss for loss, _ in found]))
        powers.append(np.mean([power for _, power in found]))
    entropy = ELBO()(dense()(binary(64))).distortion.item()
    assert max(losses) < 2 * entropy
    assert max(losses) < 1.5 * min(losses)
    assert max(powers) < 3 * min(powers)


def test_forty_levels_train() -> None:
    vae = conv(levels=(2, 30, 7, 1), num_latents=2)
    x = torch.zeros(8, 1, 6, 5)
    x[:, :, 2:4] = 1.0
    assert len(vae.ladder.latent_shapes) == 40
    optimizer = torch.optim.Adam(vae.parameters(), lr=3e-3)
    losses = []
    for _ in range(5):
        loss = ELBO()(vae(x)).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in vae.parameters() if p.grad is not None)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1.0


def test_reduced_precision_ends_before_the_densities() -> None:
    vae, x = conv(), binary()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trace = vae(x, num_samples=2)
        mean, _ = vae.encode_flat(x)
    assert trace.log_weights.dtype == mean.dtype == torch.float32
    assert all(latent.z.dtype == torch.float32 for latent in trace.latents)
    torch.testing.assert_close(mean, vae.encode_flat(x)[0], rtol=0, atol=0.05)  # 8 bits through a dozen layers


@makers
def test_spec_and_copies(make: Callable[..., HierarchicalVAE]) -> None:
    vae = make(condition=True)
    again = build(json.loads(json.dumps(vae.spec())))
    assert isinstance(again, HierarchicalVAE)
    assert again.spec() == vae.spec()
    assert again.relative == vae.relative
    again.load_state_dict(vae.state_dict())
    label = {"label": torch.arange(5) % 3}
    before = vae.encode_flat(binary(), condition=label)[0]
    assert torch.equal(again.encode_flat(binary(), condition=label)[0], before)
    shaken(copy.deepcopy(vae))
    assert torch.equal(vae.encode_flat(binary(), condition=label)[0], before)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: ConvLadder([1, 4], [4], [1]), r"`shape` must be \(C, H, W\) with sizes of at least 1, got \(1, 4\)"),
        (lambda: ConvLadder([1, 4, 4], [4, 4], [1]), "`levels` a count for each of them"),
        (lambda: ConvLadder([1, 4, 4], [4, 0], [1, 1]), "`channels` must hold widths of at least 1"),
        (lambda: ConvLadder([1, 4, 4], [4, 4], [1, 0]), "`levels` must be counts >= 0, and >= 1 at the last stage"),
        (lambda: ConvLadder([1, 4, 4], [4], [1], num_latents=0), "`num_latents` and `bottleneck` must be at least 1"),
        (lambda: DenseLadder(4, []), "A ladder must have sizes, widths and latents of at least 1"),
        (lambda: DenseLadder(4, [2, 0]), "A ladder must have sizes, widths and latents of at least 1"),
        (lambda: Tail([4, 4]), r"`in_shape` \(F,\) or \(F, H, W\)"),
        (lambda: Bernoulli(Tail([4, 3, 3]), [1, 3, 4]), r"The tail makes images of \(3, 3\), got the event shape"),
        (lambda: HierarchicalVAE(DenseLadder(4, [2], 8), Bernoulli(Tail([9]), [4])), r"ladder's state \(8,\), got a tail"),
        (lambda: HierarchicalVAE(DenseLadder(4, [2], 8), Bernoulli(Tail([8]), [4]), min_scale=0), "`min_scale` must be > 0"),
        (lambda: dense().sample_prior(3, temperature=0.0), "`temperature` must be > 0"),
    ],
)
def test_what_cannot_be_is_one_sentence(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        call()
