"""Texts in files of JSON lines: an object a line, of which one field is the text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vaekit.data.text.reading import Chunk, TextSource, in_chunks, is_blank, lines_of, printed
from vaekit.errors import DataError

SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
_HEAD_ROWS = 1000

_Row = tuple[int, Any]
"""The number of a line, and its value."""


def open_json(path: Path, encoding: str | None = None, text: str | None = None, likely: str | None = None) -> TextSource:
    """A file of JSON lines as a source: of objects, or of strings alone.

    The first thousand lines say which fields there are. Fields of strings, numbers and truth values stay beside the text.

    Args:
        path: of the file.
        encoding: of the file.
        text: the field of the text; `text`, or the only field of strings, if left out.
        likely: the field where `text` is not given, if there is one of that name.

    Raises:
        DataError: if it cannot be read, a line is no JSON, or there is no such field.
    """
    head = list(itertools.islice(_rows(path, encoding), _HEAD_ROWS))
    if not head:
        raise DataError(f"`{path}` must hold text, found no line. Check how it was written.")
    others: tuple[str, ...] = ()
    field = None
    if not all(isinstance(row, str) for _, row in head):
        for number, row in head:
            _check_object(path, number, row)
        objects = [row for _, row in head]
        fields = list(dict.fromkeys(name for row in objects for name in row))
        field = _text_field(path, objects, fields, text, likely)
        others = tuple(
            name for name in fields if name != field and not any(isinstance(row.get(name), list | dict) for row in objects)
        )

    def chunks() -> Iterator[Chunk]:
        for part in in_chunks(_texts(path, encoding, field)):
            columns = {name: [_printed(row, name) for _, row in part] for name in others}
            absent = sum(field is not None and row.get(field) is None for _, row in part)
            yield Chunk([text for text, _ in part], columns, absent=absent)

    return TextSource("jsonl", f"`{path}`", chunks, field, path)


def _rows(path: Path, encoding: str | None) -> Iterator[_Row]:
    for number, line in enumerate(lines_of(path, encoding), 1):
        if is_blank(line):
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or str(error)
            raise DataError(f"`{path}` must have JSON in each line, but line {number:,}: {reason}. Mend that line.") from error


def _texts(path: Path, encoding: str | None, field: str | None) -> Iterator[tuple[str, Any]]:
    """The texts and their rows; a text that is not there is empty."""
    for number, row in _rows(path, encoding):
        if field is None:
            if not isinstance(row, str):
                raise DataError(f"`{path}` must have strings as lines, found {_kind(row)} in line {number:,}. Mend it.")
            yield row, row
            continue
        _check_object(path, number, row)
        value = row.get(field)
        if value is not None and not isinstance(value, str):
            raise DataError(f"`{path}` must have strings as `{field}`, found {_kind(value)} in line {number:,}. Mend it.")
        yield value or "", row


def _check_object(path: Path, number: int, row: Any) -> None:
    if not isinstance(row, dict):
        raise DataError(f"`{path}` must have a JSON object in each line, found {_kind(row)} in line {number:,}. Mend it.")


def _text_field(path: Path, rows: list[dict[str, Any]], fields: list[str], asked: str | None, likely: str | None) -> str:
    if asked is not None:
        if asked not in fields:
            raise DataError(f"`{path}` must have a field `{asked}`; it has {', '.join(fields) or 'none'}. Choose one of them.")
        return asked
    strings = [name for name in fields if any(isinstance(row.get(name), str) for row in rows)]
    for name in (likely, "text"):
        if name in strings:
            return str(name)
    if len(strings) != 1:
        raise DataError(
            f"`{path}` must have a field `text`, or one field of strings, found {', '.join(strings) or 'none'}. "
            "Name it with `text=FIELD` (`--text FIELD`)."
        )
    return strings[0]


def _printed(row: Any, name: str) -> str | None:
    value = row.get(name)
    return None if isinstance(value, list | dict) else printed(value)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
