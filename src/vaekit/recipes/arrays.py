"""Parts for images and vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from vaekit import likelihoods, networks, posteriors
from vaekit.component import Component
from vaekit.data.dataset import Dataset, spaced
from vaekit.data.schema import Schema
from vaekit.data.transforms import Binarize, Levels, Standardize, Transform
from vaekit.data.values import chunks
from vaekit.errors import ConfigError, DataError
from vaekit.likelihoods import Likelihood
from vaekit.networks.conv import stage_sizes
from vaekit.recipes.base import (
    LEAST_FOR_SECOND_STAGE,
    SECOND_STAGE,
    Recipe,
    batch_size_of,
    check_latent,
    condition_of,
    prior_of,
)
from vaekit.types import Json
from vaekit.vae import VAE, HierarchicalVAE

LIKELIHOODS = (
    "auto",
    "bernoulli",
    "continuous-bernoulli",
    "beta",
    "normal",
    "laplace",
    "logistic",
    "log-cosh",
    "student-t",
    "log-normal",
    "poisson",
    "negative-binomial",
    "zero-inflated-poisson",
    "zinb",
    "logistic-mixture",
    "beta-binomial",
    "categorical",
)
_COUNTS = ("poisson", "negative-binomial", "zero-inflated-poisson", "zinb")
_LEVELS = ("logistic-mixture", "beta-binomial", "categorical")
_MEDIAN_ROWS = 1000
_MOST_VECTOR_LEVELS = 256
_NEAR_ZERO = 10.0
"""Counts begin at no more than their greatest by this factor: numbers such as years, far from 0, vary less than counts do."""
_DECADES = 1000.0
_LARGEST_FLAT_IMAGE = 1024
"""Values of a grey image up to which dense layers are chosen: they are as good there and several times faster."""

_STAGES = ((1, 2, 64), (2, 0, 64), (5, 4, 64), (10, 4, 64), (20, 1, 32), (math.inf, 0, 16))
"""Of a ladder's stage up to a size: levels of latents, few where they cost most, and width for small grey images."""


def arrays(
    data: Dataset,
    recipe: str,
    latent: int | None,
    likelihood: str | None,
    condition: Sequence[str],
    accelerated: bool,
    prior: str | None,
    depth: int = 2,
) -> Recipe:
    """Images and vectors: dense networks of a depth, convolutional or hierarchical ones, and the likelihood of their values."""
    schema = data.schema
    family, why_family = _choose_likelihood(data, likelihood or "auto")
    network, why_network = _choose_network(schema, recipe, accelerated)
    transform, span = _transform(data, family)
    encoder, features = condition_of(schema, condition)
    if network == "ladder":
        if prior is not None:
            raise ConfigError(f"`prior` must be left out for a ladder, whose levels are each other's prior; got {prior!r}.")
        ladder, why_latent = _ladder(schema, latent, span, features, _in_logs(family), accelerated)
        tail = networks.Tail(ladder.out_shape)
        vae = HierarchicalVAE(ladder, _likelihood(family, tail, schema), encoder)
        return Recipe(vae, transform, _ladder_settings(ladder, data), (why_family, why_network, why_latent))
    num_latents, why_latent = _choose_latent(schema, latent)
    make_networks = {"mlp": partial(_dense, depth=depth), "conv": _convolutional, "conv-large": _large_convolutional}[network]
    inward, outward = make_networks(schema, num_latents, span, features)
    inward = networks.LogInput(inward) if _in_logs(family) else inward
    reach = (math.expm1(span[0]), math.expm1(span[1])) if _in_logs(family) else span
    vae = VAE(
        prior=prior_of(prior or "standard", num_latents, schema, reach, features, len(data)),
        posterior=posteriors.DiagonalNormal(inward, num_latents),
        likelihood=_likelihood(family, outward, schema),
        condition=encoder,
    )
    batch_size = _batch_size(len(data), network)
    peak = 2e-3 if network == "mlp" else 1e-3
    settings: Json = {"learning_rate": peak * math.sqrt(batch_size / 256), "batch_size": batch_size}
    why_prior = () if prior is None else (f"Prior: {prior}, as asked.",)
    # What is left of a condition in the latents, such as the label in the style of a digit, a prior that ignores it misses.
    second_stage = SECOND_STAGE if prior is None and features and len(data) >= LEAST_FOR_SECOND_STAGE else None
    return Recipe(vae, transform, settings, (why_family, why_network, why_latent, *why_prior), second_stage=second_stage)


