"""Files that hold arrays: .npy, .npz and .idx. A length that a file states is checked before memory is taken for it."""

from __future__ import annotations

import gzip
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import numpy as np

from vaekit.errors import DataError

MAP_FROM_BYTES = 2**30
"""An .npy file of at least this size is mapped from disk, not read."""

_READ = 2**24
_IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
LABEL = "label"
"""The name of the column that `y` is."""

_SPLIT_KEYS = {"train": "train", "test": "test", "valid": "valid", "val": "valid"}


@dataclass(frozen=True)
class Arrays:
    """Examples and labels as a source holds them.

    Attributes:
        form: of the source.
        parts: split name -> (x, y or None); the name is empty where the source gives no split.
        notes: sentences that a person should read.
        beside: split name -> further columns (N,) by their names.
    """

    form: Literal["npy", "npz", "idx", "array"]
    parts: dict[str, tuple[np.ndarray, np.ndarray | None]]
    notes: tuple[str, ...] = ()
    beside: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)


def read_npy(path: Path) -> Arrays:
    """An .npy file; mapped from disk from 1 GiB on.

    Raises:
        DataError: if it is damaged, or holds Python objects.
    """
    try:
        mapped = os.path.getsize(path) >= MAP_FROM_BYTES
        array = np.load(path, mmap_mode="r", allow_pickle=False) if mapped else _read_small_npy(path)
    except DataError:
        raise
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise DataError(f"`{path}` must be a whole .npy file of numbers, but: {_reason(error)} Write it again.") from error
    return Arrays("npy", {"": (array, None)})


def read_npz(path: Path) -> Arrays:
    """An .npz file with x_train, y_train, x_test, y_test; or x and y; or one array.

    Further columns are `y_NAME` beside x, or `y_NAME_train` and so on beside x_train.

    Raises:
        DataError: if it is damaged, or has none of these.
    """
    arrays, left_out = _read_members(path, lambda names: _keys(names, str(path)))
    remedy = " Name columns beside the examples `y_NAME`, such as `y_angle`."
    notes = (f"The arrays {', '.join(left_out)} of {path.name} are not used.{remedy}",) if left_out else ()
    return Arrays("npz", _parts(arrays), notes, _beside(arrays))


