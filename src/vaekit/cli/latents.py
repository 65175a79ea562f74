"""What a model says of given examples: `vaekit evaluate`, `vaekit encode` and `vaekit score`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    at_least_0,
)
from vaekit.cli.output import Clock, progress, remark, report, short
from vaekit.cli.tables import row_figures, rows_report, strangest
from vaekit.cli.text import text_figures, texts_report
from vaekit.cli.use import check_out, load_model, read_data
from vaekit.data.output import TABLE_SUFFIXES
from vaekit.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from vaekit.data.dataset import Dataset
    from vaekit.evaluation.probe import Probe
    from vaekit.jobs.score import Scores
    from vaekit.model import Model

Index = Annotated[int, Parameter(validator=at_least_0)]
_SHOWN = 5


def add_commands(app: App) -> None:
    """Adds the commands of this file."""
    for command in (evaluate, encode, score):
        app.command(command, group=USE)


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
    labels: Annotated[bool, Parameter(negative="--no-labels")] = True,
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
        training: What the model was trained on. DATA are then what was held out, beside which what a table's or text's model
            generates is judged; and of other data, labels are told from latents by what is fitted on these.
        target: Of a table: a column that classifiers learn to predict from generated and from real rows.
        rows: Of a table or text: compare generated rows or texts with real ones.
        labels: Of data with labels: measure how well they are told from the latents by a linear classifier and by neighbours.
        out: Also write the figures to this .json file.
    """
    import json

    from vaekit.data.output import as_json, atomic_file

    if out is not None:
        check_out(out, force, (".json",))
    clock, loaded = Clock(), load_model(model, device)
    kind = loaded.schema.kind if rows else ""
    used = kind in ("table", "text") or (labels and loaded.schema.kind != "table")
    if (training is not None and not used) or (target is not None and kind != "table"):
        raise ConfigError(
            "`--target` must come with a model of a table and without `--no-rows`, and `--training` with rows, texts or labels "
            "that need it. Leave them out."
        )
    dataset = read_data(loaded, data, reading, screen, default="held_out")
    fitted = _training_part(loaded, data, training, reading) if labels and dataset.columns else None
    with progress(screen, "Evaluating") as bar:
        how = {"num_samples": samples, "limit": limit, "annealing_steps": ais or 0, "labels": labels, "training": fitted}
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
    for sentence in (*([] if found.warning is None else [found.warning]), *found.notes):
        remark(screen, sentence)
    plain = _figures(_named({name: value for name, value in record.items() if name not in beside}))
    report(screen, record, plain + _probe_figures(found.probes) + lines)


def _training_part(loaded: Model, data: str, training: str | None, reading: Rereading) -> Dataset | None:
    """What a classifier on latents is fitted on: what is said to be, or the training part of DATA."""
    options = reading.options()
    split = options.pop("split", None)
    if training is not None:
        return loaded.read(training, "all", **options)
    return loaded.training_part(data, split, **options)


def _probe_figures(probes: Sequence[Probe]) -> list[tuple[str, str]]:
    """A line for each column of labels."""
    lines = []
    for found in probes:
        how = f"fitted on {found.num_fitted:,}" if found.scheme == "held out" else f"{found.scheme} cross validation"
        told = f"{short(found.accuracy)} +- {found.standard_error:.2g} linear, {short(found.knn_accuracy)} of 5 neighbours"
        lines.append((f"{found.column} told", f"{told} (commonest label {short(found.majority)}; {how})"))
    return lines


def encode(
    model: Path,
    data: str,
    /,
    *,
    out: Out,
    features: Literal["auto", "means", "whitened", "scales", "levels"] | None = None,
    level: Annotated[tuple[Index, ...], Parameter(negative=(), consume_multiple=False, show_default=False)] = (),
    like: str | None = None,
    force: Force = False,
    device: Device = "auto",
    reading: Rereading = READ_AS_MODEL,
    screen: Screen = SCREEN,
) -> None:
    """Write the latents of DATA: a table of means z0, z1, ... and standard deviations, or an array of means; or with
    `--features` what is best handed to a classifier.

    Of data that come split, everything is read unless `--split` says otherwise.

    Args:
        model: A model folder.
        data: Data of the kind that the model was trained on.
        out: A .csv, .tsv, .parquet, .npz or .jsonl table, or a .npy array of the means, or of the features.
        features: Every condition unknown, so that no label leaks: means of the units that are used; whitened means; scales, the
            means and the logarithms of the standard deviations; of a ladder, levels averaged over their positions; auto: means.
        level: Of a ladder: features of this level alone, the one that is sampled first being 0. Repeat it for more.
        like: Other data whose statistics choose the units and the whitening, such as the training part; DATA if left out.
    """
    check_out(out, force, (*TABLE_SUFFIXES, ".npy"))
    if features is None and (level or like is not None):
        raise ConfigError("`--level` and `--like` must come with `--features`. Add `--features auto`.")
    clock, loaded = Clock(), load_model(model, device)
    dataset = read_data(loaded, data, reading, screen, default="all")
    if features is not None:
        with progress(screen, "Encoding") as bar:
            how = {"kind": features, "level": level, "like": None if like is None else _other(loaded, like, reading, "all")}
            made = loaded.features(dataset, **how, split="all", progress=bar)
        for note in made.notes:
            remark(screen, note)
        _write_latents(made.to_columns, made.x, out, force)
        record = {"out": str(out), "num_examples": len(made), "features": made.kind, "num_features": made.x.shape[1]}
        said = f"{made.x.shape[1]} features ({made.kind}) of {len(made)} examples are in {out} ({clock.seconds:.1f} s)."
        report(screen, {**record, "seconds": clock.seconds}, said)
        return
    with progress(screen, "Encoding") as bar:
        encoding = loaded.encode(dataset, split="all", progress=bar)
    _write_latents(encoding.to_columns, encoding.mean, out, force)
    record = {"out": str(out), "num_examples": len(encoding), "num_latents": encoding.mean.shape[1], "seconds": clock.seconds}
    report(screen, record, f"The latents of {len(encoding)} examples are in {out} ({clock.seconds:.1f} s).")


