"""Rows of a table given a part of them, against integrals over the latent."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
import torch

from table_cases import AGE, AGE_STATE, COLUMNS, JOB, MEMBER, MEMBER_STATE, bundle, dataset, on_grid
from vaekit import likelihoods, networks, posteriors, priors
from vaekit.data.dataset import Dataset
from vaekit.data.tables import TableColumn, decode, num_channels
from vaekit.data.tables.grid import CellGrid
from vaekit.errors import ConfigError, DataError
from vaekit.inference import seeded
from vaekit.jobs.augment import augment
from vaekit.jobs.generate import generate
from vaekit.jobs.impute import impute
from vaekit.jobs.rows import RowsWhere, Table, candidates, choices
from vaekit.jobs.traverse import traverse
from vaekit.model import Model
from vaekit.storage import Bundle
from vaekit.vae import VAE

AGE_MASS = [1 / 1, 1 / 4, 1 / 5, 1 / 10]
NO, YES = ((MEMBER_STATE, 0), (MEMBER, 0)), ((MEMBER_STATE, 0), (MEMBER, 1))
EVENTS = [
    (["job=cook"], [[((JOB, 1), 1.0)]]),
    (["job!=cook"], [[((JOB, 0), 1.0)], [((JOB, 2), 1.0)]]),
    (["member="], [[((MEMBER_STATE, 1), 1.0)]]),
    (["member=yes", "job=nurse"], [[((MEMBER_STATE, 0), 1.0), ((MEMBER, 1), 1.0), ((JOB, 2), 1.0)]]),
    (["age=3..7"], [[((AGE_STATE, 0), 1.0), ((AGE, 1), 2 / 4)], [((AGE_STATE, 0), 1.0), ((AGE, 2), 3 / 5)]]),
    (["age>18"], [[((AGE_STATE, 0), 1.0), ((AGE, 3), 1 / 10)]]),
    (["age=old|0"], [[((AGE_STATE, 1), 1.0)], [((AGE_STATE, 0), 1.0), ((AGE, 0), 1.0)]]),
]
"""What is asked for, as a union of products of (channel, cell) with the share of the cell."""


def exact(event: list, channel: int, prior: str = "standard") -> np.ndarray:
    """p(cell of a channel | event), by summing over the grid of z."""
    weight, masses = on_grid(prior)
    total = np.zeros(masses[channel].shape[1])
    for product in event:
        given = weight * np.prod([share * masses[c][:, cell] for (c, cell), share in product], axis=0)
        fixed = {c: cell for (c, cell), _ in product}
        if channel in fixed:
            total[fixed[channel]] += given.sum()
        else:
            total += given @ masses[channel]
    return total / total.sum()


@pytest.mark.parametrize("prior", ["standard", "mixture"])
@pytest.mark.parametrize(("where", "event"), EVENTS, ids=[" ".join(where) for where, _ in EVENTS])
def test_rows_where_follow_the_exact_conditional(where, event, prior):
    """With a posterior that knows nothing, so that the weights do all of it."""
    num = 6000
    with torch.no_grad(), seeded(0, torch.device("cpu")):
        drawn = RowsWhere(Table.of(bundle(prior), "test"), where).draw(num)
    assert drawn.effective_sample_size > num
    for channel in range(5):
        expected = exact(event, channel, prior)
        found = np.bincount(drawn.x[:, channel].floor().long().numpy(), minlength=len(expected)) / num
        # Two sources of noise: the rows, and the candidates that they were chosen from.
        error = np.sqrt(expected * (1 - expected) * (1 / num + 1 / drawn.effective_sample_size))
        fixed = {c for product in event for (c, _), _ in product}
        if channel == AGE and "age=old|0" in where:  # free where the word stands
            continue
        assert np.all(np.abs(found - expected) < 5 * error + 1e-9), (channel, found, expected, fixed)


@pytest.mark.parametrize("where", [where for where, _ in EVENTS], ids=" ".join)
def test_every_printed_row_is_as_it_was_asked_for(where):
    from vaekit.data.tables.where import parse_where

    made = generate(bundle(), 200, where=where, seed=4).x
    assert made.shape == (200, 5)
    states = {1: MEMBER_STATE, 2: AGE_STATE}
    rounded = made.copy()
    rounded[:, AGE] = np.rint(made[:, AGE])
    for index, event in parse_where(where, COLUMNS).items():
        held = event.holds(rounded[:, index], made[:, states[index]] if index in states else None, COLUMNS[index])
        assert held.all()
    assert len(decode(made, COLUMNS)) == 200
    np.testing.assert_array_equal(made, generate(bundle(), 200, where=where, seed=4).x)
    assert not np.array_equal(made, generate(bundle(), 200, where=where, seed=5).x)


def test_temperature_is_that_of_the_prior_drawn_from():
    num = 6000
    with torch.no_grad(), seeded(0, torch.device("cpu")):
        drawn = RowsWhere(Table.of(bundle(), "test"), ["job=cook"], 0.3).draw(num)
        weight = bundle().vae.prior(None, 0.3).log_prob(torch.linspace(-9, 9, 6001)[:, None]).exp().double().numpy()
    given = weight * on_grid()[1][JOB][:, 1]
    expected = (given / given.sum()) @ on_grid()[1][AGE]
    found = np.bincount(drawn.x[:, AGE].floor().long().numpy(), minlength=4) / num
    assert np.all(np.abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) * 2 / num))


def test_few_latents_are_told_of():
    drawn = RowsWhere(Table.of(bundle(), "test"), ["job=cook"])
    with torch.no_grad():
        found = drawn.draw(50)
    assert found.note() is None
    scarce = type(found)(found.x, 3.2)
    assert "about 3 different latents" in scarce.note()


def test_what_cannot_be_asked_for():
    table = Table.of(bundle(), "test")
    with pytest.raises(ConfigError, match="the model can make, but it knows no value there"):
        choices(table, ["age>19"])
    with pytest.raises(ConfigError, match="Did you mean `job`"):
        choices(table, ["jbo=cook"])
    with pytest.raises(ConfigError, match="cook"):
        choices(table, ["job=cok"])


PARTS = [
    ([1.0, np.nan, 3.0, np.nan, 0.0], {JOB: 1, AGE: 1, AGE_STATE: 0}),
    ([1.0, np.nan, np.nan, 1.0, np.nan], {JOB: 1}),
    ([np.nan, 1.0, np.nan, 0.0, 1.0], {MEMBER: 1, MEMBER_STATE: 0, AGE_STATE: 1}),
    ([np.nan, np.nan, np.nan, np.nan, np.nan], {}),
]


def conditional(given: dict[int, int], channel: int, plain: int | None) -> np.ndarray:
    """p(cell of a channel | the given cells, and that the channel is a plain value)."""
    weight, masses = on_grid()
    weight = weight * np.prod([np.ones_like(weight), *(masses[c][:, cell] for c, cell in given.items())], axis=0)
    if plain is not None:
        weight = weight * masses[plain][:, 0]
    total = weight @ masses[channel]
    return total / total.sum()


@pytest.mark.parametrize(("row", "given"), PARTS)
def test_imputation_is_the_exact_conditional(row, given):
    middle = np.array([0.0, 2.5, 7.0, 14.5])
    made = impute(bundle(), dataset([row]), num_candidates=20_000, seed=1)
    holes = [channel for channel in (JOB, MEMBER, AGE) if made.missing[0, channel]]
    assert holes == [c for c in (JOB, MEMBER, AGE) if np.isnan(row[c]) and not (c == AGE and row[AGE_STATE] == 1)]
    for channel in holes:
        expected = conditional(given, channel, {MEMBER: MEMBER_STATE, AGE: AGE_STATE}.get(channel))
        if channel == AGE:
            mean = expected @ middle
            assert made.cells[0, 0, channel] == pytest.approx(mean, abs=0.25)
            assert made.uncertainty[0, channel] == pytest.approx(np.sqrt(expected @ (middle - mean) ** 2), rel=0.05)
        else:
            assert made.cells[0, 0, channel] == expected.argmax()
            assert made.uncertainty[0, channel] == pytest.approx(1 - expected.max(), abs=0.02)
    kept = [c for c in (JOB, MEMBER, AGE) if c not in holes]
    np.testing.assert_array_equal(made.cells[0, 0, kept], np.array(row)[kept])
    assert (made.uncertainty[0, kept] == 0).all()


def test_draws_have_the_spread_of_the_conditional():
    made = impute(bundle(), dataset([PARTS[1][0]]), draw="sample", num_imputations=4000, num_candidates=4000, seed=2)
    ages = made.cells[:, 0, AGE]
    assert ages.min() >= 0
    assert ages.max() <= 19
    expected = conditional({JOB: 1}, AGE, AGE_STATE)
    cells = np.searchsorted([0.5, 4.5, 9.5], np.rint(ages), side="right")
    found = np.bincount(cells, minlength=4) / 4000
    assert np.all(np.abs(found - expected) < 0.04)
    assert (made.cells[:, 0, [MEMBER_STATE, AGE_STATE]] == 0).all()
    members = made.cells[:, 0, MEMBER].mean()
    assert members == pytest.approx(conditional({JOB: 1}, MEMBER, MEMBER_STATE)[1], abs=0.04)


def test_candidates_carry_honest_weights():
    """The mean of w estimates p(given), by whatever posterior."""
    x = torch.tensor([[1.5, 0.5, 0.5, 0.5, 0.5]])
    mask = torch.tensor([[True, False, False, False, False]])
    with torch.no_grad(), seeded(0, torch.device("cpu")):
        found = candidates(Table.of(bundle(), "test"), x, mask, 40_000)
    weight, masses = on_grid()
    assert found.log_weights.exp().mean().item() == pytest.approx(weight @ masses[JOB][:, 1], rel=0.05)
    assert 1 <= found.effective_sample_size().item() <= 40_000


def test_balanced_rows_are_counted_exactly():
    rows = [[0.0, 0.0, 1.0, 0.0, 0.0]] * 7 + [[1.0, 1.0, 12.0, 0.0, 0.0]] * 2 + [[2.0, 0.0, 0.0, 0.0, 0.0]]
    made = augment(bundle(), dataset(rows), balance="job")
    assert made.counts == {"clerk": (7, 0), "cook": (2, 5), "nurse": (1, 6)}
    assert np.bincount(made.cells[:, JOB].astype(int), minlength=3).tolist() == [0, 5, 6]
    twice = augment(bundle(), dataset(rows), balance="job", factor=2)
    assert np.bincount(twice.cells[:, JOB].astype(int), minlength=3).tolist() == [7, 12, 13]
    assert len(augment(bundle(), dataset(rows), factor=1.5).cells) == 5
    with pytest.raises(ConfigError, match="which is integer"):
        augment(bundle(), dataset(rows), balance="age")
    with pytest.raises(DataError, match="must have the column `jb`"):
        augment(bundle(), dataset(rows), balance="jb")


def test_paths_and_units_of_a_table_are_frames():
    """Not cells; of a traversal one a unit, each of the rows that its cells print as."""
    model, data = Model(bundle()), dataset([PARTS[0][0], PARTS[2][0], PARTS[1][0]])
    path = model.interpolate(data, 0, 2, num_steps=3)
    assert isinstance(path, pl.DataFrame)
    assert path.columns == ["job", "member", "age"]
    ends = model.reconstruct(data)
    assert path[[0, 2]].rows() == ends[[0, 2]].rows()
    grid = model.traverse(data, num_steps=4)
    (frame,) = grid.x
    assert (frame.columns, len(frame), grid.latents.shape) == (path.columns, 4, (1, 4))
    cells = traverse(bundle(), data, num_steps=4).x[0]
    assert frame.rows() == decode(cells, COLUMNS, "values").rows()


def test_units_are_ranked_by_what_they_do_to_rows():
    """Without data: a second unit moves the masses of a column less than the first, whatever the numbers of the places."""
    torch.manual_seed(0)
    grid = CellGrid([{"cells": 2}, {"low": list(range(40)), "high": list(range(40)), "step": 1}])
    inner = networks.ResidualMLP([2, 4], 8, 1)
    q = posteriors.DiagonalNormal(networks.CellEmbedding(inner, grid.sizes, grid.ordered, 4), 2)
    p = likelihoods.Cells(networks.MLP(2, [2], "tanh"), grid.sizes, grid.ordered)
    (weight, shift), (head, bias) = p.network.parameters(), p.head.parameters()
    first, second = p.layout.firsts()
    with torch.no_grad():
        weight.copy_(torch.eye(2))
        shift.zero_()
        head.zero_()
        bias.copy_(p.layout.padding().nan_to_num(neginf=0.0))
        head[first, 1] = 3.0  # the unit 1 decides the category
        head[second : second + 40, 0] = torch.arange(40) * 0.02  # the unit 0 moves the number by some steps
    columns = (
        TableColumn(name="sure", type="binary", categories=("no", "yes")),
        TableColumn(name="number", type="integer", low=0.0, high=39.0),
    )
    schema = bundle().schema.model_copy(update={"shape": (2,), "table": columns, "missing": False})
    made = Bundle(VAE(priors.StandardNormal(2), q, p).eval().requires_grad_(False), grid, schema)
    assert traverse(made).units.tolist() == [1, 0]
    with torch.no_grad():
        means = made.vae.decode(torch.tensor([[[-3.0, 0.0], [3.0, 0.0], [0.0, -3.0], [0.0, 3.0]]])).mean[0]
    assert (means[1] - means[0]).norm() > (means[3] - means[2]).norm()


def test_the_best_guess_of_a_number_is_on_its_step():
    grid = CellGrid([{"cells": 3}, {"low": [0, 300, 1000], "high": [200, 900, 2500], "step": 100}])
    inner = networks.ResidualMLP([2, 4], 8, 1)
    q = posteriors.DiagonalNormal(networks.CellEmbedding(inner, grid.sizes, grid.ordered, 4), 1)
    vae = VAE(priors.StandardNormal(1), q, likelihoods.Cells(networks.MLP(1, [4]), grid.sizes, grid.ordered)).eval()
    columns = (COLUMNS[0], TableColumn(name="wage", type="integer", low=0.0, high=2500.0))
    schema = bundle().schema.model_copy(update={"shape": (2,), "table": columns})
    made = impute(Bundle(vae.requires_grad_(False), grid, schema), Dataset(schema, np.array([[1.0, np.nan], [2.0, np.nan]])))
    guess = made.cells[0, :, 1]
    assert not (guess % 100).any()
    assert (guess > 0).all()
    assert (made.uncertainty[:, 1] > 100).all()


def test_a_row_of_another_kind_of_model_is_refused():
    from small_models import vector_bundle

    with pytest.raises(ConfigError, match="must be one of a table to impute"):
        impute(vector_bundle(), dataset([PARTS[0][0]]))


def test_the_hand_made_table_is_whole():
    assert num_channels(COLUMNS) == 5
    assert list(itertools.chain(bundle().transform.sizes)) == [3, 2, 4, 2, 2]
