"""Small tables, with everything that a column can be."""

from __future__ import annotations

import numpy as np

from vaekit.data.tables.columns import TableColumn
from vaekit.evaluation.tables.rows import Rows


def number(name, **options):
    return TableColumn(name=name, type=options.pop("type", "continuous"), **options)


def category(name, num, **options):
    kind = "binary" if num == 2 else "categorical"
    return TableColumn(name=name, type=kind, categories=tuple(f"{name}{i}" for i in range(num)), **options)


def rows_of(*channels, columns):
    return Rows(np.stack([np.asarray(channel, dtype=np.float64) for channel in channels], axis=1), columns)


MIXED = (
    number("size"),
    TableColumn(name="id", type="identifier"),
    category("kind", 3, missing=True),
    number("age", type="integer", words=("young", "old"), missing=True),
    TableColumn(name="always", type="constant", categories=("x",)),
    category("flag", 2),
)


def mixed(num, seed=0, shift=0.0):
    """Cells (num, 8) of `MIXED`: the size goes with the flag, one kind in ten is missing, and ages are words or missing."""
    rng = np.random.default_rng(seed)
    flag = rng.integers(0, 2, num)
    size = rng.normal(size=num) + 2.0 * flag + shift
    lost = rng.random(num) < 0.1
    kind = np.where(lost, np.nan, rng.integers(0, 3, num))
    state = rng.choice(4, num, p=[0.7, 0.1, 0.1, 0.1])
    age = np.where(state > 0, np.nan, rng.integers(0, 90, num))
    return np.stack([size, np.zeros(num), kind, age, np.zeros(num), flag, lost, state], axis=1).astype(np.float64)
