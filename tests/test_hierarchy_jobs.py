"""Ladders in use: every job, memory, the recipe, and training."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import vaekit
from small_models import image_data, shaken, vector_data
from vaekit import inference, recipes, storage
from vaekit.cli.main import run
from vaekit.data import loading
from vaekit.data.transforms import Levels, Standardize
from vaekit.errors import ConfigError
from vaekit.evaluation.bounds import evaluate_bounds
from vaekit.inference import bounds, seeded
from vaekit.jobs.encode import decode, encode
from vaekit.jobs.generate import generate
from vaekit.jobs.interpolate import interpolate
from vaekit.jobs.reconstruct import reconstruct
from vaekit.jobs.score import score
from vaekit.jobs.traverse import traverse
from vaekit.likelihoods import Bernoulli, DiscretizedLogisticMixture, Likelihood, Normal
from vaekit.networks import ConditionEncoder, ConvLadder, DenseLadder, Tail
from vaekit.objectives import ELBO
from vaekit.storage import Bundle
from vaekit.training.run import train
from vaekit.vae import HierarchicalVAE

# ------------------------------------------------------------------------------------------------------------------- jobs


def image_ladder(conditional: bool = False) -> Bundle:
    """A ladder of `image_data`: grey images 6 x 5 of 16 levels."""
    torch.manual_seed(1)
    width = 2 if conditional else 0
    ladder = ConvLadder([1, 6, 5], [8, 8, 8], [1, 1, 1], 2, condition_features=width, input_range=[0.0, 15.0])
    likelihood: Likelihood = DiscretizedLogisticMixture(Tail(ladder.out_shape), [1, 6, 5], levels=16, num_components=2)
    condition = ConditionEncoder({"label": 3}, features=2) if conditional else None
    vae = shaken(HierarchicalVAE(ladder, likelihood, condition), 0.1)
    counts = {"condition_counts": {"label": [0, 10, 30]}} if conditional else {}
    return Bundle(vae.eval(), Levels(), image_data().schema, {"steps": 1, **counts}, {"validation_elbo": -1.0})


def vector_ladder() -> Bundle:
    """A ladder of `vector_data`: vectors of 5 real numbers."""
    torch.manual_seed(2)
    vae = shaken(HierarchicalVAE(DenseLadder(5, [2, 3], width=12), Normal(Tail([12]), [5])), 0.1)
    return Bundle(vae.eval(), Standardize(2.0, 3.0), vector_data().schema)


BUNDLES = {
    "images": (image_ladder, image_data),
    "conditional images": (lambda: image_ladder(conditional=True), image_data),
    "vectors": (vector_ladder, vector_data),
}


@pytest.mark.parametrize("kind", BUNDLES)
def test_every_job(kind: str, tmp_path) -> None:
    bundle, data = (make() for make in BUNDLES[kind])
    many = generate(bundle, 20).x
    np.testing.assert_array_equal(generate(bundle, 3).x, many[:3])
    assert not np.array_equal(many, generate(bundle, 20, temperature=0.3).x)
    encoding = encode(bundle, data)
    assert encoding.mean.shape == (30, bundle.vae.num_latents)
    some = encode(bundle, data.select([17, 3]))
    np.testing.assert_array_equal(some.mean, encoding.mean[[17, 3]])
    np.testing.assert_array_equal(some.scale, encoding.scale[[17, 3]])
    rebuilt = reconstruct(bundle, data)
    if kind != "conditional images":
        np.testing.assert_array_equal(decode(bundle, encoding.mean, draw="mean"), rebuilt)
    for path in ("linear", "spherical"):
        steps = interpolate(bundle, data, 3, 8, num_steps=5, path=path)
        np.testing.assert_array_equal(steps[[0, -1]], rebuilt[[3, 8]])
    for source in (data, None):
        grid = traverse(bundle, source, num_units=4, num_steps=3)
        assert grid.x.shape[:2] == (4, 3)
        assert len(set(grid.units.tolist())) == 4
    scores = score(bundle, data, num_samples=3)
    assert np.isfinite(scores.log_likelihood).all()
    report = evaluate_bounds(bundle, data, num_samples=4)
    assert report.elbo == pytest.approx(-(report.rate + report.distortion))
    assert -report.nll_nats > report.elbo - 0.5
    folder = storage.save(bundle, tmp_path / "model")
    loaded = vaekit.load(folder)
    np.testing.assert_array_equal(loaded.generate(3), generate(bundle, 3).x)
    assert loaded.info()["ladder"].startswith("networks.")
    assert f"| latents | {bundle.vae.num_latents} |" in (folder / "README.md").read_text()


def test_where_keeps_the_latents_and_changes_the_condition() -> None:
    bundle = image_ladder(conditional=True)
    made = [generate(bundle, 10, where={"label": label}).x for label in ("1", "2", "1")]
    np.testing.assert_array_equal(made[0], made[2])
    assert not np.array_equal(made[0], made[1])


def test_units_are_ranked_by_the_kl_of_all_levels() -> None:
    bundle, data = vector_ladder(), vector_data()
    with torch.no_grad():
        for rung, means in zip(bundle.vae.ladder.rungs, ([0.0, 3.0], [1.0, 4.0, 2.0]), strict=True):
            rung.posterior_block.last.weight.zero_()
            rung.posterior_block.last.bias.copy_(torch.tensor([*means, *[0.0] * len(means)]))
    assert traverse(bundle, data, num_units=5).units.tolist() == [3, 1, 4, 2, 0]


def test_many_units_are_ranked_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a ladder with more units than are tried, those of the top levels are."""
    from vaekit.jobs import traverse as module

    bundle = image_ladder()
    whole = traverse(bundle, None, num_units=3)
    monkeypatch.setattr(module, "block_size", lambda schema: 8)
    np.testing.assert_array_equal(traverse(bundle, None, num_units=3).units, whole.units)
    monkeypatch.setattr(module, "TRIED", 20)
    units = traverse(bundle, None, num_units=30).units
    assert len(units) == 20
    assert units.max() < 20


