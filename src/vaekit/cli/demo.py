"""`vaekit demo`: train on handwritten digits and do every job once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from vaekit.cli.options import OUTPUT, SCREEN, TRAIN, Device, Force, Screen, Seed, above_0
from vaekit.cli.output import Clock, progress, remark, report

if TYPE_CHECKING:
    from vaekit.data.dataset import Dataset
    from vaekit.model import Model

TRAINING_EXAMPLES = 1500


def add_commands(app: App) -> None:
    """Adds the commands of this file."""
    app.command(demo, group=TRAIN)


def demo(
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], group=OUTPUT)] = Path("demo"),
    epochs: Annotated[float, Parameter(validator=above_0)] = 300,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    screen: Screen = SCREEN,
) -> None:
    """Train on scikit-learn's handwritten digits and do every job once: about a minute.

    Args:
        out: A folder for the model and everything that it makes.
        epochs: How long to train.
    """
    from vaekit import model
    from vaekit.data.loading import describe
    from vaekit.data.output import check_output

    check_output(out, force)
    clock, digits = Clock(), load_digits()
    for name, value in describe(digits):
        remark(screen, f"{name}: {value}")
    display = "quiet" if screen.quiet else "auto"
    trained = model.train(
        digits, out / "model", condition=["label"], epochs=epochs, seed=seed, device=device, force=force, display=display
    )
    if trained.bundle.training.get("stopped") == "interrupted":
        raise KeyboardInterrupt(f"Interrupted: the best model so far is in {out / 'model'}.")
    remark(screen, f"Trained in {clock.seconds:.0f} s.")
    record: dict[str, Any] = {"model": str(out / "model"), "seconds": {"train": clock.seconds}}
    with progress(screen, "Evaluating") as bar:
        record["evaluation"] = trained.evaluate(digits, seed=seed, progress=bar).to_json()
    bits = record["evaluation"]["bits_per_dim"]
    remark(screen, f"Held-out digits: {record['evaluation']['nll_nats']:.2f} nats each, {bits:.3f} bits a pixel.")
    _do_jobs(trained, digits, out, seed, screen, record)
    record["seconds"]["all"] = clock.seconds
    report(screen, record, f"Done in {clock.seconds:.0f} s: everything is in {out}.")


def load_digits() -> Dataset:
    """1,797 handwritten digits of 8 x 8 pixels in 17 levels, with their labels; the last 297 are the split `test`."""
    from vaekit.data import loading
    from vaekit.errors import require

    found = require("sklearn.datasets", "sklearn", "The demo").load_digits()
    images, labels, cut = found.images.astype("uint8"), found.target, TRAINING_EXAMPLES
    parts = {"x_train": images[:cut], "y_train": labels[:cut], "x_test": images[cut:], "y_test": labels[cut:]}
    return loading.open(parts, levels=17)


def _do_jobs(model: Model, digits: Dataset, out: Path, seed: int, screen: Screen, record: dict[str, Any]) -> None:
    """Every job once, a file each; what was made and how long it took goes into `record`."""
    import numpy as np

    from vaekit.data.writing import write_grid, write_table

    held_out = digits.split("test")
    some = held_out.select(np.arange(40))
    rows = np.stack([some.raw(), model.reconstruct(some)], axis=1)

    def grid(x: np.ndarray, columns: int) -> Callable[[Path], None]:
        return lambda path: write_grid(x, model.schema, path, columns=columns, force=True)

    def samples(path: Path) -> None:
        rows = [model.generate(10, where={"label": digit}, seed=seed) for digit in range(10)]
        grid(np.concatenate(rows), 10)(path)

    jobs: dict[str, tuple[str, Callable[[Path], None]]] = {
        "samples.png": ("new digits, a row for each of 0 to 9", samples),
        "reconstructions.png": ("held-out digits, each beside its reconstruction", grid(rows.reshape(-1, *rows.shape[2:]), 10)),
        "traversal.png": ("a row for each latent unit, most active first", lambda path: _traversal(model, held_out, path)),
        "interpolation.png": ("from one digit to another", grid(model.interpolate(held_out, 0, 1, num_steps=12), 12)),
        "latents.csv": (
            "mean and scale of every digit's latents",
            lambda path: write_table(model.encode(held_out).to_columns(), path, force=True),
        ),
        "decoded.png": ("digits from their latents alone", lambda path: grid(model.decode(model.encode(some)), 10)(path)),
        "scores.csv": (
            "how likely each digit is, and how strange",
            lambda path: write_table(model.score(held_out, seed=seed).to_columns(), path, force=True),
        ),
    }
    record["files"] = {}
    for name, (what, make) in jobs.items():
        clock = Clock()
        make(out / name)
        record["files"][name] = str(out / name)
        record["seconds"][name] = clock.seconds
        remark(screen, f"{out / name}: {what} ({clock.seconds:.1f} s)")


def _traversal(model: Model, data: Dataset, path: Path) -> None:
    from vaekit.data.writing import write_grid

    grid = model.traverse(data, example=0)
    write_grid(grid.x.reshape(-1, *grid.x.shape[2:]), model.schema, path, columns=len(grid.values), force=True)
