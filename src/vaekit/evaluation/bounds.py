"""How good a model is: the K-sample bound on held-out data, and what goes with it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch

from vaekit.component import device_of
from vaekit.data.dataset import Dataset, spaced
from vaekit.errors import ConfigError
from vaekit.inference import Bounds, Progress, bounds, prepare, seeded
from vaekit.storage import Bundle
from vaekit.types import Batch, Json

ACTIVE = 0.01
"""A unit is active where Var_x(E_q[z_d]) exceeds this (Burda et al., 2016, section 5.2)."""


@dataclass(frozen=True)
class BoundReport:
    """What a model says of N examples; means over them, in nats an example unless the name says bits.

    Attributes:
        nll_nats: -L_K, an upper bound on -log p(x|c) that falls towards it as K rises. Of the data as they are stored:
            for continuous data the density includes the Jacobian of the transform.
        standard_error: of `nll_nats`, over the examples; None for a single example.
        bits_per_dim: nll_nats / (observed values an example * ln 2), for discrete likelihoods; None for densities.
        elbo: the bound with K = 1 inside the logarithm, -(rate + distortion).
        rate: KL(q(z|x, c) || p(z|c)).
        distortion: -E_q log p(x|z, c).
        active_units: how many latent units vary with the data: Var_x(E_q[z_d]) > 0.01.
        effective_sample_size: mean over examples, from 1 to K; near 1, a larger K or a better posterior would help.
        reconstruction_mse: mean squared error of the reconstructions, in the source's units.
        psnr: 10 log10(range^2 / MSE) in dB, for images.
        num_samples: K.
        num_examples: N.
        num_dimensions: values an example.
        binarisation: `dynamic` where grey images were made binary by a draw (one an example), else `none`.
    """

    nll_nats: float
    standard_error: float | None
    bits_per_dim: float | None
    elbo: float
    rate: float
    distortion: float
    active_units: int
    effective_sample_size: float
    reconstruction_mse: float
    psnr: float | None
    num_samples: int
    num_examples: int
    num_dimensions: int
    binarisation: str

    def to_json(self) -> Json:
        """The report as a JSON object; what does not fit the kind of data is null."""
        return asdict(self)


class _Totals:
    """Sums over examples, so that memory does not grow with their number."""

    def __init__(self, num_latents: int) -> None:
        self.count, self.observed, self.squared_error = 0, 0.0, 0.0
        self.elbo = self.rate = self.distortion = self.effective = 0.0
        self.nll: list[np.ndarray] = []
        self.mean, self.spread = np.zeros(num_latents), np.zeros(num_latents)

    def add(self, part: Bounds, squared_error: float) -> None:
        """Takes a block in; the moments of the posterior means by Chan, Golub, LeVeque (1983), equation 2.1."""
        num = len(part.rate)
        shift = part.posterior_mean.mean(0) - self.mean
        total = self.count + num
        self.spread += ((part.posterior_mean - part.posterior_mean.mean(0)) ** 2).sum(0) + shift**2 * self.count * num / total
        self.mean += shift * num / total
        self.count = total
        self.nll.append(-part.log_likelihood)
        self.observed += float(part.num_observed.sum())
        self.elbo += float(part.elbo.sum())
        self.rate += float(part.rate.sum())
        self.distortion += float(part.distortion.sum())
        self.effective += float(part.effective_sample_size.sum())
        self.squared_error += squared_error


def evaluate_bounds(
    bundle: Bundle,
    dataset: Dataset,
    *,
    num_samples: int = 100,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> BoundReport:
    """The K-sample bound on log p(x|c) over a data set, with rate, distortion and active units.

        nll = -mean_x log 1/K sum_k p(x|z_k, c) p(z_k|c) / q(z_k|x, c)

    Use it on data that training did not see. With K = 100 the bound is within a fraction of a nat of log p(x) for most
    models; published figures use K = 5000.
    Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders" (2016), equation 8 and section 5.2.

    Args:
        bundle: the model.
        dataset: N examples that fit the model's schema.
        num_samples: K, at least 1.
        limit: evaluate so many examples, evenly spaced over the data (always the same ones); None for all.
        seed: of all draws; the global random state is left as it was.
        progress: called with (done, total) as examples are done.

    Raises:
        ConfigError: if `num_samples` or `limit` is less than 1, or the data set is empty.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"`limit` must be at least 1, got {limit}. Leave it out to evaluate every example.")
    if len(dataset) == 0:
        raise ConfigError("The data must hold at least one example, found none. Give another split or file.")
    if limit is not None and limit < len(dataset):
        dataset = dataset.select(spaced(len(dataset), limit))
    totals = _Totals(bundle.vae.num_latents)
    with seeded(seed, device_of(bundle.vae)):
        for _, batch, part in bounds(bundle, dataset, num_samples, progress):
            totals.add(part, _squared_error(bundle, batch))
    return _report(bundle, totals, num_samples)


@torch.inference_mode()
def _squared_error(bundle: Bundle, batch: Batch) -> float:
    """Sum over a block of (x - E p(x|E_q[z]))^2 over the observed values, in level units or in those of the data."""
    inputs = prepare(bundle, batch, expected=True)
    z, _ = bundle.vae.encode_flat(inputs.x, condition=inputs.condition, mask=inputs.mask)
    mean = bundle.transform.inverse(bundle.vae.decode_flat(z[None], inputs.condition).mean[0])
    error = (mean.cpu().double() - batch.x.cpu().double()).square()
    return float(error.sum() if batch.mask is None else error[batch.mask.cpu()].sum())


def _report(bundle: Bundle, totals: _Totals, num_samples: int) -> BoundReport:
    schema, count = bundle.schema, totals.count
    nll = np.concatenate(totals.nll)
    mse = totals.squared_error / max(1.0, totals.observed) * schema.step**2
    discrete = bundle.vae.likelihood.discrete
    return BoundReport(
        nll_nats=float(nll.mean()),
        standard_error=float(nll.std(ddof=1) / math.sqrt(count)) if count > 1 else None,
        bits_per_dim=float(nll.sum() / (totals.observed * math.log(2))) if discrete and totals.observed else None,
        elbo=totals.elbo / count,
        rate=totals.rate / count,
        distortion=totals.distortion / count,
        active_units=int((totals.spread / count > ACTIVE).sum()),
        effective_sample_size=totals.effective / count,
        reconstruction_mse=mse,
        psnr=_psnr(bundle, mse),
        num_samples=num_samples,
        num_examples=count,
        num_dimensions=schema.num_dimensions,
        binarisation="dynamic" if bundle.transform.stochastic else "none",
    )


def _psnr(bundle: Bundle, mse: float) -> float | None:
    schema = bundle.schema
    if schema.kind != "images" or not mse > 0:
        return None
    reach = schema.high - schema.low if schema.levels is None else schema.step * (schema.levels - 1)
    return 10 * math.log10(reach**2 / mse)
