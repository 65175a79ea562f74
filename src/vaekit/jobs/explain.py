"""Explain: which columns make a row of a table strange, each given the rest of the row.

Of a row x with the cell x_c in column c,

    surprise_c = -log p(x_c|x_rest),   anomaly_c = -log P(rho(X) <= rho(x_c)),   X ~ p(.|x_rest)

The surprise of a column of many fine cells is always large. The anomaly is not: it is the logarithm of how often the model
itself, given the rest of the row, would have drawn a cell that is no likelier. It has the same scale for every column: 3 nats
is once in 20 rows, 7 nats once in 1,000. rho is the mass of a category, a word, a missing cell or a frequent value, and of
other numbers the density, in units of a cell of the column's median width. A number that the column never had (see
`data.tables.CellGrid`) adds the mass that is kept for those as far away or further.

The latent is integrated out by importance:

    p(x_c|x_rest) = sum_m w_m p(x_c|z_m),   w_m ~ p(x_rest|z_m) p(z_m) / r(z_m),   z_m ~ r = 1/C sum_j q(z|x without x_j)

The same latents serve all columns, so a row takes C encodings and few more than C decodings. Those that the encoder infers
without the strange cell are among them, which latents of q(z|x) would not be: a strange cell draws all of these to itself. The
sum over all proposals in r keeps weights below C times those of the column's own. Veach, Guibas, "Optimally combining sampling
techniques for Monte Carlo rendering" (1995), section 3: the balance heuristic.

Of two columns that say the same, neither is strange given the other, however rare the row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vaekit.data.dataset import Dataset
from vaekit.data.tables.columns import TableColumn
from vaekit.data.tables.grid import BEYOND, CellGrid
from vaekit.distributions.cells import Cells
from vaekit.errors import ConfigError
from vaekit.inference import MAX_ELEMENTS, Progress
from vaekit.jobs.rows import Table

LATENTS = 32
"""M, latents a row, or the least multiple of the number of columns above it."""

EXPLAINED = 1000
"""Rows whose columns are looked at, the strangest ones, unless told otherwise."""

STRANGE = math.log(20.0)
"""A column has a part in why a row is strange from this anomaly on: once in 20 rows."""

NO_COLUMN = "no single column"
"""What stands where no column has a part."""


@dataclass(frozen=True)
class Reason:
    """One column's part in why a row is strange.

    Attributes:
        column: its name.
        value: the cell as it is printed; empty for a missing one.
        likely: what would have been likely in its place: the likeliest category, or the median.
        anomaly: nats, see the top of `vaekit.jobs.explain`.
    """

    column: str
    value: str
    likely: str
    anomaly: float

    def __str__(self) -> str:
        return f"{self.column}={self.value}"


@dataclass(frozen=True)
class ColumnScores:
    """How strange each cell of R rows is, given the rest of its row; see the top of the file.

    Attributes:
        names: of the C columns that can be strange: no identifiers, and none of one possibility.
        rows: (R,) which examples, rising.
        anomaly: (R, C) nats; NaN where a cell is unknown to the model.
        surprise: (R, C) -log p(x_c|x_rest), nats of the data as stored; likewise.
        cells: (R, C + S), these columns of the rows and their states.
        likely: (R, C + S), what would have been likely in each column.
        columns: C of them.
    """

    names: tuple[str, ...]
    rows: np.ndarray
    anomaly: np.ndarray
    surprise: np.ndarray
    cells: np.ndarray
    likely: np.ndarray
    columns: tuple[TableColumn, ...]

    def reasons(self, row: int, most: int = 3, least: float = -math.inf) -> tuple[Reason, ...]:
        """The columns that make an example strange, the strangest first.

        Args:
            row: index of the example among all.
            most: how many at most.
            least: nats that a column must have.

        Raises:
            ConfigError: if the columns of the example were not looked at.
        """
        at = int(np.searchsorted(self.rows, row))
        if at == len(self.rows) or self.rows[at] != row:
            raise ConfigError(
                f"The columns of the {len(self.rows):,} strangest rows alone were looked at, and row {row} is not among them. "
                "Score with a larger `explain`."
            )
        return self._reasons(np.array([at]), most, least)[0]

    def texts(self, most: int = 3, least: float = STRANGE) -> list[str]:
        """A sentence's worth of reasons for each of the R rows, such as `age=17, marital-status=Widowed`.

        Args:
            most: columns a row at most.
            least: nats that a column must have.
        """
        found = self._reasons(np.arange(len(self.rows)), most, least)
        return [", ".join(map(str, reasons)) or NO_COLUMN for reasons in found]

    def _reasons(self, at: np.ndarray, most: int, least: float) -> list[tuple[Reason, ...]]:
        anomaly = np.nan_to_num(self.anomaly[at], nan=-np.inf)
        chosen = np.argsort(-anomaly, axis=1, kind="stable")[:, :most]
        values, likely = self._printed(self.cells[at]), self._printed(self.likely[at])
        return [
            tuple(
                Reason(self.names[c], values[c][row], likely[c][row], float(anomaly[row, c]))
                for c in columns.tolist()
                if anomaly[row, c] >= least and anomaly[row, c] > -math.inf
            )
            for row, columns in enumerate(chosen)
        ]

    def _printed(self, cells: np.ndarray) -> list[list[str]]:
        """The cells of each scored column as texts."""
        from vaekit.data.tables.coding import decode, printed

        frame = decode(cells, self.columns, notes=[])
        return [printed(frame[name]).fill_null("").to_list() for name in self.names]


def column_scores(
    table: Table, dataset: Dataset, rows: np.ndarray, num_latents: int = LATENTS, progress: Progress | None = None
) -> ColumnScores:
    """How strange the cells of rows are, column by column, in bounded memory. Draws come from the global random state.

    Args:
        table: the model.
        dataset: N rows.
        rows: (R,) indices of those to look at, rising.
        num_latents: M, at least.
        progress: called with (done, R).
    """
    places = [_Place.of(table, i) for i, column in enumerate(table.columns) if _can_be_strange(table, i, column)]
    per_column = max(1, -(-num_latents // max(1, len(places))))
    latents = per_column * max(1, len(places))
    widest = max((table.grid.sizes[place.value] for place in places), default=1)
    block = max(1, min(table.rows_at_once(latents), MAX_ELEMENTS // (latents * widest)))
    cells = dataset.stored(rows)
    likely = np.array(cells)
    anomaly, surprise = np.full((2, len(rows), len(places)), np.nan)
    for start in range(0, len(rows) if places else 0, block):
        part = slice(start, min(start + block, len(rows)))
        _score_block(table, places, cells[part], per_column, (anomaly[part], surprise[part], likely[part]))
        if progress is not None:
            progress(part.stop, len(rows))
    columns = tuple(table.columns[place.value] for place in places)
    kept = [place.value for place in places] + [place.state for place in places if place.state is not None]
    names = tuple(column.name for column in columns)
    return ColumnScores(names, rows, anomaly, surprise, cells[:, kept], likely[:, kept], columns)


def unseen(table: Table, dataset: Dataset) -> tuple[str, ...]:
    """A sentence for each column with numbers that it never had in training, of a data set."""
    total = np.zeros(len(table.grid.sizes), np.int64)
    examples: dict[int, list[float]] = {}
    for start in range(0, len(dataset), 2**16):
        cells = dataset.stored(np.arange(start, min(start + 2**16, len(dataset))))
        beyond = table.grid.beyond(torch.from_numpy(cells)).numpy() > 0
        total += beyond.sum(0)
        for channel in np.flatnonzero(beyond.any(0)).tolist():
            examples.setdefault(channel, []).extend(np.unique(cells[beyond[:, channel], channel])[:4].tolist())
    return tuple(_unseen(table, channel, int(total[channel]), values) for channel, values in examples.items())


def _unseen(table: Table, channel: int, count: int, values: Sequence[float]) -> str:
    from vaekit.data.tables.coding import decode, printed

    column, few = table.columns[channel], sorted(set(values))
    cells = np.full((min(3, len(few)), len(table.grid.sizes)), np.nan)
    cells[:, channel] = few[:3]
    if channel in table.states:
        cells[:, table.states[channel]] = 0
    texts = printed(decode(cells, table.columns, notes=[])[column.name]).fill_null("").to_list()
    shown = ", ".join(dict.fromkeys(texts)) + (", ..." if len(few) > 3 else "")
    holds = "1 cell holds a number" if count == 1 else f"{count:,} cells hold numbers"
    return f"{holds} that `{column.name}` never had ({shown}), which the model takes to be next to impossible."


def _can_be_strange(table: Table, index: int, column: TableColumn) -> bool:
    return column.type != "identifier" and (table.grid.sizes[index] > 1 or index in table.states or table.grid.ordered[index])


@dataclass(frozen=True)
class _Place:
    """Where a column stands, and how its cells compare.

    Attributes:
        value: its channel.
        state: the channel of its state, or None.
        log_widths: (n,) log of the width of each cell in units of the median width; 0 of single values and codes.
        log_unit: log of that width in steps, or in the column's units without one.
    """

    value: int
    state: int | None
    log_widths: Tensor
    log_unit: float

    @classmethod
    def of(cls, table: Table, index: int) -> _Place:
        """The place of a column of a table."""
        record, state = table.grid.channels[index], table.states.get(index)
        if "cells" in record:
            return cls(index, state, torch.zeros(table.grid.sizes[index], dtype=torch.float64), 0.0)
        low, high = (torch.tensor(record[end], dtype=torch.float64) for end in ("low", "high"))
        step = float(record["step"])
        wide = high > low
        typical = float((high - low + step)[wide].median()) if wide.any() else step or table.grid.span(index)
        log_widths = torch.where(wide, ((high - low + step) / typical).log(), 0.0)
        return cls(index, state, log_widths, math.log(typical / (step or 1.0)))

    @property
    def channels(self) -> list[int]:
        """All that are hidden with it."""
        return [self.value] if self.state is None else [self.value, self.state]


def _score_block(
    table: Table, places: Sequence[_Place], cells: np.ndarray, per_column: int, out: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    """Fills anomaly (B, C), surprise (B, C) and likely cells (B, channels) of B rows."""
    raw = torch.from_numpy(np.array(cells))
    x, mask = table.grid(raw).to(table.device), (~raw.isnan()).to(table.device)
    z, log_base = _proposals(table, places, x, mask, per_column)
    p = table.decode(z)
    terms = torch.where(mask, p.log_prob_columns(x), 0.0)
    log_base = log_base + terms.sum(-1)
    anomaly, surprise, likely = out
    log_units, beyond = table.grid.log_abs_det_columns(raw), table.grid.beyond(raw)
    middle = torch.full(raw.shape, 0.5, dtype=torch.float64)
    for index, place in enumerate(places):
        log_weights = (log_base - terms[..., place.channels].sum(-1)).log_softmax(0)
        log_mass = _predicted(p, place, log_weights)
        own, known = _own(place, x, raw)
        found = _compared(table.grid, place, log_mass, own, log_units[:, place.value], beyond[:, place.value])
        anomaly[:, index], surprise[:, index] = (torch.where(known, part, torch.nan).numpy() for part in found)
        size = table.grid.sizes[place.value]
        middle[:, place.value] = _middle(log_mass[:, :size], table.grid.ordered[place.value])
        if place.state is not None:
            plain = log_mass[:, :size].logsumexp(-1, keepdim=True)
            states = torch.cat([plain, log_mass[:, size:]], -1).argmax(-1)
            likely[:, place.state] = states.numpy()
    values = table.grid.inverse(middle).numpy()
    for place in places:
        plain = np.ones(len(cells), bool) if place.state is None else likely[:, place.state] == 0
        likely[:, place.value] = np.where(plain, values[:, place.value], np.nan)


def _proposals(table: Table, places: Sequence[_Place], x: Tensor, mask: Tensor, per_column: int) -> tuple[Tensor, Tensor]:
    """Latents (M, B, *Z) that were inferred without each column in turn, and log p(z) - log r(z), (M, B)."""
    posteriors = []
    for place in places:
        visible = mask.clone()
        visible[:, place.channels] = False
        posteriors.append(table.vae.encode(x, mask=visible))
    z = torch.cat([q.sample((per_column,)) for q in posteriors])
    log_r = torch.stack([q.log_prob(z) for q in posteriors]).logsumexp(0) - math.log(len(posteriors))
    return z, table.vae.prior.of_batch(posteriors[0], None).log_prob(z) - log_r


def _predicted(p: Cells, place: _Place, log_weights: Tensor) -> Tensor:
    """(B, n + states - 1) float64, on the CPU: log p(cell|rest) of a column's values and then of its other states."""
    log_mass = p.column_log_masses(place.value)
    if place.state is not None:
        state = p.column_log_masses(place.state)
        log_mass = torch.cat([log_mass + state[..., :1], state[..., 1:]], -1)
    return (log_weights.unsqueeze(-1) + log_mass).logsumexp(0).cpu().double()


