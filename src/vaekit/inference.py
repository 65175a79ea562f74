"""A trained model on a data set: its inputs, its random draws, and the K-sample bound of every example."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.distributions import MixtureSameFamily

from vaekit import objectives
from vaekit.component import device_of, full_precision
from vaekit.data.dataset import Dataset
from vaekit.data.text.batches import trimmed
from vaekit.errors import ConfigError, DataError
from vaekit.storage import Bundle
from vaekit.symbols import PAD
from vaekit.types import Batch, Condition, Trace
from vaekit.vae import LatentModel

Progress = Callable[[int, int], None]
"""Called with the number of examples that are done, and of all."""

MAX_ELEMENTS = 2**22
"""Elements of the largest tensor of a chunk: 16 MiB of float32, so that a handful of temporaries stays near 64 MB."""


ACTIVE = 0.01
"""A unit is active where Var_x(E_q[z_d]) exceeds this (Burda et al., 2016, section 5.2)."""


@dataclass(frozen=True)
class Inputs:
    """B examples as the model takes them, on its device.

    Attributes:
        x: (B, *S), on the likelihood's support.
        mask: (B, *S) bool, True where observed, or None.
        condition: the model's own columns, each (B,), -1 where unknown; None for a model without conditions.
    """

    x: Tensor
    mask: Tensor | None
    condition: Condition | None


def is_point(vae: LatentModel) -> bool:
    """Whether the posterior, or a part of it, is a single point an example, so that no bound is one on log p(x|c)."""
    return not getattr(getattr(vae, "posterior", None), "has_density", True)


def check_examples(dataset: Dataset) -> None:
    """Refuses a data set without examples.

    Raises:
        DataError: if there are none.
    """
    if len(dataset) == 0:
        raise DataError("The data must hold at least one example, found none. Give another split or file.")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draws inside start from `seed`; outside, the random state is left as it was.

    Raises:
        ConfigError: if the seed is not from 0 to 2^63 - 1.

    Example:
        >>> with seeded(0, torch.device("cpu")):
        ...     first = torch.rand(())
        >>> with seeded(0, torch.device("cpu")):
        ...     bool(torch.rand(()) == first)
        True
    """
    if not 0 <= seed < 2**63:
        raise ConfigError(f"`seed` must be from 0 to 2^63 - 1, got {seed}. Use any whole number there.")
    if device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
        return
    index = 0 if device.index is None else device.index
    with torch.random.fork_rng(devices=[index], device_type=device.type):
        torch.default_generator.manual_seed(seed)
        torch.get_device_module(device).manual_seed(seed)
        yield


def prepare(bundle: Bundle, batch: Batch, *, expected: bool = False) -> Inputs:
    """A stored batch as the model takes it.

    Args:
        bundle: the model.
        batch: B examples as they are stored.
        expected: whether a stochastic transform gives its expectation in place of a draw: grey images that are made
            binary by chance, x ~ Bernoulli(level / (V - 1)), then enter as the probabilities level / (V - 1).
    """
    device = device_of(bundle.vae)
    batch = batch.to(device)
    if expected and bundle.transform.stochastic:
        assert bundle.schema.levels is not None
        x = batch.x.float() / (bundle.schema.levels - 1)
    else:
        x = bundle.transform(batch.x)
    return Inputs(x, batch.mask, bundle.vae.condition_of(batch.columns, len(batch.x)))


@dataclass(frozen=True)
class Bounds:
    """The bounds of B examples: arrays (B,) in float64, nats, of the data as they are stored (densities included).

    Attributes:
        log_likelihood: the K-sample bound on log p(x|c).
        elbo: -(rate + distortion).
        rate: KL(q(z|x, c) || p(z|c)), closed where it can be.
        level_rates: (B, L), what each level of latents adds to the rate, the level that is sampled first at index 0.
        distortion: -E_q log p(x|z, c), a mean over the K samples.
        effective_sample_size: (sum_k w_k)^2 / sum_k w_k^2, from 1 to K: how many of the samples carry the bound.
        num_observed: how many values of the example are observed; of text, its tokens and its END.
        posterior_mean: (B, D), E_q[z], all levels side by side.
    """

    log_likelihood: np.ndarray
    elbo: np.ndarray
    rate: np.ndarray
    level_rates: np.ndarray
    distortion: np.ndarray
    effective_sample_size: np.ndarray
    num_observed: np.ndarray
    posterior_mean: np.ndarray


class _LogSums:
    """log sum_k w_k and log sum_k w_k^2 of weights that arrive in chunks, in float64."""

    def __init__(self) -> None:
        self.first: Tensor | None = None
        self.second: Tensor | None = None
        self.count = 0

    def add(self, log_weights: Tensor) -> None:
        """Takes (K, B) log-weights in."""
        first, second = torch.logsumexp(log_weights, 0), torch.logsumexp(2 * log_weights, 0)
        self.first = first if self.first is None else torch.logaddexp(self.first, first)
        self.second = second if self.second is None else torch.logaddexp(self.second, second)
        self.count += len(log_weights)

    def log_mean(self) -> Tensor:
        """(B,): log 1/K sum_k w_k."""
        assert self.first is not None
        return self.first - math.log(self.count)

    def effective_sample_size(self) -> Tensor:
        """(B,): (sum_k w_k)^2 / sum_k w_k^2."""
        assert self.first is not None
        assert self.second is not None
        return torch.exp(2 * self.first - self.second)


