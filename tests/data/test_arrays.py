from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vaekit.data.dataset import fingerprint, from_source, spaced, to_source
from vaekit.data.loading import conform, describe, open
from vaekit.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 4, 6), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


DTYPES = ["bool", "uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64", "float16", "float32"]


@given(data=st.data(), dtype=st.sampled_from(DTYPES), layout=st.sampled_from(["flat", "HW", "HWC", "CHW"]))
def test_raw_gives_the_input_back(data: st.DataObject, dtype: str, layout: str) -> None:
    shape = {"flat": (4, 3), "HW": (3, 2, 5), "HWC": (3, 2, 5, 3), "CHW": (3, 4, 2, 5)}[layout]
    elements = None
    if dtype.startswith("float"):
        elements = st.floats(-1000, 1000, width=int(dtype[5:]), allow_subnormal=False)
    elif dtype != "bool":
        info = np.iinfo(dtype)
        elements = st.integers(max(info.min, -(2**23)), min(info.max, 2**23))
    array = data.draw(hnp.arrays(dtype, shape, elements=elements))
    if array.min() == array.max():
        return
    opened = open(array, layout=layout)
    assert same(opened.raw(), array)
    assert same(conform(array, opened.schema).x, opened.x)
    assert same(from_source(opened.raw(), opened.schema)[0], opened.x)


@given(st.lists(st.integers(0, 255), min_size=6, max_size=6), st.sampled_from(["float16", "float32", "float64"]))
def test_all_levels_of_255_come_back_exactly(levels: list[int], dtype: str) -> None:
    codes = np.array([*levels, 1, 254], np.uint8).reshape(2, 2, 2)
    array = (codes / 255.0).astype(dtype)
    opened = open(array)
    assert opened.schema.levels == 256
    assert opened.schema.step == 1 / 255
    assert np.array_equal(opened.x[:, 0], codes)
    assert same(opened.raw(), array)


@pytest.mark.parametrize(
    ("array", "values", "levels", "offset", "step"),
    [
        (GREY > 100, "binary", 2, 0, 1),
        ((GREY > 100).astype(np.uint8) * 255, "binary", 2, 0, 255),
        ((GREY > 100).astype(np.float32) * 2 - 1, "binary", 2, -1, 2),
        (GREY, "levels", 256, 0, 1),
        (GREY // 100 * 7, "levels", 256, 0, 1),
        (GREY.astype(np.uint16) * 257, "levels", 65536, 0, 1),
        ((GREY % 17).astype(np.float64), "levels", 17, 0, 1),
        (GREY.astype(np.int64), "levels", 256, 0, 1),
        (GREY.astype(np.int16) - 1000, "levels", int(GREY.max()) - int(GREY.min()) + 1, int(GREY.min()) - 1000, 1),
        (GREY.reshape(5, 24) % 9 + 3, "levels", 9, 3, 1),
        (GREY.reshape(5, 24).astype(np.int32) * 100, "continuous", None, 0, 1),
        (RNG.normal(size=(5, 4)), "continuous", None, 0, 1),
    ],
)
def test_the_grid_of_values(array: np.ndarray, values: str, levels: int | None, offset: float, step: float) -> None:
    schema = open(array).schema
    assert (schema.values, schema.levels, schema.offset, schema.step) == (values, levels, offset, step)
    assert (schema.low, schema.high) == (array.min(), array.max())


@pytest.mark.parametrize(
    ("shape", "kind", "layout", "stored"),
    [
        ((5, 7), "vectors", "flat", (7,)),
        ((5, 4, 6), "images", "HW", (1, 4, 6)),
        ((5, 4, 6, 3), "images", "HWC", (3, 4, 6)),
        ((5, 1, 4, 6), "images", "CHW", (1, 4, 6)),
        ((5, 2, 4, 6), "images", "CHW", (2, 4, 6)),
        ((5, 8, 8, 1), "images", "HWC", (1, 8, 8)),
        ((5, 1, 4, 4), "images", "CHW", (1, 4, 4)),
        ((5, 4, 4, 1), "images", "HWC", (1, 4, 4)),
    ],
)
def test_what_a_shape_is_taken_as(shape: tuple[int, ...], kind: str, layout: str, stored: tuple[int, ...]) -> None:
    schema = open(RNG.integers(0, 256, shape, dtype=np.uint8)).schema
    assert (schema.kind, schema.source.layout, schema.shape) == (kind, layout, stored)


def test_pixels_lie_where_they_should() -> None:
    assert np.array_equal(open(COLOUR).x, COLOUR.transpose(0, 3, 1, 2))
    assert np.array_equal(open(COLOUR.transpose(0, 3, 1, 2)).x, COLOUR.transpose(0, 3, 1, 2))
    assert np.array_equal(open(COLOUR, kind="vectors").x, COLOUR.reshape(5, -1))


def test_overrides() -> None:
    assert open(GREY, values="continuous").x.dtype == np.float32
    assert open(GREY % 2, levels=256).schema.levels == 256
    assert open(GREY % 2 + 3, values="binary").schema.offset == 3
    assert open((GREY % 5) / 4.0, levels=5).schema.step == 0.25
    with pytest.raises(DataError, match="two distinct values, found more"):
        open(GREY, values="binary")
    with pytest.raises(DataError, match=r"whole numbers from 0 to 9.*Give another"):
        open(GREY, levels=10)
    with pytest.raises(DataError, match="whole numbers of a small range"):
        open(RNG.normal(size=(5, 4)), values="levels")
    with pytest.raises(ConfigError, match="left out for continuous"):
        open(GREY, values="continuous", levels=4)
    with pytest.raises(ConfigError, match="`levels` must be between 2"):
        open(GREY, levels=1)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.array([[1, None]], dtype=object), "found an array of Python objects"),
        (np.array([["a", "b"]]), "found text"),
        (np.ones((2, 2), complex), "found complex numbers"),
        (np.zeros((2, 2), "datetime64[s]"), "found dates"),
        (np.array([[1.0, np.nan], [1.0, 2.0]]), r"no NaN, found some in 1 of 2 rows.*--missing nan"),
        (np.array([[1.0, np.inf], [1.0, 2.0]]), "infinities in 1 of 2 rows"),
        (np.array([[1e300, 1.0]]), "32-bit float"),
        (np.zeros((0, 3)), r"at least one example.*\(0, 3\)"),
        (np.zeros((3, 0)), r"at least one example.*\(3, 0\)"),
        (np.full((4, 3), 7), "found the value 7 everywhere"),
        (np.arange(4.0), r"1-D array of 4 values.*reshape\(-1, 1\)"),
        (np.array(3.0), "a single number"),
        (np.zeros((2, 2, 2, 2, 2)), r"found \(2, 2, 2, 2, 2\)"),
        ([[1, 2], [3]], "rows of equal length"),
    ],
)
def test_each_bad_array_has_its_sentence(array: object, match: str) -> None:
    with pytest.raises(DataError, match=match):
        open(array)


