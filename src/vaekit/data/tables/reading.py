"""Tables from files and frames: what a source is, and its rows in batches, so that its size does not matter."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from vaekit.data.tables.csvfiles import sniff, text_batches
from vaekit.errors import ConfigError, DataError, require

Form = Literal["csv", "tsv", "parquet", "arrow", "xlsx", "polars", "pandas", "pyarrow", "dict"]
"""What a table came in."""

READ_SUFFIXES = (".csv", ".tsv", ".txt", ".tab", ".csv.gz", ".tsv.gz", ".parquet", ".arrow", ".feather", ".ipc", ".xlsx")
BATCH_ROWS = 100_000


@dataclass(frozen=True)
class TableSource:
    """A table that can be read any number of times.

    Attributes:
        form: what it came in.
        names: of the columns, each once.
        batches: rows at most -> the rows as frames. A text file has only text columns.
        notes: what a person should know.
        delimiter: of a text file.
        path: of a file.
    """

    form: Form
    names: tuple[str, ...]
    batches: Callable[[int], Iterator[pl.DataFrame]]
    notes: tuple[str, ...] = ()
    delimiter: str | None = None
    path: Path | None = None


def is_table(source: Any) -> bool:
    """Whether a source is a table: a frame, or a file whose beginning or ending is that of one.

    Example:
        >>> is_table("no-such-folder/rows.csv"), is_table([1.0, 2.0])
        (True, False)
    """
    if isinstance(source, pl.DataFrame | pl.LazyFrame) or _is_pandas(source) or _is_arrow(source):
        return True
    if not isinstance(source, str | os.PathLike):
        return False
    path = Path(source)
    if path.name.lower().endswith(READ_SUFFIXES):
        return not path.is_dir()
    try:
        with path.open("rb") as file:
            return file.read(6).startswith((b"PAR1", b"ARROW1"))
    except OSError:
        return False


def open_source(
    source: Any,
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    sheet: str | int | None = None,
) -> TableSource:
    """A table of a path or a frame.

    Column names that occur twice are told apart (`x`, `x.1`), and empty names are numbered (`column_1`), each with a note.

    Args:
        source: a path to .csv, .tsv (or gzipped), .parquet, .arrow or .xlsx; a Polars or pandas frame, whatever gives
            Arrow data, or a dict of columns.
        delimiter: of a text file; found among , ; tab | if left out.
        encoding: of a text file; UTF-8 (or UTF-16, by its mark) if left out.
        header: whether the first row of a text file holds names; if left out, it does unless it holds numbers only.
        sheet: of an .xlsx file, by its name or number from 1; the first if left out.

    Raises:
        DataError: if it is not there, or cannot be read.
        ConfigError: on an option that cannot be, or a source of another kind.

    Example:
        >>> open_source({"a": [1, 2], "b": ["x", None]}).names
        ('a', 'b')
    """
    if not isinstance(source, str | os.PathLike):
        return _in_memory(source)
    path = _there(Path(source).expanduser())
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith((b"PAR1", b"ARROW1")):
        form: Form = "parquet" if head.startswith(b"PAR1") else "arrow"
        return _scanned(path, form)
    if head.startswith(b"PK") and _is_workbook(path):
        return _from_workbook(path, sheet)
    if head.startswith((b"\xd0\xcf\x11\xe0", b"%PDF", b"SQLite", b"PK")):
        raise DataError(
            f"`{path}` must be one of {', '.join(READ_SUFFIXES)}, found another kind of file. Save it as .csv or .xlsx."
        )
    layout = sniff(path, delimiter, encoding, header)
    raw = layout.names if layout.header else tuple(f"column_{index + 1}" for index in range(layout.num_columns))
    names, notes = unique_names(raw)
    if not layout.header:
        notes += ("The first row holds numbers only and is taken as data; `header=True` takes it as the columns' names.",)
    if layout.padded:
        notes += ("The space after each delimiter is dropped.",)
    suffix: Form = "tsv" if layout.delimiter == "\t" else "csv"
    return TableSource(suffix, names, lambda rows: text_batches(path, layout, names, rows), notes, layout.delimiter, path)


def read(source: Any, **options: Any) -> pl.DataFrame:
    """The whole of a table as one Polars frame; of a text file every cell is text.

    Args:
        source: as in `open_source`.
        **options: as in `open_source`.

    Example:
        >>> read({"a": [1, 2]}).height
        2
    """
    table = source if isinstance(source, TableSource) else open_source(source, **options)
    frames = list(table.batches(BATCH_ROWS))
    return pl.concat(frames) if frames else pl.DataFrame(schema=dict.fromkeys(table.names, pl.String))


def batches(source: Any, rows: int = BATCH_ROWS, **options: Any) -> Iterator[pl.DataFrame]:
    """The rows of a table as frames of at most `rows` rows; memory does not grow with the table.

    Args:
        source: as in `open_source`.
        rows: the most rows of a frame.
        **options: as in `open_source`.
    """
    if rows < 1:
        raise ConfigError(f"`rows` must be at least 1, got {rows}. Leave it out for {BATCH_ROWS:,}.")
    table = source if isinstance(source, TableSource) else open_source(source, **options)
    return table.batches(rows)


def unique_names(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of which none is empty or occurs twice, and notes of what was changed.

    Example:
        >>> unique_names(["x", "x", ""])[0]
        ('x', 'x.1', 'column_3')
    """
    taken, found = set(names), []
    twice: list[str] = []
    used: set[str] = set()
    for index, name in enumerate(names):
        new, count = name or f"column_{index + 1}", 0
        while new in used or (new != name and new in taken):
            count += 1
            new = f"{name or f'column_{index + 1}'}.{count}"
        if name and new != name:
            twice.append(f"`{name}` (now `{new}`)")
        used.add(new)
        found.append(new)
    notes = ()
    if twice:
        notes = (f"Column names that occur twice are told apart: {', '.join(twice[:5])}{', ...' if len(twice) > 5 else ''}.",)
    unnamed = [new for name, new in zip(names, found, strict=True) if not name]
    if unnamed:
        notes += (
            f"Columns without a name: {len(unnamed)}, now {', '.join(unnamed[:5])}{', ...' if len(unnamed) > 5 else ''}.",
        )
    return tuple(found), notes