def relative_variance(effective_sample_size: np.ndarray, num_samples: int) -> np.ndarray:
    """Var(w) / (K E[w]^2) of the mean of K weights, from their effective sample size: by
    the delta method the variance of its logarithm.

    Example:
        >>> weights = np.array([1.0, 2.0, 3.0, 6.0])
        >>> size = weights.sum() ** 2 / (weights**2).sum()
        >>> bool(np.isclose(relative_variance(size, 4), weights.var(ddof=1) / (4 * weights.mean() ** 2)))
        True
    """
    return np.maximum(num_samples / effective_sample_size - 1.0, 0.0) / (num_samples - 1)


def bounds(
    bundle: Bundle, dataset: Dataset, num_samples: int, progress: Progress | None = None
) -> Iterator[tuple[slice, Batch, Bounds]]:
    """The K-sample bound of every example, a block of examples at a time, in bounded memory.

        L_K(x) = log 1/K sum_k p(x|z_k, c) p(z_k|c) / q(z_k|x, c),   z_k ~ q(z|x, c)

    The log-weights are float32 and are summed in float64, a chunk of samples after another.
    Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders" (2016), equation 8.

    A stochastic transform is drawn once an example. Draws come from the global random state: use it inside `seeded`.

    Args:
        bundle: the model.
        dataset: N examples that fit the model's schema.
        num_samples: K.
        progress: called after each block.

    Yields:
        Which rows, the stored batch, and its bounds.

    Raises:
        ConfigError: if `num_samples` is less than 1.
    """
    if num_samples < 1:
        raise ConfigError(f"`num_samples` must be at least 1, got {num_samples}. 100 is a good start.")
    rows = _rows_at_once(bundle, dataset)
    block = max(1, min(512, rows // min(num_samples, 64)))
    for start in range(0, len(dataset), block):
        where = slice(start, min(start + block, len(dataset)))
        batch = dataset.batch(np.arange(where.start, where.stop))
        yield where, batch, _block_bounds(bundle, batch, num_samples, max(1, rows // block))
        if progress is not None:
            progress(where.stop, len(dataset))


@torch.inference_mode()
def _rows_at_once(bundle: Bundle, dataset: Dataset) -> int:
    """How many latents (samples times examples) may be decoded at once, by the widest tensor that one of them needs."""
    vae = bundle.vae
    trace = _trace(vae, prepare(bundle, dataset.batch([0])), 1)
    widths = [bundle.schema.num_dimensions, vae.peak_elements()]
    mixtures = [latent for latent in trace.latents if isinstance(latent.prior, MixtureSameFamily)]
    widths += [cast(MixtureSameFamily, m.prior).component_distribution.batch_shape[-1] * m.z.numel() for m in mixtures]
    return max(1, MAX_ELEMENTS // max(widths))


@torch.inference_mode()
def _block_bounds(bundle: Bundle, batch: Batch, num_samples: int, chunk: int) -> Bounds:
    batch = trimmed(batch, bundle.schema).to(device_of(bundle.vae))
    inputs = prepare(bundle, batch)
    sums, rates, log_likelihood, mean = _LogSums(), 0.0, 0.0, 0.0
    for first in range(0, num_samples, chunk):
        k = min(chunk, num_samples - first)
        with full_precision():
            trace = _trace(bundle.vae, inputs, k)
            log_weights = trace.log_weights
            of_levels = torch.stack([objectives.level_rate(latent) for latent in trace.latents], dim=1)
        sums.add(_exact(log_weights))
        rates = rates + _exact(of_levels) * (k / num_samples)
        log_likelihood = log_likelihood + _exact(trace.log_likelihood).sum(0) / num_samples
        mean = mean + _exact(trace.posterior_mean) * (k / num_samples)
    return _in_data_units(bundle, batch, sums, *(cast(Tensor, t) for t in (rates, log_likelihood, mean)))


def _in_data_units(bundle: Bundle, batch: Batch, sums: _LogSums, rates: Tensor, log_likelihood: Tensor, mean: Tensor) -> Bounds:
    log_abs_det = bundle.transform.log_abs_det(batch.x, batch.mask).cpu().numpy()
    num_observed = np.full(len(batch.x), float(bundle.schema.num_dimensions))
    if bundle.schema.kind == "text":  # its tokens, and its end
        num_observed = _exact((batch.x.long() != PAD).sum(1)).numpy()
    if batch.mask is not None:
        num_observed = _exact(batch.mask.flatten(1).sum(1)).numpy()
    rate, distortion = rates.sum(1), -log_likelihood.numpy() - log_abs_det
    return Bounds(
        log_likelihood=sums.log_mean().numpy() + log_abs_det,
        elbo=-(rate.numpy() + distortion),
        rate=rate.numpy(),
        level_rates=rates.numpy(),
        distortion=distortion,
        effective_sample_size=sums.effective_sample_size().numpy(),
        num_observed=num_observed,
        posterior_mean=mean.numpy(),
    )


def _exact(values: Tensor) -> Tensor:
    """float64, on the CPU: not every device has it."""
    return values.cpu().double()


def _trace(vae: LatentModel, inputs: Inputs, num_samples: int) -> Trace:
    return vae(inputs.x, condition=inputs.condition, mask=inputs.mask, num_samples=num_samples)
