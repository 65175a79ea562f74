"""Draws of the model whose evidence is known exactly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture
def population(linear_gaussian) -> Callable[[int], np.ndarray]:
    """So many draws x ~ p(x)."""

    def draw(num: int) -> np.ndarray:
        generator = np.random.default_rng(0)
        z = generator.normal(size=(num, linear_gaussian.num_latents))
        noise = linear_gaussian.scale * generator.normal(size=(num, len(linear_gaussian.bias)))
        return (z @ linear_gaussian.weight.numpy().T + linear_gaussian.bias.numpy() + noise).astype(np.float32)

    return draw
