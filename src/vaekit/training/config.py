"""What a run is told: its budget, its optimiser, its safety nets."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vaekit.errors import ConfigError
from vaekit.types import Json

BUDGETS = ("epochs", "steps", "minutes")
DEFAULT_EPOCHS = 100
_MOST = 10**12
"""Of a budget in whatever unit: more than any run, and few enough to be counted in."""


class TrainConfig(BaseModel):
    """The settings of a run, as `config.json` stores them.

    Attributes:
        epochs, steps, minutes: the budget; exactly one is set. Runs with a budget of epochs or steps are reproducible; with
            minutes, the learning rate follows the clock.
        batch_size: examples a step, over all processes.
        learning_rate: its peak.
        learning_rate_warm_up: steps over which it rises from 0; once more after `pretrain` steps.
        decay: after the warm-up, `cosine` down to 0 at the end of the budget; `constant`; or `stages`, eight stages of lengths
            1, 3, 9, ... 3^7, each lower than the one before by a factor of 10^(1/7) (Burda et al., 2016, section 5).
        weight_decay: decoupled (AdamW).
        betas, epsilon: of Adam.
        clip_norm: a gradient with a larger norm is scaled down to it; None for never.
        skip_norm: a step whose gradient norm is larger, or not finite, is left out; None leaves out only the not finite.
        ema: decay of the exponential moving average of the weights, which is the model that is kept; 0 for none.
        num_samples: K, samples of the latent an example in training.
        validation_samples: K in validation; None for that of training, as bounds of several samples need.
        hide: the share of examples of which a random part is hidden in training, so that the model can infer from any part
            (see `training.hiding`).
        pretrain: steps at the start that train an autoencoder, after which p(x|z) begins anew (see `training.stages`).
        aggressive: steps of the posterior alone before each step of all else, for as long as that raises the mutual information
            (see `training.stages`); 0 for both in one step.
        patience: validations without a better bound after which the run stops; 0 for never.
        validate_every: steps between validations; None for one an epoch, at least 50 steps apart.
        checkpoint_seconds: seconds between checkpoints; it has no influence on the weights.
        precision: `float32`, `bf16`, or `auto`: what a short measurement on this machine finds faster.
        seed: of everything random; of a private run, of its first weights alone.
        dp_epsilon: the most that training with differential privacy may cost, at `dp_delta`; None for training without (see
            `training.private`).
        dp_delta: of (epsilon, delta); None for 1e-5, or a tenth of one over the number of examples where that is less.
        dp_clip: C, the norm to which the gradient of each example is clipped.
        dp_accountant: `rdp`, whose bound is proven, or `prv`, whose bound is tighter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: float | None = Field(default=None, gt=0, le=_MOST)
    steps: int | None = Field(default=None, ge=1, le=_MOST)
    minutes: float | None = Field(default=None, gt=0, le=_MOST)
    batch_size: int = Field(default=128, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    learning_rate_warm_up: int = Field(default=200, ge=0)
    decay: Literal["cosine", "constant", "stages"] = "cosine"
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = Field(default=1e-8, gt=0)
    clip_norm: float | None = Field(default=200.0, gt=0)
    skip_norm: float | None = Field(default=None, gt=0)
    ema: float = Field(default=0.999, ge=0, lt=1)
    num_samples: int = Field(default=1, ge=1)
    validation_samples: int | None = Field(default=None, ge=1)
    hide: float = Field(default=0.0, ge=0, le=1)
    pretrain: int = Field(default=0, ge=0)
    aggressive: int = Field(default=0, ge=0)
    patience: int = Field(default=20, ge=0)
    validate_every: int | None = Field(default=None, ge=1)
    checkpoint_seconds: float = Field(default=30.0, ge=0)
    precision: Literal["auto", "float32", "bf16"] = "auto"
    seed: int = Field(default=0, ge=0, lt=2**63)
    dp_epsilon: float | None = Field(default=None, gt=0, le=1000)
    dp_delta: float | None = Field(default=None, gt=0, lt=1)
    dp_clip: float = Field(default=1.0, gt=0)
    dp_accountant: Literal["rdp", "prv"] = "rdp"

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"A run must have one budget, got {' and '.join(given)}. Give one of epochs, steps and minutes")
        return self

    @classmethod
    def make(cls, **settings: object) -> TrainConfig:
        """A config from keyword arguments; without a budget it runs for `DEFAULT_EPOCHS` epochs.

        Raises:
            ConfigError: with the first thing that is wrong, in one sentence.
        """
        try:
            config = cls.model_validate(settings)
        except ValidationError as error:
            first = error.errors()[0]
            where = f"`{first['loc'][0]}`: " if first["loc"] else ""
            found = f", got {first['input']!r}" if first["loc"] else ""
            raise ConfigError(f"{where}{first['msg'].removeprefix('Value error, ')}{found}.") from None
        if all(getattr(config, name) is None for name in BUDGETS):
            return config.model_copy(update={"epochs": float(DEFAULT_EPOCHS)})
        return config

    def total_steps(self, num_examples: int) -> int | None:
        """The number of steps of the budget, or None where it is a matter of the clock."""
        if self.steps is not None:
            return self.steps
        if self.epochs is not None:
            return max(1, round(self.epochs * num_examples / self.batch_size))
        return None


def differences(saved: Json, asked: Json) -> list[str]:
    """The settings in which a resumed run may not differ from the saved one, as `name: saved, asked`."""
    free = {*BUDGETS, "checkpoint_seconds", "patience"}
    return [
        f"{name}: {saved.get(name)!r} then, {value!r} now"
        for name, value in asked.items()
        if name not in free and saved.get(name) != value
    ]
