"""Which image files a folder or a zip holds, in which order, and what their folders say: splits and classes."""

from __future__ import annotations

import os
import posixpath
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

from vaekit.data.decoding import SUFFIXES, BadImageError
from vaekit.errors import DataError

MAX_FILE_BYTES = 2**30
"""A member of a zip that states more than this is not unpacked."""

_SPLITS = {"train": "train", "test": "test", "valid": "valid", "val": "valid"}


@dataclass(frozen=True)
class Listing:
    """The image files of a source, in natural order of their names.

    Attributes:
        root: the folder, the zip, or the single file.
        form: of the source.
        names: relative paths with `/`.
        stamps: size and time of change in ns, of each file (of the zip as a whole).
        others: how many other files there are, by suffix.
    """

    root: Path
    form: Literal["folder", "zip", "file"]
    names: list[str]
    stamps: list[tuple[int, int]]
    others: Counter[str] = field(default_factory=Counter)
    members: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Structure:
    """What the folders of a listing say.

    Attributes:
        splits: split name -> indices.
        labels: the class folder of each image, or None.
        outside: indices of images that lie beside `train/`, in no split.
    """

    splits: dict[str, list[int]]
    labels: list[str] | None
    outside: list[int]


def list_images(path: Path) -> Listing:
    """The images of a folder (nested), of a zip, or of one file.

    Hidden files and `__MACOSX` are left out; a link to a folder that contains it is not followed.

    Raises:
        DataError: if there are none, or the folder or zip cannot be read.
    """
    try:
        if path.is_dir():
            listing = _list_folder(path)
        elif zipfile.is_zipfile(path):
            listing = _list_zip(path)
        else:
            stat = path.stat()
            listing = Listing(path, "file", [path.name], [(stat.st_size, stat.st_mtime_ns)])
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"`{path}` must be readable, but: {error}. Check its permissions, and that it is whole.") from error
    if not listing.names:
        found = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in listing.others.most_common(5))
        found = f"other files only: {found}" if found else "nothing: it is empty"
        raise DataError(f"`{path}` must hold images ({', '.join(SUFFIXES)}), found {found}. Choose another folder.")
    return listing


_NUMBERS = re.compile(r"([0-9]+)")


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sorts numbers in names by their size.

    Example:
        >>> sorted(["a10.png", "a9.png"], key=natural_key)
        ['a9.png', 'a10.png']
    """
    parts: list[str | int] = list(_NUMBERS.split(name))
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts, name


def read_structure(names: Sequence[str]) -> Structure:
    """Splits and classes of relative paths.

    Folders that contain everything are passed over. `train/` beside `test/`, `valid/` or `val/` are splits; below
    them, or at the top, two or more folders that contain all images are classes.

    Example:
        >>> read_structure(["d/train/a/1.png", "d/train/b/1.png", "d/test/b/2.png"])
        Structure(splits={'train': [0, 1], 'test': [2]}, labels=['a', 'b', 'b'], outside=[])
    """
    folders = [name.rpartition("/")[0] for name in names]
    distinct = {folder: folder.split("/") if folder else [] for folder in set(folders)}  # few, where files are many
    common = _common_depth(list(distinct.values()))
    tops = {folder: path[common].lower() if len(path) > common else "" for folder, path in distinct.items()}
    if "train" not in tops.values():
        below = {folder: path[common:] for folder, path in distinct.items()}
        return Structure({}, _classes([below[folder] for folder in folders]), [])
    splits: dict[str, list[int]] = {}
    for index, folder in enumerate(folders):
        if tops[folder] in _SPLITS:
            splits.setdefault(_SPLITS[tops[folder]], []).append(index)
    below = {folder: path[common + 1 :] for folder, path in distinct.items()}
    inside = [below[folder] for folder in folders if tops[folder] in _SPLITS]
    outside = [index for index, folder in enumerate(folders) if tops[folder] not in _SPLITS]
    order = {name: splits[name] for name in ("train", "valid", "test") if name in splits}
    return Structure(order, _classes(inside), outside)


class Reader:
    """Opens the files of a listing by index; safe to use from several threads."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._zip = zipfile.ZipFile(listing.root) if listing.form == "zip" else None
        self._base = str(listing.root if listing.form == "folder" else listing.root.parent)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip is not None:
            self._zip.close()

    @contextmanager
    def open(self, index: int) -> Iterator[BinaryIO]:
        """The file at `index`, seekable."""
        name = self._listing.names[index]
        if self._zip is None:
            with open(os.path.join(self._base, name), "rb") as file:
                yield file
        else:
            yield BytesIO(self._unpack(self._zip, self._listing.members[name]))

    def _unpack(self, archive: zipfile.ZipFile, member: str) -> bytes:
        info = archive.getinfo(member)
        if info.file_size > MAX_FILE_BYTES:
            raise BadImageError(f"{info.file_size} bytes, more than the {MAX_FILE_BYTES} that are unpacked")
        with archive.open(info) as file:
            return file.read(info.file_size)


def _list_folder(root: Path) -> Listing:
    found: list[tuple[str, tuple[int, int]]] = []
    others: Counter[str] = Counter()
    _scan(str(root), "", frozenset(), found, others)
    found.sort(key=lambda item: natural_key(item[0]))
    return Listing(root, "folder", [name for name, _ in found], [stamp for _, stamp in found], others)


def _scan(
    folder: str, prefix: str, above: frozenset[tuple[int, int]], found: list[tuple[str, tuple[int, int]]], others: Counter[str]
) -> None:
    stat = os.stat(folder)
    here = (stat.st_dev, stat.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if _hidden(entry.name):
                continue
            if entry.is_dir():
                _scan(entry.path, f"{prefix}{entry.name}/", above | {here}, found, others)
            elif entry.is_file():
                if _is_image(entry.name):
                    info = entry.stat()
                    found.append((prefix + entry.name, (info.st_size, info.st_mtime_ns)))
                else:
                    others[_suffix(entry.name)] += 1


def _list_zip(path: Path) -> Listing:
    others: Counter[str] = Counter()
    members: dict[str, str] = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            # Normalised below an imagined root, so that no name can point out of an output folder later.
            name = posixpath.normpath("/" + info.filename.replace("\\", "/")).lstrip("/")
            if info.is_dir() or any(_hidden(part) for part in name.split("/")):
                continue
            if _is_image(name):
                members[name] = info.filename
            else:
                others[_suffix(name)] += 1
    stat = path.stat()
    names = sorted(members, key=natural_key)
    return Listing(path, "zip", names, [(stat.st_size, stat.st_mtime_ns)], others, members)


def _common_depth(paths: Sequence[list[str]]) -> int:
    """How many leading folders contain every image, short of a folder named as a split."""
    if not paths:
        return 0
    first, last = min(paths), max(paths)
    depth = 0
    while depth < min(len(first), len(last)) and first[depth] == last[depth] and first[depth].lower() != "train":
        depth += 1
    return depth


def _classes(paths: Sequence[list[str]]) -> list[str] | None:
    if not all(paths) or len({path[0] for path in paths}) < 2:
        return None
    return [path[0] for path in paths]


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()
