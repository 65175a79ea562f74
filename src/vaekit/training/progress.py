"""Where a run is, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from vaekit.types import Json


@dataclass
class Progress:
    """Where a run is; all of it goes into the checkpoint.

    Attributes:
        step: optimiser steps done.
        best_loss: the least validation loss so far.
        best_step: the step at which it was.
        start_loss: the validation loss before the first step; None where it is not finite, or another player moves it.
        stale: validations since.
        stopped: why the run ended: `budget`, `patience` or `interrupted`; empty while it runs.
        stage: `autoencoder`, `aggressive`, or empty for training as it is: see `training.stages`.
        pretrained: how many steps the stage `autoencoder` has, or had.
        information: the mutual information at the last validation of the stage `aggressive`; None before.
        validation: what the last validation said.
        best_validation: what the best one said.
    """

    step: int = 0
    best_loss: float = float("inf")
    best_step: int = 0
    start_loss: float | None = None
    stale: int = 0
    stopped: str = ""
    stage: str = ""
    pretrained: int = 0
    information: float | None = None
    validation: dict[str, float] = field(default_factory=dict)
    best_validation: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Agreed:
    """What clocks and signals say, settled between the processes.

    Attributes:
        progress: the share of the budget that is done.
        interrupted: whether a person or the system asked to stop.
        checkpoint: whether a checkpoint is due.
    """

    progress: float
    interrupted: bool
    checkpoint: bool


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: the best weights, where they came from, how the run ended, what no person should miss, and what a
    private run has spent."""

    weights: dict[str, Tensor]
    progress: Progress
    seconds: float
    warning: str | None = None
    privacy: Json | None = None
