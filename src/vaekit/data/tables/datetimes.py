"""Dates and times as text: which formats a text may have, reading and printing them.

A format is written as in `strftime`. An offset that all cells share is written out (`%H:%M:%S+01:00`); cells are
microseconds since 1970 UTC, or since midnight where the format has no date.
"""

from __future__ import annotations

import re

import numpy as np
import polars as pl

_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_DATE = {
    r"\d{4}-\d{1,2}-\d{1,2}": ("%Y-%m-%d",),
    r"\d{4}/\d{1,2}/\d{1,2}": ("%Y/%m/%d",),
    r"\d{4}\.\d{1,2}\.\d{1,2}": ("%Y.%m.%d",),
    r"(?:19|20)\d{6}": ("%Y%m%d",),
    r"\d{1,2}/\d{1,2}/\d{4}": ("%d/%m/%Y", "%m/%d/%Y"),
    r"\d{1,2}-\d{1,2}-\d{4}": ("%d-%m-%Y", "%m-%d-%Y"),
    r"\d{1,2}\.\d{1,2}\.\d{4}": ("%d.%m.%Y",),
    r"\d{1,2}/\d{1,2}/\d{2}": ("%d/%m/%y", "%m/%d/%y"),
    r"\d{1,2}\.\d{1,2}\.\d{2}": ("%d.%m.%y",),
    rf"\d{{1,2}} (?:{_MONTHS}) \d{{4}}": ("%d %b %Y",),
    rf"\d{{1,2}}-(?:{_MONTHS})-\d{{4}}": ("%d-%b-%Y",),
    rf"\d{{1,2}}-(?:{_MONTHS})-\d{{2}}": ("%d-%b-%y",),
    rf"(?:{_MONTHS}) \d{{1,2}}, \d{{4}}": ("%b %d, %Y",),
    r"\d{1,2} [a-z]{3,9} \d{4}": ("%d %B %Y",),
    r"[a-z]{3,9} \d{1,2}, \d{4}": ("%B %d, %Y",),
}
_SHAPE = re.compile(
    rf"^(?P<date>{'|'.join(_DATE)})(?:(?P<gap>[T ]| at )(?P<clock>\d{{1,2}}:\d{{2}})(?P<seconds>:\d{{2}})?(?P<part>\.\d+)?"
    r"(?P<half> ?[ap]m)?(?P<zone>Z|z| ?UTC| ?[+-]\d{2}:?\d{2})?)?$",
    re.IGNORECASE,
)
_CLOCK = re.compile(
    r"^(?P<date>)(?P<gap>)(?P<clock>\d{1,2}:\d{2})(?P<seconds>:\d{2})?(?P<part>\.\d+)?(?P<half> ?[ap]m)?(?P<zone>)$",
    re.IGNORECASE,
)
_SAMPLE, _MOST = 100, 8
_OFFSET = re.compile(r"(?P<sign>[+-])(?P<hours>\d{2}):?(?P<minutes>\d{2})$")


def candidates(texts: list[str]) -> list[str]:
    """The formats that the texts of a sample may have; empty where none looks like a date or a time.

    Example:
        >>> candidates(["n/a", "05/01/2020 13:30"])
        ['%d/%m/%Y %H:%M', '%m/%d/%Y %H:%M']
    """
    shapes = [shape for text in texts[:_SAMPLE] if (shape := _SHAPE.match(text) or _CLOCK.match(text))]
    zones = {str(shape["zone"]) for shape in shapes if shape["zone"]}
    found: dict[str, None] = {}
    for shape in shapes:
        tail = _clock(shape) + _zone(zones, shape["zone"])
        found |= dict.fromkeys(date + tail for date in _dates(shape["date"]))
    return list(found)[:_MOST]


def read_datetimes(texts: pl.Series, form: str) -> np.ndarray:
    """Microseconds since 1970 UTC (N,) float64; NaN where a text is no date of this format."""
    parsed = _parse(texts, form)
    return np.where(parsed.is_null().to_numpy(), np.nan, parsed.fill_null(0).to_numpy().astype(np.float64) - _shift(form))


