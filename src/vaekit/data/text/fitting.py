"""The tokens of a text: chosen, and learned from a sample of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from vaekit.data.text.format import NUM_BYTES, TOKENS, TextFormat, Tokens, byte_alphabet
from vaekit.data.text.tokens import as_unicode, bpe_encoder, divide_words
from vaekit.errors import ConfigError, require
from vaekit.symbols import FIRST

TokensOption = Literal["auto", "byte", "character", "word", "bpe"]

_SAMPLE = 1 << 23
_ITEM = 1 << 16
_SHORT, _FEW = 32, 512
_MOST = {"character": 10_000, "word": 20_000, "bpe": 8_000}
_LEAST_PAIRS, _CHARACTERS_A_PAIR = 512, 128
_LONGEST_PAIR = 24
_RUN = 256
_LONG_RUN = re.compile(rf"\S{{{_RUN}}}|\s{{{_RUN}}}")
_MOST_TOKENS = 2**31 - 1 - FIRST


class Sample:
    """Evenly spaced texts of a stream, of a bounded size: all of them, or every 2nd, 4th, ...

    Args:
        most: characters that are kept.

    Example:
        >>> sample = Sample(most=6)
        >>> sample.add(["aa", "bb", "cc", "dd", "ee"])
        >>> sample.texts
        ['aa', 'cc', 'ee']
    """

    def __init__(self, most: int = _SAMPLE) -> None:
        self.most, self.texts = most, []
        self._stride, self._seen, self._size = 1, 0, 0

    texts: list[str]

    def add(self, texts: Iterable[str]) -> None:
        """Sees more of the stream. Of a very long text only the beginning is kept."""
        for text in texts:
            if self._seen % self._stride == 0:
                self.texts.append(text[:_ITEM])
                self._size += min(len(text), _ITEM)
                while self._size > self.most and len(self.texts) > 1:
                    self.texts = self.texts[::2]
                    self._stride *= 2
                    self._size = sum(map(len, self.texts))
            self._seen += 1


def fit_tokens(
    texts: Sequence[str], tokens: TokensOption = "auto", vocabulary: int | None = None, long: Literal["cut", "split"] = "cut"
) -> TextFormat:
    """The tokens of texts: the same texts give the same tokens.

    Args:
        texts: a sample of the data.
        tokens: what a token is; with `auto`, characters for short texts of few distinct characters, such as names, and else
            byte pairs.
        vocabulary: how many tokens at most, the most frequent ones; of byte pairs at least 256. By default all characters up to
            10,000, 20,000 words, and byte pairs by the amount of text, up to 8,000.
        long: what the format says of texts that are too long.

    Raises:
        ConfigError: on an option that cannot be.
        MissingExtraError: for byte pairs without the package that learns them.

    Example:
        >>> fit_tokens(["anna", "otto"]).vocabulary
        ('a', 'n', 'o', 't')
    """
    if tokens not in ("auto", *TOKENS):
        raise ConfigError(f"`tokens` must be auto, {', '.join(TOKENS[:-1])} or {TOKENS[-1]}, got {tokens!r}. Choose one.")
    texts = [as_unicode(text) for text in texts]
    kind = choose_tokens(texts) if tokens == "auto" else tokens
    _check_vocabulary(kind, vocabulary)
    if kind == "byte":
        return TextFormat(tokens=kind, long=long)
    if kind == "bpe":
        size = vocabulary or _num_pairs(sum(map(len, texts)))
        found, merges = _learn_pairs(texts, size)
        return TextFormat(tokens=kind, vocabulary=found, merges=merges, long=long)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text if kind == "character" or not text else divide_words(text))
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    return TextFormat(tokens=kind, vocabulary=tuple(ranked[: vocabulary or _MOST[kind]]) or (" ",), long=long)


def choose_tokens(texts: Sequence[str]) -> Tokens:
    """Characters for short texts of few distinct ones, and else byte pairs.

    Example:
        >>> choose_tokens(["anna"] * 9), choose_tokens(["The quick brown fox jumps over the lazy dog."])
        ('character', 'bpe')
    """
    if np.median([len(text) for text in texts] or [0]) > _SHORT:
        return "bpe"
    distinct: set[str] = set()
    for text in texts:
        distinct.update(text)
    return "character" if len(distinct) <= _FEW else "bpe"


def _check_vocabulary(kind: Tokens, vocabulary: int | None) -> None:
    if vocabulary is None:
        return
    if kind == "byte":
        raise ConfigError(f"`vocabulary` must be left out for bytes, of which there are {NUM_BYTES}, got {vocabulary}.")
    least = NUM_BYTES if kind == "bpe" else 1
    if not least <= vocabulary <= _MOST_TOKENS:
        raise ConfigError(
            f"`vocabulary` must be at least {least} for {kind} tokens, got {vocabulary}. Leave it out to go by the data."
        )


def _num_pairs(num_characters: int) -> int:
    """So many that most of them occur often enough to be learned."""
    return min(max(num_characters // _CHARACTERS_A_PAIR, _LEAST_PAIRS), _MOST["bpe"])


def _learn_pairs(texts: Sequence[str], size: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The vocabulary and the merges of byte pairs.

    P. Gage, "A new algorithm for data compression" (1994); R. Sennrich, B. Haddow, A. Birch, "Neural machine translation of
    rare words with subword units" (2016); over bytes as by A. Radford et al., "Language models are unsupervised multitask
    learners" (2019).
    """
    tokenizers = require("tokenizers", "text", "Byte-pair tokens (`tokens='word'` or 'byte' does without), which")
    encoder = bpe_encoder(tokenizers, tokenizers.models.BPE())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        initial_alphabet=sorted(byte_alphabet()),
        max_token_length=_LONGEST_PAIR,
        show_progress=False,
    )
    encoder.train_from_iterator((part for text in texts if text for part in _without_runs(" " + text)), trainer)
    codes = encoder.get_vocab(with_added_tokens=False)
    return tuple(sorted(codes, key=codes.__getitem__)), _merges_of(encoder)


def _without_runs(text: str) -> list[str]:
    """The text; in parts where it has a very long word, for the time to learn from a word is quadratic in its length."""
    if len(text) <= _RUN or not _LONG_RUN.search(text):
        return [text]
    return [text[start : start + _RUN] for start in range(0, len(text), _RUN)]


def _merges_of(encoder: object) -> tuple[str, ...]:
    model = json.loads(encoder.to_str())["model"]  # type: ignore[attr-defined]
    return tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
