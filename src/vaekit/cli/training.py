"""`vaekit train`."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter, validators

from vaekit.cli.options import (
    READ_AS_FOUND,
    SCREEN,
    TRAIN,
    Count,
    Device,
    Force,
    Out,
    Reading,
    Screen,
    Seed,
    above_0,
    at_least_0,
)
from vaekit.cli.output import report, usual_output

Likelihoods = Literal[
    "auto",
    "bernoulli",
    "continuous-bernoulli",
    "beta",
    "normal",
    "laplace",
    "logistic",
    "log-cosh",
    "student-t",
    "log-normal",
    "poisson",
    "negative-binomial",
    "zero-inflated-poisson",
    "zinb",
    "logistic-mixture",
    "beta-binomial",
    "categorical",
]
"""`recipes.LIKELIHOODS`, written out, so that the command line starts without them."""


def add_commands(app: App) -> None:
    """Adds the commands of this file."""
    app.command(train, group=TRAIN)


def train(
    data: str,
    /,
    *,
    out: Out,
    recipe: Literal["auto", "mlp", "conv", "conv-large", "ladder", "table", "lstm", "transformer", "map"] = "auto",
    latent: Count | None = None,
    likelihood: Likelihoods | None = None,
    condition: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False, show_default=False)] = (),
    prior: Literal["standard", "mixture", "vamp", "flow", "autoregressive"] | None = None,
    objective: Literal["elbo", "iwae", "dreg", "stl", "total-correlation", "neighbours", "semi-supervised"] | None = None,
    epochs: Annotated[float | None, Parameter(validator=above_0)] = None,
    steps: Count | None = None,
    minutes: Annotated[float | None, Parameter(validator=above_0)] = None,
    batch_size: Count | None = None,
    learning_rate: Annotated[float | None, Parameter(validator=above_0)] = None,
    beta: Annotated[float | None, Parameter(validator=at_least_0)] = None,
    free_bits: Annotated[float | None, Parameter(validator=at_least_0)] = None,
    free_bits_per: Literal["unit", "channel", "level"] | None = None,
    warm_up: Annotated[int | None, Parameter(validator=at_least_0)] = None,
    cycles: Count | None = None,
    capacity: Annotated[float | None, Parameter(validator=at_least_0)] = None,
    pretrain: Annotated[int | None, Parameter(validator=at_least_0)] = None,
    aggressive: Annotated[int | None, Parameter(validator=at_least_0)] = None,
    num_samples: Count | None = None,
    patience: Annotated[int | None, Parameter(validator=at_least_0)] = None,
    ema: Annotated[float | None, Parameter(validator=validators.Number(gte=0, lt=1))] = None,
    precision: Literal["auto", "float32", "bf16"] | None = None,
    device: Device = "auto",
    private: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    epsilon: Annotated[float | None, Parameter(validator=above_0)] = None,
    delta: Annotated[float | None, Parameter(validator=above_0)] = None,
    clip: Annotated[float | None, Parameter(validator=above_0)] = None,
    seed: Seed = 0,
    checkpoint_seconds: Annotated[float | None, Parameter(validator=at_least_0)] = None,
    resume: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    force: Force = False,
    reading: Reading = READ_AS_FOUND,
    screen: Screen = SCREEN,
) -> None:
    """Train a model on DATA. Ctrl-C stops early and keeps the model; `--resume` goes on.

    Args:
        data: A folder or zip of images, a .npy, .npz or .idx(.gz) file, a table, or a file of text. Of data that come split,
            `train` is read.
        out: The folder of the model.
        recipe: The kind of network; auto lets the data choose, ladder is a hierarchy of latents, map makes two units for
            `vaekit reduce`, in which neighbours stay neighbours.
        latent: How many latent units; of a ladder, channels of each level.
        likelihood: The family of the data given the latent; the data choose if left out.
        condition: A column to condition on, such as label. Repeat it for more.
        prior: Of the latents; all but standard, the default, are learned.
        objective: What is minimised; elbo if left out. iwae and dreg take five samples unless told. semi-supervised,
            with --condition, is for data of which few examples have a label.
        epochs: Budget in passes over the data.
        steps: Budget in optimiser steps.
        minutes: Budget in minutes.
        batch_size: Examples a step.
        learning_rate: Its peak.
        beta: Weight of the rate; 1 if left out, or 6 for total-correlation.
        free_bits: Nats a unit that are not charged; 0 if left out.
        free_bits_per: What the free nats are of in place of a unit: level for the whole latent.
        warm_up: Steps over which beta rises from 0; 0 if left out.
        cycles: How often beta rises from 0 with --warm-up; 1 if left out.
        capacity: Nats that the rate is drawn to.
        pretrain: Steps at the start that train an autoencoder, after which the decoder begins anew.
        aggressive: Steps of the encoder alone before each step of all else, for as long as that helps.
        num_samples: Samples of the latent an example.
        patience: Stop after so many validations without a better bound; 0 for never.
        ema: Decay of the average of the weights that is kept; 0 for none.
        precision: Of the arithmetic; auto takes bf16 where it is clearly faster here.
        private: Train with differential privacy, at the cost of --epsilon.
        epsilon: Of a private run, the most that it may cost.
        delta: Of a private run; below one over the number of examples, chosen if left out.
        clip: Of a private run, the norm to which the gradient of each example is clipped; 1 if left out.
        checkpoint_seconds: Seconds between checkpoints.
        resume: Go on with the run in OUT.
    """
    from vaekit import model
    from vaekit.errors import ConfigError

    if private != (epsilon is not None):
        found = "`--private` alone" if private else "`--epsilon` alone"
        raise ConfigError(
            f"`--private` and `--epsilon` must be given together, got {found}. Give both: `--private --epsilon 3`."
        )
    trained = model.train(
        data,
        out,
        recipe=recipe,
        latent=latent,
        likelihood=likelihood,
        condition=condition,
        prior=prior,
        objective=objective,
        beta=beta,
        free_bits=free_bits,
        free_bits_per=free_bits_per,
        warm_up=warm_up,
        cycles=cycles,
        capacity=capacity,
        pretrain=pretrain,
        aggressive=aggressive,
        epochs=epochs,
        steps=steps,
        minutes=minutes,
        batch_size=batch_size,
        learning_rate=learning_rate,
        num_samples=num_samples,
        patience=patience,
        ema=ema,
        precision=precision,
        dp_epsilon=epsilon,
        dp_delta=delta,
        dp_clip=clip,
        device=device,
        seed=seed,
        resume=resume,
        force=force,
        checkpoint_seconds=checkpoint_seconds,
        data_options=reading.options(),
        display="quiet" if screen.quiet else "auto",
    )
    advice = f"Try `vaekit generate {out} -o {usual_output(trained.schema)}`."
    report(screen, {"out": str(out), **trained.info()}, f"The model is in {out}. {advice}")
    if trained.bundle.training.get("stopped") == "interrupted":
        raise KeyboardInterrupt(f"Interrupted: the best model so far is in {out}; the same command with `--resume` goes on.")
