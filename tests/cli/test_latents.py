"""`vaekit encode --features`, `vaekit score --reference --maps`, and what `vaekit evaluate` says of labels."""

from __future__ import annotations

import json

import numpy as np
import pytest

import vaekit
from small_models import image_data, vector_bundle, vector_data
from vaekit import storage
from vaekit.cli.main import run
from vaekit.data.writing import read_table
from vaekit.jobs.anomaly import with_reference


@pytest.fixture
def labelled(tmp_path):
    """240 images with labels, the last 80 the split `test`."""
    x, y = image_data(240, seed=3).raw(), np.random.default_rng(0).integers(0, 3, 240)
    path = tmp_path / "data.npz"
    np.savez(path, x_train=x[:160], y_train=y[:160], x_test=x[160:], y_test=y[160:])
    return path


def test_encode_writes_features_for_training_and_test(command, place, labelled, tmp_path):
    train, test = tmp_path / "train.csv", tmp_path / "test.npy"
    line = ["encode", place.conditional, labelled, "--features", "whitened"]
    done = command(*line, "-o", train, "--split", "train", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["features"], record["num_examples"]) == ("whitened", 160)
    assert "Whitened by the mean and covariance of these data" in done.stderr
    table = read_table(train, text=["label"])
    assert list(table)[:2] == ["index", "label"]
    x = np.stack([np.asarray(table[name], float) for name in table if name.startswith("w")], axis=1)
    assert x.shape[1] == record["num_features"]
    np.testing.assert_allclose(np.cov(x.T, bias=True), np.eye(x.shape[1]), atol=1e-3)
    other = tmp_path / "part.npz"
    with np.load(labelled) as arrays:
        np.savez(other, x=arrays["x_train"], y=arrays["y_train"])
    options = ["--like", str(other), "--split", "test", "--quiet"]
    assert run([*map(str, line), "-o", str(test), *options]) == 0
    model = vaekit.load(place.conditional)
    first = model.features(labelled, kind="whitened", split="train")
    np.testing.assert_allclose(np.load(test), model.features(labelled, like=first, split="test").x, rtol=1e-5)


def test_score_compares_with_a_reference_and_draws_maps(command, place, labelled, tmp_path):
    out, maps, usual = tmp_path / "s.csv", tmp_path / "maps", tmp_path / "usual.npy"
    np.save(usual, image_data(60, seed=9).raw())
    line = ["score", place.images, labelled, "-o", out, "--reference", usual, "--maps", maps, "--num-maps", 3, "--json"]
    done = command(*line)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["maps"] == str(maps)
    assert "3 pictures are in" in done.stderr
    table = read_table(out)
    anomaly = np.array(table["anomaly"], float)
    strangest = np.argsort(-anomaly, kind="stable")
    assert [each["index"] for each in record["strangest"]] == strangest[:5].tolist()
    assert record["strangest"][0]["parts"]["excess"] == pytest.approx(float(table["anomaly_excess"][strangest[0]]))
    assert min(path.name for path in maps.iterdir()) == f"000-example-{strangest[0]:05d}.png"
    expected = vaekit.load(place.images).score(labelled, reference=usual)
    np.testing.assert_allclose(anomaly, expected.anomaly, rtol=1e-4)


def test_score_takes_the_reference_that_is_stored(tmp_path, capsys):
    storage.save(with_reference(vector_bundle(), vector_data(60, 2), vector_data(50, 1)), tmp_path / "model")
    np.save(tmp_path / "x.npy", vector_data(20).raw())
    line = ["score", str(tmp_path / "model"), str(tmp_path / "x.npy"), "-o", str(tmp_path / "s.csv")]
    assert run(line) == 0
    assert "reference was" not in capsys.readouterr().err
    assert "anomaly_typicality" in read_table(tmp_path / "s.csv")
    assert run(["info", str(tmp_path / "model")]) == 0
    assert "tails" not in capsys.readouterr().out
    storage.save(vector_bundle(), tmp_path / "old")
    assert run(["score", str(tmp_path / "old"), *line[2:], "--force"]) == 0
    assert "no reference was stored with the model" in capsys.readouterr().err


def test_evaluate_tells_labels_from_latents(command, place, labelled, tmp_path, capsys):
    pytest.importorskip("sklearn")
    line = ["evaluate", str(place.conditional), str(labelled), "--samples", "1"]
    done = command(*line, "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["probes"]
    assert (found["column"], found["scheme"], found["num_fitted"], found["num_examples"]) == ("label", "held out", 160, 80)
    (expected,) = vaekit.load(place.conditional).evaluate(labelled, num_samples=1).probes
    assert found == expected.to_json()
    assert run(line) == 0
    assert f"(commonest label {expected.majority:.5g}; fitted on 160)" in capsys.readouterr().out
    assert run([*line, "--no-labels", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["probes"] == []
    assert run([*line, "--split", "all"]) == 0
    assert "5-fold cross validation" in capsys.readouterr().out


def test_evaluate_fits_on_the_training_part_that_it_knows(tmp_path, capsys):
    pytest.importorskip("sklearn")
    x, y = image_data(300, seed=3).raw(), np.random.default_rng(0).integers(0, 3, 300)
    np.savez(tmp_path / "x.npz", x=x, y=y)
    how = ["--steps", "2", "--levels", "16", "--precision", "float32", "--quiet"]
    assert run(["train", str(tmp_path / "x.npz"), "-o", str(tmp_path / "m"), *how]) == 0
    capsys.readouterr()
    assert run(["evaluate", str(tmp_path / "m"), str(tmp_path / "x.npz"), "--samples", "1", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["probes"]
    assert (found["num_fitted"], found["num_examples"]) == (270, 30)


def test_what_latents_tell_is_left_out_of_few_examples(place, tmp_path, capsys):
    line = ["evaluate", str(place.images), str(place.split_data), "--samples", "1"]
    assert run([*line, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["probes"] == []
    assert "What latents tell of `label` is not measured: At least 50 examples" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["encode", "{images}", "{image_data}", "-o", "{tmp}/z.csv", "--like", "{image_data}"], "must come with `--features`"),
        (["encode", "{images}", "{image_data}", "-o", "{tmp}/z.csv", "--features", "levels"], "a ladder"),
        (["score", "{vectors}", "{vector_data}", "-o", "{tmp}/s.csv", "--maps", "{tmp}/maps"], "a model of images"),
        (
            ["evaluate", "{images}", "{image_data}", "--no-labels", "--training", "{image_data}"],
            "`--training` with rows, texts or labels",
        ),
    ],
)
def test_refusals(refused, place, tmp_path, arguments, sentence):
    paths = {name: getattr(place, name) for name in ("images", "image_data", "vectors", "vector_data")}
    assert sentence in refused(*(argument.format(**paths, tmp=tmp_path) for argument in arguments))
    assert not list(tmp_path.iterdir())
