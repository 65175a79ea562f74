"""From texts to a data set: their tokens found or given, the texts as codes, in memory or mapped from disk."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np

from vaekit.data import cache
from vaekit.data.dataset import Dataset
from vaekit.data.schema import AnyColumn, Schema, Source
from vaekit.data.text.columns import Gathered
from vaekit.data.text.fitting import Sample, TokensOption, fit_tokens
from vaekit.data.text.format import LONG
from vaekit.data.text.packing import MOST_TOKENS, Breaks, Ragged, choose_limit, fill, long_note, parts_of
from vaekit.data.text.reading import Chunk, Texts, TextSource
from vaekit.data.text.sources import find_source
from vaekit.data.text.tokens import Tokenizer, tokenizer_of
from vaekit.errors import ConfigError, DataError
from vaekit.symbols import UNKNOWN

MOST_IN_MEMORY = 2**28
"""Bytes of codes up to which texts are held in memory; more are mapped from the cache where they come from a file."""

_LARGEST_UINT16 = 65_535

Long = Literal["cut", "split"]
Parts = tuple[np.ndarray, np.ndarray, np.ndarray]


def open_text(
    source: Any,
    *,
    tokens: TokensOption = "auto",
    vocabulary: int | None = None,
    max_tokens: int | None = None,
    long: Long = "cut",
    text: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    header: bool | None = None,
    sheet: str | int | None = None,
) -> Dataset:
    """Texts as a data set. A file is read twice, and never held whole: what its tokens are, then their codes.

    A text that is not there is an empty one, except that blank lines of a file of lines are left out.

    Args:
        source: a path to a file of lines or of JSON lines, or to a table; a frame; or texts as `reading.Texts`.
        tokens: `byte`, `character`, `word`, `bpe` (byte pairs, learned from the data), or `auto`: characters for short texts
            of few distinct ones, such as names, and byte pairs for others.
        vocabulary: how many tokens at most, the most frequent ones.
        max_tokens: the most tokens of a text. By default all of the longest where that is short (64), or as many as all but
            0.5% of the texts have, up to 256.
        long: what becomes of texts with more: they are `cut`, or `split` into several, behind sentences or words.
        text: the column or field of the texts; found if left out.
        encoding: of a file; UTF-8 (or UTF-16, by its mark) if left out.
        delimiter, header, sheet: of a table; see `tables.reading.open_source`.

    Raises:
        DataError: if it cannot be read, or holds no text.
        ConfigError: on an option that cannot be.
        MissingExtraError: if byte pairs are to be learned without the package that does so.

    Example:
        >>> from vaekit.data.text.reading import Texts
        >>> data = open_text(Texts(["anna", "otto"]))
        >>> data.schema.shape, data.x.tolist()
        ((5,), [[3, 4, 4, 3, 1], [5, 6, 6, 5, 1]])
    """
    _check_long(long)
    choose_limit(np.zeros(0, np.int64), max_tokens)  # before long work
    found = find_source(source, text=text, encoding=encoding, delimiter=delimiter, header=header, sheet=sheet)
    sample = Sample()
    for chunk in found.chunks():
        sample.add(chunk.texts)
    if not any(sample.texts):
        raise DataError(f"{found.name} must hold text, found none. Check how it was written.")
    format = fit_tokens(sample.texts, tokens, vocabulary, long)
    reader = _Reader(found, tokenizer_of(format), Gathered(every=isinstance(source, Texts) and source.column is None))
    ragged = reader.read(None if long == "split" else (max_tokens or MOST_TOKENS) + 1)
    limit = choose_limit(np.concatenate(ragged.lengths), max_tokens)
    return reader.dataset(ragged, limit, long)


def conform_text(
    source: Any,
    schema: Schema,
    *,
    long: Long | None = None,
    text: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    header: bool | None = None,
    sheet: str | int | None = None,
) -> Dataset:
    """Texts as codes of a given schema. What the schema does not know is unknown, and a note says so.

    Args:
        source: as in `open_text`.
        schema: of the texts that a model was trained on.
        long: what becomes of texts with more tokens than fit; as for those that the model was trained on if left out.
        text, encoding, delimiter, header, sheet: as in `open_text`.

    Raises:
        DataError: if it cannot be read, or holds no text.
    """
    if schema.text is None:
        raise DataError(f"The data must be {schema.kind}, as those that the model was trained on, found text.")
    _check_long(long or "cut")
    how = {"encoding": encoding, "delimiter": delimiter, "header": header, "sheet": sheet}
    found = find_source(source, text=text, **how, known=schema)
    reader = _Reader(found, tokenizer_of(schema.text), Gathered(schema.columns))
    long = long or schema.text.long
    limit = schema.shape[0] - 1
    return reader.dataset(reader.read(None if long == "split" else limit + 1), limit, long, schema)


def _check_long(long: str) -> None:
    if long not in LONG:
        raise ConfigError(f"`long` must be 'cut' or 'split', got {long!r}. Choose one of them.")


class _Reader:
    """The texts of a source as codes."""

    def __init__(self, source: TextSource, tokenizer: Tokenizer, columns: Gathered) -> None:
        self.source, self.tokenizer, self.columns = source, tokenizer, columns
        self.dtype: Literal["uint16", "int32"] = "uint16" if tokenizer.format.num_tokens <= _LARGEST_UINT16 else "int32"
        self.blank = self.absent = self.tokens = self.unknown = 0

    def read(self, keep: int | None) -> Ragged:
        """All codes, of each text the first `keep`."""
        ragged = Ragged(self.dtype, keep)
        for chunk in self.source.chunks():
            self._add(ragged, chunk)
        if not sum(map(len, ragged.lengths)):
            raise DataError(f"{self.source.name} must hold text, found none. Check how it was written.")
        return ragged

    def _add(self, ragged: Ragged, chunk: Chunk) -> None:
        self.blank += chunk.blank
        self.absent += chunk.absent
        codes, lengths = self.tokenizer.encode(chunk.texts)
        self.tokens += len(codes)
        self.unknown += int((codes == UNKNOWN).sum())
        ragged.add(codes, lengths)
        self.columns.add(chunk.columns, len(chunk.texts))

    def dataset(self, ragged: Ragged, limit: int, long: Long, known: Schema | None = None) -> Dataset:
        """The data set of rows of at most `limit` tokens."""
        breaks = Breaks(self.tokenizer)
        parts = [parts_of(chunk, limit, long, breaks) for chunk in ragged.chunks]
        total = sum(len(starts) for _, starts, _ in parts)
        width = limit + 1
        x = self._packed(ragged, parts, (total, width))
        columns, notes = self.columns.finish()
        owners = _owners(parts, ragged)
        codes = {name: values[owners] for name, values in self.columns.codes().items()}
        schema = self._schema(width, total, columns, known)
        notes = (*self.source.notes, *self._notes(known is not None), *long_note(ragged.lengths, limit, long, total), *notes)
        return Dataset(schema, x, codes, notes=notes, groups=owners if len(owners) > sum(map(len, ragged.lengths)) else None)

    def _packed(self, ragged: Ragged, parts: list[Parts], shape: tuple[int, int]) -> np.ndarray:
        """The array (N, T) of all rows, in memory or mapped from the cache."""
        size = shape[0] * shape[1] * np.dtype(self.dtype).itemsize
        if size <= MOST_IN_MEMORY or self.source.path is None:
            x = np.zeros(shape, self.dtype)
            _fill(x, ragged, parts)
            return x
        digest = hashlib.sha256()
        for codes, lengths in ragged.chunks:
            digest.update(codes.tobytes() + lengths.tobytes())
        options = {"text": self.tokenizer.format.model_dump(mode="json"), "shape": list(shape)}
        slot = cache.slot_for(self.source.path, [digest.hexdigest()], options)
        kept = cache.find(slot)
        if kept is not None:
            return kept[0]
        try:
            mapped = cache.create(slot, shape, self.dtype)
        except OSError as error:
            raise DataError(
                f"The cache {slot.folder} must have room for {size / 2**30:.1f} GiB of codes, but: {error}. "
                "Make room, or set VAEKIT_CACHE to a folder with more."
            ) from error
        try:
            _fill(mapped, ragged, parts)
        except BaseException:
            cache.discard(mapped)
            raise
        return cache.commit(slot, mapped, {})

    def _schema(self, width: int, total: int, columns: tuple[AnyColumn, ...], known: Schema | None) -> Schema:
        if known is not None:
            return known.model_copy(update={"num_examples": total})
        form: Any = self.source.form
        return Schema(
            kind="text",
            shape=(width,),
            values="tokens",
            levels=self.tokenizer.format.num_tokens,
            low=0.0,
            high=self.tokenizer.format.num_tokens - 1.0,
            dtype=self.dtype,
            columns=columns,
            text=self.tokenizer.format,
            source=Source(form=form, layout="flat", dtype="str", column=self.source.column),
            num_examples=total,
        )

    def _notes(self, conforming: bool) -> tuple[str, ...]:
        notes = ()
        if self.blank:
            notes += (f"{self.blank:,} blank {'line is' if self.blank == 1 else 'lines are'} left out.",)
        if self.absent:
            which = "1 text is" if self.absent == 1 else f"{self.absent:,} texts are"
            notes += (f"{which} not there, and taken as empty.",)
        if self.unknown:
            what = "are not in the model's vocabulary" if conforming else "are too rare for the vocabulary"
            notes += (f"{self.unknown:,} of {self.tokens:,} tokens ({self.unknown / self.tokens:.2%}) {what}, and unknown.",)
        return notes


def _fill(x: np.ndarray, ragged: Ragged, parts: list[Parts]) -> None:
    begin = 0
    for (codes, _), (_, starts, lengths) in zip(ragged.chunks, parts, strict=True):
        fill(x[begin : begin + len(starts)], codes, starts, lengths)
        begin += len(starts)


def _owners(parts: list[Parts], ragged: Ragged) -> np.ndarray:
    """Which text each row is of."""
    begins = np.cumsum([0, *(len(lengths) for _, lengths in ragged.chunks)])[:-1]
    return np.concatenate([owners + begin for (owners, _, _), begin in zip(parts, begins, strict=True)])
