"""Folders and zips of image files as data: decoded in parallel, once, into one array."""

from __future__ import annotations

import os
import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from vaekit.data import cache as disk
from vaekit.data.checks import duplicates_note
from vaekit.data.dataset import Dataset, from_source
from vaekit.data.decoding import READ_ERRORS, Fit, Frame, Header, decode, read_header
from vaekit.data.imagefiles import Listing, Reader, list_images, natural_key, read_structure
from vaekit.data.labels import label_codes
from vaekit.data.schema import Column, Schema, Source
from vaekit.data.values import ValuesName, find_values, store
from vaekit.errors import ConfigError, DataError, require

MAX_PIXELS = 178_956_970
"""A file of more pixels is refused before it is decoded; the limit at which Pillow refuses too."""

_KEPT_SIDE = 256
_CHUNK_FILES = 128
_T = TypeVar("_T")


@dataclass(frozen=True)
class ImageOptions:
    """How images are read.

    Attributes:
        size: (H, W), or one number for both, that every image is brought to.
        fit: `crop` (cover, then cut the centre), `resize` (stretch) or `pad` (fit inside, black border).
        channels: 1 (grey), 3 (RGB) or 4 (RGBA); None where all files have the same.
        bits: 8 or 16; None where all files have the same.
        skip_bad: leave out files that cannot be read.
        max_pixels: the most pixels that a file may have.
    """

    size: tuple[int, int] | int | None = None
    fit: Fit | None = None
    channels: Literal[1, 3, 4] | None = None
    bits: Literal[8, 16] | None = None
    skip_bad: bool = False
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if isinstance(self.size, int):
            object.__setattr__(self, "size", (self.size, self.size))
        pair = self.size
        if pair is not None and not (isinstance(pair, list | tuple) and len(pair) == 2 and min(pair) >= 1):
            raise ConfigError(
                f"`size` must be a side in pixels, or (height, width), each at least 1; got {pair!r}. Use 64, or (48, 64)."
            )
        if self.fit not in (None, "crop", "resize", "pad"):
            raise ConfigError(f"`fit` must be crop, resize or pad, got {self.fit!r}. Use crop when in doubt.")
        if self.channels not in (None, 1, 3, 4):
            raise ConfigError(f"`channels` must be 1 (grey), 3 (RGB) or 4 (RGBA), got {self.channels!r}. Use 3 for colour.")
        if self.bits not in (None, 8, 16):
            raise ConfigError(f"`bits` must be 8 or 16, got {self.bits!r}. Use 8 for ordinary pictures.")


@dataclass(frozen=True)
class _Decoded:
    pixels: np.ndarray
    names: list[str]
    source: dict[str, Any]
    notes: tuple[str, ...]


def open_images(
    path: Path,
    *,
    size: tuple[int, int] | int | None = None,
    fit: Fit | None = None,
    channels: Literal[1, 3, 4] | None = None,
    bits: Literal[8, 16] | None = None,
    skip_bad: bool = False,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
    cache: bool = True,
    values: ValuesName | None = None,
    levels: int | None = None,
) -> Dataset:
    """The images of a folder (nested), a zip or one file as a data set.

    Images of one size up to 256 a side stay as they are; others are cut to squares, and a note says so. `train/`,
    `test/` and `valid/` at the top become splits, class folders the column `label`. Palettes become RGB (RGBA with
    transparency), grey with alpha RGBA, CMYK RGB; EXIF orientation is applied.

    Args:
        path: of the folder, zip or file.
        size, fit, channels, bits, skip_bad, max_pixels: see `ImageOptions`.
        workers: threads that decode; if None one for small images, else as many as the process has cores.
        cache: keep the decoded array on disk for the next time.
        values: what to take the values as: `binary`, `levels` or `continuous`.
        levels: the number of levels.

    Raises:
        DataError: if there are no images, some cannot be read, or they differ in channels or bits.
        ConfigError: on an option that cannot be.
        MissingExtraError: if Pillow or OpenCV is not installed.
    """
    options = ImageOptions(size, fit, channels, bits, skip_bad, max_pixels)
    listing, notes = _inside_splits(list_images(path))
    decoded = _load(listing, options, workers, cache, expected=None)
    grid = find_values([decoded.pixels], "images", values, levels)
    structure = read_structure(decoded.names)
    column = None
    if structure.labels is not None:
        column = Column(name="label", categories=tuple(sorted(set(structure.labels), key=natural_key)))
    schema = Schema(
        kind="images",
        shape=decoded.pixels.shape[1:],
        **{name: getattr(grid, name) for name in ("values", "levels", "offset", "step", "low", "high", "dtype")},
        columns=() if column is None else (column,),
        source=Source(form="zip" if listing.form == "zip" else "folder", **decoded.source),
        num_examples=len(decoded.pixels),
    )
    splits = {name: np.array(rows) for name, rows in structure.splits.items()}
    notes = (*notes, *decoded.notes, *duplicates_note(decoded.pixels, splits))
    columns = {} if column is None or structure.labels is None else {"label": label_codes(structure.labels, column)[0]}
    return Dataset(schema, store([decoded.pixels], grid), columns, names=decoded.names, splits=splits, notes=notes)