def _choose_likelihood(data: Dataset, asked: str) -> tuple[str, str]:
    schema = data.schema
    if asked not in LIKELIHOODS:
        raise ConfigError(
            f"`likelihood` must be one of {', '.join(LIKELIHOODS)}; got {asked!r}. Use `auto` to let the data choose."
        )
    if asked != "auto":
        _check_support(schema, asked)
        note = (
            ", on pixels drawn anew from the intensities at every use"
            if asked == "bernoulli" and (schema.levels or 2) > 2
            else ""
        )
        return asked, f"Likelihood: {asked}, as asked{note}."
    if schema.values == "binary":
        return "bernoulli", "Likelihood: bernoulli, because every value is one of two."
    if schema.values == "levels":
        return (
            "logistic-mixture",
            f"Likelihood: mixture of discretised logistics, because the values are {schema.levels:,} levels with an order.",
        )
    if _counted(data):
        return (
            "negative-binomial",
            f"Likelihood: negative-binomial, because the values are counts, whole numbers from {schema.low:g} to "
            f"{schema.high:g}; `--likelihood normal` if they are measurements.",
        )
    hint = "; they are positive and range over orders of magnitude: try `--likelihood log-normal`" if _in_decades(data) else ""
    return (
        "normal",
        "Likelihood: normal with a learned scale, because the values are real numbers from "
        f"{schema.low:g} to {schema.high:g}{hint}.",
    )


def _counted(data: Dataset) -> bool:
    """Whether vectors hold counts: whole numbers from near 0, more than are taken as levels, all of them exact floats."""
    schema = data.schema
    ranges = 0 <= schema.low <= schema.high / _NEAR_ZERO and _MOST_VECTOR_LEVELS <= schema.high <= 2**24
    if schema.kind != "vectors" or schema.levels is not None or not ranges:
        return False
    if np.dtype(schema.source.dtype).kind in "iu":
        return True
    return all(bool(np.all(rows == np.rint(rows))) for _, rows in chunks(data.x))


def _in_decades(data: Dataset) -> bool:
    """Whether positive values, in units of their column's median, range over three decades, one of them above it."""
    schema = data.schema
    if not schema.low > 0 or schema.high < _DECADES * schema.low:
        return False
    rows = spaced(len(data), _MEDIAN_ROWS)
    values, observed = data.stored(rows).astype(np.float64), data.observed(rows)
    if observed is not None:
        values[~observed] = np.nan
    values = values.reshape(len(values), -1) if schema.kind == "vectors" else values.reshape(-1, 1)
    values = values[:, ~np.isnan(values).all(axis=0)]
    ratios = values / np.nanmedian(values, axis=0)
    return bool(np.nanmax(ratios) >= 10 and np.nanmax(ratios) >= _DECADES * np.nanmin(ratios))


def _check_support(schema: Schema, likelihood: str) -> None:
    if likelihood in _LEVELS and schema.levels is None:
        raise DataError(
            f"The {likelihood} likelihood must have whole levels, found real numbers from {schema.low:g} to {schema.high:g}. "
            "Use `normal`, or give `levels` (`--levels`) if the values lie on a grid."
        )
    unit = schema.low >= 0 and schema.high <= 1
    if likelihood in ("bernoulli", "continuous-bernoulli") and schema.levels is None and not unit:
        raise DataError(
            f"The {likelihood} likelihood must have values in [0, 1], found values from {schema.low:g} to {schema.high:g}. "
            "Scale the data, or use `normal`."
        )
    if likelihood == "bernoulli" and schema.levels is None:
        raise DataError(
            "The bernoulli likelihood must have binary values or levels to draw from, found real numbers. Use "
            "`continuous-bernoulli`."
        )
    if likelihood == "categorical" and (schema.levels or 0) > 256:
        raise DataError(
            f"The categorical likelihood must have at most 256 levels, found {schema.levels:,}. Use `logistic-mixture`."
        )
    _check_numbers(schema, likelihood)


def _check_numbers(schema: Schema, likelihood: str) -> None:
    """What the values themselves must be, for likelihoods of numbers as they stand in the source."""
    whole = float(schema.offset).is_integer() and schema.step == 1
    if likelihood in _COUNTS and not (schema.low >= 0 and whole):
        grid = "" if whole else f" in steps of {schema.step:g}"
        raise DataError(
            f"The {likelihood} likelihood must have counts, whole numbers from 0; found values from {schema.low:g} to "
            f"{schema.high:g}{grid}. Use `auto`."
        )
    if likelihood == "log-normal" and not schema.low > 0:
        raise DataError(
            f"The log-normal likelihood must have values above 0, found values from {schema.low:g} to {schema.high:g}. "
            "Use `normal`, or add a constant to the data."
        )
    if likelihood == "beta" and not (schema.low > 0 and schema.high < 1):
        raise DataError(
            f"The beta likelihood must have values above 0 and below 1, found values from {schema.low:g} to {schema.high:g}. "
            "Use `continuous-bernoulli`, which takes 0 and 1 as well."
        )