def test_samples_at_once_are_bounded_by_the_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, data = image_ladder(), image_data(4)
    widths = []
    for block in (rung.prior_block for rung in bundle.vae.ladder.rungs):
        block.register_forward_hook(lambda module, inputs, output: widths.append(output.numel()))
    monkeypatch.setattr(inference, "MAX_ELEMENTS", 4000)
    with seeded(0, torch.device("cpu")):
        for _ in bounds(bundle, data, 20):
            pass
    assert 1000 < max(widths) <= 4000
    assert bundle.vae.peak_elements() == max(12 * 30, bundle.vae.likelihood.peak_elements(), 2 * bundle.vae.num_latents)


# ------------------------------------------------------------------------------------------------------- recipe, training


def test_the_recipe_trains_publishes_and_serves_every_command(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x_train=x[:30], y_train=np.arange(30) % 3, x_test=x[30:], y_test=np.arange(10) % 3)
    out, source = str(tmp_path / "model"), str(tmp_path / "x.npz")
    options = ["--recipe", "ladder", "--latent", "2", "--condition", "label", "--steps", "3", "--precision", "float32"]
    assert run(["train", source, "-o", out, *options, "--quiet"]) == 0
    assert (tmp_path / "model" / "preview.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((tmp_path / "model" / "training" / "config.json").read_text())["config"]
    assert config["skip_norm"] > config["clip_norm"]
    for line in (
        ["generate", out, "-n", "3", "-o", str(tmp_path / "new.npy"), "--where", "label=1"],
        ["reconstruct", out, source, "-o", str(tmp_path / "back.npy")],
        ["encode", out, source, "-o", str(tmp_path / "z.npz")],
        ["decode", out, str(tmp_path / "z.npz"), "-o", str(tmp_path / "decoded.npy")],
        ["evaluate", out, source, "--samples", "2"],
        ["score", out, source, "-o", str(tmp_path / "scores.csv"), "--samples", "2"],
        ["info", out],
    ):
        assert run([*line, "--quiet"]) == 0, line
    capsys.readouterr()
    assert vaekit.load(out).vae.ladder.latent_shapes[-1][0] == 2


def test_the_recipe_grows_with_the_data_and_the_machine() -> None:
    data = loading.open(np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8))
    here, there = (recipes.make(data, recipe="ladder", accelerated=fast).vae for fast in (False, True))
    assert isinstance(here, HierarchicalVAE)
    assert isinstance(there, HierarchicalVAE)
    sides = [shape[1] for shape in here.ladder.latent_shapes]
    assert sides == [1, 1, 4, 4, 4, 4, 7, 7, 7, 7, 14]
    assert [shape[1] for shape in there.ladder.latent_shapes] == sorted(2 * sides)
    assert there.ladder.out_shape[0] == 2 * here.ladder.out_shape[0]
    with pytest.raises(ConfigError, match="`latent` must be at least 1, got 0"):
        recipes.make(data, recipe="ladder", latent=0)


