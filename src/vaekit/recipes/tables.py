"""Parts for tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vaekit import likelihoods, networks, posteriors
from vaekit.data.dataset import Dataset
from vaekit.data.tables.grid import CellGrid
from vaekit.errors import ConfigError
from vaekit.objectives import ELBO
from vaekit.recipes.base import LEAST_FOR_SECOND_STAGE, SECOND_STAGE, Recipe, check_latent, prior_of
from vaekit.types import Json
from vaekit.vae import VAE

_TABLE_WIDTHS = ((64, 256), (400, 512), (math.inf, 768))
"""Channels up to which a table has a width of its networks."""


def table(
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
    check_latent(latent)
    num_latents = latent if latent is not None else int(np.clip(2 * channels, 4, 32 if channels <= 100 else 64))
    width = next(width for most, width in _TABLE_WIDTHS if channels <= most)
    features = 16 if channels <= 400 else 8
    inward = networks.CellEmbedding(networks.ResidualMLP([channels, features], width), grid.sizes, grid.ordered, features)
    vae = VAE(
        prior=prior_of(prior or "standard", num_latents, schema, (-1.0, 1.0), 0, len(data)),
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
    second_stage = SECOND_STAGE if prior is None and len(data) >= LEAST_FOR_SECOND_STAGE else None
    return Recipe(vae, grid, settings, why, ELBO(warm_up=min(4000, 20 * steps)), second_stage)
