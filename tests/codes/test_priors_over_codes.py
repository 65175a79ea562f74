"""Priors over codes sum to one, are what they are drawn from, and are fitted to the codes of a model."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from vaekit.component import stopped_copy
from vaekit.distributions import stopped
from vaekit.errors import ConfigError
from vaekit.likelihoods import Normal
from vaekit.networks import MLP
from vaekit.objectives import PriorFit
from vaekit.posteriors import DiagonalNormal, FiniteScalar, GumbelSoftmax, ResidualQuantized, VectorQuantized
from vaekit.priors import AutoregressiveCodes, CategoricalCodes, Prior, UniformCodes
from vaekit.vae import VAE

QUANTIZERS = {
    "vectors": lambda: VectorQuantized(MLP(3, [4]), 3, 2, 3, initialization="uniform"),
    "residual": lambda: ResidualQuantized(MLP(3, [4]), 3, 2, 1, depth=3, initialization="uniform"),
    "levels": lambda: FiniteScalar(MLP(3, [4]), [3], 3),
    "categories": lambda: GumbelSoftmax(MLP(3, [4]), 3, 3),
}
PRIORS = {
    "uniform": UniformCodes,
    "categorical": CategoricalCodes,
    "autoregressive": lambda shape, v, t: AutoregressiveCodes(shape, v, t, features=8, num_layers=2, num_heads=2),
    "conditional": lambda shape, v, t: AutoregressiveCodes(shape, v, t, 8, 1, 2, condition_features=2),
}
ALL = torch.tensor(list(itertools.product(range(3), repeat=3)))


def made(prior: str, quantizer: str = "vectors") -> tuple[Prior, VectorQuantized, Tensor | None]:
    torch.manual_seed(4)
    posterior = QUANTIZERS[quantizer]()
    p = PRIORS[prior](posterior.shape, posterior.num_codes, posterior.num_tokens)
    with torch.no_grad():
        for parameter in p.parameters():
            parameter.add_(0.7 * torch.randn_like(parameter))
    p.bind(posterior)
    return p.eval().double(), posterior.double(), torch.randn(4, 2).double() if prior == "conditional" else None


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("prior", PRIORS)
def test_masses_sum_to_one_over_all_codes(prior, quantizer) -> None:
    p, posterior, condition = made(prior, quantizer)
    z = posterior.embed(ALL)
    for temperature in (1.0, 0.6):
        d = p(condition, temperature)
        assert d.batch_shape == (() if condition is None else (4,))
        masses = d.log_prob(z[:, None].expand(-1, 4, *z.shape[1:]) if condition is not None else z).exp()
        torch.testing.assert_close(masses.sum(0), torch.ones_like(masses[0]))
        if prior != "uniform":
            assert masses.max() > 3 * masses.min()


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_codes_are_drawn_as_often_as_they_are_probable(prior, temperature) -> None:
    p, posterior, condition = made(prior)
    d = p(condition, temperature)
    z = d.sample((8000,))
    assert z.shape == (8000, *d.batch_shape, *posterior.shape)
    drawn = (posterior.codes_of(z) * torch.tensor([9, 3, 1])).sum(-1)
    lead = (27, *d.batch_shape)
    expected = d.log_mass(ALL.view(27, *[1] * len(d.batch_shape), 3).expand(*lead, 3)).exp()
    shares = torch.nn.functional.one_hot(drawn, 27).movedim(-1, 1).double().mean(0)
    standard_error = (expected * (1 - expected) / 8000).sqrt()
    assert ((shares - expected).abs() <= 4.5 * standard_error + 2 / 8000).all(), (shares, expected)


@pytest.mark.parametrize("prior", ["categorical", "autoregressive"])
def test_temperature_divides_the_logits(prior) -> None:
    p, _, _ = made(prior)
    logits = p.logits.expand(27, 3, 3) if prior == "categorical" else p.network.logits(ALL, None)
    expected = (logits / 0.5).log_softmax(-1).gather(-1, ALL[..., None]).sum((1, 2))
    torch.testing.assert_close(p(temperature=0.5).log_mass(ALL), expected)


def test_every_row_has_its_own_condition() -> None:
    p, _, condition = made("conditional")
    codes = ALL[:, None].expand(-1, 4, -1)
    found = p(condition).log_mass(codes)
    for i in range(4):
        torch.testing.assert_close(p(condition[i : i + 1]).log_mass(codes[:, i : i + 1]), found[:, i : i + 1])
        assert all((found[:, i] - found[:, j]).abs().max() > 0.01 for j in range(i))


def test_a_token_depends_on_those_before_it_alone() -> None:
    p, _, _ = made("autoregressive")
    codes = torch.tensor([[0, 1, 2], [0, 1, 0], [0, 2, 2], [1, 1, 2]])
    logits = p.network.logits(codes, None)
    torch.testing.assert_close(logits[0], logits[1])
    torch.testing.assert_close(logits[0, :2], logits[2, :2])
    torch.testing.assert_close(logits[0, :1], logits[3, :1])
    assert (logits[0, 2] - logits[2, 2]).abs().max() > 1e-3
    assert (logits[0, 1] - logits[3, 1]).abs().max() > 1e-3


def test_what_is_kept_while_drawing_changes_nothing() -> None:
    """At a temperature near 0 the drawn codes are the most probable ones given those before, by passes over the whole."""
    torch.manual_seed(0)
    posterior = VectorQuantized(MLP(3, [4]), 5, 2, 12)
    prior = AutoregressiveCodes(posterior.shape, 5, 12, features=16, num_layers=3, num_heads=4).eval().double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    drawn = prior.network.draw(1, None, 1e-6)
    whole = torch.zeros(1, 12, dtype=torch.int64)
    for t in range(12):
        whole[0, t] = prior.network.logits(whole, None)[0, t].argmax()
    assert drawn.tolist() == whole.tolist()
    assert whole.unique().numel() > 1


def test_relaxed_codes_that_are_one_hot_have_the_mass_of_codes() -> None:
    for prior in PRIORS:
        p, posterior, condition = made(prior, "categories")
        d = p(condition)
        codes = ALL[:, None].expand(-1, 4, -1) if condition is not None else ALL
        torch.testing.assert_close(d.log_prob(posterior.embed(codes)), d.log_mass(codes))
    z = torch.rand(6, *posterior.shape).double().requires_grad_()
    p, _, _ = made("autoregressive", "categories")
    p().log_prob(z).sum().backward()
    assert (z.grad.view(6, 3, 3)[:, :2].abs().sum(-1) > 0).all()


def test_chunks_without_gradients_are_the_whole(monkeypatch) -> None:
    for name in ("autoregressive", "conditional"):
        p, _, condition = made(name)
        codes = ALL[:, None].expand(-1, 4, -1)
        with torch.no_grad():
            whole = p(condition).log_mass(codes)
            monkeypatch.setattr("vaekit.distributions.codes._MAX_ELEMENTS", 5 * 9)
            torch.testing.assert_close(p(condition).log_mass(codes), whole)
        monkeypatch.undo()


def test_stopped_sequences_reach_no_parameter() -> None:
    p, posterior, condition = made("conditional", "categories")
    condition.requires_grad_()
    z = posterior.embed(ALL[:4]).requires_grad_()
    d = stopped(p(condition))
    torch.testing.assert_close(d.log_prob(z), p(condition).log_prob(z))
    d.log_prob(z).sum().backward()
    assert z.grad is not None
    assert condition.grad is None
    assert all(parameter.grad is None for parameter in p.parameters())
    assert isinstance(d.network, type(stopped_copy(p.network)))


def test_a_prior_fitted_to_the_codes_of_a_model_reaches_their_entropy() -> None:
    """Two tokens that are always equal, of two values: log 2 nats one after another, 2 log 2 each by itself."""
    torch.manual_seed(0)
    x = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).repeat(16, 1)
    for prior, entropy in ((CategoricalCodes, 2 * math.log(2)), (PRIORS["autoregressive"], math.log(2))):
        posterior = FiniteScalar(MLP(2, [16]), [2], 2)
        vae = VAE(UniformCodes(2, 2, 2), posterior, Normal(MLP(2, [8]), [2]))
        with torch.no_grad():  # the codes are the signs
            network = posterior.network.layers[0][0]
            network.weight.zero_()[:2].copy_(8 * torch.eye(2))
            network.weight[2:4].copy_(-8 * torch.eye(2))
            network.bias.zero_()
            posterior.head.linear.weight.zero_()[:, :4].copy_(torch.cat([torch.eye(2), -torch.eye(2)], dim=1))
            posterior.head.linear.bias.zero_()
        assert vae.posterior(x[:2]).codes.tolist() == [[1, 1], [0, 0]]
        vae.prior = prior(2, 2, 2)
        vae.posterior.requires_grad_(False)
        vae.likelihood.requires_grad_(False)
        parameters = [parameter for parameter in vae.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(parameters, 0.03)
        before = {name: value.clone() for name, value in vae.posterior.state_dict().items()}
        for _ in range(120):
            loss = PriorFit()(vae(x)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert loss.item() == pytest.approx(entropy, abs=0.02)
        assert all(torch.equal(before[name], value) for name, value in vae.posterior.state_dict().items())
    drawn = vae.eval().sample_prior(300)[0]
    assert (drawn[:, 0] == drawn[:, 1]).float().mean() > 0.97
    assert 0.35 < (drawn[:, 0] == 0).float().mean() < 0.65


def test_a_prior_must_be_bound_to_its_codes() -> None:
    with pytest.raises(ConfigError, match="must be bound to a posterior over codes, found none"):
        UniformCodes(4, 3, 2)()
    with pytest.raises(ConfigError, match="must be given a posterior over codes, got DiagonalNormal"):
        VAE(UniformCodes(4, 3, 2), DiagonalNormal(MLP(3, [4]), 4), Normal(MLP(4, [4]), [3]))
    with pytest.raises(ConfigError, match="which has 5 and 2; got 3 and 2"):
        VAE(UniformCodes(4, 3, 2), VectorQuantized(MLP(3, [4]), 5, 2, 2), Normal(MLP(4, [4]), [3]))
    with pytest.raises(ConfigError, match="`num_codes` of at least 2"):
        CategoricalCodes([4], 1, 2)
    with pytest.raises(ConfigError, match="heads divide features"):
        AutoregressiveCodes([4], 3, 2, features=9, num_heads=2)
    with pytest.raises(ConfigError, match=r"`dropout` must be in \[0, 1\)"):
        AutoregressiveCodes([4], 3, 2, dropout=1.0)
    p, _, _ = made("conditional")
    with pytest.raises(ConfigError, match="takes a condition of 2 features, got 0"):
        p()
