"""How much of the real rows' variety synthetic rows have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vaekit.errors import ConfigError
from vaekit.evaluation.samples import neighbourhoods
from vaekit.evaluation.tables.features import scaled_features
from vaekit.evaluation.tables.rows import Rows, same_table, scaled_to_range

LIMIT = 10_000
"""Rows a side whose neighbours are looked for, unless told otherwise."""


@dataclass(frozen=True)
class TableCoverage:
    """Variety of synthetic rows, column by column and as a whole; 1 is best.

    Attributes:
        categories: mean over columns of categories of the share of the categories among the real cells (a missing cell is one)
            that occur among the synthetic; None without such columns.
        ranges: mean over columns of numbers of the share of the real range [a, b] that lies within the synthetic [c, d],
            max(0, 1 - max(0, c - a) / (b - a) - max(0, b - d) / (b - a)); None without such columns.
        within: mean over columns of numbers of the share of synthetic numbers within the real range.
        by_column: `categories` or `ranges` of each column.
        precision: the share of synthetic rows that lie among the real.
        recall: the share of real rows that lie among the synthetic.
        density: as precision, where outliers of the real weigh less; about 1 for rows of one kind.
        coverage: the share of real rows that have a synthetic neighbour.
        num_neighbours: k of the last four.
        num_rows: of each side, for the last four.
    """

    categories: float | None
    ranges: float | None
    within: float | None
    by_column: dict[str, float]
    precision: float
    recall: float
    density: float
    coverage: float
    num_neighbours: int
    num_rows: int


def table_coverage(
    real: Rows, synthetic: Rows, *, num_neighbours: int = 5, seed: int = 0, limit: int | None = None
) -> TableCoverage:
    """Coverage of categories and of ranges by all rows, and of neighbourhoods by as many rows of both sides.

    The neighbourhoods are those of `vaekit.evaluation.samples.neighbourhoods`: balls about rows that reach to the k-th nearest
    row of the same side. Distances are Euclidean, of numbers scaled by the real range to [0, 1] and indicators of
    categories divided by sqrt(2). The ranges and categories are the "range coverage" and "category coverage" of the SDMetrics
    library.

    Args:
        real: N rows.
        synthetic: M rows.
        num_neighbours: k.
        seed: of the choice of rows.
        limit: most rows of each side whose neighbours are looked for, 10,000 if None.

    Raises:
        ConfigError: if there are not more than `num_neighbours` rows on each side.
        DataError: if the two have different columns.
    """
    same_table(real, synthetic)
    num = min(len(real), len(synthetic), LIMIT if limit is None else limit)
    if num <= num_neighbours:
        raise ConfigError(
            f"There must be more than {num_neighbours} rows on each side, got {num}. Give more rows, or a smaller k."
        )
    numbers = {
        i: found for i in real.measured if real.is_number(i) and (found := _range(real.numbers(i), synthetic.numbers(i)))
    }
    categories = {i: _categories(real, synthetic, i) for i in real.measured if not real.is_number(i)}
    by_index = categories | {i: found[0] for i, found in numbers.items()}
    near = real.take(num, seed), synthetic.take(num, seed + 1)
    x, y = scaled_features(near[0], near, "range")
    shares = neighbourhoods(x, y, num_neighbours)
    return TableCoverage(
        categories=_mean(list(categories.values())),
        ranges=_mean([found[0] for found in numbers.values()]),
        within=_mean([found[1] for found in numbers.values()]),
        by_column={real.columns[i].name: by_index[i] for i in sorted(by_index)},
        **shares,
        num_neighbours=num_neighbours,
        num_rows=num,
    )


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _categories(real: Rows, synthetic: Rows, index: int) -> float:
    there, here = (np.bincount(rows.codes(index), minlength=rows.num_codes(index)) > 0 for rows in (real, synthetic))
    return float(here[there].mean())


def _range(real: np.ndarray, synthetic: np.ndarray) -> tuple[float, float] | None:
    """Coverage of the real range, and the share of the synthetic numbers within it; None where the real rows hold no number."""
    real, synthetic = real[~np.isnan(real)], synthetic[~np.isnan(synthetic)]
    if not len(real):
        return None
    if not len(synthetic):
        return 0.0, 0.0
    a, b, c, d = real.min(), real.max(), synthetic.min(), synthetic.max()
    within = float(((synthetic >= a) & (synthetic <= b)).mean())
    if a == b:
        return float(c <= a <= d), within
    lower, upper = scaled_to_range(np.array([c, d]), a, b)
    away = max(0.0, lower) + max(0.0, 1.0 - upper)
    return float(max(0.0, 1.0 - away)), within
