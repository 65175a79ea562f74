"""Parts for maps: latents of two or three units in which neighbours stay neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from vaekit.data.dataset import Dataset
from vaekit.errors import ConfigError
from vaekit.objectives import ELBO, Neighbours
from vaekit.recipes.arrays import arrays
from vaekit.recipes.base import Recipe, batch_size_of
from vaekit.recipes.tables import table
from vaekit.types import Json

NUM_NEIGHBOURS = 15
_DEPTH = 3
_LEAST_BATCH, _BATCH = 128, 512
"""Examples a step: those of the batch are the negatives, and more of them are nearer to all."""

_LEAST_WEIGHT, _WEIGHT = 100.0, 1.5
"""Of the neighbour term: so much for each value of an example, for the distortion grows with them, and at least so much."""
_FASTEST = 4e-3
"""The learning rate is twice that of other recipes, but no more: a map begins as a point, and has a way to go."""


def maps(
    data: Dataset,
    latent: int | None,
    likelihood: str | None,
    condition: Sequence[str],
    accelerated: bool,
    prior: str | None,
) -> Recipe:
    """The networks and the likelihood of the kind of data, one layer deeper where they are dense; two latent units, and the
    bound with the neighbour term.

    Levels get a continuous Bernoulli, unless another likelihood is asked for: it is the decoder's mean that is looked at, and
    mixtures of logistics over levels cost several times as much.

    Raises:
        ConfigError: for text.
    """
    if data.schema.kind == "text":
        raise ConfigError(
            "The recipe `map` must have images, vectors or a table, found text, whose tokens have no distance. Leave it out."
        )
    units = 2 if latent is None else latent
    neighbours = max(2, min(NUM_NEIGHBOURS, len(data) - 1))
    if data.schema.kind == "table":
        found = table(data, "auto", units, likelihood, condition, prior)
    else:
        family = "continuous-bernoulli" if likelihood is None and data.schema.values == "levels" else likelihood
        found = arrays(data, "auto", units, family, condition, accelerated, prior, depth=_DEPTH)
    size = min(len(data), max(_LEAST_BATCH, batch_size_of(len(data), _BATCH)))
    settings: Json = {**found.settings, "batch_size": size}
    rate = 2 * found.settings["learning_rate"] * math.sqrt(size / found.settings["batch_size"])
    settings["learning_rate"] = min(_FASTEST, rate)
    why = (
        f"Objective: the bound, and a term that keeps the {neighbours} nearest neighbours of each example near in the latent.",
        *(() if latent is not None else ("Latent: 2 units, to be looked at.",)),
    )
    reasons = tuple(reason for reason in found.reasons if latent is not None or not reason.startswith("Latent:"))
    bound = found.objective if isinstance(found.objective, ELBO) else ELBO()
    weight = max(_LEAST_WEIGHT, _WEIGHT * data.schema.num_dimensions)
    objective = Neighbours(bound, weight, num_neighbours=neighbours)
    return replace(found, settings=settings, reasons=(*reasons, *why), objective=objective)
