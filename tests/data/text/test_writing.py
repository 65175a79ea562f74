"""Texts as files, and read again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaekit.data import loading
from vaekit.data.text.writing import write_texts
from vaekit.data.writing import write_examples
from vaekit.errors import ConfigError, DataError

TEXTS = ["plain", "", 'with "quotes", commas; and\ttabs', "two\nlines\r\nand\rmore", "你好 👍", " spaces "]
COLUMNS = {"stars": np.array([1, 2, 3, 4, 5, 6]), "kind": np.array(["a", "b,c", 'd"', "", "e", "f"])}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_what_is_written_is_read_again(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write_texts(TEXTS, path, COLUMNS, column="body")
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
        assert [row["body"] for row in rows] == TEXTS
        assert [row["stars"] for row in rows] == [1, 2, 3, 4, 5, 6]
    elif suffix == ".parquet":
        assert pl.read_parquet(path)["kind"].to_list() == COLUMNS["kind"].tolist()
    data = loading.open(path, text="body", tokens="byte")
    assert data.raw().tolist() == TEXTS
    assert data.schema.source.column == "body"


def test_lines_of_text(tmp_path: Path) -> None:
    write_texts(TEXTS, tmp_path / "out.txt", COLUMNS)
    lines = (tmp_path / "out.txt").read_bytes().decode().split("\n")
    assert lines == ["plain", "", TEXTS[2], r"two\nlines\nand\nmore", "你好 👍", " spaces ", ""]


@given(texts=st.lists(st.text(st.characters(exclude_characters="\r\n")).filter(str.strip), min_size=1))
def test_lines_are_read_again(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("lines") / "out.txt"
    texts = [text.replace("\0", "").removeprefix("\ufeff") or "x" for text in texts]
    texts = [text for text in texts if text.strip()] or ["x"]
    write_texts(texts, path)
    assert loading.open(path, tokens="byte", max_tokens=10_000).raw().tolist() == texts


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"The output of text must be \.txt, .* or \.parquet, got `.*out\.png`"):
        write_texts(TEXTS, tmp_path / "out.png")
    with pytest.raises(ConfigError, match="one value a text"):
        write_texts(TEXTS, tmp_path / "out.txt", {"a": [1]})
    write_texts(TEXTS, tmp_path / "out.txt")
    with pytest.raises(DataError, match="must not exist yet"):
        write_texts(TEXTS[:1], tmp_path / "out.txt")
    write_texts(TEXTS[:1], tmp_path / "out.txt", force=True)
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "plain\n"
    with pytest.raises(TypeError):
        write_texts(["a", 1], tmp_path / "broken.txt")  # type: ignore[list-item]
    assert {path.name for path in tmp_path.iterdir()} == {"out.txt"}  # nothing half done is left


def test_examples_of_text(tmp_path: Path) -> None:
    data = loading.open(["b a", "a"])
    write_examples(data.raw(), data.schema, tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "b a\na\n"
    with pytest.raises(ConfigError, match=r"The output of text must be"):
        write_examples(data.raw(), data.schema, tmp_path / "out.npy")