def _choose_network(schema: Schema, recipe: str, accelerated: bool) -> tuple[str, str]:
    if recipe in ("table", "lstm", "transformer"):
        kind = "a table of columns" if recipe == "table" else "text"
        raise ConfigError(f"The recipe `{recipe}` must have {kind}, found {schema.kind}. Use `mlp` or `auto`.")
    if recipe.startswith("conv") and schema.kind != "images":
        raise ConfigError(f"The recipe `{recipe}` must have images, found {schema.kind}. Use `mlp` or `auto`.")
    if recipe != "auto":
        return recipe, f"Network: {recipe}, as asked."
    if schema.kind == "vectors":
        return "mlp", "Network: dense layers, because the examples are vectors."
    if schema.num_dimensions <= _LARGEST_FLAT_IMAGE and schema.shape[0] == 1:
        return (
            "mlp",
            f"Network: dense layers, because the images are small ({schema.num_dimensions} values) and grey; `--recipe "
            "conv` for convolutions.",
        )
    if accelerated:
        return "conv-large", "Network: wide residual convolutions, because the examples are images and there is a GPU."
    return "conv", "Network: residual convolutions, because the examples are images."


def _choose_latent(schema: Schema, asked: int | None) -> tuple[int, str]:
    check_latent(asked)
    if asked is not None:
        return asked, f"Latent: {asked} units, as asked."
    dims = schema.num_dimensions
    if schema.kind == "vectors":
        chosen = min(32, max(1, math.ceil(dims / 2)))
    else:
        chosen = max(2, min(128, 2 ** round(math.log2(dims) / 2 + 0.5)))
    return chosen, f"Latent: {chosen} units; units that the data do not need stay at the prior."


def _transform(data: Dataset, likelihood: str) -> tuple[Transform, tuple[float, float]]:
    """The transform, and the range of what comes out, for the network's input."""
    schema = data.schema
    if likelihood == "bernoulli":
        return Binarize(schema.levels or 2), (0.0, 1.0)
    if likelihood in _LEVELS:
        return Levels(), (0.0, float((schema.levels or 2) - 1))
    if likelihood in (*_COUNTS, "log-normal", "beta"):
        return _in_source_units(data, likelihood)
    if likelihood == "continuous-bernoulli":
        return Standardize(0.0, float((schema.levels or 2) - 1)), (0.0, 1.0)
    return Standardize.fit(data, per_dimension=schema.kind == "vectors"), (-1.0, 1.0)


def _in_logs(likelihood: str) -> bool:
    """Whether the network is given log(1 + x): these range over orders of magnitude."""
    return likelihood in (*_COUNTS, "log-normal")


def _in_source_units(data: Dataset, likelihood: str) -> tuple[Transform, tuple[float, float]]:
    """The values as they stand in the source, which counts and shares must be; positive numbers by their median."""
    schema, unit = data.schema, 1.0
    if likelihood == "log-normal":
        rows = spaced(len(data), _MEDIAN_ROWS)
        stored, observed = data.stored(rows).astype(np.float64), data.observed(rows)
        known = stored if observed is None else stored[observed]
        unit = schema.offset + schema.step * float(np.median(known)) if known.size else unit
    same = schema.offset == 0 and schema.step == 1 and unit == 1
    transform = Levels() if same else Standardize(-schema.offset / schema.step, unit / schema.step)
    low, high = schema.low / unit, schema.high / unit
    return transform, (math.log1p(low), math.log1p(high)) if _in_logs(likelihood) else (0.0, 1.0)


def _likelihood(family: str, network: Component, schema: Schema) -> Likelihood:
    shape, levels = schema.shape, schema.levels or 2
    scale = "per_dimension" if schema.kind == "vectors" else "shared"
    makers: dict[str, Callable[[], Likelihood]] = {
        "bernoulli": lambda: likelihoods.Bernoulli(network, shape),
        "continuous-bernoulli": lambda: likelihoods.ContinuousBernoulli(network, shape),
        "beta": lambda: likelihoods.Beta(network, shape),
        "normal": lambda: likelihoods.Normal(network, shape, scale),
        "laplace": lambda: likelihoods.Laplace(network, shape, scale),
        "logistic": lambda: likelihoods.Logistic(network, shape, scale),
        "log-cosh": lambda: likelihoods.HyperbolicSecant(network, shape, scale),
        "student-t": lambda: likelihoods.StudentT(network, shape, scale),
        "log-normal": lambda: likelihoods.LogNormal(network, shape, scale),
        "poisson": lambda: likelihoods.Poisson(network, shape),
        "negative-binomial": lambda: likelihoods.NegativeBinomial(network, shape, scale),
        "zero-inflated-poisson": lambda: likelihoods.ZeroInflatedPoisson(network, shape),
        "zinb": lambda: likelihoods.ZeroInflatedNegativeBinomial(network, shape, scale),
        "beta-binomial": lambda: likelihoods.BetaBinomial(network, shape, levels),
        "logistic-mixture": lambda: likelihoods.DiscretizedLogisticMixture(network, shape, levels, num_components=5),
        "categorical": lambda: likelihoods.Categorical(network, shape, levels),
    }
    return makers[family]()


