"""Whether synthetic rows give away rows that the model was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vaekit.errors import ConfigError
from vaekit.evaluation.tables.distances import Distance, Metric, fingerprints
from vaekit.evaluation.tables.rows import Rows, limit_of, same_table
from vaekit.evaluation.tables.statistics import area_interval, area_under_curve, share_interval
from vaekit.inference import Progress

LIMIT = 10_000
"""Rows that distances are taken of, unless told otherwise; fewer of tables of more than 50 columns."""

REFERENCES = 5
"""So many times as many are the rows that distances are taken to, at most."""


@dataclass(frozen=True)
class Distances:
    """Distances of rows to their closest training row.

    Attributes:
        median: of the distance to the closest record.
        lowest: its quantile of 5 %.
        ratio_median: median of the nearest distance divided by the second nearest, 1 where both are 0.
        ratio_lowest: its quantile of 5 %.
        num_rows: how many rows.
    """

    median: float
    lowest: float
    ratio_median: float
    ratio_lowest: float
    num_rows: int


@dataclass(frozen=True)
class Copies:
    """Rows that equal a training row in every measured cell.

    Attributes:
        count: how many.
        share: of all rows.
        share_interval: its 95 % confidence interval.
        num_rows: how many rows there are.
    """

    count: int
    share: float
    share_interval: tuple[float, float]
    num_rows: int


@dataclass(frozen=True)
class Privacy:
    """What synthetic rows give away of the training rows, beside what real rows that were held out would.

    No figure here is a guarantee: that every one is at its ideal does not say that no row is given away.

    Attributes:
        metric: of the distances.
        synthetic: distances of synthetic rows to training rows.
        held_out: of held-out rows to the same training rows: what `synthetic` should not fall short of.
        closer_share: the share of synthetic rows that are nearer to the training rows than to as many held-out rows; ties are
            halves. 0.5 is ideal, more is memory.
        closer_interval: its 95 % confidence interval over the synthetic rows, given the others.
        copies: synthetic rows that are copies of training rows.
        held_out_copies: held-out rows that are: what is common anyway.
        membership_auc: how well the distance to the nearest synthetic row tells training rows from held-out rows. 0.5 is
            ideal: a guess.
        membership_interval: its 95 % confidence interval.
        num_train: training rows that distances were taken to.
        num_references: rows of each side of `closer_share`.
        num_members: rows of each side of `membership_auc`.
    """

    metric: str
    synthetic: Distances
    held_out: Distances
    closer_share: float
    closer_interval: tuple[float, float]
    copies: Copies
    held_out_copies: Copies
    membership_auc: float
    membership_interval: tuple[float, float]
    num_train: int
    num_references: int
    num_members: int


def privacy(
    train: Rows,
    synthetic: Rows,
    test: Rows,
    *,
    metric: Metric = "gower",
    seed: int = 0,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Privacy:
    """Distances to closest records, copies, and an attack on membership; all against rows that were held out.

    `closer_share`: Platzer, Reutterer, "Holdout-based empirical assessment of mixed-type synthetic data" (2021).
    `membership_auc`: the attack by the distance to the nearest generated example of Chen, Yu, Zhang, Fritz, "GAN-Leaks: a
    taxonomy of membership inference attacks against generative models" (2020). Distances are those of `Distance`, with ranges
    of the training rows. Copies are counted among all rows, and should be counted of rows as they would be published, with
    numbers rounded as in the source.
    All presumes that training and held-out rows are of one population, and divided at random.

    Args:
        train: rows that the generator was trained on.
        synthetic: rows that it made.
        test: rows that it has not seen.
        metric: `gower` or `euclidean`.
        seed: of the choice of rows.
        limit: most rows that distances are taken of, 10,000 if None (fewer of more than 50 columns, at least 1,000); they are
            taken to at most five times as many.
        progress: called with (done, total) as the five sets of distances are done.

    Raises:
        ConfigError: if there are fewer than two training, synthetic or held-out rows, or the metric is unknown.
        DataError: if the columns differ.
    """
    _check(train, synthetic, test)
    distance = Distance(train, metric)
    limit = limit_of(len(distance.columns), LIMIT, 50, 1000) if limit is None else max(2, limit)
    report = progress or (lambda done, total: None)
    asked, references, others = synthetic.take(limit, seed), train.take(REFERENCES * limit, seed), test.take(limit, seed)
    of_synthetic = _distances(distance.nearest(asked, references, 2))
    report(1, 5)
    of_others = _distances(distance.nearest(others, references, 2))
    report(2, 5)
    share, interval, num_references = _closer(distance, asked, references, test.take(REFERENCES * limit, seed), seed)
    report(4, 5)
    area, around, num_members = _membership(distance, train, test, synthetic.take(REFERENCES * limit, seed), limit, seed)
    report(5, 5)
    known = np.unique(fingerprints(train))
    return Privacy(
        metric=metric,
        synthetic=of_synthetic,
        held_out=of_others,
        closer_share=share,
        closer_interval=interval,
        copies=_copies(synthetic, known),
        held_out_copies=_copies(test, known),
        membership_auc=area,
        membership_interval=around,
        num_train=len(references),
        num_references=num_references,
        num_members=num_members,
    )


def _check(train: Rows, synthetic: Rows, test: Rows) -> None:
    same_table(train, synthetic, test)
    if min(len(train), len(synthetic), len(test)) < 2:
        found = f"{len(train)} training, {len(synthetic)} synthetic and {len(test)} held-out"
        raise ConfigError(f"There must be at least two rows of each kind, got {found} ones. Give more rows.")


def _distances(nearest: np.ndarray) -> Distances:
    """The summary of (N, 2) distances to the two nearest."""
    first, second = nearest.T
    ratio = np.divide(first, second, out=np.ones_like(first), where=second > 0)
    lowest, median = (float(q) for q in np.quantile(first, [0.05, 0.5]))
    ratio_lowest, ratio_median = (float(q) for q in np.quantile(ratio, [0.05, 0.5]))
    return Distances(median, lowest, ratio_median, ratio_lowest, len(first))


def _closer(distance: Distance, asked: Rows, train: Rows, test: Rows, seed: int) -> tuple[float, tuple[float, float], int]:
    """The share that is nearer to the training rows than to as many held-out rows; the nearest of more is nearer anyway."""
    num = min(len(train), len(test))
    to_train, to_test = (distance.nearest(asked, rows.take(num, seed + 1))[:, 0] for rows in (train, test))
    wins = float((to_train < to_test).sum() + 0.5 * (to_train == to_test).sum())
    return wins / len(asked), share_interval(wins, len(asked)), num


def _membership(
    distance: Distance, train: Rows, test: Rows, synthetic: Rows, limit: int, seed: int
) -> tuple[float, tuple[float, float], int]:
    num = min(len(train), len(test), limit)
    members, others = (-distance.nearest(rows.take(num, seed + 2), synthetic)[:, 0] for rows in (train, test))
    area = area_under_curve(members, others)[0]
    return area, area_interval(area, num, num), num


def _copies(rows: Rows, known: np.ndarray) -> Copies:
    count = int(np.isin(fingerprints(rows), known).sum())
    return Copies(count, count / len(rows), share_interval(count, len(rows)), len(rows))