def test_vectors_are_no_images() -> None:
    with pytest.raises(DataError, match=r"must have the shape \(N, H, W\), found|must have the shape.*found \(5, 24\)"):
        open(GREY.reshape(5, 24), kind="images")
    with pytest.raises(ConfigError, match="`layout` must be flat"):
        open(GREY, kind="vectors", layout="HW")


def test_missing_values_become_a_mask_and_come_back() -> None:
    array = np.array([[0.0, np.nan, 3.0], [1.0, 2.0, np.nan]], np.float32)
    data = open(array, missing="nan")
    assert data.schema.missing
    assert data.mask is not None
    assert np.array_equal(data.mask, ~np.isnan(array))
    assert same(data.raw(), array)
    assert data.batch([1]).mask is not None
    again = conform(array, data.schema)
    assert again.mask is not None
    assert np.array_equal(again.mask, data.mask)
    complete = open(np.nan_to_num(array)).schema
    with pytest.raises(DataError, match="no NaN, found some in 2 of 2 rows"):
        conform(array, complete)
    assert conform(array, complete, missing="nan").mask is not None


def test_labels() -> None:
    data = open(GREY, y=np.array([10, 2, 2, -1, 10]))
    assert data.schema.column("label").categories == ("-1", "2", "10")
    assert data.columns["label"].tolist() == [2, 1, 1, 0, 2]
    batch = data.batch(torch.tensor([3, 0]))
    assert batch.columns is not None
    assert batch.columns["label"].tolist() == [0, 2]
    assert open(GREY, y=np.array([1.0, 2.0, np.nan, 1.0, 1.0])).columns["label"].tolist() == [0, 1, -1, 0, 0]
    assert open(GREY, y=np.array(["b", "a", "b", "b", "a"])).schema.column("label").categories == ("a", "b")
    with pytest.raises(DataError, match=r"`y` must have one label per example, found the shape \(4,\) for 5 examples"):
        open(GREY, y=np.zeros(4, int))
    with pytest.raises(DataError, match="argmax"):
        open(GREY, y=np.eye(5))
    found = conform({"x": GREY, "y": np.array([2, 10, 7, 7, 2])}, data.schema)
    assert found.columns["label"].tolist() == [1, 2, -1, -1, 1]
    assert found.notes == ("2 values of `label` are of no known category (7).",)


