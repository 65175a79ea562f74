"""Whether a model's reconstructions are as sure of themselves as they are right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td

from vaekit.component import device_of, full_precision
from vaekit.data.dataset import Dataset
from vaekit.distributions import DiscretizedLogisticMixture
from vaekit.inference import MAX_ELEMENTS, prepare, seeded
from vaekit.storage import Bundle

BINS = 20
"""Bins of probabilities, and of the probability integral transform."""

RANKED = 39
"""Draws of p(x|z) that a value is ranked among, where p has no distribution function."""

_ORDERED_COUNTS = (td.Poisson, td.NegativeBinomial, td.Binomial)


@dataclass(frozen=True)
class Calibration:
    """p(x|z) at z ~ q(z|x) against x, over all observed values of N examples.

    Were q the true posterior and the data the model's own, then (x, z) would be a draw from p(x, z), and every figure here
    would be nominal. A single z an example is drawn for that reason: with several averaged, it would not be so.

    Attributes:
        measure: `coverage` where values have an order: how often x falls into the central intervals of p(x_d|z).
            `probabilities` for binary values (of a 1) and for categories (of the likeliest): how often it comes true.
        error: coverage: mean over the intervals of 10 %, 20 %, ... 90 % of |coverage - nominal|. Probabilities: the expected
            calibration error, the mean of |frequency - probability| over 20 bins weighted by their share; as most values of an
            image may be nearly certain, look at `curve` as well.
        coverage_50: of the central 50 % interval: below 0.5, the model is too sure of itself.
        coverage_50_error: standard error over the examples, None for a single one.
        coverage_90: likewise.
        coverage_90_error: likewise.
        curve: what should be, what is: (nominal, coverage), or (mean probability, frequency, share of the values), a row a bin.
    """

    measure: Literal["coverage", "probabilities"]
    error: float
    coverage_50: float | None
    coverage_50_error: float | None
    coverage_90: float | None
    coverage_90_error: float | None
    curve: tuple[tuple[float, ...], ...]


def calibration(bundle: Bundle, dataset: Dataset, *, seed: int = 0) -> Calibration | None:
    """Coverage or reliability of the reconstructions of N examples, by one z ~ q(z|x, c) each.

    Values with an order: by the probability integral transform u = F(x_d|z), of levels and counts with a uniform draw within
    the mass of the value, so that u is uniform where p is right (Dunn, Smyth, "Randomized quantile residuals", 1996). The
    channels of a pixel that are conditioned on each other are taken one after another. Where p has no distribution function,
    u is the rank of x among 39 draws.

    Probabilities: the expected calibration error of Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks"
    (2017), section 2. Departure: for binary values the probability of a 1 is binned, not that of the likelier value.

    Args:
        bundle: the model.
        dataset: N >= 1 examples that fit the model's schema.
        seed: of all draws; the global random state is left as it was.

    Returns:
        The measures, or None for a likelihood over values without an order or a probability each.
    """
    largest = max(bundle.schema.num_dimensions, bundle.vae.peak_elements())
    block = max(1, min(512, MAX_ELEMENTS // largest))
    found: _Coverage | _Reliability | None = None
    with seeded(seed, device_of(bundle.vae)), torch.inference_mode(), full_precision():
        for start in range(0, len(dataset), block):
            inputs = prepare(bundle, dataset.batch(np.arange(start, min(start + block, len(dataset)))))
            p = bundle.vae(inputs.x, condition=inputs.condition, mask=inputs.mask).likelihood
            found = found or _measure(p)
            if found is None:
                return None
            observed = (
                torch.ones_like(inputs.x, dtype=torch.bool) if inputs.mask is None else inputs.mask.expand(inputs.x.shape)
            )
            found.add(p, torch.where(observed, inputs.x, 0), observed)
    return None if found is None else found.result()


def _measure(p: td.Distribution) -> _Coverage | _Reliability | None:
    """What can be said of values under p."""
    base = p.base_dist if isinstance(p, td.Independent) else p
    if isinstance(base, td.Bernoulli | td.Categorical):
        return _Reliability()
    if isinstance(p, DiscretizedLogisticMixture) or isinstance(base, _ORDERED_COUNTS):
        return _Coverage()
    try:
        discrete = p.support is None or p.support.is_discrete
    except NotImplementedError:
        return None
    return None if discrete else _Coverage()


class _Coverage:
    """Counts of u in central intervals."""

    def __init__(self) -> None:
        self.histogram = torch.zeros(BINS, dtype=torch.float64)
        self.inside: list[Tensor] = []

    def add(self, p: td.Distribution, x: Tensor, observed: Tensor) -> None:
        """Takes B examples in."""
        u = integral_transform(p, x).clamp(0.0, 1.0)
        bins = (u * BINS).long().clamp_max(BINS - 1)
        self.histogram += torch.bincount(bins[observed].cpu(), minlength=BINS).double()
        observed, away = observed.flatten(1).cpu(), (u - 0.5).abs().flatten(1).cpu()
        count = observed.sum(1)
        rows = [((away <= reach) & observed).sum(1).double() / count for reach in (0.25, 0.45)]
        self.inside.append(torch.stack(rows, dim=1)[count > 0])

    def result(self) -> Calibration | None:
        """The summary; None where nothing was observed."""
        total, inside = self.histogram.sum(), torch.cat(self.inside)
        if total == 0:
            return None
        pairs = self.histogram[: BINS // 2].flip(0) + self.histogram[BINS // 2 :]  # from the centre outwards
        found, step = pairs.cumsum(0) / total, 2 / BINS
        curve = tuple((round((i + 1) * step, 6), float(found[i])) for i in range(BINS // 2 - 1))
        errors = [float(e) for e in inside.std(0) / math.sqrt(len(inside))] if len(inside) > 1 else [None, None]
        of_half, of_most = (float(mean) for mean in inside.mean(0))
        error = float(np.mean([abs(share - nominal) for nominal, share in curve]))
        return Calibration("coverage", error, of_half, errors[0], of_most, errors[1], curve)


class _Reliability:
    """Sums of probabilities and of what came true, by bins of probability."""

    def __init__(self) -> None:
        self.sums = torch.zeros(3, BINS, dtype=torch.float64)

    def add(self, p: td.Distribution, x: Tensor, observed: Tensor) -> None:
        """Takes B examples in."""
        probability, true = (values[0] if values.dim() > x.dim() else values for values in _claims(p, x))
        probability, true = probability[observed].cpu().double(), true[observed].cpu().double()
        bins = (probability * BINS).long().clamp_max(BINS - 1)
        for row, weights in enumerate((torch.ones_like(true), probability, true)):
            self.sums[row] += torch.bincount(bins, weights, minlength=BINS)

    def result(self) -> Calibration | None:
        """The summary; None where nothing was observed."""
        count, probability, true = self.sums[:, self.sums[0] > 0]
        if not len(count):
            return None
        share = count / count.sum()
        curve = torch.stack([probability / count, true / count, share], dim=1)
        error = float(((probability - true).abs() / count * share).sum())
        rows = tuple(tuple(float(number) for number in row) for row in curve)
        return Calibration("probabilities", error, None, None, None, None, rows)


def _claims(p: td.Distribution, x: Tensor) -> tuple[Tensor, Tensor]:
    """(1, B, *S) each: the probability of what is claimed of each value, and whether it is true."""
    base = p.base_dist if isinstance(p, td.Independent) else p
    if isinstance(base, td.Bernoulli):
        return base.probs, x > 0.5
    assert isinstance(base, td.Categorical)
    likeliest = base.probs.max(-1)
    return likeliest.values, likeliest.indices == x


def integral_transform(p: td.Distribution, x: Tensor) -> Tensor:
    """(B, *S): F(x_d) under a distribution of batch shape (1, B), uniform on [0, 1] where x was drawn from p.

    Args:
        p: over values with an order.
        x: (B, *S).

    Example:
        >>> p = td.Independent(td.Normal(torch.zeros(1, 2, 1), torch.ones(1, 2, 1)), 1)
        >>> integral_transform(p, torch.tensor([[0.0], [1.96]])).flatten()
        tensor([0.5000, 0.9750])
    """
    if isinstance(p, DiscretizedLogisticMixture):
        below, above = (values[0] for values in p.cdf_ends(x))
        return below + torch.rand_like(below) * (above - below)
    base = p.base_dist if isinstance(p, td.Independent) else p
    if not isinstance(base, _ORDERED_COUNTS):
        try:
            return base.cdf(x)[0]
        except NotImplementedError:
            pass
    less, equal = torch.zeros_like(x, dtype=torch.float32), torch.zeros_like(x, dtype=torch.float32)
    for _ in range(RANKED):
        drawn = p.sample()[0]
        less, equal = less + (drawn < x), equal + (drawn == x)
    return (less + torch.rand_like(less) * (equal + 1)) / (RANKED + 1)
