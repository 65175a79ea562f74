"""Similarity against numbers worked out pixel by pixel; objectives of features and of structure by hand."""

import copy
import math

import numpy as np
import pytest
import torch

from vaekit.errors import ConfigError
from vaekit.likelihoods import Bernoulli
from vaekit.networks import MLP, ConvEncoder
from vaekit.objectives import ELBO, MSSSIM, FeatureMatching
from vaekit.posteriors import DiagonalNormal
from vaekit.priors import StandardNormal
from vaekit.similarity import SCALE_WEIGHTS, ms_ssim, num_scales, ssim
from vaekit.vae import VAE


def images(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def maps_by_hand(x, y, size, scale, data_range):
    """Luminance, and contrast with structure, of two images (H, W), window by window."""
    at = np.arange(size) - (size - 1) / 2
    window = np.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * scale**2))
    window /= window.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    height, width = x.shape
    luminance, structure = [], []
    for i in range(height - size + 1):
        for j in range(width - size + 1):
            a, b = x[i : i + size, j : j + size], y[i : i + size, j : j + size]
            mu_a, mu_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mu_a) ** 2).sum(), (window * (b - mu_b) ** 2).sum()
            covariance = (window * (a - mu_a) * (b - mu_b)).sum()
            luminance.append((2 * mu_a * mu_b + c1) / (mu_a**2 + mu_b**2 + c1))
            structure.append((2 * covariance + c2) / (var_a + var_b + c2))
    return np.array(luminance), np.array(structure)


def halved(x):
    height, width = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
    return x[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3))


@pytest.mark.parametrize(("size", "scale", "data_range"), [(11, 1.5, 1.0), (5, 0.8, 255.0)])
def test_ssim_by_hand(size, scale, data_range):
    x = images(2, 3, 13, 14) * data_range
    y = 0.7 * x + 0.3 * data_range * images(2, 3, 13, 14, seed=1)
    expected = []
    for n in range(2):
        values = []
        for c in range(3):
            luminance, structure = maps_by_hand(x[n, c].numpy(), y[n, c].numpy(), size, scale, data_range)
            values.append((luminance * structure).mean())
        expected.append(np.mean(values))
    found = ssim(x, y, data_range, size, scale)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ssim(x.float(), y.float(), data_range, size, scale).double(), found, rtol=1e-4, atol=1e-5)


def test_ms_ssim_by_hand():
    """Three scales of odd sizes: 23 x 26, 11 x 13, 5 x 6."""
    x = images(1, 2, 23, 26)
    y = (x + 0.4 * images(1, 2, 23, 26, seed=1)).clamp(0, 1)
    weights, values = [0.2, 0.3, 0.5], []
    for c in range(2):
        a, b, product = x[0, c].numpy(), y[0, c].numpy(), 1.0
        for scale, weight in enumerate(weights):
            luminance, structure = maps_by_hand(a, b, 5, 1.5, 1.0)
            product *= (luminance * structure if scale == 2 else structure).mean() ** weight
            a, b = halved(a), halved(b)
        values.append(product)
    found = ms_ssim(x, y, weights=weights, window_size=5)
    assert found.item() == pytest.approx(np.mean(values), rel=1e-9)


def test_ssim_of_even_images_is_their_luminance():
    """Without structure: (2 a b + c1) / (a^2 + b^2 + c1)."""
    a, b = 0.3, 0.8
    expected = (2 * a * b + 1e-4) / (a**2 + b**2 + 1e-4)
    even = torch.full((1, 1, 12, 12), a, dtype=torch.float64), torch.full((1, 1, 12, 12), b, dtype=torch.float64)
    assert ssim(*even).item() == pytest.approx(expected, rel=1e-9)
    assert ms_ssim(*even, weights=[1.0]).item() == pytest.approx(expected, rel=1e-9)