def _own(place: _Place, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) which of the predicted cells each row has, and whether that is known."""
    cell, known = x[:, place.value].cpu().floor().long(), ~raw[:, place.value].isnan()
    if place.state is None:
        return cell, known
    state = raw[:, place.state]
    other = state > 0
    cell = torch.where(other, len(place.log_widths) - 1 + state.nan_to_num(0.0).long(), cell)
    return cell, torch.where(other, True, known & ~state.isnan())


def _compared(
    grid: CellGrid, place: _Place, log_mass: Tensor, own: Tensor, log_unit: Tensor, beyond: Tensor
) -> tuple[Tensor, Tensor]:
    """Anomaly and surprise (B,) of the cells `own`.

    Args:
        grid: of the table.
        place: of the column.
        log_mass: (B, n + states - 1), as predicted.
        own: (B,).
        log_unit: (B,) what a number's density is more than the mass of its cell.
        beyond: (B,) how far each is from any number that the column had.
    """
    plain, away = own < len(place.log_widths), beyond > 0
    mine = log_mass.gather(-1, own.unsqueeze(-1)).squeeze(-1)
    surprise = -(mine + torch.where(plain, log_unit, 0.0))
    widths = torch.zeros(log_mass.shape[-1], dtype=torch.float64)
    widths[: len(place.log_widths)] = place.log_widths
    log_rho = log_mass - widths
    log_own = torch.where(plain & away, place.log_unit - surprise, log_rho.gather(-1, own.unsqueeze(-1)).squeeze(-1))
    tail = torch.where(log_rho <= log_own.unsqueeze(-1), log_mass, -torch.inf).logsumexp(-1)
    if grid.ordered[place.value]:
        span = grid.span(place.value)
        further = math.log(BEYOND) + torch.log(span / (span + beyond))
        tail = torch.where(plain & away, torch.logaddexp(tail, further), tail)
    return (-tail).clamp(min=0.0), surprise


def _middle(log_mass: Tensor, ordered: bool) -> Tensor:
    """(B,): the place that stands for a column: in the cell of the median of numbers, in the likeliest one of categories."""
    if not ordered:
        return log_mass.argmax(-1) + 0.5
    mass = log_mass.softmax(-1)
    return (mass.cumsum(-1) < 0.5).sum(-1).clamp(max=mass.shape[-1] - 1) + 0.5
