"""Directions: what a name stands for, what is learned from examples, and how good that is."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from small_models import LATENTS, image_bundle, image_data, vector_bundle, vector_data
from text_models import text_bundle, text_data
from vaekit import storage
from vaekit.data import loading
from vaekit.data.dataset import Dataset
from vaekit.data.transforms import Standardize
from vaekit.directions import LearnedDirection, UnitDirection
from vaekit.errors import ConfigError, DataError
from vaekit.jobs.blocks import posterior_of
from vaekit.jobs.directions import _fit, check_free, learn, of_unit, remarks, separation_of
from vaekit.jobs.traverse import traverse
from vaekit.likelihoods import Normal
from vaekit.model import Model
from vaekit.networks import MLP
from vaekit.posteriors import VonMisesFisher
from vaekit.priors import MixtureOfNormals, UniformSphere
from vaekit.storage import Bundle
from vaekit.vae import VAE

ONES = torch.ones(4, dtype=torch.float64)


def sphere() -> Bundle:
    torch.manual_seed(0)
    vae = VAE(UniformSphere(3), VonMisesFisher(MLP(5, [8]), 3), Normal(MLP(3, [8]), [5]))
    return replace(vector_bundle(), vae=vae.eval())


def groups(num: int, difference: list[float], seed: int = 0, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    noise = torch.from_numpy(rng.normal(size=(2, num, len(difference)))) * scale
    return noise[0] + torch.tensor(difference, dtype=torch.float64), noise[1]


def test_a_unit_is_measured_on_the_prior_or_on_data():
    bundle, data = vector_bundle(), vector_data()
    assert of_unit(bundle, 2) == UnitDirection(unit=2, mean=0.0, scale=1.0, measured="prior")
    mean, scale = (part.double().numpy() for part in posterior_of(bundle, data))
    found = of_unit(bundle, 2, data)
    assert found.measured == "data"
    assert found.mean == pytest.approx(mean[:, 2].mean(), rel=1e-6)
    assert found.scale == pytest.approx(math.sqrt(mean[:, 2].var() + np.square(scale[:, 2]).mean()), rel=1e-6)
    prior = MixtureOfNormals(LATENTS, 2)
    with torch.no_grad():
        prior.means.copy_(torch.tensor([[3.0] * LATENTS, [5.0] * LATENTS]))
    wide = of_unit(replace(bundle, vae=VAE(prior, bundle.vae.posterior, bundle.vae.likelihood).eval()), 1)
    assert wide.mean == pytest.approx(4.0, abs=0.1)


def test_the_law_of_total_variance_is_that_of_samples(within_standard_errors):
    bundle, data = vector_bundle(), vector_data(4)
    found = of_unit(bundle, 0, data)
    mean, scale = (part[:, 0].double() for part in posterior_of(bundle, data))
    z = mean + scale * torch.randn(20_000, 4, dtype=torch.float64)
    within_standard_errors((z.flatten() - found.mean).square(), found.scale**2)


def test_which_names_may_be_given():
    bundle = replace(image_bundle(), directions={"slant": UnitDirection(unit=0)})
    for name, match in (
        ("label", "another than that of a column"),
        ("slant", "must be new, got 'slant', which is unit 0"),
        ("3", "no number"),
        ("-1.5", "no number"),
        ("", "must be a word"),
        ("a=b", "must be a word"),
        ("a" * 65, "at most 64"),
        (" a", "must be a word"),
        ("two\nlines", "must be a word"),
    ):
        with pytest.raises(ConfigError, match=match):
            check_free(bundle, name)
    check_free(bundle, "slant", force=True)
    check_free(bundle, "dark hair")


@pytest.mark.parametrize(("make", "unit", "match"), [(vector_bundle, 4, "from 0 to 3, got 4"), (vector_bundle, -1, "got -1")])
def test_units_that_are_not_there(make, unit, match):
    with pytest.raises(ConfigError, match=match):
        of_unit(make(), unit)


def test_the_step_is_the_difference_of_means_less_what_is_chance():
    have, lack = groups(6, [2.0, 0.3, 0.0, -1.0])
    fit = _fit(have, lack, torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=torch.float64))
    a, b = have.numpy(), lack.numpy()
    difference = a.mean(0) - b.mean(0)
    squares = ((a - a.mean(0)) ** 2).sum(0) + ((b - b.mean(0)) ** 2).sum(0)
    scale = np.array([1.0, 2.0, 0.5, 1.0])
    variance = (squares + 4 * scale**2 * (squares / scale**2 / 10).mean()) / (10 + 4)
    t = difference / np.sqrt(variance * (1 / 6 + 1 / 6))
    np.testing.assert_allclose(fit.step.numpy(), np.where(np.abs(t) > 1, difference * (1 - 1 / t**2), 0), rtol=1e-12)
    assert (fit.step == 0).any()
    assert float(fit.reader @ fit.step) == pytest.approx(1, abs=1e-12)
    half_way = torch.from_numpy(a.mean(0) + b.mean(0)) / 2
    assert float(fit.reader @ half_way) - fit.offset == pytest.approx(0.5, abs=1e-12)


def test_narrow_and_wide_discriminants_are_one():
    """The same C^-1 v from the covariance of the units and from the products of the examples."""
    from vaekit.jobs.directions import _solved

    for num, width in ((30, 7), (7, 30)):
        residuals = torch.randn(num, width, dtype=torch.float64)
        b, freedom = torch.randn(width, dtype=torch.float64), num - 2
        r = residuals.T @ residuals / freedom
        noise = float((residuals.square().sum(1) ** 2).sum()) / freedom**2 - float(r.square().sum()) / num
        share = min(1.0, max(0.02, noise / float((r - torch.eye(width)).square().sum())))
        full = (1 - share) * r + share * torch.eye(width)
        torch.testing.assert_close(_solved(residuals, b, freedom), torch.linalg.solve(full, b))


def test_of_many_examples_direction_discriminant_and_separation_are_the_closed_forms(linear_gaussian):
    """z ~ N(+-d/2, I), x = W z + b + noise: E q(z|x) = A x + a, so its groups differ by A W d and vary by A (W W' + s^2) A'."""
    world, num = linear_gaussian, 20_000
    d = torch.tensor([1.5, -0.5], dtype=torch.float64)
    vae = world.exact_vae()
    x = []
    for sign in (0.5, -0.5):
        z = torch.randn(num, 2, dtype=torch.float64) + sign * d
        x.append(z @ world.weight.T + world.bias + world.scale * torch.randn(num, 3, dtype=torch.float64))
    schema = loading.open(torch.cat(x).float().numpy()).schema
    bundle = Bundle(vae.float().eval(), Standardize(0.0, 1.0), schema)
    found = learn(bundle, [Dataset(schema, x[0].float().numpy())], [Dataset(schema, x[1].float().numpy())])
    gain, _, _ = world.exact_posterior()
    difference = gain @ world.weight @ d
    within = gain @ (world.weight @ world.weight.T + world.scale**2 * torch.eye(3, dtype=torch.float64)) @ gain.T
    torch.testing.assert_close(found.step(2), difference, rtol=0.05, atol=0.03)
    reader = torch.linalg.solve(within, difference)
    torch.testing.assert_close(found.reader(2), reader / (reader @ difference), rtol=0.08, atol=0.03)
    distance = math.sqrt(float(difference @ reader))
    expected = 0.5 * (1 + math.erf(distance / 2))
    error = math.sqrt(expected * (1 - expected) / 128)
    assert found.separation == pytest.approx(expected, abs=4 * error)
    assert found.num_pairs == 400


def test_fewer_examples_of_many_units_err_less_than_the_difference_and_the_discriminant():
    """Three of 64 units differ, and half of the units are hardly used, as in most models."""
    true = torch.zeros(64, dtype=torch.float64)
    true[:3] = 2 / math.sqrt(3)
    spread = torch.where(torch.arange(64) < 32, 0.9, 0.09).double()
    cosines = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        have, lack = (torch.from_numpy(rng.normal(size=(20, 64))) * spread for _ in range(2))
        fit = _fit(have + true, lack, torch.ones(64, dtype=torch.float64))
        plain = (have + true).mean(0) - lack.mean(0)
        cosines.append([float(torch.cosine_similarity(true, v, dim=0)) for v in (fit.step, plain, fit.reader)])
    garrote, plain, discriminant = np.mean(cosines, axis=0)
    assert garrote > plain + 0.05
    assert garrote > discriminant + 0.05


def test_separation_of_noise_is_chance_and_of_two_clusters_is_one():
    means = []
    for seed in range(30):
        have, lack = groups(5, [0.0] * 4, seed)
        means.append(separation_of(have, lack, ONES)[0])
    assert np.mean(means) == pytest.approx(0.5, abs=4 * np.std(means) / math.sqrt(30))
    assert separation_of(*groups(5, [30.0, 0, 0, 0]), ONES) == (1.0, 25)
    assert separation_of(*groups(1, [30.0, 0, 0, 0]), ONES) == (None, 0)
    assert separation_of(*groups(40, [30.0, 0, 0, 0]), ONES) == (1.0, 400)


def test_learned_of_data_against_draws_of_the_prior_and_from_one_pair():
    bundle, data = vector_bundle(), vector_data()
    with torch.no_grad():
        bundle.vae.posterior.head.linear.bias[1] += 5.0  # what is encoded stands far from the prior in unit 1
    found = learn(bundle, [data.select([0, 1]), data.select([2])], seed=3)
    assert (found.num_positive, found.num_negative, found.against) == (3, 1000, "prior")
    assert int(np.abs(found.vector).argmax()) == 1
    assert found.separation > 0.9
    assert learn(bundle, [data.select([0, 1, 2])], seed=3) == found
    z = posterior_of(bundle, data.select([0, 1, 2]))[0]
    assert float(found.position(z).mean()) > 0.5
    with pytest.raises(DataError, match="differ from those that have not by more than chance"):
        learn(bundle, [data.select([0])], [data.select([0])])


def test_what_a_person_should_know():
    learned = {"vector": (1.0,), "reading": (1.0,), "offset": 0.0}

    def said(separation, num):
        direction = LearnedDirection(**learned, num_positive=num, num_negative=90, separation=separation)
        return " ".join(remarks("smile", direction))

    assert "cannot be measured" in said(None, 1)
    assert "tells 60% of held-out pairs apart, where chance tells 50%" in said(0.6, 50)
    assert "learned from 3 examples" in said(0.95, 3)
    assert said(0.95, 50) == ""
    assert remarks("slant", UnitDirection(unit=0)) == []


def test_a_sphere_has_names_and_nothing_to_learn():
    assert of_unit(sphere(), 1) == UnitDirection(unit=1)
    with pytest.raises(ConfigError, match=r"must be real numbers to be added to, found sphere\(3\)"):
        learn(sphere(), [vector_data()])


def test_traversal_by_names():
    bundle, data = vector_bundle(), vector_data()
    model = Model(bundle)
    model.name("slant", 2)
    model.name("both", positive=data.select(np.arange(10)).raw() + 9, negative=data.select(np.arange(10, 20)).raw())
    step = model.directions["both"].step(4)
    grid = model.traverse(data, units=["both", 1, "slant", "3"], example=5, num_steps=3, reach=2.0)
    assert grid.units.tolist() == [-1, 1, 2, 3]
    assert grid.names == ("both", "", "slant", "")
    assert grid.labels == ["both", "z1", "z2 slant", "z3"]
    held = torch.from_numpy(model.encode(data).mean[5])
    moved = (held.double() + torch.tensor([-2.0, 0.0, 2.0])[:, None] * step).float()
    np.testing.assert_array_equal(grid.x[0], model.decode(moved.numpy(), draw="mean"))
    np.testing.assert_allclose(np.diff(grid.latents[0]), [2.0, 2.0], rtol=1e-5)
    plain = traverse(bundle, data, example=5, num_units=4, num_steps=3, reach=2.0)
    assert sorted(plain.units.tolist()) == [0, 1, 2, 3]
    for row, unit in ((1, 1), (2, 2), (3, 3)):
        at = plain.units.tolist().index(unit)
        np.testing.assert_array_equal(grid.x[row], plain.x[at])
        assert grid.table()[row]["kl"] == plain.table()[at]["kl"]
    assert plain.names == ("", "", "", "")  # the bundle has no names
    assert grid.table()[0] == {"unit": None, "name": "both", "kl": None}
    assert grid.table()[2]["name"] == "slant"
    for wrong, match in (("smile", "it has slant, both"), (4, "got 4"), (-1, "got -1")):
        with pytest.raises(ConfigError, match=match):
            model.traverse(units=[wrong])


def test_the_table_of_a_traversal_has_the_kl_of_each_unit():
    bundle, data = vector_bundle(), vector_data()
    mean, scale = (part.double() for part in posterior_of(bundle, data))
    kl = (0.5 * (mean.square() + scale.square() - 1) - scale.log()).mean(0).numpy()
    grid = traverse(bundle, data, num_units=4)
    np.testing.assert_allclose(grid.activity, kl[grid.units], rtol=1e-5)
    assert (np.diff(grid.activity) <= 0).all()
    assert grid.measure == "kl"
    assert traverse(bundle).measure == "change"


def test_a_conditional_model_is_ranked_by_the_kl_under_its_conditions():
    bundle, data = image_bundle(conditional=True), image_data()
    mean, scale = (part.double() for part in posterior_of(bundle, data))
    kl = (0.5 * (mean.square() + scale.square() - 1) - scale.log()).mean(0).numpy()
    grid = traverse(bundle, data, num_units=4, num_steps=2)
    assert grid.units.tolist() == np.argsort(-kl).tolist()
    np.testing.assert_allclose(grid.activity, np.sort(kl)[::-1], rtol=1e-4)


def test_text_has_directions():
    data = text_data()
    model = Model(text_bundle(data, conditional=False))
    model.name("long", 0)
    made = model.edit(data, {"long": 0.0})
    assert made.x.tolist() == list(model.reconstruct(data))
    assert made.methods == {"long": "direction"}


def test_names_are_saved_with_the_model(tmp_path):
    model = Model(vector_bundle())
    data = vector_data()
    model.name("slant", 3, data=data)
    model.name("high", positive=data.raw()[:9] + 5, negative=data.raw()[9:18])
    folder = model.save(tmp_path / "model")
    loaded = storage.load(folder)
    assert dict(loaded.directions) == dict(model.directions)
    assert list(loaded.directions) == ["slant", "high"]
    again = storage.unpack(*storage.pack(loaded))
    assert dict(again.directions) == dict(model.directions)
    assert Model(loaded).info()["directions"] == ["slant", "high"]
    with pytest.raises(ConfigError, match="must be new"):
        model.name("slant", 2)
    model.name("slant", 2, force=True)
    model.unname("high")
    assert dict(model.directions) == {"slant": UnitDirection(unit=2)}
    with pytest.raises(ConfigError, match="must have a direction 'high', it has slant"):
        model.unname("high")
    assert dict(model.refit_prior(data, components=1).directions) == {"slant": UnitDirection(unit=2)}
    for how in ({}, {"unit": 1, "positive": data.raw()}, {"negative": data.raw()}, {"positive": data.raw(), "data": data}):
        with pytest.raises(ConfigError, match="must be given a unit|must come with a unit"):
            model.name("new", **how)
