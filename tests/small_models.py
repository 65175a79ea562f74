"""Small untrained models and their data, for tests of what a trained model is used for."""

from __future__ import annotations

import numpy as np
import torch

from vaekit.data import loading
from vaekit.data.dataset import Dataset
from vaekit.data.transforms import Binarize, Levels, Standardize, Transform
from vaekit.likelihoods import Bernoulli, DiscretizedLogisticMixture, Likelihood, Normal
from vaekit.networks import MLP, ConditionEncoder, ConvDecoder, ConvEncoder
from vaekit.posteriors import DiagonalNormal
from vaekit.priors import StandardNormal
from vaekit.storage import Bundle
from vaekit.vae import VAE, HierarchicalVAE

LATENTS = 4


def image_data(num: int = 30, seed: int = 0) -> Dataset:
    """Grey images 6 x 5 of 16 levels with a label of three categories."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 16, (num, 6, 5), dtype=np.uint8)
    x[0, 0, :2] = 0, 15
    return loading.open(x, y=np.arange(num) % 3, levels=16)


def vector_data(num: int = 30, seed: int = 0) -> Dataset:
    """Vectors of 5 real numbers."""
    return loading.open(np.random.default_rng(seed).normal(2.0, 3.0, (num, 5)).astype(np.float32))


def shaken(vae: HierarchicalVAE, size: float = 0.2) -> HierarchicalVAE:
    """Weights away from their special start."""
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(torch.randn_like(parameter) * size)
    return vae


def image_bundle(*, conditional: bool = False, binarize: bool = False, conv: bool = False) -> Bundle:
    """A model of `image_data`."""
    torch.manual_seed(1)
    data = image_data()
    condition = ConditionEncoder({"label": 3}, features=2) if conditional else None
    width = 2 if conditional else 0
    high = 1.0 if binarize else 15.0
    if conv:
        encoder = ConvEncoder([1, 6, 5], [8, 8], features=16, condition_features=width, input_range=[0.0, high])
        decoder = ConvDecoder(LATENTS, [1, 6, 5], [8, 8], condition_features=width)
    else:
        encoder = MLP([1, 6, 5], [40, 33], condition_features=width, input_range=[0.0, high])
        decoder = MLP(LATENTS, [40], condition_features=width)
    likelihood: Likelihood = DiscretizedLogisticMixture(decoder, [1, 6, 5], levels=16, num_components=2)
    transform: Transform = Levels()
    if binarize:
        likelihood, transform = Bernoulli(decoder, [1, 6, 5]), Binarize(16)
    vae = VAE(StandardNormal(LATENTS), DiagonalNormal(encoder, LATENTS), likelihood, condition)
    counts = {"condition_counts": {"label": [0, 10, 30]}} if conditional else {}
    return Bundle(vae.eval(), transform, data.schema, {"steps": 1, **counts}, {"validation_elbo": -1.0})


def vector_bundle() -> Bundle:
    """A model of `vector_data`."""
    torch.manual_seed(2)
    encoder, decoder = MLP(5, [16]), MLP(LATENTS, [16])
    vae = VAE(StandardNormal(LATENTS), DiagonalNormal(encoder, LATENTS), Normal(decoder, [5]))
    return Bundle(vae.eval(), Standardize(2.0, 3.0), vector_data().schema)
