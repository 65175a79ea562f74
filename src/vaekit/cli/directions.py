"""Control of the latent: `vaekit traverse`, `vaekit name` and `vaekit disentangle`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    Where,
    above_0,
    at_least_0,
    at_least_2,
    parse_where,
)
from vaekit.cli.output import Clock, check_form, progress, remark, report, short, write
from vaekit.cli.use import check_out, load_model, read_data
from vaekit.errors import ConfigError

if TYPE_CHECKING:
    from vaekit.directions import Direction
    from vaekit.evaluation.disentanglement import DisentanglementReport
    from vaekit.jobs.traverse import Traversal

Several = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True, show_default=False)]


def add_commands(app: App) -> None:
    """Adds the commands of this file."""
    for command in (traverse, name, disentangle):
        app.command(command, group=USE)


def traverse(
    model: Path,
    data: str | None = None,
    /,
    *,
    out: Out,
    unit: Several = (),
    example: Annotated[int | None, Parameter(validator=at_least_0)] = None,
    where: Where = (),
    units: Count = 10,
    steps: Annotated[int, Parameter(validator=at_least_2)] = 11,
    reach: Annotated[float, Parameter(validator=above_0)] = 3.0,
    force: Force = False,
    device: Device = "auto",
    reading: Rereading = READ_AS_MODEL,
    screen: Screen = SCREEN,
) -> None:
    """Show what each latent unit does: a row a unit, the most active first, a column a value; of a table one after another.

    Rows of a .png have the number of their unit beside them, and its name. `vaekit name` gives units names.

    Args:
        model: A model folder.
        data: Data that say which units are active; without, the units that change the output most come first.
        out: A folder, a .png grid, or an array file: the ending chooses.
        unit: Show these units, or directions that have a name, and no others.
        example: Hold the other units at this example of DATA, counted from 0; at the prior's centre if left out.
        where: Ask for a category, as COLUMN=VALUE. Repeat it for more columns.
        units: How many rows.
        steps: How many columns.
        reach: How far the columns go either way, in standard deviations of the prior, or steps of a direction.
    """
    import numpy as np

    from vaekit.jobs.traverse import traverse as traverse_job

    check_out(out, force)
    asked = parse_where(where)
    loaded = load_model(model, device)
    check_form(out, loaded.schema)
    dataset = None if data is None else read_data(loaded, data, reading, screen)
    how = {"units": unit or None, "num_units": units, "num_steps": steps, "reach": reach}
    grid = traverse_job(loaded.bundle, dataset, example=example, where=asked, **how)
    beside = {"unit": np.repeat(grid.labels if unit else grid.units, steps), "at": np.tile(grid.values, len(grid.units))}
    beside = beside if loaded.schema.kind == "table" else None
    flat = grid.x.reshape(-1, *grid.x.shape[2:])
    write(flat, loaded.schema, out, force, columns=steps, labels=grid.labels, beside=beside)
    record = {"out": str(out), "units": grid.units.tolist(), "values": grid.values.tolist(), "rows": grid.table()}
    remark(screen, f"The rows of {out}, from top to bottom:")
    report(screen, record, _rows(grid))


def _rows(grid: Traversal) -> list[tuple[str, str]]:
    """A line a row: its unit, how much it does, and its name."""
    measures = {"kl": "nats", "variance": "variance of its means", "change": "change"}
    lines = []
    for row, label in zip(grid.table(), grid.labels, strict=True):
        active = row[grid.measure]
        lines.append((label, "learned from examples" if active is None else f"{short(active)} {measures[grid.measure]}"))
    return lines


def name(
    model: Path,
    unit: str | None = None,
    name: str | None = None,
    /,
    *,
    positive: Annotated[Several, Parameter(name=["--positive", "--from"])] = (),
    negative: Several = (),
    data: str | None = None,
    remove: Annotated[bool, Parameter(negative=())] = False,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    reading: Rereading = READ_AS_MODEL,
    screen: Screen = SCREEN,
) -> None:
    """Give a unit of the latent a name, or learn a direction from a few examples; without a name, list those that there are.

    `vaekit name MODEL 3 slant` names unit 3, `vaekit name MODEL smile --from a.png b.png` learns a direction, and both are for
    `vaekit edit --set slant=+2` and `vaekit traverse --unit slant`.

    Args:
        model: A model folder; only its names change.
        unit: The number of a unit, as `vaekit traverse` shows it; leave it out to learn from examples.
        name: No number, and no column of the data.
        positive: Examples that have it, one or more files or folders.
        negative: Examples that have not; draws of the prior stand for all others if left out.
        data: Measure the unit on these data, so that a step is their standard deviation; by default it is the prior's.
        remove: Take the name away.
        force: Replace a name that is there.
    """
    from vaekit.jobs.directions import described, remarks
    from vaekit.storage import save_directions

    called = name if name is not None else unit
    number = unit if name is not None else None
    _check_name(called, number, positive, negative, data, remove)
    if remove:
        assert called is not None
        save_directions(model, {}, remove=[called])
        report(screen, {"model": str(model), "removed": called}, f"The name {called} is removed from {model}.")
        return
    loaded = load_model(model, device)
    if called is None:
        lines = [(each, described(found)) for each, found in loaded.directions.items()]
        if not lines:
            remark(screen, f"No direction of {model} has a name. Look at `vaekit traverse {model} -o grid.png`.")
        report(screen, {"model": str(model), "directions": _listed(loaded.directions.items())}, lines)
        return
    options = reading.options()
    with progress(screen, "Encoding") as bar:
        how: dict[str, Any] = {"data": data} if number is not None else {"positive": [Path(each) for each in positive]}
        how |= {"negative": [Path(each) for each in negative]} if negative else {}
        index = None if number is None else int(number)
        found = loaded.name(called, index, **how, force=force, seed=seed, progress=bar, **options)
    save_directions(model, {called: found})
    for sentence in remarks(called, found):
        remark(screen, sentence)
    record = {"model": str(model), "name": called, **_listed([(called, found)])[called]}
    report(screen, record, f"{called}: {described(found)}. Try `vaekit edit {model} DATA -o OUT --set {called}=+2`.")


def _check_name(
    name: str | None, unit: str | None, positive: Sequence[str], negative: Sequence[str], data: str | None, remove: bool
) -> None:
    """Refuses what does not go together, before a model is loaded.

    Raises:
        ConfigError: if it does not.
    """
    given = unit is not None or bool(positive)
    if unit is not None and not (unit.isascii() and unit.isdigit()):
        raise ConfigError(f"A unit must be a number from 0, got {unit!r}. Write `vaekit name MODEL 3 slant`.")
    if name is None and (given or negative or data is not None or remove):
        raise ConfigError("A name must be given, got none. Write `vaekit name MODEL 3 slant`.")
    if remove and (given or negative or data is not None):
        raise ConfigError("`--remove` must come with a name alone. Write `vaekit name MODEL slant --remove`.")
    if unit is not None and (positive or negative):
        raise ConfigError(f"`{name}` must be a unit, or learned from examples, got both. Leave one out.")
    if name is not None and not (given or remove):
        what = "gives it no unit" if not name.isdigit() else "gives the unit no name"
        raise ConfigError(
            f"`{name}` must come with what it stands for, but the line {what}. Write `vaekit name MODEL 3 slant`, or give "
            "examples by `--from`."
        )


def _listed(directions: Any) -> dict[str, dict[str, Any]]:
    """Directions as `--json` has them, without their long vectors."""
    found: dict[str, dict[str, Any]] = {}
    for each, direction in directions:
        found[each] = {key: value for key, value in _fields(direction).items() if key not in ("vector", "reading")}
    return found


def _fields(direction: Direction) -> dict[str, Any]:
    return direction.model_dump(mode="json")


def disentangle(
    model: Path,
    data: str,
    /,
    *,
    factors: Path | None = None,
    limit: Count | None = None,
    chance: Annotated[bool, Parameter(negative=())] = False,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    reading: Rereading = READ_AS_MODEL,
    screen: Screen = SCREEN,
) -> None:
    """Measure whether each latent unit stands for one true factor of DATA, and each factor for one unit.

    Of data that come split, everything is read unless `--split` says otherwise. docs/disentanglement.md says what each figure
    asks.

    Args:
        model: A model folder.
        data: Examples whose factors are known, of all combinations, 10,000 if you can.
        factors: A .csv, .tsv, .parquet, .npz or .jsonl table with a row an example and a column a factor; the columns beside
            DATA if left out. A column `name` holds the names of files.
        limit: Only so many examples, evenly spaced over the data.
        chance: Also measure the same codes shuffled, which takes as long again.
        out: Also write the figures to this .json file.
    """
    import json

    from vaekit.data.output import as_json, atomic_file

    if out is not None:
        check_out(out, force, (".json",))
    clock, loaded = Clock(), load_model(model, device)
    dataset = read_data(loaded, data, reading, screen, default="all")
    with progress(screen, "Measuring") as bar:
        how = {"limit": limit, "chance": chance, "seed": seed, "split": "all", "progress": bar}
        found = loaded.evaluate_disentanglement(dataset, factors, **how)
    record = {**found.to_json(), "seconds": clock.seconds}
    if out is not None:
        with atomic_file(out, force=force) as path:
            path.write_text(json.dumps(as_json(record), indent=2) + "\n", encoding="utf-8")
    for note in found.notes:
        remark(screen, note)
    report(screen, record, _figures(found))


def _figures(found: DisentanglementReport) -> list[tuple[str, str]]:
    """A line a measure, and for each factor the unit that knows most of it."""
    by_chance = found.chance or {}
    lines = [
        (which, short(score) + (f" (chance {short(by_chance[which])})" if which in by_chance else ""))
        for which, score in found.scores.items()
    ]
    lines += [("examples", short(found.num_examples)), ("active units", short(found.active_units))]
    for place, factor in enumerate(found.factors):
        unit = found.mig.units[place]
        lines.append((f"factor {factor}", f"z{unit} knows most of it; MIG {short(found.mig.gaps[place])}"))
    return lines
