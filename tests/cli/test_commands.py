"""Each verb as a process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

import vaekit
from small_models import image_bundle, image_data
from vaekit import recipes, storage
from vaekit.cli.main import run
from vaekit.cli.training import Likelihoods
from vaekit.data.dataset import fingerprint
from vaekit.data.schema import Column
from vaekit.data.writing import read_table
from vaekit.priors import Flow, Standardized
from vaekit.vae import VAE


def test_inspect(command, place, capsys):
    assert run(["inspect", str(place.split_data), "--levels", "16"]) == 0
    assert "6 x 5" in capsys.readouterr().out
    found = json.loads(command("inspect", place.split_data, "--levels", 16, "--json").stdout)
    assert found["splits"] == {"train": 14, "test": 6}
    assert found["schema"]["levels"] == 16


def test_train_then_info(command, place, tmp_path, capsys):
    out = tmp_path / "model"
    arguments = ["--steps", 5, "--latent", 3, "--condition", "label", "--levels", 16, "--precision", "float32", "--json"]
    arguments += ["--beta", 2]
    done = command("train", place.split_data, "-o", out, *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_latents"] == 3
    assert run(["info", str(out)]) == 0
    table = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert table["conditions"] == "label"
    assert table["objective"] == "objectives.ELBO with beta 2"
    assert (table["samples"], table["precision"], table["budget"]) == ("1", "float32", "5 steps")
    assert "held_out" not in " ".join(table)
    assert json.loads(command("info", out, "--json").stdout)["conditions"] == ["label"]


def test_info_tells_of_a_fitted_prior_and_of_the_levels_of_a_ladder(place, tmp_path, capsys):
    line = ["train", str(place.image_data), "-o", str(tmp_path / "m"), "--steps", "3", "--levels", "16", "--quiet"]
    assert run([*line, "--objective", "dreg", "--latent", "3"]) == 0
    fitted = vaekit.load(tmp_path / "m").refit_prior(image_data(20).raw(), Flow(3), steps=3)
    wrapped = Standardized(fitted.vae.prior)
    storage.save(replace(fitted.bundle, vae=VAE(wrapped, fitted.vae.posterior, fitted.vae.likelihood)), tmp_path / "f")
    assert run(["info", str(tmp_path / "f")]) == 0
    rows = [tuple(line.split("  ", 1)) for line in capsys.readouterr().out.splitlines()]
    table = {name.strip(): value.strip() for name, value in rows}
    assert table["prior"] == "priors.Flow, standardised"
    assert table["objective"] == "objectives.DReG"
    assert table["samples"] == "5"
    assert re.fullmatch(r"priors.Flow, 3 steps, bound -[0-9.]+ before, -[0-9.]+ after", table["prior fit"])
    assert len([name for name, _ in rows if name.strip() == "reason"]) >= 4
    assert run([*line[:3], str(tmp_path / "ladder"), *line[4:], "--recipe", "ladder", "--latent", "2"]) == 0
    assert run(["info", str(tmp_path / "ladder")]) == 0
    found = vaekit.load(tmp_path / "ladder").vae
    shapes = ["x".join(map(str, shape)) for shape in found.ladder.latent_shapes]
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("num_latents"))
    assert f"{found.num_latents} in {len(shapes)} levels: " in row
    assert all(shape in row for shape in shapes)


def test_the_likelihoods_of_the_help_are_those_there_are():
    assert get_args(Likelihoods) == recipes.LIKELIHOODS


def test_levels_that_are_not_used_are_said(tmp_path, capsys):
    np.save(tmp_path / "x.npy", image_data(20).raw())
    note = "The values stop at 15 and are taken as 256 levels: `levels=16` (`--levels 16`) if there are no more."
    assert run(["inspect", str(tmp_path / "x.npy")]) == 0
    assert note in capsys.readouterr().out
    assert run(["inspect", str(tmp_path / "x.npy"), "--levels", "256"]) == 0
    assert "The values stop" not in capsys.readouterr().out
    np.save(tmp_path / "x.npy", image_data(20).raw() * 9)
    assert run(["inspect", str(tmp_path / "x.npy")]) == 0
    assert "The values stop" not in capsys.readouterr().out


def test_evaluate(command, place, tmp_path):
    out = tmp_path / "figures.json"
    done = command("evaluate", place.images, place.split_data, "--samples", 3, "--limit", 4, "--json", "-o", out)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["num_samples"] == 3
    assert found["num_examples"] == 4
    for key in ("nll_nats", "standard_error", "bits_per_dim", "active_units", "rate", "distortion"):
        assert isinstance(found[key], float | int), key
    assert json.loads(out.read_text()) == found
    expected = vaekit.load(place.images).evaluate(place.split_data, num_samples=3, limit=4)
    assert found["nll_nats"] == pytest.approx(expected.nll_nats, rel=1e-6)


def test_generate(command, place, tmp_path):
    out = tmp_path / "x.npy"
    line = ["generate", place.conditional, "-n", 5, "-o", out, "--where", "label=2", "--seed", 3, "--temperature", 0.5]
    done = command(*line, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["columns"] == {"label": ["2"] * 5}
    expected = vaekit.load(place.conditional).generate(5, where={"label": 2}, seed=3, temperature=0.5)
    np.testing.assert_array_equal(np.load(out), expected)


def test_generate_writes_class_folders_and_grids(command, place, tmp_path):
    assert run(["generate", str(place.conditional), "-n", "4", "-o", str(tmp_path / "new"), "--where", "label=1"]) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["1"]
    assert len(list((tmp_path / "new" / "1").iterdir())) == 4
    done = command("generate", place.images, "-n", 4, "-o", tmp_path / "grid.png", "--quiet")
    assert done.returncode == 0
    assert done.stderr == ""
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_reconstruct(command, place, tmp_path):
    done = command("reconstruct", place.images, place.split_data, "-o", tmp_path / "x.npy")
    assert done.returncode == 0, done.stderr
    expected = vaekit.load(place.images).reconstruct(place.split_data)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)
    assert len(expected) == 6


def test_encode_then_decode(command, place, tmp_path):
    latents = tmp_path / "latents.csv"
    done = command("encode", place.conditional, place.split_data, "-o", latents, "--split", "test")
    assert done.returncode == 0, done.stderr
    assert list(read_table(latents))[:3] == ["index", "label", "z0"]
    assert run(["decode", str(place.conditional), str(latents), "-o", str(tmp_path / "x.npy")]) == 0
    expected = vaekit.load(place.conditional).reconstruct(place.split_data)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy").astype(int), expected.astype(int), atol=1)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".npz", ".jsonl"])
def test_labels_that_look_like_numbers_come_back(place, tmp_path, suffix):
    bundle = image_bundle(conditional=True)
    schema = bundle.schema.model_copy(update={"columns": (Column(name="label", categories=("00", "007", "1.0")),)})
    storage.save(replace(bundle, schema=schema), tmp_path / "model")
    x, y = image_data(6).raw(), np.array(["007", "00", "", "007", "1.0", "00"])
    np.savez(tmp_path / "x.npz", x=x, y=y)
    latents, model = tmp_path / f"z{suffix}", vaekit.load(tmp_path / "model")
    assert run(["encode", str(tmp_path / "model"), str(tmp_path / "x.npz"), "-o", str(latents), "--quiet"]) == 0
    assert run(["decode", str(tmp_path / "model"), str(latents), "-o", str(tmp_path / "out.npy"), "--quiet"]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), model.reconstruct(x, y=y))
    assert run(["score", str(tmp_path / "model"), str(tmp_path / "x.npz"), "-o", str(tmp_path / f"s{suffix}"), "--quiet"]) == 0
    assert len(read_table(tmp_path / f"s{suffix}")["anomaly"]) == 6


def test_the_held_out_part_is_read_of_the_data_of_training(tmp_path, capsys):
    bundle, data = image_bundle(), image_data(30)
    held_out = {"fraction": 0.2, "maximum": 100, "seed": 3, "num_examples": 30, "fingerprint": fingerprint(data)}
    storage.save(replace(bundle, training={"held_out": held_out}), tmp_path / "model")
    np.savez(tmp_path / "x.npz", x=data.raw(), y=np.arange(30) % 3)
    line = ["evaluate", str(tmp_path / "model"), str(tmp_path / "x.npz"), "--samples", "2", "--json"]
    for more, num in (([], 6), (["--split", "all"], 30), (["--split", "train"], 24), (["--split", "valid"], 6)):
        assert run([*line, *more]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["num_examples"] == num
        assert ("These are the data that the model was trained on" in err) == (more == [])
    np.savez(tmp_path / "x.npz", x=15 - data.raw(), y=np.arange(30) % 3)
    assert run(line) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["num_examples"] == 30
    assert "trained on" not in err


def test_interpolate(command, place, tmp_path):
    done = command(
        "interpolate", place.images, place.image_data, "--from", 2, "--to", 7, "--steps", 5, "-o", tmp_path / "x.npy"
    )
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "x.npy").shape == (5, 6, 5)


def test_traverse(command, place, tmp_path):
    done = command("traverse", place.images, "-o", tmp_path / "x.png", "--units", 2, "--steps", 3, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["units"]) == 2
    assert found["values"] == [-3.0, 0.0, 3.0]


def test_absent_condition_is_said(place, tmp_path, capsys):
    line = ["score", str(place.conditional), str(place.image_data), "-o", str(tmp_path / "s.csv")]
    assert run(line) == 0
    assert "conditioned on label, which the data do not have: taken as unknown." in capsys.readouterr().err
    assert run([*line, "--force", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_score(command, place, tmp_path):
    done = command("score", place.vectors, place.vector_data, "-o", tmp_path / "scores.csv", "--samples", 2)
    assert done.returncode == 0, done.stderr
    table = read_table(tmp_path / "scores.csv")
    expected = vaekit.load(place.vectors).score(place.vector_data, num_samples=2)
    np.testing.assert_allclose(np.array(table["anomaly"], float), expected.anomaly, rtol=1e-5)
    assert "bits_per_dim" not in table


def test_demo(command, tmp_path):
    done = command("demo", "-o", tmp_path / "demo", "--epochs", 1, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    made = {path.name for path in (tmp_path / "demo").iterdir()}
    assert made >= {
        "model",
        "samples.png",
        "reconstructions.png",
        "traversal.png",
        "interpolation.png",
        "latents.csv",
        "scores.csv",
    }
    assert set(json.loads(done.stdout)["files"]) == made - {"model"}


def test_errors_are_one_line_of_a_process(command, place, tmp_path):
    done = command("encode", place.images, tmp_path / "nothing", "-o", tmp_path / "z.csv")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "must be there, found nothing" in done.stderr


def test_interruption_is_130_and_one_sentence(place, tmp_path):
    # The signal comes in the middle of the work, from the first layer that is called: no clock decides when.
    script = """
import os, signal, sys, time, torch
from vaekit.cli.main import main
def forward(*_):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what it starts in the background
torch.nn.Linear.forward = forward
main(sys.argv[1:])
"""
    line = [sys.executable, "-c", script, "evaluate", place.images, place.image_data, "--samples", "100"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, env=environment, timeout=300)
    out, err = done.stdout, done.stderr
    assert done.returncode == 130, err
    assert out == ""
    assert err.startswith("Interrupted")
    assert err.count("\n") == 1
