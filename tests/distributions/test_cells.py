"""Rows of cells: masses that sum to one, however they are laid out, and draws, places and events that follow them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vaekit.distributions import cells as module
from vaekit.distributions.cells import CellLayout, Cells, Grouped

SMALL = [3, 1, 2, 5, 11, 4, 30]  # with `few` the last two of more than 8 cells are in groups


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups from 9 cells on, so that all of them can be counted."""
    monkeypatch.setattr(module, "MOST_FLAT", 8)


def make(
    sizes: Sequence[int],
    batch: tuple[int, ...] = (),
    ordered: bool | Sequence[bool] = False,
    dtype: torch.dtype = torch.float64,
) -> tuple[Cells, list[Tensor]]:
    """A random distribution, and its leaves: the logits, and the features, weights and biases of groups."""
    layout = CellLayout(sizes)
    logits = torch.randn(*batch, layout.num_logits, dtype=dtype).requires_grad_()
    leaves, grouped = [logits], None
    if layout.groups:
        shapes = [(*batch, 3), (layout.num_grouped, 3), (layout.num_grouped,)]
        features, weight, bias = (torch.randn(*shape, dtype=dtype).requires_grad_() for shape in shapes)
        grouped = Grouped(features, weight, bias + layout.grouped_padding().to(dtype))
        leaves += [features, weight, bias]
    flags = [ordered] * len(sizes) if isinstance(ordered, bool) else ordered
    return Cells(logits + layout.padding().to(dtype), layout, flags, grouped), leaves


def by_hand(p: Cells, leaves: list[Tensor], column: int) -> Tensor:
    """(*batch, n): the masses of one column from the definition, one cell after the other."""
    layout, size = p.layout, p.layout.sizes[column]
    first = layout.firsts()[column]
    if column not in layout.groups:
        return leaves[0][..., first : first + size].softmax(-1)
    groups = layout.groups[column]
    of_group = leaves[0][..., first : first + groups.count].softmax(-1)
    masses = []
    for cell in range(size):
        group = cell // groups.size
        members = range(group * groups.size, min(size, (group + 1) * groups.size))
        logits = [leaves[1] @ leaves[2][groups.first + k] + leaves[3][groups.first + k] for k in members]
        inside = torch.stack(logits, -1).softmax(-1)[..., cell - group * groups.size]
        masses.append(of_group[..., group] * inside)
    return torch.stack(masses, -1)


@pytest.mark.usefixtures("few")
def test_masses_are_those_of_the_definition_and_sum_to_one() -> None:
    p, leaves = make(SMALL, (2, 3))
    assert set(p.layout.groups) == {4, 6}
    for column, size in enumerate(SMALL):
        log_masses = p.column_log_masses(column)
        assert log_masses.shape == (2, 3, size)
        torch.testing.assert_close(log_masses.exp(), by_hand(p, leaves, column))
        torch.testing.assert_close(log_masses.logsumexp(-1), torch.zeros(2, 3, dtype=torch.float64))
        x = torch.full((size, 1, 1, len(SMALL)), 0.25, dtype=torch.float64)
        x[..., column] = torch.arange(size)[:, None, None] + 0.25
        torch.testing.assert_close(p.log_prob_columns(x)[..., column].movedim(0, -1), log_masses)


