"""Numbers on a grid of cells: what goes in comes out, the density on the scale of the numbers is one, and events are exact."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaekit.component import build
from vaekit.data.loading import open as open_data
from vaekit.data.tables import grid as module
from vaekit.data.tables.columns import TableColumn
from vaekit.data.tables.grid import BEYOND, MOST_CELLS, CellGrid, step_of
from vaekit.distributions.cells import CellLayout, Cells
from vaekit.errors import ConfigError

KEPT = math.log1p(-BEYOND)
RNG = np.random.default_rng(0)
N = 600


def fitted(values: Any, kind: Any = "continuous", decimals: int | None = None, most: int = MOST_CELLS, **more: Any) -> CellGrid:
    """The grid of one column of numbers."""
    values = np.asarray(values, np.float64)
    seen = values[~np.isnan(values)]
    ends = {"low": float(seen.min()), "high": float(seen.max())} if len(seen) else {}
    column = TableColumn(name="v", type=kind, decimals=decimals, **{**ends, **more})
    return CellGrid([module._numbers(seen, column, most)])


COLUMNS: dict[str, tuple[Any, str, int | None]] = {
    "normal": (RNG.normal(size=N), "continuous", None),
    "float32": (RNG.normal(size=N).astype(np.float32).astype(np.float64), "continuous", None),
    "integers": (RNG.integers(-50, 5000, N), "integer", 0),
    "few integers": (RNG.integers(17, 91, N), "integer", 0),
    "wide integers": (np.rint(RNG.lognormal(8, 2, N)), "count", 0),
    "two decimals": (RNG.normal(0, 3, N).round(2), "continuous", 2),
    "one decimal": (RNG.integers(-40, 400, N) / 10, "continuous", 1),
    "six decimals": (1e6 + RNG.normal(size=N).round(6), "continuous", 6),
    "days": (np.rint(RNG.normal(18_000, 900, N)) * 86_400e6, "datetime", None),
    "seconds": (np.rint(RNG.normal(1.7e9, 1e7, N)) * 1e6, "datetime", None),
    "microseconds": (np.rint(RNG.normal(1.7e15, 1e13, N)), "datetime", None),
    "spike": (np.where(RNG.random(N) < 0.5, 0.0, RNG.lognormal(0, 2, N)), "continuous", None),
    "spikes": (np.where(RNG.random(N) < 0.6, RNG.integers(-2, 3, N), RNG.normal(0, 2, N)), "continuous", None),
    "whole spikes": (np.where(RNG.random(N) < 0.6, RNG.integers(0, 3, N) * 7, RNG.integers(0, 3000, N)), "integer", 0),
    "constant": (np.full(N, 3.25), "continuous", None),
    "one row": (np.array([7.5]), "continuous", None),
    "two rows": (np.array([7.0, 9.0]), "integer", 0),
    "Cauchy": (RNG.standard_cauchy(N) * 10, "continuous", None),
    "huge": (RNG.normal(size=N) * 1e300, "continuous", None),
    "beyond the half": (8.9e307 + RNG.random(N) * 1e306, "continuous", None),
    "tiny": (RNG.normal(size=N) * 1e-300, "continuous", None),
    "mixed sizes": (np.exp(RNG.normal(0, 200, N)), "continuous", None),
    "neighbours in float64": (np.nextafter(1.0, 2.0) ** np.arange(40), "continuous", None),
    "negative zero": (np.where(RNG.random(N) < 0.3, -0.0, RNG.normal(size=N)), "continuous", None),
    "beyond 2^53": (np.rint(RNG.normal(1e18, 1e17, N)), "integer", 0),
}
columns = pytest.mark.parametrize("name", COLUMNS)


def grid_of(name: str) -> tuple[CellGrid, np.ndarray, float]:
    values, kind, decimals = COLUMNS[name]
    grid = fitted(values, kind, decimals)
    return grid, np.asarray(values, np.float64), grid.channels[0]["step"]


def place(grid: CellGrid, values: Any) -> torch.Tensor:
    return grid(torch.as_tensor(np.asarray(values, np.float64))[:, None])[:, 0]


def rounded(values: torch.Tensor, step: float) -> np.ndarray:
    if step == 0:
        return values.numpy()
    return np.round(values.numpy(), round(-math.log10(step))) if step < 1 else np.rint(values.numpy() / step) * step


@columns
def test_cells_rise_and_hold_their_values(name: str) -> None:
    grid, values, _ = grid_of(name)
    low, high = np.array(grid.channels[0]["low"]), np.array(grid.channels[0]["high"])
    assert (low <= high).all()
    assert (high[:-1] <= low[1:]).all()
    assert len(low) <= MOST_CELLS
    assert low[0] == values.min()
    assert high[-1] == values.max()
    y = place(grid, values)
    assert y.dtype == torch.float32
    cell = y.floor().long().numpy()
    assert (cell >= 0).all()
    assert (cell < len(low)).all()
    assert ((low[cell] <= values) & (values <= high[cell])).all()


@columns
def test_round_trip(name: str) -> None:
    """With a step exactly, as long as a cell has at most 2^15 of its values; else to the precision of a place in float32."""
    grid, values, step = grid_of(name)
    y = place(grid, values)
    back = grid.inverse(y[:, None])[:, 0]
    cell = y.floor().long().numpy()
    low, high = np.array(grid.channels[0]["low"])[cell], np.array(grid.channels[0]["high"])[cell]
    assert back.dtype == torch.float64
    assert ((low <= back.numpy()) & (back.numpy() <= high)).all()
    width = high - low + step
    narrow = (low == high) | ((step > 0) & (width <= 2**15 * step))
    assert np.array_equal(rounded(back, step)[narrow], rounded(torch.from_numpy(values), step)[narrow])
    assert (np.abs(back.numpy() - values) <= width * (2**-16 + 2e-6) + step * 1e-3).all()
    assert (low == high)[values == 0].all() or name not in ("spike", "negative zero")


@columns
def test_density_on_the_scale_of_the_numbers(name: str) -> None:
    """Masses of all values a cell can have, or the integral over it, are the mass of the cell: together one."""
    grid, _, step = grid_of(name)
    if name == "beyond 2^53":  # float64 has not all of the integers that there are
        return
    low, high = np.array(grid.channels[0]["low"]), np.array(grid.channels[0]["high"])
    torch.manual_seed(0)
    layout = CellLayout(grid.sizes)
    p = Cells(layout.padding().double() + torch.randn(layout.num_logits).double(), layout, [True])
    masses = p.column_log_masses(0).exp()
    total = 0.0
    for cell, (first, last) in enumerate(zip(low, high, strict=True)):
        if first == last:
            points, weight = np.array([first]), 1.0
        elif step > 0:
            count = round((last - first) / step) + 1
            places = np.arange(count) if count <= 400 else np.unique(np.rint(np.linspace(0, count - 1, 401)))
            points, weight = first + places * step, count / len(places)
        else:
            shares = (np.arange(16) + 0.5) / 16
            points, weight = first + shares * (last - first), (last - first) / 16
            if len(np.unique(points)) < 16:  # a cell of a few float64 numbers
                points, weight = np.array([(first / 2 + last / 2)]), last - first
                if not first < points[0] < last:
                    total += masses[cell].item()
                    continue
        x = torch.from_numpy(points)[:, None]
        log_p = p.log_prob(grid(x)) + grid.log_abs_det(x)
        inside = float((log_p + math.log(weight)).logsumexp(0).exp())
        assert inside == pytest.approx(masses[cell].item() * (1 - BEYOND), rel=1e-6), (cell, first, last)
        total += inside / (1 - BEYOND)
    assert total == pytest.approx(1.0, abs=1e-6)


@columns
def test_log_abs_det_is_the_derivative(name: str) -> None:
    """Against the finite difference of the map, in float64, within cells of numbers without a step."""
    grid, _, step = grid_of(name)
    low, high = (torch.tensor(grid.channels[0][end], dtype=torch.float64) for end in ("low", "high"))
    wide = (high - low) > 1e-6 * high.abs()
    if step > 0 or not wide.any():
        return
    low, high = low[wide], high[wide]
    a, b = low + 0.25 * (high - low), low + 0.75 * (high - low)
    rise = (grid(b[:, None]) - grid(a[:, None])).double()[:, 0]
    derivative = rise.log() - (b - a).log()
    found = grid.log_abs_det(a[:, None]) - KEPT
    torch.testing.assert_close(found, derivative, rtol=0, atol=1e-4)
    torch.testing.assert_close(found, -(high - low).log(), rtol=0, atol=1e-9)


def test_the_mass_of_an_integer() -> None:
    """A cell of the values 10 to 19 gives each a tenth of it; an atom all of it; a code takes no part; nor what is missing.

    Of each, what is kept for values that the column never had is taken off.
    """
    grid = CellGrid([{"low": [0, 10], "high": [0, 19], "step": 1}, {"cells": 4}])
    x = torch.tensor([[12.0, 3.0], [0.0, 1.0], [math.nan, 1.0], [19.0, math.nan]], dtype=torch.float64)
    kept = 1 - BEYOND
    torch.testing.assert_close(grid.log_abs_det(x).exp(), torch.tensor([0.1 * kept, kept, 1.0, 0.1 * kept]).double())
    hidden = torch.tensor([[False, True], [True, True], [True, True], [True, True]])
    torch.testing.assert_close(grid.log_abs_det(x, hidden).exp(), torch.tensor([1.0, kept, 1.0, 0.1 * kept]).double())
    assert torch.equal(CellGrid([{"cells": 4}]).log_abs_det(x[:, 1:]), torch.zeros(4).double())


UNSEEN: dict[str, tuple[dict[str, Any], float]] = {
    "gaps and ends": ({"low": [0, 10, 40], "high": [0, 19, 40], "step": 1}, 0.1),
    "hundreds": ({"low": [1200, 1700, 4000], "high": [1600, 1700, 5200], "step": 100}, 1.0),
    "decimals": ({"low": [0.1, 0.9], "high": [0.5, 0.9], "step": 0.1}, 0.01),
    "one value": ({"low": [5], "high": [5], "step": 1}, 0.1),
}
"""Cells, and how far apart all values are that can be written, those of no step included."""


@pytest.mark.parametrize("name", UNSEEN)
def test_values_that_a_column_never_had_have_little_mass_together(name: str) -> None:
    """Over 2,000 spans either way, the masses of all values are at most 1, and those that could be have just what is left."""
    record, finest = UNSEEN[name]
    grid = CellGrid([record])
    low, high = record["low"][0], record["high"][-1]
    reach = 2000 * max(high - low, record["step"])
    values = np.rint(np.arange(low - reach, high + reach, finest) / finest) * finest
    x = torch.from_numpy(values)[:, None]
    layout = CellLayout(grid.sizes)
    logits = torch.randn(layout.num_logits, generator=torch.Generator().manual_seed(1)).double()
    p = Cells(layout.padding().double() + logits, layout, grid.ordered)
    mass = (p.log_prob(grid(x)).double() + grid.log_abs_det(x)).exp().numpy()
    known = grid.beyond(x)[:, 0].numpy() == 0
    inside = np.zeros(len(values), bool)
    for first, last in zip(record["low"], record["high"], strict=True):
        for value in np.arange(first, last + record["step"] / 2, record["step"]):
            inside[np.argmin(np.abs(values - value))] = True
    assert np.array_equal(known, inside)
    assert mass[known].sum() == pytest.approx(1 - BEYOND, abs=1e-6)
    assert 0 < mass[~known].sum() < BEYOND
    away = values >= high + record["step"]
    on_step = away & (np.abs((values - high) / record["step"] - np.rint((values - high) / record["step"])) < 1e-6)
    assert (np.diff(mass[on_step]) < 0).all()  # the less the further away


def test_densities_beyond_the_ends_are_integrable() -> None:
    """Without a step: the trapezium rule over what lies beyond the ends, and in a gap."""
    grid = CellGrid([{"low": [-2.0, 0.0, 3.0], "high": [-2.0, 1.5, 3.0], "step": 0}])
    out = np.concatenate([[0.0], np.geomspace(1e-4, 1e7, 20_001)])
    beyond, gap = 3.0 * (1 + 1e-5) + out, np.linspace(1.5 * (1 + 1e-5), 3.0 * (1 - 1e-5), 4001)
    for values, expected in ((beyond, 1 / 6), (-beyond + 1.0, 1 / 6), (gap, None)):
        density = grid.log_abs_det(torch.from_numpy(values)[:, None]).exp().numpy()
        total = np.trapezoid(density, values) * np.sign(values[1] - values[0])
        assert (grid.beyond(torch.from_numpy(values)[:, None]) > 0).all()
        assert total == pytest.approx(BEYOND * expected, rel=1e-3) if expected else 0 < total < BEYOND / 6
    assert torch.equal(
        grid.beyond(torch.tensor([[math.nan], [0.7], [-2.0], [5.0]]).double())[:, 0], torch.tensor([0, 0, 0, 2.0])
    )


def test_float32_of_a_float64_is_no_other_value() -> None:
    grid = CellGrid([{"low": [0.1, 0.3], "high": [0.1, 0.9], "step": 0}, {"low": [0.1], "high": [999.9], "step": 0.1}])
    x = torch.tensor([[0.1, 0.1], [0.9, 512.3], [0.5, 999.9]]).double()
    assert (x[0] != 0.1).all()
    assert not grid.beyond(x).any()


def test_whole_numbers_keep_to_their_step() -> None:
    """All in hundreds, as some wages are: what comes back is, anywhere in a cell, and so is what lies nearest to any number."""
    rng = np.random.default_rng(6)
    values = 300 + 100 * rng.integers(0, 4000, 900)
    grid = fitted(values, "integer", 0)
    assert grid.channels[0]["step"] == 100
    back = grid.inverse(torch.rand(5000, 1).double() * grid.sizes[0])[:, 0]
    assert len(back.unique()) > 1000
    assert not ((back - 300) % 100).any()
    assert grid.on_step(0, torch.tensor([449.0, 451.0]).double()).tolist() == [400.0, 500.0]
    wide = fitted(300 + 100 * rng.integers(0, 4000, 5000) * 1000, "integer", 0)
    assert wide.channels[0]["step"] == 100_000
    within = np.array(wide.channels[0]["low"][5:9]) + 100_000
    assert wide.inverse(place(wide, within)[:, None])[:, 0].tolist() == within.tolist()


def test_a_step_is_that_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows beyond those that the grid is fitted to as well."""
    monkeypatch.setattr(module, "_FIT_ROWS", 200)
    rng = np.random.default_rng(8)
    numbers = 50 * rng.integers(0, 3000, 2000)
    assert CellGrid.fit(open_data(pl.DataFrame({"v": numbers, "w": numbers}))).channels[0]["step"] == 50
    numbers[777] += 20
    grid = CellGrid.fit(open_data(pl.DataFrame({"v": numbers, "w": numbers})))
    assert grid.channels[0]["step"] == 10


