"""`vaekit reduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from vaekit.cli.options import READ_AS_MODEL, SCREEN, USE, Device, Force, Out, Rereading, Screen, at_least_0
from vaekit.cli.output import Clock, check_ending, progress, remark, report
from vaekit.data.output import TABLE_SUFFIXES, check_output


def add_commands(app: App) -> None:
    """Adds the commands of this file."""
    app.command(reduce, group=USE)


def reduce(
    model: Path,
    data: str,
    /,
    *,
    out: Out,
    plot: Path | None = None,
    label: str | None = None,
    thumbnails: Annotated[int, Parameter(validator=at_least_0)] = 20,
    force: Force = False,
    device: Device = "auto",
    reading: Rereading = READ_AS_MODEL,
    screen: Screen = SCREEN,
) -> None:
    """Write where each example of DATA lies on a map of two or three dimensions.

    `vaekit train DATA -o MODEL --recipe map` makes such a MODEL; `vaekit decode` goes back from places to examples.

    Of data that come split, everything is read unless `--split` says otherwise.

    Args:
        model: A model folder, with 2 or 3 latent units.
        data: Data of the kind that the model was trained on, seen before or new.
        out: A .csv, .tsv, .parquet, .npz or .jsonl table of places z0, z1 and z2.
        plot: Also draw the map in this .png file, with labels, density and, of images, what the decoder makes of each place.
        label: The column by which places are coloured; the first of few categories if left out.
        thumbnails: How many decoded images a row of the picture has; 0 for none.
    """
    from vaekit.data.writing import write_table
    from vaekit.jobs.drawing import labels_of
    from vaekit.jobs.reduce import check_map
    from vaekit.model import load

    check_ending(out, TABLE_SUFFIXES)
    check_output(out, force)
    if plot is not None:
        check_ending(plot, (".png",))
        check_output(plot, force)
    clock, loaded = Clock(), load(model, device)
    check_map(loaded.bundle)
    options = reading.options()
    dataset = loaded.read(data, options.pop("split", None), default="all", **options)
    for note in dataset.notes:
        remark(screen, note)
    with progress(screen, "Reducing") as bar:
        found = loaded.reduce(dataset, split="all", progress=bar)
    labels_of(found, label)  # refuses a label that is not there before anything is written
    write_table(found.to_columns(), out, force=force)
    if plot is not None:
        loaded.draw_map(found, plot, column=label, thumbnails=thumbnails, force=force)
    record = {"out": str(out), "num_examples": len(found), "dimensions": found.places.shape[1], "seconds": clock.seconds}
    record |= {} if plot is None else {"plot": str(plot)}
    drawn = "" if plot is None else f", and drawn in {plot}"
    report(screen, record, f"The places of {len(found)} examples are in {out}{drawn} ({clock.seconds:.1f} s).")