def test_conform_says_what_differs() -> None:
    schema = open(COLOUR).schema
    assert np.array_equal(conform(COLOUR.transpose(0, 3, 1, 2), schema).x, open(COLOUR).x)
    assert np.array_equal(conform(torch.from_numpy(COLOUR).float(), schema).x, open(COLOUR).x)
    with pytest.raises(DataError, match=r"shape \(4, 6, 3\) \(HWC\), found \(4, 6\)"):
        conform(GREY, schema)
    with pytest.raises(DataError, match=r"single example.*x\[None\]"):
        conform(COLOUR[0], schema)
    with pytest.raises(DataError, match=r"one of 0, 1, \.\.\., 255.*found 0\.5"):
        conform(np.full((1, 4, 6, 3), 0.5), schema)
    with pytest.raises(DataError, match=r"found 256"):
        conform(np.full((1, 4, 6, 3), 256), schema)
    with pytest.raises(DataError, match=r"one of 0 or 255"):
        conform(GREY, open((GREY > 100).astype(np.uint8) * 255).schema)
    with pytest.raises(DataError, match="infinities"):
        conform(np.full((1, 3), np.inf), open(RNG.normal(size=(5, 3))).schema)


def test_constant_data_conforms() -> None:
    schema = open(GREY).schema
    assert conform(np.zeros((1, 4, 6), np.uint8), schema).x.max() == 0


def test_a_dataset_conforms_through_its_source_values() -> None:
    binary = open((GREY > 100).astype(np.uint8) * 255, y=np.array([0, 1, 1, 0, 1]))
    found = conform(binary, open(GREY, y=np.array([0, 1, 1, 0, 2])).schema)
    assert np.array_equal(found.x[:, 0], (GREY > 100) * 255)
    assert found.columns["label"].tolist() == [0, 1, 1, 0, 1]
    assert conform(binary, binary.schema) is binary


def test_to_source_rounds_and_clips_to_the_grid() -> None:
    schema = open((GREY % 17).astype(np.float64) * 1.0).schema
    out = to_source(torch.full((1, 1, 4, 6), 16.6), schema)
    assert out.dtype == np.float64
    assert np.unique(out).tolist() == [16.0]
    assert np.unique(to_source(np.full((1, 1, 4, 6), -3.0), schema)).tolist() == [0.0]
    ints = open(GREY.reshape(5, 24).astype(np.int32) * 100).schema
    assert to_source(np.full((1, 24), 12.6, np.float32), ints).dtype == np.int32
    assert to_source(np.full((1, 24), 12.6, np.float32), ints)[0, 0] == 13


def test_batches_gather_in_the_storage_dtype() -> None:
    for array in (GREY, GREY.astype(np.uint16) * 257, RNG.normal(size=(5, 3))):
        data = open(array)
        index = [4, 0, 4, 2]
        batch = data.batch(np.array(index))
        assert batch.x.numpy().dtype == data.x.dtype
        assert np.array_equal(batch.x.numpy(), data.x[index])
    turned = conform(GREY[::-1, :, ::-1], open(GREY).schema)
    assert np.array_equal(turned.batch([3, 1, 3]).x.numpy()[:, 0], GREY[::-1, :, ::-1][[3, 1, 3]])
    frozen = GREY.copy()
    frozen.flags.writeable = False
    assert np.array_equal(open(frozen).batch([3, 1, 3]).x.numpy()[:, 0], GREY[[3, 1, 3]])


def test_select_and_splits() -> None:
    data = open({"x_train": GREY[:3], "y_train": [0, 1, 1], "x_test": GREY[3:]})
    assert data.columns["label"].tolist() == [0, 1, 1, -1, -1]
    test = data.split("test")
    assert len(test) == test.schema.num_examples == 2
    assert np.array_equal(test.raw(), GREY[3:])
    assert np.array_equal(data.select([4, 0]).raw(), GREY[[4, 0]])
    with pytest.raises(DataError, match="a split `valid`; found `train`, `test`"):
        data.split("valid")
    with pytest.raises(DataError, match="found no splits"):
        open(GREY).split("test")
    with pytest.raises(DataError, match=r"one shape, found \(4, 6\) in `train`, \(4, 5\) in `test`"):
        open({"x_train": GREY[:3], "x_test": GREY[3:, :, :5]})


