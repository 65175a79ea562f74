"""Columns of categories and of numbers: how every reader finds them, what is missing, and the features that they become."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from vaekit.component import build
from vaekit.data import loading
from vaekit.data.dataset import Dataset, fingerprint
from vaekit.data.schema import Column, NumberColumn, Schema
from vaekit.errors import ConfigError, DataError
from vaekit.networks import ConditionEncoder
from vaekit.recipes import make

X = np.arange(24, dtype=np.float32).reshape(6, 4) / 7
ANGLES = np.array([0.5, np.nan, -1.25, 2.0, 3.5, 0.25])
NAN = float("nan")


def same(found: Dataset, name: str, expected: list[float]) -> None:
    np.testing.assert_array_equal(found.columns[name], np.array(expected))


# ------------------------------------------------------------------------------------------------------------------ features


def test_numbers_are_standardised_and_what_is_missing_has_features_of_its_own():
    encoder = ConditionEncoder({}, features=3, numbers={"angle": [2.0, 4.0]})
    assert (encoder.names, encoder.out_features) == (("angle",), 3)
    first, _, last = encoder.readings[0]

    def expected(*inputs: float) -> torch.Tensor:
        return last(torch.nn.functional.silu(first(torch.tensor(inputs))))

    found = encoder({"angle": torch.tensor([10.0, torch.nan, 2.0], dtype=torch.float64)})
    torch.testing.assert_close(found, torch.stack([expected(2.0, 1.0), expected(0.0, 0.0), expected(0.0, 1.0)]))
    torch.testing.assert_close(encoder({"angle": encoder.unknown("angle", 1)})[0], expected(0.0, 0.0))


def test_large_numbers_keep_their_digits():
    encoder = ConditionEncoder({}, numbers={"time": [1.7e9, 1.0]})  # float32 holds no seconds of these
    found = encoder({"time": torch.tensor([1.7e9, 1.7e9 + 1], dtype=torch.float64)})
    near = ConditionEncoder({}, numbers={"time": [0.0, 1.0]})
    near.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(found, near({"time": torch.tensor([0.0, 1.0])}))


def test_categories_alone_are_what_they_were():
    torch.manual_seed(4)
    encoder = ConditionEncoder({"label": 3, "kind": 2}, features=2, dropout=0.5)
    old = {name: value for name, value in encoder.spec().items() if name != "numbers"}  # a model of before there were numbers
    again = build(json.loads(json.dumps(old)))
    again.load_state_dict(encoder.state_dict())
    columns = {"label": torch.tensor([0, -1, 2]), "kind": torch.tensor([1, -1, 0])}
    assert torch.equal(again(columns, drop=False), encoder(columns, drop=False))
    weights = [embedding.weight for embedding in encoder.embeddings]
    assert torch.equal(encoder(columns, drop=False), torch.cat([weights[0][[1, 0, 3]], weights[1][[2, 0, 1]]], dim=1))


def test_a_share_is_made_unknown_in_training_alone():
    encoder = ConditionEncoder({"label": 2}, features=1, dropout=0.25, numbers={"angle": [0.0, 1.0]})
    columns = {"label": torch.ones(4000, dtype=torch.int64), "angle": torch.full((4000,), 0.7)}
    nothing = encoder({"label": torch.tensor([-1]), "angle": torch.tensor([torch.nan])}, drop=False)[0]
    hidden = (encoder(columns) == nothing).double()
    assert hidden.mean(0).tolist() == pytest.approx([0.25, 0.25], abs=4 * (0.25 * 0.75 / 4000) ** 0.5)
    assert float((hidden[:, 0] * hidden[:, 1]).mean()) == pytest.approx(0.0625, abs=0.02)  # each by itself
    for whole in (encoder(columns, drop=False), encoder.eval()(columns)):
        assert not bool((whole == nothing).any())


def test_encoders_that_cannot_be():
    with pytest.raises(ConfigError, match="at least one column"):
        ConditionEncoder({})
    with pytest.raises(ConfigError, match="of categories or of numbers, got both for angle"):
        ConditionEncoder({"angle": 2}, numbers={"angle": [0.0, 1.0]})
    for scale in (0.0, NAN, float("inf")):
        with pytest.raises(ConfigError, match="a finite mean and a scale > 0 for `angle`"):
            ConditionEncoder({}, numbers={"angle": [0.0, scale]})
    encoder = ConditionEncoder({"label": 2}, numbers={"angle": [0.0, 1.0]})
    with pytest.raises(ConfigError, match="conditioned on label, angle; angle must be given"):
        encoder({"label": torch.tensor([0])})


def test_the_recipe_takes_columns_of_both_kinds():
    data = loading.open(X, y={"kind": np.array(list("ababab")), "angle": ANGLES})
    known = ANGLES[~np.isnan(ANGLES)]
    encoder = make(data, condition=["angle", "kind"]).vae.condition
    assert encoder is not None
    assert (encoder.categories, list(encoder.numbers)) == ({"kind": 2}, ["angle"])
    assert encoder.numbers["angle"] == pytest.approx((known.mean(), known.std()))


# ------------------------------------------------------------------------------------------------------------------- readers


def test_arrays_with_measurements(tmp_path: Path):
    for y in (ANGLES, ANGLES[:, None]):
        data = loading.open(X, y=y)
        same(data, "label", ANGLES.tolist())
    known = ANGLES[~np.isnan(ANGLES)]
    column = data.schema.column("label")
    assert isinstance(column, NumberColumn)
    assert (column.mean, column.scale) == pytest.approx((known.mean(), known.std()))
    assert (column.low, column.high) == (-1.25, 3.5)
    np.savez(tmp_path / "x.npz", x=X, y=ANGLES)
    assert fingerprint(loading.open(tmp_path / "x.npz")) == fingerprint(data)
    assert ("column label", "numbers, -1.25 to 3.5, mean 1, unknown 1") in loading.describe(data)
    again = Schema.model_validate_json(data.schema.model_dump_json())
    assert again == data.schema
    same(loading.conform({"x": X[:2], "y": np.array([7, 8])}, again), "label", [7.0, 8.0])
    same(loading.conform({"x": X[:2], "y": np.array(["7.5", ""])}, again), "label", [7.5, NAN])
    assert loading.conform(data, again) is data
    same(data.select([3, 1]), "label", [2.0, NAN])
    batch = data.batch([4, 1]).columns
    assert batch is not None
    torch.testing.assert_close(batch["label"], torch.tensor([3.5, NAN]).double(), equal_nan=True)


def test_several_columns_beside_arrays(tmp_path: Path):
    kind = np.array(["b", "a", "", "b", "a", "a"])
    y = {"kind": kind, "angle": ANGLES, "Size": np.arange(6) % 2}
    data = loading.open(X, y=y)
    assert [(column.name, column.kind) for column in data.schema.columns] == [
        ("kind", "categorical"),
        ("angle", "number"),
        ("Size", "categorical"),
    ]
    same(data, "kind", [1, 0, -1, 1, 0, 0])
    np.savez(tmp_path / "x.npz", x=X, y_kind=kind, y_angle=ANGLES, y_Size=np.arange(6) % 2, other=X)
    found = loading.open(tmp_path / "x.npz")
    assert fingerprint(found) == fingerprint(data)
    assert (
        found.notes[0]
        == "The arrays other of x.npz are not used. Name columns beside the examples `y_NAME`, such as `y_angle`."
    )
    parts = {f"{name}_{split}": part[rows] for split, rows in (("train", slice(0, 4)), ("test", slice(4, 6)))
             for name, part in {"x": X, "y_angle": ANGLES, "y": np.arange(6)}.items()}  # fmt: skip
    np.savez(tmp_path / "parts.npz", **parts)
    divided = loading.open(tmp_path / "parts.npz")
    same(divided, "angle", ANGLES.tolist())
    same(divided, "label", list(range(6)))
    same(divided.split("test"), "angle", ANGLES[4:].tolist())
    del parts["y_angle_test"]
    same(loading.open(parts), "angle", [*ANGLES[:4], NAN, NAN])
    with pytest.raises(DataError, match=r"`angle` must have one label per example, found the shape \(5,\) for 6"):
        loading.open(X, y={"angle": ANGLES[:5]})
    with pytest.raises(DataError, match="`angle` must be finite numbers, found infinities"):
        loading.open(X, y={"angle": np.array([0.5, np.inf, 1, 2, 3, 4])})
    with pytest.raises(DataError, match="`angle` must be numbers"):
        loading.conform({"x": X[:1], "y_angle": np.array(["steep"])}, data.schema)
    note = loading.conform({"x": X[:2], "y_Size": np.array([0.5, 0.25])}, data.schema)
    assert ("Size" in note.columns, "`Size` holds measurements" in note.notes[0]) == (False, True)


def test_a_data_set_brings_its_columns_to_another_schema():
    kind, other = np.array(["b", "a", "a", "b", "a", "a"]), np.array(["c", "b", "b", "c", "b", "a"])
    schema = loading.open(X, y={"kind": other, "angle": ANGLES * 2}).schema
    found = loading.conform(loading.open(X[::-1].copy(), y={"kind": kind, "angle": ANGLES}), schema)
    same(found, "kind", [1, 0, 0, 1, 0, 0])
    same(found, "angle", ANGLES.tolist())


@pytest.mark.parametrize(
    ("labels", "codes", "categories"),
    [
        ([2, 0, 1, -1, -1, 2], [2, 0, 1, -1, -1, 2], ("0", "1", "2")),
        ([2.0, 0.0, 1.0, np.nan, -1.0, 2.0], [2, 0, 1, -1, -1, 2], ("0", "1", "2")),
        ([1, -1, 1, -1, 1, 1], [1, 0, 1, 0, 1, 1], ("-1", "1")),  # of two classes -1 is one of them
        ([1, -1, 0, -1, 1, 1], [2, 0, 1, 0, 2, 2], ("-1", "0", "1")),
        ([3, -1, 0, 1, 1, 1], [3, 0, 1, 2, 2, 2], ("-1", "0", "1", "3")),
        (["a", "", "b", "", "a", "a"], [0, -1, 1, -1, 0, 0], ("a", "b")),
        ([1.0, np.nan, 0.0, np.nan, 1.0, 0.0], [1, -1, 0, -1, 1, 0], ("0", "1")),
    ],
)
def test_labels_that_are_missing(labels: list, codes: list[int], categories: tuple[str, ...]):
    data = loading.open(X, y=np.array(labels))
    same(data, "label", codes)
    assert data.schema.column("label").categories == categories
    same(loading.conform({"x": X, "y": np.array(labels)}, data.schema), "label", codes)
    noted = any("-1 is taken for an unknown `label`" in note for note in data.notes)
    assert noted == (-1 in codes and -1 in labels)


def test_old_schemas_are_read_and_their_fingerprints_stay():
    data = loading.open(X, y=np.array(list("ababab")))
    text = data.schema.model_dump_json()
    assert '"columns":[{"name":"label","kind":"categorical","categories":["a","b"]}]' in text
    assert Schema.model_validate_json(text).columns == (Column(name="label", categories=("a", "b")),)


def test_images_without_class_folders_have_unknown_labels(tmp_path: Path):
    for name in ("a/1", "a/2", "b/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 255, (8, 8), dtype=np.uint8)).save(
            tmp_path / f"{name}.png"
        )
    data = loading.open(tmp_path, cache=False)
    same(data, "label", [0, 0, 1])
    assert loading.conform(tmp_path / "a", data.schema, cache=False).columns == {}


TEXTS = [f"the {word} of number {i} is long" for i, word in enumerate(["cat", "dog", "cow", "hen"] * 6)]


def test_texts_with_labels_and_numbers(tmp_path: Path):
    price = np.round(np.arange(24) * 1.37 + 0.5, 2)
    rows = [
        {"text": text, "price": price[i] if i % 5 else None, "kind": "a" if i % 2 else None, "id": i}
        for i, text in enumerate(TEXTS)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    expected = np.where(np.arange(24) % 5, price, np.nan)
    frame = pl.DataFrame(rows)
    frame.write_csv(tmp_path / "t.csv")
    frame.write_parquet(tmp_path / "t.parquet")
    for source, options in (
        (tmp_path / "t.jsonl", {}),
        (tmp_path / "t.csv", {"text": "text"}),
        (tmp_path / "t.parquet", {"text": "text"}),
        (frame, {"text": "text"}),
    ):
        data = loading.open(source, **options)
        np.testing.assert_array_equal(data.columns["price"], expected)
        same(data, "kind", [-1 if i % 2 == 0 else 0 for i in range(24)])
        assert [column.name for column in data.schema.columns if column.kind == "number"] == ["price"]
        assert "id" not in data.columns  # whole numbers that never repeat name the rows
        again = loading.conform(source, data.schema, **options)
        np.testing.assert_array_equal(again.columns["price"], expected)
    strange = loading.conform({"text": ["the cat", "the dog"], "price": ["cheap", 3]}, data.schema)
    same(strange, "price", [NAN, 3.0])
    assert "1 values of `price` are no finite numbers, and unknown (cheap)." in strange.notes
    listed = loading.open(TEXTS, y=price.tolist())
    np.testing.assert_array_equal(listed.columns["label"], price)
    smaller = loading.open(TEXTS[:20], y=price[:20].tolist())
    np.testing.assert_array_equal(loading.conform(smaller, listed.schema).columns["label"], price[:20])
    assert listed.schema.column("label").kind == "number"
