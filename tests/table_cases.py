"""A small table and a model of it whose every probability is a sum over a grid of the latent."""

from __future__ import annotations

import functools

import numpy as np
import torch

from vaekit import likelihoods, networks, posteriors, priors
from vaekit.data.dataset import Dataset
from vaekit.data.schema import Schema, Source
from vaekit.data.tables import TableColumn
from vaekit.data.tables.grid import CellGrid
from vaekit.storage import Bundle
from vaekit.vae import VAE

COLUMNS = (
    TableColumn(name="job", type="categorical", categories=("clerk", "cook", "nurse")),
    TableColumn(name="member", type="binary", categories=("no", "yes"), missing=True),
    TableColumn(name="age", type="integer", low=0.0, high=19.0, words=("old",)),
)
CELLS = [{"cells": 3}, {"cells": 2}, {"low": [0, 1, 5, 10], "high": [0, 4, 9, 19], "step": 1}, {"cells": 2}, {"cells": 2}]
JOB, MEMBER, AGE, MEMBER_STATE, AGE_STATE = range(5)


@functools.cache
def bundle(prior: str = "standard") -> Bundle:
    """A model whose columns depend strongly on a latent of one number, and whose posterior knows nothing of it."""
    torch.manual_seed(3)
    grid = CellGrid(CELLS)
    inner = networks.ResidualMLP([5, 4], 8, 1)
    q = posteriors.DiagonalNormal(networks.CellEmbedding(inner, grid.sizes, grid.ordered, 4), 1)
    p = likelihoods.Cells(networks.MLP(1, [16], "tanh"), grid.sizes, grid.ordered)
    with torch.no_grad():
        for parameter in p.parameters():
            parameter.copy_(torch.randn_like(parameter) * 1.3)
    over = priors.StandardNormal(1) if prior == "standard" else priors.MixtureOfNormals(1, 3)
    vae = VAE(over, q, p).eval().requires_grad_(False)
    source = Source(form="csv", layout="flat", dtype="float64")
    known = {"kind": "table", "shape": (5,), "values": "cells", "low": 0.0, "high": 0.0, "dtype": "float64"}
    return Bundle(vae, grid, Schema(**known, table=COLUMNS, source=source, num_examples=10, missing=True))


def dataset(cells: list[list[float]]) -> Dataset:
    return Dataset(bundle().schema, np.array(cells))


@functools.cache
def on_grid(prior: str = "standard") -> tuple[torch.Tensor, dict[int, np.ndarray]]:
    """p(z) dz on a fine grid of z, and the masses of each channel's cells there."""
    vae = bundle(prior).vae
    z = torch.linspace(-9, 9, 6001)[:, None]
    with torch.no_grad():
        weight = vae.prior().log_prob(z).exp().double()
        p = vae.decode(z[None])
        masses = {c: p.column_log_masses(c)[0].exp().double().numpy() for c in range(5)}
    return (weight / weight.sum()).numpy(), masses
