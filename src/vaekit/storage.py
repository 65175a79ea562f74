"""The model folder: a trained model on disk, as JSON and safetensors.

    vaekit.json         format, vaekit's version, component spec, schema, training summary, metrics, named directions of the
                        latent, hash of the weights
    model.safetensors   the weights
    README.md           a model card
    preview.png         what it generates (written where images can be)

Loading reads numbers and builds registered components: no code comes from the folder.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import load_file, save_file
from safetensors.torch import save as save_bytes

from vaekit import __version__, directions
from vaekit.component import Component
from vaekit.data.output import as_json, atomic_file
from vaekit.data.schema import Schema
from vaekit.data.transforms import Transform
from vaekit.directions import Direction
from vaekit.errors import ConfigError, ModelFormatError
from vaekit.types import Json
from vaekit.vae import LatentModel

FORMAT = 1
"""The version of the model folder that this vaekit writes; it reads every version up to it."""

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, PREVIEW_FILE = "vaekit.json", "model.safetensors", "README.md", "preview.png"
_MAX_CONFIG_BYTES = 64 * 2**20

HELD_OUT = "held_out"
"""The key of the training summary under which stands how a part was held out of data without splits, and of which data."""

FREQUENCIES = "condition_counts"
"""The key of the training summary under which the counts of each column's categories stand, by column."""

QUANTILES = "condition_quantiles"
"""The key of the training summary under which the quantiles of each column of numbers stand, by column."""

PRIOR_FIT = "prior_fit"
"""The key of the training summary under which stands how the prior was fitted."""

REFERENCE = "reference"
"""The key of the training summary under which stands what is usual of normal examples (see `vaekit.jobs.anomaly`)."""

PRIVACY = "privacy"
"""The key of the training summary under which stands what training with differential privacy has cost."""


@dataclass(frozen=True)
class Bundle:
    """Everything that a trained model is.

    Attributes:
        vae: the model, in evaluation mode.
        transform: stored values to the likelihood's support.
        schema: what the data is.
        training: a summary of the run that made it, JSON; numbers that are not finite are saved as null.
        metrics: numbers that were measured on it, likewise.
        directions: the directions of its latent that have a name, by name.
    """

    vae: LatentModel
    transform: Transform
    schema: Schema
    training: Json = field(default_factory=dict)
    metrics: Json = field(default_factory=dict)
    directions: Mapping[str, Direction] = field(default_factory=dict)


def save(bundle: Bundle, folder: str | Path, files: Mapping[str, bytes] | None = None) -> Path:
    """Writes the model folder. Each file appears whole or not at all; `vaekit.json`, which names the weights' hash, is last.

    Args:
        bundle: the model.
        folder: made if missing; other files in it stay.
        files: more files by name, such as the preview.

    Returns:
        The folder.

    Raises:
        ConfigError: if the folder cannot be written.
    """
    folder = Path(folder)
    for name, content in {CARD_FILE: model_card(bundle).encode(), **(files or {})}.items():
        with atomic_file(folder / name) as path:
            path.write_bytes(content)
    # Both are written before either is put in place, so that no more than a rename lies between the one and the other.
    with atomic_file(folder / CONFIG_FILE) as config, atomic_file(folder / WEIGHTS_FILE) as weights:
        try:
            save_file(weights_of(bundle), weights)
        except SafetensorError as error:  # it holds what the system said
            reason = str(error).rpartition("error: ")[2]
            raise ConfigError(
                f"{folder} must be writable, but: {reason}. Free some space, or choose another folder."
            ) from error
        _write_config(_config(bundle, _sha256(weights)), config)
    return folder


def _write_config(config: Json, path: Path) -> None:
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def save_directions(folder: str | Path, add: Mapping[str, Direction], remove: Sequence[str] = ()) -> None:
    """Adds names to a model folder, or takes names away. Only `vaekit.json` is written anew, whole or not at all.

    A name may be taken away whatever stands under it, so also one that keeps the model from being loaded.

    Args:
        folder: of a model.
        add: directions by their names; one that is there under the name is replaced.
        remove: names.

    Raises:
        ModelFormatError: if it is no model folder, or damaged elsewhere.
        ConfigError: if a name that is to be taken away is not there, or the folder cannot be written.
    """
    folder = Path(folder)
    config = read_config(folder)
    found = config.get("directions", {})
    if not isinstance(found, dict):
        directions.from_json(found, 0, str(folder / CONFIG_FILE))
    for name in remove:
        if name not in found:
            known = ", ".join(found) or "none"
            raise ConfigError(f"The model must have the name {name!r} to remove it; it has {known}. Choose one of them.")
    named = {name: entry for name, entry in found.items() if name not in remove} | directions.to_json(add)
    config = {name: value for name, value in config.items() if name != "directions"}
    with atomic_file(folder / CONFIG_FILE) as path:
        _write_config({**config, "directions": named} if named else config, path)


