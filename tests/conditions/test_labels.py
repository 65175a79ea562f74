"""M2: the bounds of labelled, unlabelled and half-labelled examples against exact densities, and what few labels are worth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from condition_models import KINDS, LABELS, Known, data
from vaekit.data.transforms import Standardize
from vaekit.errors import ConfigError, DataError
from vaekit.likelihoods import Normal
from vaekit.model import train
from vaekit.networks import MLP, ConditionEncoder
from vaekit.objectives import SemiSupervised
from vaekit.posteriors import Classifier, DiagonalNormal
from vaekit.priors import StandardNormal
from vaekit.training.config import TrainConfig
from vaekit.training.private import check_parts
from vaekit.types import Trace
from vaekit.vae import VAE

X = torch.tensor([[0.5, -1.0], [2.0, 0.3], [-1.5, 1.0]], dtype=torch.float64)
SAMPLES = 20_000


def traced(known: Known, columns: dict[str, Tensor]) -> Trace:
    torch.manual_seed(5)
    known.vae.train()
    return known.vae(X, condition=columns, num_samples=SAMPLES)


def test_an_unlabelled_example_is_bounded_by_the_sum_over_its_labels():
    known = Known()
    unknown = {"label": torch.full((3,), -1)}
    log_q = known.vae.classifier(X)["label"]
    joint = torch.stack([known.evidence(X, {"label": torch.full((3,), y)}) for y in range(LABELS)], dim=1) - math.log(LABELS)
    expected = (log_q.exp() * (joint - log_q)).sum(1).mean()
    bound = SemiSupervised(alpha=7.0, unknown=0.0)(traced(known, unknown))
    torch.testing.assert_close(bound.terms["joint_elbo"], expected, atol=0.02, rtol=0)
    torch.testing.assert_close(bound.loss, -bound.terms["joint_elbo"])
    assert float(bound.terms["classification"].detach()) == 0


def test_with_the_true_classifier_the_bound_is_the_evidence_and_nothing_pulls_at_it():
    known = Known()
    means = known.mean({"label": torch.arange(LABELS)})  # of equal covariances, p(y|x) is a softmax of linear functions
    inverse = torch.linalg.inv(known.covariance)
    head = known.vae.classifier.heads[0].linear
    with torch.no_grad():
        head.weight.copy_(means @ inverse)
        head.bias.copy_(-0.5 * ((means @ inverse) * means).sum(1))
    every = torch.stack([known.evidence(X, {"label": torch.full((3,), y)}) for y in range(LABELS)])
    evidence = (torch.logsumexp(every, 0) - math.log(LABELS)).mean()
    bound = SemiSupervised(unknown=0.0)(traced(known, {"label": torch.full((3,), -1)}))
    torch.testing.assert_close(bound.terms["joint_elbo"], evidence, atol=0.02, rtol=0)
    gradient = torch.autograd.grad(bound.loss, head.bias)[0]
    torch.testing.assert_close(gradient, torch.zeros(LABELS).double(), atol=0.01, rtol=0)
    with torch.no_grad():
        head.bias.add_(torch.tensor([1.0, 0.0, 0.0]).double())
    worse = SemiSupervised(unknown=0.0)(traced(known, {"label": torch.full((3,), -1)}))
    assert float(worse.terms["joint_elbo"].detach()) < float(evidence) - 0.03


def test_labels_that_are_known_are_not_guessed():
    known = Known()
    columns = {"label": torch.tensor([2, 0, 1])}
    expected = (known.evidence(X, columns) - math.log(LABELS)).mean()
    log_q = known.vae.classifier(X)["label"]
    bound = SemiSupervised(alpha=7.0, unknown=0.0)(traced(known, columns))
    torch.testing.assert_close(bound.terms["joint_elbo"], expected, atol=0.02, rtol=0)
    torch.testing.assert_close(bound.terms["classification"], -log_q[torch.arange(3), columns["label"]].mean())
    torch.testing.assert_close(bound.loss, -bound.terms["joint_elbo"] + 7 * bound.terms["classification"])
    slope = torch.autograd.grad(bound.terms["joint_elbo"], known.vae.classifier.heads[0].linear.bias, allow_unused=True)[0]
    assert slope is None or float(slope.abs().max()) == 0


def test_of_two_columns_what_is_missing_is_summed_and_what_is_there_is_kept():
    known = Known(numbers=True, kinds=True)
    columns = {
        "label": torch.tensor([1, -1, -1]),
        "kind": torch.tensor([-1, 0, -1]),
        "angle": torch.tensor([0.2, torch.nan, 1.0]).double(),
    }
    log_q = known.vae.classifier(X)
    totals = []
    for row in range(3):
        total = torch.zeros(()).double()
        given = (int(columns["label"][row]), int(columns["kind"][row]))
        for pair in itertools.product(range(LABELS), range(KINDS)):
            if any(g >= 0 and g != c for g, c in zip(given, pair, strict=True)):
                continue
            told = {"label": torch.tensor([pair[0]]), "kind": torch.tensor([pair[1]]), "angle": columns["angle"][row : row + 1]}
            evidence = known.evidence(X[row : row + 1], told)[0] - math.log(LABELS * KINDS)
            q = sum(log_q[n][row, c] for n, c, g in zip(("label", "kind"), pair, given, strict=True) if g < 0)
            q = torch.as_tensor(q).double()
            total = total + q.exp() * (evidence - q)
        totals.append(total)
    bound = SemiSupervised(unknown=0.0)(traced(known, columns))
    torch.testing.assert_close(bound.terms["joint_elbo"], torch.stack(totals).mean(), atol=0.02, rtol=0)


def test_the_plain_bound_is_weighed_in():
    known = Known()
    trace = traced(known, {"label": torch.tensor([2, -1, 1])})
    torch.manual_seed(1)
    without = SemiSupervised(unknown=0.0)(trace)
    torch.manual_seed(1)
    weighed = SemiSupervised(unknown=0.25)(trace)
    torch.testing.assert_close(weighed.loss - without.loss, -0.25 * weighed.elbo)


def test_what_it_cannot_be_used_for():
    with pytest.raises(ConfigError, match="`alpha` must be finite and >= 0, got -1"):
        SemiSupervised(alpha=-1.0)
    known = Known()
    known.vae.classifier = None
    with pytest.raises(ConfigError, match="a model with a condition and a classifier"):
        SemiSupervised()(known.vae(X, condition={"label": torch.tensor([0, 0, 0])}))
    known.vae.classifier = Classifier(MLP(2, [2]), {"label": 257}).double()
    with pytest.raises(ConfigError, match="at most 256 combinations of categories, got 257"):
        SemiSupervised()(known.vae(X, condition={"label": torch.tensor([0, 0, 0])}))
    with pytest.raises(ConfigError, match="must be of categorical columns of the condition"):
        type(known.vae)(
            known.vae.prior, known.vae.posterior, known.vae.likelihood, known.encoder, Classifier(MLP(2, [2]), {"hue": 3})
        )
    x, y = np.random.default_rng(0).normal(size=(60, 2)).astype("float32"), np.full(60, np.nan)
    with pytest.raises(ConfigError, match="must have a condition of categories, got none"):
        train(x, objective="semi-supervised", steps=1, data_options={"y": np.arange(60) % 2}, display="quiet")
    with pytest.raises(ConfigError, match="`beta` must be left out"):
        train(x, objective="semi-supervised", beta=2.0, condition=["label"], steps=1, data_options={"y": np.arange(60) % 2})
    y[:2] = 0, 1
    with pytest.raises(DataError, match="must have a known `label`"):
        train({"x_train": x[2:], "y_train": y[2:], "x_valid": x[:2], "y_valid": y[:2]}, **_HOW)


def test_a_private_run_counts_no_labels():
    known, dataset = Known(), data()
    with pytest.raises(ConfigError, match="must not be semi-supervised"):
        check_parts(known.vae, Standardize(0.0, 1.0), SemiSupervised(), dataset, TrainConfig())


_HOW = {"objective": "semi-supervised", "condition": ["label"], "steps": 1, "display": "quiet"}


def clusters(num: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Five long clusters around a circle, one label in each, all of them near the same end of theirs; and all true labels."""
    rng = np.random.default_rng(seed)
    truth = np.arange(num) % 5
    angle, (along, across) = 2 * np.pi * truth / 5, rng.normal(size=(2, num))
    outwards = np.stack([np.cos(angle), np.sin(angle)], 1)
    sideways = np.stack([-np.sin(angle), np.cos(angle)], 1)
    x = (4 + 0.3 * across[:, None]) * outwards + 0.8 * along[:, None] * sideways
    y = np.full(num, np.nan)
    for label in range(5):
        own = np.flatnonzero(truth == label)
        y[own[np.argmin(np.abs(along[own] - 1.9) + np.abs(across[own]))]] = label
    return x.astype(np.float32), y, truth


