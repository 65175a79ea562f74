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
from vaekit.cli.output import Clock, progress, remark, report, usual_output
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
    from vaekit.model import load
    from vaekit.storage import PRIOR_FIT
    from vaekit.training.folder import check_folder, publish
    from vaekit.training.refit import KEPT

    if out.exists() and model.exists() and out.samefile(model):
        raise ConfigError(
            f"OUT must be another folder than MODEL, which stays as it is, got {out} for both. Choose a new name."
        )
    check_folder(out, data, replace=force)

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
    publish(new.bundle, out, of_run=False)
    fit = new.bundle.training[PRIOR_FIT]
    record = {"out": str(out), PRIOR_FIT: fit, "metrics": new.bundle.metrics, "seconds": clock.seconds}
    found = f"The bound on held-out examples went from {fit['elbo_before']:.2f} to {fit['elbo']:.2f} nats"
    advice = f" Try `vaekit generate {out} -o {usual_output(loaded.schema)}`." if fit["improved"] else ""
    report(screen, record, f"{found}. The model is in {out}.{advice}")
    for note in fit["notes"]:
        remark(screen, note.replace(KEPT, str(model)))
    if fit.get("stopped") == "interrupted":
        raise KeyboardInterrupt(f"Interrupted: the best prior so far is in {out}.")
