"""What holds texts, as a source of them."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from vaekit.data.schema import Schema
from vaekit.data.text.jsonlines import SUFFIXES, open_json
from vaekit.data.text.reading import Texts, TextSource, check_encoding, open_lines, open_memory
from vaekit.errors import ConfigError, require

TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".csv.gz", ".tsv.gz", ".parquet", ".arrow", ".feather", ".ipc", ".xlsx")


def find_source(
    source: Any, *, text: str | None, encoding: str | None, known: Schema | None = None, **table: Any
) -> TextSource:
    """The texts of a path, a frame, or of what is in memory.

    Args:
        source: a path, a frame, or `Texts`.
        text: the column or field of the texts.
        encoding: of a file.
        known: the schema of a model, of whose source the column is looked for first.
        **table: `delimiter`, `header` and `sheet` of a table.

    Raises:
        ConfigError: on an option that is not for this kind of source.
        DataError: if there is no such column.
    """
    is_table = not isinstance(source, Texts | str | os.PathLike) or (not isinstance(source, Texts) and _is_table(Path(source)))
    if is_table:
        require("polars", "table", "Reading tables")
        open_frame = importlib.import_module("vaekit.data.text.tables").open_frame
        return open_frame(source, text=text, encoding=encoding, known=known, **table)
    for name, value in table.items():
        if value is not None:
            raise ConfigError(f"`{name}` must be left out for text that is no table, got {value!r}. Leave it out.")
    if isinstance(source, Texts):
        for name, value in (("encoding", encoding), ("text", text)):
            if value is not None:
                raise ConfigError(f"`{name}` must be left out for texts in memory, got {value!r}. Leave it out.")
        return open_memory(source)
    path = Path(source).expanduser()
    if encoding is not None:
        check_encoding(encoding)
    if path.name.lower().endswith(SUFFIXES):
        return open_json(path, encoding, text, None if known is None else known.source.column)
    if text is not None:
        raise ConfigError(f"`text` must be left out for lines of text, which have no columns, got {text!r}. Leave it out.")
    return open_lines(path, encoding)


def _is_table(path: Path) -> bool:
    if path.name.lower().endswith(TABLE_SUFFIXES):
        return True
    with path.open("rb") as file:
        return file.read(6).startswith((b"PAR1", b"ARROW1"))
