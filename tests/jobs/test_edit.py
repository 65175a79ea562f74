"""Edits: the vectors and the features that they decode at, of any kind of data."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from small_models import image_bundle, image_data, vector_bundle, vector_data
from text_models import text_bundle, text_data
from vaekit.data import loading
from vaekit.data.dataset import Dataset, to_source
from vaekit.data.tables.columns import state_channels
from vaekit.distributions import guided
from vaekit.errors import ConfigError, DataError
from vaekit.jobs.blocks import decoded, posterior_of
from vaekit.jobs.conditions import features_of
from vaekit.jobs.edit import edit
from vaekit.jobs.encode import decode
from vaekit.jobs.reconstruct import reconstruct
from vaekit.recipes import make
from vaekit.storage import Bundle

LABELS = np.array([0, 1, 2] * 10)


def means(bundle: Bundle, dataset: Dataset) -> np.ndarray:
    return posterior_of(bundle, dataset)[0].double().numpy()


def test_a_vector_goes_from_ones_own_mean_to_that_of_the_value():
    bundle, data = image_bundle(), image_data()
    z = means(bundle, data)
    of_label = np.stack([z[label == LABELS].mean(0) for label in range(3)])
    for strength in (1.0, 0.5, -2.0):
        expected = decode(bundle, z + strength * (of_label[2] - of_label[LABELS]), draw="mean")
        made = edit(bundle, data, {"label": "2"}, strength=strength)
        np.testing.assert_array_equal(made.x, expected)
    assert made.methods == {"label": "vector"}
    assert set(made.columns["label"]) == {"2"}
    np.testing.assert_array_equal(edit(bundle, data, {"label": 2}).x[2::3], reconstruct(bundle, data)[2::3])


def test_examples_of_unknown_value_go_from_the_mean_of_all_others():
    bundle, data = image_bundle(), image_data()
    bare = Dataset(data.schema, data.x[:4])
    z = means(bundle, data)
    shift = z[LABELS == 1].mean(0) - z[LABELS != 1].mean(0)
    made = edit(bundle, bare, {"label": 1}, training=data)
    np.testing.assert_array_equal(made.x, decode(bundle, z[:4] + shift, draw="mean"))
    assert made.notes
    assert "no more than 10 examples" in made.notes[0]
    with pytest.raises(DataError, match="found none. Give labelled data"):
        edit(bundle, bare, {"label": 1})


def test_a_condition_is_set_and_strength_moves_its_features():
    bundle, data = image_bundle(conditional=True), image_data()
    z = posterior_of(bundle, data)[0]
    own = torch.from_numpy(LABELS)
    with torch.no_grad():
        before, after = (features_of(bundle, {"label": codes}, 30) for codes in (own, torch.full((30,), 1)))
        made = edit(bundle, data, {"label": 1})
        np.testing.assert_array_equal(made.x, decode(bundle, z.numpy(), draw="mean", where={"label": 1}))
        assert made.methods == {"label": "condition"}
        far = edit(bundle, data, {"label": 1}, strength=2.5)
        np.testing.assert_array_equal(far.x, decoded(bundle, z, before + 2.5 * (after - before), "mean"))
        none = edit(bundle, data, {"label": 1}, strength=0.0)
        np.testing.assert_array_equal(none.x, reconstruct(bundle, data))
    assert not np.array_equal(made.x, none.x)


def test_a_conditional_model_may_be_moved_by_a_vector():
    bundle, data = image_bundle(conditional=True), image_data()
    z = means(bundle, data)
    shift = z[LABELS == 0].mean(0) - np.stack([z[label == LABELS].mean(0) for label in range(3)])[LABELS]
    expected = decode(bundle, z + shift, draw="mean", columns={"label": torch.from_numpy(LABELS)})
    np.testing.assert_array_equal(edit(bundle, data, {"label": 0}, method="vector").x, expected)


@pytest.mark.parametrize("conditional", [False, True])
def test_text(conditional):
    data = text_data()
    bundle = text_bundle(data, conditional=conditional)
    made = edit(bundle, data, {"label": "neg"}, strength=0.0)
    assert made.x.tolist() == reconstruct(bundle, data).tolist()
    assert made.columns["label"].tolist() == ["neg"] * len(data)
    far = edit(bundle, data, {"label": "neg"}, strength=200.0)
    changed = [a != b for a, b in zip(far.x, made.x, strict=True)]
    assert any(changed)
    if not conditional:
        assert not any(changed[1::2])  # these are negative already
        return
    z, codes = posterior_of(bundle, data)[0], torch.from_numpy(data.columns["label"])
    with torch.no_grad():
        goal = torch.full_like(codes, data.schema.column("label").categories.index("neg"))
        start, end = (bundle.vae.decode_flat(z, features_of(bundle, {"label": c}, len(data))) for c in (codes, goal))
        expected = to_source(guided(start, end, 200.0).middle, data.schema)
    assert far.x.tolist() == expected.tolist()


def test_a_cell_of_a_table_is_set():
    pytest.importorskip("polars")
    rng = np.random.default_rng(0)
    num = 60
    city = np.where(rng.random(num) < 0.5, "Bern", "Chur").astype(object)
    city[::10] = None
    frame = pl.DataFrame({"city": city.tolist(), "age": rng.integers(20, 60, num).tolist()})
    data = loading.open(frame)
    torch.manual_seed(0)
    recipe = make(data)
    bundle = Bundle(recipe.vae.eval(), recipe.transform, data.schema)
    made = edit(bundle, data, {"city": "Bern"}).x
    index = [column.name for column in data.schema.table].index("city")
    assert (made[:, index] == data.schema.table[index].categories.index("Bern")).all()
    assert (made[:, state_channels(data.schema.table)[index]] == 0).all()
    with pytest.raises(DataError, match="must have categories"):
        edit(bundle, data, {"age": "30"})
    with pytest.raises(DataError, match="must have the column `size`"):
        edit(bundle, data, {"size": "30"})


@pytest.mark.parametrize(
    ("values", "options", "error", "match"),
    [
        ({}, {}, ConfigError, "A column must be set"),
        ({"label": 1}, {"strength": float("nan")}, ConfigError, "`strength`"),
        ({"label": 1}, {"method": "magic"}, ConfigError, "`method`"),
        ({"label": 1}, {"method": "condition"}, ConfigError, "it has no conditions"),
        ({"label": 7}, {}, DataError, "must be one of 0, 1, 2"),
        ({"mood": 7}, {}, DataError, "must have a column `mood`"),
    ],
)
def test_refusals(values, options, error, match):
    with pytest.raises(error, match=match):
        edit(image_bundle(), image_data(), values, **options)


def test_vectors_without_columns_are_refused():
    with pytest.raises(DataError, match="it has no columns"):
        edit(vector_bundle(), vector_data(), {"label": 1})