def test_properties_of_similarity():
    x, y = images(4, 1, 24, 24), images(4, 1, 24, 24, seed=1)
    weights = [0.5, 0.5]
    for measure in (ssim, lambda *pair: ms_ssim(*pair, weights=weights)):
        assert torch.equal(measure(x, y), measure(y, x))
        torch.testing.assert_close(measure(x, x), torch.ones(4, dtype=torch.float64))
        assert (measure(x, y) < 0.5).all()
        noise = [measure(x, x + s * (y - 0.5)).mean() for s in (0.1, 0.3, 0.9)]
        assert 1 > noise[0] > noise[1] > noise[2]
    assert ssim(x, 1 - x).max() < 0
    assert torch.equal(ms_ssim(x, 1 - x, weights=weights), torch.zeros(4, dtype=torch.float64))
    assert (ms_ssim(x, 1 - x, weights=weights, floor=0.01) >= 0.01 - 1e-12).all()
    whole = torch.randint(0, 256, (1, 1, 12, 12), dtype=torch.uint8)
    assert ssim(whole, whole, 255.0).item() == pytest.approx(1.0)


def test_gradients_of_similarity():
    x, y = images(2, 1, 14, 14), images(2, 1, 14, 14, seed=1).requires_grad_()
    mixed = (0.5 * x + 0.5 * y).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda b: ms_ssim(x, b, weights=[0.4, 0.6], window_size=3), (mixed,))
    for pair in ((x, (1 - x).requires_grad_()), (torch.zeros_like(x), torch.zeros_like(x).requires_grad_())):
        for floor in (0.0, 0.01):
            ms_ssim(*pair, weights=[0.4, 0.6], window_size=3, floor=floor).sum().backward()
        assert torch.isfinite(pair[1].grad).all()


