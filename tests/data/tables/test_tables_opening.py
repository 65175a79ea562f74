"""From a table to a data set: in memory, or mapped from the cache at flat memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vaekit.data.dataset import fingerprint
from vaekit.data.loading import conform
from vaekit.data.loading import open as open_data
from vaekit.data.tables import opening
from vaekit.errors import ConfigError, DataError


def parquet(path: Path, num: int, group: int = 1000) -> Path:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "age": rng.integers(18, 90, num),
            "city": np.array(["Chur", "Bern", "Basel"])[rng.integers(0, 3, num)],
            "gain": rng.integers(0, 50, num) / 4,
        }
    ).with_columns(pl.when(pl.col("age") % 7 == 0).then(None).otherwise(pl.col("gain")).alias("gain"))
    frame.write_parquet(path, row_group_size=group)
    return path


@pytest.fixture
def small_pieces(monkeypatch, tmp_path):
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(opening, "BATCH_ROWS", 1000)
    monkeypatch.setattr(opening, "MOST_IN_MEMORY", 0)


def test_a_mapped_table_is_the_one_in_memory(tmp_path, monkeypatch, small_pieces):
    path = parquet(tmp_path / "a.parquet", 5000)
    mapped = open_data(path)
    assert isinstance(mapped.x, np.memmap)
    monkeypatch.setattr(opening, "MOST_IN_MEMORY", 2**30)
    held = open_data(path)
    assert not isinstance(held.x, np.memmap)
    np.testing.assert_array_equal(mapped.x, held.x)
    assert mapped.schema == held.schema
    assert fingerprint(mapped) == fingerprint(held)
    batch = mapped.batch([4999, 0, 3])
    np.testing.assert_array_equal(batch.x.numpy(), held.x[[4999, 0, 3]])
    np.testing.assert_array_equal(batch.mask.numpy(), ~np.isnan(held.x[[4999, 0, 3]]))


def test_memory_does_not_grow_with_the_rows(tmp_path, small_pieces):
    """Of Python and NumPy: what grows is the file of cells."""

    def peak(num: int) -> int:
        path = parquet(tmp_path / f"{num}.parquet", num)
        tracemalloc.start()
        try:
            data = open_data(path)
            assert len(data) == num
            assert data.x.nbytes == num * 4 * 8
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2000)  # what the first table loads and caches is not of its rows
    short, long = peak(10_000), peak(60_000)
    assert long < 1.2 * short + 100_000
    assert long < 60_000 * 4 * 8 / 2


def test_a_table_is_written_into_the_cache_once(tmp_path, monkeypatch, small_pieces):
    path = parquet(tmp_path / "a.parquet", 3000)
    first = open_data(path)
    monkeypatch.setattr(opening.Encoder, "encode", lambda self, frame: pytest.fail("it was encoded again"))
    np.testing.assert_array_equal(open_data(path).x, first.x)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, small_pieces):
    path = parquet(tmp_path / "a.parquet", 3000)

    def full(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(opening.cache, "_reserve", full)
    with pytest.raises(DataError, match="must have room for 0.0 GiB of cells, but: No space left on device"):
        open_data(path)
    assert not list((tmp_path / "cache").glob("*"))


def test_data_that_cannot_be_encoded_leave_no_cache(tmp_path, monkeypatch, small_pieces):
    path = parquet(tmp_path / "a.parquet", 3000)

    def broken(self, frame):
        raise DataError("no")

    monkeypatch.setattr(opening.Encoder, "encode", broken)
    with pytest.raises(DataError, match="no"):
        open_data(path)
    assert not list((tmp_path / "cache").glob("*"))


def test_later_data_are_read_as_the_first_were(tmp_path):
    schema = open_data(parquet(tmp_path / "a.parquet", 500)).schema
    frame = pl.DataFrame({"city": ["Bern", "Rom"], "gain": [1.25, None], "age": [40, 20], "other": [1, 2]})
    data = conform(frame, schema)
    np.testing.assert_array_equal(data.x, [[40, 1, 1.25, 0], [20, np.nan, np.nan, 1]])
    assert any("'Rom'" in note for note in data.notes)
    assert any("`other`" in note for note in data.notes)
    assert conform(data, schema) is data
    with pytest.raises(DataError, match="must have the column `age`"):
        conform(frame.drop("age"), schema)
    absent = conform(frame.drop("age"), schema, absent="unknown")
    assert np.isnan(absent.x[:, 0]).all()


def test_tables_and_other_data_do_not_mix(tmp_path):
    schema = open_data(parquet(tmp_path / "a.parquet", 500)).schema
    with pytest.raises(DataError, match="must be a table, .* found arrays"):
        conform(np.zeros((3, 4)), schema)
    vectors = open_data(np.eye(5)).schema
    with pytest.raises(DataError, match="must be vectors, .* found a table"):
        conform(pl.DataFrame({"a": [1, 2]}), vectors)
    with pytest.raises(ConfigError, match="Make the labels a column"):
        open_data(pl.DataFrame({"a": [1, 2]}), y=[0, 1])
    with pytest.raises(ConfigError, match="`size` must be left out for a table"):
        open_data(pl.DataFrame({"a": [1, 2]}), size=8)
    with pytest.raises(ConfigError, match="`types` must be left out for arrays"):
        open_data(np.eye(3), types={"a": "integer"})
