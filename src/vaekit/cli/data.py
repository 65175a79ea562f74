"""`vaekit inspect`: what vaekit sees."""

from __future__ import annotations

from cyclopts import App

from vaekit.cli.options import DATA, READ_AS_FOUND, SCREEN, Reading, Screen
from vaekit.cli.output import report


def add_commands(app: App) -> None:
    """Adds the commands of this file."""
    app.command(inspect, group=DATA)


def inspect(data: str, /, *, reading: Reading = READ_AS_FOUND, screen: Screen = SCREEN) -> None:
    """Show what vaekit sees in DATA, before anything is trained.

    Args:
        data: A folder or zip of images, a .npy, .npz or .idx(.gz) file, a table, or a file of text.
    """
    from vaekit.data import loading

    dataset = loading.open(data, **reading.options())
    record = {
        "schema": dataset.schema.model_dump(mode="json"),
        "num_examples": len(dataset),
        "splits": {name: len(rows) for name, rows in dataset.splits.items()},
        "notes": list(dataset.notes),
    }
    report(screen, record, loading.describe(dataset))
