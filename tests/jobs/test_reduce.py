"""Maps: the place of a point is its own, goes back to the decoder, and is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from small_models import image_bundle, image_data
from vaekit.data.transforms import Levels
from vaekit.data.writing import read_table, write_table
from vaekit.errors import ConfigError, DataError
from vaekit.jobs.drawing import MOST_LABELS, density, draw_map, labels_of
from vaekit.jobs.reduce import Reduction
from vaekit.likelihoods import DiscretizedLogisticMixture
from vaekit.model import Model
from vaekit.networks import MLP
from vaekit.posteriors import DiagonalNormal
from vaekit.priors import StandardNormal
from vaekit.storage import Bundle
from vaekit.vae import VAE


def map_model(units: int = 2) -> Model:
    torch.manual_seed(3)
    encoder, decoder = MLP([1, 6, 5], [20], input_range=[0.0, 15.0]), MLP(units, [20])
    likelihood = DiscretizedLogisticMixture(decoder, [1, 6, 5], levels=16, num_components=2)
    vae = VAE(StandardNormal(units), DiagonalNormal(encoder, units), likelihood)
    return Model(Bundle(vae.eval(), Levels(), image_data().schema))


def test_a_point_has_the_same_place_alone_and_in_company():
    model, data = map_model(), image_data()
    whole = model.reduce(data).places
    assert whole.shape == (30, 2)
    for row in (0, 17):
        assert np.array_equal(model.reduce(data.select([row])).places[0], whole[row])
    assert np.array_equal(whole, model.encode(data).mean)


@pytest.mark.parametrize("units", [2, 3])
def test_the_table_is_one_that_decode_takes_back(tmp_path, units):
    model, data = map_model(units), image_data()
    found = model.reduce(data)
    write_table(found.to_columns(), tmp_path / "map.csv")
    table = read_table(tmp_path / "map.csv")
    assert list(table) == ["index", "label", *(f"z{d}" for d in range(units))]
    assert np.array_equal(model.decode(tmp_path / "map.csv"), model.decode(found.places))
    assert np.array_equal(model.decode(found.places), model.reconstruct(data))


@pytest.mark.parametrize("units", [1, 4])
def test_a_latent_of_another_width_is_no_map(units):
    with pytest.raises(ConfigError, match=rf"2 or 3 units, found {units}\. .*--recipe map"):
        map_model(units).reduce(image_data())


def test_a_map_is_judged_by_the_labels_too():
    found = map_model().evaluate_map(image_data(), num_neighbours=3)
    assert found.num_examples == 30
    assert 0.3 < found.trustworthiness <= 1.0
    assert found.knn_accuracy is not None
    few = map_model().evaluate_map(image_data(), num_neighbours=3, limit=10)
    assert few.num_examples == 10


# ---------------------------------------------------------------------------------------------------------- the picture


def reduction(num: int = 30, units: int = 2, **columns: np.ndarray) -> Reduction:
    return Reduction(np.random.default_rng(0).normal(size=(num, units)).astype(np.float32), None, columns)


def pixels_of(path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_the_density_counts_every_place_around_where_it_lies():
    places = np.array([[0.0, 0.0]] * 3 + [[1.0, -1.0]])
    found = density(places, [(-2.0, 2.0), (-2.0, 2.0)])
    assert found.sum() == pytest.approx(4.0, rel=1e-3)
    up, across = np.unravel_index(found.argmax(), found.shape)
    assert (abs(up - 80), abs(across - 80)) <= (1, 1)
    assert found[:60, 100:].sum() == pytest.approx(1.0, abs=0.05)


def test_labels_are_the_first_column_of_few_categories():
    many = np.array([str(i) for i in range(MOST_LABELS + 1)], dtype=object)
    few = np.array(["a", ""] * 31, dtype=object)[: len(many)]
    found = reduction(len(many), many=many, few=few)
    assert set(labels_of(found)) == {"a", "unknown"}
    assert labels_of(reduction(len(many), many=many)) is None
    with pytest.raises(ConfigError, match=f"at most {MOST_LABELS} categories, `many` has {MOST_LABELS + 1}"):
        labels_of(found, "many")
    with pytest.raises(ConfigError, match="beside the data"):
        labels_of(found, "size")


def test_the_picture_shows_the_decoder_and_each_label_in_its_colour(tmp_path):
    pytest.importorskip("matplotlib")
    model = map_model()
    made = model.reduce(image_data())
    model.draw_map(made, tmp_path / "map.png", thumbnails=4)
    picture = pixels_of(tmp_path / "map.png")
    assert picture.shape[1] > 1.7 * picture.shape[0]  # two panels
    for colour in ((63, 144, 218), (255, 169, 14), (189, 31, 1)):
        mixed = 0.9 * np.array(colour) + 0.1 * 255  # on white
        assert (np.abs(picture - mixed).sum(-1) < 40).sum() > 20
    model.draw_map(made, tmp_path / "plain.png", thumbnails=0)
    assert pixels_of(tmp_path / "plain.png").shape[1] < 1.1 * picture.shape[1] / 2
    white = Bundle(model.vae, model.bundle.transform, model.schema)
    with torch.no_grad():
        white.vae.likelihood.load_state_dict({k: torch.zeros_like(v) for k, v in white.vae.likelihood.state_dict().items()})
    draw_map(white, made, tmp_path / "grey.png", thumbnails=4)
    half = pixels_of(tmp_path / "grey.png")[:, picture.shape[1] // 2 :]
    middle = half[half.shape[0] // 4 : half.shape[0] // 2, half.shape[1] // 4 : half.shape[1] * 3 // 4]
    assert len(np.unique(middle.reshape(-1, 3), axis=0)) <= 16  # a decoder that says one thing gives faint and plain cells


def test_three_dimensions_are_three_planes(tmp_path):
    pytest.importorskip("matplotlib")
    draw_map(map_model(3).bundle, reduction(units=3), tmp_path / "map.png")
    picture = pixels_of(tmp_path / "map.png")
    assert picture.shape[1] > 2.5 * picture.shape[0]


def test_refusals_of_pictures(tmp_path):
    bundle = image_bundle()
    with pytest.raises(ConfigError, match=r"must end in \.png"):
        draw_map(bundle, reduction(), tmp_path / "map.svg")
    with pytest.raises(ConfigError, match="`thumbnails` must be >= 0"):
        draw_map(bundle, reduction(), tmp_path / "map.png", thumbnails=-1)
    with pytest.raises(DataError, match="found all at one"):
        draw_map(bundle, replace(reduction(), places=np.zeros((4, 2), np.float32)), tmp_path / "map.png")
    (tmp_path / "map.png").write_bytes(b"x")
    with pytest.raises(DataError, match="must not exist yet"):
        draw_map(map_model().bundle, reduction(), tmp_path / "map.png")