def conform_images(
    path: Path,
    schema: Schema,
    *,
    size: tuple[int, int] | int | None = None,
    fit: Fit | None = None,
    channels: Literal[1, 3, 4] | None = None,
    bits: Literal[8, 16] | None = None,
    skip_bad: bool = False,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
    cache: bool = True,
) -> Dataset:
    """The images of a folder, a zip or one file as a data set of a given schema.

    They are brought to the schema's size, channels and bits where the images that it was made from were, or where an
    option says so. Images for a schema of an array are scaled from black..white to the least..greatest value.

    Raises:
        DataError: with what differs from the schema.
    """
    if schema.kind != "images":
        raise DataError(
            f"The data must be vectors of {schema.num_dimensions} values, found images in `{path}`. Choose other data."
        )
    source = schema.source
    deep = schema.source.dtype == "uint16" if _in_pixels(schema) else (schema.levels or 2) > 256
    options = ImageOptions(
        size or source.size, fit or source.fit, channels or source.channels, bits or (16 if deep else 8), skip_bad, max_pixels
    )
    listing, notes = _inside_splits(list_images(path))
    decoded = _load(listing, options, workers, cache, expected=schema.shape)
    x, scaled = _to_schema(decoded.pixels, schema)
    structure = read_structure(decoded.names)
    columns, label_notes = _conform_labels(decoded.names, structure.labels, schema)
    return Dataset(
        schema.model_copy(update={"num_examples": len(x), "missing": False}),
        x,
        columns,
        names=decoded.names,
        splits={name: np.array(rows) for name, rows in structure.splits.items()},
        notes=(*notes, *decoded.notes, *scaled, *label_notes),
    )


def _inside_splits(listing: Listing) -> tuple[Listing, tuple[str, ...]]:
    """The listing without images that lie beside `train/`, and notes on all that is left out."""
    notes = []
    num_others = sum(listing.others.values())
    if num_others:
        kinds = ", ".join(suffix or "no suffix" for suffix, _ in listing.others.most_common(5))
        notes.append(f"Files left out because they are no images: {num_others} ({kinds}).")
    outside = set(read_structure(listing.names).outside)
    if outside:
        notes.append(f"Images left out because they lie beside `train/`, in no split: {len(outside)}.")
        keep = [index for index in range(len(listing.names)) if index not in outside]
        stamps = listing.stamps if listing.form == "zip" else [listing.stamps[index] for index in keep]
        listing = replace(listing, names=[listing.names[index] for index in keep], stamps=stamps)
    return listing, tuple(notes)


def _load(
    listing: Listing, options: ImageOptions, workers: int | None, use_cache: bool, expected: tuple[int, ...] | None
) -> _Decoded:
    """The decoded images, from the cache if they are there."""
    pillow = require("PIL.Image", "image", "Reading images")
    slot = None
    if use_cache:
        stamps = listing.stamps if len(listing.stamps) == len(listing.names) else listing.stamps * len(listing.names)
        lines = (f"{name}\t{stamp[0]}\t{stamp[1]}" for name, stamp in zip(listing.names, stamps, strict=True))
        versions = [pillow.__version__, require("cv2", "image", "Reading images").__version__]
        slot = disk.slot_for(listing.root, lines, {**asdict(options), "expected": expected, "versions": versions})
        found = disk.find(slot)
        if found is not None and {"names", "source", "notes"} <= found[1].keys():
            return _Decoded(found[0], found[1]["names"], found[1]["source"], tuple(found[1]["notes"]))
    with Reader(listing) as reader, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of sizes and damaged metadata: both are checked here
        return _build(listing, reader, options, workers, slot, expected)


