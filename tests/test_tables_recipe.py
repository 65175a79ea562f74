"""The recipe of a table: whatever its columns are, it trains, is saved, and makes rows that the table could have."""

from __future__ import annotations

import datetime
import re
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import vaekit
from vaekit import recipes
from vaekit.data.loading import open as open_data
from vaekit.data.tables.coding import decode
from vaekit.data.tables.columns import state_channels
from vaekit.data.tables.grid import CellGrid
from vaekit.errors import ConfigError
from vaekit.likelihoods import Cells
from vaekit.networks import CellEmbedding
from vaekit.objectives import ELBO
from vaekit.training.config import TrainConfig
from vaekit.training.loop import Step

N = 240


def every_type(num: int = N) -> pl.DataFrame:
    """A column of each type, with missing cells and words, as text and as dtypes of their own."""
    rng = np.random.default_rng(0)
    gone = rng.random((3, num)) < 0.15
    day = datetime.date(2020, 1, 1)
    return pl.DataFrame(
        {
            "id": [f"A-{k:05d}" for k in range(num)],
            "real": rng.normal(size=num),
            "single": pl.Series(rng.lognormal(size=num), dtype=pl.Float32),
            "price": [f"{value:.2f}" for value in rng.lognormal(3, 1, num)],
            "small": pl.Series(rng.integers(0, 200, num), dtype=pl.UInt8),
            "wide": rng.integers(-(10**6), 10**6, num),
            "visits": rng.poisson(1.0, num),
            "wage": [None if g else int(v) for g, v in zip(gone[0], rng.lognormal(9, 1, num), strict=True)],
            "spike": np.where(rng.random(num) < 0.6, 0.0, rng.lognormal(2, 1, num)),
            "hours": [">90" if g else str(v) for g, v in zip(gone[1], rng.integers(1, 90, num), strict=True)],
            "sex": rng.choice(["F", "M"], num),
            "smoker": rng.random(num) < 0.3,
            "city": [None if g else c for g, c in zip(gone[2], rng.choice(["Ulm", "Rom", "Bern", "Wien"], num), strict=True)],
            "grade": pl.Series(rng.choice(["low", "mid", "high"], num), dtype=pl.Enum(["low", "mid", "high"])),
            "day": pl.Series([day + datetime.timedelta(int(k)) for k in rng.integers(0, 2000, num)]),
            "when": [f"2021-03-{d:02d} {h:02d}:{m:02d}" for d, h, m in zip(*rng.integers(1, 24, (3, num)), strict=True)],
            "same": ["x"] * num,
        }
    )


