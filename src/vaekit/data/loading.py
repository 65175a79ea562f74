"""From a path or an array to a data set: `open` looks at the content and decides, `conform` follows a schema."""

from __future__ import annotations

import builtins
import difflib
import gzip
import importlib.util
import inspect
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vaekit.data.arrayfiles import Arrays, read_idx, read_npy, read_npz
from vaekit.data.arrays import as_arrays, conform_arrays, open_arrays
from vaekit.data.dataset import Dataset, index_dtype
from vaekit.data.images import conform_images, open_images
from vaekit.data.schema import UNKNOWN, Column, Schema
from vaekit.data.tables.columns import describe_columns
from vaekit.data.text.describing import describe_text
from vaekit.data.text.jsonlines import SUFFIXES as _JSON_SUFFIXES
from vaekit.data.text.opening import conform_text, open_text
from vaekit.data.text.reading import Texts, as_texts
from vaekit.errors import ConfigError, DataError, require

_OTHERS = {b"%PDF": "a PDF document", b"SQLite f": "a database"}
_TABLES = (b"PAR1", b"ARROW1")
_TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".csv.gz", ".tsv.gz", ".parquet", ".arrow", ".feather", ".ipc", ".xlsx")
_TABLE_READING = ("encoding", "delimiter", "header", "sheet")
_TEXT_OPTIONS = ("text", "tokens", "vocabulary", "max_tokens", "long")
_TEXT_SUFFIXES = (".txt", ".text", *_JSON_SUFFIXES, ".txt.gz", ".text.gz")
_FRAMES = ("polars", "pandas", "pyarrow")
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM", b"GIF8")
_READS = (
    "vaekit reads folders and zips of images, tables (.csv, .tsv, .parquet, .arrow, .xlsx, frames), text (.txt, .jsonl, "
    "lists), .npy, .npz and .idx files, and arrays"
)


def open(source: Any, **options: Any) -> Dataset:
    """The data of a path or an array, with a schema that is found by looking at them.

    Args:
        source: a path to a folder or zip of images, an image, a .npy, .npz or .idx(.gz) file, a table (.csv, .tsv,
            .parquet, .arrow, .xlsx), or text (lines, or JSON lines in .jsonl); or an array, a tensor, nested lists, a dict of
            arrays with the keys of an .npz file, a list of strings, or a Polars, pandas or Arrow frame. A table of one column
            of text, and else only columns of few values, is text with labels.
        **options: for images see `open_images`, for arrays `open_arrays`, for tables `tables.opening.open_table`, for text
            `text.opening.open_text`; `y=` gives the labels of an array or a list. `kind` says what a source is to be taken as:
            `images` or `vectors` for arrays, `text` or `table`.
            None stands for an option that is not given.

    Raises:
        DataError: if the data are not there, cannot be read, or cannot be trained on.
        ConfigError: if an option is unknown, or is not for this kind of source.

    Example:
        >>> open([[0.5, 1.5], [2.0, 3.0]]).schema.values
        'continuous'
    """
    if isinstance(source, Dataset):
        _check_options({}, options, "data that are open already")
        return source
    found = _find(source, options)
    if isinstance(found, Arrays):
        others = (open_images, open_text, _table_function("open_table"))
        return open_arrays(found, **_check_options(open_arrays, options, "arrays", *others))
    if isinstance(found, Path):
        others = (open_arrays, open_text, _table_function("open_table"))
        return open_images(found, **_check_options(open_images, options, "images", *others))
    if isinstance(found, _Text):
        others = (open_images, open_arrays, _table_function("open_table"))
        return open_text(found.source, **_check_options(open_text, options, "text", *others))
    return _open_table(found, options)


