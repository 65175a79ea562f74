"""Hiding a part of each example in training; and data that reach the transform as they are."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import torch

from vaekit import likelihoods, networks, posteriors, priors
from vaekit.data.loading import open as open_data
from vaekit.data.tables.grid import CellGrid
from vaekit.data.transforms import Standardize
from vaekit.objectives import ELBO
from vaekit.training import step
from vaekit.training.hiding import hidden
from vaekit.training.run import make_fabric, train
from vaekit.training.step import Step
from vaekit.vae import VAE

SIZES = [3, 5, 40]


def cells_vae() -> VAE:
    torch.manual_seed(0)
    inward = networks.CellEmbedding(networks.ResidualMLP([3, 4], 8, 1), SIZES, [False, False, True], 4)
    vae = VAE(
        priors.StandardNormal(2),
        posteriors.DiagonalNormal(inward, 2),
        likelihoods.Cells(networks.ResidualMLP(2, 8, 1), SIZES, [False, False, True]),
    )
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return vae


def places(num: int = 50) -> torch.Tensor:
    return torch.rand(num, 3) * torch.tensor(SIZES)


# -------------------------------------------------------------------------------------------------------------- the mask


@pytest.mark.parametrize("mask", [None, torch.rand(4, 3) < 0.5])
def test_no_share_is_no_change(mask: torch.Tensor | None) -> None:
    state = torch.get_rng_state()
    assert hidden(torch.zeros(4, 3), mask, 0.0) is mask
    assert torch.equal(torch.get_rng_state(), state)  # and takes no random number


def test_rates() -> None:
    """An example is whole with probability 1 - s; else k of n elements stay, each k = 0..n as often: r is uniform."""
    torch.manual_seed(0)
    num, n = 40_000, 4
    for share in (0.25, 1.0):
        visible = hidden(torch.zeros(num, n), None, share)
        assert visible is not None
        assert visible.dtype == torch.bool
        counts = torch.bincount(visible.sum(1), minlength=n + 1) / num
        expected = torch.full((n + 1,), share / (n + 1))
        expected[n] += 1 - share
        assert ((counts - expected).abs() < 4.5 * (expected * (1 - expected) / num).sqrt()).all(), counts
        each = visible.float().mean(0)
        assert ((each - (1 - share / 2)).abs() < 4.5 * math.sqrt(0.25 / num)).all()


def test_examples_of_any_shape_have_one_rate_each() -> None:
    torch.manual_seed(0)
    visible = hidden(torch.zeros(300, 2, 10, 10), None, 1.0)
    assert visible is not None
    assert visible.shape == (300, 2, 10, 10)
    shares = visible.float().flatten(1).mean(1)
    assert abs(shares.std().item() - 1 / math.sqrt(12)) < 0.03  # uniform rates, and not one half of each example


def test_what_is_missing_stays_hidden_and_a_seed_gives_the_same() -> None:
    mask = torch.rand(500, 6) < 0.5
    x = torch.zeros(500, 6)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        visible = hidden(x, mask, 0.5)
        assert visible is not None
        assert not (visible & ~mask).any()
        found.append(visible)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


# -------------------------------------------------------------------------------------------------------------- the bound


def test_the_bound_is_one_on_the_visible_part() -> None:
    """What is hidden may be anything, and it is the bound of a model that has no such columns."""
    vae, x = cells_vae().eval(), places()
    mask = torch.rand(x.shape) < 0.5
    elbos = []
    for given in (x, torch.where(mask, x, math.nan), torch.where(mask, x, places())):
        torch.manual_seed(3)
        elbos.append(ELBO()(vae(given, mask=mask, num_samples=5)).elbo)
    assert torch.equal(elbos[0], elbos[1])
    assert torch.equal(elbos[0], elbos[2])
    torch.manual_seed(3)
    trace = vae(x, mask=mask, num_samples=5)
    terms = vae.likelihood(trace.latents[0].z).log_prob_columns(x)
    torch.testing.assert_close(trace.log_likelihood, torch.where(mask, terms, 0.0).sum(-1))
    one = mask.clone()
    one[:] = torch.tensor([True, False, False])
    torch.manual_seed(3)
    trace = vae(x, mask=one)
    torch.testing.assert_close(
        trace.log_likelihood,
        vae.likelihood(trace.latents[0].z).column_log_masses(0).gather(-1, x[None, :, :1].floor().long())[..., 0],
    )


def test_the_bound_is_the_evidence_of_the_visible_part_less_a_divergence() -> None:
    """E[log w] = log p(visible) - KL(q(z|visible) | p(z|visible)), both sides by a grid over the two latents."""
    vae, x = cells_vae().eval().double(), places(6).double()
    some = [[True, True, True], [True, False, False], [False, True, True], [False] * 3, [True] * 3, [False, False, True]]
    mask, steps = torch.tensor(some), 201
    t = torch.linspace(-20, 20, steps, dtype=torch.float64)
    z = torch.cartesian_prod(t, t)
    area = (40 / (steps - 1)) ** 2
    with torch.no_grad():
        q = vae.encode(x, mask=mask)
        log_q = q.log_prob(z[:, None])
        log_joint = vae.likelihood(z[:, None]).log_prob(x, mask) + vae.prior().log_prob(z)[:, None]
        torch.manual_seed(0)
        log_weights = vae(x, mask=mask, num_samples=4000).log_weights
    torch.testing.assert_close((log_q.exp() * area).sum(0), torch.ones(6).double(), rtol=0, atol=1e-6)
    evidence = log_joint.logsumexp(0) + math.log(area)
    divergence = (log_q.exp() * (log_q - (log_joint - evidence))).sum(0) * area
    assert (divergence > 0.01).all()
    error = log_weights.std(0) / math.sqrt(len(log_weights))
    assert ((log_weights.mean(0) - (evidence - divergence)).abs() < 4.5 * error).all()
    assert abs(evidence[3].item()) < 1e-6  # nothing is visible, and that is certain


# ---------------------------------------------------------------------------------------------------------------- the step


def table(num: int = 200) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 3, num)
    return pl.DataFrame({"a": [f"c{k}" for k in a], "b": a * 2 + rng.integers(0, 2, num), "c": rng.normal(size=num) + a})


def test_a_step_that_hides_trains_both_sides() -> None:
    vae = cells_vae()
    step = Step(vae, Standardize(0.0, 1.0), ELBO(), 1, 50, hide=1.0)
    step(places(), None, None, 0)["loss"].backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()
    assert vae.posterior.network.unknown.grad.abs().sum() > 0
    vae.zero_grad()
    Step(vae, Standardize(0.0, 1.0), ELBO(), 1, 50)(places(), None, None, 0)["loss"].backward()
    assert vae.posterior.network.unknown.grad is None or vae.posterior.network.unknown.grad.abs().sum() == 0


def test_training_hides_and_validation_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, masks = [], []
    original = step.hidden
    monkeypatch.setattr(step, "hidden", lambda x, mask, share: seen.append(share) or original(x, mask, share))
    forward = VAE.forward

    def noted(self, x, *args, **kwargs):
        masks.append((self.training, kwargs.get("mask")))
        return forward(self, x, *args, **kwargs)

    monkeypatch.setattr(VAE, "forward", noted)
    bundle = train(table(), steps=4, hide=0.5, precision="float32", device="cpu", display_as="quiet", validate_every=2)
    assert seen == [0.5] * 4
    assert any(training and mask is not None and not mask.all() for training, mask in masks)
    assert all(mask is None or mask.all() for training, mask in masks if not training)
    assert bundle.training["config"]["hide"] == 0.5


# ------------------------------------------------------------------------------------------- data in a reduced precision


@pytest.mark.parametrize("kind", ["vectors", "table"])
def test_a_reduced_precision_is_of_layers_and_not_of_data(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 there is no number between 256 and 258: data are brought to scale before anything is rounded."""
    given = []
    cls = Standardize if kind == "vectors" else CellGrid
    forward = cls.forward

    def noted(self, x, generator=None):
        given.append((x.clone(), forward(self, x, generator)))
        return given[-1][1]

    monkeypatch.setattr(cls, "forward", noted)
    rng = np.random.default_rng(0)
    if kind == "vectors":
        source = (1000 + rng.normal(size=(64, 3))).astype(np.float32)
        data = open_data(source)
    else:
        source = pl.DataFrame({"v": 1e6 + rng.normal(size=64), "n": rng.integers(0, 10**9, 64)})
        data = open_data(source)
    train(data, steps=3, batch_size=32, precision="bf16", device="cpu", display_as="quiet")
    stored = {tuple(row) for row in data.stored().tolist()}
    dtype = torch.float32 if kind == "vectors" else torch.float64
    assert len(given) >= 3
    for x, y in given:
        assert x.dtype == dtype
        assert y.dtype == torch.float32
        assert {tuple(row) for row in x.tolist()} <= stored


def test_layers_are_reduced_all_the_same() -> None:
    fabric = make_fabric("cpu", "bf16")
    linear, inside = torch.nn.Linear(2, 2), []
    linear.register_forward_hook(lambda _, given, out: inside.append((given[0].dtype, out.dtype)))
    fabric.setup_module(linear)(torch.ones(1, 2))
    assert inside == [(torch.float32, torch.bfloat16)]
