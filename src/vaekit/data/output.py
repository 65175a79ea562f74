"""Outputs that appear whole or not at all: written beside the place they are for, then moved there."""

from __future__ import annotations

import contextlib
import glob
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vaekit.errors import ConfigError, DataError

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".npz", ".jsonl")
"""The endings of tables, written and read."""

EXAMPLE_SUFFIXES = {
    "images": ("", ".png", ".npy", ".npz"),
    "vectors": (".npy", *TABLE_SUFFIXES),
    "table": (".csv", ".tsv", ".parquet", ".arrow", ".feather", ".xlsx"),
    "text": (".txt", ".jsonl", ".csv", ".tsv", ".parquet"),
}
"""The endings of examples by their kind; none is a folder."""


def listed(suffixes: Sequence[str]) -> str:
    """Endings as a sentence has them.

    Example:
        >>> listed(["", ".png", ".npy"])
        'a folder, .png or .npy'
    """
    named = [suffix or "a folder" for suffix in suffixes]
    return " or ".join(filter(None, (", ".join(named[:-1]), named[-1])))


def as_json(value: Any) -> Any:
    """The value with null for numbers that JSON does not have.

    Example:
        >>> as_json({"nll_nats": float("inf"), "units": [1]})
        {'nll_nats': None, 'units': [1]}
    """
    if isinstance(value, Mapping):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_output(out: str | os.PathLike[str], force: bool = False) -> Path:
    """Checks, before long work, that an output may be written. An empty folder counts as nothing there.

    Returns:
        The path, with links resolved.

    Raises:
        DataError: if it exists, and `force` is False.
        ConfigError: if it can never be written: a device, or a folder that the process stands in.
    """
    with _writing(out):  # a folder above it may be closed to us
        return _checked(out, force)


def _checked(out: str | os.PathLike[str], force: bool) -> Path:
    path = Path(os.path.realpath(Path(out).expanduser()))
    if not path.exists():
        beneath = next((parent for parent in path.parents if parent.exists()), path.parent)
        if not beneath.is_dir():
            raise ConfigError(f"`{out}` must lie in a folder, but `{beneath}` is a file. Choose another output.")
        return path
    if not path.is_file() and not path.is_dir():
        raise ConfigError(f"`{out}` must be a file or a folder, found a device or a pipe. Choose another output.")
    if path.is_dir() and (path in (Path.home(), Path(path.anchor)) or Path.cwd().is_relative_to(path)):
        raise ConfigError(
            f"`{out}` must be an output of its own, found the folder that you work in, or your home. Choose a folder below it."
        )
    if not force and not (path.is_dir() and not any(path.iterdir())):
        raise DataError(
            f"`{out}` must not exist yet, found it there. Use `force=True` (`--force`) to replace it, or choose another output."
        )
    return path


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str], force: bool = True) -> Iterator[Path]:
    """A temporary path in the same folder; what is written there becomes `path` when the block ends without an error.

    Raises:
        DataError: if `path` exists, and `force` is False.
        ConfigError: if it cannot be written; nothing is left behind.
    """
    final = check_output(path, force)
    if final.is_dir():
        raise ConfigError(f"`{path}` must be a file, found a folder. Choose another output.")
    temporary = _beside(final)
    try:
        with _writing(path):
            final.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            os.replace(temporary, final)
            _sync_names(final.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str], force: bool = False, sync: bool = True) -> Iterator[Path]:
    """A temporary folder beside `path`, which it becomes when the block ends without an error.

    What was there before is moved away first and removed last, so that one of the two is always whole.

    Args:
        path: of the folder.
        force: replace what is there.
        sync: bring each file to the disk before the folder appears; too slow for very many small files.

    Raises:
        DataError: if `path` exists and is not empty, and `force` is False.
        ConfigError: if it cannot be written; nothing is left behind.
    """
    final = check_output(path, force)
    temporary, old = _beside(final), _beside(final)
    try:
        with _writing(path):
            final.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            yield temporary
            for folder, _, names in os.walk(temporary) if sync else ():
                for name in names:
                    _sync(Path(folder, name))
            _swap(temporary, final, old)
            _sync_names(final.parent)
    finally:
        _remove(temporary)
        if final.exists():
            _remove(old)


def _swap(new: Path, final: Path, old: Path) -> None:
    there = final.exists()
    if there:
        os.rename(final, old)
    try:
        os.rename(new, final)
    except OSError:
        if there:
            os.rename(old, final)
        raise


def _beside(final: Path) -> Path:
    """Hidden, and with the same suffix, by which writers choose the format."""
    return final.with_name(f".{final.stem[:80]}.{os.urandom(6).hex()}.tmp{final.suffix}")


def leftovers(path: Path) -> list[Path]:
    """What writers of the file that were killed have left beside it."""
    return sorted(path.parent.glob(f".{glob.escape(path.stem[:80])}.{'[0-9a-f]' * 12}.tmp{glob.escape(path.suffix)}"))


@contextlib.contextmanager
def _writing(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"`{path}` must be writable, but: {reason}. Free some space, or choose another output.") from error


def _sync(path: Path) -> None:
    """Brings a file to the disk, so that a rename never outlives what it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_names(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot; the output is there all the same
        _sync(folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