def _build(
    listing: Listing,
    reader: Reader,
    options: ImageOptions,
    workers: int | None,
    slot: disk.Slot | None,
    expected: tuple[int, ...] | None,
) -> _Decoded:
    def head(index: int) -> Header:
        with reader.open(index) as file:
            return read_header(file, options.max_pixels)

    headers = _in_chunks(head, range(len(listing.names)), workers or 1)
    bad: dict[int, str] = {index: header for index, header in enumerate(headers) if isinstance(header, str)}
    _check_bad(bad, listing, options.skip_bad)
    known = {index: header for index, header in enumerate(headers) if isinstance(header, Header)}
    frame, source, notes = _choose_frame(list(known.values()), options, expected)
    shape, dtype = (len(known), frame.channels, frame.height, frame.width), "uint8" if frame.bits == 8 else "uint16"
    out, failure = _allocate(slot, shape, dtype)
    try:
        failed = _decode_into(out, reader, known, frame, workers)
        bad |= failed
        _check_bad(bad, listing, options.skip_bad)
        if bad:
            notes += (f"Files left out because they cannot be read: {len(bad)}, {_some(bad, listing)}.",)
        names = [name for index, name in enumerate(listing.names) if index not in bad]
        rows = np.array([row for row, index in enumerate(known) if index not in failed])
        kept = _finish(out, rows, slot, {"names": names, "source": source, "notes": list(notes)})
    finally:
        if isinstance(out, np.memmap):
            disk.discard(out)
    return _Decoded(kept, names, source, notes + failure)


def _decode_into(
    out: np.ndarray, reader: Reader, headers: dict[int, Header], frame: Frame, workers: int | None
) -> dict[int, str]:
    """Decodes each file into its row; what failed, and why."""
    indices = list(headers)

    def pixels(row: int) -> None:
        with reader.open(indices[row]) as file:
            out[row] = decode(file, headers[indices[row]], frame)

    # Below about 128 x 128 pixels the interpreter's lock is held nearly all the time, and threads only wait for it.
    small = sum(header.height * header.width for header in headers.values()) < 128 * 128 * len(headers)
    results = _in_chunks(pixels, range(len(indices)), workers or (1 if small else _num_cores()))
    return {indices[row]: reason for row, reason in enumerate(results) if reason is not None}


def _finish(out: np.ndarray, rows: np.ndarray, slot: disk.Slot | None, record: dict[str, Any]) -> np.ndarray:
    """The rows that were decoded, as an entry of the cache where `out` lies on disk."""
    if slot is None or not isinstance(out, np.memmap):
        return out if len(rows) == len(out) else out[rows]
    if len(rows) == len(out):
        return disk.commit(slot, out, record)
    try:
        whole = disk.create(slot, (len(rows), *out.shape[1:]), out.dtype.name)
    except OSError:
        return np.array(out[rows])
    try:
        for start in range(0, len(rows), _CHUNK_FILES):
            whole[start : start + _CHUNK_FILES] = out[rows[start : start + _CHUNK_FILES]]
        return disk.commit(slot, whole, record)
    finally:
        disk.discard(whole)


def _allocate(slot: disk.Slot | None, shape: tuple[int, ...], dtype: str) -> tuple[np.ndarray, tuple[str, ...]]:
    if slot is None:
        return np.empty(shape, dtype), ()
    try:
        return disk.create(slot, shape, dtype), ()
    except OSError as error:
        reason = error.strerror or str(error)
        note = f"The decoded images are held in memory: they could not be cached in {slot.folder} ({reason})."
        return np.empty(shape, dtype), (note,)


def _in_chunks(function: Callable[[int], _T], items: Sequence[int], workers: int) -> list[_T | str]:
    """function(item) of each, or why it failed; threads take whole chunks, for a task a file costs more than the file."""

    def run(chunk: Sequence[int]) -> list[_T | str]:
        results: list[_T | str] = []
        for item in chunk:
            try:
                results.append(function(item))
            except READ_ERRORS as error:
                results.append(" ".join(str(error).split())[:120] or type(error).__name__)
        return results

    pieces = [items[start : start + _CHUNK_FILES] for start in range(0, len(items), _CHUNK_FILES)]
    if workers == 1 or len(pieces) == 1:
        return [result for piece in pieces for result in run(piece)]
    with ThreadPoolExecutor(workers) as pool:
        return [result for results in pool.map(run, pieces) for result in results]


def _check_bad(bad: dict[int, Any], listing: Listing, skip_bad: bool) -> None:
    total = len(listing.names)
    if bad and (not skip_bad or len(bad) == total):
        remedy = (
            "Choose another folder."
            if len(bad) == total
            else "Remove them, or use `skip_bad=True` (`--skip-bad`) to leave them out."
        )
        raise DataError(
            f"Every image must be readable, found {len(bad)} of {total} that are not: {_some(bad, listing)}. {remedy}"
        )


def _some(bad: dict[int, Any], listing: Listing) -> str:
    listed = [f"{listing.names[index]} ({bad[index]})" for index in sorted(bad)[:3]]
    return ", ".join(listed) + (", ..." if len(bad) > 3 else "")


