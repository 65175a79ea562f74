from __future__ import annotations

import gzip
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vaekit.data import arrayfiles
from vaekit.data.loading import open
from vaekit.errors import DataError

GREY = np.random.default_rng(0).integers(0, 256, (4, 3, 5), dtype=np.uint8)
IDX = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes(range(12))


def test_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GREY)
    np.save(tmp_path / "f.npy", np.asfortranarray(GREY.astype(">i4")))
    assert np.array_equal(open(tmp_path / "a.npy").raw(), GREY)
    data = open(str(tmp_path / "f.npy"))
    assert np.array_equal(data.raw(), GREY)
    assert data.schema.source.form == "npy"


def test_a_large_npy_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrayfiles, "MAP_FROM_BYTES", 10)
    colour = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", colour)
    data = open(tmp_path / "a.npy")
    assert isinstance(data.x, np.memmap)
    assert np.array_equal(data.batch([5, 0, 5, 3]).x.numpy(), colour[[5, 0, 5, 3]].transpose(0, 3, 1, 2))
    assert np.array_equal(data.raw(), colour)


def test_npz_splits(tmp_path: Path) -> None:
    y = np.array([3, 1, 1, 0])
    np.savez(tmp_path / "d.npz", x_train=GREY, y_train=y, x_test=GREY[:2] // 2, y_test=y[:2], x_val=GREY[:1] // 3)
    data = open(tmp_path / "d.npz")
    assert {name: rows.tolist() for name, rows in data.splits.items()} == {"train": [0, 1, 2, 3], "test": [4, 5], "valid": [6]}
    assert data.columns["label"].tolist() == [2, 1, 1, 0, 2, 1, -1]
    assert np.array_equal(data.split("test").raw(), GREY[:2] // 2)
    np.savez_compressed(tmp_path / "one.npz", pictures=GREY)
    assert np.array_equal(open(tmp_path / "one.npz").raw(), GREY)
    np.savez(tmp_path / "xy.npz", x=GREY, y=y, extra=y)
    assert open(tmp_path / "xy.npz").notes == (
        "The arrays extra of xy.npz are not used. Name columns beside the examples `y_NAME`, such as `y_angle`.",
    )
    np.savez(tmp_path / "bad.npz", a=GREY, b=y)
    with pytest.raises(DataError, match="found `a`, `b`"):
        open(tmp_path / "bad.npz")
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(DataError, match="must hold `x_train` .*; found no arrays"):
        open(tmp_path / "empty.npz")


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    array = np.array([[1, "a"]], dtype=object)
    np.save(tmp_path / "o.npy", array, allow_pickle=True)
    np.savez(tmp_path / "o.npz", x=array)
    for name in ("o.npy", "o.npz"):
        with pytest.raises(DataError, match="never unpickled"):
            open(tmp_path / name)


def test_a_header_that_lies_costs_no_memory(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 9), }"
    header += b" " * (117 - len(header)) + b"\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"123"
    (tmp_path / "a.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", data)
    (tmp_path / "a.idx").write_bytes(bytes([0, 0, 8, 3]) + b"\xff" * 12 + b"123")
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError, match="9000000000000 bytes that its header states, found 3") as caught:
            open(tmp_path / name)
        assert str(caught.value).count(" must ") == 1
    with pytest.raises(DataError, match="after its header, found 3"):
        open(tmp_path / "a.idx")


def test_damaged_files(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=GREY)
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-30])
    (tmp_path / "flipped.npz").write_bytes(whole[:150] + bytes([whole[150] ^ 255]) + whole[151:])
    np.save(tmp_path / "a.npy", GREY)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    (tmp_path / "head.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:20])
    for name in ("cut.npz", "flipped.npz", "cut.npy", "head.npy"):
        with pytest.raises(DataError, match=r"whole|damaged"):
            open(tmp_path / name)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images.idx3-ubyte.gz", "odd-name"])
def test_idx_golden_bytes(tmp_path: Path, name: str) -> None:
    pack = gzip.compress if name.endswith(".gz") else bytes
    (tmp_path / name).write_bytes(pack(IDX))
    labels = name.replace("images", "labels").replace("idx3", "idx1")
    if labels != name:
        (tmp_path / labels).write_bytes(pack(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 5])))
    data = open(tmp_path / name)
    assert data.schema.source.form == "idx"
    assert data.raw().tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
    if labels != name:
        assert data.schema.column("label").categories == ("5", "7")
        assert data.columns["label"].tolist() == [1, 0]


def test_idx_of_other_types_and_lengths(tmp_path: Path) -> None:
    (tmp_path / "a.idx").write_bytes(bytes([0, 0, 11, 2, 0, 0, 0, 1, 0, 0, 0, 2, 255, 255, 1, 0]))
    assert open(tmp_path / "a.idx").raw().tolist() == [[-1, 256]]
    (tmp_path / "images-idx3").write_bytes(IDX)
    (tmp_path / "labels-idx1").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 1, 7]))
    data = open(tmp_path / "images-idx3")
    assert data.columns == {}
    assert "not used: there are 1 of them for 2 examples" in data.notes[0]
    (tmp_path / "long.idx").write_bytes(IDX + b"x")
    with pytest.raises(DataError, match="goes on"):
        open(tmp_path / "long.idx")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(IDX)[:-9])
    with pytest.raises(DataError, match=r"whole \.idx file"):
        open(tmp_path / "cut.gz")
