"""What one step computes, and the sums of what steps report."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from vaekit.data.transforms import Transform
from vaekit.objectives import Objective
from vaekit.training.hiding import hidden
from vaekit.training.pairs import Beside
from vaekit.training.stages import AUTOENCODING
from vaekit.types import Condition
from vaekit.vae import LatentModel


class Step(nn.Module):
    """What a step computes: transform, inference and objective in one module, so that data parallelism, reduced precision
    and compilation see all of it.

    Args:
        vae: the model.
        transform: stored values to the likelihood's support.
        objective: what is minimised.
        num_samples: K.
        num_data: N.
        hide: the share of examples of which a part is hidden.
    """

    def __init__(
        self,
        vae: LatentModel,
        transform: Transform,
        objective: Objective,
        num_samples: int,
        num_data: int,
        hide: float = 0.0,
    ) -> None:
        super().__init__()
        self.vae, self.transform, self.objective = vae, transform, objective
        self.num_samples, self.num_data, self.hide = num_samples, num_data, hide

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        condition: Condition | None,
        step: int,
        autoencoding: bool = False,
        beside: Beside | None = None,
    ) -> dict[str, Tensor]:
        """The terms of the bound, scalars; `loss` is minimised, and so is `adversary` where there is one.

        Args:
            x: (B, *S), as it is stored.
            mask: (B, *S) bool, True where observed, or None.
            condition: the model's own columns, each (B,), or None.
            step: at which the objective's schedules are.
            autoencoding: whether -E_q log p(x|z) is minimised in place of the objective.
            beside: a neighbour of each example, where the objective asks for them.
        """
        y = self.transform(x)
        visible = hidden(y, mask, self.hide)  # of y, which is on the device where the mask is
        trace = self.vae(y, condition=condition, mask=visible, num_samples=self.num_samples)
        objective = AUTOENCODING if autoencoding else self.objective
        partners = None if beside is None or autoencoding else beside.partners(self.vae, self.transform)
        bound = objective(replace(trace, num_data=self.num_data, partners=partners), step)
        adversary = {} if bound.adversary is None else {"adversary": bound.adversary}
        main = {"loss": bound.loss, "elbo": bound.elbo, "rate": bound.rate, "distortion": bound.distortion}
        return {**main, **adversary, **bound.terms}


@dataclass
class Window:
    """Sums of what steps report, kept on the device: reading them, the only synchronisation, is left to the reports."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    start: float = field(default_factory=time.monotonic)

    def add(self, **values: Tensor) -> None:
        """Adds a step's values."""
        for name, value in values.items():
            value = value.detach()
            self.sums[name] = value.clone() if name not in self.sums else self.sums[name].add_(value)
        self.steps += 1

    def read(self, batch_size: int) -> dict[str, float]:
        """Means over the window's steps, and examples a second."""
        means = {name: total.item() / self.steps for name, total in self.sums.items()}
        means["examples_per_second"] = self.steps * batch_size / max(1e-9, time.monotonic() - self.start)
        return means
