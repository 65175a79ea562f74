from __future__ import annotations

import gzip
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vaekit.data.loading import conform, describe, holdout, open
from vaekit.errors import ConfigError, DataError

GREY = np.random.default_rng(0).integers(0, 256, (10, 4, 6), dtype=np.uint8)


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"found nothing. Did you mean `.*photos`"):
        open(tmp_path / "potos")
    with pytest.raises(DataError, match=r"Did you mean `.*photos`"):
        open(tmp_path / "fotos" / "below")
    with pytest.raises(DataError, match=r"has no `zzzzzz`; check the path"):
        open(str(tmp_path / "zzzzzz"))


def test_paths_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"must be readable, but: File name too long\. Check the path"):
        open(tmp_path / ("x" * 5000))
    with pytest.raises(DataError, match="must lie in a home that is there"):
        open("~nobody-of-that-name/photos")

    def closed(self: Path, **_: object) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    (tmp_path / "photos").mkdir()
    for name in ("exists", "stat"):  # the user may be root, whom no permission stops
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, closed)
            with pytest.raises(DataError, match=r"photos` must be readable, but: Permission denied\. Check the path"):
                open(tmp_path / "photos")


def test_what_is_no_data(tmp_path: Path) -> None:
    def put(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    put("texts/a.txt", b"x")
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("a.csv", "x")
    cases = [
        (tmp_path / "empty", "found nothing: it is empty"),
        (tmp_path / "texts", r"found other files only: 1 \.txt"),
        (tmp_path / "t.zip", r"found other files only: 1 \.csv"),
        (put("empty.npy", b""), "found an empty file"),
        (put("a.json", b"[1]"), r"must be JSON lines to be text, named \.jsonl"),
        (put("a.parquet", b"PAR1\0\0"), "must be a whole parquet file"),
        (put("a.bin", b"\x01\x02\0\xff\xfe"), r"found unknown content \(01 02 00 ff"),
        (put("a.gz", gzip.compress(b"hello")), r"found unknown content \(1f 8b"),
        (put("cut.zip", b"PK\x03\x04" + b"x" * 50), "must be a whole zip"),
        (put("a.png", b"\x89PNG\r\n\x1a\n"), "1 of 1 that are not"),
    ]
    for path, match in cases:
        with pytest.raises(DataError, match=match):
            open(path)


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    with (tmp_path / "data.txt").open("wb") as file:
        np.save(file, GREY)
    assert np.array_equal(open(tmp_path / "data.txt").raw(), GREY)


def test_options() -> None:
    with pytest.raises(ConfigError, match=r"got `layuot`\. Did you mean `layout`"):
        open(GREY, layuot="HW")
    with pytest.raises(ConfigError, match="`size` must be left out for arrays, got 4"):
        open(GREY, size=4)
    with pytest.raises(ConfigError, match="`y` must be given with an array"):
        open("somewhere.npy", y=[1])
    with pytest.raises(ConfigError, match="`missing` must be 'nan'"):
        open(GREY, missing="zero")
    with pytest.raises(ConfigError, match="got `levels`"):
        conform(GREY, open(GREY).schema, levels=3)
    assert len(open(GREY, size=None, skip_bad=False)) == 10
    data = open(GREY)
    assert open(data) is data


def test_holdout_is_numpys_shuffle_in_half_the_memory() -> None:
    """What was held out of data before is held out again."""
    train, held_out = holdout(open(np.eye(50, dtype=np.float32)), fraction=0.3, seed=4)
    order = np.random.default_rng(4).permutation(50)
    assert train.dtype == held_out.dtype == np.int32
    assert np.array_equal(held_out, np.sort(order[:15]))
    assert np.array_equal(train, np.sort(order[15:]))


def test_parts_of_one_text_are_held_out_together() -> None:
    """No text has one part that is trained on and another that is validated on; about the share that was asked for is held
    out; and a single text is divided, for there is no other way."""
    texts = [" ".join(f"{word}{i}" for word in range(3 + 5 * (i % 4))) for i in range(200)]
    data = open(texts, text=None, tokens="word", long="split", max_tokens=4)
    assert data.groups is not None
    assert len(np.unique(data.groups)) == 200 < len(data)
    for seed in range(5):
        train, held_out = holdout(data, 0.2, seed=seed)
        assert np.array_equal(np.sort(np.concatenate([train, held_out])), np.arange(len(data)))
        assert not set(data.groups[train]) & set(data.groups[held_out])
        assert 0.17 < len(held_out) / len(data) <= 0.2
    part = data.select(held_out)
    assert part.groups is not None
    assert np.array_equal(part.groups, data.groups[held_out])
    train, held_out = holdout(data, 0.9999)
    assert len(np.unique(data.groups[train])) >= 1
    alone = open([" ".join(texts)], text=None, tokens="word", long="split", max_tokens=4)
    train, held_out = holdout(alone, 0.2)
    assert len(held_out) == round(0.2 * len(alone))
    assert open(texts, text=None, tokens="word", long="split", max_tokens=100).groups is None


def test_holdout_is_seeded_and_divides() -> None:
    data = open(GREY)
    train, validation = holdout(data, 0.3, seed=1)
    assert sorted([*train, *validation]) == list(range(10))
    assert len(validation) == 3
    assert all(np.array_equal(a, b) for a, b in zip((train, validation), holdout(data, 0.3, seed=1), strict=True))
    assert any(not np.array_equal(validation, holdout(data, 0.3, seed=seed)[1]) for seed in range(2, 6))
    assert validation.tolist() == sorted(validation)
    assert len(holdout(data, 0.001)[1]) == 1
    assert len(holdout(data, 0.999)[0]) == 1
    assert len(holdout(data, 0.5, maximum=2)[1]) == 2
    with pytest.raises(DataError, match=r"found 1\. Add more data"):
        holdout(data.select([0]))
    with pytest.raises(ConfigError, match="`fraction`"):
        holdout(data, 1.0)


def test_describe() -> None:
    lines = dict(describe(open({"x_train": GREY, "y_train": np.arange(10) % 3, "x_test": GREY[:4]})))
    assert lines["kind"] == "images (array, HW, uint8)"
    assert lines["shape"] == "14 examples of 4 x 6, 1 channel"
    assert lines["values"] == "levels, 256 levels"
    assert lines["splits"] == "train 10, test 4"
    assert lines["column label"] == "0 4, 1 3, 2 3, unknown 4"
    assert lines["note"].startswith("4 of 4 examples of the split `test`")
    assert dict(describe(open([[0.0, np.nan], [2.0, 1.0]], missing="nan")))["missing"] == "25.0% of the values"


def test_the_schema_needs_no_torch() -> None:
    code = "import sys, vaekit.data.schema; assert not {'torch', 'PIL', 'cv2', 'polars'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
