"""Rows of a table: each column divided into cells, with a mass for each cell and a uniform place inside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vaekit.distributions.products import MaskableDistribution

MOST_FLAT = 1024
"""Cells up to which a column has a logit for each of them; beyond, a group is drawn first, and then a cell of it."""


@dataclass(frozen=True)
class Groups:
    """How a column of many cells is divided: cell k is in the group k // size.

    Attributes:
        count: groups, about the root of the number of cells.
        size: cells a group; the last may have fewer.
        first: where the column's cells begin among those of all such columns, of which each has count * size.
    """

    count: int
    size: int
    first: int

    @property
    def rows(self) -> slice:
        """The column's cells among those of all such columns."""
        return slice(self.first, self.first + self.count * self.size)


@dataclass(frozen=True)
class Positions:
    """The numbers of a `CellLayout` as tensors on a device.

    Attributes:
        sizes: (C,) the cells of each column.
        group_sizes: (C,) the cells of a group of each column; 1 where there are no groups.
        blocks: of each rectangle, its columns.
        from_blocks: (C,) where each column is among those of all rectangles.
        grouped: of each column with groups, its index as a tensor (1,).
    """

    sizes: Tensor
    group_sizes: Tensor
    blocks: tuple[Tensor, ...]
    from_blocks: Tensor
    grouped: dict[int, Tensor]


