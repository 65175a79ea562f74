from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import polars
import pytest

from vaekit.data import writing
from vaekit.data.loading import conform, open
from vaekit.data.writing import (
    atomic_file,
    atomic_folder,
    check_output,
    read_table,
    write_examples,
    write_grid,
    write_table,
)
from vaekit.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 8, 8), dtype=np.uint8)

KINDS = {
    "grey": GREY,
    "colour": RNG.integers(0, 256, (4, 8, 6, 3), dtype=np.uint8),
    "alpha": RNG.integers(0, 256, (4, 8, 6, 4), dtype=np.uint8),
    "grey of 16 bits": RNG.integers(0, 65536, (4, 8, 6), dtype=np.uint16),
    "colour of 16 bits": RNG.integers(0, 65536, (4, 3, 8, 6), dtype=np.uint16),
    "digits": (GREY % 17).astype(np.float64),
    "many levels": RNG.integers(0, 1000, (4, 8, 6)),
    "bool": GREY > 100,
    "two values": np.where(GREY > 100, 3, 7),
    "fractions": (GREY / 255).astype(np.float32),
}


def left_behind(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith("."))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_images_conforms_again_exactly(tmp_path: Path, kind: str) -> None:
    data = open(KINDS[kind])
    write_examples(data.raw(), data.schema, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out"))[:2] == ["00000.png", "00001.png"]
    again = conform(tmp_path / "out", data.schema)
    assert np.array_equal(again.x, data.x)
    assert np.array_equal(again.raw(), data.raw())


@pytest.mark.parametrize("bits", [8, 16])
def test_images_of_files_keep_their_pixels(
    make_folder: Callable[..., tuple[Path, np.ndarray]], tmp_path: Path, bits: int
) -> None:
    root, pixels = make_folder(["a/1.png", "b/2.png", "b/10.png"])
    data = open(root, bits=bits)
    write_examples(data.raw(), data.schema, tmp_path / "out", names=data.names)
    again = open(tmp_path / "out")
    assert again.names == data.names
    assert np.array_equal(again.raw(), pixels.astype(f"uint{bits}") * (257 if bits == 16 else 1))


def test_continuous_images_are_scaled_to_the_pixels(tmp_path: Path) -> None:
    data = open(RNG.normal(size=(3, 8, 8)).astype(np.float32))
    write_examples(data.raw(), data.schema, tmp_path / "out")
    again = conform(tmp_path / "out", data.schema)
    assert np.abs(again.x - data.x).max() <= (data.schema.high - data.schema.low) / 255


def test_arrays_and_tables_of_vectors(tmp_path: Path) -> None:
    data = open(RNG.normal(size=(6, 3)).astype(np.float32))
    raw = data.raw()
    for name in ("a.npy", "a.npz"):
        write_examples(raw, data.schema, tmp_path / name)
        assert np.array_equal(open(tmp_path / name).raw(), raw)
    for name in ("a.csv", "a.tsv", "a.parquet", "a.jsonl"):
        write_examples(raw, data.schema, tmp_path / name)
        table = read_table(tmp_path / name)
        assert list(table) == ["x0", "x1", "x2"]
        assert np.array_equal(np.stack(list(table.values()), 1).astype(np.float32), raw)
    for name in ("a", "a.png", "a.xyz"):
        with pytest.raises(ConfigError, match=r"The output of vectors must be \.npy, \.csv, \.tsv"):
            write_examples(raw, data.schema, tmp_path / "none" / name)
    with pytest.raises(ConfigError, match=r"The output of images must be a folder, \.png, \.npy or \.npz, got .*a\.csv"):
        write_examples(GREY, open(GREY).schema, tmp_path / "a.csv")


def test_a_grid_shows_each_pixel(tmp_path: Path) -> None:
    data = open((GREY % 17).astype(np.float64))
    write_examples(data.raw(), data.schema, tmp_path / "grid.png")
    picture = cv2.imread(str(tmp_path / "grid.png"), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    assert picture.shape == (2 * 34 - 2, 3 * 34 - 2)  # each pixel is 4 x 4
    expected = np.rint(GREY % 17 / 16 * 255)
    assert np.array_equal(picture[0:32:4, 34:66:4], expected[1])
    assert np.array_equal(picture[37:66:4, 3:32:4], expected[3])
    write_grid(data.raw(), data.schema, tmp_path / "row.png", columns=5)
    row = cv2.imread(str(tmp_path / "row.png"), cv2.IMREAD_UNCHANGED)
    assert row is not None
    assert row.shape == (32, 5 * 34 - 2)
    with pytest.raises(ConfigError, match="at least 1"):
        write_grid(data.raw(), data.schema, tmp_path / "x.png", columns=0)
    with pytest.raises(ConfigError, match=r"end in \.png"):
        write_grid(data.raw(), data.schema, tmp_path / "x.jpg")
    two = open(RNG.integers(0, 256, (2, 2, 8, 8), dtype=np.uint8))
    with pytest.raises(ConfigError, match="1, 3 or 4 channels, the data have 2"):
        write_examples(two.raw(), two.schema, tmp_path / "two")
    assert left_behind(tmp_path) == []
    assert not (tmp_path / "two").exists()


def test_names(tmp_path: Path) -> None:
    schema = open(GREY).schema
    write_examples(GREY[:3], schema, tmp_path / "out", names=["a.jpg", "a.png", "c/b.tif"])
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")) == [
        "a-1.png",
        "a.png",
        "c/b.png",
    ]
    for names, match in ((["a"], "each of the 3"), (["a", "b", "../c"], "stay inside"), (["a", "b", "/c"], "stay inside")):
        with pytest.raises(ConfigError, match=match):
            write_examples(GREY[:3], schema, tmp_path / "bad", names=names)
    assert not (tmp_path / "bad").exists()


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    schema = open(GREY).schema
    for name in ("out", "out.png", "out.npy", "out.npz"):
        write_examples(GREY, schema, tmp_path / name)
        with pytest.raises(DataError, match="--force"):
            write_examples(GREY[:1], schema, tmp_path / name)
        write_examples(GREY[:1], schema, tmp_path / name, force=True)
    assert os.listdir(tmp_path / "out") == ["00000.png"]
    assert len(np.load(tmp_path / "out.npy")) == 1
    (tmp_path / "photos").mkdir()
    write_examples(GREY, schema, tmp_path / "photos")  # an empty folder is no output yet
    (tmp_path / "photos" / "thesis.doc").write_text("x")
    with pytest.raises(ConfigError, match="nothing but PNG files"):
        write_examples(GREY, schema, tmp_path / "photos", force=True)
    assert (tmp_path / "photos" / "thesis.doc").exists()
    assert left_behind(tmp_path) == []


def test_check_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="file` is a file"):
        check_output(tmp_path / "file" / "below.npy")
    with pytest.raises(ConfigError, match="found a device"):
        check_output("/dev/null", force=True)
    (tmp_path / "work" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "here")
    for out in (".", "..", tmp_path):
        with pytest.raises(ConfigError, match="the folder that you work in"):
            check_output(out, force=True)
    assert check_output("new/folder/a.csv") == tmp_path / "work" / "here" / "new" / "folder" / "a.csv"