def test_a_selection_shares_the_stored_values(tmp_path: Path) -> None:
    array = RNG.integers(0, 256, (50, 4, 6), dtype=np.uint8)
    np.save(tmp_path / "x.npy", array)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for source in (array, mapped):
        data = open(source, y=np.arange(50) % 7)
        some = data.select([40, 3, -1, 3, 20, 21])
        assert some.rows is not None
        assert some.rows.dtype == np.int32
        assert np.shares_memory(some.x, data.x)
        twice = some.select([5, 0, 2])
        assert np.shares_memory(twice.x, data.x)
        for found, rows in ((some, [40, 3, 49, 3, 20, 21]), (twice, [21, 40, 49])):
            assert len(found) == found.schema.num_examples == len(rows)
            assert np.array_equal(found.raw(), array[rows])
            assert np.array_equal(found.stored()[:, 0], array[rows])
            assert np.array_equal(found.stored([2, 0])[:, 0], array[rows][[2, 0]])
            batch = found.batch([1, 1, 2])
            assert np.array_equal(batch.x[:, 0], array[rows][[1, 1, 2]])
            assert batch.columns is not None
            assert batch.columns["label"].tolist() == [rows[i] % 7 for i in (1, 1, 2)]
        run = data.select(np.arange(49, -1, -1)).select(np.arange(30, 9, -1))  # neighbours again: 19 to 39
        assert run.rows is None
        assert np.shares_memory(run.x, data.x)
        assert np.array_equal(run.raw(), array[19:40])
        assert len(data.select([])) == len(data.select([]).raw()) == 0
        with pytest.raises(IndexError):
            data.select([50])
    assert open(tmp_path / "x.npy").select([1, 2]).schema.num_examples == 2


def test_a_selection_of_masked_data() -> None:
    array = RNG.normal(size=(9, 3))
    array[::2, 1] = np.nan
    data = open(array, missing="nan")
    some = data.select([8, 1, 4]).select([2, 1])
    assert np.shares_memory(some.mask, data.mask)
    assert np.allclose(some.raw(), array[[4, 1]], equal_nan=True)
    observed, batch = some.observed(), some.batch([1, 0])
    assert observed is not None
    assert observed.tolist() == [[True, False, True], [True, True, True]]
    assert batch.mask is not None
    assert batch.mask.tolist() == [[True, True, True], [True, False, True]]
    assert dict(describe(some))["missing"] == "16.7% of the values"


def test_spaced_indices_are_distinct_and_reach_both_ends() -> None:
    for num, most in ((10, 3), (10, 9), (10, 10), (10, 20), (7, 2), (100_003, 1000), (5, 1)):
        rows = spaced(num, most)
        assert len(set(rows.tolist())) == min(num, most)
        assert rows[0] == 0
        assert most == 1 or rows[-1] == num - 1


def test_the_fingerprint_knows_the_same_data_again(tmp_path: Path) -> None:
    y = np.arange(5) % 2
    data = open(GREY, y=y)
    np.savez(tmp_path / "x.npz", x=GREY, y=y)
    again = (
        conform(tmp_path / "x.npz", data.schema),
        conform(GREY, data.schema, y=y),
        data.select([4, 3, 2, 1, 0]).select([4, 3, 2, 1, 0]),
    )
    assert {fingerprint(found) for found in again} == {fingerprint(data)}
    changed = GREY.copy()
    changed[2, 1, 1] ^= 1
    others = (
        conform(changed, data.schema, y=y),
        conform(GREY, data.schema, y=1 - y),
        conform(GREY, data.schema),
        data.select([0, 1]),
    )
    assert len({fingerprint(found) for found in (data, *others)}) == 5
    masked = [open(np.where(np.eye(3) == k, np.nan, 1.0 + np.arange(3)), missing="nan") for k in (0, 1)]
    assert fingerprint(masked[0]) != fingerprint(masked[1])


def test_notes() -> None:
    vectors = GREY.reshape(5, 24).copy()
    vectors[:, 3] = 9
    assert "1 of 24 columns hold one value only." in open(vectors).notes
    data = open({"x_train": GREY, "x_test": GREY[[1, 1, 2]]})
    assert "3 of 3 examples of the split `test` are in `train` as well." in data.notes
