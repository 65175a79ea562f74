"""Texts as codes, and codes as texts."""

from __future__ import annotations

import re
import sys
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from vaekit.data.text.format import NUM_BYTES, TextFormat, byte_alphabet
from vaekit.errors import DataError, require
from vaekit.symbols import END, FIRST, PAD, UNKNOWN

__all__ = ["END", "FIRST", "PAD", "UNKNOWN", "Tokenizer", "as_unicode", "bpe_encoder", "divide_words", "tokenizer_of"]

UNKNOWN_PRINTED = "\N{REPLACEMENT CHARACTER}"
"""How an unknown token prints."""

_BLOCK = 1 << 16
_SPECIAL = ("<pad>", "<end>", UNKNOWN_PRINTED)
_SENTENCE_ENDS = tuple(".!?…。！？｡۔।\n")
# Scripts without spaces between words, of which each character is a piece: kana, Han, Thai, Lao, Myanmar, Khmer.
_UNSPACED = "぀-ヿㇰ-ㇿ㐀-䶿一-鿿豈-﫿ｦ-ﾟ𠀀-\U0003ffff฀-๏຀-໏ក-\u17d3က-\u103f"


class Tokenizer(ABC):
    """Texts as codes, and back, by a format.

    Attributes:
        format: what the codes stand for.
        printed: each code as a person reads it, V of them; bytes that are no character by themselves as `\\xNN`.
    """

    def __init__(self, format: TextFormat) -> None:
        self.format = format
        self.printed = (*_SPECIAL, *self._printed())
        assert len(self.printed) == format.num_tokens

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The codes of texts, one text behind the other, without their ends.

        Args:
            texts: N of them. A lone surrogate, which is no character, becomes U+FFFD.

        Returns:
            (M,) int32 codes, and (N,) int64 how many each text has.
        """

    @abstractmethod
    def _text(self, codes: np.ndarray) -> str:
        """The text of (n,) codes of tokens and UNKNOWN."""

    @abstractmethod
    def _printed(self) -> list[str]:
        """The tokens of the vocabulary as a person reads them."""

    @property
    def continues(self) -> np.ndarray:
        """(V,) bool: whether a token goes on with a character that was begun before it, so that no text may begin with it."""
        return np.array([False] * FIRST + [_is_mark(token[0]) for token in self.format.vocabulary])

    def decode(self, codes: np.ndarray) -> list[str]:
        """The texts of (N, T) codes, each up to its first end or padding. What is no text prints as U+FFFD.

        Raises:
            DataError: if a code is not in the vocabulary.
        """
        codes = np.asarray(codes)
        if codes.size and not (codes.min() >= 0 and codes.max() < self.format.num_tokens):
            raise DataError(
                f"Each code of a text must be in 0..{self.format.num_tokens - 1}, found {codes.min()} to {codes.max()}. "
                "Give codes of this vocabulary."
            )
        ended = (codes == END) | (codes == PAD)
        ended = np.pad(ended, ((0, 0), (0, 1)), constant_values=True)
        lengths = ended.argmax(axis=1)
        return [self._text(row[:length]) for row, length in zip(codes, lengths, strict=True)]


class _Bytes(Tokenizer):
    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        encoded = [text.encode() for text in map(as_unicode, texts)]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return np.frombuffer(b"".join(encoded), np.uint8).astype(np.int32) + FIRST, lengths

    def _text(self, codes: np.ndarray) -> str:
        if (codes < FIRST).any():
            return "".join(UNKNOWN_PRINTED if code == UNKNOWN else chr(code - FIRST) for code in codes.tolist())
        return (codes - FIRST).astype(np.uint8).tobytes().decode("utf-8", "replace")

    def _printed(self) -> list[str]:
        return [_print_bytes(bytes([byte])) for byte in range(NUM_BYTES)]

    @property
    def continues(self) -> np.ndarray:
        return np.array([False] * FIRST + [0x80 <= byte < 0xC0 for byte in range(NUM_BYTES)])


class _Characters(Tokenizer):
    def __init__(self, format: TextFormat) -> None:
        super().__init__(format)
        self._codes = np.full(sys.maxunicode + 1, UNKNOWN, np.int32)
        points = np.array([ord(token) for token in format.vocabulary], np.int64)
        self._codes[points] = np.arange(FIRST, format.num_tokens)
        self._characters = np.array(["\0", "\0", UNKNOWN_PRINTED, *format.vocabulary], dtype=object)

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        texts = [as_unicode(text) for text in texts]
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        return self._codes[np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)], lengths

    def _text(self, codes: np.ndarray) -> str:
        return "".join(self._characters[codes.astype(np.int64)].tolist())

    def _printed(self) -> list[str]:
        return list(self.format.vocabulary)


class _Words(Tokenizer):
    def __init__(self, format: TextFormat) -> None:
        super().__init__(format)
        self._codes = {token: code for code, token in enumerate(format.vocabulary, FIRST)}
        self._pieces = ["", "", " " + UNKNOWN_PRINTED, *format.vocabulary]

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        found: list[int] = []
        lengths = np.empty(len(texts), np.int64)
        for index, text in enumerate(texts):
            before = len(found)
            if text:
                found.extend(self._codes.get(piece, UNKNOWN) for piece in divide_words(as_unicode(text)))
            lengths[index] = len(found) - before
        return np.array(found, np.int32), lengths

    def _text(self, codes: np.ndarray) -> str:
        return "".join(map(self._pieces.__getitem__, codes.tolist())).removeprefix(" ")

    def _printed(self) -> list[str]:
        return list(self.format.vocabulary)


class _Pairs(Tokenizer):
    def __init__(self, format: TextFormat) -> None:
        values = {character: byte for byte, character in enumerate(byte_alphabet())}
        self._bytes = [bytes(values[character] for character in token) for token in format.vocabulary]
        super().__init__(format)
        self._pieces = [b"", b"", UNKNOWN_PRINTED.encode(), *self._bytes]
        self._encoder: Any = None  # made when texts are first encoded, for decoding needs no package

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        if self._encoder is None:
            tokenizers = require("tokenizers", "text", "Reading texts into byte-pair tokens")
            merges = [tuple(merge.split(" ")) for merge in self.format.merges]
            vocabulary = {token: code for code, token in enumerate(self.format.vocabulary, FIRST)}
            self._encoder = bpe_encoder(tokenizers, tokenizers.models.BPE(vocab=vocabulary, merges=merges))
        lengths = np.zeros(len(texts), np.int64)
        found = []
        blocks = list(_blocks(texts))
        encoded = self._encoder.encode_batch_fast([block for _, block in blocks], add_special_tokens=False)
        for (owner, _), encoding in zip(blocks, encoded, strict=True):
            ids = np.array(encoding.ids, np.int32)
            lengths[owner] += len(ids)
            found.append(ids)
        return np.concatenate(found) if found else np.zeros(0, np.int32), lengths

    def _text(self, codes: np.ndarray) -> str:
        return b"".join(map(self._pieces.__getitem__, codes.tolist())).decode("utf-8", "replace").removeprefix(" ")

    def _printed(self) -> list[str]:
        return [_print_bytes(token) for token in self._bytes]

    @property
    def continues(self) -> np.ndarray:
        return np.array([False] * FIRST + [0x80 <= token[0] < 0xC0 for token in self._bytes])


_KINDS = {"byte": _Bytes, "character": _Characters, "word": _Words, "bpe": _Pairs}


@lru_cache(maxsize=8)
def tokenizer_of(format: TextFormat) -> Tokenizer:
    """The tokenizer of a format.

    Example:
        >>> tokenizer = tokenizer_of(TextFormat(tokens="character", vocabulary=("a", "b")))
        >>> codes, lengths = tokenizer.encode(["ab", "bx"])
        >>> codes.tolist(), lengths.tolist()
        ([3, 4, 4, 2], [2, 2])
        >>> tokenizer.decode(np.array([[3, 4, END], [3, END, PAD]]))
        ['ab', 'a']
    """
    return _KINDS[format.tokens](format)


def bpe_encoder(tokenizers: Any, model: Any) -> Any:
    """A tokenizer of the package `tokenizers`, that loses nothing: words with the space before them, spelled in bytes."""
    encoder = tokenizers.Tokenizer(model)
    encoder.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return encoder


def divide_words(text: str) -> list[str]:
    """The words and signs of a text, of which each has the space before it; joined, they are the text behind one space.

    Of scripts that do not divide words by spaces, such as Han, kana and Thai, each character is a piece.

    Example:
        >>> divide_words("It's late, 5 past.")
        [" It's", ' late', ',', ' 5', ' past', '.']
        >>> divide_words("你好 ab")
        [' 你', '好', ' ab']
    """
    return _word_pattern().findall(" " + text)


def as_unicode(text: str) -> str:
    """The text, with pairs of surrogates joined and lone ones, which no encoding has, as U+FFFD.

    Example:
        >>> as_unicode("a\\ud800"), as_unicode("\\ud83d\\ude00") == "\\N{GRINNING FACE}"
        ('a�', True)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


