"""Asymmetric numeral systems with many interleaved lanes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vaekit.errors import ArchiveError, ConfigError

Ints = NDArray[np.int64]
Find = Callable[[Ints, slice], tuple[Ints, Ints, Ints]]
"""(slots, which of the symbols) to (symbols, starts, masses)."""

_LEAST = np.uint64(1 << 32)
_WORD = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


class LaneCoder:
    """A stack of symbols: last in, first out. Each lane has a head in [2^32, 2^64); all lanes share one stack of
    32-bit words.

    push of a symbol with start c and mass f of 2^p:  head = (head // f) 2^p + head % f + c, after the low word has gone to the
    stack where the head would outgrow 64 bits. pop is its inverse, so the lanes that read a word are those that wrote one, and
    the block of words that a row wrote is the block that it reads. Duda, "Asymmetric numeral systems" (2013), and Giesen,
    "Interleaved entropy coders" (2014).

    A pop from an empty stack borrows words of a fixed stream: the initial bits of bits-back. They become part of the message
    and are counted in `borrowed`.

    Args:
        num_lanes: symbols that are coded at once; a message holds a head of 8 bytes for each.

    Raises:
        ConfigError: for less than one lane.

    Example:
        >>> coder = LaneCoder(2)
        >>> coder.push(np.array([0, 3, 3]), np.array([3, 1, 1]), precision=2)
        >>> coder.pop(lambda slot, _: (slot // 3, slot // 3 * 3, 3 - slot // 3 * 2), 3, precision=2)
        array([0, 1, 1])
    """

    def __init__(self, num_lanes: int = 64) -> None:
        if num_lanes < 1:
            raise ConfigError(f"`num_lanes` must be at least 1, got {num_lanes}. Use 64 for small messages.")
        self.heads = np.full(num_lanes, _LEAST, dtype=np.uint64)
        self.words = np.zeros(1024, dtype=np.uint32)
        self.num_words = 0
        self.borrowed = 0
        self._stream: np.random.PCG64 | None = np.random.PCG64(0)

    def push(self, start: Ints, mass: Ints, precision: int) -> None:
        """Puts symbols (N,) on the stack.

        Raises:
            ConfigError: for a precision outside 1..32, or an interval that is empty or reaches out of 0..2^precision.
        """
        _check_precision(precision)
        if start.size and (mass.min() < 1 or start.min() < 0 or int((start + mass).max()) > 1 << precision):
            raise ConfigError(
                f"Every symbol must have a mass of at least 1 within 0..2^{precision}, and one has not. Check its table."
            )
        width = len(self.heads)
        for i in range(0, len(start), width):
            f, c = mass[i : i + width].astype(np.uint64), start[i : i + width].astype(np.uint64)
            heads = self.heads[: len(f)]
            full = (heads >> np.uint64(64 - precision)) >= f
            self._write((heads[full] & _LOW).astype(np.uint32))
            heads[full] >>= _WORD
            quotient = heads // f
            heads[:] = (quotient << np.uint64(precision)) + (heads - quotient * f) + c

    def pop(self, find: Find, count: int, precision: int) -> Ints:
        """Takes `count` symbols off the stack, in the order in which they were put there.

        Raises:
            ConfigError: for a precision outside 1..32.
            ArchiveError: if a message that was read has no more words.
        """
        _check_precision(precision)
        width, symbols = len(self.heads), np.zeros(count, dtype=np.int64)
        for i in reversed(range(0, count, width)):
            part = slice(i, min(i + width, count))
            heads = self.heads[: part.stop - i]
            slot = heads & np.uint64((1 << precision) - 1)
            symbols[part], start, mass = find(slot.astype(np.int64), part)
            heads[:] = mass.astype(np.uint64) * (heads >> np.uint64(precision)) + slot - start.astype(np.uint64)
            low = heads < _LEAST
            heads[low] = (heads[low] << _WORD) | self._read(int(low.sum()))
        return symbols

    @property
    def num_bytes(self) -> int:
        """Length of the message."""
        return 8 * len(self.heads) + 4 * self.num_words

    def to_bytes(self) -> bytes:
        """The heads, then the words, little-endian."""
        return self.heads.astype("<u8").tobytes() + self.words[: self.num_words].astype("<u4").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, num_lanes: int) -> LaneCoder:
        """A coder that reads a message; it borrows nothing.

        Raises:
            ArchiveError: for a message that is no whole number of words, or has an impossible head.
        """
        coder = cls(num_lanes)
        if len(data) < 8 * num_lanes or len(data) % 4:
            raise ArchiveError(
                f"A message of {num_lanes} lanes must be {8 * num_lanes} bytes and whole words, got {len(data)} bytes. "
                "It is cut off: fetch it again."
            )
        coder.heads = np.frombuffer(data, "<u8", num_lanes).astype(np.uint64)
        if (coder.heads < _LEAST).any():
            raise ArchiveError("Every head of a message must be at least 2^32, and one is not. It is damaged: fetch it again.")
        coder.words = np.frombuffer(data, "<u4", offset=8 * num_lanes).astype(np.uint32)
        coder.num_words, coder._stream = len(coder.words), None
        return coder

    def _write(self, words: NDArray[np.uint32]) -> None:
        end = self.num_words + len(words)
        if end > len(self.words):
            self.words = np.concatenate([self.words[: self.num_words], np.zeros(max(end, 1024), dtype=np.uint32)])
        self.words[self.num_words : end] = words
        self.num_words = end

    def _read(self, count: int) -> NDArray[np.uint64]:
        missing = count - self.num_words
        if missing > 0:
            if self._stream is None:
                raise ArchiveError(
                    "A message must hold a word for each pop, and it ended early. It is damaged: fetch it again."
                )
            lent = (self._stream.random_raw(missing) >> 32).astype(np.uint32)
            self.words = np.concatenate([lent, self.words[: self.num_words]])
            self.num_words, self.borrowed = count, self.borrowed + missing
        self.num_words -= count
        return self.words[self.num_words : self.num_words + count].astype(np.uint64)


def _check_precision(precision: int) -> None:
    if not 1 <= precision <= 32:
        raise ConfigError(f"`precision` must be from 1 to 32 bits, got {precision}. Use 24 when in doubt.")
