"""What a run trains, and how: chosen for the data, or read back when the run is resumed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vaekit import __version__, recipes
from vaekit.data.dataset import Dataset
from vaekit.data.transforms import Transform
from vaekit.errors import ConfigError, DataError
from vaekit.objectives import ELBO, IWAE, DReG, Objective, StickingTheLanding, TotalCorrelation
from vaekit.recipes import Recipe
from vaekit.training.config import TrainConfig
from vaekit.training.precision import choose_precision
from vaekit.types import Json
from vaekit.vae import LatentModel


@dataclass(frozen=True)
class Plan:
    """What a run trains, and how: made from the user's arguments, or read back when it is resumed."""

    vae: LatentModel
    transform: Transform
    objective: Objective
    config: TrainConfig
    asked: Json
    reasons: tuple[str, ...] = ()

    def to_json(self, schema: Json) -> Json:
        """config.json."""
        return {
            "vaekit": __version__,
            "asked": self.asked,
            "model": self.vae.spec(),
            "transform": self.transform.spec(),
            "objective": self.objective.spec(),
            "config": self.config.model_dump(mode="json"),
            "reasons": list(self.reasons),
            "schema": schema,
        }


def make_plan(
    data: Dataset,
    asked: Json,
    vae: LatentModel | None = None,
    transform: Transform | None = None,
    objective: Objective | None = None,
    device: torch.device | str = "cpu",
) -> Plan:
    """Chooses the parts, and lets the user's settings override the recipe's."""
    settings = dict(asked["settings"])
    seed = TrainConfig.make(**settings).seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if vae is None:
            names = ("recipe", "latent", "likelihood", "condition", "prior")
            accelerated = torch.device(device).type == "cuda"
            chosen = recipes.make(data, **{name: asked[name] for name in names}, accelerated=accelerated)
        elif transform is None:
            raise ConfigError(
                "A `vae` of one's own must come with its `transform`, got none. Use `data.transforms.Levels()` for "
                "whole levels."
            )
        else:
            chosen = Recipe(vae, transform, {"batch_size": min(128, len(data))}, ())
    if objective is None:
        objective, its_settings = named_objective(asked)
        settings = {**its_settings, **settings}
    check_support(chosen, data)
    config = TrainConfig.make(**{**chosen.settings, **settings})
    reasons = list(chosen.reasons)
    if config.batch_size > len(data):
        reasons.append(f"Batch: {len(data)} examples, because there are no more; {config.batch_size} were asked for.")
        config = config.model_copy(update={"batch_size": len(data)})
    config, why = choose_precision(config, chosen.vae, chosen.transform, objective, data, torch.device(device))
    return Plan(chosen.vae, chosen.transform, objective, config, asked, (*reasons, *why))


OBJECTIVES = ("elbo", "iwae", "dreg", "stl", "total-correlation")
_OF_ELBO: Json = {"beta": 1.0, "warm_up": 0, "free_bits": 0.0, "capacity": None}


def named_objective(asked: Json) -> tuple[Objective, Json]:
    """The objective of a name, and the settings that go with it: five samples, where one would make it the ELBO.

    Raises:
        ConfigError: for a name that is not known, or arguments of the ELBO beside another one.
    """
    name = asked.get("objective") or "elbo"
    given = {key: asked[key] for key in _OF_ELBO}
    if name == "elbo":
        return ELBO(**given), {}
    if name not in OBJECTIVES:
        raise ConfigError(f"`objective` must be one of {', '.join(OBJECTIVES)}; got {name!r}. Use `elbo` when in doubt.")
    changed = [key for key, default in _OF_ELBO.items() if given[key] != default]
    allowed = ["beta"] if name == "total-correlation" else []
    foreign = [key for key in changed if key not in allowed]
    if foreign:
        raise ConfigError(f"`{foreign[0]}` must be left out with the objective `{name}`, for it is an argument of `elbo`.")
    several = {"num_samples": 5}
    named: dict[str, tuple[Objective, Json]] = {
        "iwae": (IWAE(), several),
        "dreg": (DReG(), several),
        "stl": (StickingTheLanding(), {}),
        "total-correlation": (TotalCorrelation(**{key: given[key] for key in changed}), {}),
    }
    return named[name]


def check_support(chosen: Recipe, data: Dataset) -> None:
    """Raises a DataError if a sample of the data lies outside the likelihood's support."""
    rows = np.unique(
        np.linspace(0, len(data) - 1, max(1, min(len(data), 1000, 2**24 // data.schema.num_dimensions))).astype(np.int64)
    )
    batch = data.batch(rows)
    x = chosen.transform(batch.x)
    problem = chosen.vae.likelihood.check(x, batch.mask)
    if problem:
        x = x if batch.mask is None else x[batch.mask]
        raise DataError(
            f"{problem}, found values from {x.min().item():g} to {x.max().item():g}. Choose another likelihood, or mend "
            "the data."
        )
