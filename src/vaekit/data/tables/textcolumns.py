"""What a column of text is: numbers in their spelling, dates, categories or identifiers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from vaekit.data.tables import datetimes, typerules
from vaekit.data.tables.columns import CODED, NUMBERS, ColumnType, TableColumn
from vaekit.data.tables.dtypes import dtype_name
from vaekit.data.tables.numbers import LEADING_ZERO, NumberFormat
from vaekit.data.tables.overrides import Override
from vaekit.data.tables.profiles import MAX_WORDS, Distinct, Reading, TextProfile
from vaekit.data.tables.spelled import Spelled, best_spelling
from vaekit.errors import ConfigError

MISSING_WORDS = frozenset(
    (
        "na",
        "n/a",
        "n.a.",
        "#n/a",
        "#na",
        "<na>",
        "nan",
        "-nan",
        "null",
        "nil",
        "none",
        "?",
        "-",
        "--",
        ".",
        "missing",
        "nat",
        "\\n",
    )
)
"""What stands for a missing cell among numbers and dates, in lower case."""

_SCALES = (
    ("very low", "low", "medium", "high", "very high"),
    ("low", "moderate", "high"),
    ("never", "rarely", "sometimes", "often", "always"),
    ("strongly disagree", "disagree", "neutral", "agree", "strongly agree"),
    ("very poor", "poor", "fair", "good", "very good", "excellent"),
    ("xxs", "xs", "s", "m", "l", "xl", "xxl"),
)


@dataclass
class _Case:
    """A column of text that is to be judged.

    Attributes:
        profile: what was gathered.
        override: what a person says of it.
        always: what stands for a missing cell in every column.
        texts: the texts that are no plain numbers, with their counts.
        spellings: how missing cells are spelled, with their counts.
        notes: for a person.
    """

    profile: TextProfile
    override: Override | None
    always: tuple[str, ...]
    texts: dict[str, int] = field(default_factory=dict)
    spellings: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.profile.name

    @property
    def known(self) -> int:
        return self.profile.rows - sum(self.spellings.values())

    def record(self, missing: dict[str, int] | None = None) -> dict[str, Any]:
        """Name, dtype, and how missing cells are spelled: the commonest way prints them."""
        base: dict[str, Any] = {"name": self.name, "dtype": dtype_name(self.profile.dtype)}
        spellings = self.spellings | (missing or {})
        if not spellings:
            return base
        ranked = sorted(spellings, key=lambda word: (-spellings[word], word))
        if len(ranked) > 1:
            listed = ", ".join(repr(word) for word in ranked[:6])
            self.notes.append(f"Missing cells of `{self.name}` are spelled {listed}; they are written as {ranked[0]!r}.")
        others = tuple(word for word in dict.fromkeys((*ranked[1:], *self.always)) if word not in ("", '""', ranked[0]))
        return base | {"missing": True, "missing_as": ranked[0], "also_missing": others}


def text_column(profile: TextProfile, override: Override | None, always: tuple[str, ...]) -> tuple[TableColumn, list[str]]:
    """What a column of text is, and notes.

    Args:
        profile: what was gathered.
        override: what a person says of it.
        always: texts that stand for a missing cell in every column.
    """
    case = _Case(profile, override, always)
    quoted = profile.empty > 0 and profile.nulls == 0
    absent = profile.empty if quoted else profile.nulls
    case.texts = dict(zip(profile.others.values.to_list(), profile.others.counts.to_list(), strict=True))
    if absent:
        case.spellings['""' if quoted else ""] = absent
    if profile.empty and not quoted:
        case.texts[""] = profile.empty
    case.spellings |= {word: case.texts.pop(word) for word in always if word in case.texts}
    if case.known == 0:
        return typerules.without_values(case.record(), case.notes)
    found = _numbers(case) or _dates(case) or _categories(case)
    return found, case.notes


def _numbers(case: _Case) -> TableColumn | None:
    """The column as one of numbers, or of two of them; None if it is none."""
    override = case.override
    if override is not None and override.type not in (*NUMBERS, "binary", "constant"):
        return None
    found = best_spelling(case.profile, case.texts)
    words, missing = _words_of(found.rest) if found else ({}, {})
    if found is None or not _acceptable(found.stats.count, found.num_distinct, words, override):
        _refuse_numbers(case)
        return None
    whole = found.stats.whole and found.form.most == 0
    kind, why = _number_kind(case, found, words, whole)
    if kind is None:
        return None
    if kind not in NUMBERS:
        if words:
            return None
        names = [text for text in (*case.profile.plain.values.to_list(), *case.texts) if text and text not in missing]
        names.sort(key=typerules.category_order)
        return typerules.coded(case.record(missing), kind, names, None, why)
    _note_numbers(case, found, words)
    low, high = found.stats.low + 0.0, found.stats.high + 0.0
    return TableColumn(
        **case.record(missing),
        type=kind,
        words=tuple(sorted(words)),
        low=low,
        high=high,
        decimals=found.form.most,
        format="" if found.form == NumberFormat() else found.form.pattern,
        reason=why,
    )


def _number_kind(case: _Case, found: Spelled, words: dict[str, int], whole: bool) -> tuple[ColumnType | None, str]:
    """The type of a column of numbers; None where it is to be taken as text after all."""
    stats, override = found.stats, case.override
    if override is None:
        if any(re.match(LEADING_ZERO, text) for text in words) or (stats.big and whole):
            return None, ""
        if whole and not words and not case.texts and _whole_identifier(case.profile):
            return None, ""
        return typerules.number_type(stats, found.num_distinct, stats.count, whole)
    if override.type in NUMBERS and stats.big and whole:
        raise ConfigError(f"`{case.name}` must lie within 2**53 to be {override.type}. Use identifier or categorical.")
    if override.type in ("integer", "count") and not stats.whole:
        raise ConfigError(f"`{case.name}` must hold whole numbers to be {override.type}, found others. Use continuous.")
    return override.type, typerules.SAID


def _refuse_numbers(case: _Case) -> None:
    if case.override is not None and case.override.type in NUMBERS:
        raise ConfigError(
            f"`{case.name}` must hold numbers, and at most {MAX_WORDS} words, to be {case.override.type}; found other text. "
            "Leave the type out."
        )


def _note_numbers(case: _Case, found: Spelled, words: dict[str, int]) -> None:
    pattern = found.form.pattern
    if not found.exact:
        case.notes.append(f"Numbers of `{case.name}` are spelled in several ways; they are written as {pattern!r}.")
    if not found.form.is_plain:
        case.notes.append(f"Numbers of `{case.name}` are read as {pattern!r}; `{case.name}=categorical` takes them as text.")
    if words:
        case.notes.append(f"`{case.name}` holds numbers and {_listed(words)}; each such word is kept.")


def _words_of(rest: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """What is over, as words and as missing cells."""
    missing = {text: count for text, count in rest.items() if not text.strip() or text.strip().lower() in MISSING_WORDS}
    words = {text: count for text, count in rest.items() if text not in missing}
    return words, {text or '""': count for text, count in missing.items()}


def _acceptable(count: int, num_distinct: int, words: dict[str, int], override: Override | None) -> bool:
    """Whether a column with words is one of numbers or dates all the same."""
    if not words:
        return count > 0
    if len(words) > MAX_WORDS:
        return False
    if override is not None:
        return True
    return num_distinct >= max(10, 2 * len(words)) and count >= sum(words.values())


def _whole_identifier(profile: TextProfile) -> str:
    """Why whole numbers are an identifier; empty if they are none."""
    stats = profile.stats
    if not stats.count or not stats.whole or profile.others.num:
        return ""
    unique = not profile.plain.overflow and profile.plain.num == stats.count
    running = profile.running.alive or (unique and stats.high - stats.low + 1 == stats.count)
    return typerules.whole_identifier(profile.name, stats.count, unique, running, stats)


def _dates(case: _Case) -> TableColumn | None:
    """The column as one of dates; None if it is none."""
    override = case.override
    if override is not None and override.type != "datetime":
        return None
    fitting = []
    readings, source = _date_readings(case)
    for reading in readings:
        words, missing = _words_of(_left_over(case, reading, source))
        if _acceptable(reading.stats.count, reading.num_read, words, override):
            fitting.append((reading, words, missing))
    fewest = min((len(words) for _, words, _ in fitting), default=0)
    fitting = [item for item in fitting if len(item[1]) == fewest]
    if len({(item[0].stats.low, item[0].stats.high, item[0].stats.sums[1]) for item in fitting}) == 1:
        fitting = fitting[:1]  # as `%b` and `%B` are where there is only May
    if not fitting and override is not None:
        raise ConfigError(f"`{case.name}` must hold dates of one format to be datetime. Give it: `datetime:%d/%m/%Y`.")
    if len(fitting) > 1:
        _refuse_ambiguous(case, [reading.date for reading, _, _ in fitting])
    return _date_column(case, source, *fitting[0]) if len(fitting) == 1 else None


def _refuse_ambiguous(case: _Case, forms: list[str]) -> None:
    found = f"Dates of `{case.name}` may be {forms[0]} or {forms[1]}, which its cells do not tell"
    remedy = f"`{case.name}=datetime:{forms[0]}` says which."
    if case.override is not None:
        raise ConfigError(f"{found}. {remedy}")
    case.notes.append(f"{found}; they are taken as text. {remedy}")


def _date_readings(case: _Case) -> tuple[list[Reading], Distinct]:
    """The ways to read the column as dates, and the texts that they are of."""
    given, profile = case.override.format if case.override else "", case.profile
    if given and profile.stats.count and not profile.plain.overflow:  # such as 20240131
        reading = Reading(date=given)
        reading.add(profile.plain.values, profile.plain.counts)
        if reading.num_read:
            return [reading], profile.plain
    found = [reading for reading in profile.finished_readings() if reading.date and (not given or reading.date == given)]
    return found, profile.others


def _left_over(case: _Case, reading: Reading, source: Distinct) -> dict[str, int]:
    profile = case.profile
    if source is profile.plain:
        return reading.rest | case.texts
    rest = reading.rest if source.overflow else {text: count for text, count in reading.rest.items() if text in case.texts}
    rest = rest | ({"": case.texts[""]} if "" in case.texts else {})
    return rest | dict(zip(profile.plain.values.to_list(), profile.plain.counts.to_list(), strict=True))


def _date_column(
    case: _Case, source: Distinct, reading: Reading, words: dict[str, int], missing: dict[str, int]
) -> TableColumn:
    sample = source.values if not source.overflow else pl.Series(case.profile.pattern.sample)
    sample = sample.filter(pl.Series(~np.isnan(datetimes.read_datetimes(sample, reading.date)), dtype=pl.Boolean))
    form, exact = datetimes.printed_format(sample, reading.date) if len(sample) else (reading.date, True)
    if not exact:
        case.notes.append(f"Dates of `{case.name}` are spelled in several ways; they are written as {form}.")
    if words:
        case.notes.append(f"`{case.name}` holds dates and {_listed(words)}; each such word is kept.")
    return TableColumn(
        **case.record(missing),
        type="datetime",
        words=tuple(sorted(words)),
        low=reading.stats.low,
        high=reading.stats.high,
        format=form,
        reason=typerules.SAID if case.override else f"Its cells are dates of the format {form}.",
    )


def _categories(case: _Case) -> TableColumn:
    profile, override = case.profile, case.override
    overflow, num = profile.overflow, profile.plain.num + len(case.texts)
    kind, reason = _category_type(profile, num, case.known, overflow)
    if override is not None:
        kind, reason = override.type, typerules.SAID
    if kind == "identifier":
        case.notes.append(typerules.identifier_note(case.name, reason))
        return TableColumn(**case.record(), type=kind, format=_identifier_pattern(profile), reason=reason)
    assert kind in CODED
    if overflow:
        raise typerules.too_many(case.name, kind)
    names = sorted((*profile.plain.values.to_list(), *case.texts), key=typerules.category_order)
    if kind == "categorical" and override is None:
        scale = _scale(names)
        if scale:
            kind, names, reason = "ordinal", scale, "Its categories are those of a known scale."
    return typerules.coded(case.record(), kind, names, override, reason)


def _category_type(profile: TextProfile, num: int, known: int, overflow: bool) -> tuple[ColumnType, str]:
    if not overflow and num <= 2:
        return ("constant", typerules.SAME) if num == 1 else ("binary", "It has two values.")
    reason = _whole_identifier(profile)
    if reason:
        return "identifier", reason
    if known >= typerules.MIN_IDENTIFIERS and profile.ratio >= 0.9:
        return "identifier", "Nearly every cell is another text."
    if overflow or num > typerules.MAX_CATEGORIES:
        return "identifier", f"It has more than {typerules.MAX_CATEGORIES:,} categories."
    if profile.stats.big:
        return "categorical", "Its numbers are too long to be computed with."
    return "categorical", f"It has {num} values, which are no numbers."


def _identifier_pattern(profile: TextProfile) -> str:
    stats = profile.stats
    if not stats.count:
        return profile.pattern.pattern()
    if profile.others.num or not stats.whole or profile.spelling.most or profile.spelling.odd:
        if profile.plain.overflow:
            return f"{profile.name}-{{{profile.pattern.counted + 1}+}}"
        profile.pattern.add(profile.plain.values)  # such as hexadecimal numbers of which some have no letter
        return profile.pattern.pattern()
    if not stats.big:
        return f"{int(stats.high) + 1}+"
    if profile.plain.overflow:  # their greatest is known to 16 digits only
        return f"{int(stats.high * 1.000001) + 1}+"
    return f"{max(int(text) for text in profile.plain.values.to_list()) + 1}+"


def _scale(names: list[str]) -> list[str]:
    """Categories in the order of a known scale; empty if they are of none."""
    folded = {name.strip().lower(): name for name in names}
    if len(names) < 3 or len(folded) != len(names):
        return []
    scale = next((scale for scale in _SCALES if folded.keys() <= set(scale)), ())
    return [folded[step] for step in scale if step in folded]


def _listed(words: dict[str, int]) -> str:
    ranked = sorted(words, key=lambda word: (-words[word], word))
    listed = ", ".join(repr(word) for word in ranked[:5]) + (", ..." if len(ranked) > 5 else "")
    return f"{len(ranked)} {'word' if len(ranked) == 1 else 'words'} ({listed})"