def test_five_labels_of_five_hundred():
    x, y, truth = clusters()
    few = ~np.isnan(y)
    alone = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.Tanh(), torch.nn.Linear(32, 5))
    optimizer = torch.optim.Adam(alone.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(alone(torch.from_numpy(x[few])), torch.from_numpy(y[few]).long()).backward()
        optimizer.step()
    by_labels = float((alone(torch.from_numpy(x)).argmax(1).numpy() == truth).mean())
    assert int(few.sum()) == 5
    torch.manual_seed(0)
    vae = VAE(
        StandardNormal(1),
        DiagonalNormal(MLP(2, [32], "tanh", condition_features=8), 1),
        Normal(MLP(1, [32], "tanh", condition_features=8), [2]),
        ConditionEncoder({"label": 5}, features=8),
    )
    given = {"x_train": x, "y_train": y, "x_valid": x[::5], "y_valid": y[::5]}
    how = {**_HOW, "steps": 450, "batch_size": 100, "learning_rate": 1e-2, "device": "cpu", "validate_every": 150}
    model = train(given, vae=vae, transform=Standardize(0.0, 2.0), **how)
    assert model.info()["training"]["objective"]["alpha"] == pytest.approx(0.1 * 500 / 5)
    for method in ("classifier", "bayes"):
        found = model.predict(x, split="all", method=method, num_samples=4, uniform=True)
        accuracy = float((found.labels["label"].astype(int) == truth).mean())
        assert found.method == method
        assert accuracy > 0.98
        assert accuracy > by_labels + 0.05
    assert model.predict(x[:3]).method == "classifier"
    bare = model.predict(x)  # the data's own labels are not read
    told = model.predict(given, split="train")
    np.testing.assert_array_equal(bare.probabilities["label"], told.probabilities["label"])
