"""Jobs of tables: a command each."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from vaekit.cli.options import (
    READ_AS_MODEL,
    SCREEN,
    USE,
    Count,
    Device,
    Force,
    Out,
    Rereading,
    Screen,
    Seed,
)
from vaekit.cli.output import Clock, check_ending, progress, remark, report, short
from vaekit.cli.text import fill_blanks, refuse_of_text
from vaekit.data.output import EXAMPLE_SUFFIXES, check_output
from vaekit.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from vaekit.evaluation.tables import TableReport
    from vaekit.jobs.score import Scores
    from vaekit.model import Model
    from vaekit.types import Json


def add_commands(app: App) -> None:
    """Adds the commands of this file."""
    app.command(impute, group=USE)


def impute(
    model: Path,
    data: str,
    /,
    *,
    out: Out,
    draw: Literal["mean", "sample"] = "mean",
    num: Annotated[Count, Parameter(name=["--num", "-n"])] = 1,
    uncertainty: Annotated[Path | None, Parameter(name="--uncertainty")] = None,
    blank: str | None = None,
    longest: Count | None = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    reading: Rereading = READ_AS_MODEL,
    screen: Screen = SCREEN,
) -> None:
    """Fill in the missing cells of a table, and columns that it lacks, given the rest of each row; or the blanks of texts.

    Args:
        model: A model folder of a table, or of text.
        data: Rows with missing cells, or texts with blanks, written as ___.
        out: A .csv, .tsv, .parquet, .arrow or .xlsx file; of texts .txt, .jsonl, .csv, .tsv or .parquet.
        draw: The best guess (the expectation of numbers, the likeliest category), or draws, whose spread is that of the data.
        num: With `--draw sample`: so many imputations, one after another, numbered in the column `imputation`. Of texts, the
            likeliest so many without it.
        uncertainty: Also write to this table, for each imputed cell, the standard deviation of a number, or the probability
            that a category is another one.
        blank: Of texts: what stands for a blank, in place of ___.
        longest: Of texts: the most tokens of a blank.
    """
    import numpy as np

    endings = EXAMPLE_SUFFIXES["table"]
    check_ending(out, (*endings, *EXAMPLE_SUFFIXES["text"]))
    check_output(out, force)
    if uncertainty is not None:
        check_ending(uncertainty, endings)
        check_output(uncertainty, force)
    from vaekit.model import load

    clock, loaded = Clock(), load(model, device)
    if loaded.schema.kind == "text":
        refuse_of_text(uncertainty=uncertainty)
        how = {"draw": draw, "num": num, "blank": blank, "longest": longest, "seed": seed, "force": force}
        fill_blanks(loaded, data, out, **how, reading=reading, screen=screen)
        return
    check_ending(out, endings)
    if blank is not None or longest is not None:
        raise ConfigError("`--blank` and `--longest` must come with a model of text. Leave them out.")
    import polars as pl

    from vaekit.data.tables import decode, write

    dataset = loaded.read(data, "all", absent="unknown", **_options(reading))
    for note in dataset.notes:
        remark(screen, note)
    with progress(screen, "Imputing") as bar:
        made = loaded.impute(dataset, draw=draw, num_imputations=num, seed=seed, progress=bar)
    frames = [decode(cells, loaded.schema.table) for cells in made.cells]
    if num > 1:
        frames = [
            frame.insert_column(0, pl.Series("imputation", np.full(len(frame), index + 1)))
            for index, frame in enumerate(frames)
        ]
    write(pl.concat(frames), out, force)
    if uncertainty is not None:
        names = [column.name for column in loaded.schema.table]
        write(pl.DataFrame(dict(zip(names, made.uncertainty.T, strict=True))), uncertainty, force)
    count = int(made.missing.sum())
    record = {"out": str(out), "num_rows": len(dataset), "num_imputed": count, "seconds": clock.seconds}
    report(screen, record, f"{count:,} cells of {len(dataset):,} rows are filled in {out} ({clock.seconds:.1f} s).")


def rows_report(
    loaded: Model, data: str, training: str | None, target: str | None, seed: int, reading: Rereading, screen: Screen
) -> TableReport | None:
    """How good generated rows are, of a model of a table; None where scikit-learn is not there, and a remark says so."""
    with progress(screen, "Comparing generated rows") as bar:
        try:
            how = {"training": training, "target": target, "seed": seed, "progress": bar}
            return loaded.evaluate_rows(data, **how, **_options(reading))
        except MissingExtraError as error:
            remark(screen, f"Generated rows are not compared: {error}")
            return None


def row_figures(found: TableReport) -> list[tuple[str, str]]:
    """A line for each figure of generated rows, with what held-out rows get beside it."""

    def beside(value: float | None, other: float | None, what: str = "held-out rows") -> str:
        return short(value) + ("" if other is None else f" ({what} {short(other)})")

    lines = [
        ("column shapes", beside(found.mean_shape, found.reference_shape)),
        ("pair trends", beside(found.trends.mean, found.reference_trend)),
    ]
    worst = sorted((shape for shape in found.shapes if shape.score is not None), key=lambda shape: shape.score or 0.0)[:3]
    lines.append(("weakest columns", ", ".join(f"{shape.name} {short(shape.score)}" for shape in worst)))
    lines += [(f"detection, {each.classifier}", f"AUC {short(each.auc)} +- {each.auc_error:.2g}") for each in found.detections]
    cover = found.coverage
    lines += [(name, short(getattr(cover, name))) for name in ("precision", "recall", "density", "coverage")]
    if found.utility is not None:
        lines += [
            (f"utility, {each.name}", f"{short(each.synthetic)} (real rows {short(each.real)}, +- {each.difference_error:.2g})")
            for each in found.utility.metrics
        ]
    if found.privacy is not None:
        private = found.privacy
        low, high = private.membership_interval
        lines += [
            ("closest record, median", beside(private.synthetic.median, private.held_out.median)),
            ("exact copies", f"{private.copies.count} (held-out rows {private.held_out_copies.count})"),
            ("nearer to training rows", f"{short(private.closer_share)} (ideal 0.5)"),
            ("membership attack", f"AUC {short(private.membership_auc)} from {short(low)} to {short(high)} (ideal 0.5)"),
        ]
    return lines


_SHOWN, _RECORDED = 5, 10


def strangest(scores: Scores) -> tuple[list[Json], list[tuple[str, str]]]:
    """The strangest rows of a table with the columns that make them so: as JSON, and a line each."""
    import numpy as np

    from vaekit.jobs.explain import NO_COLUMN, STRANGE

    assert scores.by_column is not None
    rows = np.argsort(-scores.anomaly, kind="stable")[: min(_RECORDED, len(scores.by_column.rows))].tolist()
    reasons = {row: scores.explain(row, least=STRANGE) for row in rows}
    found: list[Json] = [
        {"index": row, "anomaly": float(scores.anomaly[row]), "because": [asdict(reason) for reason in because]}
        for row, because in reasons.items()
    ]
    lines = []
    for row in rows[:_SHOWN]:
        because = ", ".join(f"{reason} (likely {reason.likely or 'missing'})" for reason in reasons[row]) or NO_COLUMN
        lines.append((f"row {row}", f"{scores.anomaly[row]:.1f} nats: {because}"))
    return found, lines


def _options(reading: Rereading) -> dict[str, Any]:
    options = reading.options()
    options.pop("split", None)
    return options
