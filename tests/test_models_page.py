"""Every row of docs/models.md is what it says: it trains, improves, is saved and loaded, and samples."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vaekit
from vaekit.data import loading
from vaekit.data.transforms import Binarize, Standardize, Transform
from vaekit.likelihoods import Bernoulli
from vaekit.objectives import VAEGAN, Objective, Quantization
from vaekit.training.run import train
from vaekit.vae import LatentModel

PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
COLUMNS = ("model", "prior", "posterior", "likelihood", "objective", "paper")
STEPS = 60


def rows() -> list[dict[str, str]]:
    """The rows of the page's tables; a model of two collections is told apart by the heading above it."""
    found, heading = [], ""
    for line in PAGE.splitlines():
        if line.startswith("## "):
            heading = line[3:]
        cells = [cell.strip("| ") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == len(COLUMNS) and cells[0] not in ("model", "---"):
            found.append({**dict(zip(COLUMNS, cells, strict=True)), "heading": heading})
    return found


ROWS = rows()
NAMES: dict[str, Any] = {}
for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
    exec(block, NAMES)  # noqa: S102 - the page's own definitions


def evaluated(cell: str) -> Any:
    """The object that a cell's code describes; None for an empty cell."""
    code = re.match(r"`([^`]*)`", cell)
    return eval(code.group(1), NAMES) if code else None  # noqa: S307 - the page's own expressions


def settings(cell: str) -> dict[str, Any]:
    """K and other settings that stand after the objective."""
    named = dict(re.findall(r", (\w+) = ([\w.-]+)", re.sub(r"`[^`]*`", "", cell)))
    samples = {"num_samples": int(named.pop("K"))} if "K" in named else {}
    return samples | {name: float(value) for name, value in named.items()}


def images() -> np.ndarray:
    """Binary images of four shapes, with noise."""
    rng = np.random.default_rng(0)
    shapes = np.zeros((4, 8, 8), dtype=bool)
    shapes[0, 2:6, 2:6], shapes[1, :, 3:5], shapes[2, 3:5, :], shapes[3] = True, True, True, np.eye(8, dtype=bool)
    return (shapes[rng.integers(0, 4, 160)] ^ (rng.random((160, 8, 8)) < 0.03)).astype(np.uint8)


def model_of(row: dict[str, str]) -> LatentModel:
    if row["model"] in ("LadderVAE", "LVAE"):
        return NAMES["ladder"]()
    if row["model"] == "ConditionalVAE":
        networks, posteriors, likelihoods = NAMES["networks"], NAMES["posteriors"], NAMES["likelihoods"]
        return NAMES["vae"](
            posterior=posteriors.DiagonalNormal(NAMES["net"](condition_features=4), NAMES["D"]),
            likelihood=likelihoods.Bernoulli(NAMES["dec"](condition_features=4), NAMES["SHAPE"]),
            condition=networks.ConditionEncoder({"label": 4}, features=4),
        )
    return NAMES["vae"](*(evaluated(row[part]) for part in ("prior", "posterior", "likelihood")))


def loss_of(vae: LatentModel, transform: Transform, objective: Objective, data: Any, num_samples: int) -> float:
    """The objective on all the data with its schedules ended and the same noise every time.

    Of a game, what the model alone wants: what reconstruction loses in the player's features. Of codes, the bound: the
    terms that hold network and codebook together are nothing at the start, where the codebook is made of the network's output.
    """
    batch = data.batch(np.arange(len(data)))
    training = vae.training
    vae.eval()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(5)
        trace = vae(transform(batch.x), condition=vae.condition_of(batch.columns, len(data)), num_samples=num_samples)
        bound = objective(replace(trace, num_data=len(data)))
    vae.train(training)
    if isinstance(objective, VAEGAN):
        return bound.terms["feature_distortion"].item()
    return (-bound.elbo if isinstance(objective, Quantization) else bound.loss).item()


def test_the_page_has_all_models_of_both_collections() -> None:
    of = {heading: {row["model"] for row in ROWS if row["heading"] == heading} for heading in ("pythae", "PyTorch-VAE")}
    assert len(of["pythae"]) + 2 == 28  # and two that are left out, with the reason
    assert "RHVAE" in PAGE
    assert "GMVAE" in PAGE
    assert len(of["PyTorch-VAE"]) == 22


def test_the_whole_run_of_the_page() -> None:
    (code,) = re.findall(r"```python run\n(.*?)```", PAGE, re.DOTALL)
    names = dict(NAMES)
    exec(code, names)  # noqa: S102 - the page's own program
    assert names["model"].bundle.training["objective"]["type"] == "objectives.DReG"
    assert names["model"].bundle.training["config"]["num_samples"] == 6


@pytest.mark.parametrize("row", [pytest.param(row, id=f"{row['heading']}-{row['model']}") for row in ROWS])
def test_a_model_of_the_page(row: dict[str, str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae, objective = model_of(row), evaluated(row["objective"]) or NAMES["ELBO"]()
    transform = Binarize(2) if isinstance(vae.likelihood, Bernoulli) else Standardize(0.0, 1.0)
    data = loading.open(images(), y=np.arange(160) % 4)
    options = settings(row["objective"])
    k = options.get("num_samples", 1)
    start = data.batch(np.arange(len(data)))
    vae.initialize(transform(start.x), None, vae.condition_of(start.columns, len(data)))
    untrained = copy.deepcopy(vae)
    bundle = train(
        data, tmp_path / "run", vae=vae, transform=transform, objective=objective, steps=STEPS, batch_size=40,
        learning_rate=5e-3, learning_rate_warm_up=0, ema=0.0, precision="float32", device="cpu", display_as="quiet", **options,
    )  # fmt: skip
    before = loss_of(untrained, transform, objective, data, k)  # by the player of the end, where there is one
    after = loss_of(bundle.vae, bundle.transform, objective, data, k)
    assert math.isfinite(before)
    assert math.isfinite(after)
    assert after < before
    model = vaekit.load(tmp_path / "run")
    assert loss_of(model.vae, model.bundle.transform, objective, data, k) == after
    if row["model"] == "TwoStageVAE":
        model = model.refit_prior(data, kind="vae", steps=30)
    samples = model.generate(5)
    assert samples.shape == (5, 8, 8)
    assert np.isfinite(samples.astype(float)).all()
    assert np.isfinite(model.encode(data).mean).all()
    assert model.reconstruct(data, split="all").shape == (160, 8, 8)
