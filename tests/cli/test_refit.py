"""`vaekit refit`."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from small_models import image_data, vector_bundle
from vaekit import storage
from vaekit.cli.main import run
from vaekit.likelihoods import Normal
from vaekit.networks import MLP
from vaekit.posteriors import VectorQuantized
from vaekit.priors import UniformCodes
from vaekit.vae import VAE


def test_a_refitted_model_is_a_model(place, tmp_path, capsys):
    out = tmp_path / "new"
    line = ["refit", place.images, place.image_data, "-o", out, "--prior", "mixture-full", "--components", 2, "--json"]
    assert run([str(part) for part in line]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["out"] == str(out)
    assert record["prior_fit"]["kind"] == "mixture-full"
    assert record["prior_fit"]["elbo"] == record["metrics"]["validation_elbo"]
    loaded = storage.load(out)
    assert loaded.vae.prior.spec()["num_components"] == 2
    assert loaded.vae.prior.spec()["covariance"] == "full"
    assert storage.load(place.images).vae.prior.registered_name == "priors.StandardNormal"
    assert (out / "preview.png").is_file()
    assert run(["generate", str(out), "-n", "3", "-o", str(tmp_path / "x.npy"), "--quiet"]) == 0
    assert np.load(tmp_path / "x.npy").shape == (3, 6, 5)


def test_a_budget_and_the_sentence(place, tmp_path, capsys):
    out = tmp_path / "new"
    line = ["refit", place.vectors, place.vector_data, "-o", out, "--prior", "autoregressive", "--steps", 2, "--seed", 5]
    assert run([str(part) for part in line]) == 0
    said = capsys.readouterr().err
    assert said.startswith("The bound on held-out examples went from ")
    assert f"The model is in {out}." in said
    fit = storage.load(out).training["prior_fit"]
    assert (fit["steps"], fit["seed"], fit["stopped"]) == (2, 5, "budget")
    assert run([str(part) for part in [*line[:-4], "--steps", 3, "--force", "--quiet"]]) == 0
    assert storage.load(out).training["prior_fit"]["steps"] == 3


def test_a_worse_prior_is_said_and_which_model_to_keep(place, tmp_path, capsys):
    out, worse = tmp_path / "new", tmp_path / "worse"
    assert run(["refit", str(place.vectors), str(place.vector_data), "-o", str(out), "--components", "1", "--quiet"]) == 0
    capsys.readouterr()
    line = ["refit", out, place.vector_data, "-o", worse, "--prior", "mixture-full", "--components", 14]
    assert run([str(part) for part in line]) == 0
    said = capsys.readouterr().err.splitlines()
    fit = storage.load(worse).training["prior_fit"]
    assert said[0].endswith(f" nats. The model is in {worse}.")
    assert said[1:] == [
        f"The new prior is worse than before, by {fit['elbo_before'] - fit['elbo']:.2f} nats on held-out examples: keep {out}."
    ]
    assert run([*map(str, line), "--force", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)["prior_fit"]
    assert record["improved"] is False
    assert len(record["notes"]) == 1


@pytest.fixture
def code_model(tmp_path):
    torch.manual_seed(0)
    bundle = vector_bundle()
    q = VectorQuantized(MLP(5, [8]), num_codes=4, code_dims=2, positions=2)
    vae = VAE(UniformCodes(q.shape, 4, 2), q, Normal(MLP(4, [8]), [5]))
    return storage.save(replace(bundle, vae=vae.eval()), tmp_path / "codes")


def test_codes(code_model, place, tmp_path, capsys, refused):
    out = tmp_path / "new"
    assert "must be over codes, got mixture. Use `codes`" in refused("refit", code_model, place.vector_data, "-o", out)
    line = ["refit", code_model, place.vector_data, "-o", out, "--prior", "codes", "--steps", 1, "--json"]
    assert run([str(part) for part in line]) == 0
    fit = json.loads(capsys.readouterr().out)["prior_fit"]
    assert fit["rate_before"] == pytest.approx(2 * np.log(4), abs=1e-5)
    assert storage.load(out).vae.prior.registered_name == "priors.AutoregressiveCodes"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("", "must have --out, none was given"),
        ("-o OUT --prior gan", 'Choose from: "mixture", "mixture-full", "flow"'),
        ("-o OUT --components 0", "Must be >= 1"),
        ("-o OUT --minutes 0", "Must be > 0"),
        ("-o OUT --steps 3", "takes no settings of a run, got steps"),
        ("-o OUT --prior flow --components 3", "of mixture, mixture-full or autoregressive, got 3 for flow"),
        ("-o OUT --components 5000", "must be from 1 to 1,000, got 5000. Leave it out for about 10."),
        ("-o OUT --prior codes", "got codes for a posteriors.DiagonalNormal"),
        ("-o OUT --prior vae --steps 3 --epochs 1", "must have one budget"),
        ("-o OUT --split valid", "must have a split `valid`"),
    ],
)
def test_what_is_refused(refused, place, tmp_path, flags, sentence):
    out = tmp_path / "new"
    assert sentence in refused("refit", place.images, place.image_data, *flags.replace("OUT", str(out)).split())
    assert not out.exists()


def test_outputs_that_exist_are_refused_before_the_work(refused, place, tmp_path, monkeypatch):
    from vaekit import model

    def load(*_):
        raise AssertionError("the work has started")

    monkeypatch.setattr(model, "load", load)
    (tmp_path / "file").write_text("here")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("here")
    line = ["refit", place.images, place.image_data, "-o"]
    assert "The output must be a folder, found a file" in refused(*line, tmp_path / "file")
    assert "must be new or empty, found other files" in refused(*line, tmp_path / "full")
    assert "must lie apart from the data" in refused("refit", place.images, tmp_path / "full", "-o", tmp_path, "--force")
    (tmp_path / "link").symlink_to(place.images)
    assert "OUT must be another folder than MODEL" in refused(*line, tmp_path / "link", "--force")
    (tmp_path / "full" / "training").mkdir()
    (tmp_path / "full" / "training" / "letter.txt").write_text("dear")
    assert "must replace nothing but a run" in refused(*line, tmp_path / "full", "--force")
    assert (tmp_path / "full" / "training" / "letter.txt").read_text() == "dear"


def test_of_the_run_that_is_replaced_nothing_stays(place, tmp_path):
    out = tmp_path / "run"
    (out / "training" / "last").mkdir(parents=True)
    (out / "training" / "config.json").write_text("{}")
    (out / "preview.png").write_bytes(b"of another model")
    (out / "notes.txt").write_text("mine")
    line = ["refit", place.vectors, place.vector_data, "-o", out, "--force", "--quiet"]
    assert run([str(part) for part in line]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "model.safetensors", "notes.txt", "vaekit.json"]
    assert storage.load(out).training["prior_fit"]["kind"] == "mixture"


def test_no_data_and_no_model(refused, place, tmp_path):
    assert "model folder" in refused("refit", tmp_path / "no", place.image_data, "-o", tmp_path / "new")
    np.save(tmp_path / "one.npy", image_data(1).raw())
    assert "At least 2 examples" in refused("refit", place.images, tmp_path / "one.npy", "-o", tmp_path / "new")
