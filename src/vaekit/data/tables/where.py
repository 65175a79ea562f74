"""What is asked of some cells, as text: `income=>50K`, `age>=30`, `age=30..40`, `city!=null`.

An expression is the name of a column, an operator (= != < <= > >=) and a value. The longest known name that an operator
follows is the column. A value is

    x           the category, word, number or date x; a date without a time is the whole day
    a|b         any of them
    30..40      from 30 to 40, both included; `30..` and `..40` are open at one end
    (nothing)   a missing cell, as is `null`, unless that is a category

`!=x` is every known cell but x; `!=null` every cell that is not missing. Several expressions of one column must all hold.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from vaekit.data.tables import datetimes
from vaekit.data.tables.columns import TableColumn
from vaekit.data.tables.numbers import parse_format, read_numbers
from vaekit.data.tables.overrides import near
from vaekit.errors import ConfigError

_OPERATORS = ("!=", "<=", ">=", "=", "<", ">")
Interval = tuple[float, float, bool, bool]
"""(low, high, whether low is within, whether high is within)."""


@dataclass(frozen=True)
class Event:
    """The cells of one column that are asked for.

    Attributes:
        codes: of categories, for a column of categories.
        intervals: of numbers or microseconds, apart from each other and in order, for all other columns.
        words: states 1..W of words.
        missing: whether a missing cell is asked for.
    """

    codes: tuple[int, ...] = ()
    intervals: tuple[Interval, ...] = ()
    words: tuple[int, ...] = ()
    missing: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether no cell can be such."""
        return not (self.codes or self.intervals or self.words or self.missing)

    def holds(self, values: np.ndarray, states: np.ndarray | None, column: TableColumn) -> np.ndarray:
        """Whether each cell (n,) is such a cell.

        Args:
            values: the value channel.
            states: the state channel; None where the column has none.
            column: that they are of.

        Example:
            >>> column = TableColumn(name="age", type="integer", low=17, high=90)
            >>> Event(intervals=((30.0, 40.0, True, True),)).holds(np.array([29.0, 30.0]), None, column)
            array([False,  True])
        """
        states = np.zeros(len(values)) if states is None else states
        found = np.isin(values, self.codes) if self.codes else np.zeros(len(values), bool)
        for low, high, with_low, with_high in self.intervals:
            found |= (values >= low if with_low else values > low) & (values <= high if with_high else values < high)
        found &= states == 0
        if self.words:
            found |= np.isin(states, self.words)
        if self.missing and column.missing_state is not None:
            found |= states == column.missing_state
        return found


def parse_where(where: Sequence[str] | Mapping[str, Any] | str, columns: Sequence[TableColumn]) -> dict[int, Event]:
    """What is asked of the cells: index of the column -> event.

    Args:
        where: expressions, or a dict: column -> a value, None for missing, a list of values, a pair (low, high) of numbers,
            or text such as `>=30`.
        columns: as `infer` gives them.

    Raises:
        ConfigError: on an unknown column or category, a value that does not fit, or what no cell can be.

    Example:
        >>> age = TableColumn(name="age", type="integer", low=17, high=90)
        >>> parse_where(["age>=30", "age<40"], [age])[0].intervals
        ((30.0, 40.0, True, False),)
    """
    found: dict[int, Event] = {}
    for index, operator, value, said in _expressions(where, columns):
        event = _event(columns[index], operator, value, said)
        if index in found:
            event = _both(found[index], event)
        if event.is_empty:
            earlier = " together with the others of that column" if index in found else ""
            raise ConfigError(
                f"`{said}` must be possible, but no cell of `{columns[index].name}` can be so{earlier}. Change it."
            )
        found[index] = event
    return found


def _expressions(where: Any, columns: Sequence[TableColumn]) -> list[tuple[int, str, Any, str]]:
    names = [column.name for column in columns]
    found: list[tuple[int, str, Any, str]] = []
    if isinstance(where, Mapping):
        for name, value in where.items():
            if name not in names:
                raise ConfigError(f"A condition must name a column, got `{name}`. {near(str(name), names)}")
            index = names.index(name)
            operator, value = _from_value(value, columns[index])
            found.append((index, operator, value, f"{name}={value}"))
        return found
    for text in [where] if isinstance(where, str) else where:
        index, operator, value = _split(text, names)
        found.append((index, operator, value, text))
    return found


def _from_value(value: Any, column: TableColumn) -> tuple[str, Any]:
    if isinstance(value, str) and value not in column.categories and value not in column.words:
        operator = next((sign for sign in _OPERATORS if value.startswith(sign)), None)
        return (operator, value[len(operator) :].strip()) if operator else ("=", value)
    if isinstance(value, tuple) and len(value) == 2 and not column.is_coded:
        return "=", f"{'' if value[0] is None else value[0]}..{'' if value[1] is None else value[1]}"
    return "=", value


