"""Texts as data sets: opened, conformed, from tables, saved and read again, mapped from disk, described."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from vaekit.data import loading
from vaekit.data.dataset import fingerprint, from_source, to_source
from vaekit.data.loading import conform, describe, holdout, open
from vaekit.data.schema import Schema
from vaekit.data.text import opening, reading
from vaekit.data.text.tokens import END, PAD, UNKNOWN
from vaekit.data.transforms import Tokens
from vaekit.errors import ConfigError, DataError

SENTENCES = [
    "The food was good, and the waiters were kind.",
    "We never liked the place; the soup was cold.",
    "Never again!",
    "A small café with 你好 on the door. 👍",
]


def reviews(num: int = 60) -> pl.DataFrame:
    texts = [f"{SENTENCES[index % 4]} That was visit number {index}." for index in range(num)]
    return pl.DataFrame(
        {"review": texts, "stars": [index % 5 + 1 for index in range(num)], "kind": ["food", "bar"] * (num // 2)}
    )


@pytest.mark.parametrize("tokens", ["byte", "character", "word", "bpe"])
def test_what_is_opened(tokens: str) -> None:
    data = open(SENTENCES, tokens=tokens)
    schema = data.schema
    assert data.raw().tolist() == SENTENCES
    assert (schema.kind, schema.values, schema.levels, schema.low) == ("text", "tokens", schema.text.num_tokens, 0)
    assert schema.high == schema.levels - 1
    assert data.x.dtype == schema.dtype == "uint16"
    assert data.x.shape == (4, *schema.shape)
    ends = (data.x == END).argmax(1)
    assert ((data.x == END).sum(1) == 1).all()
    assert ends.max() == schema.shape[0] - 1  # the width is that of the longest, with its end
    for row, end in zip(data.x, ends, strict=True):
        assert (row[end + 1 :] == PAD).all()
        assert (row[:end] >= UNKNOWN).all()
    batch = data.batch([2, 0])
    assert batch.x.shape == (2, *schema.shape)
    assert batch.mask is None
    codes = Tokens()(batch.x)
    assert codes.dtype == torch.int64
    assert to_source(Tokens().inverse(codes), schema).tolist() == [SENTENCES[2], SENTENCES[0]]
    assert to_source(codes.float(), schema).tolist() == [SENTENCES[2], SENTENCES[0]]
    assert np.array_equal(from_source(data.raw(), schema)[0], data.x)


def test_codes_that_need_more_than_16_bits() -> None:
    characters = [chr(0x4E00 + index) for index in range(20_000)] + [chr(0x20000 + index) for index in range(40_000)]
    characters += [chr(0xAC00 + index) for index in range(11_000)]
    texts = ["".join(characters[start : start + 50]) for start in range(0, len(characters), 50)]
    data = open(texts, tokens="character", vocabulary=100_000)
    assert data.schema.dtype == "int32"
    assert data.x.max() == data.schema.levels - 1 == len(characters) + 2
    assert data.raw().tolist() == texts
    assert conform(texts, data.schema).x.dtype == np.int32


def test_the_width_covers_short_texts_and_not_the_longest_of_many() -> None:
    assert open(["abc", "abcde"]).schema.shape == (6,)
    many = ["abc"] * 999 + ["x" * 500]
    data = open(many, tokens="byte")
    assert data.schema.shape == (65,)
    assert data.raw()[-1] == "x" * 64
    assert any(note.startswith("1 of 1,000 texts (0.1%) have more than 64 tokens and are cut") for note in data.notes)
    assert open(many, tokens="byte", max_tokens=1000).raw().tolist() == many
    split = open(many, y=[0, 1] * 500, tokens="byte", long="split")
    assert len(split) == split.schema.num_examples == 999 + 8  # 64 a row
    assert "".join(split.raw()[999:]) == "x" * 500
    assert split.columns["label"][998:].tolist() == [0, *[1] * 8]
    assert any("split into several: there are 1,007 in all" in note for note in split.notes)


def test_options_that_cannot_be() -> None:
    for option, match in (
        ({"max_tokens": 0}, "`max_tokens` must be at least 1"),
        ({"long": "drop"}, "`long` must be 'cut' or 'split'"),
        ({"tokens": "letter"}, "`tokens` must be auto"),
        ({"delimiter": ";"}, "`delimiter` must be left out for text that is no table"),
        ({"encoding": "utf-8"}, "`encoding` must be left out for texts in memory"),
        ({"text": "a"}, "`text` must be left out for texts in memory"),
        ({"size": 3}, "`size` must be left out for text"),
        ({"kind": "table"}, "`kind` must fit the data"),
        ({"token": "word"}, "Did you mean `tokens`"),
    ):
        with pytest.raises(ConfigError, match=match):
            open(["a b", "c"], **option)
    with pytest.raises(ConfigError, match="`tokens` must be left out for arrays"):
        open(np.eye(3), tokens="word")
    with pytest.raises(ConfigError, match="`kind` must fit the data, got 'text' for arrays"):
        open(np.eye(3), kind="text")
    with pytest.raises(DataError, match="must hold text, found none"):
        open(["", ""])


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one two\n\n three\n \t\nfour\n", encoding="utf-8")
    data = open(path, tokens="word")
    assert data.raw().tolist() == ["one two", " three", "four"]
    assert data.notes == ("2 blank lines are left out.",)
    path.write_text("a single line", encoding="utf-8")
    one = open(path)
    assert one.raw().tolist() == ["a single line"]
    with pytest.raises(DataError, match="At least 2 examples must be there"):
        holdout(one)
    with pytest.raises(ConfigError, match="`text` must be left out for lines of text"):
        open(path, text="a")
    path.write_text("a\tb\nc\td\n" * 9, encoding="utf-8")
    assert "`kind='table'`" in open(path).notes[0]
    assert open(path, kind="table").schema.kind == "table"
    (tmp_path / "plain").write_text("BMW and Audi\nGIF8 too\n", encoding="utf-8")  # no image, for all its beginning
    assert len(open(tmp_path / "plain")) == 2
    (tmp_path / "bmi.csv").write_text("BMI,age\n" + "".join(f"{index / 7},{index}\n" for index in range(30)), encoding="utf-8")
    assert open(tmp_path / "bmi.csv").schema.kind == "table"


@pytest.mark.parametrize("tokens", ["byte", "character", "word", "bpe"])
def test_a_line_of_a_million_characters(tmp_path: Path, tokens: str) -> None:
    path = tmp_path / "long.txt"
    path.write_text("ab. " * 250_000 + "\nshort line of text\n" + "z" * 1_000_000, encoding="utf-8")
    data = open(path, tokens=tokens)
    assert len(data) == 3
    assert data.raw()[0].startswith("ab. ab.")
    split = open(path, tokens=tokens, long="split")
    joined = "".join(split.raw().tolist())
    assert joined.replace(" ", "") == "ab." * 250_000 + "shortlineoftext" + "z" * 1_000_000
    assert split.schema.shape == (257,)


def test_conforming() -> None:
    data = open(SENTENCES[:2], tokens="word", y=["good", "bad"])
    found = conform(["The soup was splendid.", "kind", ""], data.schema)
    assert found.raw().tolist() == ["The soup was \ufffd.", "kind" if " kind" in data.schema.text.vocabulary else "\ufffd", ""]
    assert found.schema.num_examples == 3
    assert any(note.startswith("1 of 6 tokens (16.67%) are not in the model's vocabulary") for note in found.notes)
    assert found.columns["label"].tolist() == [-1, -1, -1]
    labelled = conform(["The soup", "food", "cold"], data.schema, y=["bad", "good", "odd"])
    assert labelled.columns["label"].tolist() == [0, 1, -1]
    assert any("no known category (odd)" in note for note in labelled.notes)
    long = conform([SENTENCES[0] + " " + SENTENCES[0]], data.schema)
    assert long.raw().tolist() == [SENTENCES[0]]
    assert any("are cut" in note for note in long.notes)
    assert len(conform([SENTENCES[0] + " " + SENTENCES[0]], data.schema, long="split")) == 2
    with pytest.raises(DataError, match="must be text, as those that the model was trained on, found arrays"):
        conform(np.eye(3), data.schema)
    with pytest.raises(DataError, match="must be vectors, as those that the model was trained on, found text"):
        conform(SENTENCES, open(np.eye(3)).schema)
    with pytest.raises(ConfigError, match="got `tokens`"):
        conform(SENTENCES, data.schema, tokens="byte")


@pytest.mark.parametrize("options", [{}, {"long": "split", "max_tokens": 9}, {"tokens": "byte", "max_tokens": 9}], ids=str)
def test_the_same_data_are_known_again(tmp_path: Path, options: dict[str, object]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(SENTENCES * 5), encoding="utf-8")
    data = open(path, **options)
    schema = Schema.model_validate(json.loads(data.schema.model_dump_json()))
    assert schema == data.schema
    again = conform(path, schema)
    assert np.array_equal(again.x, data.x)
    assert fingerprint(again) == fingerprint(data) == fingerprint(conform(SENTENCES * 5, schema))
    assert fingerprint(open(path, **options)) == fingerprint(data)
    assert fingerprint(data.select([0, 1])) != fingerprint(data.select([1, 0]))
    assert conform(data, schema) is data


def test_the_fingerprint_of_other_data_is_as_it_was() -> None:
    data = open(np.arange(12, dtype="uint8").reshape(3, 4))
    assert '"text"' in data.schema.model_dump_json()
    assert fingerprint(data) == "d76af84244fff7300f637e9db097384815a04b991849efd72eeab37a38c5a0f4"


def test_conforming_a_data_set_of_other_tokens() -> None:
    data, other = open(SENTENCES, y=[1, 0, 1, 0], tokens="byte"), open(SENTENCES, y=[0, 1, 1, 1], tokens="word")
    other = replace(other, splits={"test": np.array([3])})
    found = conform(other, data.schema)
    assert np.array_equal(found.x, data.x)
    assert found.columns["label"].tolist() == [0, 1, 1, 1]
    assert found.split("test").raw().tolist() == SENTENCES[3:]
    chosen = other.select([2, 0])
    assert conform(chosen, data.schema).raw().tolist() == [SENTENCES[2], SENTENCES[0]]
    assert conform(chosen, data.schema).columns["label"].tolist() == [1, 0]


def test_a_table_of_texts_with_labels_is_text(tmp_path: Path) -> None:
    frame = reviews()
    frame.write_csv(tmp_path / "a.csv")
    frame.write_parquet(tmp_path / "a.parquet")
    for source, form in (
        (tmp_path / "a.csv", "csv"),
        (tmp_path / "a.parquet", "parquet"),
        (frame, "polars"),
        (frame.to_pandas(), "pandas"),
        (frame.to_arrow(), "polars"),
    ):
        data = open(source)
        assert data.schema.kind == "text"
        assert data.raw().tolist() == frame["review"].to_list()
        assert data.schema.column("stars").categories == ("1", "2", "3", "4", "5")
        assert data.columns["stars"].tolist() == [index % 5 for index in range(60)]
        assert data.schema.column("kind").categories == ("bar", "food")
        assert data.notes[0].startswith("`review` is taken as text, with `stars`, `kind` beside it: `kind='table'`")
        assert data.schema.source.column == "review"
        if form != "polars":
            assert data.schema.source.form == form
        assert fingerprint(conform(source, data.schema)) == fingerprint(data)
        assert open(source, kind="table").schema.kind == "table"
        assert open(source, types={"review": "identifier"}).schema.kind == "table"


def test_which_tables_are_no_texts() -> None:
    frame = reviews()
    with_numbers = frame.with_columns(price=pl.Series(np.arange(60) * 1.37))
    table = open(with_numbers)
    assert table.schema.kind == "table"
    assert any("`review` looks like text: `text='review'`" in note for note in table.notes)
    data = open(with_numbers, text="review")
    assert data.raw().tolist() == frame["review"].to_list()
    assert [column.name for column in data.schema.columns] == ["stars", "kind", "price"]
    assert data.columns["price"].tolist() == with_numbers["price"].to_list()
    assert open(with_numbers, tokens="word").schema.kind == "text"
    assert open(frame.with_columns(other=pl.col("review") + " so")).schema.kind == "table"  # two of them
    assert open(frame.select("stars", "kind")).schema.kind == "table"
    assert (
        open(pl.DataFrame({"code": [f"{index:08x}-{index:04d}" for index in range(60)], "n": [1, 2] * 30})).schema.kind
        == "table"
    )
    mails = [f"john.doe{'x' * index}@mail.example.com" for index in range(60)]
    assert open(pl.DataFrame({"mail": mails, "n": [1, 2] * 30})).schema.kind == "table"
    assert open(frame.head(10)).schema.kind == "table"  # too few rows to tell
    assert open(frame.head(10), kind="text").schema.kind == "text"
    names = [
        first + last for first in ("anna", "otto", "ida", "max", "eva") for last in ("beck", "wirth", "roth", "frei", "kurz")
    ]
    assert open(pl.DataFrame({"name": names})).raw().tolist() == names  # a column alone


def test_the_column_of_a_table() -> None:
    frame = reviews().rename({"review": "body"})
    data = open(frame, text="body")
    with pytest.raises(DataError, match=r"must have a column `text`; it has body, stars, kind"):
        open(frame, text="text")
    with pytest.raises(DataError, match=r"must have one column of text, found a, b\. Name it with `text=COLUMN`"):
        open(pl.DataFrame({"a": ["x", "y"], "b": ["u", "v"]}), kind="text")
    other = pl.DataFrame({"body": ["Never again!"], "stars": [3], "title": ["That was good."]})
    found = conform(other, data.schema)
    assert found.raw().tolist() == ["Never again!"]
    assert found.columns["stars"].tolist() == [2]
    assert found.columns["kind"].tolist() == [-1]
    assert conform(other, data.schema, text="title").raw().tolist() == ["That was good."]
    missing = pd.DataFrame({"text": ["a b c", None, "d e f"], "x": [1, 2, 1]})
    gaps = open(missing, text="text")
    assert gaps.raw().tolist() == ["a b c", "", "d e f"]
    assert any(note.startswith("1 text is not there") for note in gaps.notes)


def test_delimiters_and_encodings_of_tables_of_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        ("body;n\n" + "".join(f"Très bon café numéro {index};{index % 2}\n" for index in range(30))).encode("cp1252")
    )
    data = open(path, encoding="cp1252", delimiter=";")
    assert data.schema.kind == "text"
    assert data.raw()[3] == "Très bon café numéro 3"
    assert conform(path, data.schema, encoding="cp1252", delimiter=";").raw()[3] == "Très bon café numéro 3"


def test_many_texts_are_mapped_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(SENTENCES * 50), encoding="utf-8")
    plain = open(path, long="split", max_tokens=8)
    monkeypatch.setattr(opening, "MOST_IN_MEMORY", 100)
    monkeypatch.setattr(reading, "CHUNK_TEXTS", 7)
    for _ in range(2):
        data = open(path, long="split", max_tokens=8)
        assert isinstance(data.x, np.memmap)
        assert np.array_equal(data.x, plain.x)
        assert data.batch([3, 1]).x.tolist() == plain.x[[3, 1]].tolist()
    assert len(list(cache.glob("*.npy"))) == 1
    assert not list(cache.glob("*.tmp"))
    path.write_text("\n".join(SENTENCES[::-1] * 50), encoding="utf-8")
    assert open(path, long="split", max_tokens=8).raw()[0].startswith("A small café")
    assert not isinstance(open(SENTENCES * 50).x, np.memmap)  # of memory


def test_describing() -> None:
    lines = dict(describe(open(SENTENCES, tokens="word", vocabulary=10, y=list("abab"))))
    assert lines["kind"] == "text (list)"
    assert lines["shape"].startswith("4 texts of at most")
    assert lines["tokens"].startswith("10 words: ' the'")
    assert lines["lengths"].startswith("median ")
    assert float(lines["unknown"].split("%")[0]) > 10
    assert lines["example"]
    assert lines["column label"] == "a 2, b 2"
    assert "MiB as uint16, in memory" in lines["size"]
    assert dict(describe(open(["a\nb", "ccc"])))["tokens"] == "4 characters: c '\\n' a b"
    assert dict(describe(open(SENTENCES, tokens="byte")))["tokens"] == "the 256 bytes of UTF-8"
    assert "byte pairs" in dict(describe(open(SENTENCES * 9, tokens="bpe")))["tokens"]


def test_schemas_that_cannot_be() -> None:
    good = open(SENTENCES).schema.model_dump(mode="json")
    for change, match in (
        ({"text": None}, "`text` must be given for text"),
        ({"kind": "vectors"}, "`text` must be given for text"),
        ({"levels": 3}, "codes must have as many levels"),
        ({"shape": [1]}, "a shape"),
        ({"levels": None}, "`levels` must be given"),
    ):
        with pytest.raises(ValueError, match=match):
            Schema.model_validate({**good, **change})
    assert Schema.model_validate(good).text is not None
    assert loading.open([[0.5, 1.0], [2.0, 3.0]]).schema.text is None
