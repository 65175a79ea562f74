"""The bound on held-out examples, by which the best weights are chosen."""

from __future__ import annotations

from dataclasses import replace

import torch
from lightning_fabric import Fabric
from torch import Tensor

from vaekit.component import full_precision
from vaekit.data.dataset import Dataset
from vaekit.data.transforms import Transform
from vaekit.inference import ACTIVE
from vaekit.objectives import Objective
from vaekit.training.config import TrainConfig
from vaekit.vae import LatentModel

_MAX_BATCH, _MAX_ELEMENTS = 256, 2**22


@torch.no_grad()
def validate(
    vae: LatentModel, transform: Transform, objective: Objective, data: Dataset, config: TrainConfig, fabric: Fabric
) -> dict[str, float]:
    """The objective with all its schedules ended, in float32, with the same noise at every call.

    Returns:
        Means over the examples of `loss`, `elbo`, `rate`, `distortion` and the objective's terms, in nats, and
        `active_units`. Training's own random numbers are left where they were.
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
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), full_precision():
        torch.manual_seed(config.seed + 1 + fabric.global_rank)
        for indices in chunks:
            batch = data.batch(indices).to(device)
            condition = vae.condition_of(batch.columns, len(indices))
            trace = vae(transform(batch.x), condition=condition, mask=batch.mask, num_samples=num_samples)
            bound = objective(replace(trace, num_data=len(data)))
            values = {"loss": bound.loss, "elbo": bound.elbo, "rate": bound.rate, "distortion": bound.distortion, **bound.terms}
            for name, value in values.items():
                sum_ = value.detach().cpu().double() * (len(indices) * weight)
                totals[name] = totals[name] + sum_ if name in totals else sum_
            mean = trace.posterior_mean.cpu().double()
            moments = moments + torch.stack([torch.full_like(mean[0], len(mean)), mean.sum(0), mean.square().sum(0)]) * weight
    vae.train(training)
    objective.train(judging)
    return _reduce(totals, moments, fabric)


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