def _split(text: str, names: Sequence[str]) -> tuple[int, str, str]:
    """The column, the operator and the value of an expression."""
    for index in sorted(range(len(names)), key=lambda place: -len(names[place])):
        if not text.lstrip().startswith(names[index]):
            continue
        rest = text.lstrip()[len(names[index]) :].lstrip()
        operator = next((sign for sign in _OPERATORS if rest.startswith(sign)), None)
        if operator:
            return index, operator, rest[len(operator) :].strip()
    found = re.match(r"\s*(.*?)\s*(?:!=|<=|>=|=|<|>)", text, re.DOTALL)
    if found is None:
        raise ConfigError(f"A condition must be a column, an operator (= != < <= > >=) and a value, got `{text}`.")
    raise ConfigError(f"A condition must begin with a column, got `{found[1]}` in `{text}`. {near(found[1], names)}")


def _event(column: TableColumn, operator: str, value: Any, said: str) -> Event:
    if column.type == "identifier":
        raise ConfigError(f"A condition must be on a column that is learned, got `{column.name}`, which is an identifier.")
    if operator in ("=", "!="):
        event = Event()
        for part in _alternatives(value, column):
            event = _either(event, _equal(column, part, said))
        if operator == "=":
            return event
        if event == Event(missing=True):
            return Event(**{**_everything(column).__dict__, "missing": False})
        return _without(_everything(column), event)
    if column.type == "ordinal" and str(value) in column.categories:
        rank = column.categories.index(str(value))
        codes = [code for code in range(len(column.categories)) if _compare(code, operator, rank)]
        return Event(codes=tuple(codes))
    if column.is_coded:
        return _compared_categories(column, operator, value, said)
    low, high = _bounds(column, str(value), said)
    interval = {
        "<": (-math.inf, low, False, False),
        "<=": (-math.inf, high, False, low == high),
        ">": (high, math.inf, low != high, False),
        ">=": (low, math.inf, True, False),
    }[operator]
    return Event(intervals=(interval,))


def _alternatives(value: Any, column: TableColumn) -> list[Any]:
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if not isinstance(value, str) or value in column.categories or value in column.words:
        return [value]
    return _cut_alternatives(value, {name for name in (*column.categories, *column.words) if "|" in name})


def _cut_alternatives(value: str, with_bar: set[str]) -> list[str]:
    """The parts between bars; those of a known category with a bar stay together."""
    parts = value.split("|")
    found: list[str] = []
    start = 0
    while start < len(parts):
        stop = next((stop for stop in range(len(parts), start, -1) if "|".join(parts[start:stop]) in with_bar), start + 1)
        found.append("|".join(parts[start:stop]).strip() if stop == start + 1 else "|".join(parts[start:stop]))
        start = stop
    return found


def _equal(column: TableColumn, value: Any, said: str) -> Event:
    text = _text(value)
    if text is not None and text in column.words:
        return Event(words=(column.words.index(text) + 1,))
    if column.is_coded and text is not None:
        code = _category(column, text)
        if code is not None:
            return Event(codes=(code,))
    if text is None or text == "" or text.lower() == "null" or (column.missing and text == column.missing_as):
        if not column.missing:
            raise ConfigError(f"`{said}` must be possible, but no missing cell of `{column.name}` was seen. Leave it out.")
        return Event(missing=True)
    if column.is_coded:
        known = column.categories
        raise ConfigError(f"`{said}` must name a category of `{column.name}`, got {text!r}. {near(text, known)}")
    ends = text.split("..") if ".." in text else []
    if len(ends) == 2:
        low = _bounds(column, ends[0].strip(), said)[0] if ends[0].strip() else -math.inf
        last, high = _bounds(column, ends[1].strip(), said) if ends[1].strip() else (math.inf, math.inf)
        if low > high:
            raise ConfigError(f"`{said}` must go from the lesser to the greater, got {text!r}. Exchange them.")
        return Event(intervals=((low, high, low > -math.inf, last == high and high < math.inf),))
    low, high = _bounds(column, text, said)
    return Event(intervals=((low, high, True, low == high),))


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return None
    return ("true" if value else "false") if isinstance(value, bool | np.bool_) else str(value)


def _category(column: TableColumn, text: str) -> int | None:
    if text in column.categories:
        return column.categories.index(text)
    folded = [category.strip().lower() for category in column.categories]
    if folded.count(text.strip().lower()) == 1:
        return folded.index(text.strip().lower())
    number = _number(text)
    values = [_number(category) for category in column.categories]
    return values.index(number) if number is not None and number in values else None


