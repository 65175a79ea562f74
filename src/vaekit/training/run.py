"""A run from data to a model folder: opening, choosing parts, training, publishing, and going on after a stop.

OUT/
  vaekit.json, model.safetensors, README.md, preview.png   the model folder, published when the run ends or is interrupted
  training/
    config.json       what the run was told and what was chosen; a resumed run reads it
    metrics.jsonl     a line a report and a line a validation; TensorBoard events lie beside it
    last/             the checkpoint: everything for exact resume
    best.safetensors  the best weights so far
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from vaekit import __version__, recipes
from vaekit.data.dataset import Dataset, to_source
from vaekit.data.loading import holdout
from vaekit.data.loading import open as open_data
from vaekit.data.transforms import Transform
from vaekit.data.writing import atomic_file, write_grid
from vaekit.errors import ConfigError, DataError, MissingExtraError, TrainingError
from vaekit.objectives import ELBO, Objective
from vaekit.recipes import Recipe
from vaekit.storage import CONFIG_FILE, PREVIEW_FILE, Bundle, save
from vaekit.training.callbacks import Callback, MetricsFile, display, tensorboard
from vaekit.training.config import BUDGETS, TrainConfig, differences
from vaekit.training.loop import CHECKPOINT_FILE, Outcome, Trainer
from vaekit.training.precision import choose_precision
from vaekit.types import Json
from vaekit.vae import VAE

RUN_FOLDER = "training"
_RUN_CONFIG = "config.json"


@dataclass(frozen=True)
class Plan:
    """What a run trains, and how: made from the user's arguments, or read back when it is resumed."""

    vae: VAE
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


