"""The bound of texts in the units that their literature has: a word, a token, a character."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vaekit.data.dataset import to_source
from vaekit.data.schema import Schema
from vaekit.data.text.units import Unit, unit_of
from vaekit.symbols import PAD, UNKNOWN


@dataclass(frozen=True)
class TextLikelihood:
    """-log p(x|c) of N texts, by its bound, divided by what they are made of. The END of a text counts as one of each unit.

    Attributes:
        nll_per_word: nats; a word is what stands between whitespace. None where the texts are of a language without spaces, or
            of single words.
        perplexity: exp(sum_i nll_i / sum_i (words_i + 1)), what the literature calls the perplexity; None as before.
        perplexity_error: its standard error over the texts, as of a ratio of two means; None as before, and for a single text.
        character_perplexity: the same with characters.
        nll_per_token: nats; tokens of different vocabularies do not compare.
        bits_per_character: sum_i nll_i / sum_i (characters_i + 1) / ln 2, which compares over all tokens that lose nothing.
        num_words: of all texts, without their ends; None as before.
        num_tokens: likewise.
        num_characters: likewise, code points of Unicode.
        unknown_share: of the tokens, those that the vocabulary lacks. What an unknown token stands for is not paid for, so
            figures of different vocabularies compare only where this is 0 in both.
    """

    nll_per_word: float | None
    perplexity: float | None
    perplexity_error: float | None
    character_perplexity: float
    nll_per_token: float
    bits_per_character: float
    num_words: int | None
    num_tokens: int
    num_characters: int
    unknown_share: float


class TextCounts:
    """What texts are made of, counted a batch at a time.

    Args:
        schema: of the texts.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.words: list[np.ndarray] = []
        self.characters = self.tokens = self.unknown = 0
        self.sample: list[str] = []

    def add(self, codes: np.ndarray) -> None:
        """Takes texts in, codes (B, T)."""
        texts = to_source(codes, self.schema).tolist()
        self.words.append(np.array([len(text.split()) for text in texts]))
        self.characters += sum(map(len, texts))
        self.tokens += int((codes != PAD).sum()) - len(texts)
        self.unknown += int((codes == UNKNOWN).sum())
        self.sample += texts[: max(0, 1000 - len(self.sample))]

    def result(self, nll: np.ndarray) -> TextLikelihood:
        """The figures, of nll (N,) in nats."""
        words, num, total = np.concatenate(self.words), len(nll), float(nll.sum())
        unit: Unit = unit_of(self.sample)
        a_character = total / (self.characters + num)
        a_word = total / float(words.sum() + num) if unit == "word" else None
        perplexity = None if a_word is None else _exp(a_word)
        error = None
        if a_word is not None and perplexity is not None and num > 1:
            rest = nll - a_word * (words + 1)
            error = perplexity * float(rest.std(ddof=1)) / (math.sqrt(num) * float((words + 1).mean()))
        return TextLikelihood(
            nll_per_word=a_word,
            perplexity=perplexity,
            perplexity_error=error,
            character_perplexity=_exp(a_character),
            nll_per_token=total / (self.tokens + num),
            bits_per_character=a_character / math.log(2),
            num_words=int(words.sum()) if unit == "word" else None,
            num_tokens=self.tokens,
            num_characters=self.characters,
            unknown_share=self.unknown / max(1, self.tokens),
        )


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
