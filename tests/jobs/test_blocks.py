"""Each row's result depends on the row alone, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from small_models import image_bundle, image_data, vector_bundle
from vaekit.data import loading
from vaekit.data.transforms import Levels
from vaekit.errors import ConfigError
from vaekit.jobs.blocks import block_size, draws_mean, in_blocks
from vaekit.jobs.encode import decode, encode
from vaekit.jobs.reconstruct import reconstruct
from vaekit.jobs.score import score
from vaekit.likelihoods import DiscretizedLogisticMixture
from vaekit.networks import MLP, ConvDecoder, ConvEncoder
from vaekit.posteriors import DiagonalNormal
from vaekit.priors import StandardNormal
from vaekit.storage import Bundle
from vaekit.vae import VAE


def test_every_call_has_one_size_and_rows_come_back_in_order():
    sizes = []

    def function(x, missing):
        sizes.append(len(x))
        assert missing is None
        return x + 1, x[:, None] * 2

    for num in (1, 4, 5, 8):
        plus, twice = in_blocks(function, [torch.arange(num), None], block=4)
        assert plus.tolist() == list(range(1, num + 1))
        assert twice.shape == (num, 1)
    assert set(sizes) == {4}


@pytest.mark.parametrize("kind", [{}, {"conv": True}, {"conditional": True}, {"binarize": True}])
def test_encode_and_reconstruct_do_not_depend_on_company(kind):
    bundle, data = image_bundle(**kind), image_data(300)
    whole, rebuilt = encode(bundle, data), reconstruct(bundle, data)
    order = np.random.default_rng(0).permutation(300)
    shuffled = encode(bundle, data.select(order))
    np.testing.assert_array_equal(shuffled.mean, whole.mean[order])
    np.testing.assert_array_equal(shuffled.scale, whole.scale[order])
    np.testing.assert_array_equal(reconstruct(bundle, data.select(order)), rebuilt[order])
    for index in (0, 7, 255, 256, 299):
        alone = encode(bundle, data.select([index]))
        np.testing.assert_array_equal(alone.mean[0], whole.mean[index])
        np.testing.assert_array_equal(alone.scale[0], whole.scale[index])
    some = order[:37]
    np.testing.assert_array_equal(encode(bundle, data.select(some)).mean, whole.mean[some])


def wide(kind):
    """A model of the size that recipes make, and a few hundred examples for it."""
    torch.manual_seed(3)
    shape = [1, 28, 28] if kind == "mlp" else [3, 32, 32]
    x = np.random.default_rng(0).integers(0, 256, (300, *shape), dtype=np.uint8)
    data = loading.open(x, layout="CHW")
    if kind == "mlp":
        encoder, decoder = MLP(shape, [384, 384], input_range=[0.0, 255.0]), MLP(32, [384, 384])
    else:
        widths = [16, 32, 64, 128]
        encoder, decoder = ConvEncoder(shape, widths, input_range=[0.0, 255.0]), ConvDecoder(32, shape, widths)
    likelihood = DiscretizedLogisticMixture(decoder, shape, levels=256, num_components=2)
    vae = VAE(StandardNormal(32), DiagonalNormal(encoder, 32), likelihood)
    return Bundle(vae.eval(), Levels(), data.schema), data


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_networks_of_real_widths_do_not_depend_on_company(kind):
    bundle, data = wide(kind)
    if kind == "conv":
        data = data.select(np.arange(260))
    whole = encode(bundle, data)
    for rows in ([0], [257], [255, 3], np.arange(5, 42)[::-1]):
        some = encode(bundle, data.select(rows))
        np.testing.assert_array_equal(some.mean, whole.mean[rows])
        np.testing.assert_array_equal(some.scale, whole.scale[rows])
    rebuilt = decode(bundle, whole.mean[:40])
    np.testing.assert_array_equal(decode(bundle, whole.mean[[33, 7]]), rebuilt[[33, 7]])


def test_decoding_latents_of_encode_is_reconstruction():
    bundle, data = image_bundle(), image_data(9)
    np.testing.assert_array_equal(decode(bundle, encode(bundle, data).mean), reconstruct(bundle, data))


def test_larger_examples_take_smaller_blocks():
    schema = image_bundle().schema
    assert block_size(schema) == 256
    assert block_size(schema.model_copy(update={"shape": (3, 256, 256)})) == 16
    assert block_size(schema.model_copy(update={"shape": (3, 4096, 4096)})) == 1


def test_draw_auto_is_the_mean_of_images_and_a_sample_of_vectors():
    assert draws_mean(image_bundle(), "auto")
    assert not draws_mean(vector_bundle(), "auto")
    with pytest.raises(ConfigError, match="`draw` must be auto, mean or sample, got 'mode'"):
        draws_mean(vector_bundle(), "mode")


def test_scores_add_up():
    bundle, data = image_bundle(), image_data(20)
    scores = score(bundle, data, num_samples=8)
    np.testing.assert_allclose(scores.elbo, -(scores.rate + scores.distortion))
    np.testing.assert_array_equal(scores.anomaly, -scores.log_likelihood)
    np.testing.assert_allclose(scores.bits_per_dim, scores.anomaly / (30 * np.log(2)))
    again = score(bundle, data, num_samples=8)
    np.testing.assert_array_equal(scores.log_likelihood, again.log_likelihood)
    assert list(scores.to_columns()) == ["index", "log_likelihood", "elbo", "rate", "distortion", "bits_per_dim", "anomaly"]
