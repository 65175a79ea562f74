"""The tokens of a text, as JSON: what a code stands for, saved with the schema."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from vaekit.symbols import FIRST

Tokens = Literal["byte", "character", "word", "bpe"]
"""What a token is."""

TOKENS: tuple[Tokens, ...] = ("byte", "character", "word", "bpe")
LONG = ("cut", "split")
NUM_BYTES = 256


def byte_alphabet() -> str:
    """A printable character for each of the 256 bytes, in the order of the bytes, as GPT-2 spells them.

    Example:
        >>> byte_alphabet()[ord("a")], byte_alphabet()[ord(" ")], len(set(byte_alphabet()))
        ('a', 'Ġ', 256)
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(NUM_BYTES, 2 * NUM_BYTES))
    return "".join(chr(byte if byte in plain else next(others)) for byte in range(NUM_BYTES))


_ALPHABET = frozenset(byte_alphabet())


class TextFormat(BaseModel):
    """What the codes of a text stand for.

    The codes 0, 1 and 2 are padding, the end of an item, and an unknown token (see `vaekit.symbols`); those of the tokens
    follow in the order of the vocabulary. Byte and bpe tokens can spell every text; the others have an unknown token.

    Attributes:
        tokens: `byte` of UTF-8; `character` (a Unicode code point); `word`, with the space before it; or `bpe`: pairs of bytes
            merged by their frequency.
        vocabulary: each token as it prints, the token of the code 3 first; of bpe, its bytes in the spelling of
            `byte_alphabet`. Empty for bytes.
        merges: of bpe: `LEFT RIGHT`, the first to be merged first.
        long: what is done with a text of more tokens than fit: it is `cut`, or `split` into several.

    Example:
        >>> TextFormat(tokens="character", vocabulary=("a", "b")).num_tokens
        5
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: Tokens
    vocabulary: tuple[str, ...] = ()
    merges: tuple[str, ...] = ()
    long: Literal["cut", "split"] = "cut"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        known = set(self.vocabulary)
        if (self.tokens == "byte") == bool(known):
            raise ValueError(f"`vocabulary` must be given for all tokens but bytes, got {len(known)} for {self.tokens}")
        if len(known) != len(self.vocabulary) or "" in known:
            raise ValueError("`vocabulary` must hold no token twice, and no empty one")
        if self.tokens == "character" and any(len(token) != 1 for token in known):
            raise ValueError("`vocabulary` must hold single characters")
        if self.merges and self.tokens != "bpe":
            raise ValueError(f"`merges` must be given for bpe alone, got some for {self.tokens}")
        if self.tokens == "bpe":
            if not known >= _ALPHABET or not all(_ALPHABET.issuperset(token) for token in known):
                raise ValueError("`vocabulary` of bpe must hold all 256 bytes, and be spelled in them")
            for merge in self.merges:
                left, _, right = merge.partition(" ")
                if not {left, right, left + right} <= known:
                    raise ValueError(f"`merges` must join tokens of the vocabulary to one of them, got {merge!r}")
        return self

    def __hash__(self) -> int:
        return hash((self.tokens, self.vocabulary, self.merges, self.long))

    @property
    def num_tokens(self) -> int:
        """V: how many codes there are, those that stand for no text among them."""
        return FIRST + (NUM_BYTES if self.tokens == "byte" else len(self.vocabulary))
