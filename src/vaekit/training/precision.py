"""float32 or bf16: what a short measurement on this very model and machine finds faster, and then remembers."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import platform
import time
from dataclasses import replace

import torch

from vaekit.data.cache import cache_folder
from vaekit.data.dataset import Dataset
from vaekit.data.output import atomic_file
from vaekit.data.transforms import Transform
from vaekit.errors import ConfigError
from vaekit.objectives import Objective
from vaekit.training.config import TrainConfig
from vaekit.training.pairs import tried
from vaekit.types import Batch
from vaekit.vae import LatentModel

_WORTH = 1.3
"""bf16 must be faster by this factor: it changes results, so a small gain is no reason, and near one it would be a toss-up."""
_SMALLEST_MODEL = 100_000
_ROUNDS, _MEASURE_SECONDS = 3, 0.4
_MAX_ELEMENTS = 2**17
"""Values of the batch that is measured: enough to tell the two apart, few enough to be quick."""
_MEMORY, _MAX_REMEMBERED = "precision.json", 500


def choose_precision(
    config: TrainConfig, vae: LatentModel, transform: Transform, objective: Objective, data: Dataset, device: torch.device
) -> tuple[TrainConfig, tuple[str, ...]]:
    """Settles `auto`: returns the config with `float32` or `bf16`, and the reason.

    Small models are not measured: they gain nothing, and the same seed then gives the same weights without a doubt.
    """
    if config.precision != "auto":
        return config, ()
    if sum(p.numel() for p in vae.parameters()) < _SMALLEST_MODEL:
        return config.model_copy(update={"precision": "float32"}), ()
    key = _key(config, vae, device)
    gain = _remembered().get(key)
    if gain is None:
        speeds = _measure(config, vae, transform, objective, data, device)
        gain = speeds["bf16"] / speeds["float32"]
        _remember(key, gain)
    precision = "bf16" if gain >= _WORTH else "float32"
    why = f"Precision: {precision}, because bf16 steps were measured to be {gain:.2f} times as fast as float32 steps here."
    return config.model_copy(update={"precision": precision}), (why,)


def _key(config: TrainConfig, vae: LatentModel, device: torch.device) -> str:
    """What the speeds depend on: the model, the batch, torch and the machine."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.processor()} {torch.get_num_threads()}"
    what = [vae.spec(), config.batch_size, config.num_samples, torch.__version__, device.type, platform.machine(), where]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _remembered() -> dict[str, float]:
    """The gains that were measured before; none where the file is not there or is no record of ours."""
    try:
        found = json.loads((cache_folder() / _MEMORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, float)} if isinstance(found, dict) else {}


def _remember(key: str, gain: float) -> None:
    """Keeps a gain for the next run, so that it starts sooner and chooses alike. A cache that cannot be written is no harm."""
    record = dict([*_remembered().items(), (key, gain)][-_MAX_REMEMBERED:])
    with contextlib.suppress(ConfigError), atomic_file(cache_folder() / _MEMORY) as path:
        path.write_text(json.dumps(record), encoding="utf-8")


def _measure(
    config: TrainConfig, vae: LatentModel, transform: Transform, objective: Objective, data: Dataset, device: torch.device
) -> dict[str, float]:
    """Steps a second in each precision, the best of some interleaved rounds, on a copy of the model."""
    trial, prepare = copy.deepcopy(vae).to(device).train(), copy.deepcopy(transform).to(device)
    judge = copy.deepcopy(objective).to(device).train()
    num = min(config.batch_size, len(data), max(16, _MAX_ELEMENTS // data.schema.num_dimensions))
    batch = data.batch(torch.arange(num)).to(device)
    best = {"float32": 0.0, "bf16": 0.0}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        for round_ in range(_ROUNDS + 1):
            for precision in best:
                speed = _steps_per_second(trial, prepare, judge, batch, config.num_samples, len(data), precision, device)
                if round_ > 0:  # the first round pays for start-up
                    best[precision] = max(best[precision], speed)
    return best


def _steps_per_second(
    trial: LatentModel,
    prepare: Transform,
    objective: Objective,
    batch: Batch,
    num_samples: int,
    num_data: int,
    precision: str,
    device: torch.device,
) -> float:
    """Forward and backward passes a second over a short while."""
    reduced = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    count, start = 0, time.perf_counter()
    while count < 2 or time.perf_counter() - start < _MEASURE_SECONDS / _ROUNDS:
        with reduced:
            condition = trial.condition_of(batch.columns, len(batch.x))
            trace = trial(prepare(batch.x), condition=condition, mask=batch.mask, num_samples=num_samples)
            loss = objective(replace(tried(objective, trace), num_data=num_data), 0).loss
        loss.backward()
        trial.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        count += 1
    return count / (time.perf_counter() - start)