INTERVALS = [(a, b, c, d) for a in (0, 1) for b in (0, 1) for c in (True, False) for d in (True, False)]


@columns
def test_places_of_an_interval(name: str) -> None:
    """A value is in the interval exactly if its place is in the union, whichever ends are open."""
    grid, values, step = grid_of(name)
    low, high = np.array(grid.channels[0]["low"]), np.array(grid.channels[0]["high"])
    known = np.unique(np.concatenate([values, low, high]))
    if step > 0:  # further values that cells have
        middle = [a + (b - a) // (2 * step) * step for a, b in zip(low, high, strict=True)]
        known = np.unique([module._on_step(value, step) for value in (*known, *middle)])
    y = place(grid, known).double().numpy()
    cell = np.floor(y).astype(int)
    exact = (low == high)[cell] | ((step > 0) & ((high - low)[cell] <= 2**15 * step))
    rng = np.random.default_rng(1)
    for _ in range(60):
        first, last = np.sort(rng.choice(known, 2))
        if rng.random() < 0.5:  # between values
            first, last = first - step / 3, last + step / 3
        bounds = (-math.inf if rng.random() < 0.1 else first, math.inf if rng.random() < 0.1 else last)
        open_low, open_high = rng.random(2) < 0.5
        found = grid.places(0, *bounds, not open_low, not open_high)
        assert all(0 <= a < b <= len(low) and math.floor(a) == math.ceil(b) - 1 for a, b in found)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(found))
        inside = (known > bounds[0] if open_low else known >= bounds[0]) & (
            known < bounds[1] if open_high else known <= bounds[1]
        )
        held = np.zeros(len(known), bool)
        for a, b in found:
            held |= (y >= a) & (y < b)
        check = exact.copy()
        if step == 0:  # the place of an end is a point, of no mass
            check &= ~np.isin(known, bounds) | (low == high)[cell]
        assert np.array_equal(held[check], inside[check]), (bounds, open_low, open_high)


