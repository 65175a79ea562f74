"""From a schema to sensible parts: what "auto" means, and why.

A recipe is nothing but a choice of components and settings. Every choice comes with a sentence that says what was chosen
and for what reason; each of them can be overridden on its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vaekit import likelihoods, networks, posteriors, priors
from vaekit.component import Component
from vaekit.data.dataset import Dataset, spaced
from vaekit.data.schema import Schema
from vaekit.data.tables.grid import CellGrid
from vaekit.data.transforms import Binarize, Levels, Standardize, Transform
from vaekit.data.values import chunks
from vaekit.errors import ConfigError, DataError
from vaekit.likelihoods import Likelihood
from vaekit.networks import ConditionEncoder
from vaekit.networks.conv import stage_sizes
from vaekit.objectives import ELBO, Objective
from vaekit.types import Json
from vaekit.vae import VAE, HierarchicalVAE, LatentModel

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
RECIPES = ("auto", "mlp", "conv", "conv-large", "ladder", "table")
PRIORS = ("standard", "mixture", "vamp", "flow", "autoregressive")
_MEDIAN_ROWS = 1000
_MOST_VECTOR_LEVELS = 256
_NEAR_ZERO = 10.0
"""Counts begin at no more than their greatest by this factor: numbers such as years, far from 0, vary less than counts do."""
_DECADES = 1000.0
_LARGEST_FLAT_IMAGE = 1024
"""Values of a grey image up to which dense layers are chosen: they are as good there and several times faster."""

_STAGES = ((1, 2, 64), (2, 0, 64), (5, 4, 64), (10, 4, 64), (20, 1, 32), (math.inf, 0, 16))
"""Of a ladder's stage up to a size: levels of latents, few where they cost most, and width for small grey images."""


@dataclass(frozen=True)
class Recipe:
    """The parts that fit a data set.

    Attributes:
        vae: the model, fresh.
        transform: stored values to the likelihood's support.
        settings: defaults for the training config, which the user's own settings override.
        reasons: a sentence for each choice.
        objective: what is minimised where nothing else is asked for; None for the `ELBO` as it is.
        second_stage: the prior that is fitted to the latents after training (see `training.refit`); None for none.
    """

    vae: LatentModel
    transform: Transform
    settings: Json = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    objective: Objective | None = None
    second_stage: str | None = None


def make(
    data: Dataset,
    recipe: str = "auto",
    latent: int | None = None,
    likelihood: str | None = None,
    condition: Sequence[str] = (),
    accelerated: bool = False,
    prior: str | None = None,
) -> Recipe:
    """The parts for a data set.

    Args:
        data: the examples to train on.
        recipe: `auto`, or the kind of network: `mlp`, `conv` or `conv-large` (images only), `ladder`, a hierarchy of
            latents, or `table` (tables only).
        latent: number of latent units D; of a ladder, the channels of each level's latent, or of vectors the units of its
            last level; None to choose.
        likelihood: one of `LIKELIHOODS`; None for `auto`.
        condition: names of the columns that the model is conditioned on.
        accelerated: whether training runs on a GPU, where `auto` takes the larger networks.
        prior: one of `PRIORS`; None for `standard`. A ladder has its own.

    Raises:
        ConfigError: for a name that is not known, or a combination that cannot be.
        DataError: if the data lie outside the likelihood's support, or lack a column.
    """
    schema = data.schema
    if schema.kind == "table":
        return _table(data, recipe, latent, likelihood, condition, prior)
    family, why_family = _choose_likelihood(data, likelihood or "auto")
    network, why_network = _choose_network(schema, recipe, accelerated)
    transform, span = _transform(data, family)
    encoder, features = _condition(schema, condition)
    if network == "ladder":
        if prior is not None:
            raise ConfigError(f"`prior` must be left out for a ladder, whose levels are each other's prior; got {prior!r}.")
        ladder, why_latent = _ladder(schema, latent, span, features, _in_logs(family), accelerated)
        tail = networks.Tail(ladder.out_shape)
        vae = HierarchicalVAE(ladder, _likelihood(family, tail, schema), encoder)
        return Recipe(vae, transform, _ladder_settings(ladder, data), (why_family, why_network, why_latent))
    num_latents, why_latent = _choose_latent(schema, latent)
    make_networks = {"mlp": _dense, "conv": _convolutional, "conv-large": _large_convolutional}[network]
    inward, outward = make_networks(schema, num_latents, span, features)
    inward = networks.LogInput(inward) if _in_logs(family) else inward
    reach = (math.expm1(span[0]), math.expm1(span[1])) if _in_logs(family) else span
    vae = VAE(
        prior=_prior(prior or "standard", num_latents, schema, reach, features, len(data)),
        posterior=posteriors.DiagonalNormal(inward, num_latents),
        likelihood=_likelihood(family, outward, schema),
        condition=encoder,
    )
    batch_size = _batch_size(len(data), network)
    peak = 2e-3 if network == "mlp" else 1e-3
    settings: Json = {"learning_rate": peak * math.sqrt(batch_size / 256), "batch_size": batch_size}
    why_prior = () if prior is None else (f"Prior: {prior}, as asked.",)
    return Recipe(vae, transform, settings, (why_family, why_network, why_latent, *why_prior))


SECOND_STAGE = "mixture-full"
_LEAST_FOR_SECOND_STAGE = 1000
_TABLE_WIDTHS = ((64, 256), (400, 512), (math.inf, 768))
"""Channels up to which a table has a width of its networks."""