def _config(bundle: Bundle, digest: str) -> Json:
    """`vaekit.json`."""
    return {
        "format": FORMAT,
        "vaekit": __version__,
        "model": bundle.vae.spec(),
        "transform": bundle.transform.spec(),
        "schema": bundle.schema.model_dump(mode="json"),
        "training": as_json(bundle.training),
        "metrics": as_json(bundle.metrics),
        **({"directions": directions.to_json(bundle.directions)} if bundle.directions else {}),
        "weights": {"file": WEIGHTS_FILE, "sha256": digest},
        "license": "The weights belong to whoever trained them; the code that reads them is Apache-2.0.",
    }


def load(folder: str | Path, device: str | torch.device = "cpu") -> Bundle:
    """Reads a model folder.

    Args:
        folder: the path of a model folder.
        device: where the weights go.

    Raises:
        ModelFormatError: if it is no model folder, of a later format, damaged, or its weights do not fit its spec.
    """
    folder = Path(folder)
    config = read_config(folder)
    return _bundle(config, _read_weights(folder, config["weights"]), folder, device)


def pack(bundle: Bundle) -> tuple[str, bytes]:
    """The model in memory: the text of `vaekit.json`, and the bytes of the weights' file."""
    weights = save_bytes(weights_of(bundle))
    config = _config(bundle, hashlib.sha256(weights).hexdigest())
    return json.dumps(config, ensure_ascii=False, allow_nan=False), weights


def unpack(config: str, weights: bytes, device: str | torch.device = "cpu") -> Bundle:
    """The model that `pack` took apart.

    Args:
        config: the text of `vaekit.json`.
        weights: the bytes of the weights' file.
        device: where the weights go.

    Raises:
        ModelFormatError: if they are not what `pack` gives, of a later format, damaged, or do not fit each other.
    """
    memory = Path("memory")  # for messages, where a folder would stand
    checked = _checked_config(config.encode(), memory / CONFIG_FILE)
    if hashlib.sha256(weights).hexdigest() != checked["weights"].get("sha256"):
        raise ModelFormatError(_changed(memory / WEIGHTS_FILE))
    try:
        tensors = load_bytes(weights)
    except SafetensorError as error:
        raise ModelFormatError(_unreadable(memory / WEIGHTS_FILE, error)) from None
    return _bundle(checked, tensors, memory, device)


def _bundle(config: dict[str, Any], weights: dict[str, torch.Tensor], folder: Path, device: str | torch.device) -> Bundle:
    """The model of a config and weights that were read; an error names the file in `folder`."""
    try:
        schema = Schema.model_validate(config["schema"])
    except ValidationError as error:
        first = error.errors()[0]
        where = f"`{'.'.join(map(str, first['loc']))}`: " if first["loc"] else ""
        reason = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise ModelFormatError(f"The schema in {folder / CONFIG_FILE} must be valid, but: {where}{reason}. {_REMEDY}") from None
    transform = _part(Transform, config["transform"], folder)
    with torch.device("meta"):  # shapes first: a spec that lies about its size costs no memory
        outline = _part(LatentModel, config["model"], folder)
    _check_weights(_states(outline, transform), weights, folder)
    with torch.random.fork_rng(devices=[]):
        vae = _part(LatentModel, config["model"], folder)
    for part, module in (("vae.", vae), ("transform.", transform)):
        module.load_state_dict({name.removeprefix(part): t for name, t in weights.items() if name.startswith(part)})
    named = directions.from_json(config.get("directions", {}), vae.num_latents, str(folder / CONFIG_FILE))
    return Bundle(vae.eval().to(device), transform.to(device), schema, config["training"], config["metrics"], named)


_REMEDY = "Copy the folder again from its source, or train anew."
_Part = TypeVar("_Part", bound=Component)


