"""`vaekit name`, `vaekit traverse`, `vaekit edit --set NAME=+2` and `vaekit disentangle`."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import vaekit
from small_models import image_data, vector_data
from vaekit import storage
from vaekit.cli.main import run
from vaekit.data.writing import write_examples


@pytest.fixture
def folder(place, tmp_path):
    return shutil.copytree(place.vectors, tmp_path / "model")


def said(capsys, *line):
    """What a command that succeeds prints, as JSON."""
    assert run([*map(str, line), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_name_from_the_first_look_to_the_edit(command, folder, place, tmp_path):
    weights = (folder / "model.safetensors").read_bytes()
    done = command("name", folder, 3, "slant")
    assert done.returncode == 0, done.stderr
    assert "slant: unit 3, a step is 1. Try `vaekit edit" in done.stderr
    assert (folder / "model.safetensors").read_bytes() == weights
    out = tmp_path / "x.npy"
    done = command("edit", folder, place.vector_data, "-o", out, "--set", "slant=-1.5", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["methods"] == {"slant": "direction"}
    expected = vaekit.load(folder).edit(place.vector_data, {"slant": -1.5})
    np.testing.assert_array_equal(np.load(out), expected.x)


def test_names_are_listed_measured_replaced_and_removed(folder, place, tmp_path, capsys):
    assert said(capsys, "name", folder)["directions"] == {}
    assert said(capsys, "name", folder, 1, "tilt")["scale"] == 1.0
    found = said(capsys, "name", folder, 1, "tilt", "--data", place.vector_data, "--force")
    assert (found["measured"], found["unit"]) == ("data", 1)
    assert found["scale"] != 1.0
    listed = said(capsys, "name", folder)["directions"]
    assert listed["tilt"]["scale"] == found["scale"]
    assert run(["name", str(folder), "1", "part", "--data", str(place.vector_data), "--split", "test"]) == 2
    assert "must have a split `test`" in capsys.readouterr().err
    assert run(["name", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("tilt  unit 1, a step is")
    assert run(["info", str(folder)]) == 0
    assert "directions      tilt" in capsys.readouterr().out
    assert said(capsys, "name", folder, "tilt", "--remove")["removed"] == "tilt"
    assert storage.load(folder).directions == {}


def test_a_direction_from_files(folder, tmp_path, capsys):
    x = vector_data().raw()
    for part in range(3):
        np.save(tmp_path / f"{part}.npy", x[4 * part : 4 * part + 4] + (4.0 if part < 2 else 0.0))
    line = ["name", folder, "high", "--from", tmp_path / "0.npy", tmp_path / "1.npy", "--negative", tmp_path / "2.npy"]
    found = said(capsys, *line)
    assert (found["num_positive"], found["num_negative"], found["num_pairs"]) == (8, 4, 32)
    assert "vector" not in found
    direction = storage.load(folder).directions["high"]
    model = vaekit.load(folder)
    assert model.name("again", positive=x[:8] + 4.0, negative=x[8:12]).vector == pytest.approx(direction.vector)
    assert said(capsys, *line, "--force")["separation"] == found["separation"]
    np.save(tmp_path / "far.npy", x[:4] + 300.0)
    assert said(capsys, "name", folder, "other", "--positive", tmp_path / "far.npy")["against"] == "prior"


def test_a_direction_from_pictures(place, tmp_path, capsys):
    pytest.importorskip("cv2")
    folder = shutil.copytree(place.images, tmp_path / "model")
    data = image_data()
    dark, bright = data.raw()[:4] // 8, 15 - data.raw()[4:8] // 8
    for name, x in (("dark", dark), ("bright", bright)):
        write_examples(x, data.schema, tmp_path / name)
    files = sorted((tmp_path / "bright").iterdir())
    found = said(capsys, "name", folder, "light", "--from", *files, "--negative", tmp_path / "dark", "--size", "6x5")
    assert (found["num_positive"], found["num_negative"]) == (4, 4)
    assert found["separation"] > 0.9


def test_rows_of_a_traversal_have_names(place, tmp_path, capsys):
    cv2 = pytest.importorskip("cv2")
    folder = shutil.copytree(place.images, tmp_path / "model")
    storage.save_directions(folder, {"slant": vaekit.load(folder).name("slant", 2)})
    line = ["traverse", folder, place.split_data, "-o", tmp_path / "x.png", "--steps", 3]
    found = said(capsys, *line, "--units", 2)
    assert [row["unit"] for row in found["rows"]] == found["units"]
    assert all(row["kl"] > 0 for row in found["rows"])
    found = said(capsys, *line, "--force", "--unit", "slant", 0)
    assert found["units"] == [2, 0]
    assert [row["name"] for row in found["rows"]] == ["slant", None]
    picture = cv2.imread(str(tmp_path / "x.png"), cv2.IMREAD_GRAYSCALE)
    margin = picture.shape[1] - (3 * 37 - 2)
    assert margin > 20
    top, bottom = picture[: picture.shape[0] // 2, :margin], picture[picture.shape[0] // 2 :, :margin]
    assert (top < 128).sum() > (bottom < 128).sum() > 0  # a word, and a number
    assert run([*map(str, line), "--force", "--units", "1"]) == 0
    assert "nats" in capsys.readouterr().out
    assert run(["traverse", str(folder), "-o", str(tmp_path / "y.npy"), "--units", "1", "--steps", "2"]) == 0
    assert "change" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("MODEL slant", "`slant` must come with what it stands for"),
        ("MODEL 3", "the line gives the unit no name"),
        ("MODEL three slant", "A unit must be a number from 0, got 'three'"),
        ("MODEL 9 slant", "A unit must be from 0 to 3, got 9"),
        ("MODEL 3 slant --remove", "`--remove` must come with a name alone"),
        ("MODEL slant --remove", "must have the name 'slant' to remove it; it has none"),
        ("MODEL --remove", "A name must be given"),
        ("MODEL 3 slant --from DATA", "must be a unit, or learned from examples"),
        ("MODEL slant --negative DATA", "`slant` must come with what it stands for"),
        ("MODEL slant --from nothing.npy", "must be there, found nothing"),
        ("MODEL 3 a=b", "A name must be a word"),
    ],
)
def test_what_is_refused(refused, folder, place, line, sentence):
    config = (folder / "vaekit.json").read_bytes()
    parts = line.replace("MODEL", str(folder)).replace("DATA", str(place.vector_data)).split()
    assert sentence in refused("name", *parts)
    assert (folder / "vaekit.json").read_bytes() == config


def test_an_edit_that_says_neither_steps_nor_a_position(refused, folder, place, tmp_path):
    storage.save_directions(folder, {"slant": vaekit.load(folder).name("slant", 2)})
    line = ["edit", folder, place.vector_data, "-o", tmp_path / "x.npy", "--set"]
    assert "write `slant=+2` to move by 2 steps" in refused(*line, "slant=2")
    assert "must have a direction 'tilt', it has slant" in refused(*line, "tilt=+2")
    assert not (tmp_path / "x.npy").exists()


def test_disentanglement_of_ones_own_data(place, tmp_path, capsys):
    pytest.importorskip("sklearn")
    data = vector_data(200, seed=5)
    np.save(tmp_path / "x.npy", data.raw())
    z = vaekit.load(place.vectors).encode(data).mean
    height = np.where(z[:, 1] > np.median(z[:, 1]), "high", "low")
    with open(tmp_path / "factors.csv", "w") as file:
        file.write("index,height,angle,same\n")
        file.writelines(f"{i},{h},{a!r},1\n" for i, (h, a) in enumerate(zip(height, z[:, 3].tolist(), strict=True)))
    line = ["disentangle", place.vectors, tmp_path / "x.npy", "--factors", tmp_path / "factors.csv"]
    found = said(capsys, *line, "-o", tmp_path / "found.json")
    assert found["factors"] == ["height", "angle"]
    assert found["mig"]["units"] == [1, 3]
    assert set(found["scores"]) >= {"mig", "dci_disentanglement", "sap", "modularity", "irs", "factor_vae", "beta_vae"}
    assert "same is the same in all examples, and left out." in found["notes"]
    assert "angle: numbers in 20 cells of equal width." in found["notes"]
    assert json.loads((tmp_path / "found.json").read_text()) == found
    own = vaekit.load(place.vectors).evaluate_disentanglement(data, {"height": height, "angle": z[:, 3]})
    assert own.scores == found["scores"]
    assert run([str(part) for part in line]) == 0
    assert "factor angle         z3 knows most of it" in capsys.readouterr().out


def test_disentanglement_needs_two_factors(place, refused, tmp_path):
    assert "found label. Give a table" in refused("disentangle", place.images, place.split_data)
    assert "found no columns. Give a table" in refused("disentangle", place.vectors, place.vector_data)
    np.savez(tmp_path / "f.npz", a=np.arange(7), b=np.arange(7))
    line = ["disentangle", place.vectors, place.vector_data, "--factors", tmp_path / "f.npz"]
    assert "must have a row an example, 20; `a` has 7" in refused(*line)