@pytest.mark.parametrize("before", [False, True])
def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, before: bool) -> None:
    file, folder = tmp_path / "a.bin", tmp_path / "d"
    if before:
        file.write_text("old")
        folder.mkdir()
        (folder / "old").write_text("old")

    def write_file(error: BaseException) -> None:
        with atomic_file(file, force=True) as path:
            path.write_text("half")
            raise error

    def write_folder(error: BaseException) -> None:
        with atomic_folder(folder, force=True) as path:
            (path / "half").write_text("half")
            raise error

    for write in (write_file, write_folder):
        with pytest.raises(KeyboardInterrupt):
            write(KeyboardInterrupt())
        with pytest.raises(ConfigError, match="must be writable, but: No space left on device"):
            write(OSError(28, "No space left on device"))
    if before:
        assert file.read_text() == "old"
        assert os.listdir(folder) == ["old"]
    assert sorted(os.listdir(tmp_path)) == (["a.bin", "d"] if before else [])


def test_a_folder_that_cannot_be_moved_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_folder(tmp_path / "d") as path:
        (path / "old").write_text("old")
    real = os.rename

    def fails_for_the_new_one(source: Path, target: Path) -> None:
        if (Path(source) / "new").exists():
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "rename", fails_for_the_new_one)
    with pytest.raises(ConfigError, match="Input/output error"), atomic_folder(tmp_path / "d", force=True) as path:
        (path / "new").write_text("new")
    assert os.listdir(tmp_path / "d") == ["old"]
    assert left_behind(tmp_path) == []