def _part(kind: type[_Part], spec: Json, folder: Path) -> _Part:
    """A part by its spec; an error names the file."""
    try:
        return kind.from_spec(spec)
    except ModelFormatError as error:
        reason = str(error).rstrip(".")
        raise ModelFormatError(
            f"{folder / CONFIG_FILE} must describe a model, but: {reason}. If the file is damaged, copy the folder again from "
            "its source, or train anew."
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """`vaekit.json` of a model folder, checked for its format and its keys.

    Raises:
        ModelFormatError: if it is missing, no JSON, of a later format, or lacks a key.
    """
    path = folder / CONFIG_FILE
    try:
        there = path.is_file()
    except OSError as error:
        raise ModelFormatError(f"{folder} must be readable, but: {error.strerror}. Give a folder that you may read.") from None
    if not there:
        unfinished = (folder / "training").is_dir()
        hint = (
            "Its training has not finished: run the same `vaekit train` with `--resume`."
            if unfinished
            else "Give a folder that `vaekit train` made."
        )
        raise ModelFormatError(f"A model folder must hold {CONFIG_FILE}, none was found in {folder}. {hint}")
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise ModelFormatError(
            f"{path} must be at most {_MAX_CONFIG_BYTES >> 20} MiB, found {path.stat().st_size} bytes. {_REMEDY}"
        )
    try:
        return _checked_config(path.read_bytes(), path)
    except OSError as error:
        raise ModelFormatError(f"{path} must be JSON, but: {error}. {_REMEDY}") from None


def _checked_config(text: bytes, path: Path) -> dict[str, Any]:
    """`vaekit.json` with its format and its keys; an error names `path`."""
    try:
        config = json.loads(text.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelFormatError(f"{path} must be JSON, but: {error}. {_REMEDY}") from None
    found = config.get("format") if isinstance(config, dict) else None
    if not isinstance(found, int) or found < 1:
        raise ModelFormatError(f"{path} must give a format version, found {found!r}. Give a folder that `vaekit train` made.")
    if found > FORMAT:
        raise ModelFormatError(f"This vaekit reads model folders up to format {FORMAT}, found format {found}. Upgrade vaekit.")
    kinds = {"model": dict, "transform": dict, "schema": dict, "training": dict, "metrics": dict, "weights": dict}
    for key, kind in kinds.items():
        if not isinstance(config.get(key), kind):
            raise ModelFormatError(f"{path} must have an object under {key!r}, found {config.get(key)!r:.60}. {_REMEDY}")
    return config


def weights_of(bundle: Bundle) -> dict[str, torch.Tensor]:
    """The states of model and transform as plain contiguous tensors on the CPU, under `vae.` and `transform.`."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in _states(bundle.vae, bundle.transform).items()}


def _states(vae: LatentModel, transform: Transform) -> dict[str, torch.Tensor]:
    parts = {"vae": vae, "transform": transform}
    return {f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}


def _read_weights(folder: Path, described: Json) -> dict[str, torch.Tensor]:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ModelFormatError(f"A model folder must hold {WEIGHTS_FILE}, none was found in {folder}. {_REMEDY}")
    if _sha256(path) != described.get("sha256"):
        raise ModelFormatError(_changed(path))
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelFormatError(_unreadable(path, error)) from None


def _changed(path: Path) -> str:
    return f"{path} must have the hash that {CONFIG_FILE} gives, it differs: the file is damaged or of another model. {_REMEDY}"


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path} must be a safetensors file, but: {error}. {_REMEDY}"


def _check_weights(expected: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    missing, foreign = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or foreign:
        raise ModelFormatError(
            f"{folder / WEIGHTS_FILE} must hold exactly the tensors of the model's spec; missing {missing[:3]}, foreign "
            f"{foreign[:3]}. {_REMEDY}"
        )
    for name, tensor in expected.items():
        if tensor.shape != weights[name].shape:
            raise ModelFormatError(
                f"The tensor {name} must have the shape {tuple(tensor.shape)}, found {tuple(weights[name].shape)}. {_REMEDY}"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def described_privacy(privacy: Json) -> str:
    """What a private run has cost, in a line.

    Example:
        >>> described_privacy({"epsilon": 2.9951, "delta": 1e-05, "unit": "one example, added or taken away"})
        'epsilon 2.996 at delta 1e-05 (one example, added or taken away)'
    """
    return f"epsilon {math.ceil(1000 * privacy['epsilon']) / 1000:g} at delta {privacy['delta']:.3g} ({privacy['unit']})"


def _privacy_section(privacy: Json) -> list[str]:
    """Of the model card: what was spent, how, and what the guarantee does not extend to."""
    return [
        "## Privacy",
        "",
        f"Trained with differential privacy: {described_privacy(privacy)}, by clipped gradients with Gaussian noise (DP-SGD): "
        f"clipping norm {privacy['clip']:g}, noise {privacy['noise_multiplier']:.4g} times that, "
        f"{privacy['steps']:,} steps on Poisson samples of rate {privacy['sampling_rate']:.4g}, accountant "
        f"{privacy['accountant']}. Not covered:",
        "",
        *(f"- {what};" for what in privacy["not_covered"]),
        "",
    ]


def model_card(bundle: Bundle) -> str:
    """README.md of the model folder: what the model is, how it was made, how good it is, how to use it."""
    schema, vae = bundle.schema, bundle.vae
    parts = {name: part for name, part in vae.named_children() if isinstance(part, Component) and name != "condition"}
    num_parameters = sum(p.numel() for p in vae.parameters())
    lines = [
        "---",
        "library_name: vaekit",
        "tags: [variational-autoencoder]",
        "---",
        "",
        f"# A variational autoencoder of {schema.kind} {'x'.join(map(str, schema.shape))}",
        "",
        f"Trained by vaekit {__version__} on {schema.num_examples:,} examples.",
        "",
        "| part | what |",
        "|---|---|",
        f"| latents | {vae.num_latents} |",
        *(f"| {name} | {part.registered_name} |" for name, part in parts.items()),
        f"| parameters | {num_parameters:,} |",
        *(
            f"| {name} | {value} |"
            for name, value in {**bundle.training, **bundle.metrics}.items()
            if not isinstance(value, dict | list)
        ),
        "",
        *(_privacy_section(bundle.training[PRIVACY]) if bundle.training.get(PRIVACY) else ()),
        "```python",
        "import vaekit",
        "",
        'model = vaekit.load("path/to/this/folder")',
        "samples = model.generate(16)",
        "```",
        "",
    ]
    return "\n".join(lines)
