"""The folder of a run.

OUT/
  vaekit.json, model.safetensors, README.md, preview.png   the model folder, published when the run ends or is interrupted
  training/
    config.json       what the run was told and what was chosen; a resumed run reads it
    metrics.jsonl     a line a report and a line a validation; TensorBoard events lie beside it
    last/             the checkpoint: everything for exact resume, and the best weights so far
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from vaekit.data.dataset import Dataset, to_source
from vaekit.data.output import as_json, atomic_file, leftovers
from vaekit.data.transforms import Transform
from vaekit.data.writing import write_grid
from vaekit.errors import ConfigError, MissingExtraError, ModelFormatError, TrainingError
from vaekit.objectives import Objective
from vaekit.storage import CARD_FILE, CONFIG_FILE, PREVIEW_FILE, WEIGHTS_FILE, Bundle, read_config, save
from vaekit.training.config import BUDGETS, TrainConfig, differences
from vaekit.training.loop import CHECKPOINT_FILE
from vaekit.training.plan import Plan, same_choice
from vaekit.types import Json
from vaekit.vae import LatentModel

RUN_FOLDER, METRICS_FILE = "training", "metrics.jsonl"
_RUN_CONFIG = "config.json"


def check_out(folder: Path | None, data: Any, resume: bool, force: bool) -> bool:
    """Whether a run in the folder is to be gone on with.

    Raises:
        ConfigError: if the folder cannot be that of a run on the data.
    """
    if resume and force:
        raise ConfigError(
            "`resume` and `force` must not be given together: one keeps the run in the folder, the other replaces it. "
            "Choose one."
        )
    if folder is None:
        if resume:
            raise ConfigError("A run must have a folder to be resumed from, got none. Give `out`.")
        return False
    begun = holds_run(folder)
    check_folder(folder, data, replace=force or (resume and begun), remedy="go on with it by `--resume`, " if begun else "")
    # Killed before its first checkpoint, a run starts again.
    return resume and begun and (folder / RUN_FOLDER / CHECKPOINT_FILE).is_file()


def check_folder(folder: Path, data: Any, *, replace: bool, remedy: str = "") -> None:
    """Refuses, before long work, a folder that no model made from the data may be written to.

    Args:
        folder: of the model.
        data: what it is made from; where that is a path, it and the folder must lie apart.
        replace: whether what the folder holds may be replaced.
        remedy: a third way out where it may not.

    Raises:
        ConfigError: if the folder is a file, does not lie apart from the data, or holds what may not be replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"The output must be a folder, found a file at {folder}. Choose another name.")
    if isinstance(data, str | os.PathLike):
        source, out = Path(os.path.realpath(os.path.expanduser(data))), Path(os.path.realpath(folder))
        if source.is_relative_to(out) or out.is_relative_to(source):
            raise ConfigError(f"The output folder must lie apart from the data, got {folder} for {data}. Choose another name.")
    if not replace and folder.exists() and any(folder.iterdir()):
        what = "a run" if holds_run(folder) else "other files"
        raise ConfigError(
            f"The output folder must be new or empty, found {what} in {folder}. Choose another name, {remedy}or replace what "
            "is in the way by `--force`."
        )
    _check_run(folder)


def _check_run(folder: Path) -> None:
    """Refuses a folder in which what has the name of runs is neither a run nor empty.

    Raises:
        ConfigError: if it is not.
    """
    run = folder / RUN_FOLDER
    config = run / _RUN_CONFIG
    ours = run.is_dir() and (config.is_file() or set(run.iterdir()) <= set(leftovers(config)))
    if os.path.lexists(run) and not ours:
        raise ConfigError(
            f"`--force` must replace nothing but a run, found no run at {run}. Choose another name for the model."
        )


def remove_run(folder: Path) -> None:
    """Removes the run in a model folder, where there is one.

    Raises:
        ConfigError: if what is there is no run.
        OSError: if it cannot be removed.
    """
    _check_run(folder)
    run = folder / RUN_FOLDER
    if run.exists():
        shutil.rmtree(os.path.realpath(run))
    if run.is_symlink():
        run.unlink()


def sweep(folder: Path) -> None:
    """Removes what a kill has left half written of the files of a model and its run, and nothing else."""
    run = folder / RUN_FOLDER
    files = [folder / name for name in (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, PREVIEW_FILE)]
    for file in (*files, run / _RUN_CONFIG, run / METRICS_FILE, run / CHECKPOINT_FILE):
        for leftover in leftovers(file):
            leftover.unlink()
    for leftover in run.rglob(".tmp??????"):  # the name under which safetensors writes, in a folder that is the run's own
        leftover.unlink()


