"""Traverse: what each latent unit does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vaekit.component import device_of
from vaekit.data.dataset import Dataset, spaced
from vaekit.distributions import unit_kl
from vaekit.errors import ConfigError
from vaekit.inference import prepare, seeded
from vaekit.jobs.blocks import block_size, decoded, in_blocks, posterior_of
from vaekit.jobs.conditions import codes_where, features_of, features_of_data
from vaekit.storage import Bundle

SAMPLE = 2000
"""How many examples rank the units."""

TRIED = 4096
"""How many units, the first of them, are ranked by what they change: of a ladder, those of the top levels."""


@dataclass(frozen=True)
class Traversal:
    """A grid of examples: a row a unit, a column a value.

    Attributes:
        x: (U, S, ...) in the source's layout and dtype.
        units: (U,), the index d of each row's unit, most active first.
        values: (S,), what z_d is in each column.
    """

    x: np.ndarray
    units: np.ndarray
    values: np.ndarray


def traverse(
    bundle: Bundle,
    dataset: Dataset | None = None,
    *,
    example: int | None = None,
    where: Mapping[str, str | int] | None = None,
    num_units: int = 10,
    num_steps: int = 11,
    reach: float = 3.0,
) -> Traversal:
    """One unit at a time moved over [-reach, reach], the others held.

    The others stand at 0, or at the posterior mean of an example. Rows are the units that the data use most, by their KL
    to the prior over (at most 2000 of) the data; without data, those of the first 4096 units whose move changes the decoded
    mean most.
    Higgins et al., "beta-VAE" (2017), figure 1, is the use of such grids.

    Args:
        bundle: the model.
        dataset: examples that rank the units; None to rank them by what they change.
        example: index of the example whose latents and condition the others are held at; it needs the data.
        where: the category of each condition, by column; unknown where not given.
        num_units: rows, at most all units.
        num_steps: columns, at least 2.
        reach: the greatest value, > 0; in standard deviations for a standard normal prior.

    Raises:
        ConfigError: if an argument cannot be.
        DataError: if a category is unknown.
    """
    _check(dataset, example, num_units, num_steps, reach)
    num_latents = bundle.vae.num_latents
    held = torch.zeros(num_latents)
    with torch.inference_mode():
        features = features_of(bundle, {name: torch.tensor([code]) for name, code in codes_where(bundle, where).items()}, 1)
        if dataset is not None and example is not None:
            one = dataset.select([example])
            held = posterior_of(bundle, one)[0][0]
            features = features if where else features_of_data(bundle, one)
        activity = _change(bundle, held, features, reach) if dataset is None else _rates(bundle, dataset)
        units = torch.argsort(activity, descending=True, stable=True)[: min(num_units, num_latents)]
        values = np.linspace(-reach, reach, num_steps)
        z = held.repeat(len(units), num_steps, 1)
        z[torch.arange(len(units)), :, units] = torch.from_numpy(values).float()
        x = decoded(bundle, z.flatten(0, 1), _repeated(features, len(units) * num_steps), "mean")
    return Traversal(x.reshape(len(units), num_steps, *x.shape[1:]), units.numpy(), values)


def _check(dataset: Dataset | None, example: int | None, num_units: int, num_steps: int, reach: float) -> None:
    if num_units < 1:
        raise ConfigError(f"`num_units` must be at least 1, got {num_units}. A unit is a row.")
    if num_steps < 2:
        raise ConfigError(f"`num_steps` must be at least 2, got {num_steps}. Both ends are steps.")
    if not 0 < reach < float("inf"):
        raise ConfigError(f"`reach` must be a number > 0, got {reach}. 3 covers a standard normal prior.")
    if example is None:
        return
    if dataset is None:
        raise ConfigError(f"`example` must come with data, got {example} and none. Give the data that it is an index of.")
    if not 0 <= example < len(dataset):
        raise ConfigError(
            f"`example` must be an index from 0 to {len(dataset) - 1}, got {example}. Choose an example of the data."
        )


def _rates(bundle: Bundle, dataset: Dataset) -> Tensor:
    """(D,): mean KL of each unit to the prior; where that does not split over units, the variance of the means."""
    dataset = dataset.select(spaced(len(dataset), SAMPLE))
    block, device = block_size(bundle.schema), device_of(bundle.vae)
    total = torch.zeros(bundle.vae.num_latents)
    with seeded(0, device):  # of one level the KL does not depend on what is drawn
        for start in range(0, len(dataset), block):
            inputs = prepare(bundle, dataset.batch(np.arange(start, min(start + block, len(dataset)))), expected=True)
            trace = bundle.vae(inputs.x, condition=inputs.condition, mask=inputs.mask)
            levels = [unit_kl(latent.posterior, latent.prior) for latent in trace.latents]
            rates = [level for level in levels if level is not None]
            if len(rates) < len(levels):
                return posterior_of(bundle, dataset)[0].var(0, unbiased=False)
            total += torch.cat([level.reshape(len(inputs.x), -1).sum(0) for level in rates]).cpu()
    return total / len(dataset)


def _change(bundle: Bundle, held: Tensor, features: Tensor | None, reach: float) -> Tensor:
    """(min(D, TRIED),): mean squared change of the decoded mean as each unit goes from -reach to reach."""
    num, block, on = min(len(held), TRIED), block_size(bundle.schema), device_of(bundle.vae)

    def change(low: Tensor, high: Tensor, features: Tensor | None) -> tuple[Tensor]:
        ends = [bundle.vae.decode_flat(z[None], features).mean[0] for z in (low, high)]
        return ((ends[1] - ends[0]).square().flatten(1).mean(1),)

    changes = []
    for units in torch.arange(num).split(block):  # a block at a time: all ends together would be D^2 numbers
        rows = torch.arange(len(units))
        low, high = held.repeat(len(units), 1), held.repeat(len(units), 1)
        low[rows, units], high[rows, units] = -reach, reach
        (found,) = in_blocks(change, [low.to(on), high.to(on), _repeated(features, len(units))], block)
        changes.append(found.cpu())
    return torch.cat(changes)


def _repeated(features: Tensor | None, num: int) -> Tensor | None:
    return None if features is None else features.expand(num, -1)
