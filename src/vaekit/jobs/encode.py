"""Encode and decode: from examples to latents and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaekit.component import device_of
from vaekit.data.dataset import Dataset, as_numpy
from vaekit.data.writing import read_table
from vaekit.errors import DataError
from vaekit.inference import Progress, check_examples, seeded
from vaekit.jobs.blocks import PLAINLY, Spelling, decoded, posterior_of
from vaekit.jobs.conditions import codes_of_text, codes_where, conditioned, features_of, filled, printed
from vaekit.jobs.spaces import check_inside
from vaekit.storage import Bundle


@dataclass(frozen=True)
class Encoding:
    """q(z|x, c) of N examples.

    Attributes:
        mean: (N, D) float32.
        scale: (N, D) float32, standard deviations.
        names: the file name of each example, or None.
        columns: the data's columns as text, each (N,), such as the label; empty text where unknown.
    """

    mean: np.ndarray
    scale: np.ndarray
    names: Sequence[str] | None
    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.mean)

    def to_columns(self) -> dict[str, np.ndarray]:
        """The encoding as the columns of a table: index, name, labels, z0, z1, ..., scale0, scale1, ..."""
        table: dict[str, np.ndarray] = {"index": np.arange(len(self))}
        if self.names is not None:
            table["name"] = np.array(self.names, dtype=object)
        table.update(self.columns)
        for prefix, values in (("z", self.mean), ("scale", self.scale)):
            table.update({f"{prefix}{d}": values[:, d] for d in range(values.shape[1])})
        return table


def encode(bundle: Bundle, dataset: Dataset, progress: Progress | None = None) -> Encoding:
    """Mean and standard deviation of q(z|x, c) for every example.

    Deterministic, and each row the same to the last bit whatever else is encoded with it. Where the model makes grey
    images binary by chance, encoding takes the probabilities themselves and draws nothing.

    Args:
        bundle: the model.
        dataset: N examples that fit the model's schema.
        progress: called with (done, total) as examples are done.

    Raises:
        DataError: if there are no examples.
    """
    check_examples(dataset)
    mean, scale = posterior_of(bundle, dataset, progress)
    return Encoding(mean.float().numpy(), scale.float().numpy(), dataset.names, printed(bundle.schema, dataset.columns))


def decode(
    bundle: Bundle,
    z: np.ndarray,
    *,
    draw: str = "auto",
    where: Mapping[str, str | float] | None = None,
    columns: Mapping[str, torch.Tensor] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    spelling: Spelling = PLAINLY,
) -> np.ndarray:
    """Examples in the source's form from latents.

    Args:
        bundle: the model.
        z: (N, D) numbers.
        draw: `mean` of p(x|z, c), a `sample` of it, or `auto`: the mean for images, a sample for vectors.
        where: the category or the number of each condition for all rows, by column; unknown where not given.
        columns: (N,) codes or numbers of conditions, a row each; `where` goes first.
        seed: of the samples.
        progress: called with (done, total) as examples are done.
        spelling: of text, how it is made.

    Returns:
        (N, ...) in the source's layout and dtype.

    Raises:
        DataError: if z is not (N, D), not finite, or outside the space of the model's latents (lengths to 3 digits), or a
            category is unknown.
        ConfigError: if the model is not conditioned on a column of `where`, or `draw` is unknown.
    """
    latents = check_latents(bundle, z)
    fixed = {name: filled(code, len(latents)) for name, code in codes_where(bundle, where).items()}
    with torch.inference_mode(), seeded(seed, device_of(bundle.vae)):
        features = features_of(bundle, {**(columns or {}), **fixed}, len(latents))
        return decoded(bundle, latents, features, draw, progress, spelling)


def read_latents(bundle: Bundle, source: Any) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    """Latents (N, D) from numbers, an `Encoding`, or a file that `encode` wrote, and the codes of conditions beside them.

    A table has columns z0, z1, ...; columns of the model's conditions are used, as text, all others are left alone.

    Raises:
        DataError: if the file cannot be read, lacks a column, or has latents of more units than the model.
    """
    if isinstance(source, Encoding):
        return source.mean, _condition_codes(bundle, source.columns)
    if not isinstance(source, str | Path):
        return as_numpy(source), {}
    path = Path(source)
    if path.suffix == ".npy":
        return _read_npy(path), {}
    table = read_table(path, text=conditioned(bundle))
    names = [f"z{d}" for d in range(bundle.vae.num_latents)]
    missing = [name for name in names if name not in table]
    if missing:
        raise DataError(
            f"A table of latents must have the columns {names[0]} to {names[-1]}, found none named {missing[0]} in {path}. "
            "Give a file that `encode` wrote with this model."
        )
    if (beyond := f"z{len(names)}") in table:
        raise DataError(
            f"A table of latents must have the columns {names[0]} to {names[-1]} and no more, found {beyond} in {path}: these "
            "are latents of another model. Give a file that `encode` wrote with this model."
        )
    try:
        z = np.stack([np.asarray(table[name], dtype=np.float32) for name in names], axis=1)
    except (TypeError, ValueError) as error:
        raise DataError(f"Latents must be numbers, but in {path}: {error}. Give a file that `encode` wrote.") from None
    return z, _condition_codes(bundle, table)


def _condition_codes(bundle: Bundle, columns: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    names = [name for name in conditioned(bundle) if name in columns]
    return codes_of_text(bundle.schema, {name: columns[name] for name in names})


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} must be a readable .npy file, but: {error}. Give a file that `encode` wrote.") from None


def check_latents(bundle: Bundle, z: np.ndarray) -> torch.Tensor:
    """Latents as a float32 tensor (N, D).

    Raises:
        DataError: if they are not (N, D) with the model's D, not finite, or outside the space of its latents.
    """
    num_latents = bundle.vae.num_latents
    try:
        array = np.asarray(z, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"Latents must be numbers, but: {error}. Give the z columns that `encode` writes.") from None
    if array.ndim != 2 or array.shape[1] != num_latents or len(array) == 0:
        raise DataError(f"Latents must have the shape (N, {num_latents}), found {array.shape}. Give one row an example.")
    if not np.isfinite(array).all():
        raise DataError("Latents must be finite, found NaN or infinities. Remove those rows.")
    latents = torch.from_numpy(np.array(array))
    check_inside(bundle.vae, latents)
    return latents
