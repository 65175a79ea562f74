"""Blanks in texts: the weights against the exact conditional of small models, summed over all texts and all latents."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch

from small_models import vector_bundle
from text_models import text_bundle, text_data
from vaekit.data.text.tokens import tokenizer_of
from vaekit.errors import ConfigError, DataError
from vaekit.jobs.fill import Filled, fill
from vaekit.storage import Bundle
from vaekit.symbols import END, FIRST

TEXTS = ["ab", "ba", "abc", "c", "cab", "acbab"]


@pytest.fixture(scope="module")
def letters() -> Bundle:
    """Five places for the letters a, b and c, one latent, and an encoder that knows little of it."""
    data = text_data(TEXTS, tokens="character")
    assert data.schema.levels == FIRST + 3
    return text_bundle(data, latents=1, hidden=6, size=1.5, seed=3)


def exact(bundle: Bundle, pattern: str, longest: int, conditions: dict[str, torch.Tensor] | None = None) -> dict[tuple, float]:
    """p(blanks | the rest) of a pattern with `_`, by all strings, and the trapezoid rule over the latent."""
    vae, tokenizer = bundle.vae, tokenizer_of(bundle.schema.text)
    segments = pattern.split("_")
    letters = "".join(tokenizer.format.vocabulary)
    words = ["".join(word) for n in range(1, longest + 1) for word in itertools.product(letters, repeat=n)]
    z = torch.linspace(-6, 6, 601)[:, None]
    log_prior = vae.prior(None).log_prob(z)
    masses = {}
    for parts in itertools.product(words, repeat=len(segments) - 1):
        text = segments[0] + "".join(p + s for p, s in zip(parts, segments[1:], strict=True))
        codes = tokenizer.encode([text])[0].tolist()
        if len(codes) > bundle.schema.shape[0] - 1:
            continue
        features = vae.encode_condition(vae.condition_of(conditions, 1))
        p = vae.likelihood(z[:, None], features).log_prob(torch.tensor([[*codes, END]]))[:, 0]
        masses[parts] = float((p + log_prior).double().exp().sum())
    total = sum(masses.values())
    return {parts: mass / total for parts, mass in masses.items()}


def agree(filled: Filled, truth: dict[tuple, float]) -> None:
    """The weights are the masses, as far as so many latents can tell."""
    size = min(filled.effective_sample_size[0], 1500)
    for parts, mass in truth.items():
        assert found(filled).get(parts, 0.0) == pytest.approx(mass, abs=0.01 + 4 * (mass * (1 - mass) / size) ** 0.5), parts


def found(filled: Filled) -> dict[tuple, float]:
    return {each.parts: each.weight for each in filled.fills[0]}


@pytest.mark.parametrize(("pattern", "longest"), [("a_b", 2), ("_c", 3), ("ab_", 2), ("_", 2), ("_b_", 2), ("a_ba", 4)])
def test_weights_are_the_exact_conditional(letters, pattern, longest):
    with torch.no_grad():
        truth = exact(letters, pattern, longest)
    filled = fill(letters, [pattern], blank="_", longest=longest, num=10_000, num_candidates=8000, seed=1)
    ours = found(filled)
    assert ours.keys() <= truth.keys()
    assert abs(sum(ours.values()) - 1) < 1e-6
    agree(filled, truth)
    best = filled.fills[0][0]
    assert best.weight == max(ours.values())
    assert re.fullmatch(re.escape(pattern).replace("_", "(.+)"), best.text)


def test_a_transformer_fills_as_well():
    bundle = text_bundle(text_data(TEXTS, tokens="character"), latents=1, hidden=8, seed=2, transformer=True)
    for pattern in ("a_b", "_b_"):
        with torch.no_grad():
            truth = exact(bundle, pattern, 2)
        agree(fill(bundle, [pattern], blank="_", longest=2, num=10_000, num_candidates=3000), truth)


def test_a_condition_counts():
    bundle = text_bundle(text_data(TEXTS, tokens="character"), conditional=True, latents=1, hidden=6, size=1.5, seed=5)
    exactly = []
    for label in (0, 1):
        columns = {"label": torch.tensor([label])}
        with torch.no_grad():
            exactly.append(exact(bundle, "a_c", 2, columns))
        how = {"blank": "_", "longest": 2, "num": 100, "num_candidates": 8000}
        agree(fill(bundle, ["a_c"], columns=columns, **how), exactly[-1])
    assert max(abs(exactly[0][parts] - exactly[1][parts]) for parts in exactly[0]) > 0.05


def test_draws_come_by_their_weights(letters):
    with torch.no_grad():
        truth = exact(letters, "a_b", 2)
    drawn = fill(letters, ["a_b"], blank="_", longest=2, num=4000, draw="sample", num_candidates=4000).fills[0]
    assert len(drawn) == 4000
    for parts, mass in truth.items():
        assert np.mean([each.parts == parts for each in drawn]) == pytest.approx(mass, abs=0.03)


def test_what_is_given_stays_and_a_blank_behind_a_space_begins_a_word():
    bundle = text_bundle()
    texts = ["the ___ was good .", "___ food", "we liked it", "the food ___", "the   ___ qqq ___, sixteen"]
    filled = fill(bundle, texts, num=5)
    for text, fills in zip(texts, filled.fills, strict=True):
        for each in fills:
            assert re.fullmatch(re.escape(text).replace("___", "(.+)"), each.text)
            assert len(each.parts) == text.count("___")
            assert all(part and not part.startswith(" ") for part in each.parts)
        assert len({each.text for each in fills}) == len(fills)
    assert [each.weight for each in filled.fills[2]] == [1.0]
    assert filled.texts[2] == texts[2]


@pytest.mark.parametrize("tokens", ["byte", "bpe"])
def test_tokens_of_bytes(tokens):
    if tokens == "bpe":
        pytest.importorskip("tokenizers")
    bundle = text_bundle(text_data(tokens=tokens, **({"vocabulary": 300} if tokens == "bpe" else {})))
    texts = ["the ___ was g___d .", "né ___"]
    for text, fills in zip(texts, fill(bundle, texts, num=3, num_candidates=32, longest=2).fills, strict=True):
        for each in fills:
            assert re.fullmatch(re.escape(text).replace("___", "(.+)"), each.text, re.DOTALL)


def test_it_is_seeded_and_leaves_the_random_state_alone(letters):
    state = torch.get_rng_state()
    first, second = (fill(letters, ["a_"], blank="_", num_candidates=16) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.fills == second.fills
    told = []
    fill(letters, ["a_", "ab"], blank="_", num_candidates=4, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_few_latents_are_told_of(letters):
    assert "fewer than 5 latents" in fill(letters, ["a_"], blank="_", num_candidates=3).notes[0]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"texts": []}, DataError, "must be a text"),
        ({"texts": ["abcab_"]}, DataError, "at most 5 tokens"),
        ({"draw": "best"}, ConfigError, "`draw`"),
        ({"longest": 0}, ConfigError, "`longest`"),
        ({"blank": " "}, ConfigError, "`blank`"),
        ({"bundle": vector_bundle()}, ConfigError, "VAE of text"),
    ],
)
def test_refusals(letters, options, error, match):
    how = {"bundle": letters, "texts": ["a_"], "blank": "_", **options}
    with pytest.raises(error, match=match):
        fill(**how)