def test_counts_enter_a_ladder_as_logs() -> None:
    counts = np.random.default_rng(0).poisson(30.0, (20, 6)).astype(np.int64)
    vae = recipes.make(loading.open(counts), recipe="ladder", likelihood="poisson").vae
    plain = DenseLadder(6, [1], 8)
    logs = DenseLadder(6, [1], 8, log_input=True)
    logs.load_state_dict(plain.state_dict())
    x = torch.tensor([[0.0, 1.0, 10.0, 100.0, -3.0, 7.0]])
    assert vae.ladder.log_input
    torch.testing.assert_close(logs.bottom_up(x)[0], plain.bottom_up(x.sign() * torch.log1p(x.abs()))[0])


@pytest.mark.parametrize("shape", [(28, 28), (32, 32, 3), (1, 5), (40, 33), (7,)])
def test_the_recipe_fits_any_shape(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(0, 256, (20, *shape), dtype=np.uint8)
    data = loading.open(x if len(shape) > 1 else x.astype(np.float32))
    recipe = recipes.make(data, recipe="ladder")
    assert isinstance(recipe.vae, HierarchicalVAE)
    assert len(recipe.reasons) == 3
    if len(shape) > 1:
        assert recipe.vae.ladder.latent_shapes[0][1:] == (1, 1) or min(shape[:2]) == 1
    x = recipe.transform(data.batch(np.arange(2)).x)
    recipe.vae.initialize(x)
    loss = ELBO()(recipe.vae(x)).loss
    loss.backward()
    assert torch.isfinite(loss)


def test_training_lowers_the_loss_of_a_ladder_of_ones_own(tmp_path) -> None:
    bars = np.zeros((60, 6, 5), dtype=np.uint8)
    bars[np.arange(60), np.arange(60) % 6] = 1
    vae = HierarchicalVAE(DenseLadder([1, 6, 5], [2, 4], 32, input_range=[0, 1]), Bernoulli(Tail([32]), [1, 6, 5]))
    settings = {"steps": 150, "batch_size": 32, "learning_rate": 1e-2, "learning_rate_warm_up": 0, "ema": 0.9}
    bundle = train(
        loading.open(bars), tmp_path / "run", vae=vae, transform=Levels(), display_as="quiet", validate_every=75, **settings
    )
    marginal = 30 * -(1 / 6 * math.log(1 / 6) + 5 / 6 * math.log(5 / 6))  # nats of the pixels one by one
    assert -bundle.metrics["validation_elbo"] < 0.5 * marginal
    loaded = storage.load(tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(bundle.vae.parameters(), loaded.vae.parameters(), strict=True))