@cache
def _word_pattern() -> re.Pattern[str]:
    marks = _mark_class()
    word = rf"[^\W{_UNSPACED}]|[{marks}]"
    return re.compile(  # repetitions are bounded, for pieces are printed in the vocabulary
        rf" ?[{_UNSPACED}][{marks}]{{0,8}}"  # a character of a script without spaces
        rf"| ?(?:{word}){{1,64}}(?:['’](?:{word}){{1,64}}){{0,8}}"  # a word
        rf"| ?[^\w\s](?:[{marks}🏻-🏿]|\u200d[^\w\s]){{0,16}}"  # a sign, or an emoji with all that belongs to it
        r"|\s{1,16}(?!\S)|\s{1,16}"
    )


@cache
def _mark_class() -> str:
    """The combining marks, as the inside of a class of characters."""
    points = [point for point in range(sys.maxunicode + 1) if _is_mark(chr(point))]
    edges = np.flatnonzero(np.diff(points) > 1)
    starts, ends = [points[0], *(points[i + 1] for i in edges)], [*(points[i] for i in edges), points[-1]]
    return "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


def _blocks(texts: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Texts behind one space, and whose they are; very long ones in parts, cut before a space where there is one."""
    for owner, plain in enumerate(texts):
        if not plain:
            continue
        text, start = " " + as_unicode(plain), 0
        while len(text) - start > _BLOCK:
            space = text.rfind(" ", start + _BLOCK // 2, start + _BLOCK)
            end = space if space > 0 else start + _BLOCK
            yield owner, text[start:end]
            start = end
        yield owner, text[start:]


def _print_bytes(token: bytes) -> str:
    return token.decode("utf-8", "backslashreplace")
