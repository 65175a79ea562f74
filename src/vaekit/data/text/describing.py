"""What a person wants to know of texts."""

from __future__ import annotations

import numpy as np

from vaekit.data.dataset import Dataset, spaced, to_source
from vaekit.data.text.tokens import tokenizer_of
from vaekit.symbols import END, FIRST, PAD, UNKNOWN

_LOOKED_AT = 20_000
_EXAMPLES, _LONGEST_EXAMPLE = 3, 70
_PRINTED = 12


def describe_text(dataset: Dataset) -> list[tuple[str, str]]:
    """Pairs of a heading and a line: how many, their tokens and lengths, and some of them.

    Example:
        >>> from vaekit.data.loading import open
        >>> describe_text(open(["anna", "otto"]))[:3]
        [('kind', 'text (list)'), ('shape', '2 texts of at most 4 tokens'), ('tokens', '4 characters: a n o t')]
    """
    schema = dataset.schema
    assert schema.text is not None
    some = spaced(len(dataset), _LOOKED_AT)
    codes = dataset.stored(some)
    lengths = ((codes != PAD) & (codes != END)).sum(axis=1)
    lines = [
        ("kind", f"text ({schema.source.form}{f', column {schema.source.column}' if schema.source.column else ''})"),
        ("shape", f"{len(dataset):,} texts of at most {schema.shape[0] - 1} tokens"),
        ("tokens", _tokens(dataset)),
        ("lengths", f"median {np.median(lengths):g}, longest {lengths.max(initial=0)} tokens"),
    ]
    if schema.text.tokens in ("character", "word"):
        unknown = int((codes == UNKNOWN).sum()) / max(1, int(lengths.sum()))
        lines.append(("unknown", f"{unknown:.2%} of the tokens"))
    if len(dataset):
        shown = to_source(dataset.stored(spaced(len(dataset), _EXAMPLES)), schema)
        lines += [("example", _shortened(text)) for text in shown]
    return lines


def _tokens(dataset: Dataset) -> str:
    assert dataset.schema.text is not None
    kind, num = dataset.schema.text.tokens, dataset.schema.text.num_tokens - FIRST
    if kind == "byte":
        return f"the {num} bytes of UTF-8"
    printed = tokenizer_of(dataset.schema.text).printed[FIRST:]
    # the first ones of byte pairs are the single bytes, and the next the most frequent pairs
    some = printed[256 : 256 + _PRINTED] if kind == "bpe" else printed[:_PRINTED]
    listed = " ".join(repr(token) if token[0].isspace() or not token.isprintable() else token for token in some)
    plain = {"character": "characters", "word": "words", "bpe": "byte pairs"}[kind]
    return f"{num:,} {plain}" + (f": {listed}{' ...' if num > len(some) else ''}" if some else "")


def _shortened(text: str) -> str:
    shown = text if len(text) <= _LONGEST_EXAMPLE else text[:_LONGEST_EXAMPLE] + "..."
    return shown if shown.isprintable() and shown.strip() == shown and shown else repr(shown)
