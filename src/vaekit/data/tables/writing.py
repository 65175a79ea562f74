"""Tables as files and frames: each in the form that the source had, or another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from vaekit.data.output import atomic_file, listed
from vaekit.errors import ConfigError, require

WRITE_SUFFIXES = (".csv", ".tsv", ".parquet", ".arrow", ".feather", ".xlsx")
_MAX_SHEET = (1_048_575, 16_384)


def write(frame: pl.DataFrame, path: str | os.PathLike[str], force: bool = False, *, delimiter: str | None = None) -> None:
    """A frame as a file, whole or not at all; the ending chooses the form.

    In text files a missing cell is empty, and the empty text `""`.

    Args:
        frame: to write.
        path: ending in .csv, .tsv, .parquet, .arrow, .feather or .xlsx.
        force: replace what is there.
        delimiter: of a text file, if not the one of its ending.

    Raises:
        ConfigError: on another ending, or if it cannot be written.
        DataError: if it exists, and `force` is False.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WRITE_SUFFIXES:
        raise ConfigError(f"A table must end in {listed(WRITE_SUFFIXES)}, got `{path}`. Choose another ending.")
    if suffix == ".xlsx":
        require("xlsxwriter", "table", "Writing .xlsx files")
        if len(frame) > _MAX_SHEET[0] or frame.width > _MAX_SHEET[1]:
            raise ConfigError(
                f"A sheet must have at most {_MAX_SHEET[0]:,} rows and {_MAX_SHEET[1]:,} columns, got {len(frame):,} and "
                f"{frame.width:,}. Choose another ending, such as .parquet."
            )
    with atomic_file(path, force) as temporary:
        if suffix in (".csv", ".tsv"):
            frame.write_csv(temporary, separator=delimiter or ("\t" if suffix == ".tsv" else ","))
        elif suffix == ".parquet":
            frame.write_parquet(temporary)
        elif suffix == ".xlsx":
            frame.write_excel(str(temporary), autofit=False)
        else:
            frame.write_ipc(temporary)


def to_form(frame: pl.DataFrame, form: str) -> Any:
    """A frame as what the source was: a pandas frame for `pandas`, a dict of arrays for `dict`, else a Polars frame.

    Args:
        frame: as `decode` gives it.
        form: of a source (see `reading.Form`); of files it is a Polars frame.

    Raises:
        MissingExtraError: if pandas or pyarrow is not installed.
    """
    if form == "pandas":
        return _to_pandas(frame)
    if form == "pyarrow":
        require("pyarrow", "table", "Giving Arrow tables back")
        return frame.to_arrow()
    if form == "dict":
        return {name: frame[name].to_list() for name in frame.columns}
    return frame


def _to_pandas(frame: pl.DataFrame) -> Any:
    pandas = require("pandas", "table", "Giving pandas frames back")
    columns = {index: _pandas_column(pandas, frame[name]) for index, name in enumerate(frame.columns)}
    found = pandas.DataFrame(columns)
    found.columns = frame.columns
    return found


def _pandas_column(pandas: Any, cells: pl.Series) -> Any:
    dtype = cells.dtype
    if dtype in (pl.Categorical, pl.Enum):
        if isinstance(dtype, pl.Enum):
            categories = dtype.categories.to_list()
        else:
            categories = sorted(cells.drop_nulls().unique().cast(pl.String).to_list())
        texts = cells.cast(pl.String).to_list()
        return pandas.Categorical(texts, categories=categories, ordered=isinstance(dtype, pl.Enum))
    if cells.null_count() and dtype.is_integer():
        mask = cells.is_null().to_numpy()
        return pandas.arrays.IntegerArray(cells.fill_null(0).to_numpy().copy(), mask)
    if cells.null_count() and dtype == pl.Boolean:
        mask = cells.is_null().to_numpy()
        return pandas.arrays.BooleanArray(cells.fill_null(False).to_numpy().copy(), mask)
    if dtype.is_numeric() and not dtype.is_decimal():
        return cells.to_numpy().copy() if not cells.null_count() else cells.fill_null(np.nan).to_numpy().copy()
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        naive = pandas.Series(cells.dt.convert_time_zone("UTC").dt.replace_time_zone(None).to_numpy().copy())
        return naive.dt.tz_localize("UTC").dt.tz_convert(dtype.time_zone)
    if isinstance(dtype, pl.Datetime | pl.Duration):
        return cells.to_numpy().copy()
    if dtype == pl.Boolean:
        return cells.to_numpy().copy()
    if dtype == pl.String:
        return pandas.Series(cells.to_list(), dtype="str")
    return pandas.Series(cells.to_list(), dtype="object")
