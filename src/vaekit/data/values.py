"""The grid that values lie on: which it is, and the way to level codes and back.

source value = offset + step * level,  level in 0..V-1     (binary and levels)
source value = stored value                                (continuous)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vaekit.errors import ConfigError, DataError

Kind = Literal["images", "vectors"]
ValuesName = Literal["binary", "levels", "continuous"]

FLOAT_MAX = float(np.finfo(np.float32).max)
"""The greatest value that continuous data may have."""

_CHUNK_ELEMENTS = 2**22
_MAX_LEVELS = 65_536
_FIX_DTYPE = {
    "O": "an array of Python objects (rows of unequal length, or mixed types)",
    "U": "text",
    "S": "text",
    "c": "complex numbers",
    "M": "dates",
    "m": "time spans",
    "V": "records",
}


@dataclass(frozen=True)
class Values:
    """The grid of a data set, as it stands in its schema.

    Attributes:
        values: `binary`, `levels` or `continuous`.
        levels: the number of levels V; None for continuous.
        offset, step: a source value is offset + step * level.
        low, high: the least and the greatest source value.
        dtype: what the codes, or the values, are stored in.
        missing: whether some elements are NaN.
    """

    values: ValuesName
    levels: int | None
    offset: float
    step: float
    low: float
    high: float
    dtype: Literal["uint8", "uint16", "float32"]
    missing: bool = False


def check_array(array: np.ndarray, name: str = "The data") -> None:
    """Checks that an array holds real numbers, and some.

    Raises:
        DataError: if the dtype is not boolean, integer or float, or if an axis is empty.
    """
    if array.dtype.kind not in "biuf":
        found = _FIX_DTYPE.get(array.dtype.kind, "something else")
        raise DataError(
            f"{name} must be booleans, integers or floats, found {found} (dtype {array.dtype}). "
            "Convert to numbers, for example with `.astype('float32')`."
        )
    if array.ndim < 2:
        shape = "a single number" if array.ndim == 0 else f"a 1-D array of {len(array)} values"
        raise DataError(
            f"{name} must have one row per example, found {shape}. "
            "Use `reshape(-1, 1)` for one value per example, or `reshape(1, -1)` for one example."
        )
    if array.size == 0:
        raise DataError(
            f"{name} must have at least one example and one value in each, found the shape {array.shape}. Check its source."
        )


def chunks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Runs of whole rows of at most 2^22 elements, each with the index of its first row.

    Example:
        >>> [(start, len(rows)) for start, rows in chunks(np.zeros((5, 2**21)))]
        [(0, 2), (2, 2), (4, 1)]
    """
    rows = max(1, _CHUNK_ELEMENTS // max(1, array[:1].size))
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]


def find_values(
    parts: Sequence[np.ndarray], kind: Kind, values: ValuesName | None = None, levels: int | None = None, missing: bool = False
) -> Values:
    """The grid that the values of all parts lie on.

    Two distinct values are binary; 8- and 16-bit images have 256 and 65,536 levels; whole numbers of a small range have
    a level each (whole numbers that fill more than half of 0..255 have 256); floats in [0, 1] that are all k/255 have
    256 levels; all else is continuous.

    Args:
        parts: arrays (N, ...) of the same dtype kind, such as train and test.
        kind: of the data; images and vectors differ in how many levels are still levels.
        values: what to take the values as, whatever they look like.
        levels: the number of levels V, where the data do not show it.
        missing: whether NaN stands for a missing element.

    Raises:
        DataError: on NaN (unless `missing`), infinities, constant data, or data that `values` or `levels` do not fit.
        ConfigError: if `values` or `levels` cannot be.
    """
    _check_options(values, levels)
    scan = _scan(parts, missing)
    if scan.low == scan.high:
        raise DataError(f"The data must vary, found the value {scan.low:g} everywhere (constant data). Check how it was made.")
    grid = None
    if values == "binary" or levels == 2:
        grid = _binary_grid(parts, scan)
        if grid is None:
            raise DataError(
                f"Binary data must have two distinct values, found more, between {scan.low:g} and {scan.high:g}. "
                "Round the data to two values first, or leave out `values` and `levels`."
            )
    elif levels is not None:
        grid = _given_grid(parts, scan, levels)
    elif values != "continuous":
        grid = _binary_grid(parts, scan) if values is None else None
        grid = grid or _level_grid(parts, scan, kind)
        if grid is None and values == "levels":
            raise DataError(
                f"Levels must be whole numbers of a small range, or k/255; found values between {scan.low:g} and {scan.high:g} "
                "that are not. Give the number of levels (`levels=`, `--levels`), or use `values='continuous'`."
            )
    return _continuous(scan) if grid is None else _on_grid(scan, *grid)


