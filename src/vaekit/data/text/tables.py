"""Texts in a column of a table: which column it is, and whether a table is nothing but texts with their labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from vaekit.data.schema import Schema
from vaekit.data.tables.reading import BATCH_ROWS, TableSource, open_source
from vaekit.data.text.columns import MOST_CATEGORIES
from vaekit.data.text.reading import CHUNK_TEXTS, Chunk, TextSource, printed
from vaekit.data.text.tokens import divide_words
from vaekit.errors import DataError

_LEAST_ROWS = 20
_LOOKED_AT = 500
_WORDS = 4


def open_frame(
    source: Any, *, text: str | None = None, encoding: str | None = None, known: Schema | None = None, **options: Any
) -> TextSource:
    """A column of a table as texts; columns of few distinct values, and of numbers, stay beside them.

    Args:
        source: a path or a frame; see `tables.reading.open_source`.
        text: the column of the texts; the one that looks like it if left out.
        encoding: of a text file.
        known: the schema of a model: its column of texts is taken where the table has one of that name, and its columns are
            the ones that are kept.
        **options: `delimiter`, `header`, `sheet`.

    Raises:
        DataError: if there is no such column, or not one that is text.
    """
    table = open_source(source, encoding=encoding, **options)
    head = _head(table)
    column = _column(table, head, text, known)
    if known is None:
        beside = [name for name in table.names if name != column and (_is_few_valued(head[name]) or _is_numeric(head[name]))]
    else:
        beside = [known_column.name for known_column in known.columns if known_column.name in table.names]

    def chunks() -> Iterator[Chunk]:
        for frame in table.batches(CHUNK_TEXTS):
            texts = frame[column].cast(pl.String)
            columns = {name: [printed(value) for value in frame[name].to_list()] for name in beside}
            yield Chunk(texts.fill_null("").to_list(), columns, absent=texts.null_count())

    left = [name for name in table.names if name not in (column, *beside)]
    notes = table.notes
    if left and known is None:
        notes += (f"Columns that are neither the text, nor of few values or numbers, are left out: {', '.join(left[:10])}.",)
    return TextSource(table.form, "The table", chunks, column, table.path, notes)


def texts_of(source: Any, **options: Any) -> tuple[str | None, bool]:
    """Which column of a table is text, and whether all others have few values, so that the rows are texts with labels.

    Args:
        source: a path or a frame.
        **options: `encoding`, `delimiter`, `header`, `sheet`.
    """
    head = _head(open_source(source, **options))
    if len(head) < _LEAST_ROWS:
        return None, False
    free = [name for name in head.columns if _is_text(head[name], alone=head.width == 1)]
    if len(free) != 1:
        return None, False
    return free[0], all(_is_few_valued(head[name]) for name in head.columns if name != free[0])


def _head(table: TableSource) -> pl.DataFrame:
    frame = next(table.batches(BATCH_ROWS), None)
    return pl.DataFrame(schema=dict.fromkeys(table.names, pl.String)) if frame is None else frame


def _column(table: TableSource, head: pl.DataFrame, text: str | None, known: Schema | None) -> str:
    if text is not None:
        if text not in table.names:
            raise DataError(f"The table must have a column `{text}`; it has {_listed(table.names)}. Choose one of them.")
        return text
    if known is not None and known.source.column in table.names:
        return str(known.source.column)
    strings = [name for name in table.names if head[name].dtype == pl.String]
    if "text" in strings or len(strings) == 1:
        return "text" if "text" in strings else strings[0]
    free = [name for name in strings if _is_text(head[name], alone=head.width == 1)]
    if len(free) == 1:
        return free[0]
    raise DataError(
        f"The table must have one column of text, found {_listed(free or strings)}. "
        "Name it with `text=COLUMN` (`--text COLUMN`)."
    )


def _listed(names: Any) -> str:
    return ", ".join(list(names)[:20]) or "none"


def _is_few_valued(column: pl.Series) -> bool:
    num = column.drop_nulls().n_unique() if column.dtype not in (pl.List, pl.Struct, pl.Object) else len(column)
    return num <= MOST_CATEGORIES and 2 * num <= max(len(column), 4)


def _is_numeric(column: pl.Series) -> bool:
    """Whether all that is there are numbers."""
    if column.dtype == pl.String:
        cells = column.drop_nulls().str.strip_chars()
        cells = cells.filter(cells.str.len_chars() > 0)
        return len(cells) > 0 and cells.cast(pl.Float64, strict=False).null_count() == 0
    return column.dtype.is_numeric() and column.null_count() < len(column)


def _is_text(column: pl.Series, alone: bool) -> bool:
    """Whether most cells differ, and are words: several in each cell, unless there is no other column."""
    if column.dtype != pl.String:
        return False
    cells = column.drop_nulls()
    cells = cells.filter(cells.str.len_chars() > 0)
    if len(cells) * 2 < len(column) or cells.n_unique() * 2 < len(cells) or not len(cells):
        return False
    looked_at = cells.gather_every(max(1, len(cells) // _LOOKED_AT)).str.slice(0, 1000).to_list()
    signs = [sign for text in looked_at for sign in text if not sign.isspace()]
    if 2 * sum(map(str.isalpha, signs)) < len(signs):
        return False
    divided = [divide_words(text) for text in looked_at]
    spaced = sum(" " in text.strip() or not text.isascii() for text in looked_at)
    return alone or (2 * spaced >= len(looked_at) and sum(map(len, divided)) >= _WORDS * len(looked_at))