def print_datetimes(values: np.ndarray, form: str) -> pl.Series:
    """Microseconds since 1970 UTC (N,) in a format; null where NaN."""
    known = np.isfinite(values)
    whole = np.where(known, np.rint(values + _shift(form)), 0.0).astype(np.int64)
    times = pl.Series(whole).cast(pl.Datetime("us"))
    if "%z" in form or "%:z" in form:
        times = times.dt.replace_time_zone("UTC")
    texts = times.dt.strftime(form)
    return texts.set(pl.Series(~known), None) if not known.all() else texts


def printed_format(texts: pl.Series, form: str) -> tuple[str, bool]:
    """The format that prints texts as they are, of those that read as `form`, and whether it prints all of them so.

    Args:
        texts: all of which `form` reads.
        form: as `candidates` gives it.
    """
    values = read_datetimes(texts, form)
    bare = form.replace("%d", "%-d").replace("%m", "%-m")
    variants = [form, bare, form.replace("%H", "%-H").replace("%I", "%-I"), bare.replace("%H", "%-H").replace("%I", "%-I")]
    variants += [bare.replace("%-m", "%m"), bare.replace("%-d", "%d")]
    variants += [variant.replace("%p", "%P") for variant in variants if "%p" in variant]
    for variant in dict.fromkeys(variants):
        if bool((print_datetimes(values, variant) == texts).all()):
            return variant, True
    return form, False


def resolution(form: str) -> float:
    """The microseconds of the last part that a format prints: 1e6 for seconds.

    Example:
        >>> resolution("%Y-%m-%d") / 3.6e9
        24.0
    """
    if re.search(r"%\.?[36]?f", form):
        return 1e3 if "3f" in form else 1.0
    steps = (("S", 1e6), ("M", 60e6), ("H", 3.6e9), ("I", 3.6e9))
    return next((step for letter, step in steps if re.search(rf"%-?{letter}", form)), 86_400e6)


def _shift(form: str) -> float:
    """The microseconds that the clock of a format is ahead of UTC."""
    offset = _OFFSET.search(form)
    if offset is None:
        return 0.0
    minutes = int(offset["hours"]) * 60 + int(offset["minutes"])
    return minutes * 60e6 * (1 if offset["sign"] == "+" else -1)


def _parse(texts: pl.Series, form: str) -> pl.Series:
    reader = re.sub(r"%-([a-zA-Z])", r"%\1", form).replace("%P", "%p").replace("%:z", "%z")
    if not re.search(r"%[yYs]", reader):  # a time of day; strptime takes nothing without a date
        texts, reader = "1970-01-01 " + texts, f"%Y-%m-%d {reader}"
    if re.search(r"%[HI]", reader):
        parsed = texts.str.to_datetime(reader, strict=False, exact=True, time_unit="us")
        if parsed.dtype == pl.Datetime("us", "UTC"):
            parsed = parsed.dt.replace_time_zone(None)
        return parsed.to_physical()
    return texts.str.to_date(reader, strict=False, exact=True).cast(pl.Datetime("us")).to_physical()


def _clock(shape: re.Match[str]) -> str:
    if shape["clock"] is None:
        return ""
    half = shape["half"]
    text = shape["gap"] + ("%I:%M" if half else "%H:%M") + (":%S" if shape["seconds"] else "")
    part = shape["part"]
    if part:
        text += {4: "%.3f", 7: "%.6f"}.get(len(part), "%.f")
    if half:
        text += (" " if half.startswith(" ") else "") + "%p"
    return text


def _zone(zones: set[str], zone: str | None) -> str:
    """How a zone is written in a format: an offset that all share as it is."""
    if zone is None:
        return ""
    if len(zones) == 1 or not _OFFSET.search(zone):
        return zone
    return (" " if zone.startswith(" ") else "") + ("%:z" if ":" in zone else "%z")


def _dates(date: str) -> tuple[str, ...]:
    if not date:
        return ("",)
    return next(formats for pattern, formats in _DATE.items() if re.fullmatch(pattern, date, re.IGNORECASE))
