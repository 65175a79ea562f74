"""A run from data to a model folder: opening, choosing parts, training, publishing, and going on after a stop."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision

from vaekit.component import check_device
from vaekit.data.dataset import Dataset, fingerprint
from vaekit.data.loading import holdout
from vaekit.data.loading import open as open_data
from vaekit.data.transforms import Transform
from vaekit.errors import ConfigError, MissingExtraError, TrainingError
from vaekit.objectives import Objective
from vaekit.storage import FREQUENCIES, HELD_OUT, PRIOR_FIT, PRIVACY, QUANTILES, Bundle, described_privacy
from vaekit.training.callbacks import Callback, MetricsFile, display, tensorboard
from vaekit.training.checkpoint import whole
from vaekit.training.config import TrainConfig
from vaekit.training.folder import METRICS_FILE, RUN_FOLDER, check_out, publish, read_plan, start_folder, sweep
from vaekit.training.loop import CHECKPOINT_FILE, Outcome, Trainer
from vaekit.training.pairs import check as check_pairs
from vaekit.training.plan import Plan, check_own, make_plan
from vaekit.training.private import check_processes
from vaekit.types import Json
from vaekit.vae import LatentModel

HOLDOUT: Json = {"fraction": 0.1, "maximum": 2500, "seed": 0}
"""The part of the training examples that chooses the best weights, where the data bring none."""


def train(
    data: Any,
    out: str | Path | None = None,
    *,
    recipe: str = "auto",
    latent: int | None = None,
    likelihood: str | None = None,
    condition: Sequence[str] = (),
    beta: float | None = None,
    free_bits: float | None = None,
    warm_up: int | None = None,
    cycles: int | None = None,
    free_bits_per: str | None = None,
    capacity: float | None = None,
    prior: str | None = None,
    objective: Objective | str | None = None,
    vae: LatentModel | None = None,
    transform: Transform | None = None,
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    data_options: Mapping[str, Any] | None = None,
    display_as: str = "auto",
    callbacks: Sequence[Callback] = (),
    finish: Callable[[Bundle, Dataset, Dataset], Bundle] | None = None,
    **settings: Any,
) -> Bundle:
    """Trains a model on data, and publishes it in the folder `out`.

    Args:
        data: a path, an array, or an open data set.
        out: the run's folder; None to keep everything in memory.
        recipe, latent, likelihood, condition, prior: see `vaekit.recipes.make`; not used where `vae` is given.
        beta, free_bits, warm_up, cycles, free_bits_per, capacity: of the `ELBO`, and `beta` of `total-correlation`; their
            defaults where None. Not used where an `Objective` is given.
        objective: what is minimised, or the name of one of `training.plan.OBJECTIVES`.
        vae: a model of one's own, with its `transform`.
        transform: stored values to the likelihood's support; needed with `vae`.
        device: `auto`, `cpu`, `cuda`, or one device such as `cuda:1`.
        resume: go on with the run in `out`; start it if there is none.
        force: replace what `out` holds.
        data_options: for `vaekit.data.open`.
        display_as: `auto`, `live`, `plain`, `quiet`, which says what no person should miss, or `none`.
        callbacks: told what happens.
        finish: given the model, what it was trained on and what was held out, adds to it what is measured last; not asked of a
            run that is interrupted.
        **settings: of `TrainConfig`.

    Returns:
        The model with the best weights. `training["stopped"]` says how the run ended.

    Raises:
        ConfigError: for an argument that cannot be, or an `out` that exists.
        DataError: for data that cannot be read or do not fit.
        TrainingError: if the run diverges or its folder cannot be written.
    """
    named = objective if isinstance(objective, str) else None
    own = None if isinstance(objective, str) else objective
    check_own(vae, transform, own)
    folder = None if out is None else Path(out)
    fabric = make_fabric(device)
    # One process looks, for it is also the one that writes; where it finds a fault, torchrun ends the others.
    going_on = bool(fabric.broadcast(check_out(folder, data, resume, force) if fabric.is_global_zero else False))
    dataset = data if isinstance(data, Dataset) else open_data(data, **(data_options or {}))
    training, held_out = split(dataset)
    choices = {"recipe": recipe, "latent": latent, "likelihood": likelihood, "condition": list(condition), "prior": prior}
    bound = {"beta": beta, "free_bits": free_bits, "warm_up": warm_up, "capacity": capacity, "objective": named}
    bound |= {"cycles": cycles, "free_bits_per": free_bits_per}
    asked = {**choices, **bound, "settings": {name: value for name, value in settings.items() if value is not None}}
    plan = read_plan(folder, asked) if going_on else make_plan(training, asked, vae, transform, own, fabric.device)
    config = fabric.broadcast(plan.config.model_dump())  # speeds were measured, and processes may have found different ones
    plan = replace(plan, config=TrainConfig.model_validate(config))
    check_pairs(plan.objective, training, held_out)
    _check_batch(plan.config.batch_size, fabric.world_size)
    check_processes(plan.config, fabric.world_size)
    if folder is not None and not going_on and fabric.is_global_zero:
        start_folder(folder, plan, dataset)
    fabric.barrier()
    listeners = [*display(display_as), *callbacks] if fabric.is_global_zero else []
    anew = (f"There is nothing to resume in {folder}, so the run starts anew.",) if resume and not going_on else ()
    for sentence in (*anew, *dataset.notes, *(() if going_on else plan.reasons)):
        for listener in listeners:
            listener.on_note(sentence)
    if plan.config.precision != "float32":
        fabric = make_fabric(device, plan.config.precision)
    outcome = _fit(plan, training, held_out, fabric, folder, listeners, going_on)
    bundle = _bundle(plan, dataset, training, held_out, outcome)
    if outcome.privacy is not None:
        for listener in listeners:
            listener.on_note(f"The model has cost {described_privacy(outcome.privacy)}.")
    if plan.second_stage is not None and fabric.is_global_zero and outcome.progress.stopped != "interrupted":
        bundle = _with_second_stage(bundle, dataset, plan, listeners)
    bundle = _finished(bundle, (training, held_out), finish if outcome.progress.stopped != "interrupted" else None, fabric)
    if folder is not None and fabric.is_global_zero:
        try:
            publish(bundle, folder)
        except ConfigError as error:
            raise TrainingError(f"{error} The run is whole: make room, then run the same command with `--resume`.") from error
    fabric.barrier()
    return bundle


def _finished(
    bundle: Bundle,
    parts: tuple[Dataset, Dataset],
    finish: Callable[[Bundle, Dataset, Dataset], Bundle] | None,
    fabric: Fabric,
) -> Bundle:
    """The model with what is measured last, by one process, where it was trained."""
    if finish is None or not fabric.is_global_zero:
        return bundle
    for part in (bundle.vae, bundle.transform):
        part.to(fabric.device)
    bundle = finish(bundle, *parts)
    for part in (bundle.vae, bundle.transform):
        part.cpu()
    return bundle


def split(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """The examples to train on, and those held out for validation.

    A given split `valid` is used as it is; otherwise a seeded part of the training examples is held out. Test examples
    are never looked at.
    """
    training = dataset.split("train") if "train" in dataset.splits else dataset
    if "valid" in dataset.splits:
        return training, dataset.split("valid")
    rows, held_out = holdout(training, **HOLDOUT)
    return training.select(rows), training.select(held_out)


def make_fabric(device: str = "auto", precision: str = "float32") -> Fabric:
    """Fabric for this process: one device, or as many as `torchrun` started processes for.

    Raises:
        ConfigError: for a device that is not there.
    """
    found = check_device(device)
    accelerator, _, index = device.partition(":")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # what it announces, the reasons have said
    local, world = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), int(os.environ.get("WORLD_SIZE", 1))
    devices: Any = [int(index)] if index and accelerator == "cuda" else local
    plugins: Any = []
    if precision == "bf16":
        plugins = [_Reduced("bf16-mixed", found.type)]
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=max(1, world // local), plugins=plugins)
    fabric.launch()
    return fabric


class _Reduced(MixedPrecision):
    """Layers in a reduced precision, and data as they are: they would be rounded before the transform has seen them."""

    def convert_input(self, data: Any) -> Any:
        """The data, unchanged."""
        return data


def _check_batch(batch_size: int, processes: int) -> None:
    if batch_size % processes:
        raise ConfigError(
            f"`batch_size` must be a multiple of the {processes} processes, got {batch_size}. Give one with `--batch-size`."
        )


def _fit(
    plan: Plan,
    training: Dataset,
    held_out: Dataset,
    fabric: Fabric,
    folder: Path | None,
    listeners: list[Callback],
    resume: bool,
) -> Outcome:
    run = None if folder is None else folder / RUN_FOLDER
    if run is not None and fabric.is_global_zero:
        listeners = [*listeners, MetricsFile(run / METRICS_FILE), *tensorboard(run)]
    parts = (plan.vae, plan.transform, plan.objective, plan.config, training, held_out)
    trainer = Trainer(*parts, fabric, run, listeners, fingerprint(training), resume)
    try:
        if folder is not None and fabric.is_global_zero:
            sweep(folder)
        # The caller's own random numbers are left where they were.
        with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
            return trainer.fit()
    except OSError as error:
        if run is None:
            raise
        raise TrainingError(
            f"The folder {folder} must be writable, but: {error.strerror}. {whole(run / CHECKPOINT_FILE)} Make room, then run "
            "the same command with `--resume`."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # a full disk has been told of
            for listener in listeners:
                listener.close()


_COMPONENTS, _ROWS_A_COMPONENT, _DRAWN_LATENTS = 60, 450, 2**17
_WORSE = 0.5


def _with_second_stage(bundle: Bundle, dataset: Dataset, plan: Plan, listeners: Sequence[Callback]) -> Bundle:
    """The model with the prior that its recipe fits to the latents; as it is where that does not help.

    The fitted prior is kept even where the bound on held-out examples falls by up to half a nat: prior and encoder were
    trained for each other, and the fitted one has mass where the latents of data are, and none in the holes between them.
    """
    from vaekit.training.refit import refit_prior

    assert plan.second_stage is not None
    total = len(split(dataset)[0])
    # Rows are generated by the thousand and judged by their columns; texts are not worth minutes of this.
    most, drawn = (20, 2**15) if bundle.schema.kind == "text" else (_COMPONENTS, _DRAWN_LATENTS)
    components = max(1, min(most, total // _ROWS_A_COMPONENT))
    draws = max(1, min(16, drawn // total))
    try:
        fitted = refit_prior(bundle, dataset, plan.second_stage, components=components, draws=draws, seed=plan.config.seed)
    except MissingExtraError as error:
        for listener in listeners:
            listener.on_note(f"The prior stays as it was trained: {error}")
        return bundle
    fit = fitted.training[PRIOR_FIT]
    kept = fit["elbo"] >= fit["elbo_before"] - _WORSE
    verb = "is" if kept else "would be"
    for listener in listeners:
        listener.on_note(
            f"The prior {verb} a {plan.second_stage} of {components}: the bound on held-out examples went from "
            f"{fit['elbo_before']:.2f} to {fit['elbo']:.2f} nats."
        )
    return fitted if kept else bundle


def _bundle(plan: Plan, dataset: Dataset, training: Dataset, held_out: Dataset, outcome: Outcome) -> Bundle:
    """The model with the best weights and what is known of it."""
    plan.vae.load_state_dict(outcome.weights)
    progress, validation = outcome.progress, outcome.progress.best_validation
    encoder = plan.vae.condition
    summary: Json = {
        "stopped": progress.stopped,
        "warning": outcome.warning,
        "steps": progress.step,
        "best_step": progress.best_step,
        "epochs": round(progress.step * plan.config.batch_size / len(training), 3),
        "seconds": round(outcome.seconds, 3),
        "num_training_examples": len(training),
        "num_validation_examples": len(held_out),
        "reasons": list(plan.reasons),
        HELD_OUT: None if dataset.splits else {**HOLDOUT, "num_examples": len(dataset), "fingerprint": fingerprint(dataset)},
        "conditions": [] if encoder is None else list(encoder.names),
        PRIVACY: outcome.privacy,
        FREQUENCIES: {
            name: np.bincount(
                training.columns[name][training.columns[name] >= 0], minlength=len(dataset.schema.column(name).categories)
            ).tolist()
            for name in ([] if encoder is None else encoder.categories)
        },
        QUANTILES: {name: _quantiles(training.columns[name]) for name in ([] if encoder is None else encoder.numbers)},
        "objective": plan.objective.spec(),
        "config": plan.config.model_dump(mode="json"),
    }
    metrics = {f"validation_{name}": value for name, value in validation.items()}
    if outcome.privacy is not None:  # exact numbers of examples, held out or not, are not for others to see
        metrics, summary[HELD_OUT], summary[FREQUENCIES], summary[QUANTILES], summary["warning"] = {}, None, {}, {}, None
    schema = dataset.schema.model_copy(update={"num_examples": len(training) + len(held_out)})
    return Bundle(plan.vae.eval().cpu(), plan.transform.cpu(), schema, summary, metrics)


def _quantiles(numbers: np.ndarray) -> list[float]:
    """The quantiles 0, 1%, ..., 100% of the known numbers; none where there are none."""
    known = numbers[~np.isnan(numbers)]
    return np.quantile(known, np.linspace(0, 1, 101)).tolist() if len(known) else []
