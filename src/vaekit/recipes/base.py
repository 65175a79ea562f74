"""What all recipes share: the record of what was chosen, priors by their names, and conditions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vaekit import priors
from vaekit.data.schema import Schema
from vaekit.data.transforms import Transform
from vaekit.errors import ConfigError
from vaekit.networks import ConditionEncoder
from vaekit.objectives import Objective
from vaekit.types import Json
from vaekit.vae import LatentModel

SECOND_STAGE = "mixture-full"
"""The prior that is fitted to the latents after training, where a recipe asks for one."""
LEAST_FOR_SECOND_STAGE = 1000
PRIORS = ("standard", "mixture", "vamp", "flow", "autoregressive")


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


def prior_of(
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


def condition_of(schema: Schema, names: Sequence[str]) -> tuple[ConditionEncoder | None, int]:
    """The encoder of the columns of these names, and how many features it has."""
    if not names:
        return None, 0
    columns = [schema.column(name) for name in dict.fromkeys(names)]
    categories = {column.name: len(column.categories) for column in columns if column.kind == "categorical"}
    numbers = {column.name: [column.mean, column.scale] for column in columns if column.kind == "number"}
    encoder = ConditionEncoder(categories, dropout=0.1, numbers=numbers or None)
    return encoder, encoder.out_features


def batch_size_of(num_examples: int, ceiling: int) -> int:
    """About 50 steps an epoch, from 16 to `ceiling`, never more than there are examples."""
    wanted = 2 ** round(math.log2(max(1, num_examples / 50)))
    return max(1, min(num_examples, ceiling, max(16, wanted)))


def check_latent(latent: int | None) -> None:
    """Raises a ConfigError for fewer than one latent unit."""
    if latent is not None and latent < 1:
        raise ConfigError(f"`latent` must be at least 1, got {latent}. Leave it out to let the data choose.")
