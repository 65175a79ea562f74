"""The true factors of a person's own data: columns of a table, or what stands beside the data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vaekit.data.dataset import Dataset, as_numpy
from vaekit.data.schema import UNKNOWN
from vaekit.data.tabular import read_table, spread
from vaekit.errors import DataError

CELLS = 20
"""A factor of more different numbers than `MOST_VALUES` is cut into so many cells of equal width."""

MOST_VALUES = 64
_NOT_FACTORS = ("index", "name")


@dataclass(frozen=True)
class Factors:
    """The factors of N examples.

    Attributes:
        values: (N, F) int64, a number a value in their order, -1 where unknown.
        names: (F,) of the factors.
        numbers: (F,) whether a factor was cut into cells.
    """

    values: np.ndarray
    names: tuple[str, ...]
    numbers: tuple[bool, ...]

    def known(self) -> np.ndarray:
        """The examples all of whose factors are known.

        Raises:
            DataError: if there are none.
        """
        rows = np.flatnonzero((self.values != UNKNOWN).all(1))
        if not len(rows):
            raise DataError("Some examples must have all of their factors known, found none. Leave out some columns.")
        return rows

    def varying(self, rows: np.ndarray) -> tuple[np.ndarray, tuple[str, ...], tuple[int, ...], tuple[str, ...]]:
        """Of some examples: the factors that vary (n, F), their names, the places of those that are numbers, and notes.

        Raises:
            DataError: if fewer than two vary.
        """
        values = self.values[rows]
        varied = [f for f in range(len(self.names)) if len(values) and np.ptp(values[:, f]) > 0]
        constant = [name for f, name in enumerate(self.names) if f not in varied]
        if len(varied) < 2:
            found = ", ".join(self.names[f] for f in varied) or "none"
            raise DataError(
                f"Two factors at least must take different values, found {found}. Give a table with a column a factor as "
                "`factors` (`--factors`)."
            )
        notes = (f"{', '.join(constant)} is the same in all examples, and left out.",) if constant else ()
        left = len(self.values) - len(rows)
        notes += (f"{left:,} of {len(self.values):,} examples are left out.",) if left else ()
        cut = [self.names[f] for f in varied if self.numbers[f]]
        notes += (f"{', '.join(cut)}: numbers in {CELLS} cells of equal width.",) if cut else ()
        places = tuple(place for place, f in enumerate(varied) if self.numbers[f])
        return values[:, varied], tuple(self.names[f] for f in varied), places, notes


def factors_beside(dataset: Dataset, source: Any = None) -> Factors:
    """The factors of data: the columns beside them, or those of a table.

    Args:
        dataset: N examples.
        source: None for the data's own columns; or what `read_factors` takes.

    Raises:
        DataError: if there are none, or not a row an example.
    """
    if source is None:
        if not dataset.columns:
            raise DataError("The data must come with factors, found no columns. Give a table as `factors` (`--factors`).")
        columns = tuple(dataset.columns)
        kinds = {name: values.dtype.kind for name, values in dataset.columns.items()}
        coded = [_cut(v) if kinds[name] == "f" else (v.astype(np.int64), False) for name, v in dataset.columns.items()]
        return Factors(np.stack([codes for codes, _ in coded], axis=1), columns, tuple(cut for _, cut in coded))
    return read_factors(source, len(dataset), dataset.names)


def read_factors(source: Any, num: int, names: Sequence[str] | None = None) -> Factors:
    """The factors of N examples from a table.

    Each column is a factor, and (N, F) arrays are F of them. Text and booleans are categories; whole numbers, and numbers of at
    most 64 different values, are values; other numbers are cut into 20 cells. Empty text and NaN are unknown. A column `index`
    is no factor. Where a column `name` and the examples have file names, rows go by them, in any order.

    Args:
        source: the path of a .csv, .tsv, .parquet, .npz or .jsonl table, or a mapping of columns.
        num: N.
        names: of the examples' files, or None.

    Raises:
        DataError: if there is not a row an example, or no column is a factor.

    Example:
        >>> found = read_factors({"shape": ["cube", "ball", ""], "angle": [0.0, 30.0, 0.0]}, 3)
        >>> found.names, found.values.tolist()
        (('shape', 'angle'), [[1, 0], [0, 1], [-1, 0]])
    """
    given = read_table(source) if isinstance(source, str | os.PathLike) else {str(k): as_numpy(v) for k, v in source.items()}
    columns = spread({name: np.asarray(values) for name, values in given.items()})
    order = None if names is None or "name" not in columns else _order(columns["name"], names)
    length = num if order is None else len(columns["name"])
    columns = {name: values for name, values in columns.items() if name not in _NOT_FACTORS}
    wrong = next((name for name, values in columns.items() if len(values) != length), None)
    if wrong is not None:
        raise DataError(f"Factors must have a row an example, {length:,}; `{wrong}` has {len(columns[wrong]):,}. Give as many.")
    if not columns:
        raise DataError("A table of factors must have a column a factor, found none. Give one with a name in its first line.")
    coded = {name: _codes(values if order is None else values[order]) for name, values in columns.items()}
    values = np.stack([codes for codes, _ in coded.values()], axis=1)
    return Factors(values, tuple(coded), tuple(cut for _, cut in coded.values()))


def _order(rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """(N,) which row each example has, by their names, or by the files' own names where no two are the same."""
    places = {str(name): row for row, name in enumerate(rows.tolist())}
    found = [places.get(name, -1) for name in names]
    short = {Path(name).name: row for name, row in places.items()}
    if -1 in found and len(short) == len(places) and len({Path(name).name for name in names}) == len(names):
        found = [short.get(Path(name).name, -1) for name in names]
    if min(found, default=0) < 0:
        which = names[found.index(-1)]
        raise DataError(f"The table of factors must have a row for every file, found none for {which}. Add it.")
    return np.array(found, dtype=np.int64)


def _codes(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """(N,) 0, 1, ... for the values in their order, -1 where unknown; and whether numbers were cut into cells."""
    if values.dtype.kind in "iubf":
        return _cut(values.astype(np.float64))
    texts = ["" if value is None or value != value else str(value) for value in values.tolist()]
    known = {text: code for code, text in enumerate(sorted(set(texts) - {""}))}
    return np.array([known.get(text, UNKNOWN) for text in texts], dtype=np.int64), False


def _cut(values: np.ndarray) -> tuple[np.ndarray, bool]:
    codes = np.full(len(values), UNKNOWN, dtype=np.int64)
    there = np.isfinite(values)
    if not there.any():
        return codes, False
    found, places = np.unique(values[there], return_inverse=True)
    if len(found) <= MOST_VALUES:
        codes[there] = places.reshape(-1)
        return codes, False
    cells = np.linspace(found[0], found[-1], CELLS + 1)[1:-1]
    codes[there] = np.searchsorted(cells, values[there], side="right")
    return codes, True