def score(
    model: Path,
    data: str,
    /,
    *,
    out: Out,
    samples: Count = 16,
    explain: Index | None = None,
    columns: Annotated[bool, Parameter(negative=())] = False,
    reference: str | None = None,
    maps: Path | None = None,
    num_maps: Annotated[Count, Parameter(name="--num-maps")] = 16,
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
        reference: Of images and vectors: normal data that training did not see, with which DATA are compared; what was stored
            with the model at the end of its training if left out.
        maps: Of images: also write pictures of the strangest to this folder: the image, what the model expects, and where they
            differ.
        num_maps: Of so many images.
    """
    from vaekit.data.output import check_output
    from vaekit.data.writing import write_table

    check_out(out, force, TABLE_SUFFIXES)
    if maps is not None:
        check_output(maps, force)
    clock, loaded = Clock(), load_model(model, device)
    if loaded.schema.kind != "table" and (columns or explain is not None):
        raise ConfigError("`--explain` and `--columns` must come with a model of a table. Leave them out.")
    if columns and explain == 0:
        raise ConfigError("`--columns` must come with rows whose columns are looked at, got `--explain 0`. Leave one out.")
    if maps is not None and loaded.schema.kind != "images":
        raise ConfigError(f"`--maps` must come with a model of images, this is one of {loaded.schema.kind}. Leave it out.")
    dataset = read_data(loaded, data, reading, screen, default="held_out")
    how: dict[str, Any] = {} if explain is None else {"explain": explain}
    how["reference"] = None if reference is None else _other(loaded, reference, reading, "held_out")
    with progress(screen, "Scoring") as bar:
        scores = loaded.score(dataset, num_samples=samples, **how, seed=seed, split="all", progress=bar)
    write_table(scores.to_columns(columns and scores.by_column is not None), out, force=force)
    for sentence in (*([] if scores.warning is None else [scores.warning]), *scores.notes):
        remark(screen, sentence)
    if maps is not None:
        _write_maps(loaded, dataset, scores, maps, num_maps, seed, force, screen)
    mean = float(scores.log_likelihood.mean())
    record = {"out": str(out), "num_examples": len(scores), "log_likelihood": mean, "seconds": clock.seconds}
    record |= {} if scores.warning is None else {"warning": scores.warning}
    record |= {} if not scores.parts else {"strangest": _strangest(scores)}
    record |= {} if maps is None else {"maps": str(maps)}
    said = f"The scores of {len(scores)} examples are in {out}: {mean:.2f} nats on average."
    if scores.by_column is None:
        report(screen, record, said)
        return
    remark(screen, f"{said} The strangest:")
    strange, lines = strangest(scores)
    report(screen, {**record, "strangest": strange, "notes": list(scores.notes)}, lines)


def _other(loaded: Model, data: str, reading: Rereading, default: str) -> Dataset:
    """Other data, read like DATA."""
    return loaded.read(data, default=default, **{name: v for name, v in reading.options().items() if name != "split"})


def _strangest(scores: Scores) -> list[dict[str, Any]]:
    """The strangest examples, with how strange they are by each measure."""
    import numpy as np

    rows = np.argsort(-scores.anomaly, kind="stable")[:_SHOWN].tolist()
    return [
        {
            "index": row,
            "anomaly": float(scores.anomaly[row]),
            "parts": {name: float(part[row]) for name, part in scores.parts.items()},
        }
        for row in rows
    ]


def _write_maps(
    loaded: Model, dataset: Dataset, scores: Scores, out: Path, num: int, seed: int, force: bool, screen: Screen
) -> None:
    """Pictures of the strangest images."""
    import numpy as np

    from vaekit.jobs.anomaly_maps import write_maps

    rows = np.argsort(-scores.anomaly, kind="stable")[:num]
    with progress(screen, "Maps") as bar:
        found = loaded.anomaly_maps(dataset, rows, seed=seed, split="all", progress=bar)
    write_maps(found, loaded.schema, out, force)
    remark(screen, f"{len(found)} pictures are in {out}: each image, what the model expects, and where they differ.")


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


def _write_latents(to_columns: Callable[[], dict[str, np.ndarray]], array: np.ndarray, out: Path, force: bool) -> None:
    """A table with all that stands beside, or an array."""
    import numpy as np

    from vaekit.data.output import atomic_file
    from vaekit.data.writing import write_table

    if out.suffix.lower() in TABLE_SUFFIXES:
        write_table(to_columns(), out, force=force)
        return
    with atomic_file(out, force) as path, path.open("wb") as file:
        np.save(file, array)
