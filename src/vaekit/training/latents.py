"""Latents as data: what the posterior of a trained model makes of examples, and a model that has nothing else."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from vaekit.component import Component, full_precision
from vaekit.data.dataset import Dataset
from vaekit.data.schema import Schema, Source
from vaekit.distributions import Quantized, Quantizer
from vaekit.errors import ConfigError, DataError
from vaekit.inference import prepare
from vaekit.posteriors.deterministic import Point
from vaekit.priors import Prior
from vaekit.storage import Bundle
from vaekit.types import Condition, Latent, Trace
from vaekit.vae import VAE, LatentModel

_WANTED_ROWS, _MOST_ROWS, _MOST_DRAWS = 2**17, 2**20, 16


def latents_of(bundle: Bundle, dataset: Dataset, draws: int | None) -> Tensor:
    """(M, D) samples of the posterior on the CPU, those of one example in different blocks of M.

    Args:
        bundle: the model.
        dataset: N examples, of which at most 2^20 are encoded, chosen at random.
        draws: an example, of which a point has one; None for as many as make 131,072, at most 16.

    Raises:
        ConfigError: if the latents have bounds.
        DataError: if they are not finite.
    """
    vae = cast(VAE, bundle.vae)
    dataset = bounded(dataset)
    num = len(dataset)
    draws = max(1, min(_MOST_DRAWS, _WANTED_ROWS // num)) if draws is None else draws
    block = max(1, min(512, 2**22 // dataset.schema.num_dimensions))
    parts = []
    with torch.no_grad(), full_precision():
        for start in range(0, num, block):
            inputs = prepare(bundle, dataset.batch(np.arange(start, min(start + block, num))))
            q = vae.encode(inputs.x, condition=inputs.condition, mask=inputs.mask)
            if not isinstance(vae.posterior, Quantizer):  # that of codes is a mass
                _check_support(q, vae.posterior.registered_name)
            draws = 1 if isinstance(q, Point | Quantized) else draws
            parts.append(q.sample((draws,)).float().cpu())
    z = torch.cat(parts, dim=1).flatten(0, 1).flatten(1)
    if not bool(torch.isfinite(z).all()):
        raise DataError("Latents must be finite, found NaN or infinities. Look for extreme values in the data.")
    return z


def bounded(dataset: Dataset) -> Dataset:
    """The examples, or 2^20 of more, chosen at random and always the same."""
    if len(dataset) <= _MOST_ROWS:
        return dataset
    return dataset.select(np.sort(np.random.default_rng(0).choice(len(dataset), _MOST_ROWS, replace=False)))


def check_latents(vae: VAE, z: Tensor) -> None:
    """Refuses latents (M, D) on a sphere; a single one, or several that are the same, lie on none.

    Raises:
        ConfigError: if they are.
    """
    if isinstance(vae.posterior, Quantizer) or z.shape[1] == 1:
        return
    length, spread = z.double().norm(dim=1), z.double().var(0, correction=0).sum().sqrt()
    if bool(spread > 0) and bool(length.std(correction=0) <= 1e-5 * spread):
        raise ConfigError("Latents must fill the space for a density to be fitted, found all on one sphere. Keep their prior.")


def _check_support(q: Distribution, posterior: str) -> None:
    for part in getattr(q, "parts", (q,)):
        try:
            support: Any = part.support
        except NotImplementedError:  # a family of one's own that does not say
            continue
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        if support is not constraints.real:
            raise ConfigError(
                f"Latents must be real numbers without bounds for a density to be fitted, found those of a {posterior}. Keep "
                "the model's own prior."
            )


def as_data(z: Tensor) -> Dataset:
    """Latents (M, D) as examples."""
    x = z.numpy()
    source = Source(form="array", layout="flat", dtype="float32")
    schema = Schema(
        kind="vectors",
        shape=x.shape[1:],
        values="continuous",
        low=float(x.min()),
        high=float(x.max()),
        dtype="float32",
        source=source,
        num_examples=len(x),
    )
    return Dataset(schema, x)


class LatentsOnly(LatentModel):
    """A model whose data are latents: each is its own latent, and the prior is all that there is to learn.

    In its trace x and z are the same, the posterior is the point x, and log p(x|z) is 0.

    Args:
        prior: p(z).
    """

    def __init__(self, prior: Prior) -> None:
        Component.__init__(self)
        self.prior, self.condition, self.classifier = prior, None, None

    def infer(self, x: Tensor, features: Tensor | None, mask: Tensor | None, num_samples: int) -> Trace:
        """See `LatentModel.infer`."""
        point = Point(x.unflatten(-1, tuple(self.prior.shape)), len(self.prior.shape))
        z = point.rsample((num_samples,))
        return Trace(x, Point(z.flatten(2)), z.new_zeros(z.shape[:2]), (Latent(z, point, self.prior()),))

    @property
    def num_latents(self) -> int:
        """D."""
        return math.prod(self.prior.shape)

    def encode_flat(
        self, x: Tensor, *, condition: Condition | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x itself, and 0."""
        return x, torch.zeros_like(x)

    def decode_flat(self, z: Tensor, condition: Condition | Tensor | None = None) -> Distribution:
        """The point z."""
        return Point(z)

    def sample_prior(self, num_examples: int, *, condition: Condition | None = None, temperature: float = 1.0) -> Tensor:
        """(1, N, D): draws of p(z)."""
        return self.prior(None, temperature).sample((num_examples,)).flatten(1)[None]

    def initialize(self, x: Tensor, mask: Tensor | None = None, condition: Condition | None = None) -> None:
        """Nothing: the prior is started with data, not with latents."""
