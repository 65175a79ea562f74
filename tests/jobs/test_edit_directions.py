"""Edits along directions: what changes, what stays to the last bit, and what a classifier says of the pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import vaekit
from small_models import image_bundle, image_data, shaken, vector_bundle, vector_data
from vaekit import storage
from vaekit.data import output
from vaekit.directions import LearnedDirection, UnitDirection
from vaekit.errors import ConfigError, DataError, ModelFormatError
from vaekit.jobs.blocks import posterior_of
from vaekit.jobs.directions import Move, moved, parse_move
from vaekit.jobs.edit import edit
from vaekit.jobs.encode import decode
from vaekit.jobs.reconstruct import reconstruct
from vaekit.likelihoods import Normal
from vaekit.model import Model
from vaekit.networks import MLP, DenseLadder, Tail
from vaekit.posteriors import VonMisesFisher
from vaekit.priors import UniformSphere
from vaekit.vae import VAE, HierarchicalVAE

SLANT = UnitDirection(unit=2, mean=0.5, scale=2.0)
TILT = UnitDirection(unit=0)
SMILE = LearnedDirection(
    vector=(0.0, 1.0, 0.0, -2.0), reading=(0.5, 1.0, 0.0, 0.0), offset=0.25, num_positive=9, num_negative=9, separation=0.9
)
NAMED = {"slant": SLANT, "tilt": TILT, "smile": SMILE}


def named(bundle: storage.Bundle, **more: UnitDirection) -> storage.Bundle:
    return replace(bundle, directions={**NAMED, **more})


def latents(num: int = 7) -> torch.Tensor:
    return torch.randn(num, 4)


def test_the_change_is_along_the_direction_and_nothing_else_moves():
    bundle, z = named(vector_bundle()), latents()
    for name, amount in (("slant", 1.5), ("tilt", -2.0), ("smile", 0.7)):
        step = NAMED[name].step(4)
        after = moved(bundle, z, {name: Move(amount)})
        still = step == 0
        assert torch.equal(after[:, still], z[:, still])
        torch.testing.assert_close((after - z)[:, ~still].double(), (amount * step)[~still].expand(7, -1), rtol=0, atol=3e-7)
        torch.testing.assert_close(NAMED[name].position(after), NAMED[name].position(z) + amount, rtol=0, atol=1e-6)
    assert torch.equal(moved(bundle, z, {"smile": Move(3.0)}, strength=0.0), z)
    assert moved(bundle, z, {}) is z


def test_several_names_compose_in_any_order():
    bundle, z = named(vector_bundle()), latents()
    asked = {"slant": Move(1.0), "smile": Move(-2.0), "tilt": Move(0.5)}
    together = moved(bundle, z, asked)
    one_by_one = z
    for name, move in reversed(asked.items()):
        one_by_one = moved(bundle, one_by_one, {name: move})
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-6)
    assert torch.equal(together, moved(bundle, z, dict(reversed(asked.items()))))
    half = moved(bundle, z, asked, strength=0.5)
    torch.testing.assert_close(half - z, (together - z) / 2, rtol=0, atol=1e-6)


def test_positions_hold_all_together_and_after_the_steps():
    bundle, z = named(vector_bundle()), latents()
    after = moved(bundle, z, {"smile": Move(1.0, True), "tilt": Move(-1.0, True), "slant": Move(2.0)})
    torch.testing.assert_close(SMILE.position(after), torch.ones(7).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(TILT.position(after), -torch.ones(7).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(SLANT.position(after), SLANT.position(z) + 2, rtol=0, atol=1e-6)
    alone = moved(bundle, z, {"slant": Move(0.0, True)})
    torch.testing.assert_close(alone[:, 2], torch.full((7,), 0.5))
    twins = named(vector_bundle(), twin=UnitDirection(unit=2))
    with pytest.raises(ConfigError, match="must be several, found slant, twin"):
        moved(twins, z, {"slant": Move(0.0, True), "twin": Move(0.0, True)})
    torch.testing.assert_close(moved(twins, z, {"slant": Move(1.0), "twin": Move(1.0)})[:, 2], z[:, 2] + 3)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("+2", Move(2.0)),
        ("-1.5", Move(-1.5)),
        (-1.5, Move(-1.5)),
        (2, Move(2.0)),
        ("=0", Move(0.0, True)),
        ("=-1", Move(-1, True)),
    ],
)
def test_how_a_move_is_written(value, expected):
    assert parse_move("slant", value) == expected


@pytest.mark.parametrize("value", ["2", "up", "", "+", "=", "+nan", "=inf", float("nan")])
def test_what_is_no_move(value):
    with pytest.raises(ConfigError, match=r"`slant` is a direction: write `slant=\+2`"):
        parse_move("slant", value)


def test_an_edit_decodes_the_latent_that_was_moved():
    bundle, data = named(vector_bundle()), vector_data()
    z = posterior_of(bundle, data)[0].numpy()
    made = edit(bundle, data, {"slant": "+1.5", "smile": -1})
    z[:, 2] += 3.0
    z[:, 1] -= 1.0
    z[:, 3] += 2.0
    np.testing.assert_allclose(made.x, decode(bundle, z, draw="mean"), rtol=1e-5)
    assert made.methods == {"slant": "direction", "smile": "direction"}
    np.testing.assert_array_equal(edit(bundle, data, {"slant": 3.0}, strength=0.0).x, reconstruct(bundle, data))


@pytest.mark.parametrize("conditional", [False, True])
def test_columns_and_directions_stand_together(conditional):
    bundle, data = named(image_bundle(conditional=conditional)), image_data()
    both = edit(bundle, data, {"label": 1, "tilt": "+2"})
    assert both.methods == {"label": "condition" if conditional else "vector", "tilt": "direction"}
    assert set(both.columns) == {"label"}
    assert set(both.columns["label"]) == {"1"}
    z = posterior_of(bundle, data)[0].double().numpy()
    if conditional:
        z[:, 0] += 2
        np.testing.assert_array_equal(both.x, decode(bundle, z, draw="mean", where={"label": 1}))
    else:
        of_label = np.stack([z[np.arange(30) % 3 == label].mean(0) for label in range(3)])
        z += of_label[1] - of_label[np.arange(30) % 3]
        z[:, 0] += 2
        assert np.mean(both.x == decode(bundle, z, draw="mean")) > 0.999


def test_a_ladder_and_its_directions():
    torch.manual_seed(2)
    ladder = shaken(HierarchicalVAE(DenseLadder(5, [2, 3], width=12), Normal(Tail([12]), [5])), 0.1)
    model, data = Model(replace(vector_bundle(), vae=ladder.eval())), vector_data()
    assert model.name("top", 1) == UnitDirection(unit=1)
    learned = model.name("low", positive=data.raw()[:9] + 9, negative=data.raw()[9:18])
    assert learned.separation > 0.9
    z = posterior_of(model.bundle, data)[0].double()
    z[:, 1] += 2
    z -= learned.step(5)
    made = model.edit(data, {"top": 2.0, "low": -1.0})
    np.testing.assert_allclose(made.x, decode(model.bundle, z.numpy(), draw="mean"), rtol=1e-5)
    grid = model.traverse(data, units=["low", "top", 4], num_steps=3)
    assert grid.labels == ["low", "z1 top", "z4"]
    assert np.isfinite(grid.activity[1:]).all()


def test_a_column_wins_over_a_direction_of_its_name():
    bundle, data = named(image_bundle(), label=UnitDirection(unit=0)), image_data()
    assert edit(bundle, data, {"label": 1}).methods == {"label": "vector"}


def test_refusals():
    bundle, data = named(vector_bundle()), vector_data()
    with pytest.raises(ConfigError, match="must have a direction 'smirk', it has slant, tilt, smile"):
        edit(bundle, data, {"smirk": "+1"})
    with pytest.raises(DataError, match="must have a column `smirk`"):
        edit(bundle, data, {"smirk": "yes"})
    with pytest.raises(ConfigError, match="`slant` is a direction"):
        edit(bundle, data, {"slant": "yes"})
    vae = VAE(UniformSphere(3), VonMisesFisher(MLP(5, [8]), 3), Normal(MLP(3, [8]), [5])).eval()
    with pytest.raises(ConfigError, match=r"but `tilt` is one of sphere\(3\)"):
        edit(replace(bundle, vae=vae), data, {"tilt": 1.0})


@pytest.fixture
def folder(tmp_path):
    return storage.save(named(vector_bundle()), tmp_path / "model")


def damage(folder, change):
    path = folder / "vaekit.json"
    config = json.loads(path.read_text())
    change(config["directions"])
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d["slant"].update(unit=4), "it is not one of the model's 4 units"),
        (lambda d: d["slant"].update(unit=-1), "`unit`: Input should be greater"),
        (lambda d: d["slant"].update(scale=0), "`scale`: Input should be greater than 0"),
        (lambda d: d["slant"].update(code="os.system"), "`code`: Extra inputs"),
        (lambda d: d.update(slant=7), "it is no object"),
        (lambda d: d.update({"a=b": d["slant"]}), "that is no name"),
        (lambda d: d["smile"].update(vector=[1.0]), "must be as long, found 1 and 4"),
        (lambda d: d["smile"].update(vector=[1.0], reading=[1.0]), "it is not one of the model's 4 units"),
        (lambda d: d["smile"].update(reading=[0.0] * 4), "must give 1 for `vector`, found 0"),
        (lambda d: d["smile"].update(vector="long"), "`vector`: Input should be"),
        (lambda d: d["smile"].update(offset=float("nan")), "`offset`: Input should be a finite number"),
        (lambda d: d["smile"].pop("offset"), "`offset`: Field required"),
    ],
)
def test_a_damaged_direction_is_one_sentence_and_can_be_removed(folder, change, sentence):
    damage(folder, change)
    with pytest.raises(ModelFormatError, match=r"The direction .* must be one that vaekit wrote, but: ") as caught:
        storage.load(folder)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value).strip()
    name = str(caught.value).split("'")[1]
    storage.save_directions(folder, {}, remove=[name])
    assert set(storage.load(folder).directions) == set(NAMED) - {name}


def test_directions_that_are_no_object(folder):
    path = folder / "vaekit.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "directions": [1]}))
    for act in (lambda: storage.load(folder), lambda: storage.save_directions(folder, {}, remove=["slant"])):
        with pytest.raises(ModelFormatError, match="must have an object under 'directions', found"):
            act()


def test_folders_without_directions_are_as_they_were(tmp_path):
    folder = storage.save(vector_bundle(), tmp_path / "model")
    text = (folder / "vaekit.json").read_text()
    assert "directions" not in json.loads(text)
    assert storage.load(folder).directions == {}
    storage.save_directions(folder, {"slant": SLANT})
    assert storage.load(folder).directions == {"slant": SLANT}
    storage.save_directions(folder, {}, remove=["slant"])
    assert (folder / "vaekit.json").read_text() == text
    with pytest.raises(ConfigError, match="must have the name 'slant' to remove it; it has none"):
        storage.save_directions(folder, {}, remove=["slant"])


def test_a_full_disk_leaves_everything_as_it_was(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output.os, "replace", fail)
    with pytest.raises(ConfigError, match="must be writable, but: No space left"):
        storage.save_directions(folder, {"new": TILT})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


KILLED = """
import os, signal, sys
from vaekit import storage
from vaekit.data import output
from vaekit.directions import UnitDirection

