"""How strange each cell of a row is given the rest, against sums over a grid of the latent; and what is made of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from small_models import vector_bundle, vector_data
from table_cases import AGE, AGE_STATE, CELLS, COLUMNS, JOB, MEMBER, MEMBER_STATE, bundle, dataset, on_grid
from vaekit import likelihoods, networks, posteriors, priors
from vaekit.data.dataset import Dataset
from vaekit.data.schema import Schema
from vaekit.data.tables import TableColumn
from vaekit.data.tables.grid import BEYOND, CellGrid
from vaekit.errors import ConfigError
from vaekit.inference import seeded
from vaekit.jobs.explain import NO_COLUMN, ColumnScores, column_scores, unseen
from vaekit.jobs.generate import generate
from vaekit.jobs.rows import Table
from vaekit.jobs.score import score
from vaekit.model import Model
from vaekit.storage import Bundle
from vaekit.vae import VAE

STATES = {MEMBER: MEMBER_STATE, AGE: AGE_STATE}
WIDTHS = {JOB: [1, 1, 1], MEMBER: [1, 1], AGE: [1, 4, 5, 10]}
TYPICAL = {JOB: 1.0, MEMBER: 1.0, AGE: 5.0}
"""Values a cell, and in the median cell of several."""

ROWS = {
    "plain": [1.0, 1.0, 3.0, 0.0, 0.0],
    "missing, and an atom": [2.0, np.nan, 0.0, 1.0, 0.0],
    "an unknown job": [np.nan, 0.0, 12.0, 0.0, 0.0],
    "a word": [0.0, 1.0, np.nan, 0.0, 1.0],
    "beyond the end": [1.0, 0.0, 40.0, 0.0, 0.0],
    "nothing known of a member": [1.0, np.nan, 6.0, np.nan, 0.0],
}


def cell_of(channel: int, value: float) -> int:
    return int(np.searchsorted([0.5, 4.5, 9.5], value)) if channel == AGE else int(value)


def fixed(row: list[float]) -> dict[int, dict[int, int]]:
    """Of each column the cells of its channels that are observed."""
    of = {c: {k: row[k] for k in (c, STATES.get(c, c)) if not np.isnan(row[k])} for c in (JOB, MEMBER, AGE)}
    return {c: {k: cell_of(k, value) for k, value in cells.items()} for c, cells in of.items()}


def exact(row: list[float], column: int) -> tuple[float, float]:
    """Anomaly and surprise of a cell, by the definition."""
    weight, masses = on_grid()
    cells = fixed(row)
    if not cells[column]:
        return math.nan, math.nan
    given = weight * np.prod([masses[k][:, cell] for c in cells if c != column for k, cell in cells[c].items()], axis=0)
    given = given / given.sum()
    mass, rho = [], []
    for cell, width in enumerate(WIDTHS[column]):
        plain = masses[STATES[column]][:, 0] if column in STATES else 1.0
        mass.append(given @ (masses[column][:, cell] * plain))
        rho.append(mass[-1] / (width / TYPICAL[column] if width > 1 else 1.0))
    if column in STATES:
        mass.append(given @ masses[STATES[column]][:, 1])
        rho.append(mass[-1])
    state = cells[column].get(STATES.get(column, -1), 0)
    own = len(WIDTHS[column]) if state else cells[column][column]
    share = 1.0 if column != AGE or state else (1 - BEYOND) / WIDTHS[AGE][own]
    beyond = row[AGE] - 19.0 if column == AGE and row[AGE] > 19 else 0.0
    if beyond:
        share = BEYOND / 6 * 19.0 / (19.0 + beyond) ** 2
        rho.append(mass[own] * share * TYPICAL[AGE])
        mass.append(BEYOND * 19.0 / (19.0 + beyond))
    least = rho[-1] if beyond else rho[own]
    tail = sum(m for m, r in zip(mass, rho, strict=True) if r <= least)
    return -math.log(min(1.0, tail)), -math.log(mass[own] * share)


def columns_of(made: Bundle, data: Dataset, num: int, seed: int = 0) -> ColumnScores:
    with torch.inference_mode(), seeded(seed, torch.device("cpu")):
        return column_scores(Table.of(made, "test"), data, np.arange(len(data)), num)


@pytest.mark.parametrize("name", ROWS)
def test_each_column_is_scored_by_its_exact_conditional(name):
    """With a posterior that knows nothing, so that the weights do all of it."""
    found = columns_of(bundle(), dataset([ROWS[name]]), 60_000)
    assert found.names == ("job", "member", "age")
    for index, column in enumerate((JOB, MEMBER, AGE)):
        anomaly, surprise = exact(ROWS[name], column)
        assert found.surprise[0, index] == pytest.approx(surprise, abs=0.03, nan_ok=True)
        assert found.anomaly[0, index] == pytest.approx(anomaly, abs=0.03, nan_ok=True)
    assert np.isnan(found.anomaly).sum() == (name in ("an unknown job", "nothing known of a member"))


def test_latents_are_inferred_without_each_column_in_turn(monkeypatch):
    """Its state is hidden with it, and what is unknown stays hidden."""
    hidden, encode = [], VAE.encode

    def spy(self, x, *, mask):
        hidden.append((~mask[0]).nonzero().flatten().tolist())
        return encode(self, x, mask=mask)

    monkeypatch.setattr(VAE, "encode", spy)
    columns_of(bundle(), dataset([ROWS["plain"]]), 3)
    columns_of(bundle(), dataset([ROWS["an unknown job"]]), 3)
    assert hidden == [[JOB], [MEMBER, MEMBER_STATE], [AGE, AGE_STATE], [0], [0, MEMBER, MEMBER_STATE], [0, AGE, AGE_STATE]]


def test_few_latents_are_enough():
    """On average over seeds what many say: of 30 latents, the posterior being no help."""
    data = dataset([ROWS["plain"], ROWS["a word"]])
    found = np.mean([columns_of(bundle(), data, 30, seed).anomaly for seed in range(40)], 0)
    expected = [[exact(ROWS[name], column)[0] for column in (JOB, MEMBER, AGE)] for name in ("plain", "a word")]
    np.testing.assert_allclose(found, expected, atol=0.15)


def test_rows_of_the_model_are_as_strange_as_chance():
    """Of rows that the model drew, one in twenty has an anomaly above log 20 in each column, whatever its cells."""
    cells = generate(bundle(), 3000, seed=1).x
    cells[:, AGE] = np.rint(cells[:, AGE])
    for channel, state in STATES.items():
        cells[cells[:, state] > 0, channel] = np.nan
    anomaly = columns_of(bundle(), Dataset(bundle().schema, cells), 300).anomaly
    assert (anomaly >= 0).all()
    for level in (0.2, 0.05):
        share = (anomaly > -math.log(level)).mean(0)
        assert (share <= level + 4 * math.sqrt(level / 3000)).all(), (level, share)
    assert (anomaly > 0).any(0).all()


def four_alike() -> Bundle:
    """Four columns that are all 0 below z = 0 and all 1 above, but for one in a hundred, and a column of noise of 200 cells."""
    columns = tuple(TableColumn(name=f"c{i}", type="binary", categories=("no", "yes")) for i in range(4))
    columns += (TableColumn(name="noise", type="continuous", low=0.0, high=200.0),)
    edges = np.arange(201.0).tolist()
    grid = CellGrid([{"cells": 2}] * 4 + [{"low": edges[:-1], "high": edges[1:], "step": 0}])
    torch.manual_seed(0)
    inner = networks.ResidualMLP([5, 4], 8, 1)
    q = posteriors.DiagonalNormal(networks.CellEmbedding(inner, grid.sizes, grid.ordered, 4), 1)
    p = likelihoods.Cells(networks.MLP(1, [1], "tanh"), grid.sizes, grid.ordered)
    with torch.no_grad():
        for parameter in p.parameters():
            parameter.zero_()
        first = next(p.network.parameters())
        first.fill_(50.0)
        head = next(p.head.parameters())
        for start in p.layout.firsts()[:4]:
            head[start, 0], head[start + 1, 0] = -math.log(99) / 2, math.log(99) / 2
    vae = VAE(priors.StandardNormal(1), q, p).eval().requires_grad_(False)
    schema = bundle().schema.model_copy(update={"shape": (5,), "table": columns, "missing": False})
    return Bundle(vae, grid, schema)


def test_a_cell_that_breaks_a_dependence_is_found_and_named():
    """Among rows whose columns agree, the one with a cell against the other three is the strangest, because of that cell."""
    rng = np.random.default_rng(2)
    cells = np.repeat(rng.integers(0, 2, (60, 1)).astype(float), 5, 1)
    cells[:, 4] = rng.random(60) * 200
    cells[17, :4] = [1, 1, 0, 1]
    made = four_alike()
    scores = score(made, Dataset(made.schema, cells), num_samples=64)
    assert scores.anomaly.argmax() == 17
    assert scores.column_names == ("c0", "c1", "c2", "c3", "noise")
    reason, other, *_ = scores.explain(17)
    assert (reason.column, reason.value, reason.likely, str(reason)) == ("c2", "no", "yes", "c2=no")
    assert reason.anomaly == pytest.approx(-math.log(0.01), abs=0.1)
    assert other.anomaly < 1
    # The noise has the greatest surprise of all and is never strange.
    assert (scores.by_column.surprise[:, 4] > 5).all()
    assert (scores.columns[:, 4] < 1e-5).all()
    because = scores.to_columns()["because"].tolist()
    assert because[17] == "c2=no"
    assert set(because[:17] + because[18:]) == {NO_COLUMN}


def test_scores_of_a_table():
    data = dataset([ROWS["plain"], ROWS["missing, and an atom"], ROWS["beyond the end"]])
    scores = score(bundle(), data, explain=2)
    rows = np.sort(np.argsort(-scores.anomaly)[:2])
    assert 2 in rows  # 40 years is beyond anything seen
    np.testing.assert_array_equal(np.isnan(scores.columns).all(1), ~np.isin(np.arange(3), rows))
    table = scores.to_columns(by_column=True)
    assert list(table)[-5:] == ["anomaly", "because", "anomaly_job", "anomaly_member", "anomaly_age"]
    np.testing.assert_array_equal(table["anomaly_age"], scores.columns[:, 2])
    left_out = next(iter(set(range(3)) - set(rows.tolist())))
    assert table["because"][left_out] == ""
    with pytest.raises(ConfigError, match=f"the 2 strangest rows alone were looked at, and row {left_out} is not"):
        scores.explain(left_out)
    assert [reason.column for reason in scores.explain(2, most=1)] == ["age"]
    assert scores.explain(2, least=100.0) == ()
    assert "age=40" in table["because"][2]
    assert any("never had (40)" in note for note in scores.notes)
    assert any("2 strangest rows" in note for note in scores.notes)
    none = score(bundle(), data, explain=0)
    assert none.by_column is None
    assert "because" not in none.to_columns()
    np.testing.assert_array_equal(none.anomaly, scores.anomaly)
    with pytest.raises(ConfigError, match="columns must have been looked at"):
        none.explain(0)
    with pytest.raises(ConfigError, match="`explain` must be at least 0, got -1"):
        score(bundle(), data, explain=-1)


def test_missing_cells_and_words_are_printed():
    scores = score(bundle(), dataset([ROWS["missing, and an atom"], ROWS["a word"]]))
    reasons = {reason.column: reason for row in (0, 1) for reason in scores.explain(row, most=9)[::-1]}
    assert {str(reason) for reason in scores.explain(0, most=9)} == {"job=nurse", "member=", "age=0"}
    assert {str(reason) for reason in scores.explain(1, most=9)} == {"job=clerk", "member=yes", "age=old"}
    assert reasons["job"].likely in COLUMNS[JOB].categories


def test_what_would_be_likely():
    """The likeliest category or state, and the middle of the median's cell, of the exact conditional."""
    weight, masses = on_grid()
    row = [1.0, np.nan, np.nan, np.nan, np.nan]
    found = columns_of(bundle(), dataset([row]), 60_000)
    given = weight * masses[JOB][:, 1]
    given = given / given.sum()
    old = given @ masses[AGE_STATE][:, 1]
    ages = given @ (masses[AGE] * masses[AGE_STATE][:, :1])
    assert found.likely[0, 4] == float(old > ages.sum())
    assert abs(old - ages.sum()) > 0.02
    cell = int((np.cumsum(ages) < ages.sum() / 2).sum())
    expected = math.nan if old > ages.sum() else np.rint((CELLS[AGE]["low"][cell] + CELLS[AGE]["high"][cell]) / 2)
    assert found.likely[0, AGE] == pytest.approx(expected, abs=0.5, nan_ok=True)
    assert found.likely[0, JOB] == (weight @ masses[JOB]).argmax()


