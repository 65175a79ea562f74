"""What a model is used for: a command a job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from vaekit.cli.options import (
    PLAINLY,
    READ_AS_MODEL,
    SCREEN,
    USE,
    Beams,
    Count,
    Device,
    Draw,
    Force,
    Out,
    Rereading,
    Screen,
    Seed,
    Spelling,
    Where,
    above_0,
    at_least_0,
    at_least_1,
    at_least_2,
    check_where,
    parse_where,
)
from vaekit.cli.output import Clock, check_ending, check_form, class_folders, progress, remark, report, short, write
from vaekit.cli.tables import row_figures, rows_report, strangest
from vaekit.cli.text import originals, text_figures, texts_report
from vaekit.data.output import TABLE_SUFFIXES
from vaekit.errors import ConfigError

if TYPE_CHECKING:
    from vaekit.data.dataset import Dataset
    from vaekit.jobs.encode import Encoding
    from vaekit.model import Model

Index = Annotated[int, Parameter(validator=at_least_0)]
Steps = Annotated[int, Parameter(name="--steps", validator=at_least_2)]
Temperature = Annotated[float, Parameter(validator=above_0)]


def add_commands(app: App) -> None:
    """Adds the commands of this file."""
    for command in (info, evaluate, generate, reconstruct, encode, decode, interpolate, traverse, score):
        app.command(command, group=USE)


def info(model: Path, /, *, screen: Screen = SCREEN) -> None:
    """Show what a model is, and how good it is.

    Args:
        model: A model folder.
    """
    from vaekit.cli.about import about

    loaded = _load(model, "cpu")
    report(screen, loaded.info(), about(loaded))


def evaluate(
    model: Path,
    data: str,
    /,
    *,
    samples: Count = 100,
    limit: Count | None = None,
    ais: Count | None = None,
    training: str | None = None,
    target: str | None = None,
    rows: Annotated[bool, Parameter(negative="--no-rows")] = True,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    reading: Rereading = READ_AS_MODEL,
    screen: Screen = SCREEN,
) -> None:
    """Measure how likely DATA is under a model, what its latent carries, and how far its certainty can be trusted.

    Of data that come split, `test` is read, and of the data that the model was trained on the part that was held out, unless
    `--split` says otherwise.

    Args:
        model: A model folder.
        data: Data that the model was not trained on.
        samples: K, samples of the latent an example. More is tighter and slower.
        limit: Only so many examples, evenly spaced over the data.
        ais: Check the bound by annealed importance sampling with so many steps, on at most 100 examples. Slow; 1000 is good.
        training: Of a table or text: what the model was trained on. DATA are then what was held out, beside which what is
            generated is judged.
        target: Of a table: a column that classifiers learn to predict from generated and from real rows.
        rows: Of a table or text: compare generated rows or texts with real ones.
        out: Also write the figures to this .json file.
    """
    import json

    from vaekit.data.output import as_json, atomic_file

    if out is not None:
        _check(out, force, (".json",))
    clock, loaded = Clock(), _load(model, device)
    kind = loaded.schema.kind if rows else ""
    if (training is not None and kind not in ("table", "text")) or (target is not None and kind != "table"):
        raise ConfigError(
            "`--training` and `--target` must come with a model of a table (`--training` also of text), and without "
            "`--no-rows`. Leave them out."
        )
    dataset = _read(loaded, data, reading, screen, default="held_out")
    with progress(screen, "Evaluating") as bar:
        how = {"num_samples": samples, "limit": limit, "annealing_steps": ais or 0}
        found = loaded.evaluate(dataset, **how, seed=seed, split="all", progress=bar)
    beside: dict[str, Any] = {}
    lines: list[tuple[str, str]] = []
    if kind == "table" and (compared := rows_report(loaded, data, training, target, seed, reading, screen)) is not None:
        beside, lines = {"rows": compared.to_dict()}, row_figures(compared)
    elif kind == "text":
        judged = texts_report(loaded, data, training, seed, reading, screen)
        beside, lines = {"texts": judged.to_json()}, text_figures(judged)
        for note in judged.notes:
            remark(screen, note)
    record = {**found.to_json(), **beside, "seconds": clock.seconds}
    if out is not None:
        with atomic_file(out, force=force) as path:
            path.write_text(json.dumps(as_json(record), indent=2) + "\n", encoding="utf-8")
    if found.warning is not None:
        remark(screen, found.warning)
    report(screen, record, _figures(_named({name: value for name, value in record.items() if name not in beside})) + lines)


def generate(
    model: Path,
    /,
    *,
    out: Out,
    num: Annotated[int, Parameter(name=["--num", "-n"], validator=at_least_1)] = 64,
    where: Where = (),
    temperature: Temperature = 1.0,
    draw: Draw = "auto",
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    spelling: Spelling = PLAINLY,
    screen: Screen = SCREEN,
) -> None:
    """Generate new examples.

    Args:
        model: A model folder.
        out: A folder, a .png grid, or an array file: the ending chooses.
        num: How many.
        where: Ask for a category, as COLUMN=VALUE. Repeat it for more columns. Of a table, any column: `age>=30`, `age=30..40`,
            `job=a|b`, `job!=a`, and `job=` for a missing cell.
        temperature: Below 1: more typical and less varied.
        draw: The mean of the data given the latent, or a sample of it; auto: the mean for images, a sample for vectors.
    """
    _check(out, force)
    check_where(where)
    clock, loaded = Clock(), _load(model, device)
    check_form(out, loaded.schema)
    asked = list(where) if loaded.schema.kind == "table" else parse_where(where)
    with progress(screen, "Generating") as bar:
        how = {"where": asked, "temperature": temperature, "draw": draw, "spelling": _spelling(spelling)}
        made = loaded.generate_labelled(num, **how, seed=seed, progress=bar)
    for note in made.notes:
        remark(screen, note)
    write(made.x, loaded.schema, out, force, names=class_folders(made.columns), beside=made.columns)
    columns = {name: list(values) for name, values in made.columns.items()}
    record = {"out": str(out), "num_examples": len(made.x), "columns": columns, "seconds": clock.seconds}
    report(screen, record, f"{len(made.x)} examples are in {out} ({clock.seconds:.1f} s).")


def reconstruct(
    model: Path,
    data: str,
    /,
    *,
    out: Out,
    draw: Literal["mean", "sample"] = "mean",
    beams: Beams = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    reading: Rereading = READ_AS_MODEL,
    screen: Screen = SCREEN,
) -> None:
    """Show each example of DATA as the model sees it.

    Of data that come split, `test` is read, and of the data that the model was trained on the part that was held out, unless
    `--split` says otherwise.

    Args:
        model: A model folder.
        data: Data of the kind that the model was trained on.
        out: A folder, a .png grid, or an array file: the ending chooses.
        draw: The mean of the data given the latent, or a sample of it.
        beams: Of text: seek the likeliest, keeping so many beginnings at a time.
    """
    from vaekit.jobs.blocks import Spelling as Way
    from vaekit.jobs.conditions import printed
    from vaekit.jobs.reconstruct import reconstruct as reconstruct_job

    _check(out, force)
    clock, loaded = Clock(), _load(model, device)
    check_form(out, loaded.schema)
    dataset = _read(loaded, data, reading, screen, default="held_out")
    with progress(screen, "Reconstructing") as bar:
        x = reconstruct_job(loaded.bundle, dataset, draw=draw, seed=seed, progress=bar, spelling=Way(beams=beams))
    beside = {**printed(dataset.schema, dataset.columns), **originals(dataset)}
    write(x, loaded.schema, out, force, names=dataset.names, beside=beside)
    record = {"out": str(out), "num_examples": len(x), "seconds": clock.seconds}
    report(screen, record, f"{len(x)} reconstructions are in {out} ({clock.seconds:.1f} s).")


def encode(
    model: Path,
    data: str,
    /,
    *,
    out: Out,
    force: Force = False,
    device: Device = "auto",
    reading: Rereading = READ_AS_MODEL,
    screen: Screen = SCREEN,
) -> None:
    """Write the latents of DATA: a table of means z0, z1, ... and standard deviations, or an array of means.

    Of data that come split, everything is read unless `--split` says otherwise.

    Args:
        model: A model folder.
        data: Data of the kind that the model was trained on.
        out: A .csv, .tsv, .parquet, .npz or .jsonl table, or a .npy array of the means.
    """
    _check(out, force, (*TABLE_SUFFIXES, ".npy"))
    clock, loaded = Clock(), _load(model, device)
    dataset = _read(loaded, data, reading, screen, default="all")
    with progress(screen, "Encoding") as bar:
        encoding = loaded.encode(dataset, split="all", progress=bar)
    _write_encoding(encoding, out, force)
    record = {"out": str(out), "num_examples": len(encoding), "num_latents": encoding.mean.shape[1], "seconds": clock.seconds}
    report(screen, record, f"The latents of {len(encoding)} examples are in {out} ({clock.seconds:.1f} s).")


def decode(
    model: Path,
    latents: Path,
    /,
    *,
    out: Out,
    draw: Draw = "auto",
    where: Where = (),
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    spelling: Spelling = PLAINLY,
    screen: Screen = SCREEN,
) -> None:
    """Make examples from latents.

    Args:
        model: A model folder.
        latents: A file that `encode` wrote, or a table with the columns z0, z1, ...
        out: A folder, a .png grid, or an array file: the ending chooses.
        draw: The mean of the data given the latent, or a sample of it; auto: the mean for images, a sample for vectors.
        where: Ask for a category, as COLUMN=VALUE, in place of the table's own. Repeat it for more columns.
    """
    from vaekit.jobs.encode import decode as decode_job
    from vaekit.jobs.encode import read_latents

    _check(out, force)
    asked = parse_where(where)
    clock, loaded = Clock(), _load(model, device)
    check_form(out, loaded.schema)
    with progress(screen, "Decoding") as bar:
        z, columns = read_latents(loaded.bundle, latents)
        how = {"draw": draw, "where": asked, "columns": columns, "spelling": _spelling(spelling)}
        x = decode_job(loaded.bundle, z, **how, seed=seed, progress=bar)
    write(x, loaded.schema, out, force)
    record = {"out": str(out), "num_examples": len(x), "seconds": clock.seconds}
    report(screen, record, f"{len(x)} examples are in {out} ({clock.seconds:.1f} s).")


def interpolate(
    model: Path,
    data: str,
    /,
    *,
    out: Out,
    start: Annotated[int, Parameter(name="--from", validator=at_least_0)],
    end: Annotated[int, Parameter(name="--to", validator=at_least_0)],
    steps: Steps = 9,
    path: Literal["linear", "spherical"] = "linear",
    beams: Beams = None,
    force: Force = False,
    device: Device = "auto",
    reading: Rereading = READ_AS_MODEL,
    screen: Screen = SCREEN,
) -> None:
    """Go from one example of DATA to another in small steps of the latent.

    Of data that come split, `test` is read unless `--split` says otherwise.

    Args:
        model: A model folder.
        data: Data of the kind that the model was trained on.
        out: A folder, a .png grid, or an array file: the ending chooses.
        start: The first example, counted from 0.
        end: The last example, counted from 0.
        steps: How many examples, both ends included.
        path: A straight line, or a great circle.
        beams: Of text: seek the likeliest, keeping so many beginnings at a time.
    """
    from vaekit.jobs.blocks import Spelling as Way
    from vaekit.jobs.interpolate import interpolate as interpolate_job

    _check(out, force)
    loaded = _load(model, device)
    check_form(out, loaded.schema)
    dataset = _read(loaded, data, reading, screen)
    x = interpolate_job(loaded.bundle, dataset, start, end, num_steps=steps, path=path, spelling=Way(beams=beams))
    write(x, loaded.schema, out, force, columns=steps)
    report(screen, {"out": str(out), "num_examples": len(x)}, f"{len(x)} steps from {start} to {end} are in {out}.")


def traverse(
    model: Path,
    data: str | None = None,
    /,
    *,
    out: Out,
    example: Index | None = None,
    where: Where = (),
    units: Count = 10,
    steps: Steps = 11,
    reach: Temperature = 3.0,
    force: Force = False,
    device: Device = "auto",
    reading: Rereading = READ_AS_MODEL,
    screen: Screen = SCREEN,
) -> None:
    """Show what each latent unit does: a row a unit, the most active first, a column a value; of a table one after another.

    Args:
        model: A model folder.
        data: Data that say which units are active; without, the units that change the output most come first.
        out: A folder, a .png grid, or an array file: the ending chooses.
        example: Hold the other units at this example of DATA, counted from 0; at the prior's centre if left out.
        where: Ask for a category, as COLUMN=VALUE. Repeat it for more columns.
        units: How many rows.
        steps: How many columns.
        reach: How far the columns go either way, in standard deviations of the prior.
    """
    import numpy as np

    from vaekit.jobs.traverse import traverse as traverse_job

    _check(out, force)
    asked = parse_where(where)
    loaded = _load(model, device)
    check_form(out, loaded.schema)
    dataset = None if data is None else _read(loaded, data, reading, screen)
    how = {"num_units": units, "num_steps": steps, "reach": reach}
    grid = traverse_job(loaded.bundle, dataset, example=example, where=asked, **how)
    beside = {"unit": np.repeat(grid.units, steps), "at": np.tile(grid.values, len(grid.units))}
    beside = beside if loaded.schema.kind == "table" else None
    write(grid.x.reshape(-1, *grid.x.shape[2:]), loaded.schema, out, force, columns=steps, beside=beside)
    record = {"out": str(out), "units": grid.units.tolist(), "values": grid.values.tolist()}
    report(screen, record, f"The units {', '.join(map(str, grid.units))} are the rows of {out}.")


def score(
    model: Path,
    data: str,
    /,
    *,
    out: Out,
    samples: Count = 16,
    explain: Index | None = None,
    columns: Annotated[bool, Parameter(negative=())] = False,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    reading: Rereading = READ_AS_MODEL,
    screen: Screen = SCREEN,
) -> None:
    """Write how likely each example of DATA is, and how strange; of the rows of a table also because of which columns.

    Of data that come split, `test` is read, and of the data that the model was trained on the part that was held out, unless
    `--split` says otherwise.

    Args:
        model: A model folder.
        data: Data of the kind that the model was trained on.
        out: A .csv, .tsv, .parquet, .npz or .jsonl table.
        samples: K, samples of the latent an example. More is tighter and slower.
        explain: Of a table: for so many rows, the strangest, say because of which columns; 1,000 if left out.
        columns: Of a table: also write how strange each cell of those rows is, in a column for each of the table's.
    """
    from vaekit.data.writing import write_table

    _check(out, force, TABLE_SUFFIXES)
    clock, loaded = Clock(), _load(model, device)
    if loaded.schema.kind != "table" and (columns or explain is not None):
        raise ConfigError("`--explain` and `--columns` must come with a model of a table. Leave them out.")
    if columns and explain == 0:
        raise ConfigError("`--columns` must come with rows whose columns are looked at, got `--explain 0`. Leave one out.")
    dataset = _read(loaded, data, reading, screen, default="held_out")
    how: dict[str, Any] = {} if explain is None else {"explain": explain}
    with progress(screen, "Scoring") as bar:
        scores = loaded.score(dataset, num_samples=samples, **how, seed=seed, split="all", progress=bar)
    write_table(scores.to_columns(columns and scores.by_column is not None), out, force=force)
    for sentence in (*([] if scores.warning is None else [scores.warning]), *scores.notes):
        remark(screen, sentence)
    mean = float(scores.log_likelihood.mean())
    record = {"out": str(out), "num_examples": len(scores), "log_likelihood": mean, "seconds": clock.seconds}
    record |= {} if scores.warning is None else {"warning": scores.warning}
    said = f"The scores of {len(scores)} examples are in {out}: {mean:.2f} nats on average."
    if scores.by_column is None:
        report(screen, record, said)
        return
    remark(screen, f"{said} The strangest:")
    strange, lines = strangest(scores)
    report(screen, {**record, "strangest": strange, "notes": list(scores.notes)}, lines)


def _load(folder: Path, device: str) -> Model:
    from vaekit.model import load

    return load(folder, device)


def _read(model: Model, data: str, reading: Rereading, screen: Screen, default: str = "test") -> Dataset:
    """The data, with what a person should know of them on standard error."""
    dataset = model.read(data, default=default, **reading.options())
    conditions = () if model.vae.condition is None else model.vae.condition.categories
    absent = [name for name in conditions if name not in dataset.columns]
    for note in dataset.notes:
        remark(screen, note)
    if absent:
        remark(screen, f"The model is conditioned on {', '.join(absent)}, which the data do not have: taken as unknown.")
    return dataset


def _check(out: Path, force: bool, endings: tuple[str, ...] = ()) -> None:
    from vaekit.data.output import check_output

    if endings:
        check_ending(out, endings)
    check_output(out, force)


def _spelling(chosen: Spelling) -> Any:
    from dataclasses import asdict

    from vaekit.jobs.blocks import Spelling as Way

    return Way.of(**asdict(chosen))


def _named(record: dict[str, Any]) -> dict[str, Any]:
    """The figures of text by the names of its units."""
    if record.get("text") is None:
        return record
    return {{"bits_per_dim": "bits_per_token", "num_dimensions": "max_tokens"}.get(name, name): v for name, v in record.items()}


def _figures(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A line a figure, its standard error beside it; lists and what does not fit the data are left to `--json`."""
    beside = {name: name.removesuffix("_error") for name in record if name.endswith("_error")} | {"standard_error": "nll_nats"}
    lines: list[tuple[str, str]] = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            lines += _figures(value, f"{prefix}{name}.")
        elif name == "level_rates" and len(value) > 1:
            lines.append((prefix + name, ", ".join(map(short, value))))
        elif value is not None and name != "warning" and not isinstance(value, list | tuple) and beside.get(name) not in record:
            error = next((record[other] for other, of in beside.items() if of == name and record.get(other) is not None), None)
            lines.append((prefix + name, short(value) + ("" if error is None else f" +- {error:.2g}")))
    return lines


def _write_encoding(encoding: Encoding, out: Path, force: bool) -> None:
    import numpy as np

    from vaekit.data.output import atomic_file
    from vaekit.data.writing import write_table

    if out.suffix.lower() in TABLE_SUFFIXES:
        write_table(encoding.to_columns(), out, force=force)
        return
    with atomic_file(out, force) as path, path.open("wb") as file:
        np.save(file, encoding.mean)
