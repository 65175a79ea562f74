"""From the cells of a table to places on a grid, and back: numbers by a piecewise linear map, categories by their codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Generator, Tensor

from vaekit.data.dataset import Dataset
from vaekit.data.tables.columns import TableColumn, num_channels, state_channels
from vaekit.data.transforms import Transform
from vaekit.errors import ConfigError
from vaekit.types import has_float64

MOST_CELLS = 256
"""Cells of a column of numbers; so many distinct values, if they repeat, have a cell each."""

BEYOND = 1e-4
"""The mass of each cell of numbers that is kept for values which the column did not have: beyond its ends, in a gap between two
cells, or between two steps."""

_FIT_ROWS = 100_000
_ROWS_A_VALUE = 4
_ROWS_A_CELL = 24
_LEAST_CELLS = 4
_TAIL_ROWS = 8
_DAY, _SECOND = 86_400e6, 1e6
_LEAST_ON_STEP = 16


@dataclass(frozen=True)
class _Numbers:
    """The cells of all channels of numbers, M of them with at most E cells, in float64 on one device.

    Attributes:
        index: (M,) which channels.
        low, high: (M, E), infinities where there is no cell.
        bounds: (M, E - 1) from where on a value counts to the next cell.
        step: (M, 1) s, 0 where there is none.
        finer: (M, 1) a tenth of s, or 1 where s is greater than that: how far apart values off the step are taken to be.
        span: (M, 1) the distance between the ends of the column.
        count: (C,) cells of every channel.
    """

    index: Tensor
    low: Tensor
    high: Tensor
    bounds: Tensor
    step: Tensor
    finer: Tensor
    span: Tensor
    count: Tensor


class CellGrid(Transform):
    """Each number v of a column to a place in [0, n): the cell that it lies in, and how far along it is there.

    A cell is an interval [low, high] of values that are steps s apart, or a single value, an atom, that many rows have.

        y = k + (v - low_k + s/2) / (high_k - low_k + s)        y = k + 1/2 of an atom and of a category's code k

    Under a likelihood with a uniform density in each cell (`likelihoods.Cells`) a column of numbers is a histogram whose masses
    depend on the latent: no shape is assumed, and repeated values such as 0, bounds, several modes and long tails are met. With
    a step s > 0 the figure is the mass of the value, without one its density. A column's ends are the least and the greatest
    value that was seen. A place is a float32 number: `inverse` of it is the value again where a cell has at most 2^15 values,
    but for decimals, which are still to be rounded to theirs.

    A value that the column never had, beyond its ends, between two cells or between two steps, has the place of the nearest
    that it could have had. Its density is not that one's: of the mass of each cell, epsilon = 10^-4 is kept for such values,
    the less the further they are. At a distance d from the nearest, in a column with a span r between its ends,

        log p(v) = log p(cell) + log(epsilon / 6) + log(u r / (r + d)^2)

    with u = s, 1 without a step, and of a value off the step 1 or a tenth of s, the lesser. All values together have at most
    the mass 1: of those beyond either end and in gaps the sum is at most 2, of those off the step at most 3 times epsilon / 6.

    The device may be one without float64: numbers are then placed on the CPU, and their places brought to where the grid is.

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
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 11.0]], dtype=torch.float64)
        >>> grid.log_abs_det(x).exp()
        tensor([9.9990e-01, 9.9990e-02, 1.3774e-06], dtype=torch.float64)
        >>> grid.beyond(x)[:, 1]
        tensor([0., 0., 1.], dtype=torch.float64)
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
        step = np.array([[channels[index]["step"]] for index in numbers], np.float64).reshape(-1, 1)
        last = np.array([[channels[index]["high"][-1]] for index in numbers], np.float64).reshape(-1, 1)
        span = last - low[:, :1]
        self._arrays: dict[str, np.ndarray] = {
            "index": np.array(numbers, np.int64),
            "low": low,
            "high": high,
            "bounds": np.where(np.isfinite(middle), middle, np.inf),
            "step": step,
            "finer": np.where(step > 1, 1.0, step / 10),
            "span": np.where(span > 0, span, np.where(step > 0, step, np.maximum(1.0, np.abs(last)))),
            "count": np.array(self.sizes, np.float64),
        }
        self._tensors: dict[torch.device, _Numbers] = {}
        self.register_buffer("_home", torch.zeros(1), persistent=False)  # which says where the grid is

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """float32 places (B, C) of cells (B, C) in float64; NaN becomes 1/2, which a mask must cover."""
        t = self._on(x.device)
        x = x.to(t.count.device)
        cell = torch.minimum(x.double().nan_to_num(0.0).floor().clamp(min=0.0), t.count - 1)
        share = torch.full_like(cell, 0.5)
        if len(t.index):
            placed = _Placed.of(x, t)
            cell[:, t.index], share[:, t.index] = placed.cell.T.double(), placed.share().T
        y, upper = (cell + share).float(), (cell + 1).float()
        y = torch.minimum(y, torch.nextafter(upper, upper - 1))  # rounding must not bring it into the next cell
        return torch.where(x.isnan(), 0.5, y).to(cast(Tensor, self._home).device)

    def inverse(self, y: Tensor) -> Tensor:
        """float64 cells (..., C) of places (..., C). Numbers are on a step of at least 1; decimals are not rounded."""
        t = self._on(y.device)
        y = y.to(t.count.device).double()
        x = torch.minimum(y.floor().clamp(min=0.0), t.count - 1)
        if len(t.index):
            cell = x[..., t.index].long().flatten(0, -2)
            share = (y[..., t.index].flatten(0, -2) - cell).clamp(0.0, 1.0)
            low, high = t.low.gather(1, cell.T), t.high.gather(1, cell.T)
            value = (low - t.step / 2 + share.T * (high - low + t.step)).clamp(min=low, max=high)
            on_step = low + ((value - low) / t.step).round() * t.step
            value = torch.where(t.step >= 1, on_step.clamp(max=high), value)
            x[..., t.index] = value.T.unflatten(0, x.shape[:-1])
        return x

    def log_abs_det(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B,): the sum over observed numbers of log(s / (high - low + s)), or -log(high - low) without a step, 0 of atoms; and
        of log(1 - epsilon) of each. For values that the column never had, see above.

        Args:
            x: (B, C) cells.
            mask: (B, C) bool, True where observed, or None.
        """
        terms = self.log_abs_det_columns(x)
        return (terms if mask is None else torch.where(mask.cpu(), terms, 0.0)).sum(1)

    def log_abs_det_columns(self, x: Tensor) -> Tensor:
        """(B, C) float64, on the CPU: the terms of `log_abs_det`, 0 of codes and of NaN."""
        t = self._on(x.device)
        x = x.to(t.count.device)
        found = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
        if len(t.index):
            placed = _Placed.of(x, t)
            distance, log_unit = placed.distance(), placed.log_unit() + math.log1p(-BEYOND)
            found[:, t.index] = torch.where(distance > 0, placed.log_beyond(distance), log_unit).T
        return torch.where(x.isnan(), 0.0, found).cpu()

    def beyond(self, x: Tensor) -> Tensor:
        """(B, C) float64, on the CPU: how far each number of x (B, C) is from the nearest that its column could have had; 0 of
        those that it could, of codes, and of NaN."""
        t = self._on(x.device)
        x = x.to(t.count.device)
        found = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
        if len(t.index):
            found[:, t.index] = _Placed.of(x, t).distance().T
        return found.cpu()

    def span(self, channel: int) -> float:
        """The distance between the ends of a channel of numbers, by which values beyond them are measured."""
        return float(self._arrays["span"][self._arrays["index"].tolist().index(channel), 0])

    def on_step(self, channel: int, values: Tensor) -> Tensor:
        """float64 numbers of a channel, each brought to the nearest on its step where that is more than 1.

        Args:
            channel: index.
            values: of any shape, on the CPU.
        """
        record = self.channels[channel]
        low, step = float(record["low"][0]), float(record["step"])
        return low + ((values - low) / step).round() * step if step > 1 else values

    def _on(self, device: torch.device) -> _Numbers:
        """The cells of numbers on a device, or on the CPU where that has no float64; they come to each once."""
        device = device if has_float64(device) else torch.device("cpu")
        if device not in self._tensors:
            with torch.inference_mode(False):
                self._tensors[device] = _Numbers(**{k: torch.from_numpy(v).to(device) for k, v in self._arrays.items()})
        return self._tensors[device]

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
        few = len(dataset) <= _FIT_ROWS
        rows = None if few else np.sort(np.random.default_rng(seed).choice(len(dataset), _FIT_ROWS, replace=False))
        cells = dataset.stored(rows)
        channels: list[dict[str, Any]] = [{"cells": 1}] * num_channels(columns)
        for index, column in enumerate(columns):
            if column.is_number or column.type == "datetime":
                values = cells[:, index].astype(np.float64)
                values = values[~np.isnan(values)]
                step = step_of(column, values)
                if step > 1 and column.type != "datetime" and not few:
                    step = _step_of_all(dataset, index, step, values[0])
                channels[index] = _numbers(values, column, most_cells, step)
            else:
                channels[index] = {"cells": max(1, len(column.categories))}
        for index, channel in state_channels(columns).items():
            channels[channel] = {"cells": columns[index].num_states}
        return cls(channels)


@dataclass(frozen=True)
class _Placed:
    """Numbers and the cells that they count to, all (M, B).

    Attributes:
        value: the numbers.
        cell: index of the cell.
        low, high: of it.
        numbers: all cells.
    """

    value: Tensor
    cell: Tensor
    low: Tensor
    high: Tensor
    numbers: _Numbers

    @classmethod
    def of(cls, x: Tensor, numbers: _Numbers) -> _Placed:
        """The numbers of x (B, C)."""
        value = x[:, numbers.index].T.double().contiguous()
        cell = torch.searchsorted(numbers.bounds, value.nan_to_num(0.0), right=True)
        return cls(value, cell, numbers.low.gather(1, cell), numbers.high.gather(1, cell), numbers)

    def share(self) -> Tensor:
        """How far through its cell each is, inside (0, 1)."""
        width, step = self.high - self.low, self.numbers.step
        inside = torch.minimum(torch.maximum(self.value, self.low), self.high)
        return torch.where(width > 0, (inside - self.low + step / 2) / (width + step), 0.5).clamp(1e-6, 1 - 1e-6)

    def log_unit(self) -> Tensor:
        """log of the share of its cell's mass that each has, or of the density there; 0 of an atom."""
        width, step = self.high - self.low, self.numbers.step
        return torch.where(width > 0, torch.where(step > 0, step, 1.0).log() - (width + step).log(), 0.0)  # no quotient is inf

    def distance(self) -> Tensor:
        """To the nearest value of the cell: 0 of one that is there but for rounding, and of NaN."""
        distance = (self.value - self._on_step(torch.minimum(torch.maximum(self.value, self.low), self.high))).abs()
        return torch.where(distance > self._slack(), distance, 0.0)

    def log_beyond(self, distance: Tensor) -> Tensor:
        """log of the share of its cell's mass that each would have at a distance from it, or of the density there."""
        step, span = self.numbers.step, self.numbers.span
        off = (self.value - self._on_step(self.value)).abs() > self._slack()
        unit = torch.where(off, self.numbers.finer, torch.where(step > 0, step, 1.0))
        return math.log(BEYOND / 6) + unit.log() - span.log() - 2 * torch.log1p(distance / span)

    def _on_step(self, values: Tensor) -> Tensor:
        """Each value brought to the nearest whole number of steps from its cell."""
        step = self.numbers.step
        return torch.where(step > 0, self.low + ((values - self.low) / torch.where(step > 0, step, 1.0)).round() * step, values)

    def _slack(self) -> Tensor:
        """What counts as rounding: to float32, and a millionth of a step."""
        step, rounding = self.numbers.step, 1.2e-7 * self.value.abs()
        return torch.where(step > 0, torch.minimum(rounding + 1e-6 * step, step.clamp(max=1.0) / 4), rounding)


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
    """The distance s between neighbouring values that a column can have; 0 where there is none.

    That of whole numbers is 1, or the greatest that divides all their differences, such as 100 of wages in hundreds, where
    there are enough distinct ones for it to be no chance.
    """
    if column.type in ("integer", "count"):
        return _common_step(values, column)
    if column.type == "datetime":
        return next((unit for unit in (_DAY, 60 * _SECOND, _SECOND) if np.all(values % unit == 0)), 1.0)
    return 0.0 if column.decimals is None else 10.0**-column.decimals


def _common_step(values: np.ndarray, column: TableColumn) -> float:
    ends = [end for end in (column.low, column.high) if end is not None]
    distinct = np.unique(np.concatenate([values, ends]))
    # Beyond 2^53 float64 has even numbers only.
    if len(distinct) < _LEAST_ON_STEP or max(abs(distinct[0]), abs(distinct[-1])) >= 2.0**53 or np.any(distinct % 1 != 0):
        return 1.0
    return float(np.gcd.reduce((distinct - distinct[0]).astype(np.int64)))


def _step_of_all(dataset: Dataset, index: int, step: float, first: float) -> float:
    """A step of whole numbers that some rows have, as all rows have it."""
    for start in range(0, len(dataset), _FIT_ROWS):
        if step == 1:
            break
        values = dataset.stored(np.arange(start, min(start + _FIT_ROWS, len(dataset))))[:, index]
        away = np.unique(np.abs(values[~np.isnan(values)] - first).astype(np.int64))
        step = float(np.gcd.reduce(np.append(away, int(step))))
    return step


def _numbers(values: np.ndarray, column: TableColumn, most_cells: int, step: float | None = None) -> dict[str, Any]:
    """The record of a column of numbers."""
    step = step_of(column, values) if step is None else step
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