@pytest.mark.parametrize(("size", "found"), [(10, 0), (11, 1), (21, 1), (22, 2), (43, 2), (44, 3), (175, 4), (176, 5)])
def test_num_scales_are_those_that_work(size, found):
    assert num_scales(size, 500) == found
    image = images(1, 1, size, 200)
    for scales in range(1, 6):
        if scales <= found:
            assert ms_ssim(image, image, weights=SCALE_WEIGHTS[:scales]).item() == pytest.approx(1.0)
        else:
            with pytest.raises(ConfigError, match=f"which has {found}"):
                ms_ssim(image, image, weights=SCALE_WEIGHTS[:scales])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"y": torch.zeros(1, 1, 12, 11)}, "must both be"),
        ({"x": torch.zeros(1, 12, 12), "y": torch.zeros(1, 12, 12)}, "must both be"),
        ({"data_range": 0.0}, "`data_range` must be > 0"),
        ({"window_size": 4}, "odd size"),
        ({"window_scale": 0.0}, "odd size and a scale > 0"),
        ({"window_size": 13}, "found 12 x 12, which has 0"),
    ],
)
def test_images_that_cannot_be_compared(arguments, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ssim(**{"x": torch.zeros(1, 1, 12, 12), "y": torch.zeros(1, 1, 12, 12), **arguments})


# ------------------------------------------------------------------------------------------------------------ objectives

SHAPE = [2, 8, 10]


def make_trace(num_samples=2, mask=None, x=None):
    torch.manual_seed(0)
    vae = VAE(StandardNormal(2), DiagonalNormal(MLP(SHAPE, [6]), 2), Bernoulli(MLP(2, [6]), SHAPE)).double()
    x = (images(3, *SHAPE) < 0.4).double() if x is None else x
    torch.manual_seed(1)
    return vae, vae(x, mask=mask, num_samples=num_samples)


@pytest.mark.parametrize("scales", [1, 2, None])
def test_msssim_by_hand(scales):
    _, trace = make_trace()
    bound = MSSSIM(weight=3.0, beta=0.5, scales=scales, window_size=3, pixel_weight=0.25)(trace)
    weights = torch.tensor(SCALE_WEIGHTS[: scales or 2], dtype=torch.float64)  # 8 and 4 rows; a third scale has 2 of 3
    weights = (weights / weights.sum()).tolist()
    each = [1 - ms_ssim(mean, trace.x, weights=weights, window_size=3, floor=0.01) for mean in trace.likelihood.mean]
    expected = torch.stack(each).mean()
    elbo = ELBO()(trace)
    torch.testing.assert_close(bound.terms["dissimilarity"], expected)
    torch.testing.assert_close(bound.loss, 3.0 * expected + 0.5 * elbo.rate + 0.25 * elbo.distortion)
    assert torch.equal(bound.elbo, elbo.elbo)


def test_msssim_reads_no_missing_pixel():
    mask = images(3, *SHAPE, seed=4) > 0.3
    x = (images(3, *SHAPE) < 0.4).double()
    losses = [
        MSSSIM(window_size=3)(make_trace(mask=mask, x=torch.where(mask, x, value))[1]).loss for value in (0.0, 1.0, math.nan)
    ]
    assert torch.isfinite(losses[0])
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


def test_msssim_of_what_is_no_image():
    vae = VAE(StandardNormal(2), DiagonalNormal(MLP(5, [6]), 2), Bernoulli(MLP(2, [6]), [5]))
    with pytest.raises(ConfigError, match=r"must be given images \(C, H, W\), got \(5,\)"):
        MSSSIM()(vae(torch.zeros(3, 5)))
    with pytest.raises(ConfigError, match="found 8 x 10, which has 0"):
        MSSSIM()(make_trace()[1])
    with pytest.raises(ConfigError, match="`scales` must be 1 to 5 or None, got 6"):
        MSSSIM(scales=6)
    with pytest.raises(ConfigError, match="`weight` must be >= 0, got -1"):
        MSSSIM(weight=-1.0)


def encoder():
    return ConvEncoder(SHAPE, [3, 4], features=5, input_range=[0, 1]).double()


@pytest.mark.parametrize("layers", [(), ("stages.0", "project")])
def test_feature_matching_by_hand(layers):
    network = encoder()
    _, trace = make_trace()
    bound = FeatureMatching(network, layers, weight=3.0, beta=0.5)(trace)
    expected = 0.0
    for mean in trace.likelihood.mean:
        if layers:
            pairs = []
            for images_ in (mean, trace.x):
                stem = network.stem(2 * images_ - 1)
                stage = network.stages[0](stem)
                last = torch.nn.functional.silu(network.stages(stem)).flatten(1)
                pairs.append((stage, network.project(last)))
            compared = list(zip(*pairs, strict=True))
        else:
            compared = [(network(mean), network(trace.x))]
        expected = expected + sum(0.5 * (a - b).square().mean() for a, b in compared) / 2
    torch.testing.assert_close(bound.terms["dissimilarity"], expected)
    torch.testing.assert_close(bound.loss, 3.0 * expected + 0.5 * ELBO()(trace).rate)


def test_the_feature_network_is_a_frozen_copy():
    network = encoder()
    objective = FeatureMatching(network)
    assert all(p.requires_grad for p in network.parameters())
    assert not any(p.requires_grad for p in objective.parameters())
    assert not objective.train().network.training
    assert objective.training
    vae, trace = make_trace()
    before = objective(trace).loss
    before.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in vae.parameters())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    assert torch.equal(objective(make_trace()[1]).loss, before)
    twin = copy.deepcopy(objective)
    assert torch.equal(twin(make_trace()[1]).loss, before)
    assert not any(p.requires_grad for p in twin.parameters())
    assert len(objective.network._forward_hooks) == 0


def test_feature_matching_hides_missing_pixels():
    mask = images(3, *SHAPE, seed=4) > 0.3
    x = (images(3, *SHAPE) < 0.4).double()
    objective = FeatureMatching(encoder(), ["stages.0"])
    losses = [objective(make_trace(mask=mask, x=torch.where(mask, x, value))[1]).loss for value in (0.0, math.nan)]
    assert torch.equal(losses[0], losses[1])


def test_feature_matching_refuses():
    with pytest.raises(ConfigError, match=r"`layers` must be parts of the network, got stages\.9. It has inputs, stem"):
        FeatureMatching(encoder(), ["stages.9"])
    with pytest.raises(ConfigError, match="The `network` of a FeatureMatching must be a network"):
        FeatureMatching(StandardNormal(2))
    with pytest.raises(ConfigError, match="`beta` must be >= 0"):
        FeatureMatching(encoder(), beta=math.inf)
