"""Anomaly scores: tails, the code of images, the reference, and what they say of plain images."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import vaekit
from small_models import image_bundle, image_data, vector_bundle, vector_data
from vaekit import storage
from vaekit.data import loading
from vaekit.errors import ConfigError, DataError, ModelFormatError
from vaekit.inference import prepare
from vaekit.jobs.anomaly import (
    Reference,
    Tail,
    code_length,
    complexity,
    density_of,
    reconstruction_error,
    reference_of,
    stored_reference,
    with_reference,
)
from vaekit.jobs.latent_density import LatentDensity
from vaekit.jobs.score import score
from vaekit.model import Model

# ------------------------------------------------------------------------------------------------------------------- tails


@pytest.mark.parametrize("num", [20, 150, 200])
def test_shares_of_a_sample_are_its_ranks(num):
    sample = np.random.default_rng(0).normal(size=num)
    shares = np.exp(-Tail.of(sample).upper(np.sort(sample)))
    np.testing.assert_allclose(shares, 1 - np.arange(1, num + 1) / (num + 1))
    np.testing.assert_allclose(np.exp(-Tail.of(sample).lower(np.sort(sample))), np.arange(1, num + 1) / (num + 1))


def test_shares_of_new_numbers_are_uniform_though_few_places_are_kept():
    rng = np.random.default_rng(1)
    tail = Tail.of(rng.normal(size=5000))
    assert len(tail.values) <= 200
    new = rng.normal(size=4000)
    for shares in (np.exp(-tail.upper(new)), np.exp(-tail.lower(new)), np.exp(-tail.both(new))):
        assert stats.kstest(shares, "uniform").statistic < 0.035
    np.testing.assert_allclose(np.exp(-tail.upper(new)), stats.norm.sf(new), atol=0.03)


def test_beyond_the_sample_an_exponential_goes_on():
    tail = Tail.of(np.random.default_rng(2).exponential(size=2000))
    far = np.array([10.0, 15.0, 20.0])
    np.testing.assert_allclose(tail.upper(far), far, rtol=0.15)
    assert (np.diff(tail.upper(np.linspace(-1, 30, 500))) >= 0).all()
    assert tail.upper(np.array([-1.0])) == 0.0
    np.testing.assert_allclose(tail.both(np.array([20.0])), tail.upper(np.array([20.0])) - math.log(2))


def test_of_equal_numbers_all_are_as_great_as_the_first():
    tail = Tail.of(np.repeat([0.0, 1.0], [15, 5]))
    np.testing.assert_allclose(np.exp(-tail.upper(np.array([0.0, 1.0]))), [20 / 21, 5 / 21])
    np.testing.assert_allclose(np.exp(-tail.lower(np.array([0.0, 1.0]))), [15 / 21, 20 / 21])
    assert tail.upper(np.array([1.0001])) > math.log(21) - 1e-9
    flat = Tail.of(np.zeros(30))
    assert math.isfinite(flat.upper(np.array([1.0])).item())


def test_a_tail_is_the_same_from_json():
    tail = Tail.of(np.random.default_rng(0).normal(size=500))
    again = Tail.from_json(tail.to_json())
    x = np.linspace(-5, 5, 50)
    np.testing.assert_allclose(again.upper(x), tail.upper(x), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- code length


def test_the_code_of_images_is_one():
    images = np.array(list(itertools.product(range(3), repeat=4))).reshape(-1, 1, 2, 2)
    assert np.exp(-code_length(images, 3)).sum() == pytest.approx(1.0)
    colours = np.array(list(itertools.product(range(2), repeat=6))).reshape(-1, 3, 1, 2)
    total = np.exp(-code_length(colours, 2)).sum()
    assert 0.5 < total <= 1.0


def test_the_length_is_that_of_an_adaptive_code_of_what_is_not_predicted():
    image = np.array([[3, 4, 5], [3, 3, 4], [1, 2, 5]])
    # the greater of left and above, the lesser, or where the corner is between, left + above - corner
    predicted = np.array([[0, 3, 4], [3, 4, 4], [3, 1, 3]])
    counts, nats = np.zeros(6), 0.0
    for symbol in ((image - predicted) % 6).ravel():
        nats -= math.log((counts[symbol] + 0.1) / (counts.sum() + 0.6))
        counts[symbol] += 1
    assert code_length(image[None, None], 6).item() == pytest.approx(nats)


def test_channels_that_go_together_are_shorter():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 16, (1, 1, 8, 8))
    other = rng.integers(0, 16, (1, 1, 8, 8))
    assert code_length(np.concatenate([one, one], 1), 16) < code_length(np.concatenate([one, other], 1), 16) - 50
    alone = code_length(one, 16) + code_length(other, 16)
    np.testing.assert_allclose(code_length(np.concatenate([one, other], 1), 16), alone + math.log(2), atol=12)


def test_complexity_is_of_what_the_model_sees():
    data = image_data(10)
    np.testing.assert_allclose(complexity(image_bundle(), data), code_length(data.stored().astype(int), 16))
    binary = (data.stored() >= 8).astype(int)
    np.testing.assert_allclose(complexity(image_bundle(binarize=True), data), code_length(binary, 2))


# ------------------------------------------------------------------------------------------------------ density of latents


def test_the_mixture_finds_the_density_that_latents_were_drawn_from():
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 4.0], [4.0, 0.0], [-4.0, -4.0]])
    draws = centres[rng.integers(0, 3, 6000)] + rng.normal(size=(6000, 2))
    density = LatentDensity.of(draws[:3000], components=3)
    new = draws[3000:]
    exact = -np.log(np.mean([stats.multivariate_normal(centre).pdf(new) for centre in centres], axis=0))
    np.testing.assert_allclose(density.surprise(new).mean(), exact.mean(), atol=0.03)
    assert np.corrcoef(density.surprise(new), exact)[0, 1] > 0.98
    again = LatentDensity.from_json(density.to_json())
    np.testing.assert_allclose(again.surprise(new), density.surprise(new), rtol=1e-3)


def test_one_normal_is_fitted_exactly_in_the_principal_directions():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 20)) + 5
    density = LatentDensity.of(x, components=1)
    assert density.directions.shape == (3, 20)
    inside = (x - x.mean(0)) @ density.directions.T
    covariance = np.cov(inside.T, bias=True) + 0.01 * inside.var(0).mean() * np.eye(3)
    expected = -stats.multivariate_normal(np.zeros(3), covariance).logpdf(inside)
    np.testing.assert_allclose(density.surprise(x), expected, rtol=1e-6)
    assert LatentDensity.of(rng.normal(size=(50, 40))).directions.shape == (16, 40)
    assert np.isfinite(LatentDensity.of(np.zeros((30, 4))).surprise(np.ones((2, 4)))).all()


# -------------------------------------------------------------------------------------------------------- scores of a model


def images(num: int, seed: int):
    return loading.open(np.random.default_rng(seed).integers(0, 16, (num, 6, 5), dtype=np.uint8), levels=16)


def test_the_reconstruction_error_is_the_mean_square_in_the_units_of_the_model():
    bundle, data = vector_bundle(), vector_data(20)
    x = prepare(bundle, data.batch(np.arange(20))).x
    with torch.inference_mode():
        mean = bundle.vae.decode_flat(bundle.vae.encode_flat(x)[0][None]).mean[0]
    np.testing.assert_allclose(reconstruction_error(bundle, data), (x - mean).square().mean(1).log().numpy(), rtol=1e-4)
    holes = vector_data(20).raw()
    holes[3, 1:] = np.nan
    found = reconstruction_error(bundle, loading.open(holes, missing="nan"))
    with torch.inference_mode():
        seen = torch.ones(20, 5, dtype=torch.bool)
        seen[3, 1:] = False
        mean = bundle.vae.decode_flat(bundle.vae.encode_flat(x, mask=seen)[0][None]).mean[0]
    assert found[3] == pytest.approx((x[3, 0] - mean[3, 0]).square().log().item(), rel=1e-3)


@pytest.mark.parametrize(("bundle", "data"), [(image_bundle(), images), (vector_bundle(), vector_data)])
def test_shares_of_normal_examples_are_uniform(bundle, data):
    reference = reference_of(bundle, data(400, seed=1))
    assert (reference.num_examples, reference.density is None) == (200, False)  # the other half told how dense latents lie
    every_other = data(400, seed=1).select(np.arange(0, 400, 2))
    own = score(bundle, every_other, num_samples=4, reference=reference)
    assert stats.kstest(np.exp(-own.anomaly), "uniform").pvalue > 0.05
    new = score(bundle, data(400, seed=2), num_samples=16, reference=reference)
    for name, part in {"anomaly": new.anomaly, **new.parts}.items():
        assert stats.kstest(np.exp(-part), "uniform").statistic < 0.15, name  # the reference is a draw of 200 as well
    assert np.mean(new.anomaly > math.log(20)) < 0.1


def test_the_anomaly_is_the_sum_of_two_parts_in_the_order_of_the_reference():
    bundle, data = image_bundle(), images(100, 3)
    found = score(bundle, data, reference=images(200, 4))
    total = found.parts["excess"] + found.parts["reconstruction"] + found.parts["density"]
    order = np.argsort(total)
    assert (np.diff(found.anomaly[order]) >= -1e-12).all()
    assert set(found.parts) == {"surprise", "excess", "reconstruction", "density", "typicality", "rate"}
    table = found.to_columns()
    np.testing.assert_array_equal(table["anomaly_excess"], found.parts["excess"])
    vectors = score(vector_bundle(), vector_data(50, 1), reference=vector_data(60, 2))
    assert set(vectors.parts) == {"surprise", "reconstruction", "typicality", "rate"}
    total = vectors.parts["surprise"] + vectors.parts["reconstruction"]
    assert (np.diff(vectors.anomaly[np.argsort(total)]) >= -1e-12).all()


def test_plain_images_are_likely_and_strange_all_the_same():
    bundle, normal = image_bundle(), images(300, 5)
    every = loading.open(np.full((16, 6, 5), np.arange(16, dtype=np.uint8)[:, None, None]), levels=16)
    likely = np.argsort(-score(bundle, every).log_likelihood)[:2]  # the model knows no pixel from another
    found = score(bundle, every.select(likely), reference=normal)
    assert found.log_likelihood.min() > score(bundle, normal).log_likelihood.mean() + 50
    assert found.parts["surprise"].max() < math.log(20)
    assert found.parts["excess"].min() > math.log(150)
    assert found.anomaly.min() > math.log(20)


def test_without_a_reference_the_anomaly_is_the_surprise_and_a_note_says_so():
    found = score(image_bundle(), images(10, 0))
    np.testing.assert_array_equal(found.anomaly, -found.log_likelihood)
    assert found.parts == {}
    assert "no reference was stored" in found.notes[0]


def test_conditions_that_the_reference_had_are_missed():
    bundle, data = image_bundle(conditional=True), image_data(60)
    reference = reference_of(bundle, data)
    assert reference.conditions == ("label",)
    assert score(bundle, data, reference=reference).notes == ()
    found = score(bundle, replace(data, columns={}), reference=reference)
    assert "The reference had label" in found.notes[0]


# -------------------------------------------------------------------------------------------------------- what is stored


def test_a_stored_reference_scores_as_the_data_that_it_was_made_of(tmp_path):
    bundle, normal, new = image_bundle(), images(100, 6), images(30, 7)
    kept = with_reference(bundle, images(150, 16), normal)
    storage.save(kept, tmp_path / "model")
    assert (tmp_path / "model" / "vaekit.json").stat().st_size < 50_000
    again = storage.load(tmp_path / "model")
    found = stored_reference(again)
    assert isinstance(found, Reference)
    assert (found.num_examples, found.source) == (100, "examples that training held out")
    expected = score(bundle, new, reference=reference_of(bundle, normal, density=density_of(bundle, images(150, 16))))
    np.testing.assert_allclose(score(again, new).anomaly, expected.anomaly, rtol=1e-3, atol=1e-4)


def test_a_damaged_reference_is_refused():
    kept = with_reference(image_bundle(), images(60, 0), images(60, 1))
    record = {name: value for name, value in kept.training["reference"].items() if name != "tails"}
    with pytest.raises(ModelFormatError, match="under `reference` must be what training wrote"):
        score(replace(kept, training={"reference": record}), images(5, 2))


def test_nothing_is_stored_of_few_or_of_private_examples():
    bundle = image_bundle()
    assert stored_reference(with_reference(bundle, images(60, 1), images(19, 0))) is None
    private = replace(bundle, training={"privacy": {"epsilon": 1.0}})
    assert stored_reference(with_reference(private, images(60, 1), images(100, 0))) is None
    # what was stored of another prior does not stay
    assert (
        stored_reference(with_reference(with_reference(bundle, images(60, 1), images(60, 0)), images(60, 1), images(3, 0)))
        is None
    )


def test_training_stores_what_it_held_out_and_a_new_prior_has_its_own(tmp_path):
    x = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32) @ np.diag([1.0, 2.0, 3.0]).astype(np.float32)
    model = vaekit.train(x, tmp_path / "m", latent=2, steps=20, precision="float32", display="quiet")
    found = stored_reference(storage.load(tmp_path / "m"))
    assert found is not None
    assert found.num_examples == model.info()["training"]["num_validation_examples"]
    scores = model.score(x + 30, split="all")
    assert scores.anomaly.min() > math.log(200)
    assert scores.notes == ()
    other = model.refit_prior(x, components=2)
    again = stored_reference(other.bundle)
    assert again is not None
    assert again.to_json() != found.to_json()


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [(images(19, 0), DataError, "at least 20 examples, found 19")],
)
def test_refusals(data, error, words):
    with pytest.raises(error, match=words):
        Model(image_bundle()).score(images(5, 0), reference=data)


def test_a_table_takes_no_reference():
    polars = pytest.importorskip("polars")
    table = polars.DataFrame({"a": np.arange(60.0) ** 2, "b": np.arange(60) % 3})
    model = vaekit.train(table, steps=2, display="quiet", precision="float32")
    assert stored_reference(model.bundle) is None
    with pytest.raises(ConfigError, match="images or vectors, the model is one of table"):
        model.score(table, reference=table)