def _table(
    data: Dataset, recipe: str, latent: int | None, likelihood: str | None, condition: Sequence[str], prior: str | None
) -> Recipe:
    """Columns as cells between residual networks; trained to infer from any part of a row."""
    if recipe not in ("auto", "table"):
        raise ConfigError(f"The recipe of a table must be `table` or `auto`, got {recipe!r}. Leave it out.")
    if likelihood not in (None, "auto"):
        raise ConfigError(f"`likelihood` must be left out for a table, whose columns have one each; got {likelihood!r}.")
    if condition:
        raise ConfigError(
            f"`condition` must be left out for a table, got {list(condition)}. Whatever it is trained on, a model of a table "
            "generates rows where any column has a value: `generate --where`."
        )
    if prior == "vamp":
        raise ConfigError("The prior of a table must not be `vamp`, whose inputs are numbers; use `mixture` or `flow`.")
    schema, grid = data.schema, CellGrid.fit(data)
    channels = len(grid.sizes)
    num_latents = latent if latent is not None else int(np.clip(2 * channels, 4, 32 if channels <= 100 else 64))
    if num_latents < 1:
        raise ConfigError(f"`latent` must be at least 1, got {num_latents}. Leave it out to let the data choose.")
    width = next(width for most, width in _TABLE_WIDTHS if channels <= most)
    features = 16 if channels <= 400 else 8
    inward = networks.CellEmbedding(networks.ResidualMLP([channels, features], width), grid.sizes, grid.ordered, features)
    vae = VAE(
        prior=_prior(prior or "standard", num_latents, schema, (-1.0, 1.0), 0, len(data)),
        posterior=posteriors.DiagonalNormal(inward, num_latents),
        likelihood=likelihoods.Cells(networks.ResidualMLP(num_latents, width), grid.sizes, grid.ordered),
    )
    batch_size = max(1, min(len(data), 512, max(32, 2 ** round(math.log2(max(1, len(data) / 50))))))
    steps = max(1, len(data) // batch_size)
    settings: Json = {
        "learning_rate": 2e-3 * math.sqrt(batch_size / 512),
        "batch_size": batch_size,
        "hide": 0.25,
        "weight_decay": 0.02,
    }
    numbers = sum(grid.ordered)
    why = (
        f"Likelihood: cells, a histogram for each of {numbers} columns of numbers and the categories of the others, given the "
        "latent.",
        f"Network: two residual blocks of {width} on each side, over embeddings of {features} numbers a column.",
        f"Latent: {num_latents} units; units that the data do not need stay at the prior.",
        *(() if prior is None else (f"Prior: {prior}, as asked.",)),
    )
    second_stage = SECOND_STAGE if prior is None and len(data) >= _LEAST_FOR_SECOND_STAGE else None
    return Recipe(vae, grid, settings, why, ELBO(warm_up=min(4000, 20 * steps)), second_stage)


def _prior(
    name: str, num_latents: int, schema: Schema, span: tuple[float, float], features: int, num_examples: int
) -> priors.Prior:
    """The prior of a name. A Vamp prior has 500 pseudo-inputs, within the range of the data where they have one."""
    if name not in PRIORS:
        raise ConfigError(f"`prior` must be one of {', '.join(PRIORS)}; got {name!r}. Use `standard` when in doubt.")
    bounded = span if schema.levels is not None else None
    makers: dict[str, Callable[[], priors.Prior]] = {
        "standard": lambda: priors.StandardNormal(num_latents),
        "mixture": lambda: priors.MixtureOfNormals(num_latents, 100),
        "vamp": lambda: priors.Vamp(num_latents, schema.shape, min(500, num_examples), bounded, features),
        "flow": lambda: priors.Flow(num_latents),
        "autoregressive": lambda: priors.Autoregressive(num_latents),
    }
    return makers[name]()


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
    if recipe not in RECIPES:
        raise ConfigError(f"`recipe` must be one of {', '.join(RECIPES)}; got {recipe!r}. Use `auto` to let the data choose.")
    if recipe == "table":
        raise ConfigError(f"The recipe `table` must have a table of columns, found {schema.kind}. Use `mlp` or `auto`.")
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
    if asked is not None:
        if asked < 1:
            raise ConfigError(f"`latent` must be at least 1, got {asked}. Leave it out to let the data choose.")
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


def _condition(schema: Schema, names: Sequence[str]) -> tuple[ConditionEncoder | None, int]:
    if not names:
        return None, 0
    encoder = ConditionEncoder({name: len(schema.column(name).categories) for name in names}, dropout=0.1)
    return encoder, encoder.out_features


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


def _dense(schema: Schema, num_latents: int, span: tuple[float, float], features: int) -> Pair:
    """Two gated layers on each side."""
    hidden = [_width(schema)] * 2
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
    num_latents = asked or 16
    if asked is not None and asked < 1:
        raise ConfigError(f"`latent` must be at least 1, got {asked}. Leave it out to let the data choose.")
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
    """About 50 steps an epoch, from 16 to 128 (256 for dense layers, 64 for ladders), never more than there are examples."""
    ceiling = {"mlp": 256, "ladder": 64}.get(network, 128)
    wanted = 2 ** round(math.log2(max(1, num_examples / 50)))
    return max(1, min(num_examples, ceiling, max(16, wanted)))
