r"""Numbers as text: how a column spells them, reading them, and printing them in the same spelling.

A spelling is a pattern such as spreadsheets have:

    0          whole numbers                        12
    0.00       always two decimals                  12.50
    0.##       at most two decimals, no trailing 0  12.5, 12
    0.0##      at least one decimal                 12.0, 12.125
    0.*        as many digits as a float64 needs    12, 0.1234567890123
    0.0*       the same with a decimal at least     12.0, 1e-07
    #,##0.00   thousands with a comma               1,234.50
    #.##0,00   decimal comma                        1.234,50
    $#,##0     text before and after                $1,200
    0.0%       the number is 12.5, not 0.125        12.5%
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

PLAIN = r"^[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
"""What is a plain number: no leading zero, a point, an exponent if need be."""

LEADING_ZERO = r"^[+-]?0[0-9]+$"
MAX_DECIMALS = 15
_GRID_LIMIT = 2.0**50
_CURRENCY = r"(?:US\$|R\$|A\$|C\$|[$€£¥₹₽₩₺]|USD|EUR|GBP|CHF|JPY|kr)"
_GROUPS = (",", ".", " ", "'", "’", "\u00a0", "\u202f")
_SHAPE = re.compile(
    rf"^(?P<minus>-?)(?P<prefix>{_CURRENCY}[ \u00a0]?)?(?P<body>[0-9][0-9.,'’ \u00a0\u202f]*?)"
    rf"(?P<suffix>[ \u00a0]?(?:{_CURRENCY}|[%‰]))?$"
)


@dataclass(frozen=True)
class NumberFormat:
    """A spelling of numbers.

    Attributes:
        prefix, suffix: the text around each number.
        group: what stands between thousands; empty for nothing.
        point: what stands before the decimals.
        least: the decimals that are always printed.
        most: the decimals that are printed at most; None for as many as a float64 needs.
    """

    prefix: str = ""
    suffix: str = ""
    group: str = ""
    point: str = "."
    least: int = 0
    most: int | None = 0

    @property
    def pattern(self) -> str:
        """The spelling as text."""
        whole = f"#{self.group}##0" if self.group else "0"
        if self.most is None:
            decimals = self.point + ("0" * self.least) + "*"
        else:
            decimals = self.point + "0" * self.least + "#" * (self.most - self.least) if self.most else ""
        return f"{self.prefix}{whole}{decimals}{self.suffix}"

    @property
    def is_plain(self) -> bool:
        """Whether it is a spelling that Python reads."""
        return not (self.prefix or self.suffix or self.group) and self.point == "."


@functools.lru_cache(maxsize=4096)
def parse_format(pattern: str) -> NumberFormat:
    """The spelling that a pattern describes.

    Example:
        >>> parse_format("$#,##0.00").point
        '.'
        >>> parse_format("#.##0,0# €").pattern
        '#.##0,0# €'
    """
    found = re.fullmatch(
        r"(?P<prefix>[^#0]*)(?:#(?P<group>[^#0])##0|0)(?:(?P<point>[.,])(?P<decimals>0*#*\*?))?(?P<suffix>.*)", pattern
    )
    if found is None:
        raise ValueError(f"{pattern!r} is no spelling of numbers")
    decimals = found["decimals"] or ""
    endless = decimals.endswith("*")
    return NumberFormat(
        prefix=found["prefix"],
        suffix=found["suffix"],
        group=found["group"] or "",
        point=found["point"] or ("," if found["group"] == "." else "."),
        least=decimals.count("0"),
        most=None if endless else len(decimals),
    )


def read_numbers(texts: pl.Series, form: NumberFormat) -> np.ndarray:
    """The numbers (N,) float64 of texts; NaN where a text is none in this spelling, or is not finite."""
    if form.is_plain:
        values = _floats(texts.set(~texts.str.contains(PLAIN).fill_null(False), None))
        if values.size and np.isnan(values).any():  # spaces around a number
            trimmed = texts.str.strip_chars()
            values = _floats(trimmed.set(~trimmed.str.contains(PLAIN).fill_null(False), None))
        return values
    bare = texts.set(~texts.str.contains(_regex(form)).fill_null(False), None)
    for part in (form.prefix, form.suffix, form.group):
        if part:
            bare = bare.str.replace_all(part, "", literal=True)
    if form.point != ".":
        bare = bare.str.replace(form.point, ".", literal=True)
    return _floats(bare)


def print_numbers(values: np.ndarray, form: NumberFormat) -> pl.Series:
    """Finite numbers (N,) in a spelling; null where NaN."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    if form.most is None:
        digits = _shortest(filled, form.least)
    else:
        digits = _fixed(filled, form)
    if not form.is_plain:
        digits = _dressed(digits, form)
    return digits.set(pl.Series(~known), None) if not known.all() else digits


