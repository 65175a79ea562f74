"""The columns beside texts: their categories, or their numbers, found while the texts are read."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vaekit.data.schema import UNKNOWN, AnyColumn, Column, NumberColumn

MOST_CATEGORIES = 100
"""The most distinct values of a column that is taken as categories."""

_MOST_KEPT = 100_000


class Gathered:
    """Columns of few distinct values, and columns of numbers; of others only their names are kept.

    A column of more than 100 different values, or of values that mostly differ, is one of numbers where all of them are finite
    numbers, unless they are whole numbers without repetition, which are taken for identifiers.

    Args:
        known: the columns that are looked for, with their categories; None to find them.
        every: keep columns of many values too.

    Example:
        >>> gathered = Gathered()
        >>> gathered.add({"label": ["10", "9", None]}, 3)
        >>> gathered.finish()[0][0].categories, gathered.codes()["label"].tolist()
        (('9', '10'), [1, 0, -1])
        >>> gathered = Gathered()
        >>> gathered.add({"angle": ["0.5", "1.25", None, "0.5", "0.75"]}, 5)
        >>> gathered.finish()[0][0].kind, gathered.codes()["angle"].tolist()
        ('number', [0.5, 1.25, nan, 0.5, 0.75])
    """

    def __init__(self, known: Sequence[AnyColumn] | None = None, every: bool = False) -> None:
        self._known, self._every = known, every
        self._found: dict[str, dict[str, int]] = {}
        self._codes: dict[str, array[int]] = {}
        self._numbers: dict[str, array[float]] = {}
        self._many: list[str] = []
        self._rows = 0
        self._order: dict[str, np.ndarray] = {}
        self._strangers: dict[str, list[str]] = {}
        if known is not None:
            few = [column for column in known if isinstance(column, Column)]
            self._found = {column.name: {name: code for code, name in enumerate(column.categories)} for column in few}
            self._codes = {column.name: array("i") for column in few}
            self._numbers = {column.name: array("d") for column in known if isinstance(column, NumberColumn)}

    def add(self, columns: Mapping[str, Sequence[str | None]], rows: int) -> None:
        """The values of the next rows. Columns that are not among them are unknown there."""
        for name in list(self._numbers):
            self._add_numbers(name, columns.get(name) or [None] * rows)
        names = self._codes if self._known is not None else {**self._codes, **columns}
        for name in list(names):
            if name in self._many or name in self._numbers:
                continue
            seen = self._found.setdefault(name, {})
            codes = self._codes.setdefault(name, array("i", [UNKNOWN]) * self._rows)
            for value in columns.get(name) or [None] * rows:
                codes.append(UNKNOWN if value is None else self._code(seen, value))
            if self._known is None and not self._every and len(seen) > MOST_CATEGORIES:
                self._leave(name)
        self._rows += rows

    def _leave(self, name: str) -> None:
        """A column of many values: from here on its numbers, or nothing but its name."""
        seen, codes = self._found.pop(name), self._codes.pop(name)
        self._numbers[name] = array("d")
        texts = [*seen, None]  # -1 is the last
        self._add_numbers(name, [texts[code] for code in codes])

    def _add_numbers(self, name: str, values: Sequence[str | None]) -> None:
        for value in values:
            number = math.nan if value is None else _number(value)
            if value is not None and math.isnan(number) and value.strip().lower() != "nan":
                if self._known is None:
                    self._many.append(name)
                    del self._numbers[name]
                    return
                self._strangers.setdefault(name, []).append(value)
            self._numbers[name].append(number)

    def _code(self, seen: dict[str, int], value: str) -> int:
        if self._known is not None:  # strange ones are kept, to be told of
            return seen.setdefault(value, UNKNOWN) if len(seen) < _MOST_KEPT else seen.get(value, UNKNOWN)
        return seen.setdefault(value, len(seen))

    def finish(self) -> tuple[tuple[AnyColumn, ...], tuple[str, ...]]:
        """The columns, categories that are numbers by their size before texts, and notes."""
        if self._known is not None:
            return tuple(self._known), self._strange()
        columns: list[AnyColumn] = []
        empty = []
        most = max(self._rows, 4) // 2
        for name, seen in list(self._found.items()):
            if _are_measured(seen) if self._every else len(seen) > most:
                self._leave(name)
        for name, seen in self._found.items():
            if not seen:
                empty.append(name)
            else:
                categories = sorted(seen, key=_by_size)
                order = np.empty(len(seen) + 1, np.int64)
                order[[seen[category] for category in categories]] = np.arange(len(seen))
                order[UNKNOWN] = UNKNOWN
                self._order[name] = order
                columns.append(Column(name=name, categories=tuple(categories)))
        for name in list(self._numbers):
            numbers = np.array(self._numbers[name])
            known = numbers[~np.isnan(numbers)]
            if len(known) and (np.any(known != np.rint(known)) or len(np.unique(known)) < len(known)):
                columns.append(NumberColumn.of(name, numbers))
            else:
                self._many.append(name)
                del self._numbers[name]
        notes = tuple(f"`{name}` has no value at all, and is left out." for name in empty)
        if self._many:
            names = ", ".join(f"`{name}`" for name in self._many)
            notes += (f"Columns of many values are left out: {names}.",)
        return tuple(columns), notes

    def codes(self) -> dict[str, np.ndarray]:
        """name -> (N,) int64 codes, or float64 numbers; call `finish` before."""
        numbers = {name: np.array(values, np.float64) for name, values in self._numbers.items()}
        plain = {name: np.array(codes, np.int64) for name, codes in self._codes.items()}
        if self._known is not None:
            return plain | numbers
        return {name: order[plain[name]] for name, order in self._order.items()} | numbers

    def _strange(self) -> tuple[str, ...]:
        notes = []
        for name, seen in self._found.items():
            strange = [value for value, code in seen.items() if code == UNKNOWN]
            if strange:
                listed = ", ".join(strange[:5]) + (", ..." if len(strange) > 5 else "")
                num = int((np.array(self._codes[name]) == UNKNOWN).sum())
                notes.append(f"{num} values of `{name}` are of no known category ({listed}).")
        for name, values in self._strangers.items():
            listed = ", ".join(values[:5]) + (", ..." if len(values) > 5 else "")
            notes.append(f"{len(values)} values of `{name}` are no finite numbers, and unknown ({listed}).")
        return tuple(notes)


def _are_measured(values: Iterable[str]) -> bool:
    """Whether all are numbers, and not all of them whole ones."""
    numbers = [_number(value) for value in values]
    return not any(map(math.isnan, numbers)) and any(number != round(number) for number in numbers)


def _number(text: str) -> float:
    """A finite number, or NaN."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _by_size(name: str) -> tuple[int, float, str]:
    try:
        number = float(name)
    except ValueError:
        return (1, 0.0, name)
    return (0, number, name) if math.isfinite(number) else (1, 0.0, name)
