"""What examples say of the columns beside them: `vaekit predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from vaekit.cli.options import READ_AS_MODEL, SCREEN, USE, Count, Device, Force, Out, Rereading, Screen, Seed
from vaekit.cli.output import Clock, progress, remark, report, short
from vaekit.cli.use import check_out, load_model
from vaekit.data.output import TABLE_SUFFIXES

if TYPE_CHECKING:
    from vaekit.data.dataset import Dataset
    from vaekit.jobs.predict import Predicted


def add_commands(app: App) -> None:
    """Adds the commands of this file."""
    app.command(predict, group=USE)


def predict(
    model: Path,
    data: str,
    /,
    *,
    out: Out,
    column: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False, show_default=False)] = (),
    method: Literal["auto", "classifier", "bayes"] = "auto",
    samples: Count = 16,
    uniform: Annotated[bool, Parameter(negative=())] = False,
    every: Annotated[bool, Parameter(negative=())] = False,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    reading: Rereading = READ_AS_MODEL,
    screen: Screen = SCREEN,
) -> None:
    """Write the label of each example of DATA, and how probable it is, by a model that is conditioned on labels.

    Of data that come split, `test` is read, and of the data that the model was trained on the part that was held out, unless
    `--split` says otherwise.

    Args:
        model: A model folder; `vaekit train --condition label` makes one, and with `--objective semi-supervised` it learns
            from examples without a label too.
        data: Data of the kind that the model was trained on. Labels that they have are compared, and not read.
        out: A .csv, .tsv, .parquet, .npz or .jsonl table.
        column: What to predict; everything that the model is conditioned on if left out. Repeat it for more columns.
        method: By the model's classifier, or by Bayes' rule from how likely the example is under each label; auto: the first
            where there is one.
        samples: K, samples of the latent an example and label, of Bayes' rule. More is nearer to the exact rule, and slower.
        uniform: Take all labels to be as likely beforehand, and not as frequent as in training.
        every: Also write the probability of each category.
    """
    from vaekit.data.writing import write_table
    from vaekit.jobs.predict import predict as predict_job

    check_out(out, force, TABLE_SUFFIXES)
    clock, loaded = Clock(), load_model(model, device)
    dataset = loaded.read(data, default="held_out", **reading.options())
    for note in dataset.notes:
        remark(screen, note)
    with progress(screen, "Predicting") as bar:
        how: dict[str, Any] = {"method": method, "num_samples": samples, "uniform": uniform, "seed": seed}
        found = predict_job(loaded.bundle, dataset, column or None, **how, progress=bar)
    write_table(found.to_columns(every), out, force=force)
    for note in found.notes:
        remark(screen, note)
    accuracies = _accuracies(found, dataset)
    record = {"out": str(out), "num_examples": len(found), "method": found.method, "accuracy": accuracies}
    told = "".join(f" {name} as the data say: {short(share)}." for name, share in accuracies.items())
    said = f"The predictions of {len(found)} examples are in {out} ({clock.seconds:.1f} s).{told}"
    report(screen, {**record, "seconds": clock.seconds}, said)


def _accuracies(found: Predicted, dataset: Dataset) -> dict[str, float]:
    """Of each column of categories that the data have, the share of known labels that are predicted."""
    shares = {}
    for name in found.probabilities:
        codes = dataset.columns.get(name)
        if codes is not None and (codes >= 0).any():
            own = dataset.schema.column(name).printed(codes)
            shares[name] = float((found.labels[name] == own)[codes >= 0].mean())
    return shares