def _there(path: Path) -> Path:
    if path.is_file():
        return path
    found = "a folder" if path.is_dir() else "nothing"
    raise DataError(f"`{path}` must be a file, found {found}. Check the path.")


def _is_workbook(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.startswith("xl/") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _scanned(path: Path, form: Form) -> TableSource:
    scan = pl.scan_parquet if form == "parquet" else pl.scan_ipc
    try:
        frame = scan(path)
        names = tuple(frame.collect_schema().names())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(_broken(path, form, error)) from error

    def rows_of(rows: int) -> Iterator[pl.DataFrame]:
        try:
            yield from _lazily(frame, rows)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(_broken(path, form, error)) from error

    return TableSource(form, names, rows_of, path=path)


def _broken(path: Path, form: str, error: Exception) -> str:
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return f"`{path}` must be a whole {form} file, but: {reason}. Fetch or write it again."


def _lazily(frame: pl.LazyFrame, rows: int) -> Iterator[pl.DataFrame]:
    """Frames of a query, of which only some are held at a time."""
    if hasattr(frame, "collect_batches"):
        for part in frame.collect_batches(chunk_size=rows, maintain_order=True):
            yield from part.iter_slices(rows)
        return
    total = frame.select(pl.len()).collect().item()
    for start in range(0, total, rows):
        yield frame.slice(start, rows).collect()


def _from_workbook(path: Path, sheet: str | int | None) -> TableSource:
    require("fastexcel", "table", "Reading .xlsx files")
    which: dict[str, Any] = {"sheet_name": sheet} if isinstance(sheet, str) else {"sheet_id": sheet or 1}
    try:
        frame = pl.read_excel(path, engine="calamine", infer_schema_length=None, raise_if_empty=False, **which)
    except Exception as error:
        raise DataError(_broken(path, "xlsx", error)) from error
    if not frame.width:
        raise DataError(f"`{path}` must hold a table in its first sheet, found none. Name the sheet with `sheet`.")
    return TableSource("xlsx", tuple(frame.columns), lambda rows: frame.iter_slices(rows), path=path)


def _in_memory(source: Any) -> TableSource:
    if isinstance(source, pl.LazyFrame):
        names = tuple(source.collect_schema().names())
        return TableSource("polars", names, lambda rows: _lazily(source, rows))
    if isinstance(source, pl.DataFrame):
        return _of_frame("polars", source)
    if _is_pandas(source):
        frame, notes = from_pandas(source)
        return _of_frame("pandas", frame, notes)
    if _is_arrow(source):
        try:
            return _of_frame("pyarrow", pl.DataFrame(source))
        except (pl.exceptions.PolarsError, ValueError, TypeError) as error:
            raise DataError(f"Arrow data must have unique names and known types, but: {error}. Mend them.") from error
    if isinstance(source, Mapping):
        return _of_frame("dict", _from_mapping(source))
    raise ConfigError(f"A table must be a path, a frame or a dict of columns, got {type(source).__name__}. Give one of them.")


def _of_frame(form: Form, frame: pl.DataFrame, notes: tuple[str, ...] = ()) -> TableSource:
    return TableSource(form, tuple(frame.columns), lambda rows: frame.iter_slices(rows), notes)


def _is_pandas(source: Any) -> bool:
    kind = type(source)
    return kind.__module__.split(".")[0] == "pandas" and kind.__name__ == "DataFrame"


def _is_arrow(source: Any) -> bool:
    return hasattr(source, "__arrow_c_stream__") and not isinstance(source, pl.Series)


def _from_mapping(source: Mapping[Any, Any]) -> pl.DataFrame:
    columns, lengths = [], {}
    for key, values in source.items():
        name = str(key)
        array = (
            values if isinstance(values, pl.Series) else np.asarray(values) if hasattr(values, "__array__") else list(values)
        )
        if isinstance(array, np.ndarray) and array.ndim != 1:
            raise DataError(
                f"Column `{name}` must be one value a row, found the shape {array.shape}. Give each column by itself."
            )
        columns.append(_series(name, array))
        lengths[name] = len(columns[-1])
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"All columns must have the same length, found {dict(list(lengths.items())[:5])}. Give one value a row."
        )
    return pl.DataFrame(columns)


