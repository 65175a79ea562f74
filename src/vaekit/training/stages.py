"""Stages of a run that keep the latent alive: pretraining as an autoencoder, and a posterior that takes steps of its own.

`pretrain` and `aggressive` of `TrainConfig` are for any model of one latent and any kind of data, each by itself or one after
the other, with any schedule of the objective.

- `autoencoder`: the first `pretrain` steps minimise -E_q log p(x|z) alone. Then p(x|z) and a learned prior begin anew, and the
  objective's schedules with them: the decoder meets a latent that says something from its first step on. Li, He, Neubig,
  Berg-Kirkpatrick, Yang, "A surprisingly effective fix for deep latent variable modeling of text" (2019). These steps are part
  of the budget, the learning rate warms up twice, and no validation of this stage counts for the best weights or patience.
- `aggressive`: of each k + 1 steps, k move the posterior alone and the last one all else, so that q(z|x) keeps up with the true
  posterior, which moves with the decoder. It ends for good at the first validation whose mutual information is no higher than
  that of the validation before. He, Spokoyny, Neubig, Berg-Kirkpatrick, "Lagging inference networks and posterior collapse in
  variational autoencoders" (2019), algorithm 1. Departure: k is a constant, where the paper steps until its loss stops falling.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.errors import ConfigError
from vaekit.objectives import ELBO, Objective
from vaekit.training.config import TrainConfig
from vaekit.training.progress import Agreed, Progress
from vaekit.training.schedules import Budget
from vaekit.vae import VAE, LatentModel

AUTOENCODER, AGGRESSIVE = "autoencoder", "aggressive"

AUTOENCODING = ELBO(beta=0.0)
"""What the stage `autoencoder` minimises."""

MOST_PRETRAINING = 0.25
"""The share of a budget of minutes that pretraining takes at most; and of one of steps, where the recipe asks for it."""

ANEW = (
    "Pretraining has ended after {step:,} steps: p(x|z) begins anew with fresh weights, and the schedules of the objective "
    "with it."
)


def check(vae: LatentModel, objective: Objective, config: TrainConfig, total_steps: int | None) -> None:
    """Refuses stages where they make no sense.

    Args:
        vae: the model.
        objective: what is minimised after them.
        config: the settings.
        total_steps: of the run; None where its budget is one of minutes.

    Raises:
        ConfigError: for a model or an objective that they are not for, or a run that would end within `pretrain`.
    """
    asked = [name for name in ("pretrain", "aggressive") if getattr(config, name)]
    if not asked:
        return
    name = asked[0]
    if config.dp_epsilon is not None:
        raise ConfigError(f"A private run must not have `{name}`, got {getattr(config, name)}. Leave it out.")
    if objective.adversary is not None:
        raise ConfigError(
            f"`{name}` must go with an objective without an adversary, got {type(objective).__name__}, whose players move "
            "together. Use `ELBO`."
        )
    if not isinstance(vae, VAE):
        raise ConfigError(
            f"`{name}` must go with a `vae.VAE`, whose posterior and decoder are parts of their own, got a "
            f"{vae.registered_name}. Leave it out."
        )
    if not can_collapse(vae):
        raise ConfigError(
            f"`{name}` must go with a posterior that has a density, which alone can collapse onto the prior, got a "
            f"{type(vae.posterior).__name__}. Leave it out."
        )
    _check_trained(vae, config)
    if total_steps is not None and config.pretrain >= total_steps:
        raise ConfigError(
            f"`pretrain` must be below the {total_steps:,} steps of the run, of which it is a part, got {config.pretrain:,}. "
            "Give a larger budget."
        )


def _check_trained(vae: VAE, config: TrainConfig) -> None:
    """Refuses a stage whose part is not trained, or cannot be made again."""
    for name, part in (("pretrain", vae.likelihood), ("aggressive", vae.posterior)):
        if getattr(config, name) and not _is_trained(part):
            raise ConfigError(
                f"`{name}` must go with a {type(part).__name__} that is trained, and no parameter of it requires a gradient. "
                "Unfreeze it, or leave it out."
            )
    if config.pretrain:
        vae.likelihood.spec()


def can_collapse(vae: LatentModel) -> bool:
    """Whether a model has one latent with a density, which can collapse onto the prior, and the stages keep from that."""
    if not isinstance(vae, VAE) or not vae.posterior.has_density:
        return False
    return not any(space.startswith("codes") for space in vae.posterior.spaces)


def _is_trained(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())


def default_pretrain(config: TrainConfig, objective: Objective, num_examples: int) -> int:
    """Of the steps of pretraining that a recipe asks for, those that fit the run: none where it is refused."""
    if config.dp_epsilon is not None or objective.adversary is not None:
        return 0
    total = config.total_steps(num_examples)
    return config.pretrain if total is None else min(config.pretrain, int(MOST_PRETRAINING * total))


def first(config: TrainConfig) -> str:
    """The stage that a run begins with."""
    return AUTOENCODER if config.pretrain else AGGRESSIVE if config.aggressive else ""


def reasons(config: TrainConfig) -> tuple[str, ...]:
    """A sentence for each stage, said before the run."""
    said = []
    if config.pretrain:
        said.append(
            f"Pretraining: the first {config.pretrain:,} steps train an autoencoder; then p(x|z) begins anew, and the "
            "schedules of the objective with it."
        )
    if config.aggressive:
        said.append(
            f"Aggressive: {config.aggressive} steps of the posterior alone before each step of all else, until the mutual "
            "information on held-out examples stops rising."
        )
    return tuple(said)


def since(step: int, progress: Progress) -> int:
    """Steps since the stage began that has the objective's schedules: all of them, or those after pretraining.

    Example:
        >>> [since(step, Progress(pretrained=10)) for step in (3, 10, 12)], since(12, Progress())
        ([3, 0, 2], 12)
    """
    return step if step < progress.pretrained else step - progress.pretrained


def is_pretrained(progress: Progress, budget: Budget, agreed: Agreed) -> bool:
    """Whether the stage `autoencoder` ends: after its steps, or, where the budget is one of minutes, a quarter of it."""
    return progress.step >= progress.pretrained or (budget.total_steps is None and agreed.progress >= MOST_PRETRAINING)


class Turns:
    """Whose turn it is in the stage `aggressive`.

    Args:
        vae: the model.
        parameters: those that are trained.
        config: the settings.
    """

    def __init__(self, vae: LatentModel, parameters: Sequence[nn.Parameter], config: TrainConfig) -> None:
        posterior = {id(parameter) for parameter in vae.posterior.parameters()} if isinstance(vae, VAE) else set[int]()
        self.of_posterior = [parameter for parameter in parameters if id(parameter) in posterior]
        self.others = [parameter for parameter in parameters if id(parameter) not in posterior]
        self.times = config.aggressive

    def resting(self, since: int) -> list[nn.Parameter]:
        """The parameters that do not move, so many steps after pretraining."""
        own = since % (self.times + 1) < self.times
        return self.others if own else self.of_posterior


def settle(progress: Progress) -> str | None:
    """Ends the stage `aggressive` unless the mutual information has risen since the validation before.

    Args:
        progress: at a validation of the stage; changed.

    Returns:
        What a person should read where the stage has ended; None where it goes on.
    """
    now, before = progress.validation.get("mutual_information"), progress.information
    progress.information = now
    if now is not None and (before is None or now > before):
        return None
    progress.stage = ""
    why = "cannot be measured" if now is None else f"has stopped rising ({before:.2f}, then {now:.2f} nats)"
    return f"The posterior's own steps have ended at step {progress.step:,}: the mutual information on held-out examples {why}."


@torch.no_grad()
def start_anew(vae: VAE, x: Tensor, mask: Tensor | None) -> list[nn.Parameter]:
    """Gives p(x|z), and a prior that is learned, fresh weights from the global random state.

    What is not trained, or is part of the posterior too, stays as it is.

    Args:
        vae: the model; changed.
        x: (B, *S), data on the likelihood's support, for the data-dependent start.
        mask: (B, *S) bool, True where observed, or None.

    Returns:
        The parameters that were changed.
    """
    kept = {id(parameter) for parameter in vae.posterior.parameters()}
    changed: list[nn.Parameter] = []
    for part in (vae.likelihood, *([vae.prior] if _is_trained(vae.prior) else [])):
        fresh = Component.from_spec(part.spec())
        buffers = dict(fresh.named_buffers())
        for name, buffer in part.named_buffers():
            if name in buffers and buffers[name].shape == buffer.shape:
                buffer.copy_(buffers[name])
        parameters = dict(fresh.named_parameters())
        for name, parameter in part.named_parameters():
            if parameter.requires_grad and id(parameter) not in kept:
                parameter.copy_(parameters[name])
                changed.append(parameter)
        part.initialize(x, mask)
    return changed
