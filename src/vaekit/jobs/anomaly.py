"""Anomaly: how strange images and vectors are beside normal ones, as how often a normal one would be at least as strange.

Likelihoods alone fail here: a plain image is likelier under a model of digits than the digits are, because it is simple
(Nalisnick et al., "Do deep generative models know what they don't know?" (2019)). So each example is measured in several ways,

    surprise        rate + distortion, the bound on -log p(x|c)
    excess          surprise less the length, in nats, of a code of the image that knows nothing of the data (`code_length`)
    reconstruction  log of the mean squared error of E p(x|z, c) at z = E q(z|x, c), in the units that the model works in
    density         -log of the density of E q(z|x, c) under a mixture of normals fitted to those of training examples
    typicality      surprise again, but strange where it is too small as well
    rate            KL(q(z|x, c) || p(z|c)), likewise strange at both ends

and each measure is compared with that of a reference, normal examples that training did not see:

    a_m(x) = -log P(measure m of a normal example is at least as strange as that of x)

in nats. The anomaly of x is a_reconstruction + a_excess + a_density (of vectors, which have no such code, with a_surprise in
the place of a_excess), compared with the reference in the same way. So it has one scale for every model: 3 nats is once in 20
normal examples, 7 nats once in 1,000. What was measured: benchmarks/latents/anomaly_images.py.

The sum is Fisher's combination, "Statistical methods for research workers" (1925), section 21.1. The excess is that of Serra,
Alvarez, Gomez, Slizovskaia, Nunez, Luque, "Input complexity and out-of-distribution detection with likelihood-based generative
models" (2020), equation 2. Departures: measures are not independent, which is why the sum is compared with the reference and
not with a chi-square; and the code is one in closed form in the place of PNG or FLIF.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.component import device_of
from vaekit.data.dataset import Dataset, spaced
from vaekit.data.text.batches import trimmed
from vaekit.errors import DataError, ModelFormatError
from vaekit.inference import Progress, bounds, check_examples, is_point, prepare, seeded
from vaekit.jobs.blocks import block_size, in_blocks, posterior_of
from vaekit.jobs.latent_density import LatentDensity
from vaekit.storage import PRIVACY, REFERENCE, Bundle
from vaekit.types import Json

KINDS = ("images", "vectors")
"""Of data whose anomaly is this one."""

FEWEST = 20
"""Examples that a reference has at least."""

_MOST, _SAMPLES = 1000, 4
"""Examples of the reference that is stored with a model, and samples of the latent for each."""

_KEPT = 200
"""Places of a distribution that are stored, of which a quarter at either end."""

_DIVIDED = 200
_FITTED = 5000
_ONE_SIDED = ("surprise", "excess", "reconstruction", "density")
_TAIL = 0.1
_LEVELS = 256
_SPARSE = 0.1
_ROWS = 256


@dataclass(frozen=True)
class Tail:
    """How often a number of a sample is as great as x, or as small, and what to think beyond the sample.

    With the rank r(x) that x would have among the n numbers, linear between them, the share above is (n + 1 - r(x)) / (n + 1).
    Beyond the greatest, it goes on as an exponential whose scale is the mean excess of the tenth part that is greatest over
    where that begins (Pickands, "Statistical inference using extreme order statistics" (1975), with a tail of exponent 0), so
    that what is stranger than the whole sample is still told apart.

    Attributes:
        values: (m,), rising: the sample, or some of it.
        ranks: (m,) of each, from 1.
        num: n.
        above, below: the scales of the two ends.
    """

    values: np.ndarray
    ranks: np.ndarray
    num: int
    above: float
    below: float

    @classmethod
    def of(cls, sample: np.ndarray) -> Tail:
        """Of numbers (n,)."""
        ordered = np.sort(np.asarray(sample, dtype=np.float64))
        num = len(ordered)
        quarter = _KEPT // 4
        inner = spaced(num, _KEPT // 2)
        kept = np.arange(num) if num <= _KEPT else np.unique([*range(quarter), *inner, *range(num - quarter, num)])
        return cls(ordered[kept], kept + 1.0, num, _mean_excess(ordered), _mean_excess(-ordered[::-1]))

    def upper(self, x: np.ndarray) -> np.ndarray:
        """(...) nats: -log P(X >= x).

        Example:
            >>> Tail.of(np.arange(19.0)).upper(np.array([-1.0, 0.0, 9.0, 18.0])).round(3).tolist()
            [0.0, 0.051, 0.693, 2.996]
        """
        return _nats(x, self.values, self.ranks, self.num, self.above)

    def lower(self, x: np.ndarray) -> np.ndarray:
        """(...) nats: -log P(X <= x)."""
        return _nats(-x, -self.values[::-1], self.num + 1 - self.ranks[::-1], self.num, self.below)

    def both(self, x: np.ndarray) -> np.ndarray:
        """(...) nats: minus the logarithm of twice the lesser of the two shares."""
        return np.maximum(np.maximum(self.upper(x), self.lower(x)) - math.log(2.0), 0.0)

    def to_json(self) -> Json:
        """Numbers to 7 digits."""
        numbers = {name: _short(getattr(self, name)) for name in ("values", "ranks")}
        return {**numbers, "num": self.num, "above": _short(self.above), "below": _short(self.below)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Tail:
        """What `to_json` made."""
        values, ranks = (np.asarray(record[name], dtype=np.float64) for name in ("values", "ranks"))
        return cls(values, ranks, int(record["num"]), float(record["above"]), float(record["below"]))


def _mean_excess(ordered: np.ndarray) -> float:
    """The scale of the upper end of rising numbers (n,)."""
    count = max(1, int(_TAIL * len(ordered)))
    excess = float((ordered[-count:] - ordered[max(0, len(ordered) - count - 1)]).mean())
    return max(excess, 1e-9 * max(1.0, abs(float(ordered[-1]))))


def _nats(x: np.ndarray, values: np.ndarray, ranks: np.ndarray, num: int, scale: float) -> np.ndarray:
    values, first = np.unique(values, return_index=True)  # of equal numbers, all are at least as great as the first
    rank = np.interp(x, values, ranks[first], left=0.0, right=float(num))
    return -np.log1p(-rank / (num + 1.0)) + np.maximum(x - values[-1], 0.0) / scale


def _short(values: np.ndarray | float) -> Any:
    rounded = [float(f"{value:.7g}") for value in np.atleast_1d(values).tolist()]
    return rounded if isinstance(values, np.ndarray) else rounded[0]


@dataclass(frozen=True)
class Reference:
    """What is usual of a model's measures: see the top of the file.

    Attributes:
        tails: of each measure, and of their combination under `anomaly`.
        density: of the latents of training examples, or None.
        num_examples: n.
        conditions: the columns that the model is conditioned on and the examples had.
        source: in words, which examples they were.
    """

    tails: Mapping[str, Tail]
    density: LatentDensity | None
    num_examples: int
    conditions: tuple[str, ...]
    source: str

    def judged(self, measured: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The anomaly (N,) of examples, and the tail of each of their measures (N,), all in nats.

        Args:
            measured: what `measures` gave of them.
        """
        parts = _parts(self.tails, measured)
        return self.tails["anomaly"].upper(_combined(parts)), parts

    def to_json(self) -> Json:
        """A JSON object, for the model folder."""
        about = {"num_examples": self.num_examples, "conditions": list(self.conditions), "source": self.source}
        about["density"] = None if self.density is None else self.density.to_json()
        return {**about, "tails": {name: tail.to_json() for name, tail in self.tails.items()}}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Reference:
        """What `to_json` made."""
        tails = {name: Tail.from_json(tail) for name, tail in record["tails"].items()}
        density = None if record["density"] is None else LatentDensity.from_json(record["density"])
        return cls(tails, density, int(record["num_examples"]), tuple(record["conditions"]), str(record["source"]))


