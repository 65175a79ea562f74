"""Texts from files and from memory: what a source is, and its texts in chunks, so that its size does not matter."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from vaekit.errors import ConfigError, DataError

CHUNK_TEXTS = 10_000
CHUNK_CHARACTERS = 1 << 22
LABEL = "label"
_TEXT = "text"
_PIECE = 1 << 20


@dataclass
class Chunk:
    """Some texts of a source.

    Attributes:
        texts: n of them.
        columns: name -> n printed values beside them, None where there is none.
        blank: how many blank lines were left out.
        absent: how many texts were not there; they are empty.
    """

    texts: list[str]
    columns: dict[str, list[str | None]] = field(default_factory=dict)
    blank: int = 0
    absent: int = 0


@dataclass(frozen=True)
class TextSource:
    """Texts that can be read any number of times.

    Attributes:
        form: what they came in.
        name: as sentences name it.
        chunks: the texts, some at a time.
        column: in which they lie; None where it has no name.
        path: of the file, if it is one.
        notes: what a person should know.
    """

    form: str
    name: str
    chunks: Callable[[], Iterator[Chunk]]
    column: str | None = None
    path: Path | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Texts:
    """Texts in memory, with their labels.

    Attributes:
        values: the texts, None where there is none.
        columns: name -> a value each.
        column: the name of the texts themselves.
    """

    values: Sequence[Any]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    column: str | None = None


def as_texts(source: Any, y: Any = None) -> Texts | None:
    """A list, tuple, series or array (N,) of strings as texts, or a dict that has them as `text`; None if it is none.

    Args:
        source: the texts. What else a dict holds stands beside them.
        y: their labels.

    Raises:
        DataError: if there is not one label a text.

    Example:
        >>> as_texts(["a", "b"]).values, as_texts([1, 2])
        (['a', 'b'], None)
    """
    if isinstance(source, Mapping):
        texts = as_texts(source[_TEXT]) if _TEXT in source else None
        if texts is None:
            return None
        columns = {str(name): _labels(name, values, texts) for name, values in source.items() if name != _TEXT}
        return Texts(texts.values, columns | ({} if y is None else {LABEL: _labels("y", y, texts)}), _TEXT)
    if isinstance(source, list | tuple):
        values = list(source)
    elif getattr(source, "ndim", 1) == 1 and (hasattr(source, "to_list") or hasattr(source, "to_pylist")):
        kind = str(getattr(source, "dtype", getattr(source, "type", "")))
        if not any(word in kind.lower() for word in ("object", "str", "category", "enum", "categorical")):
            return None
        values = source.to_list() if hasattr(source, "to_list") else source.to_pylist()
    elif isinstance(source, np.ndarray) and source.ndim == 1 and source.dtype.kind in "UOT":
        values = source.tolist()
    else:
        return None
    if not isinstance(next((value for value in values if not _is_absent(value)), None), str):
        return None
    texts = Texts(values)
    return texts if y is None else Texts(values, {LABEL: _labels("y", y, texts)})


def _labels(name: Any, values: Any, texts: Texts) -> list[Any]:
    shape = np.shape(values)
    if len(shape) != 1 or shape[0] != len(texts.values):
        raise DataError(
            f"`{name}` must have one label per text, found the shape {shape} for {len(texts.values)} texts. "
            "Check that they belong together."
        )
    return values if isinstance(values, list) else np.asarray(values).tolist()


def open_memory(texts: Texts) -> TextSource:
    """Texts in memory as a source."""

    def chunks() -> Iterator[Chunk]:
        for start in range(0, len(texts.values), CHUNK_TEXTS):
            part = texts.values[start : start + CHUNK_TEXTS]
            for index, value in enumerate(part, start):
                if not isinstance(value, str) and not _is_absent(value):
                    raise DataError(
                        f"Each text must be a string, found {type(value).__name__} at {index}. Convert it, or leave it out."
                    )
            plain = ["" if _is_absent(value) else str(value) for value in part]
            columns = {
                name: [printed(value) for value in values[start : start + CHUNK_TEXTS]]
                for name, values in texts.columns.items()
            }
            yield Chunk(plain, columns, absent=sum(map(_is_absent, part)))

    return TextSource("list" if texts.column is None else "dict", "The data", chunks, texts.column)


def open_lines(path: Path, encoding: str | None = None) -> TextSource:
    """A file of lines as a source; it may be gzipped.

    Args:
        path: of the file.
        encoding: UTF-8, or UTF-16 by its mark, if left out.
    """
    notes = _table_note(path, encoding)
    return TextSource("txt", f"`{path}`", lambda: _chunks_of_lines(path, encoding), path=path, notes=notes)


def check_encoding(encoding: str) -> None:
    """Refuses an encoding that there is not.

    Raises:
        ConfigError: if it is none of text.
    """
    try:
        b"a".decode(encoding, "ignore")
    except (LookupError, ValueError) as error:
        raise ConfigError(
            f"`encoding` must be a text encoding such as 'utf-8' or 'cp1252', got {encoding!r}. Choose a known one."
        ) from error


def lines_of(path: Path, encoding: str | None = None) -> Iterator[str]:
    """The lines of a file, without their ends; `\\n`, `\\r\\n` and `\\r` end a line.

    Raises:
        DataError: if it cannot be read, or is not text of that encoding; with the place.
    """
    rest: list[str] = []
    for piece in _pieces(path, encoding):
        lines = piece.split("\n")
        rest.append(lines[0])
        if len(lines) > 1:
            yield "".join(rest)
            yield from lines[1:-1]
            rest = [lines[-1]]
    last = "".join(rest)
    if last:
        yield last


def printed(value: Any) -> str | None:
    """A value beside a text as a category prints; None if there is none.

    Example:
        >>> printed(3), printed(True), printed(2.0), printed(None)
        ('3', 'true', '2', None)
    """
    if isinstance(value, str):
        return value or None
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if _is_absent(value):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _is_absent(value: Any) -> bool:
    return not isinstance(value, str) and (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def _pieces(path: Path, encoding: str | None) -> Iterator[str]:
    """The text of a file in pieces, with `\\n` as the end of a line, and without its mark."""
    with _binary(path) as file:
        try:
            piece = file.read(_PIECE)
            encoding = encoding or _by_mark(piece)
            decoder = codecs.getincrementaldecoder(encoding)()
            newlines = io.IncrementalNewlineDecoder(None, translate=True)
            place, line, first = 0, 1, True
            while True:
                if b"\0" in piece and codecs.lookup(encoding).name.startswith("utf-8"):
                    raise DataError(_binary_file(path, line + piece[: piece.index(b"\0")].count(b"\n")))
                try:
                    text = newlines.decode(decoder.decode(piece, final=not piece), final=not piece)
                except UnicodeError as error:
                    raise DataError(_not_text(path, encoding, piece, error, place, line)) from error
                if "\0" in text:
                    raise DataError(_binary_file(path, line + text[: text.index("\0")].count("\n")))
                text, first = text.removeprefix("\ufeff") if first else text, first and not text
                line += text.count("\n")
                yield text
                if not piece:
                    return
                place += len(piece)
                piece = file.read(_PIECE)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"`{path}` must be readable, but: {error}. Fetch or write it again.") from error


def _binary_file(path: Path, line: int) -> str:
    return (
        f"`{path}` must be text, found a zero character in line {line:,}, as files that are no text have. "
        "If it is UTF-16 without a mark, give `encoding='utf-16-le'` (`--encoding utf-16-le`)."
    )


def _not_text(path: Path, encoding: str, piece: bytes, error: UnicodeError, place: int, line: int) -> str:
    data, start = getattr(error, "object", piece), getattr(error, "start", 0)
    where, line = place + len(piece) - len(data) + start, line + data[:start].count(b"\n")
    return (
        f"`{path}` must be {encoding.upper()} text, found the bytes {data[start : start + 4].hex(' ')} at byte {where:,} "
        f"(line {line:,}). "
        "Save it as UTF-8, or name its encoding, for example `encoding='cp1252'` (`--encoding cp1252`)."
    )


def _by_mark(head: bytes) -> str:
    return "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"


def _binary(path: Path) -> IO[bytes]:
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        return gzip.open(path, "rb") if zipped else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise DataError(f"`{path}` must be readable, but: {error.strerror or error}. Check the path.") from error


def in_chunks(rows: Iterable[tuple[str, Any]]) -> Iterator[list[tuple[str, Any]]]:
    """Rows of a text and something else, so many at a time that they stay small."""
    part: list[tuple[str, Any]] = []
    size = 0
    for row in rows:
        part.append(row)
        size += len(row[0])
        if len(part) >= CHUNK_TEXTS or size >= CHUNK_CHARACTERS:
            yield part
            part, size = [], 0
    if part:
        yield part


def _chunks_of_lines(path: Path, encoding: str | None) -> Iterator[Chunk]:
    for part in in_chunks((line, None) for line in lines_of(path, encoding)):
        texts = [line for line, _ in part if not is_blank(line)]
        yield Chunk(texts, blank=len(part) - len(texts))


def is_blank(line: str) -> bool:
    """Whether a line holds nothing but space."""
    """Whether a line holds nothing but space."""
    return not line or line.isspace()


def _table_note(path: Path, encoding: str | None) -> tuple[str, ...]:
    """A note where the lines look like rows: the same number of tabs in each of the first ones."""
    counts = set()
    for index, line in enumerate(lines_of(path, encoding)):
        if index == 20:
            break
        counts.add(line[: 1 << 16].count("\t"))
    if len(counts) != 1 or counts == {0}:
        return ()
    return ("Each line is taken as a text; they have tabs as rows have: `kind='table'` (`--kind table`) reads a table.",)