def test_outputs_have_ordinary_permissions_and_parents(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a" / "b" / "d") as path:
        (path / "x").write_text("x")
    with atomic_file(tmp_path / "c" / "f") as path:
        path.write_text("x")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "a" / "b" / "d").stat().st_mode & 0o777 == 0o777 & ~mask
    assert (tmp_path / "c" / "f").stat().st_mode & 0o777 == 0o666 & ~mask
    with pytest.raises(ConfigError, match="must be a file, found a folder"), atomic_file(tmp_path / "a"):
        pass


COLUMNS = {
    "f64": np.array([0.1, 1 / 3, -1e-300, np.nan, np.inf]),
    "f32": np.array([0.1, 1 / 3, 1e-30, 16777217, -0.0], np.float32),
    "count": np.array([0, -5, 2**62, 7, 1]),
    "flag": np.array([True, False, True, True, False]),
    "text": np.array(["a", "", 'comma, "quote"', "line\nbreak", "007"]),
}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".npz", ".jsonl"])
def test_tables_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    write_table(COLUMNS, tmp_path / f"t{suffix}")
    table = read_table(tmp_path / f"t{suffix}")
    assert list(table) == list(COLUMNS)
    for name, values in COLUMNS.items():
        if values.dtype.kind == "f":
            assert np.array_equal(table[name].astype(values.dtype), values, equal_nan=True), name
        else:
            assert table[name].dtype.kind == values.dtype.kind
            assert np.array_equal(table[name], values), name
    write_table({"z": np.eye(3), "i": np.arange(3)}, tmp_path / f"t{suffix}", force=True)
    again = read_table(tmp_path / f"t{suffix}")
    assert list(again) == (["z", "i"] if suffix == ".npz" else ["z0", "z1", "z2", "i"])


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".npz", ".jsonl"])
def test_columns_are_read_as_text_where_they_are_known_to_be(tmp_path: Path, suffix: str) -> None:
    labels = {"code": np.array(["00", "007", ""]), "flag": np.array(["True", "", "tab\there"]), "count": np.array([1, 2, 3])}
    write_table({**labels, "z": np.array([1.0, np.nan, 2.0])}, tmp_path / f"t{suffix}")
    table = read_table(tmp_path / f"t{suffix}", text=("code", "flag", "count", "absent"))
    for name, values in labels.items():
        assert table[name].tolist() == values.astype(str).tolist(), name
    assert table["z"].dtype.kind == "f"
    if suffix == ".parquet":
        polars.DataFrame({"code": ["00", None], "z": [1.0, 2.0]}).write_parquet(tmp_path / "n.parquet")
        assert read_table(tmp_path / "n.parquet", text=["code"])["code"].tolist() == ["00", ""]


def test_floats_are_printed_as_short_as_they_can_be(tmp_path: Path) -> None:
    write_table({"a": np.array([0.1, np.nan], np.float32), "b": np.array([0.1, 2.0])}, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "a,b\n0.1,0.1\n,2.0\n"
    write_table({"a": np.array([0.1, np.nan], np.float32)}, tmp_path / "t.jsonl")
    assert (tmp_path / "t.jsonl").read_text() == '{"a": 0.1}\n{"a": null}\n'


def test_tables_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.csv, \.tsv, \.parquet, \.npz or \.jsonl, got"):
        write_table({"a": np.zeros(2)}, tmp_path / "t.xls")
    with pytest.raises(ConfigError, match="same length"):
        write_table({"a": np.zeros(2), "b": np.zeros(3)}, tmp_path / "t.csv")
    with pytest.raises(DataError, match="found nothing"):
        read_table(tmp_path / "t.csv")
    bad = {"t.csv": "a,b\n1\n", "e.csv": "", "t.jsonl": "{", "l.jsonl": "[1]\n", "t.parquet": "x", "t.npz": "x"}
    for name, text in bad.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match="must be a whole"):
            read_table(tmp_path / name)
    write_table({"a": np.array([], np.int64)}, tmp_path / "none.csv")
    assert len(read_table(tmp_path / "none.csv")["a"]) == 0


def test_the_public_names() -> None:
    assert all(hasattr(writing, name) for name in writing.__all__)
