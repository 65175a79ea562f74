"""Rows of a table given a part of them: latents by importance, and the rest of the row from the decoder.

Of a row x = (a, b) with the part a given,

    p(b|a) = integral p(b|z) p(z|a) dz,   z_k ~ q(z|a),   w_k = p(a|z_k) p(z_k) / q(z_k|a)

and a draw of z_k with the probability w_k / sum w is one of p(z|a) as the number K of candidates grows (sampling-importance-
resampling: Rubin, "Using the SIR algorithm to simulate posterior distributions", 1988; in autoencoders Mattei, Frellsen,
"MIWAE", 2019, section 2.3). What a model trained with hidden columns (`training.hiding`) proposes is near p(z|a), so few
candidates do.

Where a is only known to lie in a set, such as age in 30..40, a value of each such column is drawn with the candidate, from
the model's marginal m within the set, and the weight is p(a_k|z_k) p(z_k) / (q(z_k|a_k) m(a_k)): rare sets cost no more than
others.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from vaekit.component import device_of
from vaekit.data.tables.columns import TableColumn, state_channels
from vaekit.data.tables.grid import CellGrid
from vaekit.distributions.cells import Cells
from vaekit.errors import ConfigError
from vaekit.inference import MAX_ELEMENTS
from vaekit.storage import Bundle
from vaekit.vae import VAE

CANDIDATES = 32
"""K, candidates of the latent a row."""

_MARGINAL_DRAWS = 4096
_LEAST_CANDIDATES, _MOST_ROUNDS = 4096, 4


@dataclass(frozen=True)
class Table:
    """A model of a table, with what jobs ask of it.

    Attributes:
        vae: whose likelihood is `likelihoods.Cells`.
        grid: cells to places.
        columns: of the table.
        states: index of a column -> its state channel.
    """

    vae: VAE
    grid: CellGrid
    columns: tuple[TableColumn, ...]
    states: Mapping[int, int]

    @classmethod
    def of(cls, bundle: Bundle, job: str) -> Table:
        """The table of a model.

        Raises:
            ConfigError: if the model is not one of a table whose columns are cells.
        """
        if bundle.schema.kind != "table":
            raise ConfigError(
                f"The model must be one of a table to {job}, got one of {bundle.schema.kind}. Train it on a table."
            )
        if not isinstance(bundle.transform, CellGrid) or not isinstance(bundle.vae, VAE):
            raise ConfigError(
                f"The model must be a VAE over a `CellGrid` to {job}, got a {type(bundle.vae).__name__} over a "
                f"{type(bundle.transform).__name__}. Train it with `--recipe table`."
            )
        columns = bundle.schema.table
        return cls(bundle.vae, bundle.transform, columns, state_channels(columns))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return device_of(self.vae)

    def decode(self, z: Tensor) -> Cells:
        """p(x|z) of latents (..., *Z)."""
        return cast(Cells, self.vae.decode(z))

    def rows_at_once(self, num_candidates: int) -> int:
        """Rows whose candidates fit into memory together."""
        return max(1, MAX_ELEMENTS // max(1, self.vae.peak_elements() * num_candidates))


@dataclass(frozen=True)
class Candidates:
    """K latents for each of B rows, and how likely each is.

    Attributes:
        z: (K, B, *Z).
        log_weights: (K, B), not normalised.
    """

    z: Tensor
    log_weights: Tensor

    @property
    def weights(self) -> Tensor:
        """(K, B), the sum over K is 1."""
        return self.log_weights.softmax(0)

    def draw(self, num: int) -> Tensor:
        """(num, B): for each row so many indices of candidates, by their weights."""
        return torch.multinomial(self.weights.T, num, replacement=True).T

    def effective_sample_size(self) -> Tensor:
        """(B,): 1 / sum of squared weights."""
        return 1.0 / self.weights.square().sum(0)


def candidates(table: Table, x: Tensor, mask: Tensor, num: int = CANDIDATES, temperature: float = 1.0) -> Candidates:
    """`num` candidates of the latent for each row of which a part is given.

    Args:
        table: the model.
        x: (B, C) places; what stands at a column that is not given is not read.
        mask: (B, C) bool, True where given.
        num: K.
        temperature: factor on the prior's scales.
    """
    posterior = table.vae.encode(x, mask=mask)
    prior = table.vae.prior.of_batch(posterior, None) if temperature == 1 else table.vae.prior(None, temperature)
    z = posterior.sample((num,))
    log_weights = table.decode(z).log_prob(x, mask) + prior.log_prob(z) - posterior.log_prob(z)
    return Candidates(z, log_weights)


def chosen(z: Tensor, index: Tensor) -> Tensor:
    """(M, B, *Z): the candidates z (K, B, *Z) at `index` (M, B)."""
    rows = torch.arange(z.shape[1], device=z.device)
    return z[index, rows]


@dataclass(frozen=True)
class Choice:
    """What one column may be, in places of its channels.

    Attributes:
        channel: of the value.
        intervals: (I, 2) places of plain values; empty if none is asked for.
        state: the state channel, or None.
        states: the states other than a plain value that are asked for.
    """

    channel: int
    intervals: Tensor
    state: int | None
    states: tuple[int, ...]


def choices(table: Table, where: Any) -> list[Choice]:
    """What `where` asks of the columns.

    Raises:
        ConfigError: if it cannot be.
    """
    from vaekit.data.tables.where import parse_where

    found = []
    for index, event in parse_where(where, table.columns).items():
        column = table.columns[index]
        places: list[list[float]] = [[float(code), code + 1.0] for code in event.codes]
        if not column.is_coded and column.type != "identifier":
            for low, high, with_low, with_high in event.intervals:
                places += table.grid.places(index, low, high, with_low, with_high)
        states = list(event.words)
        if event.missing and column.missing_state is not None:
            states.append(column.missing_state)
        if not places and not states:
            raise ConfigError(
                f"What is asked of `{column.name}` must be something that the model can make, but it knows no value there. "
                "Widen the range."
            )
        intervals = torch.tensor(sorted(places), dtype=torch.float64).reshape(-1, 2)
        found.append(Choice(index, intervals, table.states.get(index), tuple(states)))
    return found


@dataclass(frozen=True)
class Drawn:
    """Rows that were drawn within `where`.

    Attributes:
        x: (N, C) places.
        effective_sample_size: of the candidates that they were chosen from.
    """

    x: Tensor
    effective_sample_size: float

    def note(self) -> str | None:
        """A sentence where fewer latents carry the rows than half their number; else None."""
        if self.effective_sample_size >= len(self.x) / 2:
            return None
        return (
            f"The {len(self.x):,} rows come from about {max(1, round(self.effective_sample_size)):,} different latents, "
            "because what is asked for is rare under the model: they vary less than such rows would."
        )


class RowsWhere:
    """Draws rows of p(x | x_c in E_c for each column of `where`).

    Args:
        table: the model.
        where: see `data.tables.where.parse_where`.
        temperature: factor on the prior's scales.
    """

    def __init__(self, table: Table, where: Any, temperature: float = 1.0) -> None:
        self.table, self.choices, self.temperature = table, choices(table, where), temperature
        self.marginals: dict[int, Tensor] = {}
        needed = {c for choice in self.choices for c in (choice.channel, choice.state) if c is not None}
        z = table.vae.sample_prior(_MARGINAL_DRAWS, temperature=temperature)
        rows = table.rows_at_once(1)
        for channel in sorted(needed):
            parts = [
                table.decode(part.unflatten(-1, tuple(table.vae.prior.shape))).column_log_masses(channel).exp().sum((0, 1))
                for part in z.split(rows, dim=1)
            ]
            self.marginals[channel] = (torch.stack(parts).sum(0) / _MARGINAL_DRAWS).cpu()

    def draw(self, num: int) -> Drawn:
        """`num` rows, chosen from at least `CANDIDATES` / 2 times as many candidates, more where few of those count.

        Raises:
            ConfigError: if no candidate has any likelihood.
        """
        if not self.choices:
            z = self.table.vae.sample_prior(num, temperature=self.temperature)[0]
            z = z.unflatten(-1, tuple(self.table.vae.prior.shape))
            return self._rows(z, z.new_full((num, len(self.table.grid.sizes)), torch.nan), float(num))
        z, given, log_weights = self._round(max(_LEAST_CANDIDATES, num * CANDIDATES // 2))
        for _ in range(_MOST_ROUNDS - 1):
            if _size(log_weights) >= 4.0 * num:
                break
            more = self._round(num * CANDIDATES)
            z, given, log_weights = (torch.cat(pair) for pair in zip((z, given, log_weights), more, strict=True))
        if not torch.isfinite(log_weights).any():
            raise ConfigError("What is asked for must be possible under the model, but no candidate has any likelihood there.")
        index = systematic((log_weights - log_weights.max()).exp().cpu().double(), num).to(z.device)
        return self._rows(z[index], given[index], _size(log_weights))

    def _rows(self, z: Tensor, given: Tensor, size: float) -> Drawn:
        """Rows of latents (N, *Z), with the given columns as they are."""
        num = len(z)
        parts = []
        rows = self.table.rows_at_once(1)
        for start in range(0, num, rows):
            x = self.table.decode(z[None, start : start + rows]).sample()[0]
            known = given[start : start + rows]
            parts.append(torch.where(known.isnan(), x, known.to(x)))
        return Drawn(torch.cat(parts), size)

    def _round(self, num: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (num, *Z), the given columns (num, C) with NaN at the others, and log-weights (num,)."""
        z, given, weights = [], [], []
        rows = self.table.rows_at_once(1)
        for start in range(0, num, rows):
            x, log_marginal = self._given(min(rows, num - start))
            mask = ~x.isnan()
            found = candidates(self.table, x.nan_to_num(0.5), mask, 1, self.temperature)
            z.append(found.z[0])
            given.append(x)
            weights.append(found.log_weights[0] - log_marginal)
        return torch.cat(z), torch.cat(given), torch.cat(weights)

    def _given(self, num: int) -> tuple[Tensor, Tensor]:
        """Values of the columns of `where`, (num, C) with NaN elsewhere, and the log-density (num,) they are drawn from.

        They are drawn on the CPU, as intervals are float64, which not every device has.
        """
        x = torch.full((num, len(self.table.grid.sizes)), torch.nan)
        log_density = torch.zeros(num)
        for choice in self.choices:
            plain = torch.ones(num, dtype=torch.bool)
            if choice.state is not None:
                states = [*([0] if len(choice.intervals) else []), *choice.states]
                share = self.marginals[choice.state][states].clamp(min=1e-12)
                if states[0] == 0 and len(choice.intervals):
                    share[0] *= self._masses(choice)[0].sum().clamp(min=1e-12)
                share = share / share.sum()
                pick = torch.multinomial(share, num, replacement=True)
                state = torch.tensor(states)[pick]
                x[:, choice.state] = state + 0.5
                log_density += share[pick].log()
                plain = state == 0
            if len(choice.intervals):
                masses, pieces = self._masses(choice)
                share = masses / masses.sum()
                pick = torch.multinomial(share, num, replacement=True)
                piece = pieces[pick]
                place = piece[:, 0] + torch.rand(num) * (piece[:, 1] - piece[:, 0])
                place = torch.minimum(place.float(), torch.nextafter(piece[:, 1].float(), torch.zeros(())))
                density = (share[pick] / (piece[:, 1] - piece[:, 0]).to(share)).log()
                x[:, choice.channel] = torch.where(plain, place, torch.nan)
                log_density += torch.where(plain, density, 0.0)
        return x.to(self.table.device), log_density.to(self.table.device)

    def _masses(self, choice: Choice) -> tuple[Tensor, Tensor]:
        """The marginal mass of each piece of the intervals that lies in one cell, and the pieces (P, 2)."""
        marginal = self.marginals[choice.channel].clamp(min=1e-12)
        pieces = []
        for low, high in choice.intervals.tolist():
            edges = [low, *range(int(np.floor(low)) + 1, int(np.ceil(high))), high]
            pieces += [[a, b] for a, b in itertools.pairwise(edges) if b > a]
        bounds = torch.tensor(pieces, dtype=torch.float64)
        cell = bounds[:, 0].floor().long().clamp(max=len(marginal) - 1)
        return marginal[cell] * (bounds[:, 1] - bounds[:, 0]).to(marginal), bounds


def _size(log_weights: Tensor) -> float:
    """1 / sum of squared normalised weights; 0 where none is above 0."""
    weights = (log_weights - log_weights.max()).exp().cpu().double().nan_to_num(0.0)
    total = weights.sum()
    return float(total**2 / weights.square().sum()) if total > 0 else 0.0


def systematic(weights: Tensor, num: int) -> Tensor:
    """(num,): indices by systematic resampling, in a random order.

    Each index comes floor(num w) or ceil(num w) times, with w its share: Douc, Cappe, Moulines, "Comparison of resampling
    schemes for particle filtering" (2005), section 2.4.
    """
    upto = (weights / weights.sum()).cumsum(0)
    points = (
        torch.arange(num, dtype=upto.dtype, device=upto.device) + torch.rand((), dtype=upto.dtype, device=upto.device)
    ) / num
    index = torch.searchsorted(upto, points).clamp(max=len(weights) - 1)
    return index[torch.randperm(num, device=index.device)]
