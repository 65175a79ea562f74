"""All measures of synthetic rows at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vaekit.data.tables.columns import TableColumn
from vaekit.errors import ConfigError
from vaekit.evaluation.tables.coverage import TableCoverage, table_coverage
from vaekit.evaluation.tables.detection import CLASSIFIERS, Detection, detection
from vaekit.evaluation.tables.pairs import PairTrends, pair_trends
from vaekit.evaluation.tables.privacy import Privacy, privacy
from vaekit.evaluation.tables.rows import Rows, as_rows
from vaekit.evaluation.tables.shapes import ColumnShape, column_shapes
from vaekit.evaluation.tables.utility import Utility, utility
from vaekit.inference import Progress
from vaekit.types import Json

_FAITHFUL_PARTS, _PARTS = 6, 11


@dataclass(frozen=True)
class TableReport:
    """How good synthetic rows are.

    Attributes:
        num_real: real rows, those that the generator was trained on.
        num_synthetic: synthetic rows.
        num_test: held-out real rows; 0 if there are none.
        shapes: of each column, see `column_shapes`.
        mean_shape: mean of the scores that there are.
        trends: of pairs of columns, see `pair_trends`.
        reference_shape: `mean_shape` of the held-out rows in place of the synthetic ones: what chance alone costs.
        reference_trend: the mean trend likewise, of the same pairs.
        detections: by logistic regression and by boosting, see `detection`.
        coverage: see `table_coverage`.
        utility: see `utility`; None without held-out rows or without a target.
        privacy: see `privacy`; None without held-out rows.
        left_out: columns that no measure looks at: identifiers and constants.
        notes: what else should be known.
    """

    num_real: int
    num_synthetic: int
    num_test: int
    shapes: tuple[ColumnShape, ...]
    mean_shape: float | None
    trends: PairTrends
    reference_shape: float | None
    reference_trend: float | None
    detections: tuple[Detection, ...]
    coverage: TableCoverage
    utility: Utility | None
    privacy: Privacy | None
    left_out: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def mean_error(self) -> float | None:
        """Mean distance of the columns' distributions: 1 - `mean_shape`."""
        return None if self.mean_shape is None else 1.0 - self.mean_shape

    def to_dict(self) -> Json:
        """The figures as a JSON object; what is not defined is None."""
        return _plain(asdict(self) | {"mean_error": self.mean_error})


def evaluate_tables(
    real: Any,
    synthetic: Any,
    columns: Sequence[TableColumn],
    *,
    test: Any = None,
    target: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    progress: Progress | None = None,
) -> TableReport:
    """Shapes, trends, detection, coverage, utility and privacy of synthetic rows.

    Args:
        real: (N, C + S) cells of the real rows that the generator was trained on, see `Rows`.
        synthetic: (M, C + S) cells of the synthetic rows, rounded as they would be published.
        columns: the C columns.
        test: cells of real rows that the generator has not seen; without them there is no utility, no privacy, no reference.
        target: name of the column that `utility` predicts; without it there is no utility.
        seed: of every random choice.
        limit: most rows that a measure looks at whose time grows faster than the rows (detection, neighbourhoods,
            distances; of utility, the rows to learn from). If None, each has a limit of its own, which its result says.
        progress: called with (done, total) as parts are done.

    Raises:
        ConfigError: if an argument cannot be, or there are too few rows (10 of each side, and 2 held-out ones).
        DataError: if cells do not fit the columns.
        MissingExtraError: if scikit-learn is not installed.
    """
    if limit is not None and limit < 10:
        raise ConfigError(f"`limit` must be at least 10 rows, got {limit}. Leave it out when in doubt.")
    if target is not None and test is None:
        raise ConfigError(f"Held-out rows must be given to predict `target={target!r}`, found none. Give `test`.")
    rows, made = as_rows(real, columns), as_rows(synthetic, columns)
    held_out = None if test is None else as_rows(test, columns)
    report = progress or (lambda done, total: None)
    how: dict[str, Any] = {"seed": seed, "limit": limit}
    faithful = _faithful(rows, made, held_out, how, report)
    useful = None if held_out is None or target is None else utility(rows, made, held_out, target, **how)
    private = None
    if held_out is not None:
        private = privacy(rows, made, held_out, **how, progress=lambda done, _: report(_FAITHFUL_PARTS + done, _PARTS))
    else:
        report(_PARTS, _PARTS)
    left_out = tuple(rows.columns[i].name for i in range(len(rows.columns)) if i not in set(rows.measured))
    return TableReport(
        num_real=len(rows),
        num_synthetic=len(made),
        num_test=0 if held_out is None else len(held_out),
        **faithful,
        utility=useful,
        privacy=private,
        left_out=left_out,
        notes=_notes(held_out, target, faithful["trends"], left_out),
    )


def _faithful(rows: Rows, made: Rows, held_out: Rows | None, how: dict[str, Any], report: Progress) -> dict[str, Any]:
    """The fields of a report on how near the synthetic rows are to the real ones."""
    shapes = column_shapes(rows, made)
    report(1, _PARTS)
    trends = pair_trends(rows, made, seed=how["seed"])
    report(2, _PARTS)
    reference = None
    if held_out is not None:
        reference = column_shapes(rows, held_out), pair_trends(rows, held_out, seed=how["seed"])
    report(3, _PARTS)
    detections = []
    for kind in CLASSIFIERS:
        detections.append(detection(rows, made, classifier=kind, **how))
        report(3 + len(detections), _PARTS)
    coverage = table_coverage(rows, made, **how)
    report(_FAITHFUL_PARTS, _PARTS)
    return {
        "shapes": shapes,
        "mean_shape": _mean_shape(shapes),
        "trends": trends,
        "reference_shape": None if reference is None else _mean_shape(reference[0]),
        "reference_trend": None if reference is None else reference[1].mean,
        "detections": tuple(detections),
        "coverage": coverage,
    }


def _mean_shape(shapes: Sequence[ColumnShape]) -> float | None:
    scores = [shape.score for shape in shapes if shape.score is not None]
    return float(np.mean(scores)) if scores else None


def _notes(held_out: Rows | None, target: str | None, trends: PairTrends, left_out: tuple[str, ...]) -> tuple[str, ...]:
    notes = []
    if left_out:
        notes.append(f"Identifiers and constants are not measured: {', '.join(left_out)}.")
    if len(trends.pairs) < trends.num_pairs:
        notes.append(f"{len(trends.pairs)} of {trends.num_pairs} pairs of columns were measured, chosen at random.")
    if held_out is None:
        notes.append("Without held-out rows nothing can be said of utility and privacy, or of what chance costs.")
    elif target is None:
        notes.append("Without a target nothing can be said of utility.")
    return tuple(notes)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
