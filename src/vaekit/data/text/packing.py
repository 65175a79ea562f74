"""Codes of texts as an array: how wide it is, and what becomes of the texts that do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from vaekit.data.text.tokens import Tokenizer
from vaekit.errors import ConfigError, DataError
from vaekit.symbols import END

MOST_TOKENS = 256
_ALWAYS = 64
_SHARE = 99.5
_ROWS = 10_000
_ENDS = tuple(".!?…。！？｡۔।\n")
_ENDS_ALONE = tuple("。！？｡\n")
_CLOSING = " \"'»”’)]）」』"


@dataclass
class Ragged:
    """The codes of texts, one text behind the other.

    Attributes:
        dtype: that codes are kept in.
        keep: how many codes of a text are kept at most; None for all.
        chunks: of codes, and of how many of them each text has.
        lengths: of each text, were it kept whole.
    """

    dtype: str
    keep: int | None = None
    chunks: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    lengths: list[np.ndarray] = field(default_factory=list)

    def add(self, codes: np.ndarray, lengths: np.ndarray) -> None:
        """More texts, as `Tokenizer.encode` gives them."""
        self.lengths.append(lengths)
        if self.keep is not None and len(lengths) and lengths.max() > self.keep:
            codes = codes[_places(lengths) < self.keep]
            lengths = np.minimum(lengths, self.keep)
        for start in range(0, len(lengths), _ROWS):
            rows = lengths[start : start + _ROWS]
            begin = int(lengths[:start].sum())
            self.chunks.append((codes[begin : begin + int(rows.sum())].astype(self.dtype), rows))


def choose_limit(lengths: np.ndarray, max_tokens: int | None = None) -> int:
    """How many tokens of a text fit: all of the longest where that is short, or where only very few texts are longer.

    Args:
        lengths: (N,) tokens of each text.
        max_tokens: what a person says.

    Raises:
        ConfigError: if that cannot be.

    Example:
        >>> choose_limit(np.array([3, 9])), choose_limit(np.array([3, 900])), choose_limit(np.array([3, 900]), 100)
        (9, 256, 100)
    """
    if max_tokens is not None and max_tokens < 1:
        raise ConfigError(f"`max_tokens` must be at least 1, got {max_tokens}. Leave it out to go by the data.")
    longest = max(int(lengths.max(initial=0)), 1)
    if max_tokens is not None:
        return min(longest, max_tokens)
    most = int(np.percentile(lengths, _SHARE, method="inverted_cdf")) if len(lengths) else 1
    return min(longest, max(_ALWAYS, most), MOST_TOKENS)


def parts_of(
    chunk: tuple[np.ndarray, np.ndarray], limit: int, long: Literal["cut", "split"], breaks: Breaks
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which stretches of the codes of a chunk become rows.

    Args:
        chunk: codes, and how many of them each text has.
        limit: the most codes of a row.
        long: whether a text of more is cut, or split into several rows.
        breaks: where that may be.

    Returns:
        owners, starts, lengths: of each row the index of its text, the place of its first code, and how many it has.
    """
    codes, lengths = chunk
    starts = np.cumsum(lengths) - lengths
    too_long = np.flatnonzero(lengths > limit)
    owners = np.arange(len(lengths))
    if not len(too_long):
        return owners, starts, lengths
    found = {
        int(index): breaks.divide(codes[starts[index] : starts[index] + lengths[index]], limit, first_only=long == "cut")
        for index in too_long
    }
    counts = np.ones(len(lengths), np.int64)
    counts[list(found)] = [len(parts) for parts in found.values()]
    out_starts, out_lengths = np.repeat(starts, counts), np.repeat(lengths, counts)
    rows = np.cumsum(counts) - counts
    for index, parts in found.items():
        row = rows[index] + np.arange(len(parts))
        begin, end = np.array(parts).T
        out_starts[row], out_lengths[row] = starts[index] + begin, end - begin
    return np.repeat(owners, counts), out_starts, out_lengths