def test_every_row_of_a_small_table_is_counted_once() -> None:
    sizes = [2, 1, 3, 2]
    p, _ = make(sizes, (4,))
    rows = torch.tensor(list(itertools.product(*map(range, sizes))), dtype=torch.float64) + 0.5
    torch.testing.assert_close(p.log_prob(rows[:, None]).exp().sum(0), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("size", [1023, 1024, 1025, 1500, 2048, 5000])
def test_columns_of_many_cells(size: int) -> None:
    """At the real limit; the density of one value is the mass among all of them."""
    p, _ = make([size, 3], (2,))
    assert (0 in p.layout.groups) == (size > module.MOST_FLAT)
    masses = p.column_log_masses(0)
    torch.testing.assert_close(masses.logsumexp(-1), torch.zeros(2, dtype=torch.float64))
    cell = torch.tensor([0, 1, 2, size // 2, size - 2, size - 1])
    x = torch.stack([cell + 0.999, torch.zeros(6)], -1).double()[:, None]
    torch.testing.assert_close(p.log_prob_columns(x)[..., 0].T, masses[:, cell])
    if size > module.MOST_FLAT:
        groups = p.layout.groups[0]
        assert (groups.count - 1) * groups.size < size <= groups.count * groups.size
        assert groups.count <= groups.size + 1
        assert p.layout.num_logits < 200


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9))
@settings(max_examples=30, deadline=None)
def test_layout(sizes: list[int]) -> None:
    """Each column has entries of its own; those left over are marked, and no rectangle is twice as wide as its columns."""
    layout = CellLayout(sizes)
    places = [set(range(first, first + width)) for first, width in zip(layout.firsts(), layout.widths, strict=True)]
    assert len(set().union(*places)) == sum(layout.widths)
    free = torch.zeros(layout.num_logits)
    free[[place for column in places for place in column]] = 1
    assert torch.equal(layout.padding().isfinite(), free.bool())
    assert layout.num_logits < 2 * sum(sizes)
    p, leaves = make(sizes)
    for column in range(len(sizes)):
        torch.testing.assert_close(p.column_log_masses(column).exp(), by_hand(p, leaves, column))


@pytest.mark.usefixtures("few")
def test_frequencies_of_draws() -> None:
    """Pearson's statistic of each column: chi-square of n - 1 degrees, beyond six of its deviations never."""
    torch.manual_seed(0)
    p, _ = make(SMALL, (2,))
    num = 20_000
    x = p.sample((num,))
    assert x.shape == (num, 2, len(SMALL))
    assert not x.requires_grad
    for column, size in enumerate(SMALL):
        assert x[..., column].min() >= 0
        assert x[..., column].max() < size  # an entry left over is never drawn
        for row in range(2):
            expected = num * p.column_log_masses(column)[row].exp()
            found = torch.bincount(x[:, row, column].long(), minlength=size)
            statistic = ((found - expected).square() / expected).sum().item()
            assert statistic <= size - 1 + 6 * math.sqrt(2 * max(1, size - 1)), (column, statistic)
    share = (x % 1).flatten(0, 1)
    assert ((share.mean(0) - 0.5).abs() < 5 / math.sqrt(12 * 2 * num)).all()
    assert ((share.square().mean(0) - 1 / 3).abs() < 5 * math.sqrt(4 / 45 / (2 * num))).all()
    centred = (x - x.mean(0)) / x.std(0).clamp(min=1e-9)
    correlation = torch.einsum("nbi,nbj->bij", centred, centred) / num  # columns are independent
    assert (correlation - torch.diag_embed(correlation.diagonal(dim1=-2, dim2=-1))).abs().max() < 5 / math.sqrt(num)


def test_draws_of_rare_and_impossible_cells() -> None:
    layout = CellLayout([4])
    p = Cells(torch.tensor([0.0, -torch.inf, -200.0, 1.0]), layout, [True])
    x = p.sample((2000,)).floor()
    assert set(x.flatten().tolist()) == {0.0, 3.0}
    assert p.log_prob(torch.tensor([[1.5], [2.5]])).tolist() == [-math.inf, pytest.approx(-201.3133, abs=1e-3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_places_stay_in_their_cell(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """At cell 100,000 float32 has 128 places, and the next of them up is another category."""
    size, wanted = 100_001, 100_000
    layout = CellLayout([size])
    grouped = Grouped(torch.zeros(1, dtype=dtype), torch.zeros(layout.num_grouped, 1, dtype=dtype), layout.grouped_padding())
    grouped.bias[wanted] = 60.0
    logits = layout.padding().to(dtype)
    logits[wanted // layout.groups[0].size] = 60.0
    p = Cells(logits, layout, [True], grouped)
    events = {0: torch.tensor([[float(wanted), wanted + 1.0]], dtype=torch.float64)}
    for draw in (lambda: p.sample((500,)), lambda: p.sample_within(events)):
        assert draw().dtype == dtype
        assert (draw().floor() == wanted).all()
    least = {torch.float32: 1 - 2**-24, torch.float64: 1 - 2**-53}  # the last number below 1
    monkeypatch.setattr(torch, "rand", lambda *shape, dtype, device=None: torch.full(*shape, least[dtype], dtype=dtype))
    monkeypatch.setattr(torch, "rand_like", lambda other: torch.full_like(other, least[other.dtype]))
    assert p.sample((2,)).floor().eq(wanted).all()
    assert p.sample_within(events).floor().eq(wanted).all()
    assert p.middle.floor().item() == wanted
    assert p.log_prob(p.middle).item() == pytest.approx(0.0, abs=1e-4)


EVENTS = {
    0: [[0.25, 0.5], [2.0, 3.0]],
    3: [[0.5, 3.25]],
    4: [[0.0, 1.0], [5.5, 5.75], [8.9, 11.0]],
    6: [[29.25, 30.0]],
}


def fraction(intervals: list[list[float]], cell: int) -> float:
    """How much of a cell lies in the intervals."""
    return sum(max(0.0, min(high, cell + 1) - max(low, cell)) for low, high in intervals)


@pytest.mark.usefixtures("few")
def test_mass_of_an_event() -> None:
    p, leaves = make(SMALL, (2, 3))
    total = torch.zeros(2, 3, dtype=torch.float64)
    for column, intervals in EVENTS.items():
        share = torch.tensor([fraction(intervals, cell) for cell in range(SMALL[column])], dtype=torch.float64)
        total = total + (by_hand(p, leaves, column) * share).sum(-1).log()
    events = {column: torch.tensor(intervals, dtype=torch.float64) for column, intervals in EVENTS.items()}
    torch.testing.assert_close(p.log_mass(events), total)
    torch.testing.assert_close(p.log_mass({}), torch.zeros(2, 3, dtype=torch.float64))
    whole = {column: torch.tensor([[-5.0, size + 5.0]]) for column, size in enumerate(SMALL)}
    torch.testing.assert_close(p.log_mass(whole), torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.usefixtures("few")
def test_draws_within_an_event() -> None:
    torch.manual_seed(1)
    num = 20_000
    p, leaves = make(SMALL)
    events = {column: torch.tensor(intervals, dtype=torch.float64) for column, intervals in EVENTS.items()}
    logits = leaves[0].detach().expand(num, -1) + p.layout.padding().double()
    grouped = Grouped(leaves[1].detach().expand(num, -1), leaves[2].detach(), leaves[3].detach() + p.layout.grouped_padding())
    many = Cells(logits, p.layout, p.ordered, grouped)
    x = many.sample_within(events)
    for column, size in enumerate(SMALL):
        expected = p.column_log_masses(column).exp()
        if column in EVENTS:
            expected = expected * torch.tensor([fraction(EVENTS[column], cell) for cell in range(size)], dtype=torch.float64)
            places = x[:, column]
            assert torch.stack([(places >= low) & (places < high) for low, high in EVENTS[column]]).any(0).all()
            for low, high in EVENTS[column]:
                cell = math.floor(low)
                inside = places[(places >= low) & (places < min(high, cell + 1))]
                width = min(high, cell + 1) - low  # uniform in the part of a cell
                assert abs(inside.mean().item() - low - width / 2) < 5 * width / math.sqrt(12 * len(inside))
        expected = num * expected / expected.sum()
        found = torch.bincount(x[:, column].long(), minlength=size)
        assert (found[expected == 0] == 0).all()
        kept = expected > 0
        statistic = ((found - expected).square()[kept] / expected[kept]).sum().item()
        assert statistic <= kept.sum() - 1 + 6 * math.sqrt(2 * max(1, size - 1)), (column, statistic)


def test_rare_events_are_drawn() -> None:
    """An event of mass e^-200, which no float32 holds, still has a distribution."""
    layout = CellLayout([4])
    p = Cells(torch.tensor([0.0, -200.0, -200.0 + math.log(3), -math.inf]).expand(4000, 4), layout, [True])
    events = {0: torch.tensor([[1.0, 3.0]])}
    assert p.log_mass(events)[0].item() == pytest.approx(-200 + math.log(4), abs=1e-3)
    cells = p.sample_within(events).floor()
    assert set(cells.flatten().tolist()) == {1.0, 2.0}
    assert abs((cells == 2).float().mean().item() - 0.75) < 5 * math.sqrt(0.75 * 0.25 / 4000)


def test_draws_within_narrow_parts_never_leave_them() -> None:
    """Parts narrower than float32 is fine: the nearest place to it that has the same cell."""
    torch.manual_seed(2)
    layout = CellLayout([256])
    p = Cells(layout.padding().expand(2000, -1), layout, [True])
    for low, high in [(200.0, 201.0), (200.3, 200.30002), (255.99999, 256.0), (254.999999, 255.0)]:
        x = p.sample_within({0: torch.tensor([[low, high]], dtype=torch.float64)})
        assert (x.floor() == math.floor(low)).all()
        assert (x.double() < high).all()
        assert (x.double() >= low - 2**-16).all()


def test_events_that_cannot_be_are_refused() -> None:
    p, _ = make([3])
    for intervals in ([[1.0, 1.0]], [[3.0, 4.0]], [[2.0, 1.0]]):
        with pytest.raises(ValueError, match="part that can happen"):
            p.log_mass({0: torch.tensor(intervals)})


@pytest.mark.usefixtures("few")
def test_a_mask_is_a_marginal_and_reads_nothing() -> None:
    sizes = [2, 11, 3]
    p, leaves = make(sizes, (2, 4))
    x = torch.tensor([1.5, 9.5, 0.5], dtype=torch.float64)
    for mask in itertools.product([True, False], repeat=3):
        observed = torch.tensor(mask)
        rest = [range(size) if not seen else [None] for size, seen in zip(sizes, mask, strict=True)]
        summed = torch.zeros(2, 4, dtype=torch.float64)
        for row in itertools.product(*rest):
            full = torch.tensor([x[i] if cell is None else cell + 0.5 for i, cell in enumerate(row)], dtype=torch.float64)
            summed = summed + p.log_prob(full).exp()
        torch.testing.assert_close(p.log_prob(x, observed).exp(), summed)
        for junk in (math.nan, math.inf, -math.inf, -1.0, 1e9):
            dirty = p.log_prob(torch.where(observed, x, junk), observed)
            assert torch.equal(dirty, p.log_prob(x, observed))
            gradients = torch.autograd.grad(dirty.sum() + 0 * leaves[0].sum(), leaves, retain_graph=True, allow_unused=True)
            assert all(gradient is None or torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.usefixtures("few")
def test_broadcasting_is_that_of_a_loop() -> None:
    """Values (B, C) under K draws of the latent, and N values under one distribution; masks of any such shape."""
    sizes = [3, 11]
    p, _ = make(sizes, (5, 4))
    x = torch.stack([torch.rand(4) * 3, torch.rand(4) * 11], -1).double()
    mask = torch.rand(4, 2) < 0.5
    loop = torch.stack([torch.stack([p.log_prob(x[b])[k, b] for b in range(4)]) for k in range(5)])
    torch.testing.assert_close(p.log_prob(x), loop)
    torch.testing.assert_close(p.log_prob(x.expand(5, 4, 2)), loop)
    assert p.log_prob(x, mask).shape == (5, 4)
    torch.testing.assert_close(p.log_prob(x, mask), torch.where(mask, p.log_prob_columns(x), 0.0).sum(-1))
    one, _ = make(sizes)
    torch.testing.assert_close(one.log_prob(x), torch.stack([one.log_prob(row) for row in x]))
    assert one.sample((7,)).shape == (7, 2)
    assert p.log_prob(torch.zeros(6, 1, 1, 2)).shape == (6, 5, 4)


@pytest.mark.usefixtures("few")
def test_gradient() -> None:
    sizes = [3, 11, 1]
    layout = CellLayout(sizes)
    x = torch.tensor([[2.5, 10.5, 0.5], [0.1, 0.1, 0.9]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, False, True]])
    _, leaves = make(sizes, (2,))

    def log_prob(*leaves: Tensor) -> Tensor:
        grouped = Grouped(leaves[1], leaves[2], leaves[3] + layout.grouped_padding().double())
        p = Cells(leaves[0] + layout.padding().double(), layout, [False] * 3, grouped)
        return torch.cat([p.log_prob(x), p.log_prob(x, mask), p.column_log_masses(1).flatten()])

    assert torch.autograd.gradcheck(log_prob, leaves)
    log_prob(*leaves).sum().backward()
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves if leaf.grad is not None)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("outside", [-1e-9, -3.0, 11.0, 11.5, 1e30, math.inf, -math.inf, math.nan])
def test_out_of_every_cell(outside: float) -> None:
    """Columns with and without groups, and with and without entries left over; the first place past each has no mass."""
    sizes = [11, 16, 4, 5]
    p, _ = make(sizes, (2,))
    assert set(p.layout.groups) == {0, 1}
    for column, size in enumerate(sizes):
        x = torch.full((4,), 0.5, dtype=torch.float64)
        x[column] = outside + size - 11 if outside >= 11 else outside
        terms = p.log_prob_columns(x)
        assert (terms[:, column] == -math.inf).all()
        assert terms.isfinite().sum() == 6
        assert (p.log_prob(x) == -math.inf).all()


@pytest.mark.usefixtures("few")
def test_middle_and_mean() -> None:
    """The median halves the mass, uniform inside its cell; of no order, the likeliest cell."""
    ordered = [True, False, True, True, False, True, True, True]
    sizes = [*SMALL, 11]
    p, leaves = make(sizes, (2, 3), ordered)
    for column, size in enumerate(sizes):
        masses = by_hand(p, leaves, column)
        middle, mean = p.middle[..., column], p.mean[..., column]
        torch.testing.assert_close(mean, (masses * (torch.arange(size) + 0.5)).sum(-1))
        if not ordered[column]:
            assert torch.equal(middle, masses.argmax(-1) + 0.5)
            continue
        cell = middle.floor().long()
        below = torch.where(torch.arange(size) < cell[..., None], masses, 0.0).sum(-1)
        inside = masses.gather(-1, cell[..., None])[..., 0]
        torch.testing.assert_close(below + inside * (middle - cell), torch.full_like(middle, 0.5), rtol=0, atol=1e-3)
        assert p.log_prob(p.middle).isfinite().all()


def test_a_median_at_an_edge() -> None:
    """Exactly half of the mass below: the upper end of a cell, within it."""
    for masses in ([0.5, 0.5], [0.25, 0.25, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]):
        layout = CellLayout([len(masses)])
        logits = layout.padding()
        logits[: len(masses)] = torch.tensor(masses).log()
        p = Cells(logits, layout, [True])
        assert p.log_prob(p.middle).isfinite()
        mass = torch.tensor(masses)
        cell = int(p.middle.floor())
        below = mass[:cell].sum() + mass[cell] * (p.middle - cell)
        assert abs(below.item() - 0.5) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype(dtype: torch.dtype) -> None:
    p, _ = make([3, 1500], (2,), True, dtype)
    x = p.sample((5,))
    events = {1: torch.tensor([[0.5, 2.0]])}
    for value in (x, p.log_prob(x), p.mean, p.middle, p.log_mass(events), p.sample_within(events)):
        assert value.dtype == dtype
    double = x.double()
    torch.testing.assert_close(p.log_prob(double), p.log_prob(x))  # places may have more digits than the masses


def test_a_seed_gives_the_same_rows() -> None:
    p, _ = make([3, 1500], (2,))
    rows = []
    for _ in range(2):
        torch.manual_seed(5)
        rows.append((p.sample((4,)), p.sample_within({1: torch.tensor([[0.5, 700.25]])})))
    assert torch.equal(rows[0][0], rows[1][0])
    assert torch.equal(rows[0][1], rows[1][1])
