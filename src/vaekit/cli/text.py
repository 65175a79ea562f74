"""Jobs of text, and edits of any kind of data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from vaekit.cli.options import READ_AS_MODEL, SCREEN, USE, Beams, Device, Force, Out, Rereading, Screen, Seed, parse_pairs
from vaekit.cli.output import Clock, check_form, progress, remark, report, short, write
from vaekit.data.output import check_output
from vaekit.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from vaekit.data.dataset import Dataset
    from vaekit.evaluation.text import TextReport
    from vaekit.model import Model


def add_commands(app: App) -> None:
    """Adds the commands of this file."""
    app.command(edit, group=USE)


def edit(
    model: Path,
    data: str,
    /,
    *,
    out: Out,
    set: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False, show_default=False)],
    strength: float = 1.0,
    method: Literal["auto", "vector", "condition"] = "auto",
    training: str | None = None,
    draw: Literal["mean", "sample"] = "mean",
    beams: Beams = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    reading: Rereading = READ_AS_MODEL,
    screen: Screen = SCREEN,
) -> None:
    """Show each example of DATA as it would be with another value of a column, such as its sentiment.

    Args:
        model: A model folder.
        data: Data of the kind that the model was trained on.
        out: A file or folder in the form of the data: the ending chooses.
        set: What a column is to be, as COLUMN=VALUE; of numbers also COLUMN=+0.5, which is added to each example's own. Repeat
            it for more columns.
        strength: 0 reconstructs, 1 sets, more exaggerates.
        method: Decode with another condition, or move the latent by the difference of mean latents of labelled examples; auto:
            the first where the model is conditioned on the column.
        training: Labelled data for those means, such as what the model was trained on; DATA themselves if left out.
        draw: The mean of the data given the latent (the likeliest tokens of text), or a sample of it.
        beams: Of text: seek the likeliest, keeping so many beginnings at a time.
    """
    check_output(out, force)
    values = parse_pairs("--set", set, "sentiment=positive")
    from vaekit.model import load

    clock, loaded = Clock(), load(model, device)
    check_form(out, loaded.schema)
    options = reading.options()
    split = options.pop("split", None)
    dataset = loaded.read(data, split, default="all", **options)
    for note in dataset.notes:
        remark(screen, note)
    how: dict[str, Any] = {"strength": strength, "method": method, "training": None, "draw": draw, "beams": beams}
    if training is not None:
        how["training"] = loaded.read(training, default="all", **options)
    with progress(screen, "Editing") as bar:
        made = loaded.edit(dataset, values, **how, seed=seed, split="all", progress=bar)
    for note in made.notes:
        remark(screen, note)
    beside = {**made.columns, **originals(dataset)}
    write(made.x, loaded.schema, out, force, names=dataset.names, beside=beside)
    record = {"out": str(out), "num_examples": len(made.x), "set": values, "methods": dict(made.methods)}
    record["seconds"] = clock.seconds
    report(screen, record, f"{len(made.x)} examples are in {out} ({clock.seconds:.1f} s).")


def originals(dataset: Dataset) -> dict[str, np.ndarray]:
    """Of text, what stands beside what was made of it: the text itself. Of other data nothing."""
    return {"original": dataset.raw()} if dataset.schema.kind == "text" else {}


def fill_blanks(
    loaded: Model,
    data: str,
    out: Path,
    *,
    draw: Literal["mean", "sample"],
    num: int,
    blank: str | None,
    longest: int | None,
    seed: int,
    force: bool,
    reading: Rereading,
    screen: Screen,
) -> None:
    """`vaekit impute` of a model of text."""
    import numpy as np

    from vaekit.jobs.conditions import printed
    from vaekit.jobs.fill import BLANK

    check_form(out, loaded.schema)
    clock, options = Clock(), reading.options()
    options.pop("split", None)
    with progress(screen, "Filling blanks") as bar:
        how = {"blank": blank or BLANK, "longest": longest, "draw": draw, "num": num, "seed": seed}
        made = loaded.fill(data, **how, progress=bar, **options)
    for note in made.notes:
        remark(screen, note)
    owners = np.repeat(np.arange(len(made.fills)), [len(fills) for fills in made.fills])
    fills = [each for of_text in made.fills for each in of_text]
    columns = loaded.read(data, "all", **{**options, "long": "cut"}).columns
    beside: dict[str, np.ndarray] = {name: values[owners] for name, values in printed(loaded.schema, columns).items()}
    beside["weight"] = np.array([each.weight for each in fills])
    if num > 1:
        beside["index"] = owners
        beside["imputation"] = np.concatenate([np.arange(1, len(of_text) + 1) for of_text in made.fills])
    write(np.array([each.text for each in fills], dtype=object), loaded.schema, out, force, beside=beside)
    count = sum(len(of_text[0].parts) for of_text in made.fills)
    record = {"out": str(out), "num_texts": len(made.fills), "num_blanks": count, "seconds": clock.seconds}
    sentence = f"{count:,} blanks of {len(made.fills):,} texts are filled in {out} ({clock.seconds:.1f} s)."
    if not count:
        sentence = (
            f"There is no blank in {len(made.fills):,} texts; write it as {blank or BLANK}. They are in {out} as they were."
        )
    report(screen, record, sentence)


def texts_report(loaded: Model, data: str, training: str | None, seed: int, reading: Rereading, screen: Screen) -> TextReport:
    """How good generated and reconstructed texts are, of a model of text."""
    options = reading.options()
    options.pop("split", None)
    with progress(screen, "Judging generated texts") as bar:
        return loaded.evaluate_texts(data, training=training, seed=seed, progress=bar, **options)


def text_figures(found: TextReport) -> list[tuple[str, str]]:
    """A line for each figure of made texts, with what held-out texts get beside it."""

    def beside(value: float | None, other: float | None) -> str:
        return short(value) + ("" if other is None else f" (held-out texts {short(other)})")

    lines: list[tuple[str, str]] = []
    if found.reconstructions is not None:
        lines.append(("reconstruction BLEU", short(found.reconstructions.bleu)))
        lines.append(("reconstructed exactly", f"{found.reconstructions.exact_match:.1%}"))
    lines += [
        (f"samples, {name}", beside(getattr(found.samples, name), getattr(found.reference, name)))
        for name in ("self_bleu", "distinct_1", "distinct_2", "duplicates", "mean_length")
    ]
    if found.novelty is not None:
        lines.append(("samples, novel", beside(found.novelty.share, found.reference_novelty)))
        lines.append(("samples, copied", short(found.novelty.num_copies)))
        if found.novelty.copies:
            lines.append(("most copied", " | ".join(f"{text} ({count})" for text, count, _ in found.novelty.copies[:3])))
        lines += [(f"samples, new {order}-grams", f"{share:.1%}") for order, share in found.novelty.unseen]
    if found.ngrams is not None:
        which = f"{found.ngrams.order}-gram of {found.unit}s"
        lines.append((f"perplexity, {which}", beside(found.ngrams.perplexity, found.ngrams.held_out_perplexity)))
        lines.append((f"nll_nats, {which}", short(found.ngrams.held_out_nll)))
    return lines


def refuse_of_text(**options: object) -> None:
    """Refuses options that have no meaning for text.

    Raises:
        ConfigError: if one is given.
    """
    for name, value in options.items():
        if value is not None:
            raise ConfigError(f"`--{name}` must be left out for a model of text, got {value}. Leave it out.")
