"""From a table to a data set: its columns found or given, its rows as cells, in memory or mapped from disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from vaekit.data import cache
from vaekit.data.dataset import Dataset
from vaekit.data.schema import Schema, Source
from vaekit.data.tables.coding import Encoder
from vaekit.data.tables.columns import TableColumn, num_channels
from vaekit.data.tables.inference import Inference
from vaekit.data.tables.overrides import Overrides
from vaekit.data.tables.reading import BATCH_ROWS, TableSource, open_source
from vaekit.errors import DataError

MOST_IN_MEMORY = 2**28
"""Bytes of cells up to which a table is held in memory; larger ones are mapped from the cache."""


def open_table(
    source: Any,
    *,
    types: Overrides = None,
    missing_words: Sequence[str] = (),
    delimiter: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    sheet: str | int | None = None,
) -> Dataset:
    """The rows of a table as a data set. The file is read twice, and never held whole: what its columns are, then its cells.

    Args:
        source: a path to .csv, .tsv, .parquet, .arrow or .xlsx, or a frame; see `reading.open_source`.
        types: what a person says of some columns: a dict, `col=type` texts, or the path of a JSON file.
        missing_words: texts that stand for a missing cell in every column.
        delimiter, encoding, header, sheet: see `reading.open_source`.

    Raises:
        DataError: if it cannot be read, has no rows, or holds what a table cannot.
        ConfigError: on an option that cannot be.
    """
    table = open_source(source, delimiter=delimiter, encoding=encoding, header=header, sheet=sheet)
    found = Inference(types, missing_words=missing_words)
    for frame in table.batches(BATCH_ROWS):
        found.update(frame)
    columns, notes = found.finish()
    return _dataset(source, table, columns, found.rows, (*table.notes, *notes), absent="error")


def conform_table(
    source: Any,
    schema: Schema,
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    sheet: str | int | None = None,
    absent: str = "error",
) -> Dataset:
    """The rows of a table as cells of a given schema. What the schema does not know is unknown, and a note says so.

    Args:
        source: a path or a frame; see `reading.open_source`.
        schema: of the table that a model was trained on.
        delimiter, encoding, header, sheet: see `reading.open_source`.
        absent: what to do where a column is not there: `error`, or `unknown` (see `coding.Encoder`).

    Raises:
        DataError: if it cannot be read, lacks a column, or no cell of a column fits.
    """
    if schema.kind != "table":
        raise DataError(f"The data must be {schema.kind}, as those that the model was trained on, found a table.")
    table = open_source(source, delimiter=delimiter, encoding=encoding, header=header, sheet=sheet)
    total = sum(len(frame) for frame in table.batches(BATCH_ROWS))
    if not total:
        raise DataError("A table must have rows, found none. Add data.")
    return _dataset(source, table, schema.table, total, table.notes, absent, schema.source)


def _dataset(
    source: Any,
    table: TableSource,
    columns: tuple[TableColumn, ...],
    total: int,
    notes: tuple[str, ...],
    absent: str,
    origin: Source | None = None,
) -> Dataset:
    encoder = Encoder(columns, absent=absent)  # pyright: ignore[reportArgumentType]
    shape = (total, num_channels(columns))
    cells, missing = _filled(source, table, columns, encoder, shape, absent)
    schema = Schema(
        kind="table",
        shape=shape[1:],
        values="cells",
        low=0.0,
        high=0.0,
        dtype="float64",
        table=columns,
        source=origin or Source(form=table.form, layout="flat", dtype="float64"),
        num_examples=total,
        missing=missing,
    )
    return Dataset(schema, cells, notes=(*notes, *encoder.notes))


def _filled(
    source: Any, table: TableSource, columns: Sequence[TableColumn], encoder: Encoder, shape: tuple[int, int], absent: str
) -> tuple[np.ndarray, bool]:
    """The cells, and whether some are missing."""
    frames = table.batches(BATCH_ROWS)
    if shape[0] * shape[1] * 8 <= MOST_IN_MEMORY:
        cells = np.empty(shape)
        return cells, _fill(cells, frames, encoder)
    slot = _slot(source, columns, absent)
    kept = None if slot is None else cache.find(slot)
    if kept is not None:
        return kept[0], bool(kept[1]["missing"])
    slot = slot or cache.slot_for(Path("frame"), [os.urandom(8).hex()], {})
    try:
        mapped = cache.create(slot, shape, "float64")
    except OSError as error:
        raise DataError(
            f"The cache {slot.folder} must have room for {shape[0] * shape[1] * 8 / 2**30:.1f} GiB of cells, but: {error}. "
            "Make room, or set VAEKIT_CACHE to a folder with more."
        ) from error
    try:
        missing = _fill(mapped, frames, encoder)
    except BaseException:
        cache.discard(mapped)
        raise
    return cache.commit(slot, mapped, {"missing": missing}), missing


def _slot(source: Any, columns: Sequence[TableColumn], absent: str) -> cache.Slot | None:
    if not isinstance(source, str | os.PathLike):
        return None
    path = Path(source).expanduser()
    about = path.stat()
    options = {"table": [column.model_dump(mode="json") for column in columns], "absent": absent}
    return cache.slot_for(path, [f"{path.name} {about.st_size} {about.st_mtime_ns}"], options)


def _fill(cells: np.ndarray, frames: Iterable[pl.DataFrame], encoder: Encoder) -> bool:
    start, missing = 0, False
    for frame in frames:
        rows = encoder.encode(frame)
        cells[start : start + len(rows)] = rows
        missing = missing or bool(np.isnan(rows).any())
        start += len(rows)
    return missing