def test_places_by_hand() -> None:
    grid = CellGrid(
        [{"low": [0, 1, 11], "high": [0, 10, 11], "step": 1}, {"low": [0.0, 0.0, 2.0], "high": [0.0, 2.0, 2.0], "step": 0}]
    )
    cases = [
        ((0, 11), [[0, 1], [1, 2], [2, 3]]),
        ((3, 5), [[1.2, 1.5]]),
        ((3, 5, False, False), [[1.3, 1.4]]),
        ((2.5, 5.5), [[1.2, 1.5]]),
        ((2.5, 5.5, False, False), [[1.2, 1.5]]),
        ((5, 5), [[1.4, 1.5]]),
        ((5, 5, True, False), []),
        ((5.2, 5.8), []),
        ((-math.inf, 1), [[0, 1], [1, 1.1]]),
        ((-math.inf, 1, False, False), [[0, 1]]),
        ((10, math.inf, False, False), [[2, 3]]),
        ((9.5, math.inf, False, False), [[1.9, 2], [2, 3]]),
        ((-math.inf, math.inf, False, False), [[0, 1], [1, 2], [2, 3]]),
        ((12, 20), []),
        ((-3, -1), []),
    ]
    for arguments, expected in cases:
        found = grid.places(0, *arguments)
        assert np.allclose(np.array(found).reshape(-1, 2), np.array(expected).reshape(-1, 2), rtol=0, atol=1e-12), arguments
        assert len(found) == len(expected), arguments
    reals = [
        ((0.0, 0.0), [[0, 1]]),
        ((0.0, 1.0, False), [[1, 1.5]]),
        ((0.0, 1.0), [[0, 1], [1, 1.5]]),
        ((1.0, 2.0), [[1.5, 2], [2, 3]]),
        ((1.0, 2.0, True, False), [[1.5, 2]]),
        ((0.5, 0.5), []),
        ((2.0, math.inf, False, False), []),
    ]
    for arguments, expected in reals:
        assert grid.places(1, *arguments) == expected, arguments


