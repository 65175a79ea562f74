"""Batches of text without the padding that none of their items needs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vaekit.symbols import PAD
from vaekit.types import Batch

if TYPE_CHECKING:
    from vaekit.data.dataset import Dataset
    from vaekit.data.schema import Schema

_CHUNK_ELEMENTS = 2**24


def trimmed(batch: Batch, schema: Schema) -> Batch:
    """A batch of text with as many positions as its longest item has; of other kinds of data the same batch.

    Call it before the batch goes to another device: what is cut is decided on the processor.

    Args:
        batch: x (B, T), as it is stored.
        schema: of the data.

    Returns:
        x (B, T'), T' <= T, and its mask alike.
    """
    if schema.kind != "text":
        return batch
    codes = batch.x.numpy() if batch.x.dtype == torch.uint16 else batch.x  # torch has few operations on uint16
    used = np.flatnonzero(np.asarray(codes != PAD).any(0))
    width = int(used[-1]) + 1 if len(used) else 1
    return replace(batch, x=batch.x[:, :width], mask=None if batch.mask is None else batch.mask[:, :width])


def num_codes(data: Dataset) -> Tensor | None:
    """(N,) int64: how many codes each item has that are no padding; None for other data than text."""
    if data.schema.kind != "text":
        return None
    rows = max(1, _CHUNK_ELEMENTS // data.schema.num_dimensions)
    out = np.empty(len(data), dtype=np.int64)
    for start in range(0, len(data), rows):
        part = np.arange(start, min(start + rows, len(data)))
        out[part] = (data.stored(part) != PAD).sum(1)
    return torch.from_numpy(out)
