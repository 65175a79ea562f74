r"""Text files of rows, .csv and .tsv, as frames in which every cell is text: nothing is guessed here.

A file is read in pieces of whole rows, so that its size does not matter. An unquoted empty cell is missing (null), a quoted
one the empty text. Every row must have as many cells as the header; a blank line of a file of several columns is no row.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl

from vaekit.data.tables.numbers import PLAIN
from vaekit.errors import ConfigError, DataError

DELIMITERS = (",", ";", "\t", "|")
_PIECE = 1 << 24
_HEAD = 1 << 16
_LONGEST = 1 << 28
_QUOTE = 34


@dataclass(frozen=True)
class Layout:
    """How a text file lies: what `sniff` finds.

    Attributes:
        delimiter: between cells.
        encoding: of the text.
        header: whether the first row holds the names.
        names: of the columns, as they are spelled; empty without a header.
        num_columns: the cells a row.
        padded: whether a space follows each delimiter; it is dropped.
        ending: the end of a line: "\\n", or "\\r" alone in very old files.
    """

    delimiter: str
    encoding: str
    header: bool
    names: tuple[str, ...]
    num_columns: int
    padded: bool
    ending: str


def sniff(path: Path, delimiter: str | None = None, encoding: str | None = None, header: bool | None = None) -> Layout:
    """How a text file lies, by its first rows.

    Raises:
        DataError: if it is empty or no text.
        ConfigError: on a delimiter that cannot be.
    """
    if delimiter is not None and (len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n'):
        raise ConfigError(
            f"`delimiter` must be one ASCII character, such as ';', got {delimiter!r}. Leave it out to have it found."
        )
    with _binary(path) as file:
        head = file.read(_HEAD)
    encoding = encoding or _by_mark(head)
    try:
        codec = codecs.lookup(encoding).name
    except LookupError as error:
        raise ConfigError(f"`encoding` must be a text encoding such as 'utf-8' or 'cp1252', got {encoding!r}.") from error
    text, whole = _beginning(path, codec)
    if not text.strip("\r\n\ufeff "):
        raise DataError(f"`{path}` must hold a table, found no row. Check how it was written.")
    ending = "\r" if "\n" not in text and "\r" in text else "\n"
    rows = _first_rows(text, ending, whole)
    delimiter = delimiter or _delimiter(rows, path.suffix.lower())
    cells = [row for row in _cells(rows, delimiter) if row]
    first = cells[0] if cells else [""]
    padded = delimiter != "\t" and len(first) > 1 and all(cell.startswith(" ") for row in cells for cell in row[1:] if cell)
    header = header if header is not None else not all(_is_number(cell) for cell in first)
    names = tuple(cell.strip() if padded else cell for cell in first) if header else ()
    return Layout(delimiter, codec, header, names, len(first), padded, ending)


def text_batches(path: Path, layout: Layout, names: Sequence[str], rows: int) -> Iterator[pl.DataFrame]:
    """The rows of a text file as frames of at most `rows` rows of text.

    Args:
        path: of the file.
        layout: as `sniff` gives it.
        names: of the columns.
        rows: the most rows of a frame.

    Raises:
        DataError: on a row with another number of cells, bytes that are no text, or an open quote; with the line.
    """
    with _text_pieces(path, layout.encoding, _PIECE) as pieces:
        for frame in _frames(_lines(pieces, layout.ending), path, layout, names):
            if layout.padded:
                frame = frame.with_columns(pl.all().str.strip_chars_start(" "))
                frame = frame.with_columns(pl.when(pl.all() == "").then(None).otherwise(pl.all()).name.keep())
            yield from frame.iter_slices(rows)


def _frames(pieces: Iterator[bytes], path: Path, layout: Layout, names: Sequence[str]) -> Iterator[pl.DataFrame]:
    """A frame a piece; a file that quotes in its own way is read slowly from there on."""
    pending, line, skip = b"", 1, layout.header
    while True:
        piece = next(pieces, None)
        block = pending + (piece or b"")
        if piece is None and block and not block.endswith(b"\n"):
            block += b"\n"
        try:
            ends, counts = _rows_of(block, layout.delimiter)
        except _OddQuoteError:
            yield from _slowly(block, pieces, path, layout, names, line, skip)
            return
        if piece is None and block and (not len(ends) or ends[-1] != len(block) - 1):
            raise DataError(
                f"`{path}` must close every quote, found one that is open in row {len(ends) + 1} "
                f"after line {line} to the end. "
                "Close it, or double the quotes within cells."
            )
        if len(ends):
            cut = int(ends[-1]) + 1
            whole, pending = block[:cut], block[cut:]
            frame = _frame(whole, ends, counts, path, layout, names, line, skip)
            line += whole.count(b"\n")
            skip = skip and not len(frame) and not whole.strip(b"\r\n")
            if len(frame):
                yield frame
        else:
            pending = block
        if piece is None:
            return


class _OddQuoteError(Exception):
    """A quote within an unquoted cell."""


def _rows_of(block: bytes, delimiter: str) -> tuple[np.ndarray, np.ndarray]:
    """Where rows end, and how many cells each has; blank rows have 0."""
    array = np.frombuffer(block, np.uint8)
    is_end, is_mark = array == 10, array == ord(delimiter)
    if b'"' in block:
        quotes = array == _QUOTE
        inside = (np.cumsum(quotes, dtype=np.uint8) & 1).astype(bool)
        _check_quotes(array, quotes & inside, quotes & ~inside, delimiter)
        is_end &= ~inside
        is_mark &= ~inside
    ends = np.flatnonzero(is_end)
    marks = np.searchsorted(np.flatnonzero(is_mark), ends)
    counts = np.diff(marks, prepend=0) + 1
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    lengths = ends - starts
    blank = (lengths == 0) | ((lengths == 1) & (array[starts] == 13)) if len(ends) else np.zeros(0, bool)
    return ends, np.where(blank, 0, counts)


def _check_quotes(array: np.ndarray, opening: np.ndarray, closing: np.ndarray, delimiter: str) -> None:
    """That quotes stand around cells, and are doubled within."""
    edges = np.zeros(256, bool)
    edges[[10, 13, ord(delimiter), _QUOTE]] = True
    opens, closes = np.flatnonzero(opening), np.flatnonzero(closing)
    before = array[opens[opens > 0] - 1]
    after = array[closes[closes < len(array) - 1] + 1]
    if not (edges[before].all() and edges[after].all()):
        raise _OddQuoteError


def _frame(
    block: bytes, ends: np.ndarray, counts: np.ndarray, path: Path, layout: Layout, names: Sequence[str], line: int, skip: bool
) -> pl.DataFrame:
    single = layout.num_columns == 1
    filled = counts > 0
    wrong = np.flatnonzero((counts != layout.num_columns) & filled)
    if len(wrong):
        row = int(wrong[0])
        start = int(ends[row - 1]) + 1 if row else 0
        raise DataError(_ragged(path, line + block[:start].count(b"\n"), int(counts[row]), layout))
    if skip:  # the header, and blank lines above it
        first = int(np.argmax(filled)) if filled.any() else len(filled) - 1
        cut = int(ends[first]) + 1
        block, ends, filled = block[cut:], ends[first + 1 :] - cut, filled[first + 1 :]
    if not (single or filled.all()):
        block = _without_blank(block, ends, filled)
    schema = dict.fromkeys(names, pl.String)
    if not block:
        return pl.DataFrame(schema=schema)
    try:
        frame = pl.read_csv(
            io.BytesIO(block),
            has_header=False,
            schema=schema,
            separator=layout.delimiter,
            infer_schema=False,
            raise_if_empty=False,
        )
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"`{path}` must be a table of text, but from line {line}: {reason}. Write it again.") from error
    expected = len(filled) if single else int(filled.sum())
    if len(frame) != expected:
        raise DataError(
            f"`{path}` must have one row a line, found {len(frame)} rows for {expected} from line {line} on. "
            "Check the quotes there, or write it again."
        )
    return frame


def _without_blank(block: bytes, ends: np.ndarray, filled: np.ndarray) -> bytes:
    """A block without its blank lines, of which each is one byte or two."""
    array = np.frombuffer(block, np.uint8)
    keep = np.ones(len(array), bool)
    blank = ends[~filled]
    keep[blank] = False
    before = blank[blank > 0] - 1
    keep[before[array[before] == 13]] = False
    return array[keep].tobytes()


def _slowly(
    block: bytes, pieces: Iterator[bytes], path: Path, layout: Layout, names: Sequence[str], line: int, skip: bool
) -> Iterator[pl.DataFrame]:
    """Rows by Python's reader, which takes a quote within a cell as it stands; here a quoted empty cell is missing too."""
    reader = csv.reader(_text_lines(block, pieces), delimiter=layout.delimiter)
    rows: list[list[str]] = []
    last = 0
    try:
        for row in reader:
            start, last = line + last, reader.line_num
            if not row and layout.num_columns > 1:
                continue
            if skip:
                skip = False
                continue
            if len(row) != layout.num_columns and row:
                raise DataError(_ragged(path, start, len(row), layout))
            rows.append(row or [""])
            if len(rows) == 50_000:
                yield _from_rows(rows, names)
                rows = []
    except csv.Error as error:
        raise DataError(f"`{path}` must be a table of text, but near line {line + last}: {error}. Write it again.") from error
    if rows:
        yield _from_rows(rows, names)