@pytest.mark.parametrize("decimals", [1, 2, 6])
def test_each_decimal_is_found_where_it_is(decimals: int) -> None:
    """0.3 is the third of 0.1, 0.2, 0.3 whatever a sum of float64 gives; and an event of one value has just its part."""
    step = 10.0**-decimals
    grid = CellGrid(
        [
            {
                "low": [step, round(51 * step, decimals)],
                "high": [round(50 * step, decimals), round(90 * step, decimals)],
                "step": step,
            }
        ]
    )
    for k in range(1, 91):
        value = round(k * step, decimals)
        (found,) = grid.places(0, value, value)
        cell, first, count = (0, 1, 50) if k <= 50 else (1, 51, 40)
        assert found == [pytest.approx(cell + (k - first) / count), pytest.approx(cell + (k - first + 1) / count)]
        assert grid.places(0, value, value, False, True) == []
        assert grid.places(0, value, value, True, False) == []
        y = place(grid, [value]).double().item()
        assert found[0] < y < found[1]


@given(
    st.lists(st.integers(-3000, 3000), min_size=1, max_size=80),
    st.integers(0, 4),
    st.sampled_from([8, 12, 40, 256]),
    st.integers(1, 12),
)
@settings(max_examples=60, deadline=None)
def test_any_decimals(numbers: list[int], decimals: int, most: int, repeat: int) -> None:
    """Cells rise, every value has the cell that holds it, and comes back as it was."""
    step = 10.0**-decimals
    values = np.repeat([round(number * step, decimals) for number in numbers], [1 + k % repeat for k in range(len(numbers))])
    grid = fitted(values, "continuous", decimals, most)
    low, high = np.array(grid.channels[0]["low"]), np.array(grid.channels[0]["high"])
    assert (low <= high).all()
    assert (high[:-1] < low[1:]).all()
    y = place(grid, values)
    cell = y.floor().long().numpy()
    assert ((low[cell] <= values) & (values <= high[cell])).all()
    assert np.array_equal(np.round(grid.inverse(y[:, None])[:, 0].numpy(), decimals), np.round(values, decimals))
    assert all(value == round(value, decimals) for value in (*low, *high))


