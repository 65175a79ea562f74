"""Impute: what is missing in the rows of a table, given the rest of each row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vaekit.data.dataset import Dataset
from vaekit.distributions.cells import Cells
from vaekit.errors import ConfigError
from vaekit.inference import Progress, check_examples, seeded
from vaekit.jobs.rows import CANDIDATES, Candidates, Table, candidates, chosen
from vaekit.storage import Bundle

DRAWS = ("mean", "sample")


@dataclass(frozen=True)
class Imputed:
    """Rows without missing cells.

    Attributes:
        cells: (M, N, C) float64, M imputations of N rows: given cells as they were.
        missing: (N, columns) bool, which cells were imputed.
        uncertainty: (N, columns) float64: of a number its standard deviation given the rest of the row, of a category the
            probability that it is another one; 0 where the cell was given.
    """

    cells: np.ndarray
    missing: np.ndarray
    uncertainty: np.ndarray


def impute(
    bundle: Bundle,
    dataset: Dataset,
    *,
    draw: str = "mean",
    num_imputations: int = 1,
    num_candidates: int = CANDIDATES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Imputed:
    """Fills missing cells by p(missing|given), the latent integrated out (see `jobs.rows`).

    That a cell is missing is not used: cells are taken to be missing for reasons that the given cells know (missing at random).
    Rubin, "Multiple imputation for nonresponse in surveys" (1987): what is computed from each of several drawn imputations, and
    then averaged, has the right spread; a single best guess has not.

    Args:
        bundle: the model of a table.
        dataset: N rows that fit the model's schema.
        draw: `mean`: the expectation of a number (whole where its column is) and the likeliest category, which have the least
            error; or `sample`: a draw, whose distribution is that of the data.
        num_imputations: M, with `sample`.
        num_candidates: K, candidates of the latent a row; more is nearer to the exact conditional, and slower.
        seed: of all draws; the global random state is left as it was.
        progress: called with (done, total).

    Raises:
        ConfigError: if an argument cannot be, or the model is not one of a table.
        DataError: if there are no rows.
    """
    if draw not in DRAWS:
        raise ConfigError(f"`draw` must be mean or sample, got {draw!r}. Use `mean` for the best guess.")
    if num_imputations < 1 or num_candidates < 1 or (num_imputations > 1 and draw == "mean"):
        raise ConfigError(
            "`num_imputations` and `num_candidates` must be at least 1, and imputations be one with `draw='mean'`, got "
            f"{num_imputations} and {num_candidates}. Use `draw='sample'` for several."
        )
    table = Table.of(bundle, "impute")
    check_examples(dataset)
    cells, missing, visible = _to_impute(table, dataset)
    out = np.repeat(cells[None], num_imputations, 0)
    uncertainty = np.zeros(missing.shape)
    todo = np.flatnonzero(missing.any(1))
    rows = table.rows_at_once(num_candidates)
    with torch.inference_mode(), seeded(seed, table.device):
        for start in range(0, len(todo), rows):
            block = todo[start : start + rows]
            x = table.grid(torch.from_numpy(cells[block])).to(table.device)
            mask = torch.from_numpy(visible[block]).to(table.device)
            found = candidates(table, x, mask, num_candidates)
            filled, spread = _filled(table, found, x, missing[block], draw, num_imputations)
            for index in range(len(table.columns)):
                holes = missing[block, index]
                out[:, block[holes], index] = filled[:, holes, index]
                uncertainty[block[holes], index] = spread[holes, index]
                if index in table.states:
                    out[:, block[holes], table.states[index]] = filled[:, holes, table.states[index]]
            if progress is not None:
                progress(min(start + rows, len(todo)), len(todo))
    return Imputed(out, missing, uncertainty)


def _to_impute(table: Table, dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells (N, C), what is missing (N, columns), and what is visible to the model (N, C)."""
    cells = np.array(dataset.stored())
    missing = np.zeros((len(cells), len(table.columns)), bool)
    visible = ~np.isnan(cells)
    for index, column in enumerate(table.columns):
        if column.type == "identifier":
            continue
        hole = np.isnan(cells[:, index])
        if index in table.states:
            state = cells[:, table.states[index]]
            hole &= np.isnan(state) | (state == 0) | (state == (column.missing_state or -1))
            visible[hole, table.states[index]] = False
        missing[:, index] = hole
        visible[hole, index] = False
    return cells, missing, visible


def _filled(
    table: Table, found: Candidates, x: Tensor, missing: np.ndarray, draw: str, num: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cells (M, B, C) for the holes of B rows, and their uncertainty (B, columns)."""
    batch, spread = len(x), np.zeros(missing.shape)
    p = table.decode(found.z)
    out = np.zeros((num, batch, len(table.grid.sizes)))
    if draw == "sample":
        drawn = table.decode(chosen(found.z, found.draw(num)))
        out = table.grid.inverse(_plain(table, drawn).cpu()).numpy()
    for index in np.flatnonzero(missing.any(0)).tolist():
        holes = np.flatnonzero(missing[:, index])
        masses = _masses(table, p, found, index, holes)
        values = _values(table, index)
        if values is None:
            likeliest, best = masses.max(-1)
            spread[holes, index] = 1.0 - likeliest.numpy()
            guess = best.double()
        else:
            guess = table.grid.on_step(index, masses @ values)
            spread[holes, index] = (masses @ values.square() - (masses @ values).square()).clamp(min=0.0).sqrt().numpy()
        if draw == "mean":
            out[0, holes, index] = guess.numpy()
        if index in table.states:
            out[:, holes, table.states[index]] = 0.0
    return out, spread


def _plain(table: Table, p: Cells) -> Tensor:
    """A draw in which every column is a plain value."""
    one = torch.tensor([[0.0, 1.0]])
    return p.sample_within(dict.fromkeys(table.states.values(), one))


def _masses(table: Table, p: Cells, found: Candidates, channel: int, rows: np.ndarray) -> Tensor:
    """(rows, n) float64: the masses of the cells of a column given the visible part of each row; a column is a plain value."""
    log_mass = p.column_log_masses(channel)[:, rows]
    weights = found.weights[:, rows]
    if channel in table.states:  # candidates under which the column is no plain value say less about it
        plain = p.column_log_masses(table.states[channel])[:, rows, 0].exp()
        weights = weights * plain
        weights = weights / weights.sum(0)
    return (weights.unsqueeze(-1) * log_mass.exp()).sum(0).cpu().double()


def _values(table: Table, channel: int) -> Tensor | None:
    """The middle of each cell of a column of numbers; None for categories."""
    record = table.grid.channels[channel]
    if "cells" in record:
        return None
    return (torch.tensor(record["low"], dtype=torch.float64) + torch.tensor(record["high"], dtype=torch.float64)) / 2
