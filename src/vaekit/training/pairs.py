"""A neighbour beside each example of a step, for objectives that ask for one.

The sampler goes on choosing the examples, each once an epoch; which neighbour stands beside which is a function of the seed and
the step, so there is no state to lose, and the batch of all processes does not depend on how many they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.data.dataset import Dataset
from vaekit.data.neighbours import NeighbourGraph, check_kind, check_neighbours
from vaekit.data.transforms import Transform
from vaekit.errors import DataError
from vaekit.objectives import Objective
from vaekit.types import Condition, Partners, Trace
from vaekit.vae import LatentModel


class Beside(NamedTuple):
    """The neighbours of B examples, as they are stored.

    Attributes:
        x: (B, *S).
        mask: (B, *S) bool, True where observed, or None.
        condition: the model's own columns, each (B,), or None.
        weight: (B,), how much each pair counts.
    """

    x: Tensor
    mask: Tensor | None
    condition: Condition | None
    weight: Tensor

    def partners(self, vae: LatentModel, transform: Transform) -> Partners:
        """What a trace has of them."""
        mean, _ = vae.encode_flat(transform(self.x), condition=self.condition, mask=self.mask)
        return Partners(mean, self.weight)


class Pairs:
    """The neighbours of a data set's examples, drawn step by step.

    A pair (i, j) counts in proportion to its weight in the graph: i is any example, j is drawn from its neighbours in
    proportion to w_ij, and the pair has the weight sum_j w_ij over the mean of these sums.

    Args:
        data: N examples.
        graph: of them.
        batch_size: examples a step, over all processes.
        seed: of the draws.
        rank, world_size: of this process, as in `Sampler`.
    """

    def __init__(
        self, data: Dataset, graph: NeighbourGraph, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.data, self.graph, self.batch_size, self.seed = data, graph, batch_size, seed
        self.rank, self.world_size = rank, world_size
        degrees = graph.degrees
        self.weights = (degrees / degrees.mean()).astype(np.float32)

    def drawn(self, rows: Tensor, step: int | None) -> np.ndarray:
        """(B / R,): a neighbour of each of these examples of this process, drawn for a step; or, for None, always the same."""
        if step is None:
            at = np.random.default_rng(self.seed).random(len(self.data))[rows.numpy()]
        else:
            at = np.random.default_rng([self.seed, step]).random(self.batch_size)[self.rank :: self.world_size]
        return self.graph.partners(rows.numpy().astype(np.int64), at)

    def beside(self, vae: LatentModel, rows: Tensor, step: int | None, device: torch.device) -> Beside:
        """The neighbours of these examples, on the device."""
        batch = self.data.batch(self.drawn(rows, step)).to(device)
        weight = torch.from_numpy(self.weights[rows.numpy()])
        return Beside(batch.x, batch.mask, vae.condition_of(batch.columns, len(rows)), weight.to(device, non_blocking=True))


def check(objective: Objective, data: Dataset, held_out: Dataset | None = None) -> None:
    """Refuses, before a run begins, data that have no such neighbours as the objective asks for.

    Of the fewer examples that are held out each has fewer neighbours, but two at least.

    Raises:
        ConfigError: for text.
        DataError: if there are no more examples than neighbours, or fewer than three are held out.
    """
    if not objective.num_neighbours:
        return
    check_kind(data)
    check_neighbours(len(data), objective.num_neighbours)
    if held_out is not None and len(held_out) < 3:
        raise DataError(f"At least 3 examples must be held out to be each other's neighbours, found {len(held_out)}. Add data.")


def tried(objective: Objective, trace: Trace) -> Trace:
    """A trace to try an objective on before there are neighbours: the examples of the batch stand beside each other."""
    if not objective.num_neighbours:
        return trace
    mean = trace.posterior_mean
    return replace(trace, partners=Partners(mean.roll(1, 0), mean.new_ones(len(mean))))