def _from_rows(rows: list[list[str]], names: Sequence[str]) -> pl.DataFrame:
    columns = zip(*rows, strict=True)
    return pl.DataFrame(
        [pl.Series(name, [cell or None for cell in cells], pl.String) for name, cells in zip(names, columns, strict=True)]
    )


def _text_lines(block: bytes, pieces: Iterator[bytes]) -> Iterator[str]:
    rest = block
    for piece in pieces:
        lines = (rest + piece).split(b"\n")
        rest = lines.pop()
        yield from (line.decode("utf-8") + "\n" for line in lines)
    if rest:
        yield from (line.decode("utf-8") + "\n" for line in rest.removesuffix(b"\n").split(b"\n"))


def _ragged(path: Path, line: int, found: int, layout: Layout) -> str:
    return (
        f"`{path}` must have {layout.num_columns} cells in every row, as its first row has, found {found} in line {line} "
        f"(delimiter {layout.delimiter!r}). Mend that line, quote cells that hold the delimiter, or give `delimiter`."
    )


def _lines(pieces: Iterator[bytes], ending: str) -> Iterator[bytes]:
    for piece in pieces:
        yield piece.replace(b"\r", b"\n") if ending == "\r" else piece


def _binary(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else path.open("rb")  # type: ignore[return-value]


class _text_pieces:  # noqa: N801 - used as a context, like the functions of contextlib
    """The text of a file as UTF-8 pieces, without its byte order mark."""

    def __init__(self, path: Path, encoding: str, size: int) -> None:
        self.path, self.encoding, self.size = path, encoding, size

    def __enter__(self) -> Iterator[bytes]:
        self.file = _binary(self.path)
        return self._pieces()

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def _pieces(self) -> Iterator[bytes]:
        decoder = codecs.getincrementaldecoder("utf-8" if self.encoding == "utf-8-sig" else self.encoding)()
        first, place, line = True, 0, 1
        while True:
            try:
                piece = self.file.read(self.size)
            except (OSError, EOFError) as error:
                raise DataError(f"`{self.path}` must be readable, but: {error}. Fetch or write it again.") from error
            try:
                text = decoder.decode(piece, final=not piece)
            except UnicodeError as error:
                raise DataError(self._not_text(piece, error, place, line)) from error
            place += len(piece)
            if first:
                text, first = text.removeprefix("\ufeff"), not text
            line += text.count("\n")
            if text:
                yield text.encode("utf-8", "surrogatepass")
            if not piece:
                return

    def _not_text(self, piece: bytes, error: UnicodeError, place: int, line: int) -> str:
        start = getattr(error, "start", 0)
        data = getattr(error, "object", piece)
        line += data[:start].count(b"\n")
        return (
            f"`{self.path}` must be {self.encoding.upper()} text, found the bytes {data[start : start + 4].hex(' ')} "
            f"in line {line}. "
            "Save it as UTF-8, or name its encoding, for example `encoding='cp1252'` (Windows) or 'latin-1'."
        )


def _by_mark(head: bytes) -> str:
    return "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"


def _beginning(path: Path, encoding: str) -> tuple[str, bool]:
    """The first lines, however long they are, and whether they are all."""
    size = _HEAD
    while True:
        with _text_pieces(path, encoding, size) as pieces:
            text = next(iter(pieces), b"").decode("utf-8", "replace")
        whole = len(text) < size // 4
        if whole or text.count("\n") + text.count("\r") > 4 or size >= _LONGEST:
            return text, whole
        size *= 16


def _first_rows(text: str, ending: str, whole: bool) -> list[str]:
    lines = [line + "\n" for line in text.split(ending)[:200] if line.strip("\r")]
    return lines if whole or len(lines) < 2 else lines[:-1]


def _delimiter(rows: list[str], suffix: str) -> str:
    """The delimiter that cuts the first rows into the same number of cells, the most cells first."""
    if suffix in (".tsv", ".tab") and "\t" in rows[0]:
        return "\t"
    scores: list[tuple[float, int, int, str]] = []
    for rank, delimiter in enumerate(DELIMITERS):
        counts = [len(row) for row in _cells(rows, delimiter)]
        if counts and counts[0] > 1:
            agree = float(np.mean(np.array(counts) == counts[0]))
            scores.append((round(agree, 2), counts[0], -rank, delimiter))
    return max(scores)[3] if scores else ","


def _cells(rows: list[str], delimiter: str) -> list[list[str]]:
    try:
        return list(csv.reader(rows, delimiter=delimiter))
    except csv.Error:  # a cell above its limit, as a long row is with a delimiter that it does not have
        return [row.rstrip("\r\n").split(delimiter) for row in rows]


def _is_number(cell: str) -> bool:
    return bool(cell.strip()) and bool(pl.Series([cell.strip()]).str.contains(PLAIN)[0])