def fill(out: np.ndarray, codes: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
    """Writes rows of codes, an END behind each, into (n, T) zeros."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    places = _places(lengths)
    out[rows, places] = codes[np.repeat(starts, lengths) + places]
    out[np.arange(len(lengths)), lengths] = END


def encode_texts(texts: Sequence[str], tokenizer: Tokenizer, width: int, dtype: str) -> np.ndarray:
    """(N, width) codes of texts in memory, each cut to what fits.

    Raises:
        DataError: if one is no string.

    Example:
        >>> from vaekit.data.text.format import TextFormat
        >>> from vaekit.data.text.tokens import tokenizer_of
        >>> encode_texts(["ab", "abc"], tokenizer_of(TextFormat(tokens="byte")), 4, "uint16").tolist()
        [[100, 101, 1, 0], [100, 101, 102, 1]]
    """
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise DataError("Texts must be strings, in an array (N,) of them. Convert them, or give codes (N, T).")
    out = np.zeros((len(texts), width), dtype)
    breaks = Breaks(tokenizer)
    for start in range(0, len(texts), _ROWS):
        chunk = tokenizer.encode(texts[start : start + _ROWS])
        _, starts, lengths = parts_of(chunk, width - 1, "cut", breaks)
        fill(out[start : start + len(starts)], chunk[0], starts, lengths)
    return out


class Breaks:
    """Where a text may be cut: behind a sentence, or a word, and never within a character.

    Args:
        tokenizer: of the codes.

    Example:
        >>> from vaekit.data.text.format import TextFormat
        >>> from vaekit.data.text.tokens import tokenizer_of
        >>> tokenizer = tokenizer_of(TextFormat(tokens="byte"))
        >>> codes, _ = tokenizer.encode(["One two. Three four five."])
        >>> Breaks(tokenizer).divide(codes, 12)
        [(0, 8), (9, 19), (20, 25)]
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        printed = tokenizer.printed
        closed = [token.rstrip(_CLOSING) or token for token in printed]
        self._continues = tokenizer.continues
        self._starts_space = np.array([token[0].isspace() for token in printed])
        self._is_space = np.array([token.isspace() for token in printed])
        self._ends_sentence = np.array([token.endswith(_ENDS) for token in closed])
        self._is_closing = np.array([token in _CLOSING and not token.isspace() for token in printed])
        self._ends_alone = np.array([token.endswith(_ENDS_ALONE) for token in closed])

    def divide(self, codes: np.ndarray, limit: int, first_only: bool = False) -> list[tuple[int, int]]:
        """Stretches (start, end) of at most `limit` of the (n,) codes of a text; space between them is left out.

        Args:
            codes: of one text.
            limit: at least 1.
            first_only: give the beginning alone, as long as it may be.
        """
        if first_only:
            return [(0, self._whole(codes, 0, min(limit, len(codes))))]
        before, behind = codes[:-1], codes[1:]
        spaced = self._starts_space[behind]
        ends = self._ends_sentence[before]
        ends[1:] |= self._is_closing[before[1:]] & ends[:-1]
        sentence = ends & self._starts_space[behind] | self._ends_alone[before]
        inside = self._continues[behind]
        ranks = np.where(inside, 0, np.where(sentence, 2, spaced))  # of a break behind each code
        parts, start, total = [], 0, len(codes)
        while total - start > limit:
            end = behind_it = self._best(ranks, codes, start, limit)
            while end > start + 1 and self._is_space[codes[end - 1]]:
                end -= 1
            parts.append((start, end))
            start = behind_it
            while start < total and self._is_space[codes[start]]:
                start += 1
        return [*parts, (start, total)] if start < total else parts

    def _best(self, ranks: np.ndarray, codes: np.ndarray, start: int, limit: int) -> int:
        """The last break of the best rank in the second half of what fits, or else the last break in the first half."""
        window, half = ranks[start : start + limit], limit // 2
        for places in (half + np.flatnonzero(window[half:] == 2), half + np.flatnonzero(window[half:]), window.nonzero()[0]):
            if len(places):
                return start + int(places[-1]) + 1
        return self._whole(codes, start, start + limit)

    def _whole(self, codes: np.ndarray, start: int, end: int) -> int:
        """The last place up to `end` that is not within a character; `end` itself where there is none."""
        place = end
        while start + 1 < place < len(codes) and self._continues[codes[place]]:
            place -= 1
        return end if place <= start + 1 < end and self._continues[codes[place]] else place


def _places(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ..., n - 1 for each length n."""
    return np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def long_note(lengths: Sequence[np.ndarray], limit: int, long: Literal["cut", "split"], rows: int) -> tuple[str, ...]:
    """What a person should know of texts that did not fit."""
    total = sum(map(len, lengths))
    num = int(sum((part > limit).sum() for part in lengths))
    if not num:
        return ()
    share = f"{num:,} of {total:,} texts ({num / total:.1%}) have more than {limit} tokens"
    if long == "split":
        return (f"{share} and are split into several: there are {rows:,} in all.",)
    return (
        f"{share} and are cut: `max_tokens` (`--max-tokens`) keeps more of them, `long='split'` (`--long split`) makes each "
        "several texts.",
    )
