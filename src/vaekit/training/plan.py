"""What a run trains, and how: chosen for the data, or read back when the run is resumed."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from vaekit import __version__, recipes
from vaekit.data.dataset import Dataset
from vaekit.data.transforms import Transform
from vaekit.errors import ConfigError, DataError, VaekitError
from vaekit.objectives import ELBO, IWAE, DReG, Neighbours, Objective, StickingTheLanding, TotalCorrelation
from vaekit.recipes import Recipe
from vaekit.training import labels, pairs, private, stages
from vaekit.training.config import BUDGETS, TrainConfig
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
    second_stage: str | None = None

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
            "second_stage": self.second_stage,
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
    """Chooses the parts, and lets the user's settings override the recipe's.

    All parts are tried on a few examples, so that those that do not fit each other or the data are refused here.

    Raises:
        ConfigError: for an argument that cannot be, or parts that do not fit each other.
        DataError: for data that do not fit the parts.
    """
    settings = dict(asked["settings"])
    seed, private_run = TrainConfig.make(**settings).seed, settings.get("dp_epsilon") is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if vae is None:
            names = ("recipe", "latent", "likelihood", "condition", "prior")
            accelerated = torch.device(device).type == "cuda"
            about = {name: asked[name] for name in names}
            chosen = recipes.make(data, **about, accelerated=accelerated, private=private_run)
        elif transform is None:
            raise ConfigError(
                "A `vae` of one's own must come with its `transform`, got none. Use `data.transforms.Levels()` for "
                "whole levels."
            )
        else:
            chosen = Recipe(vae, transform, {"batch_size": min(128, len(data))}, ())
    chosen, objective, its_settings = _with_objective(chosen, objective, asked, data)
    settings = {**its_settings, **settings}
    budgeted = any(settings.get(name) is not None for name in BUDGETS)
    defaults = {name: value for name, value in chosen.settings.items() if not (budgeted and name in BUDGETS)}
    config = TrainConfig.make(**{**defaults, **settings})
    if "pretrain" not in settings:
        config = config.model_copy(update={"pretrain": stages.default_pretrain(config, objective, len(data))})
    reasons = list(chosen.reasons)
    if config.batch_size > len(data):
        reasons.append(f"Batch: {len(data)} examples, because there are no more; {config.batch_size} were asked for.")
        config = config.model_copy(update={"batch_size": len(data)})
    if len(data) < _FEW_EXAMPLES:
        reasons.append(f"Examples: {len(data)} to train on are few; the model will know them, and little of others like them.")
    config = private.settled(config, asked["settings"], len(data))
    stages.check(chosen.vae, objective, config, config.total_steps(len(data)))
    pairs.check(objective, data)
    reasons += [*_echo(asked, config), *stages.reasons(config), *private.reason(config)]
    with torch.random.fork_rng(devices=[]):
        _try_out(chosen, objective, data, config.num_samples, vae is not None)
        if config.dp_epsilon is not None:
            private.check_parts(chosen.vae, chosen.transform, objective, data, config)
            chosen = replace(chosen, second_stage=None)  # it would be fitted to the latents of all examples
    if chosen.second_stage is not None:
        reasons.append(
            f"Prior: after training, a {chosen.second_stage} of normals with full covariances, fitted to the latents"
            f"{'' if chosen.vae.condition is None else ' of each condition'}."
        )
    config, why = choose_precision(config, chosen.vae, chosen.transform, objective, data, torch.device(device))
    return Plan(chosen.vae, chosen.transform, objective, config, asked, (*reasons, *why), chosen.second_stage)


def _with_objective(chosen: Recipe, objective: Objective | None, asked: Json, data: Dataset) -> tuple[Recipe, Objective, Json]:
    """The recipe, the objective, and the settings that go with it: the one that is given, the recipe's own, or one by name."""
    if objective is not None:
        return chosen, objective, {}
    if asked.get("objective") == "semi-supervised":
        objective, reasons = labels.prepared(chosen.vae, data, asked)
        return replace(chosen, reasons=(*chosen.reasons, *reasons)), objective, {}
    same = asked.get("objective") == "neighbours" and isinstance(chosen.objective, Neighbours)
    if chosen.objective is not None and (same or not asked.get("objective")):
        objective = _overridden(chosen.objective, asked)
    found, settings = named_objective(asked) if objective is None else (objective, {})
    return chosen, found, settings


OBJECTIVES = ("elbo", "iwae", "dreg", "stl", "total-correlation", "neighbours", "semi-supervised")
_OF_ELBO: Json = {"beta": 1.0, "warm_up": 0, "cycles": 1, "free_bits": 0.0, "free_bits_per": "unit", "capacity": None}
_FEW_EXAMPLES = 50
_TRIED_EXAMPLES = 8


def named_objective(asked: Json) -> tuple[Objective, Json]:
    """The objective of a name, and the settings that go with it: five samples, where one would make it the ELBO.

    Raises:
        ConfigError: for a name that is not known, or arguments of the ELBO beside another one.
    """
    name = asked.get("objective") or "elbo"
    given = {key: asked[key] for key in _OF_ELBO if asked.get(key) is not None}
    if name == "elbo":
        return ELBO(**given), {}
    if name not in OBJECTIVES:
        raise ConfigError(f"`objective` must be one of {', '.join(OBJECTIVES)}; got {name!r}. Use `elbo` when in doubt.")
    changed = [key for key, value in given.items() if value != _OF_ELBO[key]]
    allowed = {"total-correlation": ["beta"], "neighbours": list(_OF_ELBO)}.get(name, [])
    foreign = [key for key in changed if key not in allowed]
    if foreign:
        raise ConfigError(f"`{foreign[0]}` must be left out with the objective `{name}`, for it is an argument of `elbo`.")
    if name == "neighbours":
        return Neighbours(ELBO(**given)), {}
    several = {"num_samples": 5}
    named: dict[str, tuple[Objective, Json]] = {
        "iwae": (IWAE(), several),
        "dreg": (DReG(), several),
        "stl": (StickingTheLanding(), {}),
        "total-correlation": (TotalCorrelation(**{key: given[key] for key in allowed if key in given}), {}),
    }
    return named[name]


