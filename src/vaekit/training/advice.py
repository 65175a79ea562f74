"""Sentences for the person who watches: what goes wrong, and what helps."""

from __future__ import annotations

from vaekit.objectives import Objective
from vaekit.training.config import TrainConfig

DIVERGED = (
    "Training must give finite gradients; around step {step} none was. The last checkpoint is whole. "
    "Start again with a lower `--learning-rate` (a third of this one), and look for extreme values with `vaekit inspect`."
)

COLLAPSED_RATE = 0.1


def on_validation(metrics: dict[str, float], objective: Objective, step: int, config: TrainConfig) -> dict[str, str]:
    """Advice after a validation, by kind."""
    warm_up = getattr(objective, "warm_up", 0)
    early = step < max(200, 2 * warm_up, 2 * config.learning_rate_warm_up)
    if not early and (metrics["rate"] < COLLAPSED_RATE or metrics["active_units"] == 0):
        return {
            "collapse": f"The posterior has collapsed: the rate is {metrics['rate']:.3f} nats and "
            f"{metrics['active_units']:.0f} units are active, "
            "so the latent says nothing of the data. Try `--free-bits 0.1`, a warm-up (`--warm-up 2000`), or `--beta 0.5`."
        }
    return {}


def on_report(metrics: dict[str, float]) -> dict[str, str]:
    """Advice after a report, by kind."""
    if metrics["skipped"] > 0.2:
        return {
            "skipped": f"{metrics['skipped']:.0%} of the last steps were left out because their gradients were too "
            "large or not finite. "
            "If it goes on, start again with a lower `--learning-rate`."
        }
    return {}