def start_folder(folder: Path, plan: Plan, dataset: Dataset) -> None:
    """An empty run with its config; of an older run in the folder nothing that could be mistaken for this one stays."""
    run = folder / RUN_FOLDER
    try:
        (folder / CONFIG_FILE).unlink(missing_ok=True)
        remove_run(folder)
        (run / "last").mkdir(parents=True)
        with atomic_file(run / _RUN_CONFIG) as path:
            path.write_text(json.dumps(plan.to_json(dataset.schema.model_dump(mode="json")), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise TrainingError(
            f"The folder {folder} must be writable, but: {error.strerror}. Choose another folder, or make room."
        ) from error


def _read_config(path: Path) -> tuple[Json, TrainConfig]:
    """config.json, and the settings in it.

    Raises:
        TrainingError: if it cannot be read, or is not the config of a run.
    """
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        for key in ("config", "asked", "model", "transform", "objective"):
            if not isinstance(saved, dict) or not isinstance(saved.get(key), dict):
                raise ValueError(f"it has no object under {key!r}")
        if not isinstance(saved["asked"].get("settings"), dict):
            raise ValueError("it has no object under 'settings'")
        return saved, TrainConfig.make(**saved["config"])
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).rstrip(".")
        raise TrainingError(f"{path} must be the config of a run, but: {reason}. Start again with `--force`.") from error


def read_plan(folder: Path | None, asked: Json) -> Plan:
    """The plan of the run in the folder, with a budget that may be new."""
    assert folder is not None  # only a folder can hold a run to go on with
    saved, config = _read_config(folder / RUN_FOLDER / _RUN_CONFIG)
    told = saved["asked"]
    changed = differences(told["settings"], asked["settings"])
    changed += [
        f"{name}: {told.get(name)!r} then, {value!r} now"
        for name, value in asked.items()
        if name != "settings" and not same_choice(name, told.get(name), value, saved["objective"])
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
        LatentModel.from_spec(saved["model"]),
        Transform.from_spec(saved["transform"]),
        Objective.from_spec(saved["objective"]),
        config,
        told,
        tuple(saved.get("reasons", ())),
        saved.get("second_stage"),
    )


def publish(bundle: Bundle, folder: Path, *, of_run: bool = True) -> None:
    """Writes the model folder: first its preview, so that `vaekit.json` is last. Of an older preview nothing stays.

    Args:
        bundle: the model.
        folder: made if missing.
        of_run: whether a run in the folder is that of the model; if not, it is removed, for it would go on to another model.

    Raises:
        ConfigError: if the folder cannot be written.
    """
    try:
        if not of_run:
            remove_run(folder)
        sweep(folder)
        (folder / PREVIEW_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} must be writable, but: {error.strerror}. Choose another folder.") from error
    if bundle.schema.kind == "images" and bundle.schema.shape[0] in (1, 3, 4):
        preview(bundle, folder)
    save(bundle, folder)


def make_way(bundle: Bundle, folder: Path) -> None:
    """Removes what a folder holds beside another model: its run, which would go on to that one, and its preview.

    The run that made the model, known by its summary in the `vaekit.json` that lies there, stays, and so does its preview.

    Args:
        bundle: the model that is to be written there.
        folder: of the model that is there, if one is.

    Raises:
        ConfigError: if what has the name of runs is no run, or cannot be removed.
    """
    try:
        theirs: Any = read_config(folder)["training"]
    except ModelFormatError:  # none, or what nobody can read
        theirs = None
    if theirs == as_json(bundle.training):
        return
    try:
        remove_run(folder)
        (folder / PREVIEW_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} must be writable, but: {error.strerror}. Choose another folder.") from error


def holds_run(folder: Path) -> bool:
    """Whether a run has begun in a folder, whatever came of it."""
    return (folder / RUN_FOLDER / _RUN_CONFIG).is_file()


def preview(bundle: Bundle, folder: Path, num: int = 64) -> None:
    """preview.png: means of p(x|z) at draws of the prior. Without an image library there is none."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = bundle.vae
        condition = None
        if vae.condition is not None:
            condition = {name: torch.arange(num) % count for name, count in vae.condition.categories.items()}
            spread = torch.linspace(-2, 2, num)
            condition |= {name: mean + scale * spread for name, (mean, scale) in vae.condition.numbers.items()}
        z = vae.sample_prior(num, condition=condition)
        mean = bundle.transform.inverse(vae.decode_flat(z, condition).mean[0])
    try:
        write_grid(to_source(mean.numpy(), bundle.schema), bundle.schema, folder / PREVIEW_FILE, force=True)
    except MissingExtraError:
        return
