"""Conditions at the command line: train on several columns, ask for values and ranges, edit, and predict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vaekit.cli.main import run


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data of two columns, some of them missing, and a model of them."""
    folder = tmp_path_factory.mktemp("conditions")
    rng = np.random.default_rng(0)
    side, slope = np.arange(120) % 3, rng.uniform(-1, 1, 120)
    x = rng.normal(0, 0.3, (120, 4)) + np.stack([side == 0, side == 1, side == 2, slope], 1) * 3
    side = np.where(np.arange(120) % 4 == 1, np.nan, side)
    slope[:5] = np.nan
    np.savez(folder / "data.npz", x=x.astype(np.float32), y_side=side, y_slope=slope)
    how = ["--condition", "side", "--condition", "slope", "--objective", "semi-supervised", "--steps", "60", "--quiet"]
    assert run(["train", str(folder / "data.npz"), "-o", str(folder / "model"), *how, "--device", "cpu"]) == 0
    return folder / "data.npz", folder / "model"


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    assert run([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_model_of_two_columns(places: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, model = places
    about = said(capsys, "info", model)
    assert about["conditions"] == ["side", "slope"]
    assert about["training"]["objective"]["type"] == "objectives.SemiSupervised"
    assert about["training"]["reasons"][-1] != ""
    assert any("81 of 108 examples are labelled" in r or "examples are labelled" in r for r in about["training"]["reasons"])
    made = said(capsys, "generate", model, "-n", 5, "-o", tmp_path / "g.csv", "--where", "slope=0.1..0.2", "--where", "side=2")
    assert all(0.1 <= value <= 0.2 for value in made["columns"]["slope"])
    assert made["columns"]["side"] == ["2"] * 5
    said(capsys, "edit", model, data, "-o", tmp_path / "e.npy", "--set", "slope=+0.5", "--set", "side=1")
    set_ = said(capsys, "edit", model, data, "-o", tmp_path / "f.npy", "--set", "slope==-0.5")
    assert set_["methods"] == {"slope": "condition"}
    said(capsys, "encode", model, data, "-o", tmp_path / "z.csv")
    latents = pl.read_csv(tmp_path / "z.csv")
    assert latents["slope"].dtype == pl.Float64
    said(capsys, "decode", model, tmp_path / "z.csv", "-o", tmp_path / "d.npy")
    assert run(["inspect", str(data)]) == 0
    assert "numbers, -" in capsys.readouterr().out


def test_predict(places: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, model = places
    found = said(capsys, "predict", model, data, "-o", tmp_path / "labels.csv", "--split", "all", "--every")
    table = pl.read_csv(tmp_path / "labels.csv")
    assert found["method"] == "classifier"
    assert table.columns == ["index", "side", "side_probability", *(f"side_probability_{c}" for c in range(3))]
    shares = table.select(pl.col("^side_probability_.$")).to_numpy()
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(shares.argmax(1), table["side"].to_numpy())
    own = np.load(data)["y_side"]
    known = ~np.isnan(own)
    assert found["accuracy"]["side"] == pytest.approx((table["side"].to_numpy()[known] == own[known]).mean())
    by_rule = said(capsys, "predict", model, data, "-o", tmp_path / "b.csv", "--column", "slope", "--samples", 2)
    assert by_rule["method"] == "bayes"
    assert pl.read_csv(tmp_path / "b.csv").columns == ["index", "slope", "slope_scale"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            lambda data, model, out: ["generate", model, "-o", out / "x.csv", "--where", "slope=steep"],
            "`slope` must be a finite number",
        ),
        (
            lambda data, model, out: ["edit", model, data, "-o", out / "x.npy", "--set", "slope=+inf"],
            "`slope` must be a finite number",
        ),
        (
            lambda data, model, out: ["predict", model, data, "-o", out / "x.csv", "--column", "hue"],
            "`hue` must be one of the columns",
        ),
        (lambda data, model, out: ["predict", model, data, "-o", out / "x.png"], "OUT must end in"),
        (
            lambda data, model, out: ["train", data, "-o", out / "m", "--condition", "hue"],
            "must have a column `hue`; it has side, slope",
        ),
        (
            lambda data, model, out: ["train", data, "-o", out / "m", "--objective", "semi-supervised", "--condition", "slope"],
            "must have a condition of categories",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(
    arguments: Callable[..., list],
    sentence: str,
    places: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    assert run([str(argument) for argument in arguments(*places, tmp_path)]) == 2
    said_ = capsys.readouterr().err.strip()
    assert sentence in said_.splitlines()[-1]  # after what is to be known of the data
