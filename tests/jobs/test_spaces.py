"""Latents that are no real numbers of scale 1: moved, joined and read within their own space."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from small_models import image_bundle, vector_bundle, vector_data
from vaekit import posteriors, priors, storage
from vaekit.cli.main import run
from vaekit.data.transforms import Standardize
from vaekit.data.writing import write_table
from vaekit.distributions import diagonal_normal
from vaekit.distributions.hyperbolic import WrappedNormal
from vaekit.errors import ConfigError, DataError
from vaekit.jobs import spaces
from vaekit.jobs.encode import decode, encode, read_latents
from vaekit.jobs.interpolate import interpolate
from vaekit.jobs.reconstruct import reconstruct
from vaekit.jobs.score import score
from vaekit.jobs.traverse import traverse
from vaekit.likelihoods import Normal
from vaekit.networks import MLP
from vaekit.storage import Bundle
from vaekit.vae import VAE


def model(prior, posterior):
    torch.manual_seed(4)
    vae = VAE(prior, posterior, Normal(MLP(math.prod(prior.shape), [16]), [5]))
    return Bundle(vae.eval(), Standardize(2.0, 3.0), vector_data().schema)


def net():
    return MLP(5, [16])


CURVATURE = 2.0


def gamma():
    return model(priors.Gamma(2, concentration=2.0, rate=0.5), posteriors.Gamma(net(), 2))


def sphere(num=3):
    return model(priors.UniformSphere(num), posteriors.VonMisesFisher(net(), num))


def ball():
    return model(priors.WrappedNormal(2, CURVATURE, scale=0.7), posteriors.WrappedNormal(net(), 2, CURVATURE))


def codes():
    return model(priors.UniformCodes(6, 5, 3), posteriors.VectorQuantized(net(), 5, 2, 3))


def categories():
    return model(priors.UniformCodes(6, 3, 2), posteriors.GumbelSoftmax(net(), 3, 2))


def normal():
    return model(priors.StandardNormal(2), posteriors.DiagonalNormal(net(), 2))


def joint():
    p = priors.Joint([priors.StandardNormal(2), priors.UniformCodes(3, 3, 1), priors.UniformSphere(2), priors.UniformSphere(2)])
    q = [posteriors.DiagonalNormal(net(), 2), posteriors.GumbelSoftmax(net(), 3, 1)]
    return model(p, posteriors.Joint([*q, posteriors.VonMisesFisher(net(), 2), posteriors.VonMisesFisher(net(), 2)]))


@pytest.fixture
def decodes(monkeypatch):
    """The latents that are decoded, each (N, D)."""
    seen = []
    own = VAE.decode_flat

    def recorded(self, z, condition=None):
        seen.append(z.reshape(-1, z.shape[-1]))
        return own(self, z, condition)

    monkeypatch.setattr(VAE, "decode_flat", recorded)
    return seen


def moved(decodes, grid):
    """(U, S, D): the latents of a grid, which fit a block."""
    num = grid.values.size * grid.units.size
    return decodes[-1][:num].reshape(grid.units.size, grid.values.size, -1)


def test_the_space_of_a_latent_is_a_product_of_factors():
    found = [(f.kind, f.start, f.stop) for f in spaces.factors_of(joint().vae)]
    assert found == [("real", 0, 2), ("codes", 2, 5), ("sphere", 5, 7), ("sphere", 7, 9)]
    assert [(f.kind, f.stop, f.curvature) for f in spaces.factors_of(ball().vae)] == [("ball", 2, CURVATURE)]


@pytest.mark.parametrize("make", [normal, gamma, sphere, ball, joint, codes, categories])
def test_what_a_model_encodes_and_draws_is_inside(make):
    bundle, data = make(), vector_data()
    rebuilt = decode(bundle, encode(bundle, data).mean, draw="mean")
    np.testing.assert_array_equal(rebuilt, reconstruct(bundle, data))
    torch.manual_seed(0)
    decode(bundle, bundle.vae.sample_prior(600)[0].numpy())


@pytest.mark.parametrize(
    ("make", "z", "said"),
    [
        (gamma, [1.0, -0.5], "must be positive, found -0.5 in row 1"),
        (sphere, [0.6, 0.8, 0.1], "of length 1, found 1.00499 in row 1"),
        (ball, [0.5, 0.5001], "of length below 0.707107, found 0.70717"),
        (codes, [0.0, 0.0, 0.0, 0.0, 0.0, 9.0], "must be vectors of its codes, found one of no code in row 1"),
        (categories, [1.0, 0.0, 0.0, 0.5, 0.4, 0.0], "must be vectors of its codes"),
        (joint, [9.0, 9.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0], "Latents z7 to z8 of this model must be a point on the sphere"),
        (joint, [9.0, 9.0, 0.0, 2.0, -1.0, 1.0, 0.0, 1.0, 0.0], "Latents z2 to z4 of this model must be vectors"),
    ],
)
def test_latents_outside_are_refused_in_one_sentence(make, z, said):
    bundle = make()
    inside = encode(bundle, vector_data().select([0])).mean
    with pytest.raises(DataError, match=said) as caught:
        decode(bundle, np.concatenate([inside, [z]]))
    assert "\n" not in str(caught.value)
    decode(bundle, np.concatenate([inside, inside * (1 + 2e-7)]))  # rounding is not refused


def test_traversal_of_positive_units_is_over_quantiles_of_the_prior(decodes):
    bundle = gamma()
    grid = traverse(bundle, num_steps=5, reach=2.0)
    expected = torch.distributions.Gamma(2.0, 0.5)
    shares = expected.concentration.new_tensor([0.02275, 0.158655, 0.5, 0.841345, 0.97725])
    for row in grid.latents:
        # the distribution function 1 - (1 + z / 2) exp(-z / 2) of what is shown, to the noise of 4096 samples
        below = 1 - (1 + row / 2) * np.exp(-row / 2)
        np.testing.assert_allclose(below, shares, atol=0.025)
    z = moved(decodes, grid)
    assert (z > 0).all()
    others = z[torch.arange(2), :, 1 - torch.from_numpy(grid.units)]
    torch.testing.assert_close(others, others[:, :1].expand(-1, 5))
    torch.testing.assert_close(others[:, 0], torch.from_numpy(grid.latents[::-1, 2].copy()))  # held at the medians
    assert (traverse(bundle, reach=50.0).latents > 0).all()


@pytest.mark.parametrize("example", [None, 3])
def test_traversal_on_a_sphere_turns_towards_the_axis(example, decodes):
    bundle, data = sphere(), vector_data()
    grid = traverse(bundle, data, example=example, num_steps=7, reach=1.5)
    held = torch.full((3,), 3**-0.5) if example is None else torch.from_numpy(encode(bundle, data).mean[example])
    z = moved(decodes, grid)
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(3, 7))
    torch.testing.assert_close(z @ held, torch.from_numpy(np.cos(grid.values)).float().expand(3, 7))
    for unit, row in zip(grid.units, z, strict=True):
        away = math.acos(float(held[unit]))  # from the axis: the turn takes just so much off
        expected = np.cos(away - grid.values)
        np.testing.assert_allclose(row[:, unit], expected, atol=1e-6)


def test_a_point_on_an_axis_and_more_than_half_a_turn_stay_on_the_sphere():
    moves = spaces.Moves(sphere().vae, None)
    z = moves.along(torch.tensor([0.0, -1.0, 0.0]), torch.arange(3), torch.linspace(-9, 9, 5, dtype=torch.float64))
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(3, 5))
    torch.testing.assert_close(z[:, [0, -1]], torch.tensor([0.0, 1.0, 0.0]).expand(3, 2, 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("example", [None, 3])
def test_traversal_in_a_ball_goes_geodesics(example, decodes):
    bundle, data = ball(), vector_data()
    grid = traverse(bundle, data, example=example, num_steps=5)
    held = torch.zeros(2) if example is None else torch.from_numpy(encode(bundle, data).mean[example])
    z = moved(decodes, grid).double()
    assert (z.norm(dim=-1) < CURVATURE**-0.5).all()
    tangent = WrappedNormal(held.double(), torch.ones(2, dtype=torch.float64), CURVATURE).tangent(z)
    for unit, row in zip(grid.units, tangent, strict=True):
        np.testing.assert_allclose(row[:, unit], 0.7 * grid.values, rtol=0.05, atol=1e-4)
        np.testing.assert_allclose(row[:, 1 - unit], 0.0, atol=1e-3)
    far = traverse(bundle, data, num_steps=3, reach=1e3)
    assert (np.abs(far.latents) < CURVATURE**-0.5).all()


def test_traversal_is_in_units_of_the_prior(decodes):
    prior = priors.MixtureOfNormals(2, 2)
    means = torch.tensor([[90.0, -1.0], [110.0, -1.0]])
    prior.set_components(torch.full((2,), 0.5), means, torch.tensor([[5.0, 0.1], [5.0, 0.1]]))
    bundle = model(prior, posteriors.DiagonalNormal(net(), 2))
    grid = traverse(bundle, num_steps=5, reach=2.0)
    mean, scale = np.array([100.0, -1.0]), np.array([125**0.5, 0.1])
    for unit, row in zip(grid.units, grid.latents, strict=True):
        np.testing.assert_allclose((row - mean[unit]) / scale[unit], grid.values, atol=0.15)
    held = moved(decodes, grid)[torch.arange(2), 0, 1 - torch.from_numpy(grid.units)]
    np.testing.assert_array_equal(held, grid.latents[::-1, 2])
    np.testing.assert_array_equal(traverse(bundle, num_steps=5, reach=2.0).x, grid.x)


def test_traversal_of_a_conditional_prior_is_that_of_the_condition():
    bundle = normal()
    bundle.vae.prior = priors.Chain(priors.StandardNormal(1), [posteriors.DiagonalNormal(MLP(1, [4], condition_features=2), 1)])
    given = bundle.vae.prior.conditionals[0]
    given.forward = lambda z, condition: diagonal_normal(z + 10 * condition[:, :1], torch.ones_like(z))
    state = torch.get_rng_state()
    with torch.no_grad():
        found = [spaces.Moves(bundle.vae, torch.tensor([features])) for features in ([1.0, 0.0], [-2.0, 0.0], [1.0, 0.0])]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found[0].mean, found[2].mean)
    for moves, mean in zip(found, (10.0, -20.0, 10.0), strict=True):  # z_1 ~ N(10 c, 2), z_2 ~ N(0, 1)
        np.testing.assert_allclose(moves.mean, [mean, 0.0], atol=0.1)
        np.testing.assert_allclose(moves.scale, [2**0.5, 1.0], rtol=0.05)


def test_a_standard_normal_is_moved_without_samples(monkeypatch):
    def refuse(*args):
        raise AssertionError

    monkeypatch.setattr(spaces, "_drawn", refuse)
    grid = traverse(normal(), num_steps=5)
    np.testing.assert_array_equal(grid.latents, np.broadcast_to(grid.values.astype(np.float32), (2, 5)))
    traverse(sphere(), num_steps=5)


def test_beside_codes_all_other_units_are_moved(decodes):
    bundle = joint()
    grid = traverse(bundle, num_steps=3, num_units=20)
    assert sorted(grid.units) == [0, 1, 5, 6, 7, 8]
    z = moved(decodes, grid)
    spaces.check_inside(bundle.vae, z.flatten(0, 1).cpu())
    held = z[..., 2:5].flatten(0, 1)
    assert torch.equal(held, held[:1].expand_as(held))
    assert held[0].sort().values.tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("make", [codes, categories])
def test_codes_are_not_moved(make):
    said = "must have latents with a way from one to another, got codes.*Use `generate`.*`reconstruct`"
    with pytest.raises(ConfigError, match="A traversal " + said):
        traverse(make())
    with pytest.raises(ConfigError, match="An interpolation " + said):
        interpolate(make(), vector_data(), 0, 1)
    with pytest.raises(ConfigError, match="An interpolation " + said):
        interpolate(joint(), vector_data(), 0, 1)


@pytest.mark.parametrize("path", ["linear", "spherical"])
@pytest.mark.parametrize("make", [gamma, sphere, ball])
def test_interpolation_stays_inside_and_ends_at_the_reconstructions(make, path, decodes):
    bundle, data = make(), vector_data()
    steps = interpolate(bundle, data, 3, 8, num_steps=7, path=path)
    z = decodes[-1][:7]
    spaces.check_inside(bundle.vae, z)
    rebuilt = reconstruct(bundle, data)
    np.testing.assert_array_equal(steps[[0, -1]], rebuilt[[3, 8]])


def way(bundle, a, b, num=9):
    t = torch.linspace(0, 1, num)[:, None]
    return spaces.way_between(
        spaces.factors_of(bundle.vae), torch.tensor(a), torch.tensor(b), t, lambda a, b, t: a + t * (b - a)
    )


def test_the_way_on_a_sphere_is_the_great_circle_at_an_even_pace():
    turned = 2.5
    z = way(sphere(), [0.0, 0.0, 1.0], [math.sin(turned), 0.0, math.cos(turned)])
    t = torch.linspace(0, turned, 9)
    torch.testing.assert_close(z, torch.stack([t.sin(), torch.zeros(9), t.cos()], dim=1))
    opposite = way(sphere(), [0.0, 0.0, 1.0], [0.0, 0.0, -1.0])
    torch.testing.assert_close(opposite.norm(dim=1), torch.ones(9))
    torch.testing.assert_close(opposite[:, 2], torch.linspace(0, math.pi, 9).cos(), atol=1e-6, rtol=0)
    torch.testing.assert_close(way(sphere(), [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]), torch.tensor([[0.0, 1.0, 0.0]] * 9))


def distance(a, b):
    """arcosh(1 + 2 c |a - b|^2 / ((1 - c |a|^2) (1 - c |b|^2))) / sqrt(c)."""
    a, b = a.double(), b.double()
    above = 2 * CURVATURE * (a - b).square().sum(-1)
    below = (1 - CURVATURE * a.square().sum(-1)) * (1 - CURVATURE * b.square().sum(-1))
    return torch.acosh(1 + above / below) / CURVATURE**0.5


def test_the_way_in_a_ball_is_the_geodesic_at_an_even_pace():
    z = way(ball(), [0.6, 0.1], [-0.3, 0.55])
    torch.testing.assert_close(z[[0, -1]], torch.tensor([[0.6, 0.1], [-0.3, 0.55]]), atol=1e-6, rtol=0)
    whole = distance(z[0], z[-1])
    torch.testing.assert_close(distance(z[:-1], z[1:]), (whole / 8).expand(8), rtol=1e-4, atol=0)  # no detour


@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_latents_of_a_model_with_more_units_are_refused(suffix, tmp_path):
    bundle, path = vector_bundle(), tmp_path / f"z{suffix}"
    z = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    write_table({f"z{d}": z[:, d] for d in range(8)} | {f"scale{d}": z[:, d] for d in range(8)}, path)
    with pytest.raises(DataError, match="the columns z0 to z3 and no more, found z4 in .*latents of another model") as caught:
        read_latents(bundle, path)
    assert "\n" not in str(caught.value)
    write_table({f"z{d}": z[:, d] for d in range(4)} | {f"scale{d}": z[:, d] for d in range(4)}, path, force=True)
    np.testing.assert_allclose(read_latents(bundle, path)[0], z[:, :4], rtol=1e-6)


def test_scores_say_where_the_posterior_has_no_density():
    data = vector_data(6)
    point = model(priors.StandardNormal(2), posteriors.Deterministic(net(), 2))
    scores = score(point, data, num_samples=2)
    assert "is a point, which has no density: `log_likelihood` is log p(x, z)" in scores.warning
    z = torch.from_numpy(encode(point, data).mean)
    with torch.no_grad():  # what the warning says is so
        x = (torch.from_numpy(data.raw()) - 2.0) / 3.0
        expected = point.vae.decode_flat(z).log_prob(x) + point.vae.prior().log_prob(z) - 5 * math.log(3.0)
    np.testing.assert_allclose(scores.log_likelihood, expected, rtol=1e-4)
    part = posteriors.Joint([posteriors.Deterministic(net(), 1), posteriors.DiagonalNormal(net(), 1)])
    assert score(model(priors.StandardNormal(2), part), data, num_samples=2).warning is not None
    assert score(normal(), data, num_samples=2).warning is None
    assert score(codes(), data, num_samples=2).warning is None
    assert image_bundle().vae.posterior.has_density


def test_the_command_says_it_as_well(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x=vector_data(6).raw())
    for name, bundle in (("point", model(priors.StandardNormal(2), posteriors.Deterministic(net(), 2))), ("normal", normal())):
        storage.save(bundle, tmp_path / name)
        line = ["score", str(tmp_path / name), str(tmp_path / "x.npz"), "-o", str(tmp_path / f"{name}.csv"), "--samples", "2"]
        assert run([*line, "--json"]) == 0
        out, err = capsys.readouterr()
        warned = name == "point"
        assert ("bounds nothing" in err) == warned
        assert ("warning" in json.loads(out)) == warned