def _open_table(found: _Table, options: dict[str, Any]) -> Dataset:
    """A table; or its texts, if it is nothing but texts with labels."""
    read = _table_function("open_table", required=True)
    column, alone = None, False
    if not found.said and not any(options.get(name) for name in ("types", "missing_words")):
        how = {name: options[name] for name in _TABLE_READING if options.get(name) is not None}
        column, alone = importlib.import_module("vaekit.data.text.tables").texts_of(found.source, **how)
    if column is not None and alone:
        others = (open_images, open_arrays, read)
        dataset = open_text(found.source, **{**_check_options(open_text, options, "text", *others), "text": column})
        beside = ", ".join(f"`{column.name}`" for column in dataset.schema.columns)
        note = f"`{column}` is taken as text{f', with {beside} beside it' if beside else ''}: "
        return replace(dataset, notes=(f"{note}`kind='table'` (`--kind table`) takes the rows as a table.", *dataset.notes))
    dataset = read(found.source, **_check_options(read, options, "a table", open_images, open_arrays, open_text))
    if column is None:
        return dataset
    note = f"`{column}` looks like text: `text={column!r}` (`--text {column}`) takes it alone, with the columns of few values."
    return replace(dataset, notes=(*dataset.notes, note))


def conform(source: Any, schema: Schema, **options: Any) -> Dataset:
    """The data of a path or an array, opened the way a schema says, and checked against it.

    Args:
        source: as in `open`; an array may also lie as the schema stores it, and a data set is taken too.
        schema: that the data must fit.
        **options: `skip_bad`, `workers`, `cache`, ... for images; `missing` for arrays; `text`, `encoding`, ... for text.

    Raises:
        DataError: with what differs from the schema.
        ConfigError: if an option is unknown, or is not for this kind of source.

    Example:
        >>> schema = open([[0.0, 2.0], [1.0, 0.0]]).schema
        >>> conform([[2.0, 2.0]], schema).x
        array([[2, 2]], dtype=uint8)
    """
    if isinstance(source, Dataset):
        return _conform_dataset(source, schema, options)
    found = _find(source, options, text=schema.kind == "text")
    if isinstance(found, _Text) or (isinstance(found, _Table) and schema.kind == "text"):
        others = (conform_images, conform_arrays, _table_function("conform_table"))
        return conform_text(found.source, schema, **_check_options(conform_text, options, "text", *others))
    if schema.kind == "text":
        what = "images" if isinstance(found, Path) else "arrays"
        raise DataError(f"The data must be text, as those that the model was trained on, found {what}. Give texts.")
    if isinstance(found, _Table):
        read = _table_function("conform_table", required=True)
        return read(found.source, schema, **_check_options(read, options, "a table", conform_images, conform_arrays))
    if schema.kind == "table":
        what = "images" if isinstance(found, Path) else "arrays"
        raise DataError(f"The data must be a table, as those that the model was trained on, found {what}. Give a table.")
    if isinstance(found, Arrays):
        return conform_arrays(found, schema, **_check_options(conform_arrays, options, "arrays", conform_images))
    return conform_images(found, schema, **_check_options(conform_images, options, "images", conform_arrays))


@dataclass(frozen=True)
class _Table:
    """A table; `said` if a person calls it one."""

    source: Any
    said: bool = False


@dataclass(frozen=True)
class _Text:
    source: Any


def _table_function(name: str, required: bool = False) -> Callable[..., Any]:
    """A function of `tables.opening`, which needs Polars; of its options alone nothing is known without it."""
    if required:
        require("polars", "table", "Reading tables")
    elif importlib.util.find_spec("polars") is None:
        return _no_options
    return getattr(importlib.import_module("vaekit.data.tables.opening"), name)


def _no_options() -> None:
    """Has no options."""


