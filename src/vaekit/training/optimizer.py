"""The one optimiser: a group of parameters for the model, and one for a player of the objective's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vaekit.errors import ConfigError
from vaekit.objectives import Objective
from vaekit.training.config import TrainConfig


def make_optimizer(step: nn.Module, objective: Objective, config: TrainConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW over the parameters of a step, those of the model in the first group and those of the adversary in the second.

    The second group has the learning rate and the betas that the objective asks for; its rate follows the same schedule.
    `share`, an entry of each group, is the ratio of its peak to that of the config.

    Raises:
        ConfigError: if nothing is left to train.
    """
    adversary = [] if objective.adversary is None else [p for p in objective.adversary.parameters() if p.requires_grad]
    others = {id(p) for p in adversary}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in step.parameters() if p.requires_grad and id(p) not in others], "share": 1.0}
    ]
    if not groups[0]["params"]:
        raise ConfigError("A model must have parameters to train, found none that require a gradient. Unfreeze a part.")
    if adversary:
        settings = dict(objective.adversary_settings())
        share = settings.pop("lr", config.learning_rate) / config.learning_rate
        groups.append({"params": adversary, "share": share, **settings})
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