def _choose_frame(
    headers: Sequence[Header], options: ImageOptions, expected: tuple[int, ...] | None
) -> tuple[Frame, dict[str, Any], tuple[str, ...]]:
    """What every image is brought to, how the schema's source records it, and notes."""
    channels = options.channels or _agreed([h.channels for h in headers], "channels", "channels=3` (`--channels 3")
    bits = options.bits or _agreed([h.bits for h in headers], "bits a channel", "bits=8` (`--bits 8")
    sizes = Counter((h.height, h.width) for h in headers)
    fit: Fit = options.fit or "crop"
    notes: tuple[str, ...] = ()
    size = options.size
    if expected is not None:
        _check_expected(channels, sizes, size, expected)
        size = size or expected[1:]
    elif size is None and (len(sizes) > 1 or max(next(iter(sizes))) > _KEPT_SIDE):
        side = max(8, min(64, int(statistics.median(min(pair) for pair in sizes.elements()))) // 8 * 8)
        size = (side, side)
        found = f"{len(sizes)} sizes" if len(sizes) > 1 else "{} x {} pixels".format(*next(iter(sizes)))
        notes = (
            f"The images have {found} and are cut to {side} x {side} (fit={fit}). "
            "`size=(H, W)` (`--size`) and `fit=` (`--fit crop|resize|pad`) change it.",
        )
    brought = tuple(size) if isinstance(size, list | tuple) else None
    height, width = brought or next(iter(sizes))
    source = {
        "layout": "HW" if channels == 1 else "HWC",
        "dtype": "uint8" if bits == 8 else "uint16",
        "size": brought,
        "fit": fit if brought else None,
        "channels": options.channels,
    }
    return Frame(height, width, channels, bits, fit), source, notes


def _agreed(found: Sequence[int], what: str, remedy: str) -> int:
    counts = Counter(found)
    if len(counts) > 1:
        listed = ", ".join(f"{count} images with {value}" for value, count in counts.most_common())
        raise DataError(
            f"All images must have the same number of {what}, found {listed}. Use `{remedy}`) to bring them together."
        )
    return found[0]


def _check_expected(channels: int, sizes: Counter[tuple[int, int]], size: Any, expected: tuple[int, ...]) -> None:
    if channels != expected[0]:
        raise DataError(
            f"Images must have {expected[0]} channels, as those of the model, found {channels}. "
            f"Use `channels={expected[0]}` (`--channels {expected[0]}`) to bring them to it."
        )
    height, width = expected[1:]
    if size is not None and tuple(size) != (height, width):
        raise DataError(f"`size` must be ({height}, {width}), as the images of the model, got {tuple(size)}. Leave it out.")
    others = [pair for pair in sizes if pair != (height, width)]
    if size is None and others:
        raise DataError(
            f"Images must be {height} x {width} pixels, as those of the model, found {others[0][0]} x {others[0][1]}"
            f"{' and other sizes' if len(others) > 1 else ''}. "
            f"Use `size=({height}, {width})` (`--size {height}x{width}`) to bring them to it."
        )


def _in_pixels(schema: Schema) -> bool:
    """Whether the schema's source values are the pixel values of files."""
    full = schema.offset == 0.0 and schema.step == 1.0 and schema.levels in (256, 65_536)
    return full or schema.source.form in ("folder", "zip")


def _to_schema(pixels: np.ndarray, schema: Schema) -> tuple[np.ndarray, tuple[str, ...]]:
    if _in_pixels(schema):
        return from_source(pixels, schema, missing=False)[0], ()
    white = np.iinfo(pixels.dtype).max
    if schema.levels is None:
        scale = (schema.high - schema.low) / white
        return (schema.low + pixels * np.float64(scale)).astype(np.float32), (
            f"Pixels 0..{white} are scaled to {schema.low:g}..{schema.high:g}.",
        )
    codes = (pixels.astype(np.int64) * (schema.levels - 1) + white // 2) // white
    note = (f"Pixels 0..{white} are rounded to the {schema.levels} levels of the model.",) if schema.levels < white else ()
    return codes.astype(schema.dtype), note


def _conform_labels(
    names: Sequence[str], labels: Sequence[str] | None, schema: Schema
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    column = next((column for column in schema.columns if column.name == "label"), None)
    if not isinstance(column, Column):
        return {}, ()
    if labels is None:  # a folder of one class only, or the class folder itself, still says which
        parents = [name.split("/")[-2] if "/" in name else "" for name in names]
        labels = parents if set(parents) <= set(column.categories) else None
    if labels is None:
        return {}, ()
    codes, notes = label_codes(labels, column)
    return {"label": codes}, notes


def _num_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, cores))
