"""New examples beside given ones: `vaekit augment`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from vaekit.cli.options import (
    READ_AS_MODEL,
    SCREEN,
    USE,
    Count,
    Device,
    Draw,
    Force,
    Out,
    Rereading,
    Screen,
    Seed,
    above_0,
    at_least_0,
    at_least_2,
)
from vaekit.cli.output import Clock, check_ending, progress, remark, report
from vaekit.cli.use import check_out, load_model
from vaekit.data.output import EXAMPLE_SUFFIXES
from vaekit.errors import ConfigError

if TYPE_CHECKING:
    from vaekit.data.dataset import Dataset
    from vaekit.jobs.augment import Augmented
    from vaekit.model import Model


def add_commands(app: App) -> None:
    """Adds the command of this file."""
    app.command(augment, group=USE)


def augment(
    model: Path,
    data: str,
    /,
    *,
    out: Out,
    balance: str | None = None,
    factor: Annotated[float | None, Parameter(validator=above_0)] = None,
    how: Literal["auto", "posterior", "interpolate", "generate"] = "auto",
    temperature: Annotated[float, Parameter(validator=at_least_0)] = 1.0,
    path: Literal["linear", "spherical"] = "linear",
    partners: Literal["neighbours", "random"] = "neighbours",
    draw: Draw = "auto",
    check: str | None = None,
    label: str | None = None,
    seeds: Annotated[int, Parameter(validator=at_least_2)] = 5,
    updates: Count = 1000,
    only_new: Annotated[bool, Parameter(negative=())] = False,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    reading: Rereading = READ_AS_MODEL,
    screen: Screen = SCREEN,
) -> None:
    """Make new examples beside DATA, which keep their class: of the rare classes with `--balance`.

    Of data that come split, `train` is read unless `--split` says otherwise.

    Args:
        model: A model folder.
        data: The examples, or the rows, to add to.
        out: Of images a folder, with class folders and provenance.csv, or an .npz file; of vectors .npz or a table: the new
            examples, their labels, and what each was made of. Of a table a table: the rows of DATA and then the new ones.
        balance: A column of categories: each gets as many examples as the most frequent one.
        factor: So many times; without `--balance`, so many examples in all for each of DATA (2).
        how: Draws around each example, ways between two of a class, or draws for an example's columns; auto generates where the
            model is conditioned on the columns, else draws around examples, and says so. A table is always generated.
        temperature: Factor on the width of the draws. Below 1: nearer to the examples (posterior), or more typical (generate).
        path: Of interpolation: a straight line, or a great circle.
        partners: Of interpolation: one of the five nearest of the class, or any of it.
        draw: The mean of the data given the latent, or a sample of it; auto: the mean for images, a sample for vectors.
        check: Labelled examples that nothing was trained on: compare a classifier with and without the new ones on them.
        label: With `--check`: the column to be told, where there are several.
        seeds: With `--check`: so many draws of new examples and starts of the classifier.
        updates: With `--check`: so many of either classifier.
        only_new: Of a table: leave out the rows of DATA.
    """
    check_out(out, force)
    clock, loaded = Clock(), load_model(model, device)
    given: dict[str, Any] = {"balance": balance, "factor": factor, "how": how, "temperature": temperature, "path": path}
    given |= {"partners": partners, "draw": draw}
    table = loaded.schema.kind == "table"
    if table and (check is not None or label is not None):
        raise ConfigError("`--check` must come with images or vectors. Use `vaekit evaluate --training --target` for a table.")
    if label is not None and check is None:
        raise ConfigError("`--label` must come with `--check`. Leave it out.")
    _check_form(out, loaded)
    options = {**reading.options()}
    split = None if table else options.pop("split", None)
    options.pop("split", None)
    dataset = loaded.to_augment(data, split, **options)
    for note in dataset.notes:
        remark(screen, note)
    with progress(screen, "Augmenting") as bar:
        made = loaded.augment(dataset, **given, seed=seed, split="all", progress=bar)
    for note in (*(() if table else (f"{made.reason[0].upper()}{made.reason[1:]}",)), *made.notes):
        remark(screen, note)
    record: dict[str, Any] = {"out": str(out), "num_new": len(made.x), "how": made.how}
    record["counts"] = {name: list(pair) for name, pair in made.counts.items()}
    if table:
        num = _write_rows(loaded, dataset, made, out, force, only_new)
        record |= {"num_rows": num, "seconds": clock.seconds}
        report(screen, record, f"{len(made.x):,} new rows are in {out}, of {num:,} ({clock.seconds:.1f} s).")
        return
    loaded.write_augmented(made, dataset, out, force)
    said = f"{len(made.x):,} new examples are in {out} ({clock.seconds:.1f} s)."
    if check is not None:
        with progress(screen, "Checking") as bar:
            settings: dict[str, Any] = {"column": label, "num_seeds": seeds, "num_steps": updates, "seed": seed}
            settings |= {"progress": bar, "reading": options}
            found = loaded.evaluate_augmentation(dataset, check, split="all", **settings, **given)
        record["check"] = found.to_json()
        said = f"{said} {found.sentence}"
    report(screen, {**record, "seconds": clock.seconds}, said)


def _check_form(out: Path, model: Model) -> None:
    """Refuses an ending that does not fit, before the work starts."""
    from vaekit.jobs.provenance import SUFFIXES, check_augmented_output

    if model.schema.kind in SUFFIXES:
        check_augmented_output(out, model.schema)
    elif model.schema.kind == "table":
        check_ending(out, EXAMPLE_SUFFIXES["table"])


def _write_rows(model: Model, dataset: Dataset, made: Augmented, out: Path, force: bool, only_new: bool) -> int:
    """Rows of a table, and how many they are."""
    import numpy as np

    from vaekit.data.tables import decode, write

    cells = made.x if only_new else np.concatenate([dataset.stored(), made.x])
    write(decode(cells, model.schema.table), out, force)
    return len(cells)
