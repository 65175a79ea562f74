"""Measures of texts: published examples, other implementations' figures, and the n-gram model against its definition."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from small_models import vector_bundle, vector_data
from text_models import SENTENCES, text_bundle, text_data
from vaekit.data.text.units import divided, unit_of
from vaekit.errors import ConfigError, DataError
from vaekit.evaluation.bounds import evaluate_bounds
from vaekit.evaluation.text import (
    NgramModel,
    corpus_bleu,
    distinct,
    duplicate_share,
    evaluate_texts,
    exact_match,
    novelty,
    self_bleu,
)
from vaekit.jobs.score import score
from vaekit.model import Model

MADE = ["the cat sat on the mat .", "there is a dog in the garden now", "we ate the good soup twice", "it was late"]
FIRST = ["the cat is on the mat .", "a dog is in the garden", "we ate good soup two times", "it was very late"]
SECOND = [
    "there is a cat on the mat .",
    "there is a dog in the yard now",
    "the soup was good so we ate it twice",
    "it got late",
]


def words(texts: list[str]) -> list[list[str]]:
    return divided(texts, "word")


# ------------------------------------------------------------------------------------------------------------ BLEU


def test_the_examples_of_the_paper():
    # Papineni et al. (2002), example 2: a modified precision of 2/7, and example 1: 17/18 and 8/18 of single words.
    the = corpus_bleu(words(["the the the the the the the"]), [words(["the cat is on the mat", "there is a cat on the mat"])])
    assert the.precisions[0] == 2 / 7
    references = [
        "It is a guide to action that ensures that the military will forever heed Party commands",
        "It is the guiding principle which guarantees the military forces always being under the command of the Party",
        "It is the practical guide for the army always to heed the directions of the party",
    ]
    good = "It is a guide to action which ensures that the military always obeys the commands of the party"
    bad = "It is to insure the troops forever hearing the activity guidebook that party direct"
    found = [corpus_bleu(words([text]), [words(references)]) for text in (good, bad)]
    assert [(p.precisions[0], p.precisions[1]) for p in found] == [(17 / 18, 10 / 17), (8 / 14, 1 / 13)]


def test_figures_of_sacrebleu():
    # sacrebleu 2.5.1, corpus_bleu(made, [first, second], tokenize="none"), and for the third text alone its smoothings.
    both = [list(pair) for pair in zip(words(FIRST), words(SECOND), strict=True)]
    assert corpus_bleu(words(MADE), both).score == pytest.approx(54.89991706711518, abs=1e-9)
    single = [[text] for text in words(FIRST)]
    assert corpus_bleu(words(MADE), single).score == pytest.approx(28.043556960688292, abs=1e-9)
    for smoothing, expected in (("none", 0.0), ("exponential", 22.957488466614336), ("epsilon", 12.209471671615692)):
        assert corpus_bleu(words(MADE[2:3]), single[2:3], smoothing=smoothing).score == pytest.approx(expected, abs=1e-9)


def test_self_bleu_of_nltk():
    # nltk 3.10.4, mean of 100 sentence_bleu(others, text, smoothing_function=SmoothingFunction().method1)
    texts = [text for text in words(FIRST + SECOND) if len(text) >= 4]
    assert self_bleu(texts) == pytest.approx(21.79232226529222, abs=1e-9)
    pairs = [65.46536707079771, 57.73502691896258, 36.51483716701108, 7.830277146770757, 84.51542547285166, 65.46536707079771]
    assert self_bleu(texts, order=2) == pytest.approx(np.mean([*pairs, 31.180478223116182]), abs=1e-9)


def test_self_bleu_is_that_of_each_against_the_others():
    rng = random.Random(1)
    texts = [[rng.choice("abcd") for _ in range(rng.randint(1, 8))] for _ in range(40)]
    direct = [
        corpus_bleu([text], [[other for j, other in enumerate(texts) if j != i]], smoothing="epsilon").score
        for i, text in enumerate(texts)
    ]
    assert self_bleu(texts) == pytest.approx(np.mean(direct), abs=1e-9)
    assert self_bleu(texts, most=10, seed=1) == self_bleu(texts, most=10, seed=1) != self_bleu(texts, most=10, seed=2)


def test_bleu_at_its_ends():
    assert corpus_bleu([["a"]], [[["a"]]]).score == pytest.approx(100)
    assert corpus_bleu([["a"]], [[["a"]]]).precisions == (1.0, None, None, None)
    assert corpus_bleu([["a", "b"]], [[["c", "d"]]]).score == 0
    assert corpus_bleu([[]], [[["c", "d"]]]).score == 0
    assert corpus_bleu([[]], [[[]]]).score == 100
    shorter = corpus_bleu([list("ab")], [[list("a"), list("abc")]])
    assert (shorter.brevity_penalty, shorter.num_reference_units) == (1.0, 1)
    with pytest.raises(DataError, match="must have a reference"):
        corpus_bleu([["a"]], [[]])
    with pytest.raises(ConfigError, match="`smoothing`"):
        corpus_bleu([["a"]], [[["a"]]], smoothing="some")


def test_exact_match():
    assert exact_match(["a", "b ", "c"], ["a", "b", "c"]) == pytest.approx(2 / 3)
    with pytest.raises(DataError):
        exact_match(["a"], [])


# -------------------------------------------------------------------------------------------- variety and novelty


def test_distinct_and_duplicates():
    assert distinct(words(["a b a b", "b a"]), 1) == 2 / 6
    assert distinct(words(["a b a b", "b a"]), 2) == 2 / 4
    assert distinct(words(["a"]), 2) is None
    assert duplicate_share(["a", "a", "b", "a"]) == 0.5


def test_novelty_lists_the_copies():
    training = ["the food was good", "the  place was bad ", "x", "the food was good"]
    found = novelty(["the place was bad", "the food was bad", "the food was good", "the food was good"], training, "word")
    assert found.num_copies == 3
    assert found.share == 0.25
    assert found.copies == (("the food was good", 2, 2), ("the place was bad", 1, 1))
    # Of 16 words none is new, of 12 pairs none, of 8 threes the one of `food was bad`, of 4 fours one.
    assert found.unseen == ((1, 0.0), (2, 0.0), (3, 1 / 8), (4, 1 / 4))
    assert novelty(["new"], iter([]), "word").share == 1.0


def test_units():
    assert unit_of(SENTENCES) == "word"
    assert unit_of(["ana", "bob", "eve"]) == "character"
    assert unit_of(["今天 天气 很 好 。", "我们 喜欢 这个 地方 。"]) == "character"
    assert unit_of(["สวัสดีครับ ผม"]) == "character"
    assert unit_of(["오늘은 날씨가 좋다", "👍 good food 👍"]) == "word"
    with pytest.raises(ConfigError, match="`unit`"):
        divided(["a"], "syllable")


# -------------------------------------------------------------------------------------------------------- n-grams


class Defined:
    """Interpolated Kneser-Ney as its definition says it, by dictionaries."""

    def __init__(self, texts: list[list[str]], order: int) -> None:
        self.order, self.alphabet = order, sorted({unit for text in texts for unit in text})
        raw: list[Counter] = [Counter() for _ in range(order + 1)]
        before: list[dict] = [defaultdict(set) for _ in range(order + 1)]
        for text in texts:
            units = ["<", *text, ">"]
            for k in range(1, order + 1):
                for end in range(k, len(units) + 1):
                    run = tuple(units[end - k : end])
                    raw[k][run] += 1
                    if end - k > 0:
                        before[k][run].add(units[end - k - 1])
        self.counts = [{}] + [
            {
                run: count if k == order or run[0] == "<" else len(before[k][run])
                for run, count in raw[k].items()
                if run != ("<",)
            }
            for k in range(1, order + 1)
        ]

    def mass(self, unit: str, history: tuple[str, ...]) -> float:
        history = history[len(history) - min(len(history), self.order - 1) :]
        k = len(history) + 1
        lower = 1 / (len(self.alphabet) + 2) if k == 1 else self.mass(unit, history[1:])
        same = {run[-1]: count for run, count in self.counts[k].items() if run[:-1] == history and count}
        if not same:
            return lower
        values = Counter(self.counts[k].values())
        discount = values[1] / (values[1] + 2 * values[2]) if values[1] and values[2] else 0.75
        total = sum(same.values())
        return (max(same.get(unit, 0) - discount, 0) + discount * len(same) * lower) / total


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_ngrams_by_their_definition(order):
    rng = random.Random(order)
    texts = ["".join(rng.choice("aabc") for _ in range(rng.randint(0, 7))) for _ in range(30)]
    model, defined = NgramModel(texts, "character", order), Defined([list(text) for text in texts], order)
    asked = ["", "a", "abc", "ccba", "xa", "axxb", "cabcabca"]
    sums, counts = model.log_prob(asked)
    for text, found, count in zip(asked, sums, counts, strict=True):
        units = ["?" if unit == "x" else unit for unit in text] + [">"]
        history, total = ("<",), 0.0
        for unit in units:
            total += math.log(defined.mass(unit, history))
            history = (*history, unit)
        assert found == pytest.approx(total, rel=1e-9)
        assert count == len(text) + 1
    assert model.perplexity(asked) == pytest.approx(math.exp(-sums.sum() / counts.sum()))


def test_the_masses_of_what_may_come_next_sum_to_one():
    model = NgramModel(["abab", "ba", "abba", "c"], "character", 3)
    total = 0.0  # of all texts of fewer than n units, and what is left for the longer ones
    masses = []
    for n in range(8):
        texts = ["".join(text) for text in itertools.product("abcx", repeat=n)] if n < 6 else []
        masses.append(np.exp(model.log_prob(texts)[0]).sum() if texts else 0.0)
        total += masses[-1]
    assert 0.5 < total < 1
    for history in ("", "a", "ab", "ca", "x", "cx"):
        defined = Defined([list(text) for text in ["abab", "ba", "abba", "c"]], 3)
        told = ("<", *history.replace("x", "?"))
        assert sum(defined.mass(unit, told) for unit in "abc?>") == pytest.approx(1)


@given(st.lists(st.text(max_size=12), min_size=1, max_size=8))
def test_any_unicode(texts):
    for unit in ("word", "character"):
        model = NgramModel(texts, unit, 3)
        sums, counts = model.log_prob(texts)
        assert np.isfinite(sums).all()
        assert (sums < 0).all()
        assert counts.tolist() == [len(text) + 1 for text in divided(texts, unit)]
        assert novelty(texts, texts, unit).num_copies == len(texts)
    assert unit_of(texts) in ("word", "character")


def test_unknown_units_are_counted():
    model = NgramModel(["a b", "b c"], "word", 2)
    assert model.unknown_share(["a x", "y b"]) == 0.5
    assert model.num_outcomes == 5  # a, b, c, the END, and what is unknown
    with pytest.raises(DataError):
        NgramModel([], "word")
    with pytest.raises(ConfigError, match="`order`"):
        NgramModel(["a"], "word", 0)


# --------------------------------------------------------------------------------------------- models and reports


def test_the_bound_in_words_tokens_and_characters():
    data = text_data()
    found = evaluate_bounds(text_bundle(data), data, num_samples=10)
    total = found.nll_nats * len(SENTENCES)
    num_words = sum(len(text.split()) for text in SENTENCES)
    characters = sum(len(text) + 1 for text in SENTENCES)
    assert found.text.perplexity == pytest.approx(math.exp(total / (num_words + len(SENTENCES))))
    assert found.text.nll_per_word == pytest.approx(math.log(found.text.perplexity))
    assert found.text.nll_per_token == pytest.approx(found.bits_per_dim * math.log(2))
    assert found.text.bits_per_character == pytest.approx(total / characters / math.log(2))
    assert found.text.character_perplexity == pytest.approx(math.exp(total / characters))
    assert (found.text.num_words, found.text.num_tokens, found.text.unknown_share) == (num_words, num_words, 0.0)
    assert found.calibration is found.reconstruction_mse is found.psnr is None


def test_the_perplexity_s_error_is_that_of_other_texts():
    data = text_data(SENTENCES * 3)
    bundle = text_bundle(data)
    each = score(bundle, data, num_samples=4)
    nll, counts = -each.log_likelihood, each.surprises.num_units + 1
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, len(nll), len(nll)) for _ in range(2000)]
    spread = np.std([math.exp(nll[rows].sum() / counts[rows].sum()) for rows in drawn])
    assert evaluate_bounds(bundle, data, num_samples=4).text.perplexity_error == pytest.approx(spread, rel=0.1)


def test_names_have_no_perplexity_a_word():
    data = text_data(["anna", "otto", "eva", "toto"], tokens="character")
    found = evaluate_bounds(text_bundle(data), data, num_samples=3).text
    assert found.perplexity is found.nll_per_word is found.num_words is None
    assert found.num_tokens == found.num_characters == 15
    columns = score(text_bundle(data), data, num_samples=3).to_columns()
    assert "perplexity" not in columns
    np.testing.assert_allclose(
        columns["character_perplexity"], np.exp(-columns["log_likelihood"] / (columns["num_characters"] + 1))
    )


def test_surprises_are_means_over_the_posterior():
    data = text_data(["ab", "ba", "cab"], tokens="character", labels=False)
    bundle = text_bundle(data, latents=1, hidden=6, size=1.5, seed=3)
    with torch.no_grad():  # a posterior that is nearly the prior, so that samples reach all of the latent
        for parameter in bundle.vae.posterior.head.parameters():
            parameter.zero_()
    from vaekit.jobs.surprise import surprises

    found = surprises(bundle, data, num_samples=20_000)
    z = torch.linspace(-6, 6, 1201)[:, None, None]
    for row in range(len(data)):
        codes = torch.from_numpy(data.stored([row]).astype(np.int64))
        with torch.no_grad():
            p = bundle.vae.likelihood(z)
            masses = p.log_masses(codes.expand(len(z), -1)).double()
            weights = (masses.sum(1) - 0.5 * z[:, 0, 0].double() ** 2).softmax(0)
        exact = -(weights[:, None] * masses).sum(0)[codes[0] != 0]
        nats = [value for _, value in found.words[row]]
        np.testing.assert_allclose(nats, exact.numpy(), atol=0.05)
    assert [word for word, _ in found.words[2]] == ["c", "a", "b", "<end>"]
    assert found.num_tokens.tolist() == [3, 3, 4]


@pytest.mark.parametrize("tokens", ["byte", "character", "bpe", "word"])
def test_tokens_are_gathered_into_words(tokens):
    if tokens == "bpe":
        pytest.importorskip("tokenizers")
    texts = [*SENTENCES, "über 日本 👍🏽 ok", "你好世界"]
    data = text_data(texts, tokens=tokens, labels=False)
    found = score(text_bundle(data), data, num_samples=2)
    for text, listed in zip(texts[:-1], found.surprises.words[:-1], strict=True):
        assert [word for word, _ in listed] == [*text.split(), "<end>"]
    total = sum(nats for _, nats in found.surprises.words[0])
    assert total == pytest.approx(found.distortion[0], rel=0.2)
    assert "".join(word for word, _ in found.surprises.words[-1]).removesuffix("<end>") == texts[-1]


def test_a_report_of_samples():
    training = SENTENCES * 2
    made = ["the food was good .", "we liked the food .", "never never .", "never never ."]
    found = evaluate_texts(made, SENTENCES[:4], training=training, reconstructed=(made, made))
    assert found.unit == "word"
    assert (found.reconstructions.bleu, found.reconstructions.exact_match) == (pytest.approx(100), 1.0)
    assert (found.novelty.num_copies, found.reference_novelty) == (1, 0.0)
    assert (found.samples.duplicates, found.samples.num_texts, found.samples.mean_length) == (0.25, 4, 4.0)
    model = NgramModel(training, "word", 5)
    assert found.ngrams.perplexity == pytest.approx(model.perplexity(made))
    assert found.ngrams.held_out_nll == pytest.approx(-model.log_prob(SENTENCES[:4])[0].mean())
    assert found.notes == ()
    bare = evaluate_texts(made, SENTENCES)
    assert bare.novelty is bare.ngrams is bare.reference_novelty is None
    assert bare.reference.num_texts == 4
    assert len(bare.notes) == 2
    with pytest.raises(DataError, match="samples and held-out"):
        evaluate_texts([], SENTENCES)


def test_the_model_s_methods():
    data = text_data()
    model = Model(text_bundle(data))
    report = model.evaluate_texts(SENTENCES[:3], training=SENTENCES, num=20)
    assert (report.num_samples, report.num_held_out, report.num_training) == (20, 3, 6)
    assert report.to_json()["samples"]["num_texts"] == 3
    assert isinstance(model.generate(2, top_k=1), list)
    assert model.generate(3, beams=1) == model.generate(3, draw="mean")
    assert model.reconstruct(SENTENCES, beams=1, split="all") == model.reconstruct(SENTENCES, split="all")
    assert model.decode(model.encode(SENTENCES), draw="mean") == model.reconstruct(SENTENCES, split="all")
    assert model.interpolate(SENTENCES, 0, 2, num_steps=3)[::2] == model.reconstruct([SENTENCES[0], SENTENCES[2]])
    filled = model.impute(["the ___ was good ."], num=2, num_candidates=16)
    assert filled.texts[0].endswith(" was good .")
    assert model.impute(text_data(["the food"], labels=False)).texts == ["the food"]
    edited = model.edit(SENTENCES, {"label": "pos"}, training=data)
    assert model.rows(edited.x) == edited.x.tolist()
    assert "label" in edited.columns
    other = Model(vector_bundle())
    for refused in (other.fill, other.evaluate_texts):
        with pytest.raises(ConfigError, match="must be one of text"):
            refused(vector_data())
    with pytest.raises(ConfigError, match="must be left out for vectors"):
        other.generate(2, beams=2)
