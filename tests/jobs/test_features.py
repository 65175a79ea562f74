"""Features: which units, whitening, levels of a ladder, and that no label leaks into them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from small_models import LATENTS, image_bundle, image_data, shaken, vector_bundle, vector_data
from vaekit.data import loading
from vaekit.data.transforms import Levels
from vaekit.errors import ConfigError, DataError
from vaekit.jobs.encode import encode
from vaekit.jobs.features import features
from vaekit.likelihoods import DiscretizedLogisticMixture
from vaekit.model import Model
from vaekit.networks import ConvLadder, Tail
from vaekit.posteriors import VonMisesFisher
from vaekit.priors import UniformSphere
from vaekit.storage import Bundle
from vaekit.vae import VAE, HierarchicalVAE

SHAPES = ((8, 1, 1), (8, 2, 1), (8, 3, 3))


def wide(bundle: Bundle, factor: float = 30.0) -> Bundle:
    """The model with posterior means that spread, as those of a trained one."""
    with torch.no_grad():
        bundle.vae.posterior.head.linear.weight[:LATENTS] *= factor
    return bundle


def ladder() -> Bundle:
    torch.manual_seed(1)
    networks = ConvLadder([1, 6, 5], [8, 8, 8], [1, 1, 1], 2, input_range=[0.0, 15.0])
    likelihood = DiscretizedLogisticMixture(Tail(networks.out_shape), [1, 6, 5], levels=16, num_components=2)
    vae = shaken(HierarchicalVAE(networks, likelihood), 0.3)
    return Bundle(vae.eval(), Levels(), image_data().schema)


def leaking() -> Bundle:
    """A conditional model whose posterior holds the label and nothing of the image."""
    bundle = wide(image_bundle(conditional=True))
    with torch.no_grad():
        bundle.vae.posterior.network.layers[0][0].weight[:, :30] = 0.0
    return bundle


def labelled(num: int = 240):
    x = image_data(num, seed=3).raw()
    return loading.open(x, y=np.random.default_rng(0).choice(3, num, p=[0.5, 0.3, 0.2]), levels=16)


# ---------------------------------------------------------------------------------------------------------------- whitening


def test_whitened_features_have_mean_0_and_the_identity_as_covariance():
    bundle, data = wide(vector_bundle()), vector_data(400)
    plain = features(bundle, data, kind="means").x.astype(np.float64)
    assert np.abs(np.corrcoef(plain.T) - np.eye(LATENTS)).max() > 0.3
    found = features(bundle, data, kind="whitened")
    assert found.names == ("w0", "w1", "w2", "w3")
    x = found.x.astype(np.float64)
    np.testing.assert_allclose(x.mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(x.T @ x / len(x), np.eye(LATENTS), atol=1e-4)
    assert "Whitened by the mean and covariance of these data" in found.notes[0]
    # symmetric: of all rotations of white features, the one that stays nearest to the standardised units
    nearest = np.trace(x.T @ ((plain - plain.mean(0)) / plain.std(0)))
    turned, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(LATENTS, LATENTS)))
    assert nearest > np.trace((x @ turned).T @ ((plain - plain.mean(0)) / plain.std(0)))


def test_statistics_of_the_training_part_serve_the_other():
    bundle, data = wide(vector_bundle()), vector_data(300)
    train, test = data.select(np.arange(200)), data.select(np.arange(200, 300))
    first = features(bundle, train, kind="whitened")
    second = features(bundle, test, like=first)
    mean, other = encode(bundle, train).mean.astype(np.float64), encode(bundle, test).mean.astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(mean.T, bias=True))
    expected = (other - mean.mean(0)) @ (vectors @ np.diag(values**-0.5) @ vectors.T)
    np.testing.assert_allclose(second.x, expected, rtol=1e-4, atol=1e-4)
    assert second.notes == ()
    assert second.kind == "whitened"
    np.testing.assert_array_equal(second.x, features(bundle, test, kind="whitened", like=train).x)
    # a row is the same in any company
    np.testing.assert_array_equal(second.x[7:9], features(bundle, test.select([7, 8]), like=first).x)


def test_directions_without_variance_stay_out_of_whitened_features():
    bundle = wide(vector_bundle())
    head = bundle.vae.posterior.head.linear
    with torch.no_grad():
        head.weight[1] = 2.0 * head.weight[0]
    x = features(bundle, vector_data(300), kind="whitened").x
    covariance = np.cov(x.T.astype(np.float64), bias=True)
    np.testing.assert_allclose(covariance @ covariance, covariance, atol=1e-3)
    assert np.trace(covariance) == pytest.approx(LATENTS - 1, abs=1e-3)


# -------------------------------------------------------------------------------------------------------------------- units


def test_means_are_those_of_the_units_that_vary():
    bundle, data = wide(vector_bundle()), vector_data(100)
    with torch.no_grad():
        bundle.vae.posterior.head.linear.weight[2] = 0.0
    found = features(bundle, data)
    assert (found.kind, found.names) == ("means", ("z0", "z1", "z3"))
    np.testing.assert_array_equal(found.x, encode(bundle, data).mean[:, [0, 1, 3]])
    assert list(found.to_columns()) == ["index", "z0", "z1", "z3"]


def test_scales_stand_beside_the_means():
    bundle, data = wide(vector_bundle()), vector_data(50)
    found, whole = features(bundle, data, kind="scales"), encode(bundle, data)
    np.testing.assert_allclose(found.x, np.concatenate([whole.mean, np.log(whole.scale)], axis=1), rtol=1e-5)
    assert found.names == ("z0", "z1", "z2", "z3", "scale0", "scale1", "scale2", "scale3")


def test_a_latent_that_is_not_used_is_said_to_be_none():
    bundle = vector_bundle()
    with torch.no_grad():
        bundle.vae.posterior.head.linear.weight[:LATENTS] = 0.0
    found = features(bundle, vector_data(60))
    assert found.x.shape == (60, LATENTS)
    assert "not used" in found.notes[0]


def test_points_of_a_sphere_are_used_however_little_each_number_varies():
    torch.manual_seed(0)
    bundle = vector_bundle()
    network = bundle.vae.posterior.network
    vae = VAE(UniformSphere(200), VonMisesFisher(network, 200), type(bundle.vae.likelihood)(network.__class__(200, [8]), [5]))
    found = features(replace(bundle, vae=vae.eval()), vector_data(60))
    assert found.x.shape == (60, 200)
    assert np.median(found.x.var(0)) < 0.005
    assert found.notes == ()


# ------------------------------------------------------------------------------------------------------------------- levels


def test_levels_of_a_ladder_are_averaged_or_chosen():
    bundle, data = ladder(), image_data(40)
    whole = encode(bundle, data).mean
    shapes = [tuple(shape) for shape in bundle.vae.ladder.latent_shapes]
    ends = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])
    found = features(bundle, data, kind="levels")
    expected = [whole[:, a:b].reshape(40, shape[0], -1).mean(2) for a, b, shape in zip(ends, ends[1:], shapes, strict=False)]
    np.testing.assert_allclose(found.x, np.concatenate(expected, axis=1), rtol=1e-5, atol=1e-6)
    assert found.names[0] == "level0_0"
    assert found.names[-1] == f"level{len(shapes) - 1}_{shapes[-1][0] - 1}"
    last = features(bundle, data, kind="levels", level=[len(shapes) - 1])
    np.testing.assert_allclose(last.x, expected[-1], rtol=1e-5, atol=1e-6)
    units = features(bundle, data, kind="means", level=[1]).statistics.units
    assert len(units) > 0
    assert ends[1] <= units.min() <= units.max() < ends[2]
    np.testing.assert_array_equal(features(bundle, data, kind="means", level=[1]).x, whole[:, units])


# --------------------------------------------------------------------------------------------------------------- conditions


def test_labels_that_a_model_is_conditioned_on_do_not_leak():
    bundle, data = leaking(), labelled()
    codes = data.columns["label"]
    told = encode(bundle, data).mean  # under its own label: a class is a point
    assert all(np.ptp(told[codes == code], axis=0).max() < 1e-5 for code in range(3))
    assert np.ptp(told, axis=0).max() > 0.1
    found = features(bundle, data)
    assert np.ptp(found.x, axis=0).max() == 0.0
    assert "no share of `label` was made unknown" in found.notes[-1]
    assert set(found.columns) == {"label"}
    np.testing.assert_array_equal(found.x, features(bundle, replace(data, columns={})).x)


def test_the_probe_of_latents_that_ignore_the_data_has_the_accuracy_of_the_commonest_label():
    bundle, data = leaking(), labelled()
    (found,) = Model(bundle).evaluate(data, num_samples=1).probes
    assert found.column == "label"
    assert found.accuracy == found.majority == pytest.approx(np.mean(data.columns["label"] == 0))
    assert found.knn_accuracy < found.majority + 0.05
    neighbours = Model(bundle).evaluate_map(data).knn_accuracy
    assert neighbours is not None
    assert neighbours < found.majority + 0.05


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"kind": "best"}, ConfigError, "`kind` must be one of auto, means"),
        ({"kind": "levels"}, ConfigError, "a ladder"),
        ({"level": [0]}, ConfigError, "a ladder"),
    ],
)
def test_refusals(how, error, words):
    with pytest.raises(error, match=words):
        features(vector_bundle(), vector_data(), **how)


def test_refusals_of_levels_and_of_other_models():
    with pytest.raises(ConfigError, match="`level` must be from 0 to"):
        features(ladder(), image_data(), level=[9])
    with pytest.raises(ConfigError, match="of the same model"):
        features(vector_bundle(), vector_data(), like=features(ladder(), image_data(60), kind="means"))
    with pytest.raises(ConfigError, match="got means for scales"):
        features(vector_bundle(), vector_data(), kind="scales", like=features(vector_bundle(), vector_data(), kind="means"))
    with pytest.raises(DataError, match="at least two examples"):
        features(vector_bundle(), vector_data(1), kind="whitened")
