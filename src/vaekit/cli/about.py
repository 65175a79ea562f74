"""What `vaekit info` says of a model: what it is, how it was trained, and how good it is."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vaekit.cli.output import short
from vaekit.storage import PRIOR_FIT, PRIVACY, described_privacy

if TYPE_CHECKING:
    from vaekit.model import Model

Rows = list[tuple[str, str]]
_BUDGETS = {"epochs": "epochs", "steps": "steps", "minutes": "minutes"}


def about(model: Model) -> Rows:
    """The rows of the table, a heading and a line each."""
    record = model.info()
    left_out = ("training", "metrics", "latent_shapes")
    rows = [(name, short(value)) for name, value in record.items() if name not in left_out]
    changed = {"num_latents": _latents(record)}
    if "prior" in record:
        changed["prior"] = _prior(model.bundle.vae.spec()["prior"])
    rows = [(name, changed.get(name, value)) for name, value in rows]
    return rows + _training(record["training"]) + [(f"metrics.{name}", short(v)) for name, v in record["metrics"].items()]


def _latents(record: Mapping[str, Any]) -> str:
    """How many, and of a ladder the size of each level, the first sampled first; a run of equal ones once."""
    levels = ["x".join(map(str, shape)) for shape in record.get("latent_shapes", [])]
    runs: list[tuple[str, int]] = []
    for level in levels:
        if runs and runs[-1][0] == level:
            runs[-1] = (level, runs[-1][1] + 1)
        else:
            runs.append((level, 1))
    sizes = ", ".join(level if count == 1 else f"{count} of {level}" for level, count in runs)
    return f"{record['num_latents']:,}" + (f" in {len(levels)} levels: {sizes}" if levels else "")


def _prior(spec: Mapping[str, Any]) -> str:
    standardised = spec["type"] == "priors.Standardized"
    return f"{spec['prior']['type']}, standardised" if standardised else spec["type"]


def _training(training: Mapping[str, Any]) -> Rows:
    """How the model came about: what was minimised, how long, on what, why, and how its prior was fitted afterwards."""
    rows: Rows = []
    config = training.get("config") or {}
    if "objective" in training:
        rows.append(("objective", described(training["objective"])))
    if config:
        rows += [("samples", short(config["num_samples"])), ("precision", config["precision"])]
        rows += [("budget", f"{config[name]:,g} {unit}") for name, unit in _BUDGETS.items() if config.get(name) is not None]
    known = ("steps", "best_step", "epochs", "stopped", "seconds", "num_training_examples", "num_validation_examples")
    rows += [(name, short(training[name])) for name in known if name in training]
    if training.get(PRIVACY):
        rows.append(("privacy", described_privacy(training[PRIVACY])))
    if training.get("warning"):
        rows.append(("warning", training["warning"]))
    if training.get(PRIOR_FIT):
        rows.append(("prior fit", _prior_fit(training[PRIOR_FIT])))
    return rows + [("reason", reason) for reason in training.get("reasons", [])]


def _prior_fit(fit: Mapping[str, Any]) -> str:
    how = [f"{fit[name]:,} {name}" for name in ("steps", "iterations") if name in fit]
    bounds = (
        f"bound {short(fit['elbo_before'])} before, {short(fit['elbo'])} after" if {"elbo_before", "elbo"} <= fit.keys() else ""
    )
    return ", ".join(filter(None, [str(fit.get("kind")), *how, bounds]))


def described(spec: Mapping[str, Any]) -> str:
    """A component's name, with the arguments that are not its defaults.

    Example:
        >>> described({"type": "objectives.ELBO", "beta": 4.0, "warm_up": 0})
        'objectives.ELBO with beta 4'
    """
    from vaekit.component import registered

    found = registered().get(spec["type"])
    defaults = {} if found is None else {name: p.default for name, p in inspect.signature(found.__init__).parameters.items()}
    changed = {
        name: value for name, value in spec.items() if name != "type" and value != defaults.get(name, inspect.Parameter.empty)
    }
    said = [f"{name} {_argument(value)}" for name, value in changed.items()]
    return spec["type"] + (f" with {', '.join(said)}" if said else "")


def _argument(value: object) -> str:
    return str(value["type"]) if isinstance(value, Mapping) and "type" in value else short(value)
