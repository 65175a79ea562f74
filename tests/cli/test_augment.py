"""`vaekit augment` of images and vectors."""

from __future__ import annotations

import json

import numpy as np

from vaekit.cli.main import run
from vaekit.data import loading


def done(*line: object) -> int:
    return run([str(part) for part in line])


def test_arrays_become_arrays_with_labels(place, tmp_path, capsys):
    line = ["augment", place.images, place.split_data, "-o", tmp_path / "new.npz", "--balance", "label", "--json"]
    assert done(*line, "--how", "interpolate", "--seed", 2) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record["counts"] == {"0": [5, 0], "1": [5, 0], "2": [4, 1]}
    assert (record["num_new"], record["how"]) == (1, "interpolate")
    assert "Interpolate: as it was asked for." in err
    assert "The part `train` is augmented" in err
    with np.load(tmp_path / "new.npz") as found:
        assert found["y"].tolist() == [2]
        assert {found["source"][0] % 3, found["other"][0] % 3} == {2}
    assert done(*line, "--how", "interpolate", "--seed", 2, "--force") == 0


def test_a_conditional_model_generates_class_folders(place, tmp_path, capsys):
    line = ["augment", place.conditional, place.split_data, "-o", tmp_path / "new", "--factor", 3, "--split", "test"]
    assert done(*line) == 0
    assert "Generate: the model is conditioned on `label`" in capsys.readouterr().err
    data = loading.open(tmp_path / "new")
    assert np.bincount(data.columns["label"]).tolist() == [4, 4, 4]
    assert (tmp_path / "new" / "provenance.csv").is_file()


def test_vectors_become_a_table(place, tmp_path):
    assert done("augment", place.vectors, place.vector_data, "-o", tmp_path / "new.csv", "--temperature", 0.5, "--quiet") == 0
    header, *rows = (tmp_path / "new.csv").read_text().splitlines()
    assert header == "x0,x1,x2,x3,x4,how,source,other,weight,seed"
    assert len(rows) == 20
    assert rows[3].split(",")[5:] == ["posterior", "3", "-1", "", "0"]


def test_the_check_speaks_plainly(place, tmp_path, capsys):
    x = np.random.default_rng(8).integers(0, 16, (12, 6, 5), dtype=np.uint8)
    x[0, 0, :2] = 0, 15
    np.savez(tmp_path / "test.npz", x=x, y=np.arange(12) % 3)
    line = ["augment", place.images, place.split_data, "-o", tmp_path / "new.npz", "--check", tmp_path / "test.npz"]
    assert done(*line, "--seeds", 2, "--updates", 20, "--json") == 0
    check = json.loads(capsys.readouterr().out)["check"]
    assert (check["num_train"], check["num_new"], check["num_test"]) == (14, 14, 12)
    assert check["verdict"] in ("helps", "harms", "no difference")
    assert len(check["by_seed"]) == 2
    assert check["num_steps"] == 20


def test_what_cannot_be_is_refused_before_the_work(place, tmp_path, refused):
    line = ["augment", place.images, place.split_data, "-o"]
    assert "OUT of new images must be a folder or .npz" in refused(*line, tmp_path / "new.npy")
    (tmp_path / "new.npz").write_bytes(b"mine")
    assert "must not exist yet" in refused(*line, tmp_path / "new.npz")
    assert (tmp_path / "new.npz").read_bytes() == b"mine"
    assert "does not know `label`" in refused(*line, tmp_path / "new", "--how", "generate", "--quiet")
    assert "`--label` must come with `--check`" in refused(*line, tmp_path / "new", "--label", "label")
    assert not (tmp_path / "new").exists()
