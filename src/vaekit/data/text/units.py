"""What a text is counted in: words between spaces, or characters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from vaekit.data.dataset import spaced
from vaekit.errors import ConfigError

Unit = Literal["word", "character"]

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
"""Thai, Lao, Tibetan, Burmese, Khmer, kana and Chinese characters, which are written without spaces between words."""

_LOOKED_AT = 1000


def unit_of(texts: Sequence[str]) -> Unit:
    """What texts are best counted in: words, or characters where a language has no spaces or an item is a single word.

    At most a thousand texts are looked at, evenly spaced. Characters are chosen where more than half of those that are no space
    are of scripts written without spaces, or an item has fewer than two words on average, as names have.

    Example:
        >>> unit_of(["the food was good ."]), unit_of(["今天天气很好。"]), unit_of(["anna", "ben"])
        ('word', 'character', 'character')
    """
    sample = [texts[i] for i in map(int, spaced(len(texts), _LOOKED_AT))]
    words = [text.split() for text in sample]
    if sum(map(len, words)) < 2 * len(sample):
        return "character"
    letters = sum(len(word) for text in words for word in text)
    return "character" if 2 * sum(len(_UNSPACED.findall(text)) for text in sample) > letters else "word"


def divided(texts: Sequence[str], unit: Unit) -> list[list[str]]:
    """The units of each text: its words, as whitespace divides them, or all of its characters (code points).

    Raises:
        ConfigError: for a unit that is neither.

    Example:
        >>> divided(["no way"], "word"), divided(["no way"], "character")
        ([['no', 'way']], [['n', 'o', ' ', 'w', 'a', 'y']])
    """
    if unit not in ("word", "character"):
        raise ConfigError(f"`unit` must be `word` or `character`, got {unit!r}. Use `unit_of(texts)` when in doubt.")
    return [text.split() if unit == "word" else list(text) for text in texts]


def ngrams(units: Sequence[str], order: int) -> list[tuple[str, ...]]:
    """All runs of `order` units, in their order.

    Example:
        >>> ngrams(["a", "b", "c"], 2)
        [('a', 'b'), ('b', 'c')]
    """
    return list(zip(*(units[start:] for start in range(order)), strict=False))