def train(
    data: Any,
    out: str | Path | None = None,
    *,
    recipe: str = "auto",
    latent: int | None = None,
    likelihood: str | None = None,
    condition: Sequence[str] = (),
    beta: float = 1.0,
    free_bits: float = 0.0,
    warm_up: int = 0,
    capacity: float | None = None,
    objective: Objective | None = None,
    vae: VAE | None = None,
    transform: Transform | None = None,
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    data_options: Mapping[str, Any] | None = None,
    display_as: str = "auto",
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Bundle:
    """Trains a model on data, and publishes it in the folder `out`.

    Args:
        data: a path, an array, or an open data set.
        out: the run's folder; None to keep everything in memory.
        recipe, latent, likelihood, condition: see `vaekit.recipes.make`; not used where `vae` is given.
        beta, free_bits, warm_up, capacity: of the `ELBO`; not used where `objective` is given.
        objective: what is minimised.
        vae: a model of one's own, with its `transform`.
        transform: stored values to the likelihood's support; needed with `vae`.
        device: `auto`, `cpu`, `cuda`, or one device such as `cuda:1`.
        resume: go on with the run in `out`; start it if there is none.
        force: replace what `out` holds.
        data_options: for `vaekit.data.open`.
        display_as: `auto`, `live`, `plain` or `quiet`.
        callbacks: told what happens.
        **settings: of `TrainConfig`.

    Returns:
        The model with the best weights. `training["stopped"]` says how the run ended.

    Raises:
        ConfigError: for an argument that cannot be, or an `out` that exists.
        DataError: for data that cannot be read or do not fit.
        TrainingError: if the run diverges or its folder cannot be written.
    """
    folder = None if out is None else Path(out)
    fabric = make_fabric(device)
    # One process looks, for it is also the one that writes; where it finds a fault, torchrun ends the others.
    going_on = bool(fabric.broadcast(_check_out(folder, resume, force) if fabric.is_global_zero else False))
    dataset = data if isinstance(data, Dataset) else open_data(data, **(data_options or {}))
    training, held_out = split(dataset)
    asked = {
        "recipe": recipe,
        "latent": latent,
        "likelihood": likelihood,
        "condition": list(condition),
        "beta": beta,
        "free_bits": free_bits,
        "warm_up": warm_up,
        "capacity": capacity,
        "settings": {name: value for name, value in settings.items() if value is not None},
    }
    parts = (vae, transform, objective)
    if going_on:
        plan = _read_plan(folder, asked)
    else:
        plan = make_plan(training, asked, *parts, device=fabric.device)
    config = fabric.broadcast(plan.config.model_dump())  # speeds were measured, and processes may have found different ones
    plan = replace(plan, config=TrainConfig.model_validate(config))
    if folder is not None and not going_on and fabric.is_global_zero:
        _start_folder(folder, plan, dataset)
    listeners = [*display(display_as), *callbacks] if fabric.is_global_zero else []
    for sentence in (*dataset.notes, *(() if going_on else plan.reasons)):
        for listener in listeners:
            listener.on_note(sentence)
    outcome = _fit(plan, training, held_out, make_fabric(device, plan.config.precision), folder, listeners)
    bundle = _bundle(plan, dataset, training, held_out, outcome)
    if folder is not None and fabric.is_global_zero:
        publish(bundle, folder)
    return bundle


def split(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """The examples to train on, and those held out for validation.

    A given split `valid` is used as it is; otherwise a seeded part of the training examples is held out. Test examples
    are never looked at.
    """
    training = dataset.split("train") if "train" in dataset.splits else dataset
    if "valid" in dataset.splits:
        return training, dataset.split("valid")
    rows, held_out = holdout(training)
    return training.select(rows), training.select(held_out)


def make_plan(
    data: Dataset,
    asked: Json,
    vae: VAE | None = None,
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
            names = ("recipe", "latent", "likelihood", "condition")
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
        objective = ELBO(beta=asked["beta"], warm_up=asked["warm_up"], free_bits=asked["free_bits"], capacity=asked["capacity"])
    check_support(chosen, data)
    config = TrainConfig.make(**{**chosen.settings, **settings})
    reasons = list(chosen.reasons)
    if config.batch_size > len(data):
        reasons.append(f"Batch: {len(data)} examples, because there are no more; {config.batch_size} were asked for.")
        config = config.model_copy(update={"batch_size": len(data)})
    config, why = choose_precision(config, chosen.vae, chosen.transform, objective, data, torch.device(device))
    return Plan(chosen.vae, chosen.transform, objective, config, asked, (*reasons, *why))


def check_support(chosen: Recipe, data: Dataset) -> None:
    """Raises a DataError if a sample of the data lies outside the likelihood's support."""
    rows = np.unique(np.linspace(0, len(data) - 1, min(len(data), 1000)).astype(np.int64))
    batch = data.batch(rows)
    x = chosen.transform(batch.x)
    if batch.mask is not None:
        x = torch.where(batch.mask, x, x[batch.mask][0])
    problem = chosen.vae.likelihood.check(x)
    if problem:
        raise DataError(
            f"{problem}, found values from {x.min().item():g} to {x.max().item():g}. Choose another likelihood, or mend "
            "the data."
        )


def make_fabric(device: str = "auto", precision: str = "float32") -> Fabric:
    """Fabric for this process: one device, or as many as `torchrun` started processes for.

    Raises:
        ConfigError: for a device that is not there.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"The device must be there, found no CUDA device for {device!r}. Use `--device cpu` or `auto`.")
    accelerator, _, index = device.partition(":")
    if accelerator not in ("auto", "cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise ConfigError(f"`device` must be auto, cpu, cuda, cuda:N or mps; got {device!r}.")
    local, world = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), int(os.environ.get("WORLD_SIZE", 1))
    devices: Any = [int(index)] if index else local
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=max(1, world // local),
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def fingerprint(data: Dataset) -> str:
    """A hash of the schema, the number of examples and a thousand of them, to know the data again."""
    rows = np.unique(np.linspace(0, len(data) - 1, min(len(data), 1000)).astype(np.int64))
    digest = hashlib.sha256(data.schema.model_dump_json(exclude={"source"}).encode())
    digest.update(np.ascontiguousarray(data.x[rows]).tobytes())
    return digest.hexdigest()


def _fit(
    plan: Plan, training: Dataset, held_out: Dataset, fabric: Fabric, folder: Path | None, listeners: list[Callback]
) -> Outcome:
    run = None if folder is None else folder / RUN_FOLDER
    if run is not None and fabric.is_global_zero:
        for leftover in run.rglob(".*tmp*"):  # files that a kill left half written
            leftover.unlink()
        listeners = [*listeners, MetricsFile(run / "metrics.jsonl"), *tensorboard(run)]
    if plan.config.batch_size % fabric.world_size:
        raise ConfigError(
            f"`batch_size` must be a multiple of the {fabric.world_size} processes, got {plan.config.batch_size}."
        )
    trainer = Trainer(
        plan.vae, plan.transform, plan.objective, plan.config, training, held_out, fabric, run, listeners, fingerprint(training)
    )
    try:
        return trainer.fit()
    except OSError as error:
        raise TrainingError(
            f"The folder {folder} must be writable, but: {error.strerror}. The last checkpoint is whole. Make room, "
            "then run the same command with `--resume`."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # a full disk has been told of
            for listener in listeners:
                listener.close()


# ------------------------------------------------------------------ the folder


def _check_out(folder: Path | None, resume: bool, force: bool) -> bool:
    """Whether a run in the folder is to be gone on with."""
    if resume and force:
        raise ConfigError(
            "`resume` and `force` must not be given together: one keeps the run in the folder, the other replaces it. "
            "Choose one."
        )
    if folder is None:
        if resume:
            raise ConfigError("A run must have a folder to be resumed from, got none. Give `out`.")
        return False
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"The output must be a folder, found a file at {folder}. Choose another name.")
    run = folder / RUN_FOLDER
    begun = (run / _RUN_CONFIG).is_file()
    if not force and not (resume and begun) and folder.exists() and any(folder.iterdir()):
        what = "a run" if begun else "other files"
        remedy = "go on with it by `--resume`, replace it by `--force`" if begun else "replace what is in the way by `--force`"
        raise ConfigError(
            f"The output folder must be new or empty, found {what} in {folder}. Choose another name, or {remedy}."
        )
    return resume and (run / CHECKPOINT_FILE).is_file()  # killed before its first checkpoint, a run starts again


def _start_folder(folder: Path, plan: Plan, dataset: Dataset) -> None:
    """An empty run with its config; of an older run in the folder nothing that could be mistaken for this one stays."""
    run = folder / RUN_FOLDER
    try:
        (folder / CONFIG_FILE).unlink(missing_ok=True)
        if run.exists():
            shutil.rmtree(run)
        (run / "last").mkdir(parents=True)
        with atomic_file(run / _RUN_CONFIG) as path:
            path.write_text(json.dumps(plan.to_json(dataset.schema.model_dump(mode="json")), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise TrainingError(
            f"The folder {folder} must be writable, but: {error.strerror}. Choose another folder, or make room."
        ) from error


def _read_plan(folder: Path | None, asked: Json) -> Plan:
    """The plan of the run in the folder, with a budget that may be new."""
    assert folder is not None  # only a folder can hold a run to go on with
    path = folder / RUN_FOLDER / _RUN_CONFIG
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        config = TrainConfig.model_validate(saved["config"])
        told = saved["asked"]
    except (ValueError, KeyError) as error:
        raise TrainingError(f"{path} must be the config of a run, but: {error}. Start again with `--force`.") from error
    changed = differences(told["settings"], asked["settings"])
    changed += [
        f"{name}: {told[name]!r} then, {value!r} now"
        for name, value in asked.items()
        if name != "settings" and told[name] != value
    ]
    if changed:
        raise ConfigError(
            f"A resumed run must have the settings it began with, found {'; '.join(changed)}. Leave them out, or start "
            "anew with `--force`."
        )
    new = {name: value for name, value in asked["settings"].items() if name in (*BUDGETS, "checkpoint_seconds", "patience")}
    budget = dict.fromkeys(BUDGETS) if set(new) & set(BUDGETS) else {}
    config = TrainConfig.make(**{**config.model_dump(), **budget, **new})
    return Plan(
        VAE.from_spec(saved["model"]),
        Transform.from_spec(saved["transform"]),
        Objective.from_spec(saved["objective"]),
        config,
        told,
    )


def _bundle(plan: Plan, dataset: Dataset, training: Dataset, held_out: Dataset, outcome: Outcome) -> Bundle:
    """The model with the best weights and what is known of it."""
    plan.vae.load_state_dict(outcome.weights)
    progress, validation = outcome.progress, outcome.progress.best_validation
    conditions = list(plan.asked["condition"])
    summary: Json = {
        "stopped": progress.stopped,
        "steps": progress.step,
        "best_step": progress.best_step,
        "epochs": round(progress.step * plan.config.batch_size / len(training), 3),
        "seconds": round(outcome.seconds, 3),
        "num_training_examples": len(training),
        "num_validation_examples": len(held_out),
        "reasons": list(plan.reasons),
        "conditions": conditions,
        "condition_counts": {
            name: np.bincount(
                training.columns[name][training.columns[name] >= 0], minlength=len(dataset.schema.column(name).categories)
            ).tolist()
            for name in conditions
        },
        "objective": plan.objective.spec(),
        "config": plan.config.model_dump(mode="json"),
    }
    metrics = {f"validation_{name}": value for name, value in validation.items()}
    schema = dataset.schema.model_copy(update={"num_examples": len(training) + len(held_out)})
    return Bundle(plan.vae.eval().cpu(), plan.transform.cpu(), schema, summary, metrics)


def publish(bundle: Bundle, folder: Path) -> None:
    """Writes the model folder with its preview.

    Raises:
        TrainingError: if it cannot be written.
    """
    try:
        if bundle.schema.kind == "images" and bundle.schema.shape[0] in (1, 3, 4):
            preview(bundle, folder)
        save(bundle, folder)
    except (ConfigError, OSError) as error:
        raise TrainingError(f"{error} The run is whole: make room, then run the same command with `--resume`.") from error


def preview(bundle: Bundle, folder: Path, num: int = 64) -> None:
    """preview.png: means of p(x|z) at draws of the prior. Without an image library there is none."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = bundle.vae
        condition = None
        if vae.condition is not None:
            condition = {name: torch.arange(num) % count for name, count in vae.condition.categories.items()}
        z = vae.sample_prior(num, condition=condition)
        mean = bundle.transform.inverse(vae.decode(z, condition=condition).mean[0])
    try:
        write_grid(to_source(mean.numpy(), bundle.schema), bundle.schema, folder / PREVIEW_FILE, force=True)
    except MissingExtraError:
        return
