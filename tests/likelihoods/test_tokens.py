"""The likelihood of text: what it takes, where it starts, and how it stands in a VAE."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sequence_cases import DECODERS, ENCODERS, D, T, V, decoders, encoders, every_sequence, masses_of, wild
from vaekit import objectives, posteriors, priors
from vaekit.component import call_stopped
from vaekit.distributions import TokenSequence
from vaekit.errors import ConfigError
from vaekit.likelihoods import Tokens
from vaekit.networks import MLP, ConditionEncoder, LSTMDecoder
from vaekit.symbols import END, PAD, UNKNOWN
from vaekit.vae import VAE

X = torch.tensor([[3, 4, 4, END], [4, END, PAD, PAD], [END, PAD, PAD, PAD], [3, 4, END, PAD]])


@decoders
def test_logits_are_those_of_the_head_without_what_never_is(decoder: str) -> None:
    likelihood = wild(Tokens(DECODERS[decoder](), T, [UNKNOWN]))
    features = torch.randn(2, 3, *likelihood.network.out_shape, dtype=torch.float64)
    logits, plain = likelihood.logits(features), likelihood.head(features).squeeze(-2)
    assert logits.shape == (2, 3, V)
    assert (logits[..., [PAD, UNKNOWN]] == -math.inf).all()
    assert torch.equal(logits[..., [1, 3, 4]], plain[..., [1, 3, 4]])


def test_a_head_without_a_bias() -> None:
    class Bare(LSTMDecoder):
        def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> nn.Module:
            linear = nn.Linear(self.out_shape[0], num_parameters * math.prod(event_shape), bias=False)
            return nn.Sequential(linear, nn.Unflatten(-1, (num_parameters, *event_shape)))

    likelihood = wild(Tokens(Bare(V, D, 4, 5), T, [4]))
    likelihood.initialize(X)
    masses = masses_of(likelihood(torch.ones(2, D, dtype=torch.float64)), every_sequence())
    torch.testing.assert_close(masses.sum(0), torch.ones(2, dtype=torch.float64))
    assert (masses[(every_sequence() == 4).any(1)] == 0).all()


def test_start_at_the_frequencies_of_the_tokens() -> None:
    likelihood = Tokens(DECODERS["lstm"](), T, [UNKNOWN])
    likelihood.initialize(X.to(torch.uint16))
    # END 4, 3 twice, 4 four times, none unknown, each with half a token more
    bias = likelihood.head.linear.bias
    torch.testing.assert_close(bias.exp()[1:], torch.tensor([4.5, 0.5, 2.5, 4.5]) / (10 + V / 2))
    with torch.no_grad():
        likelihood.head.linear.weight.zero_()
    masses = likelihood.logits(torch.zeros(likelihood.network.out_shape)).softmax(-1)
    torch.testing.assert_close(masses, torch.tensor([0, 4.5, 0, 2.5, 4.5]) / 11.5)
    mask = torch.ones_like(X, dtype=torch.bool)
    mask[:, 0] = False
    likelihood.initialize(X, mask)
    torch.testing.assert_close(bias.exp()[1:], torch.tensor([3.5, 0.5, 0.5, 3.5]) / (6 + V / 2))


@pytest.mark.parametrize(
    ("codes", "sentence"),
    [
        (X.tolist(), None),
        ([[END, PAD, PAD, PAD, PAD, PAD]], None),
        ([[3, END]], None),
        ([[3, 4, 3, 4]], "must have codes from 0 to 4, one END"),
        ([[3, PAD, END, PAD]], "must have codes from 0 to 4, one END"),
        ([[PAD, END]], "must have codes from 0 to 4, one END"),
        ([[3, END, END, PAD]], "must have codes from 0 to 4, one END"),
        ([[3, 5, END, PAD]], "must have codes from 0 to 4, one END"),
        ([[3, -1, END, PAD]], "must have codes from 0 to 4, one END"),
        ([[3, 3, 3, 3, END]], "must have at most 3 tokens before the END"),
        ([[3, UNKNOWN, END, PAD]], r"must have none of the codes \[2\]"),
    ],
)
def test_check(codes: list[list[int]], sentence: str | None) -> None:
    found = Tokens(DECODERS["lstm"](), T, [UNKNOWN]).check(torch.tensor(codes))
    if sentence is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(sentence, found)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Tokens(MLP(2, [3]), T), "must be one of sequences, got a MLP"),
        (lambda: Tokens(DECODERS["lstm"](), 1), "`max_length` must be at least 2"),
        (lambda: Tokens(DECODERS["lstm"](), T, [END]), r"`never` hold codes from 2 to 4, got 4 and \[1\]"),
        (lambda: Tokens(DECODERS["lstm"](), T, [5]), r"`never` hold codes from 2 to 4, got 4 and \[5\]"),
    ],
)
def test_what_cannot_be(make: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()


def test_size() -> None:
    likelihood = Tokens(DECODERS["lstm"](v=90), 7)
    assert likelihood.shape == (7,)
    assert likelihood.discrete
    assert likelihood.peak_elements() == 90
    assert Tokens(DECODERS["lstm"](), 70).peak_elements() == 70 * (5 + D)


@decoders
def test_the_flag_of_the_second_derivative_is_true(decoder: str) -> None:
    likelihood = wild(Tokens(DECODERS[decoder](), T))
    z = torch.zeros(1, D, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(likelihood(z).log_prob(X[:1]).sum(), z, create_graph=True)
    if likelihood.twice_differentiable:
        gradient.square().sum().backward()
        assert z.grad is not None
        assert z.grad.abs().max() > 0
    else:
        with pytest.raises(RuntimeError, match="not implemented"):
            gradient.square().sum().backward()


@decoders
def test_called_with_other_weights(decoder: str) -> None:
    """As objectives and averages do; the weights are those at the call where the density is asked for there."""
    likelihood, z = wild(Tokens(DECODERS[decoder](), T)), torch.ones(4, D, dtype=torch.float64, requires_grad=True)

    class Density(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.likelihood = likelihood

        def forward(self, z: Tensor) -> Tensor:
            return self.likelihood(z).log_prob(X)

    density = Density()
    expected = density(z)
    stopped = call_stopped(density, z)
    torch.testing.assert_close(stopped, expected)
    stopped.sum().backward()
    assert z.grad is not None
    assert (z.grad.abs().sum(-1) > 0).all()
    assert all(parameter.grad is None for parameter in likelihood.parameters())
    other = {name: parameter.detach() * 0.5 for name, parameter in density.named_parameters()}
    moved = torch.func.functional_call(density, other, (z,))
    with torch.no_grad():
        for name, parameter in density.named_parameters():
            parameter.copy_(other[name])
    torch.testing.assert_close(moved, density(z))
    assert not torch.allclose(moved, expected)


@decoders
@encoders
def test_in_a_vae(decoder: str, encoder: str) -> None:
    """K samples, conditions, several widths of the batch, and a gradient of the bound for every weight."""
    condition = ConditionEncoder({"label": 3}, features=2)
    network = ENCODERS[encoder](condition_features=2)
    likelihood = Tokens(DECODERS[decoder](condition_features=2), T)
    vae = VAE(priors.StandardNormal(D), posteriors.DiagonalNormal(network, D), likelihood, condition)
    vae.initialize(X, condition={"label": torch.tensor([0, 1, 2, -1])})
    label = {"label": torch.tensor([0, 1, 2, -1])}
    torch.manual_seed(1)
    trace = vae(X, condition=label, num_samples=3)
    assert isinstance(trace.likelihood, TokenSequence)
    assert trace.log_weights.shape == (3, 4)
    objectives.ELBO()(trace).loss.backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    torch.manual_seed(1)
    wider = vae(nn.functional.pad(X, (0, 5)), condition=label, num_samples=3)
    torch.testing.assert_close(wider.log_weights, trace.log_weights, rtol=1e-5, atol=1e-5)
    assert vae.decode_flat(vae.sample_prior(4, condition=label)[0], label).sample().shape == (4, T)


@decoders
def test_a_vae_learns_what_the_latent_says(decoder: str) -> None:
    """The first token is the latent's sign: -log p(x|z) falls to that of the rest, log 2 each, and not below it."""
    torch.manual_seed(0)
    likelihood = Tokens(DECODERS[decoder](), T, [UNKNOWN])
    optimiser = torch.optim.Adam(likelihood.parameters(), lr=0.01)
    losses = []
    for _ in range(150):
        z, second = torch.randn(64, D), torch.randint(3, 5, (64,))
        first = torch.where(z[:, 0] > 0, 3, 4)
        x = torch.stack([first, second, torch.full((64,), END), torch.full((64,), PAD)], dim=1)
        loss = -likelihood(z).log_prob(x).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    end = sum(losses[-20:]) / 20
    assert losses[0] > 2.5
    assert math.log(2) - 0.01 < end < math.log(2) + 0.25
