"""The whole: a linear-Gaussian model against its exact evidence, masks, conditions, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal as TorchNormal
from torch.distributions import kl_divergence

from vaekit.distributions import Independent, diagonal_normal
from vaekit.errors import ConfigError
from vaekit.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Normal
from vaekit.networks import MLP, ConditionEncoder, ConvDecoder, ConvEncoder
from vaekit.objectives import ELBO, IWAE, log_mean_weight
from vaekit.posteriors import DiagonalNormal, FullNormal
from vaekit.priors import MixtureOfNormals, StandardNormal
from vaekit.types import Batch, Latent, Trace
from vaekit.vae import VAE, masked_log_prob

if TYPE_CHECKING:
    from conftest import LinearGaussian

Check = Callable[..., None]

X = torch.tensor([[0.3, -1.0, 2.0], [-4.0, 0.0, 0.5], [0.0, 6.0, -3.0], [0.5, -1.0, 0.2]], dtype=torch.float64)
MASKS = [[True, True, True], [True, False, True], [False, True, False], [False, False, True]]


def quadrature_trace(vae: VAE, x: Tensor, mask: Tensor | None = None) -> Trace:
    """The trace at z = mean +- sqrt(D) L e_i instead of at random samples.

    The mean over these 2 D points is the exact expectation of any quadratic, and every log-density of a linear-Gaussian
    model is one: the means over K are then no estimates.
    """
    q = vae.encode(x, mask=mask)
    assert hasattr(q, "scale_tril")
    spread = math.sqrt(q.event_shape[0]) * q.scale_tril.movedim(-1, 0)
    z = q.mean + torch.cat([spread, -spread])
    p, prior = vae.decode(z), vae.prior()
    return Trace(x, p, masked_log_prob(p, x, mask), (Latent(z, q, prior),), mask)


# --------------------------------------------------------------------------------------------------- linear-Gaussian model


@pytest.mark.parametrize("observed", MASKS)
def test_at_the_exact_posterior_every_log_weight_is_the_evidence(linear_gaussian: LinearGaussian, observed: list[bool]) -> None:
    keep = torch.tensor(observed)
    mask = None if keep.all() else keep.expand(X.shape)
    x = torch.where(keep, X, math.nan)
    trace = linear_gaussian.exact_vae(keep)(x, mask=mask, num_samples=50)
    expected = linear_gaussian.evidence(X, keep)
    torch.testing.assert_close(trace.log_weights, expected.expand(50, 4), rtol=0, atol=1e-9)
    exact = quadrature_trace(linear_gaussian.exact_vae(keep), x, mask)
    for objective in (ELBO(), IWAE()):
        bound = objective(exact)
        assert bound.elbo.item() == pytest.approx(expected.mean().item(), abs=1e-9)
        assert bound.loss.item() == pytest.approx(-expected.mean().item(), abs=1e-9)


numbers = st.floats(min_value=-3.0, max_value=3.0)
positive = st.floats(min_value=0.05, max_value=3.0)


@settings(max_examples=100)
@given(
    gain=st.lists(numbers, min_size=6, max_size=6),
    offset=st.lists(numbers, min_size=2, max_size=2),
    diagonal=st.lists(positive, min_size=2, max_size=2),
    below=numbers,
    scale=st.floats(min_value=0.1, max_value=3.0),
    observed=st.sampled_from(MASKS),
)
def test_elbo_is_the_evidence_less_the_kl_to_the_exact_posterior(
    linear_gaussian: LinearGaussian,
    gain: list[float],
    offset: list[float],
    diagonal: list[float],
    below: float,
    scale: float,
    observed: list[bool],
) -> None:
    """For any posterior at all: elbo = log p(x) - KL(q(z|x) || p(z|x)), which is at most log p(x)."""
    model = dataclasses.replace(linear_gaussian, scale=scale)
    keep = torch.tensor(observed)
    mask = None if keep.all() else keep.expand(X.shape)
    lower = torch.tensor([[diagonal[0], 0.0], [below, diagonal[1]]], dtype=torch.float64)
    matrix = torch.tensor(gain, dtype=torch.float64).reshape(2, 3) * keep
    vae = model.vae(matrix, torch.tensor(offset, dtype=torch.float64), lower)
    trace = quadrature_trace(vae, X, mask)
    q = trace.latents[0].posterior
    gap = kl_divergence(q, model.posterior_at(X, keep))
    evidence = model.evidence(X, keep)
    sampled = trace.log_weights.mean(0)  # log q and log p at the points, no closed form
    tolerance = 1e-9 * (1 + gap.max().item())  # the terms are as large as the gap and cancel
    torch.testing.assert_close(sampled, evidence - gap, rtol=0, atol=tolerance)
    bound = ELBO()(trace)
    assert bound.elbo.item() == pytest.approx((evidence - gap).mean().item(), abs=tolerance)
    assert -bound.loss.item() == pytest.approx(bound.elbo.item(), abs=tolerance)
    assert bound.elbo.item() <= evidence.mean().item() + tolerance
    assert (bound.rate + bound.distortion).item() == pytest.approx(-bound.elbo.item(), abs=tolerance)


def loose_vae(model: LinearGaussian) -> VAE:
    """A posterior that is wider than the exact one (so that weights have a variance) and beside it."""
    gain, offset, lower = model.exact_posterior()
    return model.vae(0.7 * gain, offset + 0.4, 1.3 * torch.diag(lower.diagonal()) + 0.2 * torch.eye(2))


def test_sampled_elbo_has_the_exact_mean(linear_gaussian: LinearGaussian, within_standard_errors: Check) -> None:
    vae = loose_vae(linear_gaussian)
    exact = quadrature_trace(vae, X).log_weights.mean(0)
    within_standard_errors(vae(X, num_samples=20_000).log_weights.detach(), exact.detach())


def test_the_k_sample_bound_rises_to_the_evidence(linear_gaussian: LinearGaussian, within_standard_errors: Check) -> None:
    """Means over many draws; a rise must be 4 of its standard errors. 1 / K times the mean weight is unbiased for p(x)."""
    vae, x = loose_vae(linear_gaussian), X[:1]
    evidence = linear_gaussian.evidence(x).item()
    with torch.no_grad():
        draws = {k: log_mean_weight(vae(x.expand(200_000 // k, 3), num_samples=k)) for k in (1, 5, 50, 500)}
        weights = vae(x, num_samples=200_000).log_weights[:, 0]
    within_standard_errors((weights - evidence).exp(), 1.0)
    means = {k: d.mean().item() for k, d in draws.items()}
    errors = {k: d.std().item() / math.sqrt(len(d)) for k, d in draws.items()}
    for low, high in ((1, 5), (5, 50), (50, 500)):
        assert means[high] - means[low] > 4 * math.hypot(errors[low], errors[high]), means
    for k in draws:
        assert means[k] < evidence + 4 * errors[k]
    relative_variance = (weights - evidence).exp().var().item()
    for k in (50, 500):  # the gap is var(w) / (2 K p(x)^2) + O(1 / K^2)
        expected = relative_variance / (2 * k)
        assert evidence - means[k] == pytest.approx(expected, abs=0.2 * expected + 4 * errors[k])


def test_the_weights_are_unbiased_for_the_observed_elements_too(
    linear_gaussian: LinearGaussian, within_standard_errors: Check
) -> None:
    keep = torch.tensor([True, False, True])
    x = torch.where(keep, X[:1], math.nan)
    with torch.no_grad():
        weights = loose_vae(linear_gaussian)(x, mask=keep.expand(1, 3), num_samples=100_000).log_weights[:, 0]
    within_standard_errors((weights - linear_gaussian.evidence(X[:1], keep)).exp(), 1.0)


# ------------------------------------------------------------------------------------------------------------------- trace


def make_vae(condition: bool = False) -> VAE:
    features = 4 if condition else 0
    return VAE(
        StandardNormal(2),
        DiagonalNormal(MLP([1, 3, 4], [8], condition_features=features, observe_mask=True), 2),
        Bernoulli(MLP(2, [8], condition_features=features), [1, 3, 4]),
        ConditionEncoder({"label": 3}, features=4) if condition else None,
    )


def binary(batch: int = 5, shape: tuple[int, ...] = (1, 3, 4)) -> Tensor:
    return torch.randint(2, (batch, *shape)).float()


def test_trace_holds_what_its_docstring_says() -> None:
    vae, x, mask = make_vae(condition=True), binary(), torch.rand(5, 1, 3, 4) < 0.7
    trace = vae(x, condition={"label": torch.tensor([0, 1, 2, -1, 0])}, mask=mask, num_samples=7)
    (latent,) = trace.latents
    assert latent.z.shape == (7, 5, 2)
    assert latent.posterior.batch_shape == (5,)
    assert trace.likelihood.batch_shape == (7, 5)
    assert trace.condition is not None
    assert trace.condition.shape == (5, 4)
    assert trace.mask is mask
    assert trace.x is x
    torch.testing.assert_close(latent.log_q, latent.posterior.log_prob(latent.z))
    torch.testing.assert_close(latent.log_p, latent.prior.log_prob(latent.z))
    again = vae.decode(latent.z, condition={"label": torch.tensor([0, 1, 2, -1, 0])})
    torch.testing.assert_close(trace.log_likelihood, masked_log_prob(again, x, mask))
    torch.testing.assert_close(trace.log_weights, trace.log_likelihood + latent.log_p - latent.log_q)
    assert torch.equal(
        vae.encode(x, condition={"label": torch.tensor([0, 1, 2, -1, 0])}, mask=mask).mean, latent.posterior.mean
    )


def test_samples_differ_and_a_seed_repeats_them() -> None:
    vae, x = make_vae(), binary()
    torch.manual_seed(4)
    one = vae(x, num_samples=3)
    torch.manual_seed(4)
    two = vae(x, num_samples=3)
    assert torch.equal(one.log_weights, two.log_weights)
    assert one.latents[0].z.flatten().unique().numel() == 3 * 5 * 2


@pytest.mark.parametrize("objective", [ELBO(), ELBO(free_bits=0.1), IWAE()])
@pytest.mark.parametrize("kind", ["bernoulli", "categorical", "mixture", "normal"])
def test_nan_at_missing_elements_is_never_read(objective: ELBO | IWAE, kind: str) -> None:
    shape = [3, 2, 2]
    likelihood = {
        "bernoulli": lambda: Bernoulli(MLP(2, [8]), shape),
        "categorical": lambda: Categorical(MLP(2, [8]), shape, levels=2),
        "mixture": lambda: DiscretizedLogisticMixture(ConvDecoder(2, shape, [4]), shape, levels=2, num_components=2),
        "normal": lambda: Normal(MLP(2, [8]), shape),
    }[kind]()
    vae = VAE(StandardNormal(2), DiagonalNormal(ConvEncoder(shape, [4], features=6, observe_mask=True), 2), likelihood)
    x, mask = binary(4, (3, 2, 2)), (torch.rand(4, 1, 2, 2) < 0.5).expand(4, 3, 2, 2)
    losses, gradients = [], []
    for junk in (0.0, math.nan):
        torch.manual_seed(1)
        loss = objective(vae(torch.where(mask, x, junk), mask=mask, num_samples=3)).loss
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, list(vae.parameters())))
    assert torch.equal(losses[0], losses[1])
    assert torch.isfinite(losses[1])
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)
        assert torch.isfinite(b).all()


def test_an_example_does_not_depend_on_its_batch() -> None:
    vae = make_vae().double()
    x, mask = binary().double(), torch.rand(5, 1, 3, 4) < 0.7
    whole = vae.encode(x, mask=mask)
    z = torch.randn(2, 5, 2).double()
    decoded = vae.decode(z).log_prob(x)
    for b in range(5):
        one = vae.encode(x[b : b + 1], mask=mask[b : b + 1])
        torch.testing.assert_close(one.mean[0], whole.mean[b], rtol=1e-12, atol=1e-12)  # float64 sums in another order
        torch.testing.assert_close(vae.decode(z[:, b : b + 1]).log_prob(x[b : b + 1])[:, 0], decoded[:, b])


def test_a_distribution_without_masks_is_refused() -> None:
    p = torch.distributions.Independent(TorchNormal(torch.zeros(2, 3), torch.ones(2, 3)), 1)
    x, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(masked_log_prob(p, x, None), p.log_prob(x))
    with pytest.raises(ConfigError, match="Independent must take a mask in log_prob"):
        masked_log_prob(p, x, mask)
    ours = Independent(TorchNormal(torch.zeros(2, 3), torch.ones(2, 3)), 1)
    torch.testing.assert_close(masked_log_prob(ours, x, mask), p.log_prob(x))


# --------------------------------------------------------------------------------------------------------------- conditions


def test_conditional_model_end_to_end() -> None:
    """A label that decides the image must be learned from the condition alone, and the unknown label must be between."""
    vae = make_vae(condition=True)
    label = torch.tensor([0, 1, 2] * 8)
    x = torch.zeros(24, 1, 3, 4)
    x[torch.arange(24), 0, label] = 1.0
    label[::4] = -1  # some labels are missing
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.02)
    for _ in range(150):
        loss = ELBO()(vae(x, condition={"label": label})).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    asked = torch.tensor([0, 1, 2, -1])
    z = vae.sample_prior(4, condition={"label": asked})
    assert z.shape == (1, 4, 2)
    rows = vae.decode(z, condition={"label": asked}).mean[0, :, 0].mean(-1)  # (4, 3)
    assert torch.isfinite(rows).all()
    assert rows[:3].argmax(1).tolist() == [0, 1, 2]
    assert rows[:3].diagonal().min() > 0.7


def test_a_condition_for_a_model_without() -> None:
    with pytest.raises(ConfigError, match="The model has no conditions, got label, size"):
        make_vae()(binary(), condition={"label": torch.zeros(5), "size": torch.zeros(5)})
    assert make_vae().encode_condition({}) is None


def test_a_missing_column() -> None:
    vae = make_vae(condition=True)
    for condition in (None, {}, {"size": torch.zeros(5)}):
        with pytest.raises(ConfigError, match="conditioned on label; label must be given"):
            vae(binary(), condition=condition)
    with pytest.raises(ConfigError, match="label must be given"):
        vae.decode(torch.zeros(1, 5, 2))


# -------------------------------------------------------------------------------------------------------------------- rest


def test_flat_latents_are_the_latents_side_by_side() -> None:
    vae, x, mask = make_vae(condition=True), binary(), torch.rand(5, 1, 3, 4) < 0.7
    condition = {"label": torch.tensor([0, 1, 2, -1, 0])}
    assert vae.num_latents == 2
    mean, scale = vae.encode_flat(x, condition=condition, mask=mask)
    q = vae.encode(x, condition=condition, mask=mask)
    assert torch.equal(mean, q.mean)
    assert torch.equal(scale, q.stddev)
    z = torch.randn(3, 5, 2)
    expected = vae.decode(z, condition=condition)
    for known in (condition, vae.encode_condition(condition)):
        assert torch.equal(vae.decode_flat(z, known).mean, expected.mean)
        one = vae.decode_flat(z[0], known)
        assert one.batch_shape == (5,)
        torch.testing.assert_close(one.mean, expected.mean[0])
    plain = make_vae()
    assert torch.equal(plain.decode_flat(z).mean, plain.decode(z).mean)
    with pytest.raises(ConfigError, match="must be given"):
        vae.decode_flat(z)


def test_prior_and_posterior_must_agree() -> None:
    with pytest.raises(ConfigError, match=r"must share the latent's shape, got \(3,\) and \(2,\)\. Give both"):
        VAE(StandardNormal(3), DiagonalNormal(MLP(3, [4]), 2), Bernoulli(MLP(2, [4]), [3]))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ConfigError, match="`temperature` must be > 0"):
        make_vae().sample_prior(3, temperature=temperature)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sample_prior(temperature: float, within_standard_errors: Check) -> None:
    z = make_vae().sample_prior(20_000, temperature=temperature)
    assert z.shape == (1, 20_000, 2)
    assert not z.requires_grad
    within_standard_errors(z[0], 0.0)
    within_standard_errors(z[0].square(), temperature**2)


def test_sample_prior_of_a_mixture() -> None:
    vae = VAE(MixtureOfNormals(2, 3), FullNormal(MLP(3, [4]), 2), Bernoulli(MLP(2, [4]), [3]))
    assert vae.sample_prior(7).shape == (1, 7, 2)


def test_initialize_starts_the_likelihood_and_reads_the_mask() -> None:
    x = binary(100)
    x[:, 0, 0] = 1.0
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[50:] = False
    one, two = make_vae(), make_vae()
    one.initialize(x[:50])
    two.initialize(torch.where(mask, x, math.nan), mask)
    torch.testing.assert_close(one.likelihood.head.linear.bias, two.likelihood.head.linear.bias)
    assert torch.sigmoid(one.likelihood.head.linear.bias[:4]).min() > 0.98


def test_a_batch_moves_whole() -> None:
    batch = Batch(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), {"label": torch.zeros(2)}).to("meta")
    assert batch.x.is_meta
    assert batch.mask is not None
    assert batch.mask.is_meta
    assert batch.columns is not None
    assert batch.columns["label"].is_meta
    bare = Batch(torch.zeros(2, 3)).to("cpu")
    assert bare.mask is None
    assert bare.columns is None


def test_bfloat16_ends_before_the_densities() -> None:
    """Under autocast the networks run in bfloat16; log-densities stay in float32 and close to those of float32."""
    vae, x = make_vae(), binary()
    plain = vae.decode(torch.zeros(1, 5, 2)).log_prob(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trace = vae(x, num_samples=2)
        reduced = vae.decode(torch.zeros(1, 5, 2)).log_prob(x)
    assert trace.log_weights.dtype == torch.float32
    assert trace.latents[0].z.dtype == torch.float32
    torch.testing.assert_close(reduced, plain, rtol=0, atol=12 * 0.01)  # 12 logits of size 1 with 8 bits each


def test_kl_to_a_diagonal_prior_of_unequal_scales(within_standard_errors: Check) -> None:
    """The registered full-to-diagonal KL as the ELBO uses it."""
    posterior = FullNormal(MLP(3, [4]), 2).double()
    q, p = posterior(X), diagonal_normal(torch.tensor([0.5, -1.0]).double(), torch.tensor([0.3, 2.0]).double())
    z = q.rsample((50_000,))
    latent = Latent(z, q, p)
    rate = ELBO()(Trace(X, p, torch.zeros(50_000, 4), (latent,))).rate
    within_standard_errors((latent.log_q - latent.log_p).mean(1).detach(), rate.detach())


def test_a_frozen_likelihood_keeps_its_start() -> None:
    vae = VAE(StandardNormal(2), DiagonalNormal(MLP(3, [4]), 2), Bernoulli(MLP(2, [4]), [3]))
    vae.likelihood.requires_grad_(False)
    before = {name: t.clone() for name, t in vae.likelihood.state_dict().items()}
    x = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    vae.initialize(x)
    assert all(torch.equal(t, before[name]) for name, t in vae.likelihood.state_dict().items())
    vae.likelihood.requires_grad_(True)
    vae.initialize(x)
    assert any(not torch.equal(t, before[name]) for name, t in vae.likelihood.state_dict().items())
