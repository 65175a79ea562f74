"""Arrays as data: whether they are images or vectors, how the images lie, and their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from vaekit.data.arrayfiles import Arrays, from_mapping
from vaekit.data.checks import constant_note, duplicates_note, few_levels_note
from vaekit.data.dataset import Dataset, as_numpy, from_source, to_chw
from vaekit.data.labels import columns_of, conform_columns
from vaekit.data.schema import AnyColumn, Schema, Source
from vaekit.data.values import Kind, Values, ValuesName, check_array, find_values, store
from vaekit.errors import ConfigError, DataError

Layout = Literal["CHW", "HWC", "HW", "flat"]
_CHANNELS = (1, 3, 4)
_LAYOUT_NDIM = {"HW": 3, "HWC": 4, "CHW": 4}


def as_arrays(source: Any, y: Any = None) -> Arrays:
    """An array, a tensor, nested lists, or a dict of them with the keys of an .npz file.

    Args:
        source: the examples.
        y: labels (N,), or a dict of columns (N,) by their names.
    """
    if isinstance(source, Mapping):
        return from_mapping({str(key): as_numpy(value) for key, value in source.items()}, "A dict of arrays")
    if isinstance(y, Mapping):
        return Arrays("array", {"": (as_numpy(source), None)}, beside={"": {str(k): as_numpy(v) for k, v in y.items()}})
    return Arrays("array", {"": (as_numpy(source), None if y is None else as_numpy(y))})


def open_arrays(
    arrays: Arrays,
    *,
    kind: Kind | None = None,
    layout: Layout | None = None,
    values: ValuesName | None = None,
    levels: int | None = None,
    missing: Literal["nan"] | None = None,
) -> Dataset:
    """Arrays as a data set.

    (N, D) are vectors, (N, H, W) grey images, (N, H, W, C) and (N, C, H, W) images, the axis of 1, 3 or 4 being the channels.

    Args:
        arrays: what the source holds.
        kind: `images` or `vectors`, whatever the shape suggests.
        layout: how an example lies: `HW`, `HWC`, `CHW` or `flat`.
        values: what to take the values as: `binary`, `levels` or `continuous`.
        levels: the number of levels.
        missing: `nan` takes NaN as missing.

    Raises:
        DataError: on data that a model cannot be trained on; each problem has its own sentence.
        ConfigError: on an option that cannot be.
    """
    if missing not in (None, "nan"):
        raise ConfigError(
            f"`missing` must be 'nan' or left out, got {missing!r}. Use 'nan' where NaN stands for a missing value."
        )
    _check_parts(arrays)
    xs = [x for x, _ in arrays.parts.values()]
    kind, layout = _interpret(xs[0], kind, layout)
    stored = [_writable_layout(x, layout) for x in xs]
    grid = find_values(stored, kind, values, levels, missing == "nan")
    x = store(stored, grid)
    columns, values_beside, label_notes = columns_of(arrays)
    splits = _splits(arrays)
    schema = _schema(arrays, x, kind, layout, grid, columns)
    notes = (
        *arrays.notes,
        *_value_notes(xs, grid, kind, layout),
        *(few_levels_note(grid, xs[0].dtype, kind) if levels is None else ()),
        *label_notes,
        *constant_note(x, kind),
        *duplicates_note(x, splits),
    )
    return Dataset(schema, x, values_beside, _mask(stored, grid), splits=splits, notes=notes)


def conform_arrays(arrays: Arrays, schema: Schema, *, missing: Literal["nan"] | None = None) -> Dataset:
    """Arrays as a data set of a given schema.

    Raises:
        DataError: with what differs from the schema.
    """
    xs, masks = [], []
    for name, (x, y) in arrays.parts.items():
        _check_lengths(arrays, name, x, y)
        stored, mask = from_source(x, schema, missing=True if missing == "nan" else None)
        xs.append(stored)
        masks.append(np.ones(stored.shape, bool) if mask is None else mask)
    x = xs[0] if len(xs) == 1 else np.concatenate(xs)
    mask = None if all(mask.all() for mask in masks) else np.concatenate(masks)
    columns, notes = conform_columns(arrays, schema)
    found = schema.model_copy(update={"num_examples": len(x), "missing": mask is not None})
    return Dataset(found, x, columns, mask, splits=_splits(arrays), notes=(*arrays.notes, *notes))


def _check_parts(arrays: Arrays) -> None:
    shapes = {}
    for name, (x, y) in arrays.parts.items():
        check_array(x, f"`x_{name}`" if name else "The data")
        shapes[name] = x.shape[1:]
        _check_lengths(arrays, name, x, y)
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{shape} in `{name}`" for name, shape in shapes.items())
        raise DataError(f"All splits must have examples of one shape, found {found}. Bring them to the same shape.")


def _check_lengths(arrays: Arrays, part: str, x: np.ndarray, y: np.ndarray | None) -> None:
    ending = f"_{part}" if part else ""
    given = {} if y is None else {"y": y}
    for name, values in {**given, **arrays.beside.get(part, {})}.items():
        if values.shape[:1] != x.shape[:1]:
            raise DataError(
                f"`{name}{ending}` must have one label per example, found the shape {values.shape} for {len(x)} examples. "
                "Check that they belong together."
            )


def _interpret(x: np.ndarray, kind: Kind | None, layout: Layout | None) -> tuple[Kind, Layout]:
    if kind not in (None, "images", "vectors"):
        raise ConfigError(f"`kind` must be images or vectors, got {kind!r}. Leave it out to go by the shape.")
    if layout not in (None, "CHW", "HWC", "HW", "flat"):
        raise ConfigError(f"`layout` must be CHW, HWC, HW or flat, got {layout!r}. Leave it out to go by the shape.")
    if kind is None:
        kind = "vectors" if layout == "flat" or (layout is None and x.ndim == 2) else "images"
    if (kind == "vectors") != (layout == "flat") and layout is not None:
        fits = "flat" if kind == "vectors" else "CHW, HWC or HW"
        raise ConfigError(f"`layout` must be {fits} for {kind}, got {layout!r}. Leave out one of the two.")
    if kind == "vectors":
        return kind, "flat"
    layout = layout or _image_layout(x)
    if x.ndim != _LAYOUT_NDIM.get(layout):
        axes = "(N, H, W)" if layout == "HW" else "(N, C, H, W) or (N, H, W, C)"
        raise DataError(
            f"Images in the layout {layout} must have the shape {axes}, found {x.shape}. "
            "Reshape the data, for example `x.reshape(-1, 28, 28)`, or use `kind='vectors'`."
        )
    return kind, layout


def _image_layout(x: np.ndarray) -> Layout:
    """The layout that a shape suggests; where both axes could be the channels, the smaller one, then the last."""
    if x.ndim != 4:
        return "HW" if x.ndim == 3 else "CHW"
    first, last = x.shape[1], x.shape[-1]
    if last not in _CHANNELS:
        return "CHW"
    return "CHW" if first in _CHANNELS and first < last else "HWC"


def _writable_layout(x: np.ndarray, layout: Layout) -> np.ndarray:
    """(N, *S): in memory as one block, so that a batch is a run of bytes an example; a map stays a map."""
    moved = to_chw(x, layout)
    return moved if isinstance(moved, np.memmap) else np.ascontiguousarray(moved)


def _mask(stored: Sequence[np.ndarray], grid: Values) -> np.ndarray | None:
    return ~np.isnan(np.concatenate(stored)) if grid.missing else None


def _schema(arrays: Arrays, x: np.ndarray, kind: Kind, layout: Layout, grid: Values, columns: tuple[AnyColumn, ...]) -> Schema:
    dtype = next(iter(arrays.parts.values()))[0].dtype
    return Schema(
        kind=kind,
        shape=x.shape[1:],
        **{name: getattr(grid, name) for name in ("values", "levels", "offset", "step", "low", "high", "dtype", "missing")},
        columns=columns,
        source=Source(form=arrays.form, layout=layout, dtype=dtype.name),
        num_examples=len(x),
    )


def _splits(arrays: Arrays) -> dict[str, np.ndarray]:
    splits, first = {}, 0
    for name, (x, _) in arrays.parts.items():
        if name:
            splits[name] = np.arange(first, first + len(x))
        first += len(x)
    return splits


def _value_notes(xs: Sequence[np.ndarray], grid: Values, kind: Kind, layout: Layout) -> tuple[str, ...]:
    notes = []
    if kind == "vectors" and xs[0].ndim > 2:
        notes.append(f"Examples of the shape {xs[0].shape[1:]} are taken as vectors of {xs[0][:1].size} values.")
    if kind == "images" and xs[0].ndim == 4 and xs[0].shape[1] in _CHANNELS and xs[0].shape[-1] in _CHANNELS:
        notes.append(f"The shape {xs[0].shape[1:]} is taken as {layout}; `layout=` (`--layout`) says otherwise.")
    if grid.values == "continuous" and xs[0].dtype.kind in "iu" and max(abs(grid.low), abs(grid.high)) > 2**24:
        notes.append("Integers above 16,777,216 are rounded to the nearest 32-bit float.")
    return tuple(notes)