def _parts(tails: Mapping[str, Tail], measured: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    parts = {name: tails[name].upper(measured[name]) for name in _ONE_SIDED if name in measured and name in tails}
    return {**parts, "typicality": tails["surprise"].both(measured["surprise"]), "rate": tails["rate"].both(measured["rate"])}


def _combined(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    total = parts["reconstruction"] + (parts["excess"] if "excess" in parts else parts["surprise"])
    return total + parts["density"] if "density" in parts else total


def stored_reference(bundle: Bundle) -> Reference | None:
    """The reference that was stored with a model; None where there is none.

    Raises:
        ModelFormatError: if what is there is none.
    """
    record = bundle.training.get(REFERENCE)
    if record is None:
        return None
    try:
        return Reference.from_json(record)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFormatError(
            f"What is stored under `{REFERENCE}` must be what training wrote, but: {type(error).__name__} {error}. Copy the "
            "model's folder again from its source, or train anew."
        ) from error


def reference_of(
    bundle: Bundle,
    dataset: Dataset,
    *,
    density: LatentDensity | None = None,
    num_samples: int = _SAMPLES,
    seed: int = 0,
    source: str = "the data given as reference",
    progress: Progress | None = None,
) -> Reference:
    """What is usual, by normal examples that training did not see.

    Args:
        bundle: of images or vectors.
        dataset: the examples.
        density: of the latents of training examples. If None, that which was stored with the model; without one, it is fitted
            to every other example where there are at least 200, and the rest is the reference; else there is none.
        num_samples: of the latent for each.
        seed: of these.
        source: which examples they are.
        progress: called with (done, total).

    Raises:
        DataError: if there are fewer than 20.
    """
    if len(dataset) < FEWEST:
        raise DataError(f"A reference must have at least {FEWEST} examples, found {len(dataset)}. Give more normal examples.")
    stored = stored_reference(bundle)
    if density is None and stored is not None:
        density = stored.density
    if density is None and len(dataset) >= _DIVIDED:
        density = density_of(bundle, dataset.select(np.arange(1, len(dataset), 2)))
        dataset = dataset.select(np.arange(0, len(dataset), 2))
    with seeded(seed, device_of(bundle.vae)):
        found = [part for _, _, part in bounds(bundle, dataset, num_samples, progress)]
    rate, distortion = (np.concatenate([getattr(part, name) for part in found]) for name in ("rate", "distortion"))
    measured = measures(bundle, dataset, rate, distortion, density)
    tails = {name: Tail.of(values) for name, values in measured.items()}
    tails["anomaly"] = Tail.of(_combined(_parts(tails, measured)))
    conditions = () if bundle.vae.condition is None else bundle.vae.condition.names
    return Reference(tails, density, len(dataset), tuple(name for name in conditions if name in dataset.columns), source)


def density_of(bundle: Bundle, dataset: Dataset) -> LatentDensity | None:
    """How dense the latents of examples lie, by at most 5,000 of them; None where they are too few, or not finite."""
    some = dataset.select(spaced(len(dataset), _FITTED))
    if len(some) < FEWEST:
        return None
    mean = posterior_of(bundle, some)[0].double().numpy()
    return LatentDensity.of(mean) if np.isfinite(mean).all() else None


def with_reference(bundle: Bundle, training_part: Dataset, dataset: Dataset) -> Bundle:
    """The model with a reference stored, of at most 1,000 examples; without one where there can be none.

    Of a model that was trained with differential privacy nothing is stored: these are exact numbers of examples.

    Args:
        bundle: the model.
        training_part: what it was trained on.
        dataset: examples that its training held out.
    """
    training = {name: value for name, value in bundle.training.items() if name != REFERENCE}
    plain = replace(bundle, training=training)
    if bundle.schema.kind not in KINDS or len(dataset) < FEWEST or training.get(PRIVACY) is not None:
        return plain
    some = dataset.select(spaced(len(dataset), _MOST))
    density = density_of(plain, training_part)
    found = reference_of(plain, some, density=density, source="examples that training held out")
    finite = all(np.isfinite([*tail.values, tail.above, tail.below]).all() for tail in found.tails.values())
    return replace(bundle, training={**training, REFERENCE: found.to_json()}) if finite else plain


# ---------------------------------------------------------------------------------------------------------------- measures


def measures(
    bundle: Bundle, dataset: Dataset, rate: np.ndarray, distortion: np.ndarray, density: LatentDensity | None = None
) -> dict[str, np.ndarray]:
    """The measures (N,) of examples of which rate and distortion (N,) are known; see the top of the file.

    Of a posterior that is a point, which has no rate, the surprise is the distortion.
    """
    check_examples(dataset)
    surprise = distortion if is_point(bundle.vae) else rate + distortion
    found = {"surprise": surprise, "rate": rate, "reconstruction": reconstruction_error(bundle, dataset)}
    if bundle.schema.kind == "images":
        found["excess"] = surprise - complexity(bundle, dataset)
    if density is not None:
        found["density"] = density.surprise(posterior_of(bundle, dataset)[0].double().numpy())
    return found


def reconstruction_error(bundle: Bundle, dataset: Dataset) -> np.ndarray:
    """(N,): log of the mean over the observed values of (x - E p(x|z, c))^2 at z = E q(z|x, c); nothing is drawn."""
    found = []
    for error, mask in squared_errors(bundle, dataset):
        observed = torch.ones_like(error) if mask is None else mask.to(error)
        found.append((error * observed).flatten(1).sum(1) / observed.flatten(1).sum(1).clamp_min(1.0))
    return torch.cat(found).clamp_min(1e-12).log().numpy()


@torch.inference_mode()
def squared_errors(bundle: Bundle, dataset: Dataset) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yields, of blocks of examples, (x - E p(x|z, c))^2 (B, *S) in float64, on the CPU, and the mask or None."""
    block = block_size(bundle.schema)
    for start in range(0, len(dataset), block):
        batch = trimmed(dataset.batch(np.arange(start, min(start + block, len(dataset)))), bundle.schema)
        inputs = prepare(bundle, batch, expected=True)
        names = list(inputs.condition or {})
        columns = [] if inputs.condition is None else list(inputs.condition.values())

        def reconstructed(x: Tensor, mask: Tensor | None, *codes: Tensor, names: list[str] = names) -> tuple[Tensor]:
            condition = dict(zip(names, codes, strict=True)) or None
            z, _ = bundle.vae.encode_flat(x, condition=condition, mask=mask)
            return (bundle.vae.decode_flat(z[None], condition).mean[0],)

        (mean,) = in_blocks(reconstructed, [inputs.x, inputs.mask, *columns], block)
        x, mean = inputs.x.cpu().double(), mean.cpu().double()
        mask = None if inputs.mask is None else inputs.mask.cpu()
        error = (x - mean).square()
        yield error if mask is None else torch.where(mask, error, 0.0), mask


def complexity(bundle: Bundle, dataset: Dataset) -> np.ndarray:
    """(N,) nats: the `code_length` of each image on the grid of its levels, of at most 256 (of continuous values as many,
    between the least and the greatest); where the model makes them binary by chance, of the likelier of the two.

    Levels that are left out change all lengths by about as much, which is nothing beside a reference.
    """
    schema = bundle.schema
    found = []
    for start in range(0, len(dataset), _ROWS):
        x = dataset.stored(np.arange(start, min(start + _ROWS, len(dataset))))
        mask = dataset.observed(np.arange(start, min(start + _ROWS, len(dataset))))
        if schema.levels is None:
            share = (x.astype(np.float64) - schema.low) / max(schema.high - schema.low, 1e-30)
            codes, levels = np.rint(np.nan_to_num(share).clip(0.0, 1.0) * (_LEVELS - 1)).astype(np.int64), _LEVELS
        else:
            codes, levels = x.astype(np.int64), schema.levels
            wanted = 2 if bundle.transform.stochastic else _LEVELS
            if levels > wanted:
                codes, levels = codes * wanted // levels, wanted
        found.append(code_length(codes if mask is None else np.where(mask, codes, 0), levels))
    return np.concatenate(found)


def code_length(images: np.ndarray, levels: int) -> np.ndarray:
    """(N,) nats: how long a code of each image is that knows nothing of images but that neighbours are alike.

        L = -sum_c log [ G(V a) / G(V a + n) prod_r G(a + n_cr) / G(a) ],    a = 0.1

    where n_cr counts how often channel c differs by r (modulo V) from what is predicted of the pixels to the left, above, and
    above to the left: the length of an adaptive code of these n differences, each as likely as it was frequent so far. Of
    several channels each is coded by itself, or as its difference's difference to the channel before, whichever is shorter.

    The prediction is that of Weinberger, Seroussi, Sapiro, "The LOCO-I lossless image compression algorithm: principles and
    standardization into JPEG-LS" (2000), equation 1.

    Args:
        images: (N, C, H, W) whole numbers from 0.
        levels: V.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> flat, noise = np.full((1, 1, 8, 8), 7), rng.integers(0, 16, (1, 1, 8, 8))
        >>> [round(code_length(image, 16).item()) for image in (flat, noise)]
        [15, 205]
    """
    padded = np.pad(images.astype(np.int64), ((0, 0), (0, 0), (1, 0), (1, 0)))
    left, above, corner = padded[:, :, 1:, :-1], padded[:, :, :-1, 1:], padded[:, :, :-1, :-1]
    high, low = np.maximum(left, above), np.minimum(left, above)
    predicted = np.where(corner >= high, low, np.where(corner <= low, high, left + above - corner))
    apart = (images - predicted) % levels
    alone = _adaptive(apart, levels)
    if images.shape[1] == 1:
        return alone
    apart[:, 1:] = (apart[:, 1:] - apart[:, :-1]) % levels
    return np.minimum(alone, _adaptive(apart, levels)) + math.log(2.0)


def _adaptive(symbols: np.ndarray, levels: int) -> np.ndarray:
    """(N,) nats: of symbols (N, C, H, W), each channel by itself."""
    num, channels = symbols.shape[:2]
    row = np.arange(num * channels)[:, None] * levels
    counts = np.bincount((row + symbols.reshape(num * channels, -1)).ravel(), minlength=num * channels * levels)
    each = torch.from_numpy(counts.reshape(num, channels, levels)).double()
    total = each.sum(-1)
    log_prob = torch.lgamma(each + _SPARSE).sum(-1) - levels * math.lgamma(_SPARSE)
    log_prob = log_prob + math.lgamma(levels * _SPARSE) - torch.lgamma(total + levels * _SPARSE)
    return -log_prob.sum(-1).numpy()
