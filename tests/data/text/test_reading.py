"""Files and memory as texts: encodings, line ends, JSON lines, and what is no text."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from vaekit.data import loading
from vaekit.data.dataset import Dataset
from vaekit.data.text import reading
from vaekit.data.text.reading import as_texts, lines_of
from vaekit.errors import ConfigError, DataError


def texts(data: Dataset) -> list[str]:
    return data.raw().tolist()


@pytest.fixture
def put(tmp_path: Path):
    def write(name: str, content: bytes | str) -> Path:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path / name

    return write


LINES = "naïve\nsecond 你好\n👍\n"
WANTED = ["naïve", "second 你好", "👍"]


@pytest.mark.parametrize(
    "content",
    [
        LINES.encode(),
        LINES.encode().rstrip(b"\n"),
        LINES.replace("\n", "\r\n").encode(),
        LINES.replace("\n", "\r").encode(),
        LINES.encode("utf-8-sig"),
        LINES.encode("utf-16"),
        LINES.replace("\n", "\r\n").encode("utf-16"),
        gzip.compress(LINES.encode()),
    ],
    ids=["utf-8", "no-last-end", "crlf", "cr", "mark", "utf-16", "utf-16-crlf", "gzip"],
)
@pytest.mark.parametrize("piece", [1, 3, 1 << 20])
def test_encodings_and_line_ends(put, content: bytes, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if piece == 1 and content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        piece = 2  # the mark decides
    monkeypatch.setattr(reading, "_PIECE", piece)
    path = put("lines.txt.gz" if content[:2] == b"\x1f\x8b" else "lines.txt", content)
    assert list(lines_of(path)) == WANTED
    data = loading.open(path, tokens="character")
    assert texts(data) == WANTED
    assert data.schema.source.form == "txt"


def test_other_line_separators_do_not_end_a_line(put) -> None:
    assert list(lines_of(put("a.txt", "a\x85b\u2028c\x0cd\x1ce\nf"))) == ["a\x85b\u2028c\x0cd\x1ce", "f"]


def test_a_given_encoding(put) -> None:
    path = put("a.txt", "café\nœuf\n".encode("cp1252"))
    assert texts(loading.open(path, encoding="cp1252")) == ["café", "œuf"]
    with pytest.raises(DataError, match=r"must be UTF-8 text, found the bytes e9 .* at byte 3 \(line 1\)\..*--encoding cp1252"):
        loading.open(path)
    late = put("late.txt", b"abc\n" * 100_000 + b"\xff\n")
    with pytest.raises(DataError, match=r"at byte 400,000 \(line 100,001\)"):
        loading.open(late)
    schema = loading.open(path, encoding="cp1252").schema
    assert texts(loading.conform(path, schema, encoding="cp1252")) == ["café", "œuf"]
    for wrong in ("klingon", "base64"):
        with pytest.raises(ConfigError, match=f"`encoding` must be a text encoding .* got '{wrong}'"):
            loading.open(path, encoding=wrong)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.txt", b"text\nmore\0text", r"found a zero character in line 2, as files that are no text have.*utf-16-le"),
        ("a.txt", bytes(range(256)) * 30, "found a zero character in line 1"),
        ("a.txt", "text".encode("utf-16-le"), "utf-16-le"),
        ("a.txt", b"\xff\xfeabc", "must be UTF-16 text"),
        ("a.txt", b"\n \n\t\n", "must hold text, found none"),
        ("a.txt", b"", "found an empty file"),
        ("a.txt", b"%PDF-1.7 x", "found a PDF document"),
        ("a.txt.gz", gzip.compress(b"abc" * 1000)[:-9], "must be readable, but"),
        ("a.jsonl", b"\n", "must hold text, found no line"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"line 2: Expecting value"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', r"must have a JSON object in each line, found a list in line 2"),
        ("a.jsonl", b'{"text": "a"}\n{"text": 3}\n', r"must have strings as `text`, found a number in line 2"),
        ("a.jsonl", b'"a"\n{"text": 3}\n', r"must have a JSON object in each line, found a string in line 1"),
        ("a.jsonl", b'{"a": "x", "b": "y"}\n', r"or one field of strings, found a, b\. Name it with `text=FIELD`"),
        ("a.jsonl", b'{"a": 1}\n', r"or one field of strings, found none"),
        ("a.jsonl", b"[" * 100_000, "line 1"),
        ("a.json", b'["a"]', r"named \.jsonl"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_told_in_one_sentence(put, name: str, content: bytes, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        loading.open(put(name, content))
    assert "\n" not in str(caught.value)


def test_a_string_in_a_late_line_of_objects(put) -> None:
    path = put("a.jsonl", '{"text": "a"}\n' * 1200 + '"b"\n')
    with pytest.raises(DataError, match="found a string in line 1,201"):
        loading.open(path)


def test_json_lines(put) -> None:
    rows = [
        {"id": index, "text": f"text {index}", "stars": index % 3, "good": index % 2 == 0, "tags": [], "kind": "ab"[index % 2]}
        for index in range(30)
    ]
    rows[4] |= {"text": None, "stars": None}
    data = loading.open(put("a.jsonl", "\n\n".join(map(json.dumps, rows))))
    assert texts(data) == [row["text"] or "" for row in rows]
    assert {column.name: column.categories for column in data.schema.columns} == {
        "stars": ("0", "1", "2"),
        "good": ("false", "true"),
        "kind": ("a", "b"),
    }
    assert data.columns["stars"].tolist() == [-1 if row["stars"] is None else row["stars"] for row in rows]
    assert data.columns["good"].tolist() == [int(row["good"]) for row in rows]
    assert any("`id`" in note and "left out" in note for note in data.notes)
    assert any(note.startswith("1 text is not there") for note in data.notes)
    assert (data.schema.source.form, data.schema.source.column) == ("jsonl", "text")


def test_the_field_of_json_lines(put) -> None:
    rows = [{"review": f"good {index}", "n": 1, "title": "abc"[index % 3]} for index in range(9)]
    path = put("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="found review, title"):
        loading.open(path)
    data = loading.open(path, text="review")
    assert texts(data)[:2] == ["good 0", "good 1"]
    assert data.schema.column("title").categories == ("a", "b", "c")
    assert texts(loading.conform(path, data.schema))[:2] == ["good 0", "good 1"]  # it is known by its name
    with pytest.raises(DataError, match=r"must have a field `body`; it has review, n, title"):
        loading.open(path, text="body")
    only = put("b.ndjson", '{"body": "x", "n": 1}\n{"body": "y", "n": 2}\n')
    assert texts(loading.open(only)) == ["x", "y"]
    assert texts(loading.open(put("c.jsonl.gz", gzip.compress(b'"x"\n"y z"\n')))) == ["x", "y z"]
    escaped = put("d.jsonl", r'{"text": "a\ud83d\ude00\ud800\u0000"}' + "\n")
    assert texts(loading.open(escaped)) == ["a😀\ufffd\0"]


@pytest.mark.parametrize(
    "source",
    [
        ["a", "bc"],
        ("a", "bc"),
        np.array(["a", "bc"]),
        np.array(["a", "bc"], dtype=object),
        pd.Series(["a", "bc"]),
        pd.Series(["a", "bc"], dtype="category"),
        pl.Series(["a", "bc"]),
        pa.array(["a", "bc"]),
        {"text": ["a", "bc"]},
    ],
    ids=lambda source: f"{type(source).__module__}.{type(source).__name__}",
)
def test_texts_in_memory(source: object) -> None:
    data = loading.open(source)
    assert texts(data) == ["a", "bc"]
    assert texts(loading.conform(source, data.schema)) == ["a", "bc"]


def test_texts_that_are_not_there_are_empty_and_keep_their_row() -> None:
    data = loading.open(["a", None, float("nan"), "", "b"], y=[0, 1, 0, 1, 0])
    assert texts(data) == ["a", "", "", "", "b"]
    assert data.columns["label"].tolist() == [0, 1, 0, 1, 0]
    assert data.notes[0].startswith("2 texts are not there")


@pytest.mark.parametrize(
    "source", [[1, 2], [], [["a"]], np.arange(3), pd.Series([1.0]), pl.Series([1]), "a", b"a", {"x": ["a"]}]
)
def test_what_is_no_list_of_texts(source: object) -> None:
    assert as_texts(source) is None


def test_mixed_lists_and_labels() -> None:
    with pytest.raises(DataError, match="Each text must be a string, found int at 1"):
        loading.open(["a", 1])
    with pytest.raises(DataError, match=r"`y` must have one label per text, found the shape \(1,\) for 2 texts"):
        loading.open(["a", "b"], y=[1])
    with pytest.raises(DataError, match="`label` must have one label per text"):
        loading.open({"text": ["a", "b"], "label": [1, 2, 3]})
    data = loading.open({"text": ["a", "b", "c", "d"], "label": [10, 9, 10, None]})
    assert data.schema.column("label").categories == ("9", "10")
    assert data.columns["label"].tolist() == [1, 0, 1, -1]
    many = loading.open([f"t{index}" for index in range(300)], y=[f"c{index}" for index in range(300)])
    assert len(many.schema.column("label").categories) == 300  # labels that are given are kept
