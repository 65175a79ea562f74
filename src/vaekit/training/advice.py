"""Sentences for the person who watches: what goes wrong, and what helps."""

from __future__ import annotations

import math

from vaekit.errors import TrainingError
from vaekit.likelihoods import Tokens
from vaekit.objectives import ELBO, Objective, TotalCorrelation
from vaekit.training.config import TrainConfig
from vaekit.training.progress import Progress
from vaekit.training.stages import AUTOENCODER, can_collapse
from vaekit.vae import LatentModel

DIVERGED = (
    "Training must give finite gradients; around step {step} none was. {kept}"
    "Start again with a lower `--learning-rate` (a third of this one), and look for extreme values with `vaekit inspect`."
)

NEVER_FINITE = (
    "The loss on held-out examples must be finite; at no validation up to step {step} it was. "
    "Start again with a lower `--learning-rate` (a third of this one), and look for extreme values with `vaekit inspect`."
)

UNFINISHED = (
    "The run has ended within its pretraining, after {step:,} steps: the model is an autoencoder, with a decoder that was to "
    "begin anew and a prior that its latents do not follow. Go on with `--resume`, and a larger budget if it is used up."
)

COLLAPSED_RATE, COLLAPSED_INFORMATION = 0.1, 0.05
_LAST_RESORT = "Try a decoder that can do less without it, or a smaller `--learning-rate`."
_WORSE = 0.01
"""The share of the loss at the start by which the best one must lie above it: short runs stay about where they began."""


def on_validation(
    metrics: dict[str, float], objective: Objective, step: int, config: TrainConfig, vae: LatentModel | None = None
) -> dict[str, str]:
    """Advice after a validation, by kind.

    Args:
        metrics: what the validation said.
        objective: what is minimised.
        step: optimiser steps done.
        config: the settings.
        vae: the model, for advice that fits it.
    """
    # No advice while beta still rises, be it for the last time of several.
    rising = getattr(objective, "warm_up", 0) * max(2, 2 * getattr(objective, "cycles", 1) - 1)
    early = step - config.pretrain < max(200, rising, 2 * config.learning_rate_warm_up)
    shared = metrics.get("mutual_information", math.inf)
    if early or not (metrics["rate"] < COLLAPSED_RATE or metrics["active_units"] == 0 or shared < COLLAPSED_INFORMATION):
        return {}
    found = [f"the rate is {metrics['rate']:.3f} nats", f"{metrics['active_units']:.0f} units are active"]
    if math.isfinite(shared):
        found.insert(1, f"the mutual information {shared:.3f} nats")
    told = f"{', '.join(found[:-1])} and {found[-1]}"
    why = ""
    if isinstance(getattr(vae, "likelihood", None), Tokens):
        why = "A decoder of text can do without it. "
    return {
        "collapse": f"The posterior has collapsed: {told}, so the latent says nothing of the data. {why}"
        + _against_collapse(objective, config, vae)
    }


def _against_collapse(objective: Objective, config: TrainConfig, vae: LatentModel | None) -> str:
    """What helps, of what the objective and the model take and the run does not do yet."""
    private = config.dp_epsilon is not None  # which takes neither free bits nor stages
    bits = "--free-bits 0.1"
    if not isinstance(objective, ELBO):
        if private:
            return "Try `--objective elbo --warm-up 2000`."
        smaller = "a smaller `--beta`, or " if isinstance(objective, TotalCorrelation) else ""
        return f"Try {smaller}`--objective elbo {bits}`."
    if objective.capacity is not None:
        return "Try a larger `--capacity`."
    remedies = []
    if not private:
        remedies.append(f"`{bits}`" if objective.free_bits == 0 else "a larger `--free-bits`")
    if objective.warm_up == 0:
        remedies.append("a warm-up (`--warm-up 2000`)")
    elif objective.cycles == 1:
        remedies.append("several rises of beta (`--cycles 4`)")
    staged = vae is not None and can_collapse(vae) and not private
    if staged and not config.pretrain:
        remedies.append("pretraining (`--pretrain 2000`)")
    if staged and not config.aggressive:
        remedies.append("more steps of the posterior (`--aggressive 10`)")
    if objective.beta > 0:
        remedies.append(f"`--beta {min(0.5, objective.beta / 2):g}`")
    return f"Try {', '.join(remedies[:-1])}{', or ' if len(remedies) > 1 else ''}{remedies[-1]}." if remedies else _LAST_RESORT


def on_end(progress: Progress) -> str | None:
    """The warning about a run that made the model worse than it was before the first step; None for any other.

    Raises:
        TrainingError: if there were validations, and no loss was finite.
    """
    if progress.stage == AUTOENCODER:
        return UNFINISHED.format(step=progress.step)
    if not progress.validation:
        return None
    if not progress.best_validation:
        raise TrainingError(NEVER_FINITE.format(step=progress.step))
    start, best = progress.start_loss, progress.best_loss
    if start is None or best <= start + _WORSE * abs(start):
        return None
    return (
        f"Training has made the model worse: the best loss on held-out examples is {best:.6g} nats, and it was {start:.6g} "
        "before the first step. Start again with a much lower `--learning-rate`, and look for extreme values with "
        "`vaekit inspect`."
    )


def on_report(metrics: dict[str, float]) -> dict[str, str]:
    """Advice after a report, by kind."""
    if metrics["skipped"] > 0.2:
        return {
            "skipped": f"{metrics['skipped']:.0%} of the last steps were left out because their gradients were too "
            "large or not finite. "
            "If it goes on, start again with a lower `--learning-rate`."
        }
    return {}
