"""What a model is used for: a command a job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from vaekit.cli.options import (
    PLAINLY,
    READ_AS_MODEL,
    SCREEN,
    USE,
    Beams,
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
from vaekit.cli.output import Clock, check_ending, check_form, class_folders, progress, remark, report, write
from vaekit.cli.text import originals

if TYPE_CHECKING:
    from vaekit.data.dataset import Dataset
    from vaekit.model import Model

Index = Annotated[int, Parameter(validator=at_least_0)]
Steps = Annotated[int, Parameter(name="--steps", validator=at_least_2)]
Temperature = Annotated[float, Parameter(validator=above_0)]


def add_commands(app: App) -> None:
    """Adds the commands of this file."""
    for command in (info, generate, reconstruct, decode, interpolate):
        app.command(command, group=USE)


def info(model: Path, /, *, screen: Screen = SCREEN) -> None:
    """Show what a model is, and how good it is.

    Args:
        model: A model folder.
    """
    from vaekit.cli.about import about

    loaded = load_model(model, "cpu")
    report(screen, loaded.info(), about(loaded))


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
        where: Ask for a category or a number, as COLUMN=VALUE, or for a range, as angle=0.2..0.5. Repeat it for more columns.
            Of a table, any column: `age>=30`, `age=30..40`, `job=a|b`, `job!=a`, and `job=` for a missing cell.
        temperature: Below 1: more typical and less varied.
        draw: The mean of the data given the latent, or a sample of it; auto: the mean for images, a sample for vectors.
    """
    check_out(out, force)
    check_where(where)
    clock, loaded = Clock(), load_model(model, device)
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

    check_out(out, force)
    clock, loaded = Clock(), load_model(model, device)
    check_form(out, loaded.schema)
    dataset = read_data(loaded, data, reading, screen, default="held_out")
    with progress(screen, "Reconstructing") as bar:
        x = reconstruct_job(loaded.bundle, dataset, draw=draw, seed=seed, progress=bar, spelling=Way(beams=beams))
    beside = {**printed(dataset.schema, dataset.columns), **originals(dataset)}
    write(x, loaded.schema, out, force, names=dataset.names, beside=beside)
    record = {"out": str(out), "num_examples": len(x), "seconds": clock.seconds}
    report(screen, record, f"{len(x)} reconstructions are in {out} ({clock.seconds:.1f} s).")


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

    check_out(out, force)
    asked = parse_where(where)
    clock, loaded = Clock(), load_model(model, device)
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

    check_out(out, force)
    loaded = load_model(model, device)
    check_form(out, loaded.schema)
    dataset = read_data(loaded, data, reading, screen)
    x = interpolate_job(loaded.bundle, dataset, start, end, num_steps=steps, path=path, spelling=Way(beams=beams))
    write(x, loaded.schema, out, force, columns=steps)
    report(screen, {"out": str(out), "num_examples": len(x)}, f"{len(x)} steps from {start} to {end} are in {out}.")


def load_model(folder: Path, device: str) -> Model:
    """The model of a folder."""
    from vaekit.model import load

    return load(folder, device)


def read_data(model: Model, data: str, reading: Rereading, screen: Screen, default: str = "test") -> Dataset:
    """The data, with what a person should know of them on standard error."""
    dataset = model.read(data, default=default, **reading.options())
    conditions = () if model.vae.condition is None else model.vae.condition.names
    absent = [name for name in conditions if name not in dataset.columns]
    for note in dataset.notes:
        remark(screen, note)
    if absent:
        remark(screen, f"The model is conditioned on {', '.join(absent)}, which the data do not have: taken as unknown.")
    return dataset


def check_out(out: Path, force: bool, endings: tuple[str, ...] = ()) -> None:
    """Refuses an output that cannot be written, before the work starts."""
    from vaekit.data.output import check_output

    if endings:
        check_ending(out, endings)
    check_output(out, force)


def _spelling(chosen: Spelling) -> Any:
    from dataclasses import asdict

    from vaekit.jobs.blocks import Spelling as Way

    return Way.of(**asdict(chosen))
