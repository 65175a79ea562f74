"""The recipe of text: on a corpus whose information is known, the latent holds it; plain training loses it."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
import torch

import vaekit
from vaekit import recipes
from vaekit.data.loading import open as open_data
from vaekit.errors import ConfigError
from vaekit.likelihoods import Tokens
from vaekit.networks import LSTMDecoder, TransformerDecoder
from vaekit.objectives import ELBO
from vaekit.posteriors import BatchNormNormal, DiagonalNormal
from vaekit.vae import VAE

WORDS = (
    ("anna", "the cat", "my dog", "our king"),
    ("sees", "eats", "likes", "hides"),
    ("a fish", "two apples", "the moon", "his hat"),
)
SENTENCES = [" ".join(parts) for parts in itertools.product(*WORDS)]
ENTROPY = math.log(len(SENTENCES))


def corpus(num: int = 2000) -> list[str]:
    """Sentences at random: ln 64 nats each, all of which a decoder can do without a latent."""
    drawn = random.Random(0)
    return [drawn.choice(SENTENCES) for _ in range(num)]


def trained(**how: Any) -> Any:
    how = {"precision": "float32", "display": "quiet", **how}
    return vaekit.train(corpus(), data_options={"tokens": "word"}, seed=0, **how)


@pytest.mark.slow
def test_the_default_recovers_a_known_latent_and_annealing_does_not() -> None:
    torch.manual_seed(0)
    recipe = recipes.make(open_data(corpus(), tokens="word"))
    assert isinstance(recipe.vae, VAE)
    assert isinstance(recipe.vae.posterior, BatchNormNormal)
    posterior = DiagonalNormal(recipe.vae.posterior.network, 32)
    annealed = VAE(recipe.vae.prior, posterior, recipe.vae.likelihood)
    ours = trained(steps=800)
    plain = trained(steps=500, vae=annealed, transform=recipe.transform, objective=ELBO(warm_up=200), **recipe.settings)
    reports = [model.evaluate(corpus(500), num_samples=16) for model in (ours, plain)]
    informed, uninformed = [report.information.mutual_information for report in reports]
    assert 0.75 * ENTROPY < informed < ENTROPY + 0.1
    assert uninformed < 0.3 * ENTROPY
    assert reports[0].active_units > 0
    # Neither can beat the entropy, and what the latent holds is not paid for in the bound.
    assert all(ENTROPY - 0.1 < report.nll_nats < ENTROPY + 0.6 for report in reports)
    right = [again == text for again, text in zip(ours.reconstruct(SENTENCES), SENTENCES, strict=True)]
    assert sum(right) > 0.9 * len(SENTENCES)
    assert sum(text in SENTENCES for text in ours.generate(200)) > 150


def test_what_it_chooses() -> None:
    recipe = recipes.make(open_data(corpus(), tokens="word"))
    assert isinstance(recipe.vae.likelihood, Tokens)
    assert isinstance(recipe.vae.likelihood.network, LSTMDecoder)
    assert isinstance(recipe.vae, VAE)
    assert isinstance(recipe.vae.posterior, BatchNormNormal)
    assert recipe.vae.posterior.gamma**2 * 32 / 2 == pytest.approx(6.0)  # the least rate
    assert recipe.second_stage == recipes.SECOND_STAGE
    assert isinstance(recipe.objective, ELBO)
    assert (recipe.objective.free_bits, recipe.objective.warm_up) == (0.0, 0)
    assert "pretrain" not in recipe.settings
    assert any("an LSTM of 128" in reason for reason in recipe.reasons)


def test_what_it_chooses_on_a_gpu_or_for_long_texts() -> None:
    short, long = open_data(corpus(300), tokens="word"), open_data([" ".join(corpus(20))] * 300, tokens="word")
    for recipe in (recipes.make(short, accelerated=True), recipes.make(long)):
        assert isinstance(recipe.vae.likelihood, Tokens)
        assert isinstance(recipe.vae.likelihood.network, TransformerDecoder)
    assert any("transformer of 2 layers" in reason for reason in recipes.make(long).reasons)


def test_what_it_chooses_for_few_texts_and_in_private() -> None:
    few, private = recipes.make(open_data(corpus(100))), recipes.make(open_data(corpus(300)), private=True)
    for recipe in (few, private):
        assert isinstance(recipe.vae, VAE)
        assert type(recipe.vae.posterior) is DiagonalNormal  # whose latents do not depend on the batch
        assert isinstance(recipe.objective, ELBO)
    assert isinstance(few.objective, ELBO)
    assert isinstance(private.objective, ELBO)
    assert (few.objective.free_bits, few.objective.free_bits_per) == (8.0, "level")
    assert few.settings["pretrain"] == 500
    assert private.objective.free_bits == 0.0
    assert "pretrain" not in private.settings


@pytest.mark.parametrize(("latent", "gamma"), [(3, 1.0), (32, math.sqrt(12 / 32)), (128, math.sqrt(12 / 128))])
def test_the_least_rate_is_that_of_the_whole_latent(latent: int, gamma: float) -> None:
    recipe = recipes.make(open_data(corpus(300), tokens="word"), latent=latent)
    assert isinstance(recipe.vae, VAE)
    assert isinstance(recipe.vae.posterior, BatchNormNormal)
    assert recipe.vae.posterior.gamma == pytest.approx(gamma)


def test_what_can_be_asked_for() -> None:
    data = open_data([*corpus(60), *corpus(60)], tokens="byte", y=["a", "b"] * 60)
    recipe = recipes.make(data, "lstm", latent=3, condition=["label"], prior="flow")
    likelihood = recipe.vae.likelihood
    assert isinstance(likelihood, Tokens)
    assert isinstance(likelihood.network, LSTMDecoder)
    assert likelihood.never == [2]  # bytes spell everything
    assert recipe.vae.num_latents == 3
    assert recipe.second_stage is None
    condition = {"label": torch.tensor([0, -1])}
    assert recipe.vae(torch.as_tensor(data.stored()[:2].astype("int64")), condition=condition).log_weights.shape == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"recipe": "mlp"}, "The recipe of text must be `lstm`, `transformer` or `auto`, got 'mlp'"),
        ({"likelihood": "normal"}, "`likelihood` must be left out for text"),
        ({"prior": "vamp"}, "The prior of text must not be `vamp`"),
        ({"prior": "magic"}, "must be one of"),
        ({"latent": 0}, "`latent` must be at least 1, got 0"),
    ],
)
def test_what_it_cannot_be(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        recipes.make(open_data(corpus(30), tokens="word"), **arguments)
    assert "\n" not in str(caught.value)


def test_other_data_are_not_text() -> None:
    with pytest.raises(ConfigError, match="The recipe `lstm` must have text, found vectors"):
        recipes.make(open_data([[0.5, 1.5], [2.0, 3.0]]), "lstm")
