"""Tables: reading them, finding what their columns are, rows as numbers and back, and conditions on cells.

The names are loaded when they are first asked for, because all but `TableColumn` and its helpers need Polars.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vaekit.data.tables.columns import TableColumn, channel_names, num_channels, state_channels

if TYPE_CHECKING:
    from vaekit.data.tables.coding import Encoder, decode, encode
    from vaekit.data.tables.grid import CellGrid
    from vaekit.data.tables.inference import Inference, infer
    from vaekit.data.tables.opening import conform_table, open_table
    from vaekit.data.tables.overrides import parse_overrides
    from vaekit.data.tables.reading import TableSource, batches, is_table, open_source, read
    from vaekit.data.tables.where import Event, parse_where
    from vaekit.data.tables.writing import to_form, write

_LATER = {
    "CellGrid": "grid",
    "Encoder": "coding",
    "Event": "where",
    "Inference": "inference",
    "TableSource": "reading",
    "batches": "reading",
    "conform_table": "opening",
    "decode": "coding",
    "encode": "coding",
    "infer": "inference",
    "is_table": "reading",
    "open_source": "reading",
    "open_table": "opening",
    "parse_overrides": "overrides",
    "parse_where": "where",
    "read": "reading",
    "to_form": "writing",
    "write": "writing",
}

__all__ = [
    "CellGrid",
    "Encoder",
    "Event",
    "Inference",
    "TableColumn",
    "TableSource",
    "batches",
    "channel_names",
    "conform_table",
    "decode",
    "encode",
    "infer",
    "is_table",
    "num_channels",
    "open_source",
    "open_table",
    "parse_overrides",
    "parse_where",
    "read",
    "state_channels",
    "to_form",
    "write",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f"vaekit.data.tables.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