SETTINGS: dict[str, Any] = {"steps": 3, "device": "cpu", "precision": "float32", "display": "quiet", "latent": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Trained for three steps, saved and loaded."""
    folder = tmp_path_factory.mktemp("table") / "model"
    vaekit.train(every_type(), folder, batch_size=64, **SETTINGS)
    return vaekit.load(folder)


def test_the_types_are_those_that_are_meant(model: Any) -> None:
    found = {column.name: column.type for column in model.schema.table}
    assert found["id"] == "identifier"
    assert set(found.values()) >= {
        "identifier",
        "continuous",
        "integer",
        "count",
        "binary",
        "categorical",
        "datetime",
        "constant",
    }
    assert any(column.words for column in model.schema.table)
    assert sum(column.missing for column in model.schema.table) >= 2


def test_rows_satisfy_the_schema(model: Any) -> None:
    source, num = every_type(), 300
    cells = model.generate_labelled(num, seed=4).x
    assert cells.shape == (num, len(model.schema.table) + len(state_channels(model.schema.table)))
    frame = decode(cells, model.schema.table, seed=4)
    assert frame.columns == source.columns
    assert dict(frame.schema) == dict(source.schema)
    for column in model.schema.table:
        made, seen = frame[column.name], source[column.name]
        if column.type == "identifier":
            assert made.n_unique() == num
            assert made.str.contains(r"^A-\d{5}$").all() or made.str.starts_with("A-").all()
            continue
        if not column.missing:
            assert made.null_count() == 0, column.name
        if column.is_coded or seen.dtype.is_numeric() or seen.dtype.is_temporal():
            known = made.drop_nulls()
            if column.is_coded:
                assert set(known.unique()) <= set(seen.unique()), column.name
            else:
                assert known.min() >= seen.min(), column.name
                assert known.max() <= seen.max(), column.name
    assert frame["price"].str.contains(r"^\d+\.\d{2}$").all()
    prices = source["price"].cast(pl.Float64)
    assert frame["price"].cast(pl.Float64).is_between(prices.min(), prices.max()).all()
    words = frame["hours"].filter(frame["hours"] == ">90")
    assert 0 < len(words) < num
    assert frame["hours"].filter(frame["hours"] != ">90").cast(pl.Int64).is_between(1, 89).all()
    assert frame["when"].str.contains(r"^2021-03-\d{2} \d{2}:\d{2}$").all()
    assert 0 < frame["city"].null_count() < num
    assert 0 < frame["wage"].null_count() < num
    assert (frame["spike"] == 0).sum() > num / 3


def test_an_untrained_start_has_the_frequencies_of_the_columns(model: Any) -> None:
    """After three steps rows are about independent draws of each column's own histogram."""
    source = every_type()
    frame = model.generate(1500, seed=1)
    assert isinstance(frame, pl.DataFrame)
    for name in ("sex", "smoker", "grade"):
        value = source[name][0]
        share, found = (source[name] == value).mean(), (frame[name] == value).mean()
        assert abs(share - found) < 0.12, name
    assert abs(frame["real"].mean() - source["real"].mean()) < 0.3
    assert abs(frame["wage"].null_count() / 1500 - source["wage"].null_count() / N) < 0.1


def test_a_seed_gives_the_same_rows(model: Any) -> None:
    first, again, other = (model.generate_labelled(40, seed=seed).x for seed in (2, 2, 3))
    assert np.array_equal(first, again, equal_nan=True)
    assert not np.array_equal(first, other, equal_nan=True)
    assert np.array_equal(model.generate_labelled(10, seed=2).x, first[:10], equal_nan=True)


def test_training_again_gives_the_same_weights() -> None:
    models = [vaekit.train(every_type(), batch_size=64, **SETTINGS) for _ in range(2)]
    states = [model.vae.state_dict() for model in models]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


@pytest.mark.parametrize("num", [2, 3, 9, 40])
def test_small_tables(num: int) -> None:
    model = vaekit.train(every_type(num), **{**SETTINGS, "steps": 2})
    assert len(model.generate(5)) == 5


@pytest.mark.parametrize(
    "frame",
    [
        pl.DataFrame({"v": [1.5, 2.5, 3.5] * 20}),
        pl.DataFrame({"c": ["a", "b"] * 30}),
        pl.DataFrame({"same": ["x"] * 60}),
        pl.DataFrame({"gone": pl.Series([None] * 60, dtype=pl.Float64), "v": list(range(60))}),
        pl.DataFrame({"v": [None] * 59 + [1.0], "w": list(range(60))}),
        pl.DataFrame({"id": [f"k{k}-{k * 7919 % 1000}" for k in range(60)], "v": list(range(60))}),
        pl.DataFrame({"v": np.random.default_rng(0).standard_cauchy(60) * 1e200}),
    ],
    ids=["numbers", "categories", "constant", "nothing", "almost nothing", "identifier", "Cauchy"],
)
def test_odd_tables(frame: pl.DataFrame) -> None:
    model = vaekit.train(frame, **SETTINGS)
    rows = model.generate(7)
    assert list(rows.columns) == frame.columns
    assert len(rows) == 7


def one_step(data: Any, num: int = 32) -> Any:
    """The recipe of data, after a step on its first rows."""
    torch.manual_seed(0)
    recipe = recipes.make(data)
    batch = data.batch(np.arange(num))
    recipe.vae.initialize(recipe.transform(batch.x), batch.mask)
    step = Step(recipe.vae, recipe.transform, recipe.objective or ELBO(), 1, len(data), recipe.settings["hide"])
    optimizer = torch.optim.SGD(recipe.vae.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        terms = step(batch.x, batch.mask, None, 10**6)
        terms["loss"].backward()
        optimizer.step()
        losses.append(terms["loss"].item())
    assert np.isfinite(losses).all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in recipe.vae.parameters())
    return recipe


def test_two_thousand_columns() -> None:
    rng = np.random.default_rng(0)
    numbers = {f"n{k}": rng.integers(0, 5 + k % 50, 64) for k in range(1000)}
    reals = {f"r{k}": rng.normal(size=64) for k in range(500)}
    texts = {f"c{k}": rng.choice(["a", "b", "c", "d"], 64) for k in range(500)}
    recipe = one_step(open_data(pl.DataFrame({**numbers, **reals, **texts})))
    assert len(recipe.transform.sizes) == 2000


def test_a_hundred_thousand_categories() -> None:
    rng = np.random.default_rng(0)
    codes = np.concatenate([np.arange(100_000), np.arange(100_000)])
    frame = pl.DataFrame({"shop": [f"shop {k}" for k in codes], "v": rng.normal(size=len(codes))})
    data = open_data(frame, types={"shop": "categorical"})
    column = data.schema.table[0]
    assert (column.type, len(column.categories)) == ("categorical", 100_000)
    recipe = one_step(data)
    assert recipe.transform.sizes[0] == 100_000
    assert recipe.vae.likelihood.layout.groups
    x = recipe.vae.likelihood(recipe.vae.sample_prior(20)).sample()
    assert recipe.vae.likelihood.check(x.flatten(0, 1)) is None


def test_its_parts() -> None:
    data = open_data(every_type())
    recipe = recipes.make(data)
    assert isinstance(recipe.transform, CellGrid)
    assert isinstance(recipe.vae.likelihood, Cells)
    assert isinstance(recipe.vae.posterior.network, CellEmbedding)
    sizes, channels = recipe.transform.sizes, state_channels(data.schema.table)
    assert recipe.vae.likelihood.sizes == sizes
    for index, column in enumerate(data.schema.table):
        if column.is_coded:
            assert sizes[index] == len(column.categories)
        assert recipe.transform.ordered[index] == (column.is_number or column.type == "datetime")
        if index in channels:
            assert sizes[channels[index]] == column.num_states
    TrainConfig.make(steps=1, **recipe.settings)
    assert all(re.fullmatch(r"[A-Z].*\.", reason) for reason in recipe.reasons)
    assert recipe.second_stage is None  # too few rows
    assert recipes.make(open_data(every_type(1200))).second_stage == recipes.SECOND_STAGE
    assert recipes.make(data, prior="mixture").second_stage is None


@pytest.mark.parametrize("prior", ["standard", "mixture", "flow", "autoregressive"])
def test_priors(prior: str) -> None:
    if prior in ("flow", "autoregressive"):
        pytest.importorskip("zuko")
    model = vaekit.train(every_type(60), prior=prior, **SETTINGS)
    assert len(model.generate(5)) == 5


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"recipe": "mlp"}, "The recipe of a table must be `table` or `auto`, got 'mlp'"),
        ({"recipe": "magic"}, "`recipe` must be one of auto, .*; got 'magic'"),
        ({"likelihood": "normal"}, "`likelihood` must be left out for a table"),
        ({"condition": ["sex"]}, "`condition` must be left out for a table"),
        ({"prior": "vamp"}, "The prior of a table must not be `vamp`"),
        ({"prior": "magic"}, "must be one of"),
        ({"latent": 0}, "`latent` must be at least 1, got 0"),
    ],
)
def test_what_it_cannot_be(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        recipes.make(open_data(every_type(30)), **arguments)
    assert "\n" not in str(caught.value)


def test_the_recipe_is_for_tables() -> None:
    with pytest.raises(ConfigError, match="The recipe `table` must have a table of columns, found vectors"):
        recipes.make(open_data(np.zeros((5, 3), np.float32) + np.arange(3)), recipe="table")