@given(
    st.lists(st.floats(-1e300, 1e300, allow_subnormal=True) | st.sampled_from([0.0, -0.0, 1.0, -1.0]), min_size=1, max_size=60),
    st.integers(1, 40),
    st.sampled_from([8, 24, 256]),
)
@settings(max_examples=80, deadline=None)
def test_any_floats(numbers: list[float], repeat: int, most: int) -> None:
    values = np.repeat(numbers, [1 + (k * 7) % repeat for k in range(len(numbers))])
    grid = fitted(values, "continuous", None, most)
    low, high = np.array(grid.channels[0]["low"]), np.array(grid.channels[0]["high"])
    assert (low <= high).all()
    assert (high[:-1] <= low[1:]).all()
    y = place(grid, values)
    cell = y.floor().long().numpy()
    assert ((low[cell] <= values) & (values <= high[cell])).all()
    back = grid.inverse(y[:, None])[:, 0].numpy()
    assert ((low[cell] <= back) & (back <= high[cell])).all()
    assert grid.log_abs_det(torch.from_numpy(values)[:, None]).isfinite().all()
    assert grid.sizes[0] <= most


@pytest.mark.parametrize("name", ["normal", "integers", "two decimals", "Cauchy", "microseconds"])
def test_cells_have_about_equal_mass(name: str) -> None:
    """About 24 rows a cell, and less towards the ends; no cell in the middle has twice that or is left empty."""
    rng = np.random.default_rng(3)
    rows = 6000
    values, kind, decimals = {
        "normal": (rng.normal(size=rows), "continuous", None),
        "integers": (rng.integers(0, 100_000, rows), "integer", 0),
        "two decimals": (rng.normal(0, 300, rows).round(2), "continuous", 2),
        "Cauchy": (rng.standard_cauchy(rows), "continuous", None),
        "microseconds": (np.rint(rng.normal(1.7e15, 1e13, rows)), "datetime", None),
    }[name]
    grid = fitted(values, kind, decimals)
    assert 200 <= grid.sizes[0] <= MOST_CELLS
    counts = np.bincount(place(grid, values).long().numpy(), minlength=grid.sizes[0])
    assert counts.min() >= 1
    assert counts[12:-12].min() >= 15
    assert counts.max() <= 40
    assert max(*counts[:2], *counts[-2:]) <= 16  # finer in the tails


