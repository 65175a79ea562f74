"""Maps of where images are strange."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vaekit
from small_models import image_bundle, image_data, vector_bundle, vector_data
from vaekit.data import loading
from vaekit.data.transforms import Standardize
from vaekit.errors import ConfigError, DataError
from vaekit.jobs.anomaly_maps import AnomalyMaps, anomaly_maps, write_maps
from vaekit.likelihoods import Normal
from vaekit.model import Model
from vaekit.networks import MLP
from vaekit.posteriors import DiagonalNormal
from vaekit.priors import StandardNormal
from vaekit.storage import Bundle
from vaekit.vae import VAE


def waves(num: int, seed: int) -> np.ndarray:
    """Images of one direction and phase each, 8 x 8 of 16 levels."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:8, :8]
    angle, phase = rng.uniform(0, np.pi, (num, 1, 1)), rng.uniform(0, 2 * np.pi, (num, 1, 1))
    wave = np.sin(0.5 * (row * np.cos(angle) + column * np.sin(angle)) + phase)
    return np.rint(7.5 + 7 * wave + rng.normal(0, 0.3, (num, 8, 8))).clip(0, 15).astype(np.uint8)


@pytest.fixture(scope="module")
def trained() -> vaekit.Model:
    how = {
        "steps": 400,
        "learning_rate": 3e-3,
        "batch_size": 64,
        "precision": "float32",
        "display": "quiet",
        "data_options": {"levels": 16},
    }
    return vaekit.train(waves(1000, 0), latent=8, **how)


def test_the_map_points_at_a_defect_that_was_planted(trained, tmp_path):
    x = waves(60, 1)
    places = np.random.default_rng(2).integers(0, 6, (20, 2))
    inside = np.zeros((20, 8, 8), bool)
    for index, (row, column) in enumerate(places):
        part = x[index, row : row + 3, column : column + 3]
        part[:] = np.where(part > 7, 0, 15)
        inside[index, row : row + 3, column : column + 3] = True
    scores = trained.score(x)
    assert set(np.argsort(-scores.anomaly)[:20]) == set(range(20))
    found = trained.anomaly_maps(x, np.arange(20))
    at = found.deviations.reshape(20, -1).argmax(1)
    hits = inside.reshape(20, -1)[np.arange(20), at]
    assert hits.mean() >= 0.9
    assert found.deviations[inside].mean() > 3 * found.deviations[~inside].mean()
    np.testing.assert_array_equal(found.x, x[:20])
    strangest = trained.anomaly_maps(x, num=5)
    np.testing.assert_array_equal(strangest.rows, np.argsort(-scores.anomaly, kind="stable")[:5])
    normal = trained.anomaly_maps(x, np.arange(20, 60))
    assert normal.deviations.mean() < 1.3  # standard deviations: of what is normal, about one at most


def test_deviations_are_those_of_the_posterior_predictive():
    bundle, data = image_bundle(), image_data(3)
    found = anomaly_maps(bundle, data, np.array([2, 0]), num_samples=4000)
    x = torch.from_numpy(data.stored([2, 0]).astype(np.float64))
    torch.manual_seed(0)
    with torch.inference_mode():
        trace = bundle.vae(x.float(), num_samples=6000)
        draws = trace.likelihood.sample().double()
    mean, variance = draws.mean(0), draws.var(0)
    usual = 0.5 * (variance + variance.mean((1, 2, 3), keepdim=True))
    expected = ((x - mean).abs() / usual.sqrt())[:, 0]
    np.testing.assert_allclose(found.deviations, expected, atol=0.1)
    np.testing.assert_array_equal(found.rows, [2, 0])
    assert found.expected.shape == found.x.shape == (2, 6, 5)
    np.testing.assert_array_equal(found.x, data.raw()[[2, 0]])
    np.testing.assert_array_equal(anomaly_maps(bundle, data, np.array([0]), seed=1).rows, [0])


def test_missing_pixels_are_not_strange():
    torch.manual_seed(0)
    likelihood = Normal(MLP(2, [4]), [1, 6, 5])
    vae = VAE(StandardNormal(2), DiagonalNormal(MLP([1, 6, 5], [4]), 2), likelihood)
    x = np.random.default_rng(0).normal(size=(4, 6, 5)).astype(np.float32)
    x[1, 2, 3] = np.nan
    data = loading.open(x, kind="images", missing="nan")
    found = anomaly_maps(Bundle(vae.eval(), Standardize(0.0, 1.0), data.schema), data, np.arange(4))
    assert found.deviations[1, 2, 3] == 0.0
    assert np.isfinite(found.deviations).all()
    assert (found.deviations > 0).sum() == 4 * 30 - 1


def test_pictures_show_the_image_what_is_expected_and_the_map(tmp_path):
    cv2 = pytest.importorskip("cv2")
    x = image_data(2).raw()
    maps = AnomalyMaps(np.array([7, 3]), np.zeros((2, 6, 5), np.float32), x, x)
    maps.deviations[0, 1, 2], maps.deviations[0, 0, 0], maps.deviations[0, 0, 1] = 6.0, 2.0, 4.0
    write_maps(maps, image_data().schema, tmp_path / "maps")
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert names == ["000-example-00007.png", "001-example-00003.png"]
    picture = cv2.imread(str(tmp_path / "maps" / names[0]))[..., ::-1]
    zoom = picture.shape[0] // 6
    assert picture.shape == (6 * zoom, (3 * 5 + 2 * 2) * zoom, 3)
    small = picture[::zoom, ::zoom]
    np.testing.assert_array_equal(small[:, :5], np.rint(x[0][..., None] * 17).repeat(3, 2))
    np.testing.assert_array_equal(small[:, 7:12], small[:, :5])
    assert small[1, 14 + 2].tolist() == [255, 255, 255]
    assert small[0, 14].tolist() == [255, 0, 0]
    assert small[0, 15].tolist() == [255, 255, 0]
    assert small[5, 18].tolist() == [0, 0, 0]
    with pytest.raises(DataError, match="must not exist yet"):
        write_maps(maps, image_data().schema, tmp_path / "maps")


def test_refusals():
    with pytest.raises(ConfigError, match="must be of images"):
        Model(vector_bundle()).anomaly_maps(vector_data(), [0])
    with pytest.raises(ConfigError, match="`num_samples` must be at least 2"):
        anomaly_maps(image_bundle(), image_data(), np.array([0]), num_samples=1)