def _compared_categories(column: TableColumn, operator: str, value: Any, said: str) -> Event:
    number = _number(str(value))
    values = [_number(category) for category in column.categories]
    if number is None or any(other is None for other in values):
        raise ConfigError(
            f"`{said}` must ask with = or !=, for `{column.name}` has categories without an order. Use `a|b` for several."
        )
    return Event(
        codes=tuple(code for code, other in enumerate(values) if other is not None and _compare(other, operator, number))
    )


def _compare(left: float, operator: str, right: float) -> bool:
    return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[operator]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _bounds(column: TableColumn, text: str, said: str) -> tuple[float, float]:
    """A number twice; of a date the first microsecond, and the first after it."""
    if column.type != "datetime":
        number = _number(text)
        if number is None and column.format:
            read = read_numbers(pl.Series([text]), parse_format(column.format))[0]
            number = None if np.isnan(read) else float(read)
        if number is None:
            words = f" It also has the words {', '.join(map(repr, column.words[:5]))}." if column.words else ""
            raise ConfigError(f"`{said}` must compare `{column.name}` with a number, got {text!r}.{words}")
        return number, number
    texts = pl.Series([text])
    if re.fullmatch(r"\d{4}", text):
        return tuple(float(np.datetime64(str(year), "us").astype(np.int64)) for year in (int(text), int(text) + 1))  # type: ignore[return-value]
    for form in dict.fromkeys((column.format, *datetimes.candidates([text]))):
        if form and "%" in form:
            start = float(datetimes.read_datetimes(texts, form)[0])
            if not np.isnan(start):
                step = datetimes.resolution(form)
                return start, start + step if step > 1 and not _same_step(column, step) else start
    raise ConfigError(f"`{said}` must compare `{column.name}` with a date such as 2024-01-31, got {text!r}.")


def _same_step(column: TableColumn, step: float) -> bool:
    """Whether cells of the column are no finer than a step."""
    if column.dtype == "Date":
        return step == 86_400e6
    return bool(column.format) and datetimes.resolution(column.format) >= step


def _everything(column: TableColumn) -> Event:
    words = tuple(range(1, len(column.words) + 1))
    if column.is_coded:
        return Event(codes=tuple(range(len(column.categories))), words=words)
    return Event(intervals=((-math.inf, math.inf, False, False),), words=words)


def _either(first: Event, second: Event) -> Event:
    return Event(
        tuple(sorted({*first.codes, *second.codes})),
        _merged((*first.intervals, *second.intervals)),
        tuple(sorted({*first.words, *second.words})),
        first.missing or second.missing,
    )


def _both(first: Event, second: Event) -> Event:
    overlaps = [found for one in first.intervals for other in second.intervals if (found := _overlap(one, other))]
    return Event(
        tuple(sorted({*first.codes} & {*second.codes})),
        _merged(tuple(overlaps)),
        tuple(sorted({*first.words} & {*second.words})),
        first.missing and second.missing,
    )


def _without(whole: Event, part: Event) -> Event:
    left = whole.intervals
    for low, high, with_low, with_high in part.intervals:
        outside: tuple[Interval, ...] = ((-math.inf, low, False, not with_low), (high, math.inf, not with_high, False))
        left = tuple(found for one in left for other in outside if (found := _overlap(one, other)))
    codes = tuple(code for code in whole.codes if code not in part.codes)
    words = tuple(word for word in whole.words if word not in part.words)
    return Event(codes, left, words, whole.missing and not part.missing)


def _overlap(one: Interval, other: Interval) -> Interval | None:
    low, high = max(one[0], other[0]), min(one[1], other[1])
    with_low = all(interval[2] for interval in (one, other) if interval[0] == low)
    with_high = all(interval[3] for interval in (one, other) if interval[1] == high)
    if low > high or (low == high and not (with_low and with_high)):
        return None
    return low, high, with_low, with_high


def _merged(intervals: tuple[Interval, ...]) -> tuple[Interval, ...]:
    found: list[Interval] = []
    for interval in sorted(intervals, key=lambda one: (one[0], not one[2])):
        last = found[-1] if found else None
        if last and (interval[0] < last[1] or (interval[0] == last[1] and (interval[2] or last[3]))):
            high = max(last[1], interval[1])
            with_high = any(one[3] for one in (last, interval) if one[1] == high)
            found[-1] = (last[0], high, last[2], with_high)
        else:
            found.append(interval)
    return tuple(found)
