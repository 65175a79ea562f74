"""Traverse: what each latent unit does, and each direction that has a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vaekit.component import device_of
from vaekit.data.dataset import Dataset, spaced
from vaekit.directions import LearnedDirection, UnitDirection
from vaekit.distributions import Cells, unit_kl
from vaekit.distributions.sequence import TokenSequence
from vaekit.errors import ConfigError
from vaekit.inference import prepare, seeded
from vaekit.jobs.blocks import block_size, decoded, in_blocks, middle, posterior_of
from vaekit.jobs.conditions import codes_where, features_of, features_of_data, filled
from vaekit.jobs.directions import named
from vaekit.jobs.spaces import Moves
from vaekit.storage import Bundle

SAMPLE = 2000
"""How many examples rank the units."""

TRIED = 4096
"""How many units, the first of them, are ranked by what they change: of a ladder, those of the top levels."""


Measure = Literal["kl", "variance", "change"]
"""What says how much a unit does: its KL to the prior in nats, where that does not split over units the variance of its means,
and without data how far it changes the decoded mean."""


@dataclass(frozen=True)
class Traversal:
    """A grid of examples: a row a unit or a direction, a column a value.

    Attributes:
        x: (U, S, ...) in the source's layout and dtype; of a table its cells (U, S, C), and where a `Model` made it a list of
            U frames of S rows.
        units: (U,), the index d of each row's unit, most active first; -1 where the row is a direction of several units.
        values: (S,), where each column is, from -reach to reach: what z_d is under a standard normal prior.
        latents: (U, S), what z_d is, whatever the prior; of a direction of several units, the position along it.
        names: (U,), the names of each row's unit or direction; empty text where it has none.
        activity: (U,), how much each unit does, by `measure`; NaN where nothing was measured.
        measure: `kl`, `variance` or `change`.
    """

    x: Any
    units: np.ndarray
    values: np.ndarray
    latents: np.ndarray
    names: tuple[str, ...] = ()
    activity: np.ndarray = field(default_factory=lambda: np.empty(0))
    measure: Measure = "change"

    @property
    def labels(self) -> list[str]:
        """A short text a row, such as `z3 slant`."""
        names = self.names or ("",) * len(self.units)
        units = ["" if unit < 0 else f"z{unit}" for unit in self.units.tolist()]
        return [" ".join(filter(None, pair)) for pair in zip(units, names, strict=True)]

    def table(self) -> list[dict[str, Any]]:
        """A record a row: `unit` (None of a direction of several), `name` (or None), and `kl`, `variance` or `change`."""
        measured = self.activity if len(self.activity) else np.full(len(self.units), np.nan)
        names = self.names or ("",) * len(self.units)
        rows = zip(self.units.tolist(), names, measured.tolist(), strict=True)
        return [
            {"unit": None if unit < 0 else unit, "name": name or None, self.measure: None if np.isnan(activity) else activity}
            for unit, name, activity in rows
        ]


def traverse(
    bundle: Bundle,
    dataset: Dataset | None = None,
    *,
    units: Sequence[int | str] | None = None,
    example: int | None = None,
    where: Mapping[str, str | float] | None = None,
    num_units: int = 10,
    num_steps: int = 11,
    reach: float = 3.0,
) -> Traversal:
    """One unit at a time moved over [-reach, reach], the others held.

    Moves stay within the space of the latent. Under a standard normal prior z_d is the column's value; under another prior of
    real numbers, the value counts its standard deviations from its mean; a positive unit is at the prior's quantile of that
    many deviations of a normal; on a sphere the point is turned towards the axis d by that angle; in a ball it goes the
    geodesic in that direction, so many of the prior's deviations far (`spaces.Moves`). Codes do not move. Along a direction
    that was learned from examples, the value counts its steps from where the others are held.

    The others stand at 0 or at the posterior mean of an example; without an example, at the mean of another prior of real
    numbers, at the medians of positive ones, at codes that the prior draws, and on a sphere as far from every axis.
    Rows are the units that the data use most, by their KL to the prior over (at most 2000 of) the data; without data, those of
    the first 4096 units whose move changes the decoded mean most. Or they are those that are asked for, in their order.
    Higgins et al., "beta-VAE" (2017), figure 1, is the use of such grids.

    Args:
        bundle: the model.
        dataset: examples that rank the units; None to rank them by what they change.
        units: rows, by the index of a unit or by a name; None for the most active.
        example: index of the example whose latents and condition the others are held at; it needs the data.
        where: the category or the number of each condition, by column; unknown where not given.
        num_units: rows, at most all units; where `units` does not say which.
        num_steps: columns, at least 2.
        reach: the greatest value, > 0; in standard deviations of the prior. On a sphere it is an angle of at most pi.

    Raises:
        ConfigError: if an argument cannot be, there is no such unit or name, or the latent is of codes alone.
        DataError: if a category is unknown.
    """
    _check(dataset, example, num_units, num_steps, reach)
    with torch.inference_mode():
        features = features_of(bundle, {name: filled(code, 1) for name, code in codes_where(bundle, where).items()}, 1)
        one = None if dataset is None or example is None else dataset.select([example])
        if one is not None and not where:
            features = features_of_data(bundle, one)
        moves = Moves(bundle.vae, features)
        held = moves.centre if one is None else posterior_of(bundle, one)[0][0]
        asked = None if units is None else [_row(bundle, moves, unit) for unit in units]
        tried = moves.units[:TRIED] if dataset is None and asked is None else moves.units
        if asked is not None:
            tried = torch.tensor([row for row in asked if isinstance(row, int)], dtype=torch.int64)
        if dataset is None:
            activity, measure = _change(bundle, moves, held, tried, features, reach), "change"
        else:
            activity, measure = _rates(bundle, dataset)
            activity = activity[tried]
        if asked is None:
            best = torch.argsort(activity, descending=True, stable=True)[:num_units]
            asked, activity = tried[best].tolist(), activity[best]
        values = np.linspace(-reach, reach, num_steps)
        z, latents = _along(bundle, moves, held, asked, torch.from_numpy(values))
        x = decoded(bundle, z.flatten(0, 1), _repeated(features, len(asked) * num_steps), "mean")
    of_units = np.array([isinstance(row, int) for row in asked])
    found = np.full(len(asked), np.nan)
    found[of_units] = activity.double().numpy()
    indices = np.array([row if isinstance(row, int) else -1 for row in asked], dtype=np.int64)
    names = tuple(row if isinstance(row, str) else _names(bundle, row) for row in asked)
    return Traversal(x.reshape(len(asked), num_steps, *x.shape[1:]), indices, values, latents, names, found, measure)


def _row(bundle: Bundle, moves: Moves, unit: int | str) -> int | str:
    """The index of a unit, also by its name or as text, or the name of a direction of several units.

    Raises:
        ConfigError: if there is no such unit or name.
    """
    if isinstance(unit, str) and not (unit.isascii() and unit.isdigit()):
        direction = named(bundle, unit)
        if isinstance(direction, LearnedDirection):
            return unit
        unit = direction.unit
    if not bool((moves.units == int(unit)).any()):
        raise ConfigError(f"A unit must be one of the model's {bundle.vae.num_latents} that move, got {unit}. Count from 0.")
    return int(unit)


def _names(bundle: Bundle, unit: int) -> str:
    """All names of a unit."""
    directions = bundle.directions.items()
    return ", ".join(name for name, found in directions if isinstance(found, UnitDirection) and found.unit == unit)


def _along(
    bundle: Bundle, moves: Moves, held: Tensor, asked: Sequence[int | str], positions: Tensor
) -> tuple[Tensor, np.ndarray]:
    """(U, S, D) the latents of the grid, and (U, S) what stands for them in one number."""
    units = torch.tensor([row for row in asked if isinstance(row, int)], dtype=torch.int64)
    of_units = iter(moves.along(held, units, positions))
    rows, latents = [], []
    for row in asked:
        if isinstance(row, int):
            z = next(of_units)
            latents.append(z[:, row].numpy())
        else:
            direction = bundle.directions[row]
            z = (held.double() + positions[:, None] * direction.step(len(held))).to(held)
            latents.append(direction.position(z).numpy())
        rows.append(z)
    return torch.stack(rows), np.stack(latents)


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


def _rates(bundle: Bundle, dataset: Dataset) -> tuple[Tensor, Measure]:
    """(D,): mean KL of each unit to the prior; where that does not split over units, the variance of the means. And which."""
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
                return posterior_of(bundle, dataset)[0].var(0, unbiased=False), "variance"
            total += torch.cat([level.reshape(len(inputs.x), -1).sum(0) for level in rates]).cpu()
    return total / len(dataset), "kl"


def _change(bundle: Bundle, moves: Moves, held: Tensor, tried: Tensor, features: Tensor | None, reach: float) -> Tensor:
    """(U,): mean squared change of the decoded mean as each unit that is tried goes from -reach to reach. Of text and tables,
    how much less likely, in nats, what stands for each end is at the other end."""
    block, on = block_size(bundle.schema), device_of(bundle.vae)
    ends = torch.tensor([-reach, reach], dtype=torch.float64)

    def change(low: Tensor, high: Tensor, features: Tensor | None) -> tuple[Tensor]:
        at = [bundle.vae.decode_flat(z[None], features) for z in (low, high)]
        if isinstance(at[0], TokenSequence | Cells):
            stands = [middle(p) for p in at]
            lost = [at[i].log_prob(stands[i])[0] - at[1 - i].log_prob(stands[i])[0] for i in (0, 1)]
            return (lost[0] + lost[1],)
        ends = [p.mean[0] for p in at]
        return ((ends[1] - ends[0]).square().flatten(1).mean(1),)

    changes = [torch.zeros(0)]
    for units in tried.split(block) if len(tried) else ():  # a block at a time: all ends together would be D^2 numbers
        low, high = moves.along(held, units, ends).unbind(1)
        (found,) = in_blocks(change, [low.to(on), high.to(on), _repeated(features, len(units))], block)
        changes.append(found.cpu())
    return torch.cat(changes)


def _repeated(features: Tensor | None, num: int) -> Tensor | None:
    return None if features is None else features.expand(num, -1)