def test_atoms_have_cells_of_their_own() -> None:
    grid, values, _ = grid_of("spikes")
    record = grid.channels[0]
    cells = list(zip(record["low"], record["high"], strict=True))
    for value in range(-2, 3):
        assert (value, value) in cells
        same = place(grid, values[values == value])
        assert torch.equal(same, torch.full_like(same, cells.index((value, value)) + 0.5))
    near = place(grid, [1 - 1e-9, 1.0, 1 + 1e-9]).tolist()  # what is not the atom, but has no cell nearer
    assert near[0] <= near[1] <= near[2]


def test_no_more_cells_than_asked() -> None:
    """Many atoms with much between them."""
    rng = np.random.default_rng(4)
    values = np.where(rng.random(40_000) < 0.7, rng.integers(0, 60, 40_000) * 10, rng.random(40_000) * 600)
    for most in (64, 128, 256):
        assert fitted(values, most=most).sizes[0] <= most
    assert fitted(values).sizes[0] > 200


def test_few_values_have_a_cell_each() -> None:
    values = np.repeat([3.0, 5.0, 8.0], [2, 900, 98])
    assert fitted(values, "integer", 0).channels == [{"low": [3, 5, 8], "high": [3, 5, 8], "step": 1}]
    grid = fitted(values, "integer", 0)
    assert place(grid, [3, 4, 4.1, 5, 6, 7, 8, 100, -100, 6.49, 6.51]).tolist() == pytest.approx(
        [0.5, 1.5, 1.5, 1.5, 1.5, 2.5, 2.5, 2.5, 0.5, 1.5, 2.5]
    )


def test_zeros_of_both_signs_are_one() -> None:
    for zeros in ([0.0, -0.0], [-0.0, 0.0], [-0.0, -0.0]):
        grid = fitted(np.array([*zeros, 1.0] * 5))
        assert grid.sizes == [2]
        assert len(set(place(grid, [0.0, -0.0]).tolist())) == 1
        assert math.copysign(1.0, grid.inverse(torch.tensor([[0.5]])).item()) == 1.0


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1e300, 5e-324])
def test_neighbours_in_float64_are_two_atoms(value: float) -> None:
    """Between them is no number at which one could end and the other begin."""
    pair = [value, float(np.nextafter(value, math.inf)), float(np.nextafter(np.nextafter(value, math.inf), math.inf))]
    assert place(fitted(np.repeat(pair, 10)), pair).tolist() == [0.5, 1.5, 2.5]


