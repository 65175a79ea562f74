"""From a schema to sensible parts: what "auto" means, and why.

A recipe is nothing but a choice of components and settings. Every choice comes with a sentence that says what was chosen
and for what reason; each of them can be overridden on its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from vaekit.data.dataset import Dataset
from vaekit.errors import ConfigError
from vaekit.recipes.arrays import LIKELIHOODS, arrays
from vaekit.recipes.base import PRIORS, SECOND_STAGE, Recipe
from vaekit.recipes.maps import maps
from vaekit.recipes.tables import table
from vaekit.recipes.text import text

__all__ = ["LIKELIHOODS", "PRIORS", "RECIPES", "SECOND_STAGE", "Recipe", "make"]

RECIPES = ("auto", "mlp", "conv", "conv-large", "ladder", "table", "lstm", "transformer", "map")


def make(
    data: Dataset,
    recipe: str = "auto",
    latent: int | None = None,
    likelihood: str | None = None,
    condition: Sequence[str] = (),
    accelerated: bool = False,
    prior: str | None = None,
    private: bool = False,
) -> Recipe:
    """The parts for a data set.

    Args:
        data: the examples to train on.
        recipe: `auto`, or the kind of network: `mlp`, `conv` or `conv-large` (images only), `ladder`, a hierarchy of
            latents, `table` (tables only), `lstm` or `transformer` (text only); or `map`: what `auto` takes, with two latent
            units in which neighbours stay neighbours (no text).
        latent: number of latent units D; of a ladder, the channels of each level's latent, or of vectors the units of its
            last level; None to choose.
        likelihood: one of `LIKELIHOODS`; None for `auto`.
        condition: names of the columns that the model is conditioned on.
        accelerated: whether training runs on a GPU, where `auto` takes the larger networks.
        prior: one of `PRIORS`; None for `standard`. A ladder has its own.
        private: whether training is to be private, so that no part may mix the examples of a batch.

    Raises:
        ConfigError: for a name that is not known, or a combination that cannot be.
        DataError: if the data lie outside the likelihood's support, or lack a column.
    """
    if recipe not in RECIPES:
        raise ConfigError(f"`recipe` must be one of {', '.join(RECIPES)}; got {recipe!r}. Use `auto` to let the data choose.")
    if recipe == "map":
        return maps(data, latent, likelihood, condition, accelerated, prior)
    if data.schema.kind == "table":
        return table(data, recipe, latent, likelihood, condition, prior)
    if data.schema.kind == "text":
        return text(data, recipe, latent, likelihood, condition, accelerated, prior, private)
    return arrays(data, recipe, latent, likelihood, condition, accelerated, prior)
