"""Decoded images on disk, so that a folder is decoded once.

An entry is `PLACE-KEY.npy` and `PLACE-KEY.json`: PLACE names the source and its options, KEY also each file's name,
size and time. Both are written under other names and renamed when whole, the .json last: an entry without it is none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CACHE_VERSION = 1
"""Raised when the same files would be decoded to other arrays."""

_STALE_SECONDS = 86_400


@dataclass(frozen=True)
class Slot:
    """Where one entry lies, whether it is there or not."""

    folder: Path
    place: str
    key: str

    @property
    def array_path(self) -> Path:
        """The .npy file."""
        return self.folder / f"{self.place}-{self.key}.npy"

    @property
    def record_path(self) -> Path:
        """The .json file beside it."""
        return self.folder / f"{self.place}-{self.key}.json"


def cache_folder() -> Path:
    """`$VAEKIT_CACHE`, or `vaekit` in `$XDG_CACHE_HOME`, or `~/.cache/vaekit`."""
    if os.environ.get("VAEKIT_CACHE"):
        return Path(os.environ["VAEKIT_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "vaekit"


def slot_for(root: Path, files: Iterable[str], options: dict[str, Any]) -> Slot:
    """The slot of a source.

    Args:
        root: the folder or zip.
        files: a line a file, that changes when the file does.
        options: JSON values that the decoded array depends on.
    """
    where = json.dumps([CACHE_VERSION, str(root.resolve()), options], sort_keys=True)
    key = hashlib.sha256(where.encode())
    for line in files:
        key.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return Slot(cache_folder(), hashlib.sha256(where.encode()).hexdigest()[:16], key.hexdigest())


def find(slot: Slot) -> tuple[np.ndarray, dict[str, Any]] | None:
    """The array, mapped read-only, and its record; None if the entry is not there or not whole."""
    try:
        record = json.loads(slot.record_path.read_text("utf-8"))
        array = np.load(slot.array_path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = isinstance(record, dict) and record.get("shape") == list(array.shape) and record.get("dtype") == array.dtype.name
    return (array, record) if whole else None


def create(slot: Slot, shape: tuple[int, ...], dtype: str) -> np.memmap:
    """A writable array under a temporary name, with its disk space already taken.

    The space is taken first because writing to a map of a full disk kills the process.

    Raises:
        OSError: if the folder cannot be written, or the disk is too full.
    """
    slot.folder.mkdir(parents=True, exist_ok=True)
    _remove_stale(slot.folder)
    path = slot.folder / f"{slot.place}-{slot.key}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
    try:
        with open(path, "wb") as file:
            header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            offset = file.tell()
            size = offset + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            _reserve(file.fileno(), size, slot.folder)
        return np.memmap(path, dtype=dtype, mode="r+", offset=offset, shape=shape)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def commit(slot: Slot, array: np.memmap, record: dict[str, Any]) -> np.ndarray:
    """Makes a created array the slot's entry, and removes what the source was decoded to before it changed."""
    array.flush()
    path = _path_of(array)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    record = {**record, "shape": list(array.shape), "dtype": array.dtype.name}
    temporary = path.with_suffix(".json.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path, slot.array_path)
    os.replace(temporary, slot.record_path)
    _remove_older(slot)
    return np.load(slot.array_path, mmap_mode="r", allow_pickle=False)


def discard(array: np.memmap) -> None:
    """Removes the files of an array that was created, and not committed."""
    path = _path_of(array)
    path.unlink(missing_ok=True)
    path.with_suffix(".json.tmp").unlink(missing_ok=True)


def _path_of(array: np.memmap) -> Path:
    assert array.filename is not None
    return Path(os.fsdecode(array.filename))


def _reserve(descriptor: int, size: int, folder: Path) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(f"No space left on device: {size} bytes are needed, {free} are free")
    os.ftruncate(descriptor, size)


def _remove_stale(folder: Path) -> None:
    """What a killed process left behind, after a day."""
    for path in folder.glob("*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()


def _remove_older(slot: Slot) -> None:
    for path in slot.folder.glob(f"{slot.place}-*"):
        if path.suffix in (".npy", ".json") and path.stem != f"{slot.place}-{slot.key}":
            with contextlib.suppress(OSError):
                path.unlink()
