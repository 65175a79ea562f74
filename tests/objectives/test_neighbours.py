"""The neighbour term against brute force, finite differences and cases that can be done by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from vaekit.distributions import diagonal_normal
from vaekit.errors import ConfigError
from vaekit.networks import MLP
from vaekit.objectives import ELBO, FactorVAE, Neighbours
from vaekit.objectives.neighbours import squared_distances
from vaekit.types import Latent, Partners, Trace


def traced(mean, there, weight=None):
    """A trace with these posterior means (B, D) and those of the partners."""
    size = len(mean)
    q, p = diagonal_normal(mean, torch.full_like(mean, 0.3)), diagonal_normal(torch.zeros(mean.shape[1]).to(mean), 1.0)
    z = mean[None] + 0.1
    weight = torch.ones(size).to(mean) if weight is None else weight
    return Trace(torch.zeros(size, 1), p, torch.zeros(1, size).to(mean), (Latent(z, q, p),), partners=Partners(there, weight))


def some(units=2, size=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mean, there = torch.randn(2, size, units, generator=generator, dtype=torch.float64)
    return mean, there, torch.rand(size, generator=generator, dtype=torch.float64) + 0.5


def brute(objective, mean, there, weight):
    """Loop by loop, as the docstring has it."""

    def similarity(a, b):
        distance = math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))
        return 1 / (1 + (distance / objective.reach) ** (2 * objective.exponent))

    points = [*mean.tolist(), *there.tolist()]
    size, total = len(mean), 0.0
    for i in range(size):
        others = [points[n] for n in range(2 * size) if n not in (i, size + i)]
        near = similarity(points[i], points[size + i])
        far = [similarity(points[i], other) for other in others]
        if objective.form == "contrastive":
            term = math.log(1 + sum(far) / near)
        else:
            term = -math.log(near) - objective.repulsion * sum(math.log(1 - s) for s in far) / len(far)
        total += weight[i].item() * term / size
    return total


@pytest.mark.parametrize("units", [2, 12])
@pytest.mark.parametrize("form", ["contrastive", "cross-entropy"])
@pytest.mark.parametrize("exponent", [1.0, 0.7])
def test_the_term_is_that_of_loops(units, form, exponent):
    mean, there, weight = some(units)
    objective = Neighbours(reach=0.4, exponent=exponent, form=form, repulsion=3.0)
    found = objective.term(traced(mean, there, weight)).item()
    # 1e-3 is added to squared distances in the cross-entropy, which is nothing at the distances of these points
    assert found == pytest.approx(brute(objective, mean, there, weight), rel=1e-9 if form == "contrastive" else 5e-3)


@pytest.mark.parametrize("form", ["contrastive", "cross-entropy"])
def test_gradients_are_those_of_finite_differences(form):
    mean, there, weight = some(size=4, seed=1)
    objective = Neighbours(reach=0.5, exponent=0.8, form=form)
    arguments = (mean.requires_grad_(), there.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: objective.term(traced(a, b, weight)), arguments)


def test_by_hand_two_examples_at_the_corners_of_a_square():
    """Each has its neighbour at distance 1, the other example at 1 and its neighbour at sqrt 2: s = 1/2, 1/2 and 1/3."""
    mean, there = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    found = Neighbours(reach=1.0).term(traced(mean, there))
    assert found.item() == pytest.approx(math.log(1 + (1 / 2 + 1 / 3) / (1 / 2)))
    crossed = Neighbours(reach=1.0, form="cross-entropy", repulsion=2.0).term(traced(mean, there))
    assert crossed.item() == pytest.approx(math.log(2) + math.log(2) + math.log(3 / 2), rel=2e-3)


@pytest.mark.parametrize("form", ["contrastive", "cross-entropy"])
def test_gradients_are_finite_where_points_coincide_and_where_they_are_far_apart(form):
    for spread in (0.0, 1e8):
        mean = (torch.arange(6.0).reshape(3, 2) * spread).requires_grad_()
        term = Neighbours(form=form, exponent=0.6).term(traced(mean, mean.detach().clone()))
        term.backward()
        assert term.isfinite()
        assert mean.grad is not None
        assert mean.grad.isfinite().all()


def test_gradient_descent_brings_neighbours_together_and_keeps_others_apart():
    torch.manual_seed(0)
    group = torch.arange(12) // 6
    points = torch.randn(12, 2).requires_grad_()
    objective, optimizer = Neighbours(reach=0.2), torch.optim.Adam([points], 0.05)
    for step in range(200):
        partner = torch.roll(torch.arange(12).reshape(2, 6), 1 + step % 5, 1).flatten()
        optimizer.zero_grad()
        objective.term(traced(points, points[partner])).backward()
        optimizer.step()
    apart = torch.cdist(points, points)
    same = group[:, None] == group
    assert apart[same].max() < apart[~same].min()


def test_loss_is_the_base_and_the_weighted_term_and_the_bound_stays_what_it_is():
    mean, there, weight = some()
    trace = traced(mean, there, weight)
    base = ELBO(beta=0.3)
    alone, found = base(trace), Neighbours(base, weight=7.0)(trace)
    assert found.loss.item() == pytest.approx((alone.loss + 7.0 * found.terms["neighbours"]).item())
    assert (found.elbo, found.rate, found.distortion) == (alone.elbo, alone.rate, alone.distortion)


def test_weights_scale_the_terms_of_their_examples():
    mean, there, _ = some()
    parts = [Neighbours().term(traced(mean, there, torch.eye(5, dtype=torch.float64)[i])) for i in range(5)]
    assert sum(parts).item() == pytest.approx(Neighbours().term(traced(mean, there)).item())


def test_a_single_example_has_no_term():
    mean = torch.ones(1, 2)
    assert Neighbours().term(traced(mean, mean + 1)).item() == 0.0


@pytest.mark.parametrize("units", [3, 20])
def test_squared_distances(units):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, units, generator=generator), torch.randn(6, units, generator=generator)
    assert squared_distances(x, y) == pytest.approx(torch.cdist(x, y).square(), abs=1e-4)


def test_refusals():
    mean, there, _ = some()
    with pytest.raises(ConfigError, match="must be given a trace with `partners`, found none"):
        Neighbours()(replace(traced(mean, there), partners=None))
    with pytest.raises(ConfigError, match="neither an adversary nor neighbours"):
        Neighbours(Neighbours())
    with pytest.raises(ConfigError, match="neither an adversary nor neighbours"):
        Neighbours(FactorVAE(MLP(2, [4])))
    with pytest.raises(ConfigError, match="contrastive or cross-entropy"):
        Neighbours(form="umap")
    for name in ("weight", "reach", "exponent", "repulsion"):
        with pytest.raises(ConfigError, match=f"`{name}` must be finite and > 0, got 0"):
            Neighbours(**{name: 0.0})
    with pytest.raises(ConfigError, match="`num_neighbours` must be at least 2"):
        Neighbours(num_neighbours=1)
