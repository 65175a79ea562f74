"""What reads and infers the columns beside the data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vaekit.component import Component
from vaekit.distributions import diagonal_normal
from vaekit.networks import MLP, ConvEncoder
from vaekit.objectives import SemiSupervised
from vaekit.posteriors import Classifier
from vaekit.types import Columns, Condition, Latent, Trace

EXAMPLES: dict[str, list[Callable[[], Component]]] = {
    "objectives.SemiSupervised": [lambda: SemiSupervised(), lambda: SemiSupervised(3.0, unknown=0.0)],
    "posteriors.Classifier": [
        lambda: Classifier(MLP(3, [4]), {"label": 3, "kind": 2}),
        lambda: Classifier(ConvEncoder([1, 3, 1], [3], features=4), {"label": 2}),
    ],
}


def _classified(component: Classifier) -> Tensor:
    shape = (3,) if isinstance(component.network, MLP) else (1, 3, 1)
    x = torch.linspace(-1, 1, 12, dtype=next(component.parameters()).dtype).reshape(4, *shape)
    return torch.cat(list(component(x).values()), dim=-1)


def _bounded(component: SemiSupervised) -> Tensor:
    def trace(condition: Condition) -> Trace:
        num = len(condition["label"])
        shift = condition["label"].float()[:, None] + torch.linspace(0, 1, num)[:, None]
        q, p = diagonal_normal(shift.expand(num, 2), torch.full((num, 2), 0.5)), diagonal_normal(torch.zeros(2), torch.ones(2))
        z = q.rsample((2,))
        read = lambda: {"label": torch.linspace(-1, 1, 6).reshape(3, 2).log_softmax(-1)}  # noqa: E731
        return Trace(z[0], p, -z.square().sum(-1), (Latent(z, q, p),), columns=Columns(condition, trace, read))

    return component(trace({"label": torch.tensor([1, -1, 0])})).loss


NUMBERS: dict[type[Component], Callable[..., Tensor]] = {Classifier: _classified, SemiSupervised: _bounded}