@pytest.mark.parametrize(("low", "high"), [(-100.0, 100.0), (-100.0, 10.0), (0.0, 100.0)])
@pytest.mark.parametrize("kind", ["few", "many", "atoms at the ends"])
def test_cells_reach_to_the_ends_of_all_data(low: float, high: float, kind: str) -> None:
    """Ends that were seen in rows beyond those that the grid was fitted to."""
    rng = np.random.default_rng(5)
    values = {
        "few": rng.integers(0, 11, 300),
        "many": np.concatenate([[0, 10], rng.random(900) * 10]),
        "atoms at the ends": np.concatenate([np.zeros(200), np.full(200, 10.0), rng.random(500) * 10]),
    }[kind]
    grid = fitted(values, low=low, high=high)
    record = grid.channels[0]
    assert (record["low"][0], record["high"][-1]) == (low, high)
    back = grid.inverse(place(grid, [low, high])[:, None])[:, 0]
    torch.testing.assert_close(back, torch.tensor([low, high]).double(), rtol=1e-4, atol=1e-4)
    assert (place(grid, values).floor() < grid.sizes[0]).all()


def test_a_column_without_a_value() -> None:
    column = TableColumn(name="v", type="continuous", missing=True)
    grid = CellGrid([module._numbers(np.array([]), column, 256)])
    assert grid.sizes == [1]
    assert place(grid, [math.nan, 3.0]).tolist() == [0.5, 0.5]


def test_steps() -> None:
    def step(kind: Any, values: Any, decimals: int | None = None, **ends: float) -> float:
        return step_of(TableColumn(name="v", type=kind, decimals=decimals, **ends), np.array(values, np.float64))

    assert step("integer", [1, 2]) == step("count", [1, 2]) == step("continuous", [1.0], 0) == 1
    hundreds = np.arange(20) * 100.0
    assert step("integer", hundreds) == step("count", hundreds + 7) == 100
    assert step("integer", hundreds[:15]) == 1  # few enough to be chance
    assert step("integer", hundreds, high=2050.0) == 50
    assert step("integer", hundreds + 2.0**53) == 1
    assert step("continuous", [1.5]) == 0
    assert step("continuous", [1.25], 2) == 0.01
    assert step("datetime", [0.0, 86_400e6 * 3]) == 86_400e6
    assert step("datetime", [60e6, 86_400e6]) == 60e6
    assert step("datetime", [1e6, 60e6]) == 1e6
    assert step("datetime", [1.0, 60e6]) == 1


