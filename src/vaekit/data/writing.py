"""Examples as files: a folder of PNG images, a grid, arrays, tables."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from vaekit.data.output import EXAMPLE_SUFFIXES, atomic_file, atomic_folder, check_output, listed
from vaekit.data.schema import Schema
from vaekit.data.tabular import read_table, write_table
from vaekit.data.text.writing import write_texts
from vaekit.errors import ConfigError, require

__all__ = [
    "atomic_file",
    "atomic_folder",
    "check_output",
    "read_table",
    "write_examples",
    "write_grid",
    "write_table",
]

_GAP = 2
_GREY = 128
_VISIBLE_SIDE = 32
_MAX_GRID_PIXELS = 100_000_000


def write_examples(
    values: np.ndarray,
    schema: Schema,
    out: str | os.PathLike[str],
    force: bool = False,
    names: Sequence[str] | None = None,
    tables: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> None:
    """Examples in the source's layout as files; the ending of `out` chooses the form.

    No ending: a folder of PNG files. `.png`: one grid. `.npy`, `.npz` (key `x`): the array. `.csv`, `.tsv`,
    `.parquet`, `.jsonl`: a row an example, with the columns x0, x1, ..., for vectors only. For text see
    `text.writing.write_texts`.

    Args:
        values: (N, ...) as `to_source` gives them.
        schema: of the values.
        out: where to.
        force: replace what is there; of folders, only such as hold nothing but PNG files, and tables of the names of `tables`.
        names: relative names of the files in a folder; their endings become .png.
        tables: files beside the images of a folder, such as `notes.csv`: name -> columns, as `write_table` takes them.

    Raises:
        ConfigError: on another ending, or one that does not fit the kind of data; if `out` cannot be written.
        DataError: if `out` exists, and `force` is False.
    """
    suffix = Path(out).suffix.lower()
    if suffix not in EXAMPLE_SUFFIXES[schema.kind]:
        endings = listed(EXAMPLE_SUFFIXES[schema.kind])
        raise ConfigError(f"The output of {schema.kind} must be {endings}, got `{out}`. Choose another ending.")
    if suffix == "":
        _write_folder(values, schema, out, force, names, tables or {})
    elif suffix == ".png":
        write_grid(values, schema, out, force=force)
    elif schema.kind == "text":
        write_texts(values.tolist(), out, force=force, column=schema.source.column or "text")
    elif suffix == ".npy":
        with atomic_file(out, force) as path, open(path, "wb") as file:
            np.save(file, values, allow_pickle=False)
    else:
        write_table({"x": values}, out, force)


def write_grid(
    values: np.ndarray,
    schema: Schema,
    out: str | os.PathLike[str],
    columns: int | None = None,
    force: bool = False,
    labels: Sequence[str] | None = None,
) -> None:
    """Images in one .png, row by row, small ones enlarged so that each pixel can be seen.

    Args:
        values: (N, ...) in the source's layout.
        schema: of the values, of images.
        out: ending in .png.
        columns: images in a row; about as many as there are rows, if None.
        force: replace what is there.
        labels: a short text for each row, to its left; letters beyond ASCII become `?`.

    Raises:
        ConfigError: on another ending, vectors, or more images than one picture can show.
        DataError: if `out` exists, and `force` is False.
    """
    if schema.kind != "images" or Path(out).suffix.lower() != ".png":
        raise ConfigError(f"A grid must be of images and end in .png, got {schema.kind} and `{out}`. Choose another output.")
    if columns is not None and columns < 1:
        raise ConfigError(f"`columns` must be at least 1, got {columns}. Leave it out for about a square.")
    # 8 bits are enough to look at
    pixels = to_pixels(values, schema, bits=8, full_range=True)
    picture = tile(pixels, columns)
    picture = picture if labels is None else _labelled(picture, labels)
    with atomic_file(out, force) as path:
        _write_png(picture, path)


def to_pixels(values: np.ndarray, schema: Schema, bits: int | None = None, full_range: bool = False) -> np.ndarray:
    """Source values as pixels (N, H, W, C), black the least and white the greatest level, or `low` and `high`.

    Args:
        values: (N, ...) in the source's layout.
        schema: of images.
        bits: 8 or 16; 16 if None and there are more than 256 levels.
        full_range: scale pixels that came from files too, which otherwise keep their values.

    Raises:
        ConfigError: if a PNG file cannot hold so many channels.
    """
    channels = schema.shape[0]
    if channels not in (1, 3, 4):
        raise ConfigError(f"A PNG file must have 1, 3 or 4 channels, the data have {channels}. Use .npy instead.")
    if schema.source.layout == "CHW":
        values = np.moveaxis(values, 1, -1)
    elif schema.source.layout == "HW":
        values = values[..., None]
    if bits is None:
        bits = 16 if (schema.levels or 0) > 256 else 8
        bits = 16 if schema.source.dtype == "uint16" and schema.source.form in ("folder", "zip") else bits
        if schema.source.form in ("folder", "zip") and not full_range and values.dtype == np.dtype(f"uint{bits}"):
            return values
    white = 2**bits - 1
    if schema.levels is None:
        fraction = (values.astype(np.float64) - schema.low) / (schema.high - schema.low)
        return np.rint(np.clip(fraction, 0.0, 1.0) * white).astype(f"uint{bits}")
    codes = np.rint((values.astype(np.float64) - schema.offset) / schema.step).astype(np.int64)
    # In whole numbers, so that reading the file back gives each level again.
    codes = np.clip(codes, 0, schema.levels - 1)
    return ((codes * white + (schema.levels - 1) // 2) // (schema.levels - 1)).astype(f"uint{bits}")


def tile(pixels: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Pixels (N, H, W, C) as one picture, with a grey gap between images.

    Example:
        >>> tile(np.zeros((6, 32, 32, 1), np.uint8), columns=3).shape
        (66, 100, 1)
    """
    num, height, width, channels = pixels.shape
    across = min(num, columns or math.ceil(math.sqrt(num * height / width)))
    rows = math.ceil(num / across)
    zoom = max(1, math.ceil(_VISIBLE_SIDE / max(height, width)))
    size = rows * (height * zoom + _GAP) - _GAP, across * (width * zoom + _GAP) - _GAP
    if size[0] * size[1] > _MAX_GRID_PIXELS:
        raise ConfigError(f"A grid must have at most {_MAX_GRID_PIXELS} pixels, got {num} images. Write a folder instead.")
    picture = np.full((*size, channels), _GREY, pixels.dtype)
    if channels == 4:
        picture[..., 3] = 0
    for index, image in enumerate(pixels):
        top, left = (index // across) * (height * zoom + _GAP), (index % across) * (width * zoom + _GAP)
        picture[top : top + height * zoom, left : left + width * zoom] = image.repeat(zoom, 0).repeat(zoom, 1)
    return picture


def _labelled(picture: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """The picture with a margin to its left, in which a text stands beside each row."""
    cv2 = require("cv2", "image", "Writing images")
    height = (picture.shape[0] + _GAP) / len(labels)
    size, font = min(0.5, height / 40), cv2.FONT_HERSHEY_SIMPLEX
    texts = [label.encode("ascii", "replace").decode() for label in labels]
    widths = [cv2.getTextSize(text, font, size, 1)[0][0] for text in texts]
    margin = np.full((picture.shape[0], max(widths) + 4 * _GAP, picture.shape[2]), 255, picture.dtype)
    for row, (text, width) in enumerate(zip(texts, widths, strict=True)):
        middle = int(row * height + (height - _GAP) / 2 + 11 * size)
        plane = np.full(margin.shape[:2], 255, np.uint8)
        cv2.putText(plane, text, (margin.shape[1] - 2 * _GAP - width, middle), font, size, 0, 1, cv2.LINE_AA)
        margin[..., : min(3, margin.shape[2])] = np.minimum(margin[..., :3], plane[..., None])
    return np.concatenate([margin, picture], axis=1)


def _write_folder(
    values: np.ndarray,
    schema: Schema,
    out: str | os.PathLike[str],
    force: bool,
    names: Sequence[str] | None,
    tables: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
    folder = check_output(out, force)
    there = (name for _, _, files in os.walk(folder) for name in files) if folder.is_dir() else ()
    if any(not name.lower().endswith(".png") and name not in tables for name in there):
        raise ConfigError(f"`{out}` must hold nothing but PNG files to be replaced, found others. Choose another folder.")
    files = _file_names(len(values), names)
    with atomic_folder(out, force, sync=len(files) <= 1000) as path:
        for parent in sorted({PurePosixPath(name).parent for name in files}):
            (path / parent).mkdir(parents=True, exist_ok=True)
        for start in range(0, len(values), 256):
            pixels = to_pixels(values[start : start + 256], schema)
            for name, image in zip(files[start : start + 256], pixels, strict=True):
                _write_png(image, path / name)
        for name, columns in tables.items():
            write_table(columns, path / name)


def _file_names(num: int, names: Sequence[str] | None) -> list[str]:
    """Distinct relative .png names, that stay inside the folder."""
    if names is None:
        digits = max(5, len(str(num - 1)))
        return [f"{index:0{digits}d}.png" for index in range(num)]
    if len(names) != num:
        raise ConfigError(f"`names` must name each of the {num} examples, got {len(names)} names. Give one an example.")
    out, taken = [], set()
    for index, name in enumerate(names):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise ConfigError(f"`names` must stay inside the output folder, got {name!r}. Use relative names without `..`.")
        final = str(path.with_suffix(".png"))
        if final.lower() in taken:  # a.jpg beside a.png
            final = str(path.with_name(f"{path.stem}-{index}.png"))
        taken.add(final.lower())
        out.append(final)
    return out


def _write_png(pixels: np.ndarray, path: Path) -> None:
    cv2 = require("cv2", "image", "Writing images")
    order = [0] if pixels.shape[-1] == 1 else [2, 1, 0, 3][: pixels.shape[-1]]
    encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[..., order]))[1]
    path.write_bytes(encoded.tobytes())
