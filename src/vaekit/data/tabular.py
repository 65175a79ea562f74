"""Columns of numbers and text as files: .csv, .tsv, .parquet, .npz and .jsonl, written and read back."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vaekit.data.arrayfiles import read_npz_columns
from vaekit.data.output import TABLE_SUFFIXES, atomic_file, listed
from vaekit.errors import ConfigError, DataError, require

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_ROWS = 10_000


def write_table(columns: Mapping[str, np.ndarray], out: str | os.PathLike[str], force: bool = False) -> None:
    """Columns as a table; the ending of `out` chooses the form.

    Floats are written with as many digits as give them back exactly in their own dtype. NaN is an empty cell (.csv,
    .tsv) or null (.jsonl).

    Args:
        columns: name -> (N,) values; (N, D) become the columns name0, name1, ..., but stay one array in .npz.
        out: ending in .csv, .tsv, .parquet, .npz or .jsonl.
        force: replace what is there.

    Raises:
        ConfigError: on another ending, columns of unequal length, or if `out` cannot be written.
        DataError: if `out` exists, and `force` is False.
    """
    suffix = _table_suffix(out)
    arrays = {str(name): _plain(np.asarray(values)) for name, values in columns.items()}
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ConfigError(f"All columns must have the same length, got {lengths}. Give one value a row.")
    with atomic_file(out, force) as path:
        if suffix == ".npz":
            np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
        elif suffix == ".parquet":
            polars = require("polars", "table", "Writing Parquet")
            polars.DataFrame({name: _parquet_column(values) for name, values in spread(arrays).items()}).write_parquet(path)
        elif suffix in _DELIMITERS:
            _write_csv(spread(arrays), path, _DELIMITERS[suffix])
        else:
            _write_jsonl(spread(arrays), path)


def read_table(path: str | os.PathLike[str], text: Collection[str] = ()) -> dict[str, np.ndarray]:
    """The columns of a table, by the ending of its name.

    In .csv and .tsv a column is int64 if every cell is an integer as Python prints it, else float64 if every cell is a number
    or empty (NaN), else boolean if every cell is True or False, else text.

    Args:
        path: of the table.
        text: names of columns that are text whatever their cells look like, such as labels (`007` is no number); what is
            missing there is the empty text.

    Returns:
        name -> (N,) values; .npz arrays as they are.

    Raises:
        ConfigError: on another ending.
        DataError: if the file is not there, or damaged.
    """
    suffix = _table_suffix(path)
    try:
        if not Path(path).is_file():
            found = "a folder" if Path(path).is_dir() else "nothing"
            raise DataError(f"`{path}` must be a file, found {found}. Check the path.")
        if suffix == ".npz":
            columns = read_npz_columns(Path(path))
            return {name: values.astype(str) if name in text else values for name, values in columns.items()}
        if suffix == ".parquet":
            return _read_parquet(Path(path), text)
        with open(path, encoding="utf-8", newline="") as file:
            return _read_csv(file, _DELIMITERS[suffix], text) if suffix in _DELIMITERS else _read_jsonl(file, text)
    except DataError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"`{path}` must be a whole {suffix} table, but: {str(error).rstrip('.')}. Write it again.") from error


def spread(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns (N, ...) as columns (N,) with a number after the name.

    Example:
        >>> list(spread({"z": np.zeros((2, 3)), "label": np.zeros(2)}))
        ['z0', 'z1', 'z2', 'label']
    """
    flat: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        if values.ndim < 2:
            flat[name] = values
            continue
        rows = values.reshape(len(values), -1)
        flat |= {f"{name}{index}": rows[:, index] for index in range(rows.shape[1])}
    return flat


