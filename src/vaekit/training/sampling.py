"""Which examples a step sees: a pure function of the seed and the step, so there is no state to lose."""

from __future__ import annotations

import torch
from torch import Tensor


class Sampler:
    """Shuffled epochs laid end to end and cut into batches of one size.

    Each example is seen once an epoch; a batch may span the end of one epoch and the start of the next, so no example is
    dropped and every batch is full. Step s takes the positions [s B, (s + 1) B) of that stream; of them, process r of R
    takes every R-th, so the global batch does not depend on R.

    Args:
        num_examples: N.
        batch_size: B, over all processes.
        seed: of the shuffles.
        rank, world_size: r and R.

    Example:
        >>> sampler = Sampler(num_examples=3, batch_size=2, seed=0)
        >>> sorted(torch.cat([sampler.batch(0), sampler.batch(1), sampler.batch(2)]).tolist())
        [0, 0, 1, 1, 2, 2]
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.num_examples, self.batch_size, self.seed = num_examples, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self._epochs: dict[int, Tensor] = {}

    def _epoch(self, epoch: int) -> Tensor:
        """The shuffle of an epoch; the last two are kept."""
        if epoch not in self._epochs:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            self._epochs = {epoch - 1: self._epochs[epoch - 1]} if epoch - 1 in self._epochs else {}
            self._epochs[epoch] = torch.randperm(self.num_examples, generator=generator)
        return self._epochs[epoch]

    def batch(self, step: int) -> Tensor:
        """(B / R,) indices of step `step`."""
        start, left = step * self.batch_size, self.batch_size
        parts = []
        while left:
            epoch, at = divmod(start, self.num_examples)
            part = self._epoch(epoch)[at : at + left]
            parts.append(part)
            start, left = start + len(part), left - len(part)
        return torch.cat(parts)[self.rank :: self.world_size]
