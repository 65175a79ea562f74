"""Sentences for the person who watches: what goes wrong, and what helps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaekit.errors import TrainingError
from vaekit.objectives import ELBO, Objective, TotalCorrelation
from vaekit.training.config import TrainConfig

if TYPE_CHECKING:
    from vaekit.training.loop import Progress

DIVERGED = (
    "Training must give finite gradients; around step {step} none was. {kept}"
    "Start again with a lower `--learning-rate` (a third of this one), and look for extreme values with `vaekit inspect`."
)

NEVER_FINITE = (
    "The loss on held-out examples must be finite; at no validation up to step {step} it was. "
    "Start again with a lower `--learning-rate` (a third of this one), and look for extreme values with `vaekit inspect`."
)

COLLAPSED_RATE = 0.1
_WORSE = 0.01
"""The share of the loss at the start by which the best one must lie above it: short runs stay about where they began."""


def on_validation(metrics: dict[str, float], objective: Objective, step: int, config: TrainConfig) -> dict[str, str]:
    """Advice after a validation, by kind."""
    warm_up = getattr(objective, "warm_up", 0)
    early = step < max(200, 2 * warm_up, 2 * config.learning_rate_warm_up)
    if not early and (metrics["rate"] < COLLAPSED_RATE or metrics["active_units"] == 0):
        return {
            "collapse": f"The posterior has collapsed: the rate is {metrics['rate']:.3f} nats and "
            f"{metrics['active_units']:.0f} units are active, so the latent says nothing of the data. "
            + _against_collapse(objective)
        }
    return {}


def _against_collapse(objective: Objective) -> str:
    """What helps, of what the objective takes."""
    if isinstance(objective, ELBO) and objective.capacity is not None:
        return "Try a larger `--capacity`."
    if isinstance(objective, ELBO):
        return "Try `--free-bits 0.1`, a warm-up (`--warm-up 2000`), or `--beta 0.5`."
    if isinstance(objective, TotalCorrelation):
        return "Try a smaller `--beta`, or `--objective elbo --free-bits 0.1`."
    return "Try `--objective elbo --free-bits 0.1`."


def on_end(progress: Progress) -> str | None:
    """The warning about a run that made the model worse than it was before the first step; None for any other.

    Raises:
        TrainingError: if there were validations, and no loss was finite.
    """
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