def store(parts: Sequence[np.ndarray], values: Values) -> np.ndarray:
    """The parts one after another, as level codes or float32. One part that is stored as it is, is not copied."""
    if len(parts) == 1 and _is_stored_already(parts[0].dtype, values):
        return parts[0]
    total = sum(len(part) for part in parts)
    out = np.empty((total, *parts[0].shape[1:]), values.dtype)
    first = 0
    for part in parts:
        for start, rows in chunks(part):
            out[first + start : first + start + len(rows)] = _stored(rows, values)
        first += len(part)
    return out


def codes_of(rows: np.ndarray, values: Values) -> tuple[np.ndarray, np.ndarray]:
    """Level codes as float64, and where the source values are not on the grid (a bool array)."""
    exact = (rows.astype(np.float64) - values.offset) / values.step
    codes = np.rint(exact)
    off = (np.abs(exact - codes) > _tolerance(rows.dtype)) | (codes < 0) | (codes > (values.levels or 1) - 1)
    return codes, off


def from_levels(levels: np.ndarray, offset: float, step: float) -> np.ndarray:
    """offset + step * level as float64; k/n exactly as a division gives it where step is 1/n.

    Example:
        >>> from_levels(np.array([0, 1, 3]), 0.0, 1 / 3).tolist() == [0.0, 1 / 3, 1.0]
        True
    """
    levels = levels.astype(np.float64)
    parts = 1.0 / step
    if step < 1.0 and abs(parts - round(parts)) < 1e-9 * parts:
        return offset + levels / round(parts)
    return offset + step * levels


@dataclass(frozen=True)
class _Scan:
    low: float
    high: float
    dtype: np.dtype
    missing: bool


def _check_options(values: str | None, levels: int | None) -> None:
    if values not in (None, "binary", "levels", "continuous"):
        raise ConfigError(f"`values` must be binary, levels or continuous, got {values!r}. Leave it out to go by the data.")
    if levels is not None and not 2 <= levels <= _MAX_LEVELS:
        raise ConfigError(f"`levels` must be between 2 and {_MAX_LEVELS}, got {levels}. Use `values='continuous'` for more.")
    if levels is not None and values == "continuous":
        raise ConfigError(f"`levels` must be left out for continuous values, got {levels}. Leave out one of the two.")
    if levels not in (None, 2) and values == "binary":
        raise ConfigError(f"Binary values must have 2 levels, got levels={levels}. Leave out one of the two.")


def _scan(parts: Sequence[np.ndarray], missing: bool) -> _Scan:
    """One pass: range, NaN and infinities."""
    low, high, nan_rows, inf_rows, total = np.inf, -np.inf, 0, 0, 0
    for part in parts:
        total += len(part)
        for _, rows in chunks(part):
            if rows.dtype.kind == "f":
                flat = rows.reshape(len(rows), -1)
                nan_rows += int(np.isnan(flat).any(axis=1).sum())
                inf_rows += int(np.isinf(flat).any(axis=1).sum())
            low, high = min(low, _nan_to(np.fmin, rows, np.inf)), max(high, _nan_to(np.fmax, rows, -np.inf))
    if inf_rows:
        raise DataError(f"The data must be finite, found infinities in {inf_rows} of {total} rows. Remove or replace them.")
    if nan_rows and not missing:
        raise DataError(
            f"The data must have no NaN, found some in {nan_rows} of {total} rows. "
            "Use `missing='nan'` (`--missing nan`) to take NaN as missing values, or fill them in."
        )
    if low > high:
        raise DataError("The data must have values, found nothing but NaN. Check how they were made.")
    if max(abs(low), abs(high)) > FLOAT_MAX:
        raise DataError(f"The data must fit a 32-bit float, found {max(abs(low), abs(high)):g}. Divide by a constant first.")
    return _Scan(low, high, parts[0].dtype, bool(nan_rows))


def _nan_to(function: np.ufunc, rows: np.ndarray, empty: float) -> float:
    """The least or greatest value that is not NaN, as a Python number (exact for integers)."""
    found = function.reduce(rows, axis=None) if rows.dtype.kind != "b" else (rows.min() if empty > 0 else rows.max())
    value = found.item()
    return empty if value != value else value


