"""Posteriors whose rate has a floor."""

from __future__ import annotations

from collections.abc import Callable

from vaekit.component import Component
from vaekit.networks import MLP
from vaekit.posteriors import BatchNormNormal, DeltaNormal

EXAMPLES: dict[str, list[Callable[[], Component]]] = {
    "posteriors.BatchNormNormal": [
        lambda: BatchNormNormal(MLP(3, [4]), 2),
        lambda: BatchNormNormal(MLP(3, [4]), 2, gamma=0.3, momentum=0.02),
    ],
    "posteriors.DeltaNormal": [lambda: DeltaNormal(MLP(3, [4]), 2), lambda: DeltaNormal(MLP(3, [4]), 2, delta=1.5)],
}