def _overridden(objective: Objective, asked: Json) -> Objective | None:
    """The objective of a recipe with the arguments of the ELBO that were asked for; None where it takes none, and some were."""
    given = {key: asked[key] for key in _OF_ELBO if asked.get(key) is not None}
    if isinstance(objective, Neighbours) and (base := _overridden(objective.base, asked)) is not None:
        own = {name: value for name, value in objective.spec().items() if name not in ("type", "base")}
        return Neighbours(base, **own)
    if not given or not isinstance(objective, ELBO):
        return None if given else objective
    own = {name: value for name, value in objective.spec().items() if name != "type"}
    if "capacity" in given:
        own["free_bits"] = 0.0  # which cannot be set together
    return ELBO(**{**own, **given})


def same_choice(name: str, then: Any, now: Any, objective: Json) -> bool:
    """Whether an argument of a resumed run means what it meant when the run began.

    An argument of the ELBO that is left out means its default, and older runs have that default in place of None.

    Args:
        name: of the argument.
        then: what the run was told.
        now: what it is told on going on.
        objective: the spec of the run's objective.

    Example:
        >>> same_choice("beta", 1.0, None, {"beta": 1.0}), same_choice("beta", None, 1.0, {"beta": 6.0})
        (True, False)
    """
    if then == now or name not in _OF_ELBO:
        return then == now
    default = _OF_ELBO[name]
    return then == default if now is None else then is None and now == objective.get(name, default)


def check_own(vae: object, transform: object, objective: object) -> None:
    """Raises a ConfigError if a part of the user's own is no such part, or is a class where one of them must be made."""
    for name, part, base in (
        ("vae", vae, LatentModel),
        ("transform", transform, Transform),
        ("objective", objective, Objective),
    ):
        if part is None or isinstance(part, base):
            continue
        found = f"the class {part.__name__}" if inspect.isclass(part) else f"a {type(part).__name__}"
        remedy = f"Make one: `{part.__name__}(...)`." if inspect.isclass(part) else "Leave it out to have one chosen."
        kind = {"vae": "a `VAE` or another `LatentModel`", "transform": "a `data.transforms.Transform`"}.get(
            name, "an `Objective` or the name of one"
        )
        raise ConfigError(f"`{name}` must be {kind}, got {found}. {remedy}")


def _echo(asked: Json, config: TrainConfig) -> list[str]:
    """The objective that was asked for, with what was asked of it."""
    given = {name: asked[name] for name in _OF_ELBO if asked.get(name) is not None}
    if not asked.get("objective") and not given:
        return []
    details = [f"{config.num_samples} samples"] if config.num_samples > 1 else []
    said = {name: value if isinstance(value, str) else f"{value:g}" for name, value in given.items()}
    details += [f"{name.replace('_', ' ')} {value}" for name, value in said.items()]
    return [f"Objective: {asked.get('objective') or 'elbo'}{' with ' + ' and '.join(details) if details else ''}, as asked."]


def _try_out(chosen: Recipe, objective: Objective, data: Dataset, num_samples: int, own: bool) -> None:
    """One forward pass of copies of all parts on a few examples, after the check of the likelihood's support.

    Raises:
        ConfigError: if the parts do not fit each other.
        DataError: if the data do not fit the parts.
    """
    rows = np.unique(
        np.linspace(0, len(data) - 1, max(1, min(len(data), 1000, 2**24 // data.schema.num_dimensions))).astype(np.int64)
    )
    batch, shape = data.batch(rows), tuple(chosen.vae.likelihood.shape)
    if shape != tuple(data.schema.shape):
        raise DataError(
            f"The examples must have the shape {shape} that the `vae` is made for, found {tuple(data.schema.shape)}. "
            "Make the `vae` for that shape, or reshape the data."
        )
    vae, judge = copy.deepcopy(chosen.vae).cpu().train(), copy.deepcopy(objective).cpu().train()
    try:
        x = copy.deepcopy(chosen.transform).cpu()(batch.x)
        _check_support(chosen, x, batch.mask)
        vae.initialize(x, batch.mask, vae.condition_of(batch.columns, len(x)))
        few = data.batch(rows[:_TRIED_EXAMPLES])
        condition = vae.condition_of(few.columns, len(few.x))
        trace = vae(x[:_TRIED_EXAMPLES], condition=condition, mask=few.mask, num_samples=num_samples)
        judge(replace(pairs.tried(objective, trace), num_data=len(data)), 0)
    except VaekitError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if not own:
            raise
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(
            f"The `vae` and its `transform` must take examples of the shape {shape}, but: {reason}. Make their networks for it."
        ) from error


def _check_support(chosen: Recipe, x: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Raises a DataError if a value lies outside the likelihood's support."""
    problem = chosen.vae.likelihood.check(x, mask)
    if problem:
        x = x if mask is None else x[mask]
        raise DataError(
            f"{problem}, found values from {x.min().item():g} to {x.max().item():g}. Choose another likelihood, or mend "
            "the data."
        )
