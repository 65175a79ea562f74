"""Reduce: examples as places on a map of two or three dimensions, that are looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vaekit.data.dataset import Dataset
from vaekit.errors import ConfigError
from vaekit.inference import Progress
from vaekit.jobs.encode import encode
from vaekit.storage import Bundle

DIMENSIONS = (2, 3)


@dataclass(frozen=True)
class Reduction:
    """Where N examples lie on a map.

    Attributes:
        places: (N, 2) or (N, 3) float32, the means of q(z|x, c): latents, that `decode` takes back.
        names: the file name of each example, or None.
        columns: the data's columns as text, each (N,), such as the label; empty text where unknown.
    """

    places: np.ndarray
    names: Sequence[str] | None
    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.places)

    def to_columns(self) -> dict[str, np.ndarray]:
        """The map as the columns of a table: index, name, labels, z0, z1 and, of three dimensions, z2."""
        table: dict[str, np.ndarray] = {"index": np.arange(len(self))}
        if self.names is not None:
            table["name"] = np.array(self.names, dtype=object)
        table.update(self.columns)
        table.update({f"z{d}": self.places[:, d] for d in range(self.places.shape[1])})
        return table


def check_map(bundle: Bundle) -> None:
    """Refuses a model whose latent is no map.

    Raises:
        ConfigError: unless the latent has two or three units.
    """
    num = bundle.vae.num_latents
    if num not in DIMENSIONS:
        raise ConfigError(
            f"The latent of a map must have 2 or 3 units, found {num}. Train a map of the same data: `vaekit train DATA -o "
            "MODEL --recipe map`."
        )


def reduce(bundle: Bundle, dataset: Dataset, progress: Progress | None = None) -> Reduction:
    """The place of every example; nothing is fitted, so a new example has its place at once, the same in any company.

    Args:
        bundle: a model with two or three latent units, such as the recipe `map` makes.
        dataset: N examples that fit the model's schema.
        progress: called with (done, total) as examples are done.

    Raises:
        ConfigError: unless the latent has two or three units.
        DataError: if there are no examples.
    """
    check_map(bundle)
    found = encode(bundle, dataset, progress)
    return Reduction(found.mean, found.names, found.columns)
