"""How good a model is: the K-sample bound on held-out data, and what goes with it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from vaekit.component import device_of
from vaekit.data.dataset import Dataset, spaced
from vaekit.errors import ConfigError
from vaekit.evaluation.annealing import Annealing, anneal
from vaekit.evaluation.calibration import Calibration, calibration
from vaekit.evaluation.information import Information, information
from vaekit.evaluation.probe import Probe
from vaekit.evaluation.text.likelihood import TextCounts, TextLikelihood
from vaekit.inference import ACTIVE, Bounds, Progress, bounds, check_examples, is_point, prepare, relative_variance, seeded
from vaekit.storage import Bundle
from vaekit.types import Batch, Json

FEW = 10.0
"""Below so many effective samples (below K / 2 where K is less than 20) a K-sample bound does not know its own error."""

_SHARE_OF_WARNING = 0.1
_UNMEASURED = ("table", "text")
_NO_BOUND = (
    "The posterior, or a part of it, is a point, which has no density: `nll_nats` is -log p(x, z) at it and bounds nothing. "
    "Use annealed importance sampling for log p(x)."
)


@dataclass(frozen=True)
class BoundReport:
    """What a model says of N examples; means over them, in nats an example unless the name says bits.

    Attributes:
        nll_nats: -L_K, an upper bound on -log p(x|c) that falls towards it as K rises. Of the data as they are stored:
            for continuous data the density includes the Jacobian of the transform.
        standard_error: of `nll_nats`, over the examples; None for a single example. The draws of the latent are part of it.
        monte_carlo_error: how far another seed would move `nll_nats` (one standard deviation): the part of the error that
            more samples remove and more examples of the same kind do not. None for K = 1.
        bias: how far `nll_nats` lies above -log p(x|c), as the weights themselves tell it. None for K = 1.
        bits_per_dim: nll_nats / (observed values an example * ln 2), for discrete likelihoods; None for densities. Of text,
            bits a token, the END of each text counted as one.
        elbo: the bound with K = 1 inside the logarithm, -(rate + distortion).
        rate: KL(q(z|x, c) || p(z|c)).
        distortion: -E_q log p(x|z, c).
        active_units: how many latent units vary with the data: Var_x(E_q[z_d]) > 0.01.
        effective_sample_size: mean over examples, from 1 to K; near 1, a larger K or a better posterior would help.
        low_effective_sample_share: the share of examples whose own is below 10 (below K / 2 where K is less than 20), for
            which `monte_carlo_error` and `bias` are too small. None for K = 1.
        warning: a sentence where that share is above a tenth, or where there is no bound at all; else None.
        level_rates: what each level of latents adds to the rate, the level that is sampled first at the front.
        unit_variances: Var_x(E_q[z_d]) of each of the D latent units.
        information: what latent and data share, and how far the aggregate posterior lies from the prior; None where the
            posterior has no density, and for a single example.
        calibration: whether the reconstructions are as sure of themselves as they are right; None where it has no meaning.
        annealing: the check by annealed importance sampling; None unless it was asked for.
        reconstruction_mse: mean squared error of the reconstructions, in the source's units; None of tables, whose columns have
            units of their own, and of text.
        psnr: 10 log10(range^2 / MSE) in dB, for images.
        num_samples: K.
        num_examples: N.
        num_dimensions: values an example.
        binarisation: `dynamic` where grey images were made binary by a draw (one an example), else `none`.
        text: of text, `nll_nats` a word, a token and a character; else None.
        probes: for each column of labels, how well it is told from the latents (`Model.evaluate`).
        notes: sentences that a person should read.
    """

    nll_nats: float
    standard_error: float | None
    bits_per_dim: float | None
    elbo: float
    rate: float
    distortion: float
    active_units: int
    effective_sample_size: float
    reconstruction_mse: float | None
    psnr: float | None
    num_samples: int
    num_examples: int
    num_dimensions: int
    binarisation: str
    monte_carlo_error: float | None
    bias: float | None
    low_effective_sample_share: float | None
    warning: str | None
    level_rates: tuple[float, ...]
    unit_variances: tuple[float, ...]
    information: Information | None
    calibration: Calibration | None
    annealing: Annealing | None
    text: TextLikelihood | None = None
    probes: tuple[Probe, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> Json:
        """The report as a JSON object; what does not fit the kind of data is null."""
        return asdict(self)


class _Totals:
    """Sums over examples, so that memory does not grow with their number."""

    def __init__(self, num_latents: int) -> None:
        self.count, self.observed, self.squared_error = 0, 0.0, 0.0
        self.elbo = self.rate = self.distortion = 0.0
        self.level_rates: np.ndarray | float = 0.0
        self.nll: list[np.ndarray] = []
        self.effective: list[np.ndarray] = []
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
        self.level_rates = self.level_rates + part.level_rates.sum(0)
        self.effective.append(part.effective_sample_size)
        self.squared_error += squared_error


def evaluate_bounds(
    bundle: Bundle,
    dataset: Dataset,
    *,
    num_samples: int = 100,
    limit: int | None = None,
    annealing_steps: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> BoundReport:
    """The K-sample bound on log p(x|c) over a data set, with what tells how far to trust it and what the latent is used for.

        nll = -mean_x log 1/K sum_k p(x|z_k, c) p(z_k|c) / q(z_k|x, c)

    Use it on data that training did not see. With K = 100 the bound is within a fraction of a nat of log p(x) for most
    models; published figures use K = 5000. The bound of one example is the logarithm of a mean, so by the delta method
    its variance is v = (K / ESS - 1) / (K - 1), the relative variance of that mean, and it lies v / 2 below log p(x|c) on
    average. Both come from the weights that were drawn: where few of them carry the mean, what was missed is not in them.
    Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders" (2016), equation 8 and section 5.2.

    Args:
        bundle: the model.
        dataset: N examples that fit the model's schema.
        num_samples: K, at least 1.
        limit: evaluate so many examples, evenly spaced over the data (always the same ones); None for all.
        annealing_steps: check the bound by annealed importance sampling with so many steps, on at most 100 examples
            (`annealing.anneal`); 0 for no check.
        seed: of all draws; the global random state is left as it was.
        progress: called with (done, total) as examples are done.

    Raises:
        DataError: if there are no examples.
        ConfigError: if `num_samples` or `limit` is less than 1, or `annealing_steps` is asked of a model that it cannot be had
            of.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"`limit` must be at least 1, got {limit}. Leave it out to evaluate every example.")
    check_examples(dataset)
    if limit is not None and limit < len(dataset):
        dataset = dataset.select(spaced(len(dataset), limit))
    annealed = None
    if annealing_steps:
        annealed = anneal(bundle, dataset, num_steps=annealing_steps, num_samples=num_samples, seed=seed, progress=progress)
    totals = _Totals(bundle.vae.num_latents)
    texts = TextCounts(bundle.schema) if bundle.schema.kind == "text" else None
    with seeded(seed, device_of(bundle.vae)):
        for _, batch, part in bounds(bundle, dataset, num_samples, progress):
            totals.add(part, 0.0 if bundle.schema.kind in _UNMEASURED else _squared_error(bundle, batch))
            if texts is not None:
                texts.add(batch.x.numpy())
    beside = {
        "text": None if texts is None else texts.result(np.concatenate(totals.nll)),
        "information": information(bundle, dataset, seed=seed),
        "calibration": calibration(bundle, dataset, seed=seed),
        "annealing": annealed,
    }
    return _report(bundle, totals, num_samples, beside)


