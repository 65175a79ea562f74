"""Augment: new rows of the rare categories of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from vaekit.data.dataset import Dataset
from vaekit.errors import ConfigError, DataError
from vaekit.inference import Progress, check_examples, seeded
from vaekit.jobs.rows import RowsWhere, Table
from vaekit.storage import Bundle


@dataclass(frozen=True)
class Augmented:
    """New rows beside data.

    Attributes:
        cells: (M, C) float64, the new rows, category by category.
        counts: of each category of the balanced column, (rows in the data, new rows); one entry, ``"rows"``, without a column.
        notes: what a person should know.
    """

    cells: np.ndarray
    counts: Mapping[str, tuple[int, int]]
    notes: tuple[str, ...] = ()


def augment(
    bundle: Bundle,
    dataset: Dataset,
    *,
    balance: str | None = None,
    factor: float | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Augmented:
    """New rows to train on beside the data.

    With `balance`, rows x ~ p(x | column = category), so many that every category has as many as the most frequent one has
    times `factor`. Without, `factor` - 1 new rows for each row of the data.

    Args:
        bundle: the model of a table.
        dataset: N rows that fit the model's schema.
        balance: a column of categories.
        factor: see above; 1 if None with `balance`, 2 without.
        temperature: factor on the prior's scales, > 0.
        seed: of all draws; the global random state is left as it was.
        progress: called with (done, total).

    Raises:
        ConfigError: if an argument cannot be, or the model is not one of a table.
        DataError: if there are no rows, or no such column.
    """
    table = Table.of(bundle, "augment")
    check_examples(dataset)
    factor = (1.0 if balance is not None else 2.0) if factor is None else factor
    if not 1.0 <= factor < float("inf") or not 0 < temperature < float("inf"):
        raise ConfigError(
            f"`factor` must be at least 1 and `temperature` above 0, got {factor} and {temperature}. Leave both "
            "out when in doubt."
        )
    wanted = _wanted(table, dataset, balance, factor)
    total, done, parts, notes = sum(new for _, new in wanted.values()), 0, [], []
    with torch.inference_mode(), seeded(seed, table.device):
        for name, (_, new) in wanted.items():
            if new == 0:
                continue
            where = {} if balance is None else {balance: name}
            drawn = RowsWhere(table, where, temperature).draw(new)
            parts.append(table.grid.inverse(drawn.x.cpu()).numpy())
            note = drawn.note()
            notes += [] if note is None else [f"{name}: {note}"]
            done += new
            if progress is not None:
                progress(done, total)
    cells = np.concatenate(parts) if parts else np.empty((0, len(table.grid.sizes)))
    return Augmented(cells, wanted, tuple(notes))


def _wanted(table: Table, dataset: Dataset, balance: str | None, factor: float) -> dict[str, tuple[int, int]]:
    """Of each category the rows in the data and the rows to make."""
    if balance is None:
        return {"rows": (len(dataset), round((factor - 1.0) * len(dataset)))}
    names = [column.name for column in table.columns]
    if balance not in names:
        raise DataError(f"The table must have the column `{balance}` to balance; it has {', '.join(names[:20])}. Choose one.")
    index = names.index(balance)
    column = table.columns[index]
    if not column.is_coded or len(column.categories) < 2:
        raise ConfigError(
            f"The column to balance must have categories, found `{balance}`, which is {column.type}. Choose another, or read "
            f"it with the type `{balance}=categorical` and train anew."
        )
    codes = dataset.stored()[:, index]
    counts = np.bincount(codes[~np.isnan(codes)].astype(np.int64), minlength=len(column.categories))
    goal = round(factor * counts.max())
    return {name: (int(n), int(max(0, goal - n))) for name, n in zip(column.categories, counts, strict=True)}