def frame(num: int = 300) -> pl.DataFrame:
    rng = np.random.default_rng(7)
    gone = rng.random(num) < 0.2
    return pl.DataFrame(
        {
            "real": rng.normal(size=num),
            "single": rng.normal(size=num).astype(np.float32),
            "price": [f"{value:.2f}" for value in rng.lognormal(3, 1, num)],
            "age": rng.integers(17, 91, num),
            "wage": [None if g else int(v) for g, v in zip(gone, rng.lognormal(9, 1, num), strict=True)],
            "city": rng.choice(["Ulm", "Rom", "Bern"], num),
            "when": pl.Series(rng.integers(1_500_000_000, 1_700_000_000, num) // 86_400).cast(pl.Date),
            "hours": [">90" if g else str(v) for g, v in zip(rng.random(num) < 0.1, rng.integers(1, 90, num), strict=True)],
            "same": ["x"] * num,
        }
    )


def test_a_whole_table() -> None:
    """Every channel of a table there and back; NaN, words and missing cells have places that a mask must cover."""
    data = open_data(frame())
    grid = CellGrid.fit(data)
    batch = data.batch(np.arange(len(data)))
    y = grid(batch.x)
    assert y.dtype == torch.float32
    assert torch.isfinite(y).all()
    assert (y >= 0).all()
    assert (y < torch.tensor(grid.sizes)).all()
    observed = ~batch.x.isnan()
    assert not observed.all()
    assert (y[~observed] == y[~observed]).all()
    back = grid.inverse(y)
    for channel, column in enumerate(data.schema.table):
        step = grid.channels[channel].get("step", 1.0)
        x, out, seen = batch.x[:, channel], back[:, channel], observed[:, channel]
        if step > 0:
            assert np.array_equal(rounded(out, step)[seen], x.numpy()[seen]), column.name
        else:
            torch.testing.assert_close(out[seen], x[seen], rtol=0, atol=1e-4)
    states = len(data.schema.table)
    assert torch.equal(back[:, states:], batch.x[:, states:])
    leading = grid.inverse(y.reshape(3, 100, -1))
    assert torch.equal(leading.reshape(300, -1), back)
    assert not torch.isnan(grid.log_abs_det(batch.x)).any()
    torch.testing.assert_close(grid.log_abs_det(batch.x, batch.mask), grid.log_abs_det(batch.x))


def test_the_input_is_left_alone_and_may_be_float32() -> None:
    grid = CellGrid([{"cells": 3}, {"low": [0, 1], "high": [0, 10], "step": 1}])
    x = torch.tensor([[2.0, 7.0], [math.nan, math.nan]])
    kept = x.clone()
    for dtype in (torch.float32, torch.float64):
        y = grid(x.to(dtype))
        torch.testing.assert_close(y, torch.tensor([[2.5, 1.65], [0.5, 0.5]]))
        assert grid.log_abs_det(x.to(dtype)).tolist() == pytest.approx([KEPT - math.log(10), 0.0])
    grid.inverse(y)
    assert torch.equal(x.nan_to_num(), kept.nan_to_num())


def test_places_of_codes_are_exact_for_a_hundred_thousand() -> None:
    grid = CellGrid([{"cells": 100_000}])
    codes = torch.arange(100_000, dtype=torch.float64)[:, None]
    y = grid(codes)
    assert torch.equal(y.floor().double(), codes)
    assert torch.equal(grid.inverse(y), codes)
    assert torch.equal(grid.inverse(torch.nextafter(y.floor() + 1, y)), codes)
    assert torch.equal(
        grid(torch.tensor([[-1.0], [100_000.0], [math.inf]]).double()).floor(), torch.tensor([[0.0], [99_999], [99_999]])
    )


def test_spec() -> None:
    grid = CellGrid.fit(open_data(frame()))
    text = json.dumps(grid.spec(), allow_nan=False)
    again = build(json.loads(text))
    assert isinstance(again, CellGrid)
    assert again.channels == grid.channels
    assert json.dumps(again.spec(), allow_nan=False) == text
    batch = open_data(frame()).batch(np.arange(50))
    assert torch.equal(again(batch.x), grid(batch.x))
    assert not grid.state_dict()


def test_fit_takes_a_sample_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIT_ROWS", 200)
    data = open_data(frame(1000))
    grid, again, other = CellGrid.fit(data, seed=1), CellGrid.fit(data, seed=1), CellGrid.fit(data, seed=2)
    assert grid.channels == again.channels
    assert grid.channels != other.channels
    for channel, column in enumerate(data.schema.table):
        if column.low is not None and "low" in grid.channels[channel]:
            assert (grid.channels[channel]["low"][0], grid.channels[channel]["high"][-1]) == (column.low, column.high)
    y = grid(data.batch(np.arange(1000)).x)
    assert (y < torch.tensor(grid.sizes)).all()


@pytest.mark.parametrize(
    "channel",
    [
        {},
        {"cells": 0},
        {"cells": 3, "step": 1},
        {"low": [1], "high": [0], "step": 0},
        {"low": [0, 1], "high": [2, 3], "step": 0},
        {"low": [0], "high": [0, 1], "step": 0},
        {"low": [], "high": [], "step": 0},
        {"low": [0], "high": [math.nan], "step": 0},
        {"low": [0], "high": [math.inf], "step": 0},
        {"low": [0], "high": [1], "step": -1},
        {"low": [0], "high": [1]},
        {"low": [-1.7e308], "high": [1.7e308], "step": 0},
    ],
)
def test_records_that_are_none(channel: Any) -> None:
    with pytest.raises(ConfigError, match=r"must.*(found|got).*\. "):
        CellGrid([channel])