replace = os.replace

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def replaced(*arguments):
    replace(*arguments)
    die()

for when in ("written", "before", "after"):
    child = os.fork()
    if child == 0:
        output._sync = die if when == "written" else output._sync
        os.replace = {"written": replace, "before": die, "after": replaced}[when]
        storage.save_directions(os.path.join(sys.argv[1], when), {"new": UnitDirection(unit=1)})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""


def test_a_kill_between_writes_loses_nothing(tmp_path):
    bundle = named(vector_bundle())
    for when in ("written", "before", "after"):
        storage.save(bundle, tmp_path / when)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    line = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for when in ("written", "before", "after"):
        after = storage.load(tmp_path / when)
        assert set(after.directions) == set(NAMED) | ({"new"} if when == "after" else set())
        for name, tensor in bundle.vae.state_dict().items():
            assert torch.equal(after.vae.state_dict()[name], tensor)
        storage.save_directions(tmp_path / when, {"newer": TILT})
        assert "newer" in storage.load(tmp_path / when).directions


@pytest.fixture(scope="module")
def digits():
    """A small model of the digits, half of them, and a classifier that has seen the pictures of the other half alone."""
    sklearn = pytest.importorskip("sklearn.linear_model")
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32).reshape(-1, 8, 8)
    how = {"latent": 10, "steps": 500, "batch_size": 128, "learning_rate": 4e-3, "ema": 0.99, "precision": "float32"}
    model = vaekit.train(x[::2], recipe="mlp", likelihood="normal", patience=0, display="quiet", **how)
    judge = sklearn.LogisticRegression(max_iter=2000, C=0.1).fit(x[1::2].reshape(-1, 64) / 16, y[1::2])

    def said(pictures: np.ndarray) -> np.ndarray:
        return judge.predict(np.asarray(pictures).reshape(-1, 64) / 16)

    return model, x[::2], y[::2], said


