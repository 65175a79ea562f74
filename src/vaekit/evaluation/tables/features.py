"""Rows as matrices: for trees, for linear models, and for neighbourhoods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from vaekit.evaluation.tables.rows import Rows, scaled_to_range

MAX_KINDS = 254
"""Kinds of cells of a column that a tree may tell apart; the rarer ones are one kind together."""

MAX_INDICATORS = 2048
"""Indicators of all columns together, and at most 256 a column, but 2; the rarer kinds of cells have one in common."""


def tree_features(fitted: Rows, tables: Sequence[Rows], columns: Sequence[int]) -> tuple[list[np.ndarray], np.ndarray]:
    """(N, F) matrices for trees that know of missing values and of categories.

    A number is a quarter of itself, NaN where it is missing or a word; the kinds of its cells follow where it has words. A
    category is a code, the commonest first. What is learned (the order, the commonest) is of `fitted` alone.

    Args:
        fitted: the rows to learn from.
        tables: what to make matrices of.
        columns: which columns.

    Returns:
        The matrices, and (F,) which features are codes.
    """
    features: list[list[np.ndarray]] = [[] for _ in tables]
    coded = []
    for index in columns:
        if fitted.is_number(index):
            coded.append(False)
            for found, rows in zip(features, tables, strict=True):
                found.append(rows.numbers(index) / 4)  # trees take means of two, whose sum must not overflow
        if not fitted.is_number(index) or fitted.columns[index].words:
            ranks = _ranks(fitted, index, MAX_KINDS)
            coded.append(True)
            for found, rows in zip(features, tables, strict=True):
                found.append(ranks[rows.codes(index)].astype(np.float64))
    return [
        np.stack(found, axis=1) if found else np.zeros((len(rows), 0)) for found, rows in zip(features, tables, strict=True)
    ], np.array(coded, dtype=bool)


def scaled_features(fitted: Rows, tables: Sequence[Rows], scaling: str) -> list[np.ndarray]:
    """(N, F) matrices of numbers and indicators.

    Numbers are `standard`ised or `range`d to [0, 1] by the plain cells of `fitted`; where there is none, the mean of those
    stands. Of each column of categories, and of each column of numbers in which a cell is something else, there is an indicator
    a kind of cell; under `range` it is divided by sqrt(2), so that two kinds lie 1 apart.
    """
    blocks = [[np.zeros((len(rows), 0)) for rows in tables]]
    for index in fitted.measured:
        blocks.extend(_scaled_columns(fitted, tables, index, scaling))
    return [np.concatenate(parts, axis=1) for parts in zip(*blocks, strict=True)]


def _scaled_columns(fitted: Rows, tables: Sequence[Rows], index: int, scaling: str) -> Iterator[list[np.ndarray]]:
    if fitted.is_number(index):
        plain = fitted.numbers(index)
        plain = plain[~np.isnan(plain)]
        low, high = (float(plain.min()), float(plain.max())) if len(plain) else (0.0, 1.0)
        scaled = scaled_to_range(plain, low, high)
        centre = float(scaled.mean()) if len(plain) else 0.0
        spread = (float(scaled.std()) if len(plain) else 0.0) or 1.0
        values = [scaled_to_range(rows.numbers(index), low, high) for rows in tables]
        values = [np.where(np.isnan(v), centre, v)[:, None] for v in values]
        yield values if scaling == "range" else [(v - centre) / spread for v in values]
    codes = [rows.codes(index) for rows in tables]
    if not fitted.is_number(index) or any(found.any() for found in codes):
        ranks = _ranks(fitted, index, int(np.clip(MAX_INDICATORS // len(fitted.measured), 2, 256)))
        ranked = [ranks[found] for found in codes]
        indicators = np.eye(max(int(found.max()) for found in ranked) + 1) * (np.sqrt(0.5) if scaling == "range" else 1.0)
        yield [indicators[found] for found in ranked]


def _ranks(fitted: Rows, index: int, most: int) -> np.ndarray:
    """Of each code of a column the rank by how common it is in `fitted`; from `most` - 1 on they share one."""
    counts = np.bincount(fitted.codes(index), minlength=fitted.num_codes(index))
    ranks = np.empty(len(counts), dtype=np.int64)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return np.minimum(ranks, most - 1)