def _series(name: str, values: Any) -> pl.Series:
    """A column of values; those of several types as text."""
    if isinstance(values, pl.Series):
        return values.alias(name)
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        return pl.Series(name, values.astype(str).tolist() if values.dtype.kind in "US" else values)
    cells = [None if _is_missing(cell) else cell for cell in values]
    try:
        found = pl.Series(name, cells, strict=True)
        if found.dtype != pl.Object:
            return found
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        pass
    kinds = {type(cell) for cell in cells if cell is not None}
    if all(issubclass(kind, int | float | np.number) and kind is not bool for kind in kinds) and any(
        issubclass(kind, float | np.floating) for kind in kinds
    ):
        return pl.Series(name, [None if cell is None else float(cell) for cell in cells], pl.Float64)
    return pl.Series(name, [None if cell is None else str(cell) for cell in cells], pl.String)


def _is_missing(cell: Any) -> bool:
    return (
        cell is None or type(cell).__name__ in ("NAType", "NaTType") or (isinstance(cell, float | np.floating) and cell != cell)
    )


def from_pandas(frame: Any) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """A pandas frame as a Polars frame, without its index, and notes. Ordered categories become an Enum."""
    names, notes = unique_names([str(name) for name in frame.columns])
    columns = [_pandas_series(name, frame.iloc[:, index]) for index, name in enumerate(names)]
    index = frame.index
    if type(index).__name__ != "RangeIndex" and getattr(index, "name", None) is not None:
        notes += (f"The index `{index.name}` of the frame is left out; `reset_index()` makes it a column.",)
    return pl.DataFrame(columns), notes


def _pandas_series(name: str, column: Any) -> pl.Series:
    dtype: Any = column.dtype
    kind = type(dtype).__name__
    if kind == "CategoricalDtype":
        codes = np.asarray(column.cat.codes)
        categories = pl.Series([str(category) for category in column.cat.categories], dtype=pl.String)
        texts = (
            categories.gather(pl.Series(np.where(codes < 0, 0, codes)))
            if len(categories)
            else pl.repeat(None, len(codes), dtype=pl.String, eager=True)
        )
        texts = texts.set(pl.Series(codes < 0), None) if len(categories) else texts
        return texts.alias(name).cast(pl.Enum(categories) if column.cat.ordered else pl.Categorical)
    if kind == "DatetimeTZDtype":
        values = column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
        series = pl.Series(name, values)
        return series.dt.replace_time_zone("UTC").dt.convert_time_zone(str(dtype.tz))
    numpy_kind = getattr(dtype, "kind", "O")
    if isinstance(dtype, np.dtype) and numpy_kind in "biufmM":
        return pl.Series(name, column.to_numpy().astype(np.float32) if dtype == np.float16 else column.to_numpy())
    if numpy_kind in "biuf" and hasattr(dtype, "numpy_dtype"):  # a nullable or Arrow dtype
        absent = column.isna().to_numpy()
        plain: Any = getattr(dtype, "numpy_dtype")  # noqa: B009 - of pandas, which is not there to the checker
        values = column.to_numpy(dtype=plain, na_value=plain.type(0))
        return pl.Series(name, values).set(pl.Series(absent), None) if absent.any() else pl.Series(name, values)
    return _series(name, column.astype(object).tolist())
