"""Latents on the Poincare ball."""

from __future__ import annotations

from collections.abc import Callable

from vaekit import posteriors, priors
from vaekit.component import Component
from vaekit.networks import MLP

EXAMPLES: dict[str, list[Callable[[], Component]]] = {
    "posteriors.WrappedNormal": [lambda: posteriors.WrappedNormal(MLP(3, [4]), 2, curvature=0.2)],
    "priors.WrappedNormal": [lambda: priors.WrappedNormal(2, curvature=0.2, scale=0.5)],
}
