"""Semi-amortised inference: the steps climb the bound, end at the exact posterior, and draw nothing."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from conftest import LinearGaussian
from vaekit.distributions import diagonal_normal
from vaekit.errors import ConfigError
from vaekit.jobs.blocks import in_blocks
from vaekit.likelihoods import Bernoulli
from vaekit.networks import MLP, ConditionEncoder
from vaekit.objectives import ELBO
from vaekit.posteriors import DiagonalNormal, FullNormal, SemiAmortized
from vaekit.posteriors.refined import _directions
from vaekit.priors import StandardNormal
from vaekit.vae import VAE

# Columns at right angles, so that the exact posterior is a product over units.
ORTHOGONAL = LinearGaussian(weight=torch.tensor([[1.0, -0.5], [0.5, 1.0], [-1.0, 0.0]], dtype=torch.float64))


def refined(model: LinearGaussian, **arguments) -> VAE:
    """The linear model with a posterior whose network knows nothing."""
    vae = model.exact_vae()
    vae.posterior = SemiAmortized(DiagonalNormal(MLP(3, [6]), 2), **arguments).double()
    return vae


def gap(model: LinearGaussian, vae: VAE, x: Tensor) -> Tensor:
    """(B,): KL(q || p(z|x))."""
    q = vae.encode(x)
    return kl_divergence(
        torch.distributions.MultivariateNormal(q.mean, scale_tril=torch.diag_embed(q.stddev)), model.posterior_at(x)
    )


def data() -> Tensor:
    return torch.randn(4, 3).double() * 2.0


@pytest.mark.parametrize("num_samples", [2, 4])
def test_steps_reduce_the_gap_and_reach_the_exact_posterior(num_samples: int) -> None:
    x = data()
    assert torch.isclose(ORTHOGONAL.weight[:, 0] @ ORTHOGONAL.weight[:, 1], torch.tensor(0.0).double())
    gaps = []
    for steps in (1, 5, 20, 600):
        torch.manual_seed(1)
        vae = refined(ORTHOGONAL, steps=steps, learning_rate=0.05, num_samples=num_samples)
        gaps.append(gap(ORTHOGONAL, vae, x))
    for before, after in itertools.pairwise(gaps):
        assert (after < before).all()
    assert gaps[0].max() > 0.1
    assert gaps[-1].max() < 1e-6


def test_with_correlated_latents_the_best_product_is_reached() -> None:
    """Its mean is exact and each variance is one over the precision of the unit."""
    model, x = LinearGaussian(), data()
    q = refined(model, steps=600, learning_rate=0.05, num_samples=4).encode(x)
    exact = model.posterior_at(x)
    torch.testing.assert_close(q.mean, exact.mean, rtol=1e-5, atol=1e-5)
    precision = torch.linalg.inv(exact.covariance_matrix).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(q.variance, 1.0 / precision, rtol=1e-5, atol=1e-5)


def test_one_step_by_hand() -> None:
    """log p(x, z) = -h |z - a|^2 / 2: d/dm = -h (m - a), d/dlog s = 1 - h s^2, for the points have covariance I."""
    posterior = SemiAmortized(DiagonalNormal(MLP(3, [4]), 3), 1, 0.1, num_samples=6, max_norm=100.0).double()
    mean, scale, h, a = torch.randn(5, 3).double(), torch.rand(5, 3).double() + 0.5, 2.0, 0.3
    q = posterior.refine(diagonal_normal(mean, scale), lambda z: (-0.5 * h * (z - a) ** 2).sum(-1))
    torch.testing.assert_close(q.mean, mean - 0.1 * h * (mean - a))
    torch.testing.assert_close(q.stddev.log(), scale.log() + 0.1 * (1 - h * scale**2))


def test_the_norm_of_each_gradient_is_bounded() -> None:
    posterior = SemiAmortized(DiagonalNormal(MLP(3, [4]), 2), 1, 0.1, num_samples=2, max_norm=3.0).double()
    mean, scale = torch.tensor([[1e6, 0.0], [0.1, 0.0]]).double(), torch.ones(2, 2).double()
    q = posterior.refine(diagonal_normal(mean, scale), lambda z: (-0.5 * z**2).sum(-1))
    moved = torch.cat([q.mean - mean, q.stddev.log()], dim=-1).norm(dim=-1)
    assert math.isclose(moved[0].item(), 0.3, rel_tol=1e-6)
    assert moved[1] < 0.15


@pytest.mark.parametrize("units", [1, 2, 3, 8, 33])
def test_the_points_have_the_moments_of_noise(units: int) -> None:
    points = _directions(units).double()
    torch.testing.assert_close(points.T @ points / units, torch.eye(units).double(), rtol=0, atol=1e-5)
    assert points.abs().max() < 1.5
    posterior = SemiAmortized(DiagonalNormal(MLP(3, [4]), units), num_samples=2)
    seen = torch.cat([posterior._points_of(step) for step in range(units)])
    torch.testing.assert_close(seen.sum(0), torch.zeros(1, units))
    torch.testing.assert_close(seen[:, 0].T @ seen[:, 0] / (2 * units), torch.eye(units), rtol=0, atol=1e-5)


def small_vae(unroll: bool = True, condition: bool = False, steps: int = 4) -> VAE:
    width = 2 if condition else 0
    return VAE(
        StandardNormal(3),
        SemiAmortized(DiagonalNormal(MLP(5, [8], condition_features=width), 3), steps, 0.2, unroll=unroll),
        Bernoulli(MLP(3, [8], condition_features=width), [5]),
        ConditionEncoder({"label": 3}, features=2) if condition else None,
    )


def bits() -> Tensor:
    return (torch.rand(6, 5) < 0.5).float()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_works_where_gradients_are_off(context) -> None:
    vae = small_vae(condition=True)
    with context():
        x, mask, condition = bits(), torch.rand(6, 5) < 0.7, {"label": torch.tensor([0, 1, 2, 0, -1, 1])}
        state = torch.get_rng_state()
        mean, scale = vae.encode_flat(x, condition=condition, mask=mask)
        assert torch.equal(torch.get_rng_state(), state)
        start = vae.posterior(x, vae.encode_condition(condition), mask)
        assert (mean - start.mean).abs().max() > 1e-3
        trace = vae(x, condition=condition, mask=mask, num_samples=3)
        assert torch.isfinite(trace.log_weights).all()
        assert mean.requires_grad == (context is torch.enable_grad)
    assert all(p.grad is None for p in vae.parameters())
    with torch.no_grad():
        again = vae.encode_flat(x.clone(), condition={"label": condition["label"].clone()}, mask=mask.clone())
    close = (
        {"rtol": 1e-6, "atol": 1e-6} if context is torch.enable_grad else {"rtol": 0.0, "atol": 0.0}
    )  # another backward pass
    torch.testing.assert_close(again[0], mean.detach(), **close)
    torch.testing.assert_close(again[1], scale.detach(), **close)


def test_an_encoding_does_not_depend_on_the_company() -> None:
    vae, x = small_vae(), bits()
    with torch.inference_mode():
        together = vae.encode_flat(x)
        alone = [vae.encode_flat(row[None]) for row in x]
        in_job = in_blocks(lambda rows: vae.encode_flat(rows), [x[:4]], block=3)
    for i in range(2):
        torch.testing.assert_close(together[i], torch.cat([one[i] for one in alone]), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(together[i][:4], in_job[i], rtol=1e-5, atol=1e-6)


def test_training_differentiates_through_the_steps() -> None:
    """Against finite differences of the whole: start, steps and bound."""
    vae, x = small_vae(steps=3).double(), bits()[:2].double()
    weight = vae.posterior.posterior.head.linear.weight

    def loss(value: Tensor) -> Tensor:
        torch.manual_seed(0)
        names = {"posterior.posterior.head.linear.weight": value}
        return torch.func.functional_call(_Loss(vae), {f"vae.{name}": v for name, v in names.items()}, (x,))

    assert torch.autograd.gradcheck(loss, (weight.detach().clone().requires_grad_(),))


class _Loss(torch.nn.Module):
    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> Tensor:
        return ELBO()(self.vae(x)).loss


def test_without_unrolling_the_steps_are_a_constant() -> None:
    vae, x = small_vae(unroll=False), bits()
    start = vae.posterior(x)
    q = vae.encode(x)
    assert (q.mean - start.mean).abs().max() > 1e-3
    direct = torch.autograd.grad(start.mean.sum(), vae.posterior.parameters(), retain_graph=True, materialize_grads=True)
    through = torch.autograd.grad(q.mean.sum(), vae.posterior.parameters(), retain_graph=True, materialize_grads=True)
    for a, b in zip(direct, through, strict=True):
        torch.testing.assert_close(a, b)
    ELBO()(vae(x)).loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in vae.parameters())
    same = small_vae(unroll=True)
    same.load_state_dict(vae.state_dict())
    torch.testing.assert_close(same.encode(x).mean, q.mean)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SemiAmortized(FullNormal(MLP(3, [4]), 2)), "`posterior` must be a DiagonalNormal, got a FullNormal"),
        (lambda: SemiAmortized(DiagonalNormal(MLP(3, [4]), 2), steps=0), "`steps` must be at least 1"),
        (lambda: SemiAmortized(DiagonalNormal(MLP(3, [4]), 2), learning_rate=0.0), "above 0, got 20, 0.0"),
        (lambda: SemiAmortized(DiagonalNormal(MLP(3, [4]), 2), num_samples=3), "must be even and from 2 to 4, got 3"),
        (lambda: SemiAmortized(DiagonalNormal(MLP(3, [4]), 2), num_samples=6), "must be even and from 2 to 4, got 6"),
    ],
)
def test_what_is_refused(make, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()
