"""Codes as an array: its width, cuts and splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaekit.data.text.format import TextFormat
from vaekit.data.text.packing import Breaks, Ragged, choose_limit, encode_texts, fill, long_note, parts_of
from vaekit.data.text.tokens import END, PAD, tokenizer_of
from vaekit.errors import ConfigError, DataError

BYTES = tokenizer_of(TextFormat(tokens="byte"))
BREAKS = Breaks(BYTES)


def divided(text: str, limit: int) -> list[str]:
    codes, _ = BYTES.encode([text])
    return [BYTES.decode(codes[None, start:end])[0] for start, end in BREAKS.divide(codes, limit)]


def test_the_limit() -> None:
    few, many = np.arange(40), np.r_[np.full(995, 100), np.full(5, 200)]
    assert choose_limit(few) == 39
    assert choose_limit(np.r_[np.full(999, 10), 90]) == 64  # the one is left over
    assert choose_limit(many) == 100  # 99.5% of them
    assert choose_limit(np.r_[many, 200]) == 200
    assert choose_limit(np.full(9, 10_000)) == 256
    assert choose_limit(np.full(9, 10_000), 1000) == 1000
    assert choose_limit(few, 1000) == 39
    assert choose_limit(few, 3) == 3
    assert choose_limit(np.zeros(3, np.int64)) == 1
    with pytest.raises(ConfigError, match="`max_tokens` must be at least 1, got 0"):
        choose_limit(few, 0)


def test_where_texts_are_split() -> None:
    assert divided("One two. Three four five.", 12) == ["One two.", "Three four", "five."]
    assert divided('He said "no." Then he left.', 20) == ['He said "no."', "Then he left."]
    assert divided("It is 3.14159 in all", 10) == ["It is", "3.14159 in", "all"]  # no sentence ends at the point
    assert divided("abcdefghij", 4) == ["abcd", "efgh", "ij"]
    assert divided("first\nsecond line", 10) == ["first", "second", "line"]
    assert divided("aaaa   bbbb", 5) == ["aaaa", "bbbb"]
    assert divided("ééé", 3) == ["é", "é", "é"]
    signs = tokenizer_of(TextFormat(tokens="character", vocabulary=tuple("日本。中国人民")))
    codes, _ = signs.encode(["日本。中国人民"])
    assert Breaks(signs).divide(codes, 5) == [(0, 3), (3, 7)]


@given(text=st.text(min_size=1, max_size=200), limit=st.integers(4, 40))
def test_parts_of_a_split_text_lose_nothing_but_space(text: str, limit: int) -> None:
    codes, lengths = BYTES.encode([text])
    owners, starts, counts = parts_of((codes, lengths), limit, "split", BREAKS)
    assert (counts <= limit).all()
    assert (owners == 0).all()
    assert (np.diff(starts) > 0).all()
    joined = np.concatenate([codes[start : start + count] for start, count in zip(starts, counts, strict=True)])
    space = [3 + byte for byte in b" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"]
    assert np.array_equal(joined[~np.isin(joined, space)], codes[~np.isin(codes, space)])
    for start, count in zip(starts, counts, strict=True):  # each is whole characters
        assert "\ufffd" not in BYTES.decode(codes[None, start : start + count])[0] or "\ufffd" in text


@given(text=st.text(max_size=60), limit=st.integers(1, 40))
def test_a_cut_text_is_the_beginning_in_whole_characters(text: str, limit: int) -> None:
    codes, lengths = BYTES.encode([text])
    _, starts, counts = parts_of((codes, lengths), limit, "cut", BREAKS)
    assert len(starts) == 1
    assert starts[0] == 0
    assert counts[0] <= limit
    if limit >= 4:
        kept = BYTES.decode(codes[None, : counts[0]])[0]
        assert text.startswith(kept)
        assert len(kept) == len(text) or len(text[: len(kept) + 1].encode()) > limit  # as much as fits


def test_rows() -> None:
    codes, lengths = BYTES.encode(["abc", "", "defgh", "ij"])
    owners, starts, counts = parts_of((codes, lengths), 3, "split", BREAKS)
    assert owners.tolist() == [0, 1, 2, 2, 3]
    out = np.zeros((5, 4), np.uint16)
    fill(out, codes, starts, counts)
    expected = [b"abc", b"", b"def", b"gh", b"ij"]
    for row, letters in zip(out.tolist(), expected, strict=True):
        assert row == [*(3 + letter for letter in letters), END, *[PAD] * (3 - len(letters))]


def test_ragged_codes_keep_only_the_beginnings() -> None:
    ragged = Ragged("uint16", keep=3)
    ragged.add(*BYTES.encode(["abcdef", "g", "", "hijk"]))
    ((codes, lengths),) = ragged.chunks
    assert lengths.tolist() == [3, 1, 0, 3]
    assert bytes((codes - 3).tolist()) == b"abcghij"
    assert ragged.lengths[0].tolist() == [6, 1, 0, 4]
    assert codes.dtype == np.uint16


def test_encode_texts() -> None:
    x = encode_texts(["ab", "abé", ""], BYTES, 4, "int32")
    assert x.dtype == np.int32
    assert BYTES.decode(x) == ["ab", "ab", ""]  # é has two bytes, of which one would fit
    with pytest.raises(DataError, match="Texts must be strings"):
        encode_texts([1, 2], BYTES, 4, "int32")


def test_notes() -> None:
    lengths = [np.array([1, 9]), np.array([10, 2])]
    assert long_note(lengths, 10, "cut", 4) == ()
    assert long_note(lengths, 5, "cut", 4)[0].startswith("2 of 4 texts (50.0%) have more than 5 tokens and are cut")
    assert long_note(lengths, 5, "split", 6)[0].endswith("split into several: there are 6 in all.")
