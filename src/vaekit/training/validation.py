"""The bound on held-out examples, by which the best weights are chosen, and what their latents say of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.distributions import Distribution, Normal
from torch.distributions import Independent as TorchIndependent

from vaekit.component import full_precision
from vaekit.data.dataset import Dataset, spaced
from vaekit.data.text.batches import trimmed
from vaekit.data.transforms import Transform
from vaekit.distributions import diagonal_normal, measures
from vaekit.distributions.aggregate import information_terms, mixture_log_probs
from vaekit.inference import ACTIVE, is_point
from vaekit.objectives import Objective
from vaekit.training.config import TrainConfig
from vaekit.training.pairs import Pairs
from vaekit.types import Trace
from vaekit.vae import LatentModel

_MAX_BATCH, _MAX_ELEMENTS = 256, 2**22
_MOST_NORMALS, _MOST_OTHERS, _BLOCK = 1000, 128, 500
"""Examples whose mutual information with their latents is estimated: of normals, and of families whose density costs more."""


@torch.no_grad()
def validate(
    vae: LatentModel,
    transform: Transform,
    objective: Objective,
    data: Dataset,
    config: TrainConfig,
    fabric: Fabric,
    pairs: Pairs | None = None,
) -> dict[str, float]:
    """The objective with all its schedules ended, in float32, with the same noise, and the same neighbours of each example
    where the objective asks for `pairs`, at every call.

    Returns:
        Means over the examples of `loss`, `elbo`, `rate`, `distortion` and the objective's terms, in nats, and
        `active_units`; and `mutual_information`, I(x; z) in nats, by the estimate of `evaluation.information` from at most
        1,000 examples (128 where q is no product of normals), whose logarithm it cannot exceed. It is left out of a ladder, of
        a single example, and where q has no density or not one that is finite. Training's own random numbers are left where
        they were.
    """
    device = fabric.device
    training, judging = vae.training, objective.training
    vae.eval()
    objective.eval()
    num_samples = config.validation_samples or config.num_samples
    size = max(1, min(_MAX_BATCH, _MAX_ELEMENTS // (data.schema.num_dimensions * num_samples)))
    # A process without an example of its own still takes part, with a weight of 0.
    mine = torch.arange(len(data))[fabric.global_rank :: fabric.world_size]
    weight, chunks = (1, mine.tensor_split(-(-len(mine) // size))) if len(mine) else (0, (torch.zeros(1, dtype=torch.long),))
    totals: dict[str, Tensor] = {}
    moments = torch.zeros((), dtype=torch.float64)
    latents = _Latents(len(mine)) if _may_be_informed(vae, fabric, len(mine)) else None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), full_precision():
        torch.manual_seed(config.seed + 1 + fabric.global_rank)
        for indices in chunks:
            trace = _traced(vae, transform, data, indices, num_samples, device)
            partners = None if pairs is None else pairs.beside(vae, indices, None, device).partners(vae, transform)
            bound = objective(replace(trace, num_data=len(data), partners=partners))
            values = {"loss": bound.loss, "elbo": bound.elbo, "rate": bound.rate, "distortion": bound.distortion, **bound.terms}
            for name, value in values.items():
                sum_ = value.detach().cpu().double() * (len(indices) * weight)
                totals[name] = totals[name] + sum_ if name in totals else sum_
            mean = trace.posterior_mean.cpu().double()
            moments = moments + torch.stack([torch.full_like(mean[0], len(mean)), mean.sum(0), mean.square().sum(0)]) * weight
            if latents is not None:
                latents.add(trace)
        shared = None if latents is None else latents.information()
        if latents is not None and latents.others:
            few = mine[torch.from_numpy(spaced(len(mine), min(_MOST_OTHERS, size)))]
            shared = _information_of(_traced(vae, transform, data, few, 1, device))
    vae.train(training)
    objective.train(judging)
    result = _reduce(totals, moments, fabric)
    shared = fabric.broadcast(shared) if fabric.world_size > 1 else shared  # one process speaks, so that all decide alike
    return result if shared is None else {**result, "mutual_information": shared}


def _traced(
    vae: LatentModel, transform: Transform, data: Dataset, indices: Tensor, num_samples: int, device: torch.device
) -> Trace:
    """What inference leaves of the examples at `indices`."""
    batch = trimmed(data.batch(indices), data.schema).to(device)
    condition = vae.condition_of(batch.columns, len(indices))
    return vae(transform(batch.x), condition=condition, mask=batch.mask, num_samples=num_samples)


def _reduce(totals: dict[str, Tensor], moments: Tensor, fabric: Fabric) -> dict[str, float]:
    """Sums over the processes, then means over all examples; `moments` are count, sum and sum of squares of each unit."""
    packed = torch.cat([torch.stack(list(totals.values())), moments.flatten()])
    if fabric.world_size > 1:
        packed = packed.to(fabric.device)
        torch.distributed.all_reduce(packed)
    count, first, second = packed[len(totals) :].view(3, -1)
    result = {name: (packed[i] / count[0]).item() for i, name in enumerate(totals)}
    variance = second / count - (first / count).square()
    result["active_units"] = float((variance > ACTIVE).sum().item())
    return result


# ------------------------------------------------------------------------------------------------- mutual information


def _may_be_informed(vae: LatentModel, fabric: Fabric, num_examples: int) -> bool:
    """Whether there is a mutual information to be estimated, by this process: the first, of its own share of the examples."""
    return fabric.is_global_zero and num_examples > 1 and hasattr(vae, "posterior") and not is_point(vae)


class _Latents:
    """The latents of evenly spaced examples, collected from the validation's own passes where q is a product of normals.

    Attributes:
        others: whether q is of another family, of which this collects nothing.
    """

    def __init__(self, num_examples: int) -> None:
        self.chosen = spaced(num_examples, _MOST_NORMALS)
        self.seen, self.others = 0, False
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, trace: Trace) -> None:
        """Takes in the next examples."""
        start, self.seen = self.seen, self.seen + len(trace.x)
        if self.others or len(trace.latents) != 1:
            return
        latent = trace.latents[0]
        q = latent.posterior
        if not isinstance(q, TorchIndependent) or not isinstance(q.base_dist, Normal):
            self.others = True
            return
        low, high = np.searchsorted(self.chosen, [start, self.seen])
        rows = torch.from_numpy(self.chosen[low:high] - start)
        z, mean, scale = latent.z[0], q.base_dist.loc, q.base_dist.scale
        shape = z.shape
        self.parts.append(tuple(t.expand(shape).flatten(1).cpu()[rows] for t in (z, mean, scale)))  # pyright: ignore[reportArgumentType]

    def information(self) -> float | None:
        """I(x; z), or None where nothing was collected."""
        if not self.parts:
            return None
        z, mean, scale = (torch.cat(each) for each in zip(*self.parts, strict=True))
        blocks = zip(mean.split(_BLOCK), scale.split(_BLOCK), strict=True)
        return _information(z.split(_BLOCK), [diagonal_normal(*block) for block in blocks])


def _information_of(trace: Trace) -> float | None:
    """I(x; z) of the examples of one trace, or None where q has no density."""
    (latent,) = trace.latents
    if "relaxed" in measures(latent.posterior):
        return None
    return _information([latent.z[0]], [latent.posterior])


def _information(samples: tuple[Tensor, ...] | list[Tensor], posteriors: list[Distribution]) -> float | None:
    try:
        own, others = mixture_log_probs(samples, posteriors)
    except NotImplementedError:
        return None
    value = float(information_terms(own, others).mean()) if len(own) > 1 else math.nan
    return value if math.isfinite(value) else None