def read_npz_columns(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file.

    Raises:
        DataError: if it is damaged.
    """
    return _read_members(path, lambda names: {name: name for name in names})[0]


def read_idx(path: Path) -> Arrays:
    """An .idx file, gzipped or not; labels come from the sibling `labels-idx1` of `images-idx3`.

    Raises:
        DataError: if its length is not what its header says, or it is damaged.
    """
    x = read_idx_array(path)
    sibling = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    if sibling.name == path.name or not sibling.is_file():
        return Arrays("idx", {"": (x, None)})
    y = read_idx_array(sibling)
    if y.shape != x.shape[:1]:
        note = f"The labels in {sibling.name} are not used: there are {len(y)} of them for {len(x)} examples."
        return Arrays("idx", {"": (x, None)}, (note,))
    return Arrays("idx", {"": (x, y)})


def read_idx_array(path: Path) -> np.ndarray:
    """The one array of an .idx file, in the byte order of this machine."""
    try:
        with open(path, "rb") as plain:
            zipped = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else open(path, "rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_TYPES or not 1 <= head[3] <= 8:
                raise DataError(f"`{path}` must be an .idx file, but its first bytes are {head.hex(' ')}. Choose another file.")
            shape = np.frombuffer(_exactly(file, 4 * head[3], path), ">u4").tolist()
            dtype = np.dtype(_IDX_TYPES[head[2]])
            data = _exactly(file, math.prod(shape) * dtype.itemsize, path)
            if file.read(1):
                raise DataError(f"`{path}` must end after the {shape} values of its header, but goes on. Fetch the file again.")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"`{path}` must be a whole .idx file, but: {_reason(error)} Fetch the file again.") from error
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")).reshape(shape)


def from_mapping(arrays: Mapping[str, np.ndarray], where: str) -> Arrays:
    """A dict of arrays, with the keys of an .npz file."""
    keys = _keys(list(arrays), where)
    found = {key: arrays[name] for key, name in keys.items()}
    return Arrays("array", _parts(found), beside=_beside(found))


def _read_members(path: Path, choose: Callable[[list[str]], dict[str, str]]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of the members that are chosen, and the names of the others."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                info.filename.removesuffix(".npy"): info for info in archive.infolist() if info.filename.endswith(".npy")
            }
            keys, arrays = choose(list(members)), {}
            for key, name in keys.items():
                with archive.open(members[name]) as file:
                    arrays[key] = _read_npy_stream(file, members[name].file_size, f"`{name}`")
    except DataError:
        raise
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, MemoryError, RuntimeError) as error:
        raise DataError(f"`{path}` must be a whole .npz file of numbers, but: {_reason(error)} Write it again.") from error
    return arrays, sorted(set(members) - set(keys.values()))


def _keys(names: list[str], where: str) -> dict[str, str]:
    """What each used array is (`x_train`, ..., or `x` and `y`, and `y_NAME`) -> its name in the file."""
    lower = {name.lower(): name for name in names}
    further = {f"y_{name[2:]}": name for name in names if name[:2].lower() == "y_" and len(name) > 2}
    if "x_train" in lower:
        known = [f"{letter}_{split}" for split in _SPLIT_KEYS for letter in "xy"]
        found = {key: lower[key] for key in known if key in lower and f"x_{key[2:]}" in lower}
        ends = tuple(f"_{split}" for split in _SPLIT_KEYS if f"x_{split}" in found)
        taken = set(found.values())
        return found | {key: name for key, name in further.items() if name not in taken and key[2:].endswith(ends)}
    if "x" in lower:
        return {key: lower[key] for key in ("x", "y") if key in lower} | further
    if len(names) == 1:
        return {"x": names[0]}
    found = ", ".join(f"`{name}`" for name in sorted(names)[:20]) or "no arrays"
    raise DataError(
        f"{where} must hold `x_train` (and `y_train`, `x_test`, `y_test`), or `x` (and `y`), or one array; found {found}. "
        "Save it again with these names: `np.savez(path, x=..., y=...)`."
    )


def _parts(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    if "x" in arrays:
        return {"": (arrays["x"], arrays.get("y"))}
    splits = {split: key for split, key in _SPLIT_KEYS.items() if f"x_{split}" in arrays}
    return {key: (arrays[f"x_{split}"], arrays.get(f"y_{split}")) for split, key in splits.items()}


def _beside(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The columns `y_NAME` of the one part, or `y_NAME_train` of each."""
    if "x" in arrays:
        return {"": {key[2:]: array for key, array in arrays.items() if key.startswith("y_")}}
    found: dict[str, dict[str, np.ndarray]] = {}
    for split, key in _SPLIT_KEYS.items():
        if f"x_{split}" in arrays:
            ending = f"_{split}"
            own = {name: array for name, array in arrays.items() if name.startswith("y_") and name.endswith(ending)}
            found[key] = {name[2 : -len(ending)]: array for name, array in own.items() if len(name) > len(ending) + 2}
    return found


def _read_small_npy(path: Path) -> np.ndarray:
    with open(path, "rb") as file:
        return _read_npy_stream(file, os.path.getsize(path), f"`{path}`")


def _read_npy_stream(file: IO[bytes], size: int, name: str) -> np.ndarray:
    """An array from the `size` bytes of an .npy file, whose header must agree with that size."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"{name} must be an .npy array of numbers, found format {version} (records). Save plain arrays.")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise DataError(
            f"{name} must be an array of numbers, found an array of Python objects, which is never unpickled. "
            "Save it again as numbers, for example with `.astype('float32')`."
        )
    needed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if needed != there:
        raise DataError(f"{name} must hold the {needed} bytes that its header states, found {there}. Write it again.")
    array = np.empty(math.prod(shape), dtype)
    view = array.view(np.uint8).data if needed else memoryview(b"")
    done = 0
    while done < needed:
        got = file.readinto(view[done : done + _READ])  # type: ignore[attr-defined]
        if not got:
            raise DataError(f"{name} must hold {needed} bytes, found {done}. The file is damaged; fetch or write it again.")
        done += got
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _exactly(file: IO[bytes] | gzip.GzipFile, count: int, path: Path) -> bytearray:
    """`count` bytes, read in blocks, so that a header that lies costs no memory."""
    data = bytearray()
    while len(data) < count:
        block = file.read(min(_READ, count - len(data)))
        if not block:
            raise DataError(
                f"`{path}` must hold {count} bytes after its header, found {len(data)}. The file is cut short; fetch it again."
            )
        data += block
    return data


def _reason(error: BaseException) -> str:
    return f"{str(error).rstrip('.') or type(error).__name__}."
