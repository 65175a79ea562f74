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
import shutil
from pathlib import Path

import torch

from vaekit.data.dataset import Dataset, to_source
from vaekit.data.transforms import Transform
from vaekit.data.writing import atomic_file, write_grid
from vaekit.errors import ConfigError, MissingExtraError, TrainingError
from vaekit.objectives import Objective
from vaekit.storage import CONFIG_FILE, PREVIEW_FILE, Bundle, save
from vaekit.training.config import BUDGETS, TrainConfig, differences
from vaekit.training.loop import CHECKPOINT_FILE
from vaekit.training.plan import Plan, same_choice
from vaekit.types import Json
from vaekit.vae import LatentModel

RUN_FOLDER = "training"
_RUN_CONFIG = "config.json"


def check_out(folder: Path | None, resume: bool, force: bool) -> bool:
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


def start_folder(folder: Path, plan: Plan, dataset: Dataset) -> None:
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


def read_plan(folder: Path | None, asked: Json) -> Plan:
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
    )


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
        mean = bundle.transform.inverse(vae.decode_flat(z, condition).mean[0])
    try:
        write_grid(to_source(mean.numpy(), bundle.schema), bundle.schema, folder / PREVIEW_FILE, force=True)
    except MissingExtraError:
        return
