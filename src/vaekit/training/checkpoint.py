"""Everything that a killed run needs to go on as if it had not been killed, in one file that appears whole.

The tensors of weights, average, optimiser and random states are stored as safetensors, the rest as JSON in the header of
the same file, so one atomic rename replaces the last good checkpoint by the next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vaekit.data.writing import atomic_file
from vaekit.errors import ConfigError, TrainingError
from vaekit.types import Json


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and JSON."""

    tensors: dict[str, Tensor]
    state: Json

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below `prefix.`, without it."""
        return {name.removeprefix(prefix + "."): t for name, t in self.tensors.items() if name.startswith(prefix + ".")}

    def save(self, path: Path) -> None:
        """Replaces the file at `path`.

        Raises:
            TrainingError: if it cannot be written; what was there before is still there.
        """
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in self.tensors.items()}
        try:
            with atomic_file(path) as temporary:
                save_file(tensors, temporary, metadata={"state": json.dumps(self.state)})
        except (ConfigError, OSError, SafetensorError) as error:
            raise TrainingError(
                f"The checkpoint {path} must be writable, but: {_reason(error)} {whole(path)} Make room, then run the same "
                "command with `--resume`."
            ) from error

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Reads a checkpoint.

        Raises:
            TrainingError: if it is no whole checkpoint.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            state = json.loads(metadata.get("state", "null"))
            _check(state)
        except (SafetensorError, OSError, ValueError) as error:
            reason = str(error).rstrip(".")
            raise TrainingError(f"{path} must be a whole checkpoint, but: {reason}. Start again with `--force`.") from error
        return cls(tensors, state)


_STATE = {"progress": dict, "elapsed": (int, float), "optimizer": list, "fingerprint": str, "world_size": int}


def _check(state: Any) -> None:
    """Raises a ValueError if a key that resuming needs is missing, or of another kind."""
    for key, kind in _STATE.items():
        if not isinstance(state, dict) or not isinstance(state.get(key), kind):
            raise ValueError(f"its state has no {key!r}")
    missing = {"step", "best_loss"} - state["progress"].keys()
    if missing:
        raise ValueError(f"its state has no {min(missing)!r} under 'progress'")


def whole(path: Path) -> str:
    """A sentence on whether there is a checkpoint at `path`; none is ever half written."""
    return "The last checkpoint is whole." if path.is_file() else "There is no checkpoint yet."


def _reason(error: Exception) -> str:
    """The cause that the system gave, as a sentence."""
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause).rpartition("error: ")[2]
    return text.rstrip(".") + "."


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[Json]]:
    """An optimiser's state as named tensors, and its groups as JSON."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": torch.as_tensor(value) for index, values in state["state"].items() for name, value in values.items()
    }
    groups = [{name: value for name, value in group.items() if _is_json(value)} for group in state["param_groups"]]
    return tensors, groups


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[Json]) -> None:
    """Puts back what `optimizer_tensors` took."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            # Fused kernels walk memory without looking at strides: a moment must lie as its parameter does.
            tensor = torch.empty_like(parameter, dtype=tensor.dtype, device="cpu", requires_grad=False).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    current = optimizer.state_dict()["param_groups"]
    merged = [
        {**now, **{k: tuple(v) if isinstance(v, list) and k == "betas" else v for k, v in then.items()}}
        for now, then in zip(current, groups, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": merged})


def _is_json(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's global generators, as bytes."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Puts back what `random_state` took."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