def form_candidates(texts: list[str]) -> list[NumberFormat]:
    """The spellings that a sample of texts, which are no plain numbers, may have; the most plain first."""
    shapes = [shape for text in texts if (shape := _SHAPE.match(text.strip()))]
    if not shapes:
        return []
    counts: dict[tuple[str, str], int] = {}
    for shape in shapes:
        key = (shape["prefix"] or "", shape["suffix"] or "")
        counts[key] = counts.get(key, 0) + 1
    prefix, suffix = max(counts, key=lambda key: counts[key])
    found = [("", "."), *((group, ".") for group in _GROUPS if group != "."), ("", ",")]
    found += [(group, ",") for group in _GROUPS if group != ","]
    used = "".join(shape["body"] for shape in shapes)
    return [
        NumberFormat(prefix, suffix, group, point, 0, None)
        for group, point in found
        if (not group or group in used)
        and (prefix or suffix or group or point != ".")
        and (point == "." or point in used or group == ".")
    ]


def _regex(form: NumberFormat) -> str:
    whole = "(?:0|[1-9][0-9]*)"
    if form.group:
        whole = rf"(?:0|[1-9][0-9]{{0,2}}(?:{re.escape(form.group)}[0-9]{{3}})*)"
    return rf"^-?{_escaped(form.prefix)}{whole}(?:{re.escape(form.point)}[0-9]+)?{_escaped(form.suffix)}$"


def _escaped(text: str) -> str:
    return re.escape(text).replace("\\ ", " ")


def _floats(texts: pl.Series) -> np.ndarray:
    values = texts.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
    return np.where(np.isfinite(values), values, np.nan)


def _fixed(values: np.ndarray, form: NumberFormat) -> pl.Series:
    most = form.most or 0
    scaled = np.rint(np.abs(values) * 10.0**most)
    if (
        values.size and scaled.max() >= _GRID_LIMIT
    ):  # beyond what the product holds exactly: Python rounds the decimal expansion
        texts = pl.Series([f"{value:.{most}f}" for value in values.tolist()], dtype=pl.String)
    else:
        digits = pl.Series(scaled.astype(np.int64)).cast(pl.String).str.zfill(most + 1)
        if most:
            digits = digits.str.head(-most) + "." + digits.str.tail(most)
        negative = pl.Series((values < 0) & (scaled > 0))
        texts = pl.select(pl.when(negative).then(pl.lit("-") + digits).otherwise(digits)).to_series()
    if form.least < most:
        texts = texts.str.strip_chars_end("0")
        if form.least == 0:
            texts = texts.str.strip_chars_end(".")
        else:  # at least `least` decimals stay
            missing = form.least - (texts.str.len_bytes().cast(pl.Int64) - texts.str.find(".", literal=True).cast(pl.Int64) - 1)
            padding = pl.Series(np.array(["0" * count for count in range(form.least + 1)])[missing.clip(0).to_numpy()])
            texts = texts + padding
    return texts


def _shortest(values: np.ndarray, least: int) -> pl.Series:
    """The shortest text that gives each float64 back, as Python prints it."""
    texts = pl.Series(values).cast(pl.String)
    size = np.abs(values)
    odd = ((size < 1e-4) & (size > 0)) | (size >= 1e16)
    if odd.any():
        texts = texts.scatter(np.flatnonzero(odd), [repr(value) for value in values[odd].tolist()])
    return texts if least else texts.str.replace(r"\.0$", "")


def _dressed(digits: pl.Series, form: NumberFormat) -> pl.Series:
    frame = pl.DataFrame({"text": digits})
    text: Any = pl.col("text")
    minus = pl.when(text.str.starts_with("-")).then(pl.lit("-")).otherwise(pl.lit(""))
    bare = text.str.strip_chars_start("-")
    whole = bare.str.extract(r"^([0-9]+)", 1)
    rest = bare.str.strip_chars_start("0123456789")
    if form.group:
        backwards = whole.str.reverse().str.replace_all(r"([0-9]{3})", f"$1{_dollar(form.group)}").str.reverse()
        whole = backwards.str.strip_prefix(form.group)
    if form.point != ".":
        rest = rest.str.replace(".", form.point, literal=True)
    return frame.select(minus + pl.lit(form.prefix) + whole + rest + pl.lit(form.suffix)).to_series()


def _dollar(text: str) -> str:
    return text.replace("$", "$$")


def grid_decimals(values: np.ndarray, start: int, single: bool) -> int | None:
    """The least decimals, from `start`, that hold every number exactly; None if more than 6 are needed.

    Args:
        values: finite numbers (N,).
        start: where to begin.
        single: whether they are 32-bit floats.
    """
    for decimals in range(start, 7):
        scaled = values * 10.0**decimals
        if np.abs(scaled).max(initial=0.0) >= _GRID_LIMIT:
            return None
        rounded = np.rint(scaled) / 10.0**decimals
        if np.array_equal(rounded.astype(np.float32), values.astype(np.float32)) if single else np.array_equal(rounded, values):
            return decimals
    return None