Pair = tuple[Component, Component]


def _dense(schema: Schema, num_latents: int, span: tuple[float, float], features: int, depth: int = 2) -> Pair:
    """Gated layers, two on each side unless told."""
    hidden = [_width(schema)] * depth
    inward = networks.MLP(
        schema.shape, hidden, "gated", condition_features=features, input_range=span, observe_mask=schema.missing
    )
    return inward, networks.MLP(num_latents, hidden, "gated", condition_features=features)


def _width(schema: Schema) -> int:
    """Of dense layers: about 14 sqrt(values)."""
    return int(np.clip(64 * round(14 * math.sqrt(schema.num_dimensions) / 64), 64, 1024))


def _convolutional(
    schema: Schema,
    num_latents: int,
    span: tuple[float, float],
    features: int,
    first: int = 16,
    last: int = 128,
    blocks: int = 1,
) -> Pair:
    """`first` channels at full size, doubling up to `last`, with as many stages as bring the longer side to about 4."""
    stages = 1 + max(0, math.ceil(math.log2(max(schema.shape[1:]) / 4)))
    channels = [min(last, first * 2**i) for i in range(stages)]
    inward = networks.ConvEncoder(
        schema.shape, channels, blocks, condition_features=features, input_range=span, observe_mask=schema.missing
    )
    return inward, networks.ConvDecoder(num_latents, schema.shape, channels, blocks, condition_features=features)


def _ladder(
    schema: Schema, asked: int | None, span: tuple[float, float], features: int, log_input: bool, accelerated: bool
) -> tuple[networks.Ladder, str]:
    """Eleven levels for images of 28 x 28 or more, down to one pixel, and twice as many on a GPU; two for vectors."""
    reading: dict[str, Any] = {"input_range": span, "observe_mask": schema.missing, "log_input": log_input}
    reading["condition_features"] = features
    if schema.kind != "images":
        num_latents, _ = _choose_latent(schema, asked)
        levels = [math.ceil(num_latents / 2), num_latents]
        why = f"Latent: two levels of {levels[0]} and {levels[1]} units{'' if asked is None else ', the last as asked'}."
        return networks.DenseLadder(schema.shape, levels, width=_width(schema), **reading), why
    num_stages = 1 + math.ceil(math.log2(max(schema.shape[1:])))
    sizes = [max(size) for size in stage_sizes(schema.shape[1], schema.shape[2], num_stages)]
    stages = [next(stage for stage in _STAGES if size <= stage[0]) for size in sizes]
    wider = (1 if schema.num_dimensions <= _LARGEST_FLAT_IMAGE else 2) * (2 if accelerated else 1)
    channels = [wider * width for _, _, width in stages]
    levels = [count * (2 if accelerated else 1) for _, count, _ in stages]
    check_latent(asked)
    num_latents = asked or 16
    ladder = networks.ConvLadder(schema.shape, channels, levels, num_latents, **reading)
    units = sum(math.prod(shape) for shape in ladder.latent_shapes)
    chosen = "" if asked is None else ", as asked"
    why = f"Latent: {sum(levels)} levels of {num_latents} channels{chosen}, {units:,} units in all; most stay at the prior."
    return ladder, why


def _ladder_settings(ladder: networks.Ladder, data: Dataset) -> Json:
    """A step whose gradient is far beyond the usual, which is of the order of the number of values, is left out."""
    batch_size = _batch_size(len(data), "ladder")
    peak = 3e-3 * 64 / ladder.channels[-1] if isinstance(ladder, networks.ConvLadder) else 1e-3
    rate = peak * math.sqrt(batch_size / 64)
    skip = max(1e4, 20.0 * data.schema.num_dimensions)
    return {"learning_rate": rate, "batch_size": batch_size, "ema": 0.999, "clip_norm": 200.0, "skip_norm": skip}


def _large_convolutional(schema: Schema, num_latents: int, span: tuple[float, float], features: int) -> Pair:
    """The same for a GPU."""
    return _convolutional(schema, num_latents, span, features, first=64, last=512, blocks=2)


def _batch_size(num_examples: int, network: str) -> int:
    """At most 128, 256 for dense layers, 64 for ladders."""
    return batch_size_of(num_examples, {"mlp": 256, "ladder": 64}.get(network, 128))