def _table_suffix(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise ConfigError(f"A table must end in {listed(TABLE_SUFFIXES)}, got `{path}`. Choose another ending.")
    return suffix


def _printed(values: np.ndarray) -> list[str]:
    """Each value as text; the shortest that gives a float back in its own dtype."""
    if values.dtype.kind == "f":
        return ["" if cell == "nan" else cell for cell in values.astype(str).tolist()]
    return values.astype(str).tolist()


def _write_csv(columns: Mapping[str, np.ndarray], path: Path, delimiter: str) -> None:
    total = len(next(iter(columns.values()), ()))
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(columns)
        for start in range(0, total, _ROWS):
            writer.writerows(zip(*(_printed(values[start : start + _ROWS]) for values in columns.values()), strict=True))


def _write_jsonl(columns: Mapping[str, np.ndarray], path: Path) -> None:
    total = len(next(iter(columns.values()), ()))
    with open(path, "w", encoding="utf-8") as file:
        for start in range(0, total, _ROWS):
            cells = [_json_values(values[start : start + _ROWS]) for values in columns.values()]
            for row in zip(*cells, strict=True):
                file.write(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n")


def _json_values(values: np.ndarray) -> list[Any]:
    if values.dtype.kind == "f":
        return [None if cell == "" else float(cell) for cell in _printed(values)]
    return values.tolist()


def _parquet_column(values: np.ndarray) -> Any:
    if values.dtype.kind in "US":
        return values.astype(str).tolist()
    return np.ascontiguousarray(values.astype(np.float32) if values.dtype == np.float16 else values)


def _read_parquet(path: Path, text: Collection[str]) -> dict[str, np.ndarray]:
    polars = require("polars", "table", "Reading Parquet")
    try:
        frame = polars.read_parquet(path)
        frame = frame.with_columns(polars.col(name).cast(polars.String).fill_null("") for name in frame.columns if name in text)
        return {name: _plain(frame[name].to_numpy()) for name in frame.columns}
    except (OSError, ValueError, polars.exceptions.PolarsError) as error:
        raise DataError(f"`{path}` must be a whole .parquet table, but: {str(error).rstrip('.')}. Write it again.") from error


def _read_csv(file: Any, delimiter: str, text: Collection[str]) -> dict[str, np.ndarray]:
    reader = csv.reader(file, delimiter=delimiter)
    header = next(reader, None)
    if header is None:
        raise ValueError("it is empty")
    rows = list(reader)
    ragged = next((index for index, row in enumerate(rows) if len(row) != len(header)), None)
    if ragged is not None:
        raise ValueError(f"line {ragged + 2} has {len(rows[ragged])} cells, and the header {len(header)}")
    cells = list(zip(*rows, strict=True)) if rows else [()] * len(header)
    columns = dict(zip(header, cells, strict=True))
    return {name: np.array(values, dtype=str) if name in text else _typed(values) for name, values in columns.items()}


def _typed(cells: Sequence[str]) -> np.ndarray:
    try:
        whole = [int(cell) for cell in cells]
        if all(str(value) == cell for value, cell in zip(whole, cells, strict=True)):
            return np.array(whole, np.int64)
    except (ValueError, OverflowError):
        pass
    try:
        if any(cells):
            return np.array([float(cell) if cell else np.nan for cell in cells], np.float64)
    except ValueError:
        pass
    if cells and set(cells) <= {"True", "False"}:
        return np.array([cell == "True" for cell in cells])
    return np.array(cells, dtype=str)


def _read_jsonl(file: Any, text: Collection[str]) -> dict[str, np.ndarray]:
    rows = [json.loads(line) for line in file if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("each line must be an object")
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    return {name: _texts(values) if name in text else _from_json(values) for name, values in columns.items()}


def _texts(values: list[Any]) -> np.ndarray:
    return np.array(["" if value is None else str(value) for value in values], dtype=str)


def _from_json(values: list[Any]) -> np.ndarray:
    if (
        all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values)
        and None in values
    ):
        return np.array([np.nan if value is None else value for value in values], np.float64)
    return _plain(np.array(["" if value is None else value for value in values]))


def _plain(values: np.ndarray) -> np.ndarray:
    return values.astype(str) if values.dtype.kind == "O" else values
