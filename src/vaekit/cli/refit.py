"""`vaekit refit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from vaekit.cli.options import (
    READ_AS_MODEL,
    SCREEN,
    TRAIN,
    Count,
    Device,
    Force,
    Out,
    Rereading,
    Screen,
    Seed,
    above_0,
)
from vaekit.cli.output import Clock, progress, remark, report
from vaekit.errors import ConfigError


def add_commands(app: App) -> None:
    """Adds the commands of this file."""
    app.command(refit, group=TRAIN)


def refit(
    model: Path,
    data: str,
    /,
    *,
    out: Out,
    prior: Literal["mixture", "mixture-full", "flow", "flow-matching", "vae", "autoregressive", "codes"] = "mixture",
    components: Count | None = None,
    epochs: Annotated[float | None, Parameter(validator=above_0)] = None,
    steps: Count | None = None,
    minutes: Annotated[float | None, Parameter(validator=above_0)] = None,
    device: Device = "auto",
    seed: Seed = 0,
    force: Force = False,
    reading: Rereading = READ_AS_MODEL,
    screen: Screen = SCREEN,
) -> None:
    """Give a model a new prior that is fitted to its latents, for better samples. Encoder and decoder stay as they are.

    Args:
        model: A model folder; it stays as it is.
        data: The data that the model was trained on.
        out: The folder of the new model.
        prior: What is fitted: a mixture of normals, a flow, flow matching, a second VAE, or an autoregressive density; `codes`,
            which takes minutes, for the codes of a VQ-VAE and its like.
        components: Normals of a mixture, at most one for 20 latents, or of each factor of `autoregressive`; 10 if left out.
        epochs: Budget in passes over the latents. Mixtures need none.
        steps: Budget in optimiser steps; 5,000 if none is given, 2,000 of `codes`.
        minutes: Budget in minutes.
    """
    _check(out, force)
    from vaekit.model import load
    from vaekit.training.folder import preview
    from vaekit.training.refit import KEPT

    clock, loaded = Clock(), load(model, device)
    budget = {"epochs": epochs, "steps": steps, "minutes": minutes}
    settings = {name: value for name, value in budget.items() if value is not None}
    options = reading.options()
    split = options.pop("split", None)
    with progress(screen, "Fitting the prior") as bar:
        new = loaded.refit_prior(
            data, prior, components=components, split=split, seed=seed, progress=bar, data_options=options, **settings
        )
    new.bundle.vae.cpu()
    new.bundle.transform.cpu()
    new.save(out, force=force)
    if new.schema.kind == "images" and new.schema.shape[0] in (1, 3, 4):
        preview(new.bundle, out)
    fit = new.bundle.training["prior_fit"]
    record = {"out": str(out), "prior_fit": fit, "metrics": new.bundle.metrics, "seconds": clock.seconds}
    found = f"The bound on held-out examples went from {fit['elbo_before']:.2f} to {fit['elbo']:.2f} nats"
    advice = f" Try `vaekit generate {out} -o samples.png`." if fit["improved"] else ""
    report(screen, record, f"{found}. The model is in {out}.{advice}")
    for note in fit["notes"]:
        remark(screen, note.replace(KEPT, str(model)))
    if fit.get("stopped") == "interrupted":
        raise KeyboardInterrupt(f"Interrupted: the best prior so far is in {out}.")


def _check(out: Path, force: bool) -> None:
    """Refuses an output before the work starts.

    Raises:
        ConfigError: if OUT is a file, or holds something and `--force` is not set.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"OUT must be a folder, found a file at {out}. Choose another name.")
    if not force and out.exists() and any(out.iterdir()):
        raise ConfigError(f"OUT must be a new or empty folder, found files in {out}. Choose another name, or use `--force`.")
