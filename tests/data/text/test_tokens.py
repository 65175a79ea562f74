"""Texts as codes and back: nothing is lost, in any script; what the codes are; formats that are damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vaekit.data.text import fitting
from vaekit.data.text.fitting import Sample, choose_tokens, fit_tokens
from vaekit.data.text.format import TOKENS, TextFormat, byte_alphabet
from vaekit.data.text.tokens import END, FIRST, PAD, UNKNOWN, as_unicode, divide_words, tokenizer_of
from vaekit.errors import ConfigError, DataError, MissingExtraError

ENGLISH = ["the cat sat on the mat .", "the dog sat .", "a cat and a dog", "the mat"]
ODD = [
    "",
    " ",
    "  two  spaces  ",
    "tab\tand\nline\r\nends\r",
    "It's late, isn’t it? 3.14 e_mail",
    "你好，世界。这是 mixed 文本",
    "こんにちは カタカナ ｶﾀｶﾅ",
    "สวัสดีครับ ဟယ်လို សួស្តី ສະບາຍດີ",
    "हिन्दी भाषा में",
    "مرحبا بالعالم עברית",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇨🇭 ❤️",
    "e\u0301 \u0301alone \u200d joiner",
    "\0 \x1f \x85 \u2028 \ufeff \ufffd",
    "\U0010ffff \U000e0001 \u3000wide",
]
UNICODE = st.text()
LINES = st.lists(UNICODE, min_size=1, max_size=6)


def rows(format: TextFormat, texts: list[str]) -> np.ndarray:
    codes, lengths = tokenizer_of(format).encode(texts)
    out = np.full((len(texts), int(lengths.max()) + 2), PAD)
    for row, part in zip(out, np.split(codes, np.cumsum(lengths)[:-1]), strict=True):
        row[: len(part)], row[len(part)] = part, END
    return out


def again(format: TextFormat, texts: list[str]) -> list[str]:
    return tokenizer_of(format).decode(rows(format, texts))


ENGLISH_PAIRS = fit_tokens(ENGLISH * 30, "bpe", 290)


@pytest.mark.parametrize("format", [TextFormat(tokens="byte"), ENGLISH_PAIRS], ids=["byte", "bpe"])
@given(texts=LINES)
def test_bytes_and_pairs_spell_every_text(format: TextFormat, texts: list[str]) -> None:
    assert again(format, texts) == texts
    assert not (rows(format, texts) == UNKNOWN).any()


@pytest.mark.parametrize("tokens", ["character", "word"])
@given(texts=LINES)
def test_characters_and_words_spell_the_texts_that_they_were_found_in(tokens: str, texts: list[str]) -> None:
    format = fit_tokens(texts, tokens)
    assert again(format, texts) == texts
    assert not (rows(format, texts) == UNKNOWN).any()


@given(texts=LINES, others=LINES)
def test_what_is_unknown_prints_as_such_and_is_unknown_again(texts: list[str], others: list[str]) -> None:
    format = fit_tokens(texts, "character")
    known = set("".join(texts))
    expected = ["".join(sign if sign in known else "\ufffd" for sign in text) for text in others]
    assert again(format, others) == expected
    if "\ufffd" not in known:
        assert np.array_equal(rows(format, expected), rows(format, others))


@pytest.mark.parametrize("tokens", TOKENS)
def test_every_script(tokens: str) -> None:
    assert again(fit_tokens(ODD, tokens), ODD) == ODD


@given(text=UNICODE)
def test_words_joined_are_the_text_behind_a_space(text: str) -> None:
    assert "".join(divide_words(text)) == " " + text


def test_how_texts_divide_into_words() -> None:
    def pieces(text: str) -> str:
        return "|".join(divide_words(text))

    assert pieces("Hello, world!!") == " Hello|,| world|!|!"
    assert pieces("don't isn’t rock'n'roll 'quoted'") == " don't| isn’t| rock'n'roll| '|quoted|'"
    assert pieces("two  spaces") == " two| | spaces"
    assert pieces("3.14 e_mail") == " 3|.|14| e_mail"
    assert pieces("你好 abc世界") == " 你|好| abc|世|界"
    assert pieces("हिन्दी भाषा") == " हिन्दी| भाषा"
    assert pieces("ครับ") == " ค|รั|บ"
    assert pieces("ok👩‍👩‍👧👍🏽") == " ok|👩‍👩‍👧|👍🏽"
    assert pieces("a\n\tb ") == " a|\n|\t|b| "
    assert [len(piece) for piece in divide_words("z" * 200 + " " * 40)] == [65, 64, 64, 8, 16, 16, 8]


def test_codes() -> None:
    format = TextFormat(tokens="character", vocabulary=("b", "a"))
    codes, lengths = tokenizer_of(format).encode(["ab", "", "xa"])
    assert codes.tolist() == [FIRST + 1, FIRST, UNKNOWN, FIRST + 1]
    assert lengths.tolist() == [2, 0, 2]
    assert (PAD, END, UNKNOWN, FIRST, format.num_tokens) == (0, 1, 2, 3, 5)
    decode = tokenizer_of(format).decode
    assert decode(np.array([[4, 3, END, 4], [4, PAD, 4, 4], [3, 3, 3, 3], [END, 3, 3, 3]])) == ["ab", "a", "bbbb", ""]
    assert tokenizer_of(TextFormat(tokens="byte")).encode(["é"])[0].tolist() == [FIRST + 0xC3, FIRST + 0xA9]
    for wrong in (5, -1):
        with pytest.raises(DataError, match=r"must be in 0\.\.4"):
            decode(np.array([[wrong]]))


def test_words_begin_with_their_space_and_the_first_space_is_not_printed() -> None:
    format = TextFormat(tokens="word", vocabulary=(" the", " cat", "."))
    tokenizer = tokenizer_of(format)
    assert tokenizer.encode(["the cat.", "a cat"])[0].tolist() == [3, 4, 5, UNKNOWN, 4]
    assert tokenizer.decode(np.array([[3, 4, 5], [UNKNOWN, 4, END], [5, 3, END]])) == ["the cat.", "\ufffd cat", ". the"]


def test_bytes_that_are_no_text_print_as_replacement_characters() -> None:
    tokenizer = tokenizer_of(TextFormat(tokens="byte"))
    assert tokenizer.decode(np.array([[FIRST + 0xC3, FIRST + 65, END]])) == ["\ufffdA"]
    assert tokenizer.decode(np.array([[UNKNOWN, FIRST + 65, END]])) == ["\ufffdA"]


def test_lone_surrogates_become_replacement_characters() -> None:
    assert as_unicode("a\ud800b") == "a\ufffdb"
    assert as_unicode("\ud83d\ude00") == "😀"
    for tokens in TOKENS:
        format = fit_tokens(["a\ud800b", "ab"], tokens)
        assert again(format, ["a\ud800b"]) == ["a\ufffdb"]


def test_long_texts_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "the cat sat on the mat " * 50
    whole, _ = tokenizer_of(ENGLISH_PAIRS).encode([text])
    monkeypatch.setattr("vaekit.data.text.tokens._BLOCK", 64)
    codes, lengths = tokenizer_of(ENGLISH_PAIRS).encode(["a", text, "", "x" * 1000])
    assert lengths.tolist()[2] == 0
    assert np.array_equal(codes[lengths[0] : lengths[0] + lengths[1]], whole)
    assert again(ENGLISH_PAIRS, ["é" * 1000]) == ["é" * 1000]


def test_the_most_frequent_tokens_are_kept() -> None:
    counts = Counter(sign for text in ENGLISH for sign in text)
    format = fit_tokens(ENGLISH, "character", 5)
    assert list(format.vocabulary) == sorted(counts, key=lambda sign: (-counts[sign], sign))[:5]
    assert fit_tokens(ENGLISH, "word", 3).vocabulary == (" the", " .", " a")  # 4, 2, 2 times, by the alphabet


def test_pairs_follow_the_papers_algorithm() -> None:
    # Sennrich et al. 2016, figure 1: low x5, lower x2, newest x6, widest x3. The first merges are e s, es t, l o, lo w,
    # of the pairs by their counts 9, 9, 7, 7 (where a space begins a word here, l o is preceded by it).
    words = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3
    format = fit_tokens(words, "bpe", 260)
    assert set(format.merges[:2]) == {"e s", "es t"}
    assert len(format.vocabulary) == 260
    assert sorted(format.vocabulary[:256]) == sorted(byte_alphabet())
    assert again(format, ["lowest"]) == ["lowest"]
    codes, _ = tokenizer_of(format).encode(["newest"])
    assert len(codes) < len("newest") + 1


def test_the_same_texts_give_the_same_tokens_in_any_process() -> None:
    code = (
        "import sys, json; from vaekit.data.text.fitting import fit_tokens; "
        "print(fit_tokens(json.load(sys.stdin), 'bpe', 400).model_dump_json())"
    )
    texts = json.dumps(ENGLISH * 20 + ODD)
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            input=texts,
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads, "PYTHONIOENCODING": "utf-8"},
        ).stdout
        for seed, threads in (("1", "1"), ("2", "2"))
    }
    assert len(found) == 1


def test_which_tokens_are_chosen() -> None:
    assert choose_tokens(["anna", "otto"]) == "character"
    assert choose_tokens(["a sentence of words that is long enough to be one"] * 3) == "bpe"
    assert choose_tokens([chr(0x4E00 + index) for index in range(600)]) == "bpe"  # too many distinct characters
    assert fit_tokens(["anna"]).tokens == "character"


def test_how_many_pairs() -> None:
    assert fitting._num_pairs(100) == 512
    assert fitting._num_pairs(128 * 1000) == 1000
    assert fitting._num_pairs(10**9) == 8000


def test_a_sample_is_bounded_and_evenly_spaced() -> None:
    texts = [f"{index:04d}" for index in range(1000)]
    sample = Sample(most=100)
    for start in range(0, 1000, 7):
        sample.add(texts[start : start + 7])
    numbers = [int(text) for text in sample.texts]
    assert sum(map(len, sample.texts)) <= 100
    assert len(numbers) > 12
    assert set(np.diff(numbers)) == {64}
    whole = Sample(most=100)
    whole.add(texts)
    assert whole.texts == sample.texts
    long = Sample(most=10)
    long.add(["x" * 10**6])
    assert len(long.texts[0]) == 2**16


def test_options_of_tokens() -> None:
    with pytest.raises(ConfigError, match="must be auto, byte, character, word or bpe, got 'words'"):
        fit_tokens(["a"], "words")
    with pytest.raises(ConfigError, match="`vocabulary` must be at least 256 for bpe tokens, got 100"):
        fit_tokens(["a"], "bpe", 100)
    with pytest.raises(ConfigError, match="`vocabulary` must be left out for bytes"):
        fit_tokens(["a"], "byte", 100)


def test_pairs_need_their_extra_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"`tokens='word'`.*pip install 'vaekit\[text\]'"):
        fit_tokens(["a"], "bpe")
    for tokens in ("byte", "character", "word"):
        assert again(fit_tokens(["ab a"], tokens), ["ab a"]) == ["ab a"]
    fresh = TextFormat(tokens="bpe", vocabulary=ENGLISH_PAIRS.vocabulary)
    assert tokenizer_of(fresh).decode(np.array([[FIRST + fresh.vocabulary.index("a")]])) == ["a"]  # printing needs none
    with pytest.raises(MissingExtraError, match=r"vaekit\[text\]"):
        tokenizer_of(fresh).encode(["a"])


@pytest.mark.parametrize("tokens", TOKENS)
def test_a_format_survives_json(tokens: str) -> None:
    format = fit_tokens(ENGLISH * 5 + ODD, tokens, long="split")
    read = TextFormat.model_validate(json.loads(format.model_dump_json()))
    assert read == format
    assert hash(read) == hash(format)
    assert np.array_equal(rows(read, ODD), rows(format, ODD))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"tokens": "syllable"}, "tokens"),
        ({"vocabulary": ()}, "must be given for all tokens but bytes"),
        ({"tokens": "byte"}, "must be given for all tokens but bytes"),
        ({"vocabulary": ("a", "a")}, "no token twice"),
        ({"vocabulary": ("a", "")}, "no empty one"),
        ({"vocabulary": ("ab",)}, "single characters"),
        ({"merges": ("a b",)}, "for bpe alone"),
        ({"tokens": "bpe"}, "all 256 bytes"),
        ({"tokens": "bpe", "vocabulary": (*byte_alphabet(), " ")}, "spelled in them"),
        ({"tokens": "bpe", "vocabulary": tuple(byte_alphabet()), "merges": ("a b",)}, "one of them, got 'a b'"),
        ({"tokens": "bpe", "vocabulary": (*byte_alphabet(), "ab"), "merges": ("ab",)}, "one of them, got 'ab'"),
        ({"code": "import os"}, "code"),
    ],
)
def test_a_damaged_format_is_refused(change: dict[str, object], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        TextFormat.model_validate({"tokens": "character", "vocabulary": ("a", "b"), **change})


def test_which_tokens_go_on_with_a_character() -> None:
    byte = tokenizer_of(TextFormat(tokens="byte"))
    assert byte.continues[FIRST + np.array([0x41, 0x7F, 0x80, 0xBF, 0xC3])].tolist() == [False, False, True, True, False]
    signs = tokenizer_of(TextFormat(tokens="character", vocabulary=("e", "\u0301")))
    assert signs.continues.tolist() == [False, False, False, False, True]
