"""What is worth a sentence before training: columns that never change, levels that
are not used, and test examples that are in the training data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vaekit.data.values import Values, chunks


def constant_note(x: np.ndarray, kind: str) -> tuple[str, ...]:
    """A sentence if some columns of vectors hold one value only."""
    if kind != "vectors" or len(x) < 2:
        return ()
    constant = np.ones(x.shape[1], bool)
    for _, rows in chunks(x):
        constant &= (rows == x[0]).all(axis=0)
    num = int(constant.sum())
    return (f"{num} of {x.shape[1]} columns hold one value only.",) if num else ()


def few_levels_note(values: Values, dtype: np.dtype, kind: str) -> tuple[str, ...]:
    """A sentence if images have the levels of their dtype by default, and do not come near the half of them."""
    levels, found = 256**dtype.itemsize, int(values.high)
    if kind != "images" or dtype.kind != "u" or values.levels != levels or found >= levels // 2:
        return ()
    return (
        f"The values stop at {found:,} and are taken as {levels:,} levels: `levels={found + 1}` (`--levels {found + 1}`) if "
        "there are no more.",
    )


def duplicates_note(x: np.ndarray, splits: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """A sentence for each split with examples that are in the training split as well."""
    if "train" not in splits or len(splits) < 2:
        return ()
    seen = set(_hashes(x, splits["train"]))
    notes = []
    for name, indices in splits.items():
        same = 0 if name == "train" else sum(value in seen for value in _hashes(x, indices))
        if same:
            notes.append(f"{same} of {len(indices)} examples of the split `{name}` are in `train` as well.")
    return tuple(notes)


def _hashes(x: np.ndarray, indices: np.ndarray) -> list[int]:
    rows = np.asarray(x)  # a mapped array makes a mapped array of every row, which costs more than the hash
    return [hash(rows[index].tobytes()) for index in indices]