def holdout(dataset: Dataset, fraction: float = 0.1, maximum: int = 10_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Seeded training and validation indices, each sorted, of at least one example each.

    Examples of one group (`Dataset.groups`) are on one side, as long as there are two groups.

    Args:
        dataset: to divide.
        fraction: of the examples that validation takes, in (0, 1).
        maximum: the most examples that validation takes.
        seed: of the draw.

    Raises:
        DataError: if there are fewer than two examples.
        ConfigError: if the fraction or the maximum cannot be.

    Example:
        >>> train, validation = holdout(open(np.eye(10)), fraction=0.2)
        >>> len(train), len(validation)
        (8, 2)
    """
    if not 0.0 < fraction < 1.0 or maximum < 1:
        raise ConfigError(
            f"`fraction` must lie between 0 and 1 and `maximum` be at least 1, got {fraction} and {maximum}. "
            "Leave them out for a tenth of the data."
        )
    total = len(dataset)
    if total < 2:
        raise DataError(
            f"At least 2 examples must be there, one to train and one to validate on, found {total}. Add more data."
        )
    num = min(max(1, round(total * fraction)), maximum, total - 1)
    draw, rows = np.random.default_rng(seed), np.arange(total, dtype=index_dtype(total))
    if dataset.groups is not None:
        _, group, sizes = np.unique(dataset.groups, return_inverse=True, return_counts=True)
        if len(sizes) > 1:
            order = draw.permutation(len(sizes))
            fit = int(np.searchsorted(np.cumsum(sizes[order]), num, side="right"))
            held_out = np.isin(group, order[: min(max(1, fit), len(sizes) - 1)])
            return rows[~held_out], rows[held_out]
    order = draw.permutation(rows)
    return np.sort(order[num:]), np.sort(order[:num])


def describe(dataset: Dataset) -> list[tuple[str, str]]:
    """What a person wants to know of a data set: pairs of a heading and a line.

    Example:
        >>> describe(open([[0.0, 2.0], [1.0, 0.0]]))[1]
        ('shape', '2 examples of 2 values')
    """
    schema = dataset.schema
    shape = ""
    if schema.kind == "table":
        lines = [("kind", f"table ({schema.source.form})"), ("shape", f"{len(dataset)} rows of {len(schema.table)} columns")]
        return lines + describe_columns(schema.table) + _describe_storage(dataset)
    if schema.kind == "text":
        return describe_text(dataset) + _describe_columns(dataset) + _describe_storage(dataset)
    if schema.kind == "images":
        shape = f"{schema.shape[1]} x {schema.shape[2]}, {schema.shape[0]} channel{'s' if schema.shape[0] > 1 else ''}"
    lines = [
        ("kind", f"{schema.kind} ({schema.source.form}, {schema.source.layout}, {schema.source.dtype})"),
        ("shape", f"{len(dataset)} examples of {shape or f'{schema.num_dimensions} values'}"),
        ("values", schema.values if schema.levels is None else f"{schema.values}, {schema.levels} levels"),
        ("range", f"{schema.low:g} to {schema.high:g}"),
    ]
    observed = dataset.observed()
    if observed is not None:
        lines.append(("missing", f"{1 - observed.mean():.1%} of the values"))
    if dataset.splits:
        lines.append(("splits", ", ".join(f"{name} {len(rows)}" for name, rows in dataset.splits.items())))
    return lines + _describe_columns(dataset) + _describe_storage(dataset)


def _describe_columns(dataset: Dataset) -> list[tuple[str, str]]:
    lines = []
    for column in dataset.schema.columns:
        codes = dataset.columns.get(column.name, column.unknown(1))
        counted = isinstance(column, Column)
        lines.append((f"column {column.name}", _counts(column.categories, codes) if counted else _range(codes)))
    return lines


def _describe_storage(dataset: Dataset) -> list[tuple[str, str]]:
    """The size, and the notes."""
    where = "mapped from disk" if isinstance(dataset.x, np.memmap) else "in memory"
    size = f"{len(dataset) * dataset.x[:1].nbytes / 2**20:.1f} MiB as {dataset.schema.dtype}, {where}"
    return [("size", size)] + [("note", note) for note in dataset.notes]


def _range(numbers: np.ndarray) -> str:
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return "numbers, all unknown"
    unknown = f", unknown {len(numbers) - len(known)}" if len(known) < len(numbers) else ""
    return f"numbers, {known.min():g} to {known.max():g}, mean {known.mean():.4g}{unknown}"


def _counts(categories: tuple[str, ...], codes: np.ndarray) -> str:
    counts = np.bincount(codes[codes >= 0], minlength=len(categories))
    listed = [f"{name} {count}" for name, count in zip(categories[:20], counts, strict=False)]
    listed += [f"and {len(categories) - 20} more"] if len(categories) > 20 else []
    unknown = int((codes == UNKNOWN).sum())
    return ", ".join(listed + ([f"unknown {unknown}"] if unknown else []))


def _conform_dataset(dataset: Dataset, schema: Schema, options: dict[str, Any]) -> Dataset:
    _check_options({}, options, "data that are open already")
    same = ("kind", "shape", "values", "levels", "offset", "step", "dtype", "table", "text")
    labels = {column.name: (column.kind, column.categories) for column in schema.columns}
    theirs = {column.name: (column.kind, column.categories) for column in dataset.schema.columns}
    if all(getattr(dataset.schema, name) == getattr(schema, name) for name in same) and labels == theirs:
        return dataset
    if dataset.schema.kind == "table":
        frame = importlib.import_module("vaekit.data.tables.coding").decode(dataset.raw(), dataset.schema.table)
        return _table_function("conform_table", required=True)(frame, schema)
    if dataset.schema.text is not None:
        return _conform_texts(dataset, schema)
    beside = {name: dataset.schema.column(name).printed(codes) for name, codes in dataset.columns.items()}
    beside = {name: values.astype(str) if values.dtype == object else values for name, values in beside.items()}
    form = "npy" if dataset.schema.source.form == "npy" else "array"
    missing = "nan" if dataset.mask is not None else None
    found = conform_arrays(Arrays(form, {"": (dataset.raw(), None)}, beside={"": beside}), schema, missing=missing)
    return Dataset(
        found.schema, found.x, found.columns, found.mask, dataset.names, dataset.splits, (*dataset.notes, *found.notes)
    )


def _conform_texts(dataset: Dataset, schema: Schema) -> Dataset:
    """The texts of a data set that has other tokens, with its columns by their categories."""
    columns = {}
    for column in dataset.schema.columns:
        printed = column.printed(dataset.columns[column.name]).tolist()
        columns[column.name] = [None if value == "" else value for value in printed]
    found = conform_text(Texts(dataset.raw().tolist(), columns), schema)
    splits = dataset.splits if len(found) == len(dataset) else {}
    return replace(found, splits=splits, notes=(*dataset.notes, *found.notes))


def _find(source: Any, options: dict[str, Any], text: bool = False) -> Arrays | Path | _Table | _Text:
    """The arrays of a source, the path to its images, a table, or text.

    Args:
        source: to look at.
        options: of which `y`, and a `kind` that is text or table, are taken out.
        text: whether text is looked for.
    """
    y = options.pop("y", None)
    kind = options.pop("kind") if options.get("kind") in ("text", "table") else None
    text |= kind == "text" or any(options.get(name) is not None for name in _TEXT_OPTIONS)
    texts = as_texts(source, y) if kind is None or kind == "text" else None
    if texts is not None and options.get("kind") is None:
        return _Text(texts)
    found = _found(source, y, text)
    if kind is None or isinstance(found, _Text if kind == "text" else _Table):
        return replace(found, said=True) if isinstance(found, _Table) and kind == "table" else found
    if isinstance(found, _Text) and kind == "table" and not isinstance(found.source, Texts):
        return _Table(found.source, said=True)
    what = "images" if isinstance(found, Path) else "arrays" if isinstance(found, Arrays) else "a table"
    raise ConfigError(f"`kind` must fit the data, got {kind!r} for {what}. Leave it out to go by the data.")


def _found(source: Any, y: Any, text: bool) -> Arrays | Path | _Table | _Text:
    if type(source).__module__.partition(".")[0] in _FRAMES and hasattr(source, "columns"):
        if y is not None:
            raise ConfigError("`y` must be given with an array, got a frame. Make the labels a column of it.")
        return _Text(source) if text else _Table(source)
    if not isinstance(source, str | os.PathLike):
        return as_arrays(source, y)
    if y is not None:
        raise ConfigError("`y` must be given with an array, got a path. Put the labels into an .npz file as `y`.")
    path = Path(source)
    try:  # a folder above the path may be closed to us, and even asking is then an error
        path = path.expanduser()
        if not path.exists():
            raise DataError(_absent(path))
        if path.is_dir():
            return path
        if not path.is_file():
            raise DataError(f"`{path}` must be a file or a folder, found a device or a pipe. Save the data first.")
        with builtins.open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"`{path}` must be readable, but: {reason}. Check the path and its permissions.") from error
    except RuntimeError as error:  # `~name` of nobody
        raise DataError(f"`{path}` must lie in a home that is there, but: {error} Check the path.") from error
    found = _by_content(path, head)
    return _Text(found.source) if text and isinstance(found, _Table) else found


def _by_content(path: Path, head: bytes) -> Arrays | Path | _Table | _Text:
    if not head:
        raise DataError(f"`{path}` must hold data, found an empty file. Check how it was written.")
    if head.startswith(b"\x93NUMPY"):
        return read_npy(path)
    if (head.startswith(_IMAGES) and not _is_text(head)) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return path
    if _is_idx(head) or (head.startswith(b"\x1f\x8b") and _is_idx(_unzipped(path))):
        return read_idx(path)
    if head.startswith(_TABLES) or path.name.lower().endswith(_TABLE_SUFFIXES):
        return _Table(path)
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _by_members(path)
    return _of_text(path, head)


def _of_text(path: Path, head: bytes) -> _Text:
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise DataError(f"`{path}` must be images, text, a table or arrays, found {name}, which is not read. {_READS}.")
    if path.suffix.lower() == ".json":
        raise DataError(f"`{path}` must be JSON lines to be text, named .jsonl, found .json. Write an object a line.")
    if path.name.lower().endswith(_TEXT_SUFFIXES) or _is_text(head) or head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _Text(path)
    raise DataError(
        f"`{path}` must be images, text, a table or arrays, found unknown content ({head[:4].hex(' ')} ...). {_READS}."
    )


def _by_members(path: Path) -> Arrays | Path | _Table | _Text:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DataError(f"`{path}` must be a whole zip, but: {error}. Fetch or write it again.") from error
    if path.suffix.lower() == ".npz" or any(name.endswith(".npy") for name in names):
        return read_npz(path)
    if "[Content_Types].xml" in names:
        if any(name.startswith("xl/") for name in names):
            return _Table(path)
        raise DataError(f"`{path}` must be images, text, a table or arrays, found an office document. {_READS}.")
    return path


def _is_idx(head: bytes) -> bool:
    return len(head) >= 4 and head[:2] == b"\0\0" and head[2] in (8, 9, 11, 12, 13, 14) and 1 <= head[3] <= 8


def _unzipped(path: Path) -> bytes:
    try:
        with gzip.open(path, "rb") as file:
            return file.read(4)
    except (OSError, EOFError, zlib.error):
        return b""


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        head[:-4].decode("utf-8") if len(head) > 4 else head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 8 > 0
    return True


def _absent(path: Path) -> str:
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    missing = path.relative_to(parent).parts[0]
    try:
        near = difflib.get_close_matches(missing, os.listdir(parent), 1, 0.5)
    except OSError:
        near = []
    remedy = f"Did you mean `{parent / near[0]}`?" if near else f"The folder `{parent}` has no `{missing}`; check the path."
    return f"`{path}` must be there, found nothing. {remedy}"


def _check_options(
    function: Callable[..., Any] | dict[str, Any],
    options: dict[str, Any],
    what: str,
    *others: Callable[..., Any],
) -> dict[str, Any]:
    """The options that are given, all of which the function must have."""
    given = {name: value for name, value in options.items() if value is not None}
    known, foreign = _option_names(function), {name for other in others for name in _option_names(other)}
    for name, value in given.items():
        if name in known:
            continue
        if name in foreign:
            if value is False:  # a switch that is off asks for nothing
                continue
            raise ConfigError(f"`{name}` must be left out for {what}, got {value!r}. It has no meaning there: leave it out.")
        near = difflib.get_close_matches(name, known, 1)
        remedy = f"Did you mean `{near[0]}`?" if near else f"The options are {', '.join(known) or 'none'}."
        raise ConfigError(f"Options must be known ones, got `{name}`. {remedy}")
    return {name: value for name, value in given.items() if name in known}


def _option_names(function: Callable[..., Any] | dict[str, Any]) -> list[str]:
    if isinstance(function, dict):
        return []
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