def test_a_bold_direction_adds_ink_and_keeps_the_digit(digits):
    model, x, _, said = digits
    order, some = np.argsort(x.sum((1, 2))), x[::3]
    model.name("bold", positive=x[order[-60:]], negative=x[order[:60]], force=True)
    assert model.directions["bold"].separation > 0.9
    between = x[order[-60:]].sum((1, 2)).mean() - x[order[:60]].sum((1, 2)).mean()
    plain = model.edit(some, {"bold": 0.0}).x
    assert np.mean(said(plain) == said(some)) > 0.9
    for steps in (-0.5, 0.5):
        made = model.edit(some, {"bold": steps}).x
        added = made.sum((1, 2)) - plain.sum((1, 2))
        assert np.mean(added) * np.sign(steps) > 0.08 * between
        assert np.mean(np.sign(added) == np.sign(steps)) > 0.95
        assert np.mean(said(made) == said(plain)) > 0.9


def test_a_digit_direction_changes_the_digit_and_keeps_the_ink(digits):
    model, x, y, said = digits
    model.name("closed", positive=x[y == 8][:20], negative=x[y == 3][:20], force=True)
    assert model.directions["closed"].separation > 0.95
    threes, eights = x[y == 3][20:], x[y == 8][20:]
    plain, made = (model.edit(threes, {"closed": steps}).x for steps in (0.0, 1.0))
    assert np.mean(said(plain) == 3) > 0.8
    assert np.mean(said(made) == 8) > 0.75
    assert np.mean(said(made) == 3) < 0.1
    assert made.sum() == pytest.approx(plain.sum(), rel=0.15)
    assert np.mean(said(eights) == 8) > 0.8
    assert np.mean(said(model.edit(eights, {"closed": "=0"}).x) == 3) > 0.7
