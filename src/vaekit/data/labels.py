"""The columns beside arrays: labels that are categories, and measurements that are numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vaekit.data.arrayfiles import LABEL, Arrays
from vaekit.data.schema import UNKNOWN, Column, NumberColumn, Schema
from vaekit.errors import DataError

_Parts = Sequence[tuple[int, np.ndarray | None]]
"""How many examples each part has, and a column's values there, or None."""

_AMBIGUOUS = (
    "-1 is taken for an unknown `{name}`, as the others are 0 to {last}. Give text where -1 is a category, and NaN where a "
    "label is not known to be plain."
)


def columns_of(arrays: Arrays) -> tuple[tuple[Column | NumberColumn, ...], dict[str, np.ndarray], tuple[str, ...]]:
    """The columns over all parts, by name the codes or numbers of each (N,), and notes.

    Integers, whole numbers and text are categories; other numbers are numbers. NaN and the empty text are unknown, and -1 is
    where the others are 0, 1, ..., C - 1 with C at least 3.

    Raises:
        DataError: if a column is neither, or not finite.
    """
    columns, values, notes = [], {}, []
    for name, parts in _by_name(arrays).items():
        known = [y for _, y in parts if y is not None]
        printed = [_printed(y, name) for y in known]
        if any(part is None for part in printed):
            numbers = np.concatenate([_numbers(y, num, name) for num, y in parts])
            columns.append(NumberColumn.of(name, numbers))
            values[name] = numbers
            continue
        names = {str(text) for part in printed if part is not None for text in np.unique(part)} - {""}
        if _has_unlabelled(names, known):
            names.discard(str(UNKNOWN))
            notes.append(_AMBIGUOUS.format(name=name, last=len(names) - 1))
        column = Column(name=name, categories=tuple(sorted(names, key=_category_order)))
        columns.append(column)
        values[name] = np.concatenate([_codes(y, num, column) for num, y in parts])
    return tuple(columns), values, tuple(notes)


def conform_columns(arrays: Arrays, schema: Schema) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The columns of a schema that arrays have, and notes on values that it does not know.

    Raises:
        DataError: if what must be numbers is none.
    """
    values, notes = {}, []
    found = _by_name(arrays)
    for column in schema.columns:
        parts = found.get(column.name, [])
        if all(y is None for _, y in parts):
            continue
        if isinstance(column, NumberColumn):
            values[column.name] = np.concatenate([_numbers(y, num, column.name) for num, y in parts])
            continue
        printed = [np.full(num, "") if y is None else _printed(y, column.name) for num, y in parts]
        if any(part is None for part in printed):
            notes.append(
                f"`{_shown(column.name)}` holds measurements, not the categories that the model knows, and is not used."
            )
            continue
        texts = np.concatenate([part for part in printed if part is not None])
        if str(UNKNOWN) not in column.categories and _has_unlabelled({*column.categories, str(UNKNOWN)}, [np.zeros(0, int)]):
            texts = np.where(texts == str(UNKNOWN), "", texts)
        values[column.name], strange = label_codes(texts, column)
        notes += strange
    return values, tuple(notes)


def label_codes(printed: Sequence[str] | np.ndarray, column: Column) -> tuple[np.ndarray, tuple[str, ...]]:
    """The codes (N,) of printed categories, `UNKNOWN` for those that the column does not have, and a note about these."""
    names, inverse = np.unique(np.asarray(printed, dtype=str), return_inverse=True)
    known = {category: code for code, category in enumerate(column.categories)}
    codes = np.array([known.get(str(name), UNKNOWN) for name in names], np.int64)[inverse]
    strange = [str(name) for name in names if str(name) not in known and name != ""]
    if not strange:
        return codes, ()
    listed = ", ".join(strange[:5]) + (", ..." if len(strange) > 5 else "")
    return codes, (f"{int((codes == UNKNOWN).sum())} values of `{column.name}` are of no known category ({listed}).",)


def _by_name(arrays: Arrays) -> dict[str, list[tuple[int, np.ndarray | None]]]:
    """Each column's values in every part."""
    of_part: list[tuple[int, Mapping[str, np.ndarray]]] = []
    for name, (x, y) in arrays.parts.items():
        given = {} if y is None else {LABEL: y}
        of_part.append((len(x), {**given, **arrays.beside.get(name, {})}))
    names = dict.fromkeys(name for _, given in of_part for name in given)
    return {name: [(num, given.get(name)) for num, given in of_part] for name in names}


def _codes(y: np.ndarray | None, num: int, column: Column) -> np.ndarray:
    printed = None if y is None else _printed(y, column.name)
    return column.unknown(num) if printed is None else label_codes(printed, column)[0]


def _numbers(y: np.ndarray | None, num: int, name: str) -> np.ndarray:
    """(N,) float64, NaN where unknown."""
    if y is None:
        return np.full(num, np.nan)
    y = _flat(y, name)
    if y.dtype.kind in "SU":
        texts = np.char.decode(y, "utf-8", "replace") if y.dtype.kind == "S" else y
        y = np.where(np.char.strip(texts) == "", "nan", texts)
    try:
        numbers = y.astype(np.float64)
    except ValueError as error:
        raise DataError(f"`{_shown(name)}` must be numbers, but: {error}. Write NaN where a number is not known.") from None
    if np.isinf(numbers).any():
        raise DataError(f"`{_shown(name)}` must be finite numbers, found infinities. Write NaN where a number is not known.")
    return numbers


def _has_unlabelled(names: set[str], known: Sequence[np.ndarray]) -> bool:
    """Whether -1 stands for no label: beside 0, 1, ..., C - 1, of at least 3 categories."""
    if str(UNKNOWN) not in names or any(y.dtype.kind not in "if" for y in known):
        return False
    return len(names) > 3 and names == {str(code) for code in range(UNKNOWN, len(names) - 1)}


def _flat(y: np.ndarray, name: str) -> np.ndarray:
    y = y.reshape(len(y)) if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1 or y.dtype.kind not in "biufUS":
        raise DataError(
            f"`{_shown(name)}` must be one label per example, a 1-D array of integers or text; found {y.dtype} of the shape "
            f"{y.shape}. For one-hot labels use `y.argmax(1)`; for objects `y.astype(str)`."
        )
    return y


def _printed(y: np.ndarray, name: str) -> np.ndarray | None:
    """Labels as they print, empty where missing; None if they are measurements."""
    y = _flat(y, name)
    if y.dtype.kind == "S":
        return np.char.decode(y, "utf-8", "replace")
    if y.dtype.kind != "f":
        return y.astype(str)
    known = np.isfinite(y)
    if np.any(y[known] != np.rint(y[known])):
        return None
    return np.where(known, np.where(known, y, 0).astype(np.int64).astype(str), "")


def _shown(name: str) -> str:
    return "y" if name == LABEL else name


def _category_order(name: str) -> tuple[int, int, str]:
    """Whole numbers by their size, before text in its own order."""
    digits = name.removeprefix("-")
    return (0, int(name), name) if digits.isascii() and digits.isdigit() else (1, 0, name)
