r"""Identifiers: values that name a row and say nothing else. They are not learned; fresh ones are printed instead.

The pattern of a column is one of

    123+             whole numbers counted up from 123, which is above every one that was seen
    ID-{00123+}      the same within a text, with at least as many digits
    <name>-{1+}      free text: the column's name and a number, above those of texts of this form
    [\u\ufe-\d]      random: \d a digit, \h a hexadecimal digit, \l and \u a letter; its fixed first letters lie
                     above all that were seen, or it is longer by a letter, so that no value is one of the data
"""

from __future__ import annotations

import re

import numpy as np
import polars as pl

from vaekit.errors import DataError

_CLASSES = {"d": "0123456789", "h": "0123456789abcdef", "H": "0123456789ABCDEF"}
_CLASSES |= {"l": "abcdefghijklmnopqrstuvwxyz", "u": "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_CLASSES |= {"m": "0123456789abcdefghijklmnopqrstuvwxyz", "M": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_ROOM = 1_000_000
_SAMPLE = 2000


class TextPattern:
    """What the texts of a column have in common, gathered in one pass."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lengths: tuple[int, int] | None = None
        self.high = ""
        self.sample: list[str] = []
        self.prefix: str | None = None
        self.counted = 0
        self.numbered: tuple[int, int] | None = (0, 99)
        self.number = -1

    def add(self, texts: pl.Series) -> None:
        """Distinct texts of a batch."""
        sizes = texts.str.len_chars()
        low, high = int(sizes.min()), int(sizes.max())  # type: ignore[arg-type]
        self.lengths = (low, high) if self.lengths is None else (min(self.lengths[0], low), max(self.lengths[1], high))
        self.high = max(self.high, str(texts.max()))
        if len(self.sample) < _SAMPLE:
            room = _SAMPLE - len(self.sample)
            self.sample += texts.sort().gather_every(-(-len(texts) // room)).to_list()
        own = texts.str.extract(rf"^{re.escape(self.name)}-([0-9]{{1,18}})$", 1).cast(pl.Int64, strict=False).max()
        self.counted = max(self.counted, int(own or 0))  # type: ignore[arg-type]
        self._add_numbered(texts)

    def _add_numbered(self, texts: pl.Series) -> None:
        """Texts of one beginning and a number."""
        if self.numbered is None:
            return
        if self.prefix is None:
            found = re.match(r"^(.*?)[0-9]+$", texts[0], re.DOTALL)
            if found is None:
                self.numbered = None
                return
            self.prefix = found[1]
        digits = texts.str.strip_prefix(self.prefix) if self.prefix else texts
        fits = texts.str.starts_with(self.prefix or "") & digits.str.contains(r"^[0-9]{1,18}$")
        if not bool(fits.all()):
            self.numbered = None
            return
        self.number = max(self.number, int(digits.cast(pl.Int64).max()))  # type: ignore[arg-type]
        width, least = self.numbered
        sizes = digits.str.len_bytes()
        self.numbered = (max(width, int(sizes.max())), min(least, int(sizes.min())))  # type: ignore[arg-type]

    def pattern(self) -> str:
        """The pattern of fresh values."""
        if self.numbered is not None and self.prefix is not None:
            width, least = self.numbered
            return f"{self.prefix}{{{str(self.number + 1).zfill(width if width == least else 1)}+}}"
        if self.lengths is not None and self.lengths[0] == self.lengths[1]:
            template = _template(self.sample, self.high)
            if template is not None:
                return template
        return f"{self.name}-{{{self.counted + 1}+}}"


def _template(sample: list[str], high: str) -> str | None:
    """A random pattern whose first letters lie above those of `high`; None where the texts have no common shape."""
    kinds: list[str | None] = []
    for letters in map(set, zip(*sample, strict=True)):
        if len(letters) == 1:
            kinds.append(None)
            continue
        kind = next((kind for kind, known in _CLASSES.items() if letters <= set(known)), None)
        if kind is None:
            return None
        kinds.append(kind)
    if not all(
        letter in _CLASSES[kind] if kind else letter == sample[0][place]
        for place, (kind, letter) in enumerate(zip(kinds, high, strict=True))
    ):
        return None
    free = [place for place, kind in enumerate(kinds) if kind]
    tokens = [f"\\{kind}" if kind else _quoted(sample[0][place]) for place, kind in enumerate(kinds)]
    for depth, place in enumerate(free):
        known = _CLASSES[str(kinds[place])]
        rank = known.index(high[place])
        room = np.prod([float(len(_CLASSES[str(kinds[later])])) for later in free[depth + 1 :]])
        if rank + 1 < len(known) and room >= _ROOM:
            fixed = high[:place] + known[rank + 1]
            return f"[{''.join(map(_quoted, fixed))}{''.join(tokens[place + 1 :])}]"
    return f"[{''.join(tokens)}\\{kinds[free[-1]]}]" if free else None  # longer by a letter than all that were seen


def _quoted(letter: str) -> str:
    return "\\\\" if letter == "\\" else letter


def fresh(pattern: str, count: int, seed: int, dtype: pl.DataType | None = None) -> pl.Series:
    """Identifiers of a pattern that the data do not have, each once.

    Args:
        pattern: as `TextPattern.pattern` gives it.
        count: how many.
        seed: of the random ones.
        dtype: an integer dtype that they must fit.

    Raises:
        DataError: if the dtype has no room for them.

    Example:
        >>> fresh("ID-{0099+}", 2, seed=0).to_list()
        ['ID-0099', 'ID-0100']
    """
    whole = re.fullmatch(r"(-?[0-9]+)\+", pattern)
    if whole is not None:
        return _counted(int(whole[1]), count, dtype)
    numbered = re.fullmatch(r"(?P<before>.*)\{(?P<first>[0-9]+)\+\}", pattern, re.DOTALL)
    if numbered is not None:
        digits = _counted(int(numbered["first"]), count, None).cast(pl.String).str.zfill(len(numbered["first"]))
        return pl.select(pl.lit(numbered["before"]) + digits).to_series()
    return _random(pattern[1:-1], count, seed)


def _counted(first: int, count: int, dtype: pl.DataType | None) -> pl.Series:
    if dtype is not None and dtype.is_integer():
        top = int(pl.Series([0], dtype=dtype).upper_bound()[0])
        if first + count - 1 > top:
            raise DataError(
                f"Identifiers must fit {dtype}, whose greatest is {top}, but {count} are needed from {first} on. "
                "Use a wider dtype."
            )
    if first + count < 2**63:
        return pl.Series(np.arange(first, first + count, dtype=np.int64))
    return pl.Series([str(first + index) for index in range(count)], dtype=pl.String)


def _random(pattern: str, count: int, seed: int) -> pl.Series:
    tokens = re.findall(r"\\.|[^\\]", pattern, re.DOTALL)
    sizes = [len(_CLASSES[token[1]]) for token in tokens if len(token) == 2 and token != "\\\\"]
    last = next(token for token in reversed(tokens) if len(token) == 2 and token != "\\\\")
    while np.prod([float(size) for size in sizes]) < 4 * count:  # a longer text is as fresh
        tokens.append(last)
        sizes.append(len(_CLASSES[last[1]]))
    generator = np.random.default_rng(seed)
    found = pl.Series([], dtype=pl.String)
    while len(found) < count:
        need = count - len(found)
        parts = []
        for token in tokens:
            known = _CLASSES.get(token[1]) if len(token) == 2 and token != "\\\\" else None
            letters = np.array(list(known or token[-1]))
            parts.append(pl.Series(str(len(parts)), letters[generator.integers(len(letters), size=need)].tolist(), pl.String))
        drawn = pl.DataFrame(parts).select(pl.concat_str(pl.all())).to_series()
        found = pl.concat([found, drawn.alias(found.name)]).unique(maintain_order=True)
    return found.head(count)
