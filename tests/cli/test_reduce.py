"""`vaekit train --recipe map` and `vaekit reduce`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from small_models import image_data
from vaekit.cli.main import run
from vaekit.data.writing import read_table


def test_from_data_to_a_map_and_back(command, tmp_path, capsys):
    data = tmp_path / "data.npz"
    x, y = image_data(60).raw(), np.arange(60) % 3
    np.savez(data, x_train=x[:50], y_train=y[:50], x_test=x[50:], y_test=y[50:])
    line = ["train", str(data), "-o", str(tmp_path / "m"), "--recipe", "map", "--steps", "3", "--levels", "16"]
    assert run([*line, "--precision", "float32", "--quiet"]) == 0
    capsys.readouterr()
    out, plot = tmp_path / "map.csv", tmp_path / "map.png"
    done = command("reduce", tmp_path / "m", data, "-o", out, "--plot", plot, "--thumbnails", 3, "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["num_examples"], record["dimensions"], record["plot"]) == (60, 2, str(plot))
    assert plot.read_bytes()[:4] == b"\x89PNG"
    table = read_table(out, text=["label"])
    assert list(table) == ["index", "label", "z0", "z1"]
    assert run(["decode", str(tmp_path / "m"), str(out), "-o", str(tmp_path / "back.npy"), "--quiet"]) == 0
    assert run(["reduce", str(tmp_path / "m"), str(data), "-o", str(tmp_path / "t.csv"), "--split", "test"]) == 0
    assert len(read_table(tmp_path / "t.csv")["z0"]) == 10


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{images}", "{image_data}", "-o", "{tmp}/map.csv"], "2 or 3 units, found 4"),
        (["{images}", "{image_data}", "-o", "{tmp}/map.png"], "OUT must end in"),
        (["{images}", "{image_data}", "-o", "{tmp}/map.csv", "--plot", "{tmp}/map.csv"], "OUT must end in .png"),
        (["{images}", "{image_data}", "-o", "{tmp}/map.csv", "--thumbnails", "-1"], "--thumbnails"),
    ],
)
def test_refusals(refused, place, tmp_path, arguments, sentence):
    paths = {"images": place.images, "image_data": place.image_data, "tmp": tmp_path}
    assert sentence in refused("reduce", *(argument.format(**paths) for argument in arguments))
    assert not list(tmp_path.glob("map*"))