@torch.inference_mode()
def _squared_error(bundle: Bundle, batch: Batch) -> float:
    """Sum over a block of (x - E p(x|E_q[z]))^2 over the observed values, in level units or in those of the data."""
    inputs = prepare(bundle, batch, expected=True)
    z, _ = bundle.vae.encode_flat(inputs.x, condition=inputs.condition, mask=inputs.mask)
    mean = bundle.transform.inverse(bundle.vae.decode_flat(z[None], inputs.condition).mean[0])
    error = (mean.cpu().double() - batch.x.cpu().double()).square()
    return float(error.sum() if batch.mask is None else error[batch.mask.cpu()].sum())


def _report(bundle: Bundle, totals: _Totals, num_samples: int, beside: dict[str, Any]) -> BoundReport:
    schema, count = bundle.schema, totals.count
    nll, effective = np.concatenate(totals.nll), np.concatenate(totals.effective)
    unit_variances = totals.spread / count
    mse = None if schema.kind in _UNMEASURED else totals.squared_error / max(1.0, totals.observed) * schema.step**2
    discrete = bundle.vae.likelihood.discrete
    return BoundReport(
        nll_nats=float(nll.mean()),
        standard_error=float(nll.std(ddof=1) / math.sqrt(count)) if count > 1 else None,
        bits_per_dim=float(nll.sum() / (totals.observed * math.log(2))) if discrete and totals.observed else None,
        elbo=totals.elbo / count,
        rate=totals.rate / count,
        distortion=totals.distortion / count,
        active_units=int((unit_variances > ACTIVE).sum()),
        effective_sample_size=float(effective.mean()),
        reconstruction_mse=mse,
        psnr=_psnr(bundle, mse),
        num_samples=num_samples,
        num_examples=count,
        num_dimensions=schema.num_dimensions,
        binarisation="dynamic" if bundle.transform.stochastic else "none",
        **_draws(bundle, effective, num_samples),
        level_rates=tuple(float(total / count) for total in np.atleast_1d(totals.level_rates)),
        unit_variances=tuple(float(variance) for variance in unit_variances),
        **beside,
    )


def _draws(bundle: Bundle, effective: np.ndarray, num_samples: int) -> dict[str, Any]:
    """What the effective sample sizes (N,) say of the draws."""
    unknown: dict[str, Any] = dict.fromkeys(("monte_carlo_error", "bias", "low_effective_sample_share", "warning"))
    if is_point(bundle.vae):
        return {**unknown, "warning": _NO_BOUND}
    if num_samples == 1:
        return unknown
    variance = relative_variance(effective, num_samples)
    few = min(FEW, num_samples / 2)
    share = float((effective < few).mean())
    warning = None
    if share > _SHARE_OF_WARNING:
        warning = (
            f"Of {share:.0%} of the examples, fewer than {few:g} of the {num_samples:,} samples carry the bound: it may lie "
            "further from log p(x) than `bias` says. Use more samples, or check it by annealed importance sampling."
        )
    return {
        "monte_carlo_error": math.sqrt(variance.sum()) / len(variance),
        "bias": float(variance.mean() / 2),
        "low_effective_sample_share": share,
        "warning": warning,
    }


def _psnr(bundle: Bundle, mse: float | None) -> float | None:
    schema = bundle.schema
    if schema.kind != "images" or mse is None or not mse > 0:
        return None
    reach = schema.high - schema.low if schema.levels is None else schema.step * (schema.levels - 1)
    return 10 * math.log10(reach**2 / mse)