def test_numbers_that_were_never_seen_are_told():
    rows = [[0.0, 0.0, age, 0.0, 0.0] for age in (3.0, 19.0, 19.5, 25.0, 60.0, 70.0, -2.0)]
    (note,) = unseen(Table.of(bundle(), "test"), dataset(rows))
    assert note.startswith("5 cells hold numbers that `age` never had (-2, 20, 25, ...)")
    (note,) = unseen(Table.of(bundle(), "test"), dataset(rows[:4:3]))
    assert note.startswith("1 cell holds a number that `age` never had (25),")
    assert unseen(Table.of(bundle(), "test"), dataset(rows[:2])) == ()


@pytest.mark.parametrize("kind", ["many categories", "one column", "nothing to score"])
def test_tables_of_other_forms(kind):
    """A column with groups of cells; a single one, of which the rest is empty; and none that can be strange."""
    many = TableColumn(name="many", type="categorical", categories=tuple(f"k{i}" for i in range(1500)))
    name = TableColumn(name="id", type="identifier", format="id-0000")
    same = TableColumn(name="same", type="constant", categories=("x",))
    table = {"many categories": (many, same), "one column": (many,), "nothing to score": (name, same)}[kind]
    grid = CellGrid([{"cells": max(1, len(column.categories))} for column in table])
    torch.manual_seed(1)
    inner = networks.ResidualMLP([len(table), 4], 8, 1)
    q = posteriors.DiagonalNormal(networks.CellEmbedding(inner, grid.sizes, grid.ordered, 4), 2)
    p = likelihoods.Cells(networks.MLP(2, [8]), grid.sizes, grid.ordered)
    schema = Schema.model_validate({**bundle().schema.model_dump(), "shape": (len(table),), "table": table, "missing": False})
    made = Bundle(VAE(priors.StandardNormal(2), q, p).eval().requires_grad_(False), grid, schema)
    cells = np.zeros((5, len(table)))
    cells[:, 0] = [3, 900, 1499, 0, 3] if "many" in {column.name for column in table} else 0.0
    scores = score(made, Dataset(schema, cells), num_samples=4)
    if kind == "nothing to score":
        assert scores.columns.shape == (5, 0)
        assert scores.to_columns()["because"].tolist() == [NO_COLUMN] * 5
        return
    assert scores.column_names == ("many",)
    with torch.no_grad():  # nothing else is known of the row
        z = torch.randn(20_000, 1, 2)
        masses = made.vae.decode(z).column_log_masses(0).exp().mean((0, 1)).double().numpy()
    found = columns_of(made, Dataset(schema, cells), 3000)
    expected = [-math.log(masses[masses <= masses[int(code)]].sum()) for code in cells[:, 0]]
    np.testing.assert_allclose(found.anomaly[:, 0], expected, atol=0.12)


def test_what_has_no_columns_to_explain():
    """Other data, a posterior that is a point, and a model of one's own over a table."""
    scores = score(vector_bundle(), vector_data(4))
    assert scores.by_column is None
    assert "because" not in scores.to_columns()
    inner = networks.ResidualMLP([5, 4], 8, 1)
    embedded = networks.CellEmbedding(inner, bundle().transform.sizes, bundle().transform.ordered, 4)
    point = VAE(bundle().vae.prior, posteriors.Deterministic(embedded, 1), bundle().vae.likelihood).eval()
    scores = score(replace(bundle(), vae=point), dataset([ROWS["plain"]]))
    assert scores.warning is not None
    assert scores.by_column is None


def test_the_same_seed_gives_the_same_and_the_method_passes_it_on():
    data = dataset([ROWS["plain"], ROWS["a word"]])
    model = Model(bundle())
    first, again, other = (model.score(data, seed=seed, explain=1) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.columns, again.columns)
    assert len(first.by_column.rows) == 1
    assert not np.array_equal(first.columns, other.columns, equal_nan=True)
