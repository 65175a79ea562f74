"""The columns beside texts: their categories, found while the texts are read."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence

import numpy as np

from vaekit.data.schema import UNKNOWN, Column

MOST_CATEGORIES = 100
"""The most distinct values of a column that is taken as categories."""

_MOST_KEPT = 100_000


class Gathered:
    """Columns of few distinct values; of others only their names are kept.

    Args:
        known: the columns that are looked for, with their categories; None to find them.
        every: keep columns of many values too.

    Example:
        >>> gathered = Gathered()
        >>> gathered.add({"label": ["10", "9", None]}, 3)
        >>> gathered.finish()[0][0].categories, gathered.codes()["label"].tolist()
        (('9', '10'), [1, 0, -1])
    """

    def __init__(self, known: Sequence[Column] | None = None, every: bool = False) -> None:
        self._known, self._every = known, every
        self._found: dict[str, dict[str, int]] = {}
        self._codes: dict[str, array[int]] = {}
        self._many: list[str] = []
        self._rows = 0
        self._order: dict[str, np.ndarray] = {}
        if known is not None:
            self._found = {column.name: {name: code for code, name in enumerate(column.categories)} for column in known}
            self._codes = {column.name: array("i") for column in known}

    def add(self, columns: Mapping[str, Sequence[str | None]], rows: int) -> None:
        """The values of the next rows. Columns that are not among them are unknown there."""
        names = self._codes if self._known is not None else {**self._codes, **columns}
        for name in list(names):
            if name in self._many:
                continue
            seen = self._found.setdefault(name, {})
            codes = self._codes.setdefault(name, array("i", [UNKNOWN]) * self._rows)
            for value in columns.get(name) or [None] * rows:
                codes.append(UNKNOWN if value is None else self._code(seen, value))
            if self._known is None and not self._every and len(seen) > MOST_CATEGORIES:
                self._many.append(name)
                del self._codes[name], self._found[name]
        self._rows += rows

    def _code(self, seen: dict[str, int], value: str) -> int:
        if self._known is not None:  # strange ones are kept, to be told of
            return seen.setdefault(value, UNKNOWN) if len(seen) < _MOST_KEPT else seen.get(value, UNKNOWN)
        return seen.setdefault(value, len(seen))

    def finish(self) -> tuple[tuple[Column, ...], tuple[str, ...]]:
        """The columns, numbers by their size before texts, and notes."""
        if self._known is not None:
            return tuple(self._known), self._strange()
        columns, empty = [], []
        for name, seen in self._found.items():
            if not self._every and len(seen) * 2 > max(self._rows, 4):
                self._many.append(name)
            elif not seen:
                empty.append(name)
            else:
                categories = sorted(seen, key=_by_size)
                order = np.empty(len(seen) + 1, np.int64)
                order[[seen[category] for category in categories]] = np.arange(len(seen))
                order[UNKNOWN] = UNKNOWN
                self._order[name] = order
                columns.append(Column(name=name, categories=tuple(categories)))
        notes = tuple(f"`{name}` has no value at all, and is left out." for name in empty)
        if self._many:
            names = ", ".join(f"`{name}`" for name in self._many)
            notes += (f"Columns of many values are left out: {names}.",)
        return tuple(columns), notes

    def codes(self) -> dict[str, np.ndarray]:
        """name -> (N,) int64 codes; call `finish` before."""
        plain = {name: np.array(codes, np.int64) for name, codes in self._codes.items()}
        if self._known is not None:
            return plain
        return {name: order[plain[name]] for name, order in self._order.items()}

    def _strange(self) -> tuple[str, ...]:
        notes = []
        for name, seen in self._found.items():
            strange = [value for value, code in seen.items() if code == UNKNOWN]
            if strange:
                listed = ", ".join(strange[:5]) + (", ..." if len(strange) > 5 else "")
                num = int((np.array(self._codes[name]) == UNKNOWN).sum())
                notes.append(f"{num} values of `{name}` are of no known category ({listed}).")
        return tuple(notes)


def _by_size(name: str) -> tuple[int, float, str]:
    try:
        number = float(name)
    except ValueError:
        return (1, 0.0, name)
    return (0, number, name) if math.isfinite(number) else (1, 0.0, name)