def _binary_grid(parts: Sequence[np.ndarray], scan: _Scan) -> tuple[int, float, float] | None:
    """(2, low, high - low) if there are two distinct values, and that gives both back exactly."""
    offset, step = float(scan.low), float(scan.high) - float(scan.low)
    both = np.array([scan.low, scan.high], dtype=scan.dtype)
    if scan.dtype.kind != "b" and np.any(np.array([offset, offset + step]).astype(scan.dtype) != both):
        return None
    low, high = both
    if all(_everywhere(rows, (rows == low) | (rows == high)) for part in parts for _, rows in chunks(part)):
        return 2, offset, step
    return None


def _level_grid(parts: Sequence[np.ndarray], scan: _Scan, kind: Kind) -> tuple[int, float, float] | None:
    if kind == "images" and scan.dtype in (np.uint8, np.uint16):
        return (256 if scan.dtype == np.uint8 else _MAX_LEVELS), 0.0, 1.0
    if _all_whole(parts):
        return _whole_grid(scan, _MAX_LEVELS if kind == "images" else 256)
    if scan.low >= 0 and scan.high <= 1 and _all_on(parts, 0.0, 1 / 255):
        return 256, 0.0, 1 / 255
    return None


def _whole_grid(scan: _Scan, most: int) -> tuple[int, float, float] | None:
    low, high = int(scan.low), int(scan.high)
    if low >= 0 and 128 <= high <= 255:
        return 256, 0.0, 1.0
    if most == _MAX_LEVELS and low >= 0:
        low = 0
    if high - low + 1 > most or int(float(low)) != low:
        return None
    return high - low + 1, float(low), 1.0


def _given_grid(parts: Sequence[np.ndarray], scan: _Scan, levels: int) -> tuple[int, float, float]:
    if scan.low >= 0 and scan.high < levels and _all_whole(parts):
        return levels, 0.0, 1.0
    if scan.low >= 0 and scan.high <= 1 and _all_on(parts, 0.0, 1 / (levels - 1)):
        return levels, 0.0, 1 / (levels - 1)
    raise DataError(
        f"With levels={levels} the values must be whole numbers from 0 to {levels - 1}, or multiples of 1/{levels - 1} "
        f"in [0, 1]; found values between {scan.low:g} and {scan.high:g} that are not. "
        "Give another `levels=` (`--levels`), or leave it out."
    )


def _all_whole(parts: Sequence[np.ndarray]) -> bool:
    if parts[0].dtype.kind in "biu":
        return True
    return all(_everywhere(rows, rows == np.rint(rows)) for part in parts for _, rows in chunks(part))


def _all_on(parts: Sequence[np.ndarray], offset: float, step: float) -> bool:
    grid = Values("levels", round(1 / step) + 1, offset, step, 0.0, 1.0, "uint16")
    return all(_everywhere(rows, ~codes_of(rows, grid)[1]) for part in parts for _, rows in chunks(part))


def _everywhere(rows: np.ndarray, fits: np.ndarray) -> bool:
    return bool(np.all(fits | np.isnan(rows))) if rows.dtype.kind == "f" else bool(np.all(fits))


def _tolerance(dtype: np.dtype) -> float:
    """How far from a level, in levels, a value may be by rounding alone."""
    return 0.07 if dtype == np.float16 else 1e-3


def _on_grid(scan: _Scan, levels: int, offset: float, step: float) -> Values:
    name: ValuesName = "binary" if levels == 2 else "levels"
    dtype = "uint8" if levels <= 256 else "uint16"
    return Values(name, levels, offset, step, float(scan.low), float(scan.high), dtype, scan.missing)


def _continuous(scan: _Scan) -> Values:
    return Values("continuous", None, 0.0, 1.0, float(scan.low), float(scan.high), "float32", scan.missing)


def _is_stored_already(dtype: np.dtype, values: Values) -> bool:
    return dtype == np.dtype(values.dtype) and values.offset == 0.0 and values.step == 1.0 and not values.missing


def _stored(rows: np.ndarray, values: Values) -> np.ndarray:
    """Level codes, or float32; 0 where NaN."""
    if _is_stored_already(rows.dtype, values):
        return rows
    if values.missing and rows.dtype.kind == "f":
        rows = np.where(np.isnan(rows), rows.dtype.type(values.offset), rows)
    if values.values == "continuous":
        return rows.astype(np.float32)
    return codes_of(rows, values)[0].astype(values.dtype)
