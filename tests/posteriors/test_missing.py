"""Every posterior is told of missing elements: whatever stands at them changes nothing."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vaekit import posteriors
from vaekit.networks import MLP, GridEncoder
from vaekit.posteriors import Posterior


def mlp() -> MLP:
    return MLP([1, 4, 3], [6], observe_mask=True)


def grid() -> GridEncoder:
    return GridEncoder([1, 4, 3], [3, 4], observe_mask=True)


def normal() -> posteriors.DiagonalNormal:
    return posteriors.DiagonalNormal(mlp(), 2)


FAMILIES: dict[str, Callable[[], Posterior]] = {
    "chain": lambda: posteriors.Chain([normal(), posteriors.DiagonalNormal(MLP(2, [4]), 1)]),
    "point": lambda: posteriors.Deterministic(mlp(), 2),
    "levels": lambda: posteriors.FiniteScalar(mlp(), [9, 9], 3),
    "levels on a grid": lambda: posteriors.FiniteScalar(grid(), [9, 9], (2, 2)),
    "flow": lambda: posteriors.Flow(mlp(), 2, "iaf", 3, [6], 2),
    "flow without context": lambda: posteriors.Flow(mlp(), 2, "nice", 0, [6], 2),
    "gamma": lambda: posteriors.Gamma(mlp(), 2),
    "categories": lambda: posteriors.GumbelSoftmax(mlp(), 3, 4),
    "hamiltonian": lambda: posteriors.Hamiltonian(normal()),
    "joint": lambda: posteriors.Joint([posteriors.Gamma(mlp(), 1), normal()]),
    "residual": lambda: posteriors.ResidualQuantized(mlp(), 8, 2, 3, depth=2, initialization="uniform"),
    "residual on a grid": lambda: posteriors.ResidualQuantized(grid(), 8, 2, (2, 2), depth=2, initialization="uniform"),
    "semi-amortised": lambda: posteriors.SemiAmortized(normal()),
    "vectors": lambda: posteriors.VectorQuantized(mlp(), 8, 2, 3, initialization="uniform"),
    "vectors on a grid": lambda: posteriors.VectorQuantized(grid(), 8, 2, (2, 2), initialization="uniform"),
    "normalised means": lambda: posteriors.BatchNormNormal(mlp(), 2),
    "committed rate": lambda: posteriors.DeltaNormal(mlp(), 2),
    "sphere": lambda: posteriors.VonMisesFisher(mlp(), 3),
    "ball": lambda: posteriors.WrappedNormal(mlp(), 2),
}


def drawn(posterior: Posterior, x: Tensor, mask: Tensor | None) -> Tensor:
    """(3, B, *Z): samples in training, which leave what the posterior keeps between steps as it was."""
    kept = copy.deepcopy(dict(posterior.named_buffers()))
    torch.manual_seed(1)
    return torch.func.functional_call(posterior, kept, (x,), {"mask": mask}).rsample((3,))


@pytest.mark.parametrize("junk", [math.nan, math.inf, 1e30, -7.0])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_stands_at_a_missing_element_is_not_read(name: str, junk: float) -> None:
    posterior, x, mask = FAMILIES[name](), torch.rand(6, 1, 4, 3), torch.rand(6, 1, 4, 3) < 0.6
    clean, dirty = (drawn(posterior, given, mask) for given in (x, torch.where(mask, x, junk)))
    assert torch.isfinite(clean).all()
    assert torch.equal(clean, dirty)
    gradients = torch.autograd.grad(dirty.sum(), list(posterior.parameters()), allow_unused=True)
    assert all(gradient is None or torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_missing_element_is_told_from_a_zero(name: str) -> None:
    posterior, mask = FAMILIES[name](), torch.rand(40, 1, 4, 3) < 0.6
    x = torch.where(mask, torch.rand(40, 1, 4, 3), 0.0)
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter.add_(torch.randn_like(parameter))
    missing, observed, unmasked = (drawn(posterior, x, m) for m in (mask, torch.ones_like(mask), None))
    assert not torch.equal(missing, observed)
    assert torch.equal(observed, unmasked)


def test_every_posterior_is_tested_in_this_folder() -> None:
    normals = {"DiagonalNormal", "FullNormal", "LowRankNormal"}  # `test_normal.py`
    tested = {type(make()).__name__ for make in FAMILIES.values()}
    assert tested | normals == set(posteriors.__all__) - {"Posterior", "Classifier"}  # q(c|x), of no latent
