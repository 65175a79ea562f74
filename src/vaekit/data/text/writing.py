"""Texts as files, with the columns beside them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from vaekit.data.output import EXAMPLE_SUFFIXES, atomic_file, listed
from vaekit.errors import ConfigError, require

WRITE_SUFFIXES = EXAMPLE_SUFFIXES["text"]
_BREAKS = re.compile("\r\n|\r|\n")


def write_texts(
    texts: Sequence[str],
    out: str | os.PathLike[str],
    columns: Mapping[str, Sequence[Any]] | None = None,
    force: bool = False,
    *,
    column: str = "text",
) -> None:
    r"""Texts as a file, whole or not at all; the ending of `out` chooses the form.

    `.txt`: a text a line; a line break within a text becomes the two characters `\n`, and columns are left out. `.jsonl`:
    an object a line. `.csv`, `.tsv`, `.parquet`: a row a text.

    Args:
        texts: N of them.
        out: where to.
        columns: name -> N values that stand beside the texts.
        force: replace what is there.
        column: the name of the texts' own column.

    Raises:
        ConfigError: on another ending, or if it cannot be written.
        DataError: if `out` exists, and `force` is False.
    """
    suffix = Path(out).suffix.lower()
    if suffix not in WRITE_SUFFIXES:
        raise ConfigError(f"The output of text must be {listed(WRITE_SUFFIXES)}, got `{out}`. Choose another ending.")
    beside = {name: [_plain(value) for value in values] for name, values in (columns or {}).items() if name != column}
    lengths = {len(values) for values in beside.values()} | {len(texts)}
    if len(lengths) > 1:
        raise ConfigError(f"All columns must have one value a text, got {sorted(lengths)} values. Give one each.")
    if suffix == ".parquet":
        polars = require("polars", "table", "Writing Parquet")
        with atomic_file(out, force) as path:
            polars.DataFrame({column: list(texts), **beside}).write_parquet(path)
        return
    with atomic_file(out, force) as path, open(path, "w", encoding="utf-8", newline="") as file:
        if suffix == ".txt":
            file.writelines(_BREAKS.sub(r"\\n", text) + "\n" for text in texts)
        elif suffix == ".jsonl":
            for text, *values in zip(texts, *beside.values(), strict=True):
                row = {column: text, **dict(zip(beside, values, strict=True))}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            _write_rows(file, "\t" if suffix == ".tsv" else ",", [column, *beside], zip(texts, *beside.values(), strict=True))


def _write_rows(file: IO[str], delimiter: str, names: Sequence[str], rows: Any) -> None:
    """Rows of which each text is quoted, so that an empty one is not taken as missing."""
    file.write(delimiter.join(map(_quoted, names)) + "\n")
    for row in rows:
        cells = ("" if cell is None else _quoted(cell) if isinstance(cell, str) else str(cell) for cell in row)
        file.write(delimiter.join(cells) + "\n")


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
