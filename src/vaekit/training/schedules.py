"""How far a run is, and what the learning rate is there."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from vaekit.training.config import TrainConfig


@dataclass
class Budget:
    """How much of a run is done, by steps or by the clock.

    Attributes:
        total_steps: the last step, or None.
        total_seconds: the last second, or None.
        elapsed_before: seconds that earlier parts of a resumed run took.
    """

    total_steps: int | None
    total_seconds: float | None
    elapsed_before: float = 0.0

    def __post_init__(self) -> None:
        self._start = time.monotonic()

    @classmethod
    def of(cls, config: TrainConfig, num_examples: int) -> Budget:
        """The budget that a config sets."""
        return cls(config.total_steps(num_examples), None if config.minutes is None else config.minutes * 60)

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, all parts of a resumed run together."""
        return self.elapsed_before + time.monotonic() - self._start

    def restart_clock(self, elapsed_before: float) -> None:
        """Counts on from `elapsed_before` seconds."""
        self.elapsed_before, self._start = elapsed_before, time.monotonic()

    def progress(self, step: int) -> float:
        """The share of the budget that is done, in [0, 1]."""
        if self.total_steps is not None:
            return min(1.0, step / self.total_steps)
        assert self.total_seconds is not None
        return min(1.0, self.elapsed / self.total_seconds)

    def seconds_left(self, step: int) -> float | None:
        """An estimate of the seconds that are left, None before there is anything to go by."""
        if self.total_seconds is not None:
            return max(0.0, self.total_seconds - self.elapsed)
        share = self.progress(step)
        return None if share == 0 else self.elapsed * (1 - share) / share


def learning_rate(config: TrainConfig, step: int, progress: float) -> float:
    """peak * min(1, (step + 1) / warm_up) * d(progress), where d is what `decay` says.

    `cosine`: d = (1 + cos(pi * progress)) / 2. `stages`: d = 10^(-i / 7) in the stage i = 0..7, of the share 3^i / 3280 of the
    budget. `constant`: d = 1.

    Args:
        config: the settings.
        step: steps done.
        progress: the share of the budget that is done.

    Example:
        >>> config = TrainConfig.make(epochs=1, learning_rate=0.1, learning_rate_warm_up=10)
        >>> round(learning_rate(config, 4, 0.0), 6), round(learning_rate(config, 500, 0.5), 6)
        (0.05, 0.05)
    """
    rate = config.learning_rate
    if config.learning_rate_warm_up:
        rate *= min(1.0, (step + 1) / config.learning_rate_warm_up)
    if config.decay == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * progress))
    elif config.decay == "stages":
        ends = [(3 ** (i + 1) - 1) // 2 for i in range(8)]
        stage = sum(progress * ends[-1] >= end for end in ends[:-1])
        rate *= 10 ** (-stage / 7)
    return rate
