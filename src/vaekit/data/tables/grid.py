"""From the cells of a table to places on a grid, and back: numbers by a piecewise linear map, categories by their codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Generator, Tensor

from vaekit.data.dataset import Dataset
from vaekit.data.tables.columns import TableColumn, num_channels, state_channels
from vaekit.data.transforms import Transform
from vaekit.errors import ConfigError

MOST_CELLS = 256
"""Cells of a column of numbers; so many distinct values, if they repeat, have a cell each."""

_FIT_ROWS = 100_000
_ROWS_A_VALUE = 4
_ROWS_A_CELL = 24
_LEAST_CELLS = 4
_TAIL_ROWS = 8
_DAY, _SECOND = 86_400e6, 1e6


class CellGrid(Transform):
    """Each number v of a column to a place in [0, n): the cell that it lies in, and how far along it is there.

    A cell is an interval [low, high] of values that are steps s apart, or a single value, an atom, that many rows have.

        y = k + (v - low_k + s/2) / (high_k - low_k + s)        y = k + 1/2 of an atom and of a category's code k

    Under a likelihood with a uniform density in each cell (`likelihoods.Cells`) a column of numbers is a histogram whose masses
    depend on the latent: no shape is assumed, and repeated values such as 0, bounds, several modes and long tails are met. With
    a step s > 0 the figure is the mass of the value, without one its density. Values between cells count to the nearer one,
    values beyond the ends to the last; a column's ends are the least and the greatest value that was seen. A place is a float32
    number: rounded to the step, `inverse` of it is the value again where a cell has at most 2^15 values.

    Args:
        channels: a record a channel: `{"cells": n}` of codes, or `{"low": [...], "high": [...], "step": s}` of numbers, in
            rising order; an atom has low = high.

    Raises:
        ConfigError: if a record is neither, or its numbers do not rise.

    Example:
        >>> grid = CellGrid([{"cells": 3}, {"low": [0, 1], "high": [0, 10], "step": 1}])
        >>> y = grid(torch.tensor([[2.0, 0.0], [0.0, 3.0]], dtype=torch.float64))
        >>> y
        tensor([[2.5000, 0.5000],
                [0.5000, 1.2500]])
        >>> grid.inverse(y)
        tensor([[2., 0.],
                [0., 3.]], dtype=torch.float64)
        >>> grid.log_abs_det(torch.tensor([[2.0, 0.0], [0.0, 3.0]], dtype=torch.float64)).exp()
        tensor([1.0000, 0.1000], dtype=torch.float64)
    """

    def __init__(self, channels: list[dict[str, Any]]) -> None:
        super().__init__()
        for channel in channels:
            _check(channel)
        self.channels = channels
        self.sizes = [int(channel["cells"]) if "cells" in channel else len(channel["low"]) for channel in channels]
        self.ordered = ["cells" not in channel for channel in channels]
        numbers = [index for index, ordered in enumerate(self.ordered) if ordered]
        most = max((self.sizes[index] for index in numbers), default=1)
        low, high = np.full((len(numbers), most), np.inf), np.full((len(numbers), most), np.inf)
        for row, index in enumerate(numbers):
            low[row, : self.sizes[index]] = channels[index]["low"]
            high[row, : self.sizes[index]] = channels[index]["high"]
        middle = low[:, 1:] / 2 + high[:, :-1] / 2  # a sum could be beyond float64
        middle = np.where(middle > high[:, :-1], middle, low[:, 1:])  # between neighbours in float64 there is nothing
        for name, values in (
            ("_numbers", np.array(numbers, np.int64)),
            ("_low", low),
            ("_high", high),
            ("_bounds", np.where(np.isfinite(middle), middle, np.inf)),
            ("_step", np.array([[channels[index]["step"]] for index in numbers]).reshape(-1, 1)),
            ("_count", np.array(self.sizes, np.float64)),
        ):
            self.register_buffer(name, torch.from_numpy(values), persistent=False)

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """float32 places (B, C) of cells (B, C) in float64; NaN becomes 1/2, which a mask must cover."""
        count = self._part("_count")
        cell = torch.minimum(x.double().nan_to_num(0.0).floor().clamp(min=0.0), count - 1)
        share = torch.full_like(cell, 0.5)
        numbers = self._part("_numbers")
        if len(numbers):
            cell[:, numbers], share[:, numbers] = (part.T.double() for part in self._placed(x)[:2])
        y, upper = (cell + share).float(), (cell + 1).float()
        y = torch.minimum(y, torch.nextafter(upper, upper - 1))  # rounding must not bring it into the next cell
        return torch.where(x.isnan(), 0.5, y)

    def inverse(self, y: Tensor) -> Tensor:
        """float64 cells (..., C) of places (..., C); numbers are not yet rounded to their step."""
        x = y.double().floor()
        x = torch.minimum(x.clamp(min=0.0), self._part("_count") - 1)
        numbers = self._part("_numbers")
        if len(numbers):
            cell = x[..., numbers].long().flatten(0, -2)
            share = (y[..., numbers].double().flatten(0, -2) - cell).clamp(0.0, 1.0)
            low, high = self._part("_low").gather(1, cell.T), self._part("_high").gather(1, cell.T)
            step = self._part("_step")
            value = (low - step / 2 + share.T * (high - low + step)).clamp(min=low, max=high)
            x[..., numbers] = value.T.unflatten(0, x.shape[:-1])
        return x

    def log_abs_det(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B,): the sum over observed numbers of log(s / (high - low + s)), or -log(high - low) without a step; 0 of atoms."""
        total = torch.zeros(len(x), dtype=torch.float64)
        numbers = self._part("_numbers")
        if not len(numbers):
            return total
        x = x.to(self._part("_low").device)
        _, _, width = self._placed(x)
        step = self._part("_step")
        unit = torch.where(step > 0, step, 1.0)
        terms = torch.where(width > 0, (unit / (width + step)).log(), 0.0).T
        observed = ~x[:, numbers].isnan()
        if mask is not None:
            observed &= mask.to(x.device)[:, numbers]
        return torch.where(observed, terms, 0.0).sum(1).cpu()

    def _placed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cell, share of the way through it and high - low, each (numbers, B), of the numbers of x (B, C)."""
        value = x[:, self._part("_numbers")].T.double().contiguous()
        cell = torch.searchsorted(self._part("_bounds"), value.nan_to_num(0.0), right=True)
        low, high = self._part("_low").gather(1, cell), self._part("_high").gather(1, cell)
        width, step = high - low, self._part("_step")
        inside = torch.minimum(torch.maximum(value, low), high)
        share = torch.where(width > 0, (inside - low + step / 2) / (width + step), 0.5)
        return cell, share.clamp(1e-6, 1 - 1e-6), width

    def _part(self, name: str) -> Tensor:
        return cast(Tensor, getattr(self, name))

    def places(
        self, channel: int, low: float, high: float, low_closed: bool = True, high_closed: bool = True
    ) -> list[list[float]]:
        """The places [from, to) of the values between `low` and `high` in one channel of numbers, a pair a cell.

        Args:
            channel: index.
            low, high: values; infinities for none.
            low_closed, high_closed: whether `low` and `high` themselves belong to it.
        """
        record, found = self.channels[channel], []
        step = float(record["step"])
        for cell, (first, last) in enumerate(zip(record["low"], record["high"], strict=True)):
            if first == last:
                above = first > low or (low_closed and first == low)
                below = first < high or (high_closed and first == high)
                start, end = (0.0, 1.0) if above and below else (0.0, 0.0)
            elif step > 0:  # the values first + k step, with k from one bound to before the other
                values = _first_step(first, step, last, False)
                start = max(0, _first_step(first, step, low, low_closed)) / values
                end = min(values, _first_step(first, step, high, not high_closed)) / values
            else:
                start, end = ((min(max(value, first), last) - first) / (last - first) for value in (low, high))
            if cell + start < cell + end:
                found.append([cell + start, cell + end])
        return found

    @classmethod
    def fit(cls, dataset: Dataset, most_cells: int = MOST_CELLS, seed: int = 0) -> CellGrid:
        """The grid of a table, from at most 100,000 rows.

        A column of numbers has a cell for every value where at most `most_cells` values repeat; else cells of about equal mass,
        finer towards both ends, and atoms for values that many rows have.

        Args:
            dataset: a table.
            most_cells: of a column of numbers, at least 8.
            seed: of the choice of rows, where there are more.

        Raises:
            ConfigError: for fewer cells, or numbers too far apart for float64.
        """
        if most_cells < 2 * _LEAST_CELLS:
            raise ConfigError(
                f"`most_cells` must be at least {2 * _LEAST_CELLS}, got {most_cells}. Leave it out for {MOST_CELLS}."
            )
        columns = dataset.schema.table
        rows = np.arange(len(dataset))
        if len(rows) > _FIT_ROWS:
            rows = np.sort(np.random.default_rng(seed).choice(len(dataset), _FIT_ROWS, replace=False))
        cells = dataset.stored(rows)
        channels: list[dict[str, Any]] = [{"cells": 1}] * num_channels(columns)
        for index, column in enumerate(columns):
            if column.is_number or column.type == "datetime":
                values = cells[:, index].astype(np.float64)
                channels[index] = _numbers(values[~np.isnan(values)], column, most_cells)
            else:
                channels[index] = {"cells": max(1, len(column.categories))}
        for index, channel in state_channels(columns).items():
            channels[channel] = {"cells": columns[index].num_states}
        return cls(channels)


def _first_step(first: float, step: float, bound: float, closed: bool) -> float:
    """The least k for which first + k step is above a bound, or on it if it is closed; decimals are never exact."""
    steps = (bound - first) / step
    if math.isinf(steps):
        return steps
    near = round(steps)
    slack = max(1e-6, 1e-15 * max(abs(bound), abs(first)) / step)
    if abs(steps - near) <= min(slack, 0.4):
        return near if closed else near + 1
    return math.ceil(steps)


def _check(channel: dict[str, Any]) -> None:
    if set(channel) == {"cells"} and int(channel["cells"]) >= 1:
        return
    if set(channel) == {"low", "high", "step"} and len(channel["low"]) == len(channel["high"]) > 0 and channel["step"] >= 0:
        low, high = np.array(channel["low"], np.float64), np.array(channel["high"], np.float64)
        if np.all(low <= high) and np.all(high[:-1] <= low[1:]) and np.isfinite(low).all() and np.isfinite(high).all():
            if high[-1] / 2 - low[0] / 2 < np.finfo(np.float64).max / 2:
                return
            raise ConfigError(
                f"Numbers of one column must lie within {np.finfo(np.float64).max:.2g} of each other, found {low[0]:.3g} and "
                f"{high[-1]:.3g}. Leave the column out, or scale it."
            )
    raise ConfigError(
        "A channel of a CellGrid must be {'cells': n}, or have `low`, `high` and `step` in rising order; got "
        f"{str(channel)[:200]}. Use `CellGrid.fit`."
    )


def step_of(column: TableColumn, values: np.ndarray) -> float:
    """The distance s between neighbouring values that a column can print; 0 where there is none."""
    if column.type in ("integer", "count"):
        return 1.0
    if column.type == "datetime":
        return next((unit for unit in (_DAY, 60 * _SECOND, _SECOND) if np.all(values % unit == 0)), 1.0)
    return 0.0 if column.decimals is None else 10.0**-column.decimals


def _numbers(values: np.ndarray, column: TableColumn, most_cells: int) -> dict[str, Any]:
    """The record of a column of numbers."""
    step = step_of(column, values)
    ends = [end for end in (column.low, column.high) if end is not None]
    distinct, counts = np.unique(values + 0.0, return_counts=True)  # 0.0 for -0.0
    if not len(distinct):
        distinct, counts = np.array(sorted(set(ends)) or [0.0]), np.ones(max(1, len(set(ends))), np.int64)
    if len(distinct) <= most_cells and len(values) >= _ROWS_A_VALUE * len(distinct):
        atoms = sorted({*distinct.tolist(), *ends}) if len(distinct) < most_cells else distinct.tolist()
        return {"low": atoms, "high": atoms, "step": step}
    most = max(_LEAST_CELLS, most_cells - 2 * math.log2(most_cells))
    wanted = int(np.clip(len(values) / _ROWS_A_CELL, _LEAST_CELLS, most))
    often = counts >= max(2.0 * len(values) / wanted, 8.0)
    cells = [(value, value) for value in distinct[often].tolist()]
    rest, weights = distinct[~often], counts[~often]
    starts = np.searchsorted(distinct[often], rest)
    between: list[tuple[float, float]] = []
    for share in (wanted * 0.8**shrunk / max(1, weights.sum()) for shrunk in range(20)):
        between = []
        for segment in np.unique(starts):
            chosen = starts == segment
            count = max(1, round(weights[chosen].sum() * share))
            between += _intervals(rest[chosen], weights[chosen], count, step)
        if len(cells) + len(between) <= most_cells - 2:  # of which the ends may need one each
            break
    cells = sorted([*cells, *between])
    cells = _reaching(cells, ends)
    return {"low": [float(low) for low, _ in cells], "high": [float(high) for _, high in cells], "step": step}


def _intervals(values: np.ndarray, weights: np.ndarray, count: int, step: float) -> list[tuple[float, float]]:
    """Neighbouring intervals over distinct values of about equal weight, halving towards both ends of a long run."""
    total = weights.sum()
    limits = np.arange(1, count) / count * total
    if count >= 16:
        halves = total / count / 2.0 ** np.arange(1, 12)
        halves = halves[halves >= _TAIL_ROWS]
        limits = np.sort(np.concatenate([limits, halves, total - halves]))
    last = np.unique(np.searchsorted(np.cumsum(weights), limits, side="right"))  # the first value of the next interval
    firsts = np.concatenate([[0], last[(last > 0) & (last < len(values))]])
    edges: list[tuple[float, float]] = []
    for position in range(len(firsts)):
        low = values[0] if position == 0 else _on_step(edges[-1][1] + step, step)
        end = position + 1 == len(firsts)
        after = firsts[position + 1] if not end else len(values) - 1
        high = values[-1] if end else _between(float(values[after - 1]), float(values[after]), step)
        edges.append((float(low), float(high)))
    return edges


def _between(low: float, high: float, step: float) -> float:
    """The last value of an interval that ends between two values."""
    if step > 0:
        return _on_step(low + math.floor((high - low) / 2 / step) * step, step)
    return float(low) / 2 + float(high) / 2


def _on_step(value: float, step: float) -> float:
    """A sum of decimals as the decimal that it stands for: 0.1 + 0.2 is 0.3."""
    return round(float(value), round(-math.log10(step))) if 0 < step < 1 else float(value)


def _reaching(cells: Sequence[tuple[float, float]], ends: Sequence[float]) -> list[tuple[float, float]]:
    """The cells, with the first and the last reaching to the ends of all data; an atom there is left, with a cell beside it."""
    cells = list(cells)
    if ends and min(ends) < cells[0][0]:
        low, high = cells[0]
        cells = [(min(ends), high), *cells[1:]] if low < high else [(min(ends), min(ends)), *cells]
    if ends and max(ends) > cells[-1][1]:
        low, high = cells[-1]
        cells = [*cells[:-1], (low, max(ends))] if low < high else [*cells, (max(ends), max(ends))]
    return cells
