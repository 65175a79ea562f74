"""Which spelling of numbers a column of text has: the one that leaves the fewest texts over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from vaekit.data.tables.numbers import NumberFormat, print_numbers, read_numbers
from vaekit.data.tables.profiles import NumberStats, Reading, TextProfile


@dataclass
class Spelled:
    """The numbers of a column of text.

    Attributes:
        form: how they are spelled.
        exact: whether that prints each as it was.
        stats: of them.
        rest: the other texts, with their counts.
        num_distinct: how many numbers differ.
    """

    form: NumberFormat
    exact: bool
    stats: NumberStats
    rest: dict[str, int]
    num_distinct: int


def best_spelling(profile: TextProfile, texts: dict[str, int]) -> Spelled | None:
    """The spelling that leaves the fewest texts over; None if nothing is a number.

    Args:
        profile: of the column.
        texts: those that are no plain numbers, with their counts; only a part where they are too many.
    """
    best = _plainly(profile, texts)
    for reading in profile.finished_readings():
        found = _with_plain(profile, reading) if reading.number is not None else None
        if found is None:
            continue
        if not profile.others.overflow:
            found.rest = {text: count for text, count in found.rest.items() if text in texts}
        if "" in texts:
            found.rest[""] = texts[""]
        if best is None or len(found.rest) < len(best.rest):
            best = found
    return best


def _plainly(profile: TextProfile, texts: dict[str, int]) -> Spelled | None:
    stats, plain = profile.stats, profile.plain
    if not stats.count or profile.others.overflow:
        return None
    form, exact = profile.spelling.form(max(abs(stats.low), abs(stats.high)))
    if form.most is None or profile.spelling.odd:
        sample = plain.values.head(1000)
        exact &= not len(sample) or _prints(sample, form)
    return Spelled(form, exact, stats, dict(texts), plain.num)


def _with_plain(profile: TextProfile, reading: Reading) -> Spelled | None:
    """A reading together with the plain numbers of the column; None where they do not go together."""
    form, plain = reading.number, profile.plain
    assert form is not None
    stats, least, most = reading.stats, reading.least or 0, reading.most
    if profile.stats.count:
        if form.prefix or form.suffix or profile.spelling.odd:
            return None
        if form.point == "," and profile.spelling.dots:  # `1.234` is a thousand there
            numbers = read_numbers(plain.values, form)
            if plain.overflow or form.group != "." or np.isnan(numbers).any():
                return None
            other = NumberStats()
            other.add(numbers, plain.counts.to_numpy())
            stats, least = _merged(stats, other), 0
        else:
            stats = _merged(stats, profile.stats)
            least, most = min(least, profile.spelling.least or 0), max(most, profile.spelling.most)
    full = _filled(form, stats, least, most)
    sample = pl.concat([profile.others.values.head(1000), plain.values.head(1000)])
    readable = sample.filter(pl.Series(~np.isnan(read_numbers(sample, full)), dtype=pl.Boolean))
    exact = not len(readable) or _prints(readable, full)
    return Spelled(full, exact, stats, dict(reading.rest), reading.num_read + plain.num)


def _filled(form: NumberFormat, stats: NumberStats, least: int, most: int) -> NumberFormat:
    """A spelling with its decimals."""
    size = max(abs(stats.low), abs(stats.high))
    if size * 10.0**most >= 2.0**50:
        return NumberFormat(form.prefix, form.suffix, form.group, form.point, min(least, 1), None)
    least = most if least == most else min(least, 1)
    return NumberFormat(form.prefix, form.suffix, form.group, form.point, least, most)


def _prints(texts: pl.Series, form: NumberFormat) -> bool:
    """Whether a spelling prints numbers as they were."""
    return bool((print_numbers(read_numbers(texts, form), form) == texts).all())


def _merged(first: NumberStats, second: NumberStats) -> NumberStats:
    return NumberStats(
        first.count + second.count,
        min(first.low, second.low),
        max(first.high, second.high),
        first.sums + second.sums,
        first.zeros + second.zeros,
        first.whole and second.whole,
        first.big or second.big,
    )
