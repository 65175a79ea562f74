"""Generate, decode, interpolate, traverse, and conditions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from small_models import LATENTS, image_bundle, image_data, vector_bundle, vector_data
from vaekit.errors import ConfigError, DataError
from vaekit.jobs.encode import decode, encode
from vaekit.jobs.generate import generate
from vaekit.jobs.interpolate import interpolate
from vaekit.jobs.reconstruct import reconstruct
from vaekit.jobs.traverse import traverse


@pytest.mark.parametrize("bundle", [image_bundle(), image_bundle(conditional=True), vector_bundle()])
def test_generate_is_seeded_and_fewer_are_the_first_of_more(bundle):
    state = torch.get_rng_state()
    many = generate(bundle, 300).x
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(generate(bundle, 7).x, many[:7])
    assert not np.array_equal(generate(bundle, 7, seed=1).x, many[:7])
    assert many.dtype == bundle.schema.source.dtype
    assert many.shape[1:] == ((6, 5) if bundle.schema.kind == "images" else (5,))


def test_temperature_scales_the_latents():
    bundle = vector_bundle()
    cold, warm = (generate(bundle, 200, draw="mean", temperature=t).x for t in (1e-4, 1.0))
    centre = decode(bundle, np.zeros((1, LATENTS)), draw="mean")
    np.testing.assert_allclose(cold, np.repeat(centre, 200, 0), atol=1e-3)
    assert warm.std(0).mean() > 10 * cold.std(0).mean()


def test_samples_have_the_scale_of_the_likelihood():
    bundle = vector_bundle()
    z = np.zeros((4000, LATENTS))
    drawn = decode(bundle, z, draw="sample")
    mean = decode(bundle, z[:1], draw="mean")
    np.testing.assert_allclose(drawn.mean(0), mean[0], atol=0.3)
    np.testing.assert_allclose(drawn.std(0), 3.0 * 1.001, rtol=0.1)


def test_binarized_images_come_back_as_intensities():
    bundle = image_bundle(binarize=True)
    assert len(np.unique(generate(bundle, 20).x)) > 2
    assert set(np.unique(generate(bundle, 20, draw="sample").x)) == {0, 15}


def test_where_fixes_the_condition_and_nothing_else():
    bundle = image_bundle(conditional=True)
    made = [generate(bundle, 20, where={"label": label}) for label in ("1", 2, "1")]
    assert set(made[0].columns["label"]) == {"1"}
    np.testing.assert_array_equal(made[0].x, made[2].x)
    assert not np.array_equal(made[0].x, made[1].x)
    z = torch.randn(20, LATENTS, generator=torch.Generator().manual_seed(3)).numpy()
    by_code = decode(bundle, z, columns={"label": torch.full((20,), 1)})
    np.testing.assert_array_equal(decode(bundle, z, where={"label": "1"}), by_code)


def test_labels_are_drawn_by_their_frequencies_in_training():
    labels = generate(image_bundle(conditional=True), 4000).columns["label"]
    shares = [np.mean(labels == name) for name in ("0", "1", "2")]
    np.testing.assert_allclose(shares, [0.0, 0.25, 0.75], atol=0.03)


def test_data_without_labels_are_of_unknown_label():
    bundle, data = image_bundle(conditional=True), image_data(5)
    bare = type(data)(data.schema, data.x)
    unknown = {"label": torch.full((5,), -1)}
    z = encode(bundle, bare).mean
    assert not np.array_equal(z, encode(bundle, data).mean)
    np.testing.assert_array_equal(reconstruct(bundle, bare), decode(bundle, z, columns=unknown))


def test_the_progress_of_a_reconstruction_counts_encoding_and_decoding():
    told = []
    reconstruct(vector_bundle(), vector_data(300), progress=lambda done, total: told.append((done, total)))
    assert told == [(256, 600), (300, 600), (556, 600), (600, 600)]


@pytest.mark.parametrize("path", ["linear", "spherical"])
@pytest.mark.parametrize("conditional", [False, True])
def test_interpolation_ends_are_the_reconstructions(path, conditional):
    bundle, data = image_bundle(conditional=conditional), image_data(10)
    steps = interpolate(bundle, data, 3, 8, num_steps=7, path=path)
    rebuilt = reconstruct(bundle, data)
    assert len(steps) == 7
    np.testing.assert_array_equal(steps[0], rebuilt[3])
    np.testing.assert_array_equal(steps[-1], rebuilt[8])


def test_linear_path_is_the_line_between_the_means():
    bundle, data = vector_bundle(), vector_data()
    mean = encode(bundle, data).mean
    middle = decode(bundle, (mean[:1] + mean[1:2]) / 2, draw="mean")
    np.testing.assert_allclose(interpolate(bundle, data, 0, 1, num_steps=3)[1], middle[0], rtol=1e-4, atol=1e-4)


def test_spherical_path_keeps_the_norm():
    from vaekit.jobs.interpolate import spherical_way

    a, b = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 2.0])
    along = spherical_way(a, b, torch.linspace(0, 1, 5)[:, None])
    torch.testing.assert_close(along.norm(dim=1), torch.full((5,), 2.0))
    torch.testing.assert_close(along[2], torch.tensor([2**0.5, 0.0, 2**0.5]))


def test_traversal_moves_one_unit_and_holds_the_others():
    bundle, data = vector_bundle(), vector_data()
    grid = traverse(bundle, data, example=4, num_units=2, num_steps=5)
    assert grid.x.shape == (2, 5, 5)
    assert grid.values.tolist() == [-3.0, -1.5, 0.0, 1.5, 3.0]
    z = np.repeat(encode(bundle, data.select([4])).mean, 5, 0)
    z[:, grid.units[1]] = grid.values
    np.testing.assert_array_equal(grid.x[1], decode(bundle, z, draw="mean"))


def test_traversal_puts_the_units_that_data_use_first():
    bundle, data = vector_bundle(), vector_data()
    with torch.no_grad():
        bundle.vae.posterior.head.linear.weight[:4] *= torch.tensor([0.0, 50.0, 1.0, 9.0])[:, None]
    assert traverse(bundle, data).units.tolist() == [1, 3, 2, 0]


def test_traversal_without_data_puts_the_units_that_change_most_first():
    bundle = vector_bundle()
    with torch.no_grad():
        bundle.vae.likelihood.network.layers[0][0].weight *= torch.tensor([0.0, 0.3, 5.0, 1.0])
    assert traverse(bundle).units.tolist() == [2, 3, 1, 0]


def test_wrong_arguments():
    bundle, data = image_bundle(), image_data(5)
    conditional = image_bundle(conditional=True)
    with pytest.raises(ConfigError, match="`num` must be at least 1, got 0"):
        generate(bundle, 0)
    with pytest.raises(ConfigError, match="`temperature` must be a number > 0"):
        generate(bundle, 1, temperature=0.0)
    with pytest.raises(ConfigError, match="it has no conditions"):
        generate(bundle, 1, where={"label": "1"})
    with pytest.raises(ConfigError, match="it is conditioned on label"):
        generate(conditional, 1, where={"colour": "1"})
    with pytest.raises(DataError, match="`label` must be one of 0, 1, 2; got '7'"):
        generate(conditional, 1, where={"label": 7})
    with pytest.raises(ConfigError, match="`end` must be an index from 0 to 4, got 5"):
        interpolate(bundle, data, 0, 5)
    with pytest.raises(ConfigError, match="`num_steps` must be at least 2"):
        interpolate(bundle, data, 0, 1, num_steps=1)
    with pytest.raises(ConfigError, match="`path` must be"):
        interpolate(bundle, data, 0, 1, path="curly")
    with pytest.raises(ConfigError, match="`example` must come with data"):
        traverse(bundle, example=1)
    with pytest.raises(DataError, match=r"shape \(N, 4\), found \(2, 3\)"):
        decode(bundle, np.zeros((2, 3)))
    with pytest.raises(DataError, match="Latents must be finite"):
        decode(bundle, np.full((2, 4), np.nan))
