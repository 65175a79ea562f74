"""Which examples a step sees: a pure function of the seed and the step, so there is no state to lose."""

from __future__ import annotations

import torch
from torch import Tensor

_WINDOW = 64
"""Batches among which examples are sorted: enough that neighbours are alike, few enough that an epoch is still a shuffle."""


class Sampler:
    """Shuffled epochs laid end to end and cut into batches of one size.

    Each example is seen once an epoch; a batch may span the end of one epoch and the start of the next, so no example is
    dropped and every batch is full. Step s takes the positions [s B, (s + 1) B) of that stream; of them, process r of R
    takes every R-th, so the global batch does not depend on R.

    With `lengths`, batches are of items of about one length, so that little of them is padding: of each epoch's shuffle, the
    examples of every 64 batches are sorted by length and cut into batches, whose order is shuffled. The batches that span two
    epochs are of any length.

    Args:
        num_examples: N.
        batch_size: B, over all processes.
        seed: of the shuffles.
        rank, world_size: r and R.
        lengths: (N,), or None.

    Example:
        >>> sampler = Sampler(num_examples=3, batch_size=2, seed=0)
        >>> sorted(torch.cat([sampler.batch(0), sampler.batch(1), sampler.batch(2)]).tolist())
        [0, 0, 1, 1, 2, 2]
    """

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        lengths: Tensor | None = None,
    ) -> None:
        self.num_examples, self.batch_size, self.seed = num_examples, batch_size, seed
        self.rank, self.world_size, self.lengths = rank, world_size, lengths
        self._epochs: dict[int, Tensor] = {}

    def _epoch(self, epoch: int) -> Tensor:
        """The order of the examples in an epoch; the last two are kept."""
        if epoch not in self._epochs:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            self._epochs = {epoch - 1: self._epochs[epoch - 1]} if epoch - 1 in self._epochs else {}
            dtype = torch.int32 if self.num_examples < 2**31 else torch.int64  # whose shuffles are the same
            order = torch.randperm(self.num_examples, generator=generator, dtype=dtype)
            self._epochs[epoch] = order if self.lengths is None else self._by_length(order, epoch, generator)
        return self._epochs[epoch]

    def _by_length(self, order: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
        """The shuffle of an epoch with its whole batches made of examples of about one length."""
        assert self.lengths is not None
        size = self.batch_size
        begun = min(-epoch * self.num_examples % size, self.num_examples)  # the end of a batch that the epoch before began
        whole = begun + (self.num_examples - begun) // size * size
        batches: list[Tensor] = []
        for window in order[begun:whole].split(_WINDOW * size):
            batches += window[self.lengths[window].argsort(stable=True)].split(size)
        mixed = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        return torch.cat([order[:begun], *mixed, order[whole:]])

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