class CellLayout:
    """Where the logits of columns with n_1, ..., n_C cells stand, so that all of them are normalised in a few operations.

    Columns of similar size are the rows of one rectangle, as wide as the next power of two; the entries left over are never
    likely. A column of more than `MOST_FLAT` cells has there a logit for each of its groups.

    Args:
        sizes: n_c, the cells of each column.

    Attributes:
        sizes: as given.
        widths: the entries of each column in its rectangle: its cells, or its groups.
        blocks: of each rectangle, its columns and its width.
        groups: of each column with groups.
        num_logits: entries of all rectangles.
        num_grouped: cells of all columns with groups, those left over included.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self.groups: dict[int, Groups] = {}
        self.num_grouped = 0
        widths = []
        for column, cells in enumerate(self.sizes):
            if cells > MOST_FLAT:
                size = math.isqrt(cells - 1) + 1
                self.groups[column] = Groups(-(-cells // size), size, self.num_grouped)
                self.num_grouped += self.groups[column].count * size
            widths.append(self.groups[column].count if column in self.groups else cells)
        self.widths = tuple(widths)
        powers = sorted({_power(width) for width in widths})
        self.blocks = [([c for c, width in enumerate(widths) if _power(width) == power], power) for power in powers]
        self.num_logits = sum(len(columns) * width for columns, width in self.blocks)
        order = [column for columns, _ in self.blocks for column in columns]
        self.from_blocks = sorted(range(len(order)), key=order.__getitem__)
        self._positions: dict[torch.device, Positions] = {}

    def on(self, device: torch.device) -> Positions:
        """The layout as tensors, which come to a device once: each copy to it would hold up a step of training."""
        if device not in self._positions:
            group_sizes = [self.groups[c].size if c in self.groups else 1 for c in range(len(self.sizes))]
            with torch.inference_mode(False):
                self._positions[device] = Positions(
                    torch.tensor(self.sizes, device=device),
                    torch.tensor(group_sizes, device=device),
                    tuple(torch.tensor(columns, device=device) for columns, _ in self.blocks),
                    torch.tensor(self.from_blocks, device=device),
                    {column: torch.tensor([column], device=device) for column in self.groups},
                )
        return self._positions[device]

    def firsts(self) -> list[int]:
        """Where the entries of each column begin among the logits."""
        firsts, start = {}, 0
        for columns, width in self.blocks:
            for column in columns:
                firsts[column], start = start, start + width
        return [firsts[column] for column in range(len(self.sizes))]

    def padding(self) -> Tensor:
        """(num_logits,): 0 at entries that stand for something, -inf at those left over."""
        rest = torch.full((self.num_logits,), -torch.inf)
        for first, width in zip(self.firsts(), self.widths, strict=True):
            rest[first : first + width] = 0.0
        return rest

    def grouped_padding(self) -> Tensor:
        """(num_grouped,): 0 at cells of columns with groups, -inf at those left over."""
        rest = torch.full((self.num_grouped,), -torch.inf)
        for column, groups in self.groups.items():
            rest[groups.first : groups.first + self.sizes[column]] = 0.0
        return rest


def _power(width: int) -> int:
    return 1 << (width - 1).bit_length()


@dataclass(frozen=True)
class Grouped:
    """The logits of cells inside their groups: features . weight[cell] + bias[cell].

    Attributes:
        features: (..., R).
        weight: (G, R), a row a cell of all columns with groups.
        bias: (G,), -inf where there is no cell.
    """

    features: Tensor
    weight: Tensor
    bias: Tensor

    def inside(self, groups: Groups, group: Tensor) -> Tensor:
        """(..., size): log p(cell|group) of the cells of one group (...)."""
        weight = self.weight[groups.rows].unflatten(0, (groups.count, groups.size))
        bias = self.bias[groups.rows].unflatten(0, (groups.count, groups.size))
        return ((weight[group] @ self.features.unsqueeze(-1)).squeeze(-1) + bias[group]).log_softmax(-1)

    def all(self, groups: Groups) -> Tensor:
        """(..., count, size): log p(cell|group) of every cell."""
        logits = self.features @ self.weight[groups.rows].T + self.bias[groups.rows]
        return logits.unflatten(-1, (groups.count, groups.size)).log_softmax(-1)


class Cells(MaskableDistribution):
    """A product over columns; a value is a place x_c in [0, n_c), whose cell is floor(x_c).

        log p(x) = sum_c log p_c(floor(x_c)),   p_c = softmax(logits of the column)

    Inside a cell the density is uniform, so the mass of a cell is its density: categories are cells whose place inside means
    nothing, and a number is brought to such a place by a piecewise linear map (`data.tables.CellGrid`), which makes the
    density of the number a histogram whose masses depend on the latent. Columns are independent, so leaving a term out is
    integrating that column out exactly.

    Of a column of more than `MOST_FLAT` cells, p(cell) = p(group) p(cell|group), with about sqrt(n) groups: the log-density
    of a value takes the logits of the groups and of one group, and not of every cell. Goodman, "Classes for fast maximum
    entropy training" (2001).

    Args:
        logits: (*batch, layout.num_logits), -inf at entries left over.
        layout: of the columns.
        ordered: (C,) bool, whether the cells of a column have an order; decides what stands for the distribution in `middle`.
        grouped: the cells of columns with groups; None where there are none.

    Example:
        >>> layout = CellLayout([2, 3])
        >>> p = Cells(layout.padding(), layout, [False, True])
        >>> round(p.log_prob(torch.tensor([0.5, 2.9])).exp().item(), 4)
        0.1667
        >>> p.middle
        tensor([0.5000, 1.5000])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, logits: Tensor, layout: CellLayout, ordered: Sequence[bool], grouped: Grouped | None = None) -> None:
        super().__init__(logits.shape[:-1], torch.Size([len(layout.sizes)]), validate_args=False)
        self.layout, self.ordered, self.grouped = layout, tuple(map(bool, ordered)), grouped
        sizes = [len(columns) * width for columns, width in layout.blocks]
        parts = logits.split(sizes, dim=-1)
        self.log_masses = [
            part.unflatten(-1, (len(columns), width)).log_softmax(-1)
            for part, (columns, width) in zip(parts, layout.blocks, strict=True)
        ]

    def log_prob_columns(self, value: Tensor) -> Tensor:
        """(..., C): log p of each column of `value` (..., C); NaN counts as out of every cell: -inf."""
        positions = self.layout.on(value.device)
        cells = value.nan_to_num(-1.0).floor().long()
        inside = (cells >= 0) & (cells < positions.sizes)
        cells = torch.where(inside, cells, 0)
        entries = cells // positions.group_sizes if self.layout.groups else cells
        parts = []
        for columns, log_mass in zip(positions.blocks, self.log_masses, strict=True):
            index = entries.index_select(-1, columns).unsqueeze(-1)
            lead = torch.broadcast_shapes(index.shape[:-2], log_mass.shape[:-2])
            log_mass = log_mass.expand(*lead, *log_mass.shape[-2:])
            parts.append(log_mass.gather(-1, index.expand(*lead, *index.shape[-2:])).squeeze(-1))
        found = torch.cat(parts, -1).index_select(-1, positions.from_blocks)
        for column, groups in self.layout.groups.items():
            assert self.grouped is not None
            place = cells[..., column].expand(found.shape[:-1])
            log_inside = self._grouped(found.shape[:-1]).inside(groups, place // groups.size)
            extra = log_inside.gather(-1, (place % groups.size).unsqueeze(-1))
            found = found.index_add(-1, positions.grouped[column], extra)
        return torch.where(inside, found, -torch.inf)

    def _grouped(self, shape: torch.Size) -> Grouped:
        assert self.grouped is not None
        features = self.grouped.features.expand(*shape, self.grouped.features.shape[-1])
        return Grouped(features, self.grouped.weight, self.grouped.bias)

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(...): log p of the observed columns of `value` (..., C); what stands at a missing one is not read.

        Args:
            value: (..., C).
            mask: broadcasts to (..., C), True where observed.
        """
        terms = self.log_prob_columns(value)
        return (terms if mask is None else torch.where(mask, terms, 0.0)).sum(-1)

    def column_log_masses(self, column: int) -> Tensor:
        """(*batch, n): log p of every cell of one column."""
        log_mass = self._entries(column)
        if column in self.layout.groups:
            assert self.grouped is not None
            log_mass = (log_mass.unsqueeze(-1) + self.grouped.all(self.layout.groups[column])).flatten(-2)
        return log_mass[..., : self.layout.sizes[column]]

    def _entries(self, column: int) -> Tensor:
        for (columns, _), log_mass in zip(self.layout.blocks, self.log_masses, strict=True):
            if column in columns:
                return log_mass[..., columns.index(column), : self.layout.widths[column]]
        raise AssertionError(column)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample_shape, *batch, C)."""
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            drawn = [_draw(log_mass.expand(*shape, *log_mass.shape[-2:])) for log_mass in self.log_masses]
            cells = torch.cat(drawn, -1).index_select(-1, self.layout.on(drawn[0].device).from_blocks)
            for column, groups in self.layout.groups.items():
                group = cells[..., column]
                cells[..., column] = group * groups.size + _draw(self._grouped(shape).inside(groups, group))
            return _placed(cells, self.log_masses[0].dtype)

    @property
    def mean(self) -> Tensor:
        """(*batch, C): E[x_c]; it means something for ordered columns alone (see `middle`)."""
        columns = []
        for column, size in enumerate(self.layout.sizes):
            log_mass = self.column_log_masses(column)
            columns.append(log_mass.exp() @ (torch.arange(size, dtype=log_mass.dtype, device=log_mass.device) + 0.5))
        return torch.stack(columns, -1)

    @property
    def middle(self) -> Tensor:
        """(*batch, C): what stands for each column: the median of one with an order, the likeliest cell of another."""
        parts = []
        for (columns, _), log_mass in zip(self.layout.blocks, self.log_masses, strict=True):
            likeliest = log_mass.argmax(-1) + 0.5
            ordered = torch.tensor([self.ordered[c] for c in columns], device=log_mass.device)
            parts.append(torch.where(ordered, _median(log_mass), likeliest))
        middle = torch.cat(parts, -1)[..., self.layout.from_blocks]
        for column in self.layout.groups:
            log_mass = self.column_log_masses(column)
            middle[..., column] = _median(log_mass) if self.ordered[column] else log_mass.argmax(-1) + 0.5
        return middle

    def log_mass(self, events: Mapping[int, Tensor]) -> Tensor:
        """(*batch): log P(x_c in E_c for each column c of `events`).

        Args:
            events: column -> (I, 2), disjoint intervals [from, to) of places.
        """
        total = self.log_masses[0].new_zeros(self.batch_shape)
        for column, intervals in events.items():
            pieces, cell = _pieces(intervals, self.layout.sizes[column])
            weights = (pieces[:, 1] - pieces[:, 0]).log().to(total.dtype).to(total.device)
            total = total + (self.column_log_masses(column)[..., cell.to(total.device)] + weights).logsumexp(-1)
        return total

    def sample_within(self, events: Mapping[int, Tensor]) -> Tensor:
        """(*batch, C): a draw of p(x | x_c in E_c for each column c of `events`); the other columns are free.

        Args:
            events: column -> (I, 2), disjoint intervals [from, to) of places.
        """
        x = self.sample()
        for column, intervals in events.items():
            pieces, cell = _pieces(intervals, self.layout.sizes[column])
            log_mass = self.column_log_masses(column)[..., cell.to(x.device)]
            log_mass = log_mass + (pieces[:, 1] - pieces[:, 0]).log().to(x.dtype).to(x.device)
            low, high = pieces[_draw(log_mass.log_softmax(-1)).cpu()].unbind(-1)
            x[..., column] = _rounded(low + torch.rand_like(low) * (high - low), low, high, x.dtype).to(x.device)
        return x


def _draw(log_mass: Tensor) -> Tensor:
    """(...): an index for each row of log-masses (..., n)."""
    return torch.multinomial(log_mass.exp().reshape(-1, log_mass.shape[-1]), 1).view(log_mass.shape[:-1])


def _placed(cells: Tensor, dtype: torch.dtype) -> Tensor:
    """A uniform place in each cell, inside it after rounding."""
    low = cells.to(dtype)
    return _inside(low + torch.rand(low.shape, dtype=dtype, device=low.device), low)


def _inside(place: Tensor, cell: Tensor) -> Tensor:
    """Places that rounding has not brought into the next cell: beyond cell 2^14, float32 has few numbers in each."""
    cell = cell.to(place.dtype)
    return torch.minimum(place, torch.nextafter(cell + 1, cell))


def _rounded(place: Tensor, low: Tensor, high: Tensor, dtype: torch.dtype) -> Tensor:
    """Places in [low, high) of float64 as another dtype, still below `high` if the cell has a number there."""
    top = high.to(dtype)
    top = torch.where(top.to(high) >= high, torch.nextafter(top, top - 1), top)
    return torch.maximum(torch.minimum(place.to(dtype), top), low.floor().to(dtype))


def _median(log_mass: Tensor) -> Tensor:
    """(...): the place up to which half of the mass lies."""
    mass = log_mass.exp()
    upto = mass.cumsum(-1)
    cell = (upto < 0.5).sum(-1, keepdim=True).clamp(max=mass.shape[-1] - 1)
    inside = mass.gather(-1, cell)
    before = upto.gather(-1, cell) - inside
    return _inside(cell + ((0.5 - before) / inside).clamp(0.0, 0.999), cell).squeeze(-1)


def _pieces(intervals: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The parts (P, 2) of intervals (I, 2) in each cell of a column, and those cells (P,): float64, and on the CPU for that."""
    bounds = intervals.cpu().double().clamp(0.0, float(size))
    parts, cells = [], []
    for low, high in bounds.tolist():
        first, last = math.floor(low), math.ceil(high)
        if first >= last:
            continue
        cell = torch.arange(first, last)
        edges = torch.stack([cell.double().clamp(min=low), (cell + 1).double().clamp(max=high)], -1)
        kept = edges[:, 1] > edges[:, 0]
        parts.append(edges[kept])
        cells.append(cell[kept])
    if not parts:
        raise ValueError("an event must have a part that can happen")
    return torch.cat(parts), torch.cat(cells)
