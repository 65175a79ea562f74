"""`Model`: the jobs as methods, saved and loaded; and `train`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import vaekit
from small_models import image_bundle, image_data, vector_bundle, vector_data
from vaekit.data import loading
from vaekit.data.dataset import fingerprint
from vaekit.errors import ConfigError, DataError, ModelFormatError
from vaekit.model import Model


def outputs(model, x, data):
    """Everything that a model gives."""
    return {
        "generate": model.generate(5, seed=1),
        "sample": model.generate(5, draw="sample", seed=1),
        "reconstruct": model.reconstruct(x),
        "mean": model.encode(x).mean,
        "scale": model.encode(x).scale,
        "decode": model.decode(model.encode(x).mean, draw="mean"),
        "score": model.score(x, num_samples=3).log_likelihood,
        "interpolate": model.interpolate(x, 0, 4, num_steps=4),
        "traverse": model.traverse(x).x,
        "evaluate": np.array(model.evaluate(data, num_samples=3).nll_nats),
    }


@pytest.mark.parametrize("kind", ["levels", "binarize", "conditional", "conv", "vectors"])
def test_saved_and_loaded_model_gives_the_same(kind, tmp_path):
    bundle = vector_bundle() if kind == "vectors" else image_bundle(**({} if kind == "levels" else {kind: True}))
    data = vector_data(8) if kind == "vectors" else image_data(8)
    model = Model(bundle)
    model.save(tmp_path / "model")
    loaded = vaekit.load(tmp_path / "model")
    first, second = outputs(model, data.raw(), data), outputs(loaded, data.raw(), data)
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)
    assert loaded.info() == model.info()
    assert repr(loaded) == repr(model)


def test_path_array_tensor_and_dataset_are_the_same_data(tmp_path):
    model, data = Model(image_bundle()), image_data(6)
    np.save(tmp_path / "x.npy", data.raw())
    expected = model.encode(data).mean
    for form in (data.raw(), torch.from_numpy(data.raw()), tmp_path / "x.npy", str(tmp_path / "x.npy")):
        np.testing.assert_array_equal(model.encode(form).mean, expected)


def test_data_are_checked_against_the_schema():
    model = Model(image_bundle())
    with pytest.raises(DataError, match=r"Each example must have the shape \(6, 5\)"):
        model.encode(np.zeros((3, 7, 7), np.uint8))
    with pytest.raises(DataError, match="Each value must be one of"):
        model.score(np.full((3, 6, 5), 16, np.uint8))


def test_split_test_is_read_where_there_is_one():
    x = image_data(10).raw()
    data = loading.open({"x_train": x[:7], "x_test": x[7:]}, levels=16)
    model = Model(image_bundle())
    assert len(model.score(data, num_samples=1)) == 3
    assert len(model.reconstruct(data)) == 3
    assert model.evaluate(data, num_samples=1, split="train").num_examples == 7
    assert len(model.encode(data)) == 10
    assert len(model.encode(data, split="test")) == 3
    with pytest.raises(DataError, match="must have a split `valid`"):
        model.encode(data, split="valid")


def test_the_data_of_training_are_known_again():
    data = image_data(40)
    held_out = {"fraction": 0.25, "maximum": 100, "seed": 1, "num_examples": 40, "fingerprint": fingerprint(data)}
    model = Model(replace(image_bundle(), training={"held_out": held_out}))
    train, valid = loading.holdout(data, 0.25, 100, 1)
    found = model.read(data, default="held_out")
    assert np.array_equal(found.raw(), data.raw()[valid])
    assert found.notes[-1].startswith("These are the data that the model was trained on")
    x, y = data.raw(), np.arange(40) % 3
    assert model.evaluate(x, y=y, num_samples=1).num_examples == len(model.score(data, num_samples=1)) == 10
    assert len(model.reconstruct(data)) == 10
    assert np.array_equal(model.read(data, "train").raw(), data.raw()[train])
    assert len(model.encode(data)) == len(model.score(data, split="all", num_samples=1)) == 40
    assert model.evaluate(data.select(np.arange(39)), num_samples=1).num_examples == 39
    assert model.evaluate(x[::-1], y=y, num_samples=1).num_examples == 40
    with pytest.raises(DataError, match="must have a split `valid`; found no splits"):
        model.read(x[::-1], "valid")
    given = loading.open({"x_train": x[:30], "x_valid": x[30:]}, levels=16)
    assert model.evaluate(given, num_samples=1).num_examples == 10


def test_training_remembers_what_it_held_out(tmp_path):
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    model = vaekit.train(x, tmp_path / "run", latent=2, steps=5, precision="float32", display="quiet")
    again = vaekit.load(tmp_path / "run")
    assert model.evaluate(x, num_samples=1) == again.evaluate(x, num_samples=1)
    assert again.evaluate(x, num_samples=1).num_examples == 20
    assert again.evaluate(x, num_samples=1, split="all").num_examples == 200


def test_encoding_decodes_with_its_own_labels():
    model, data = Model(image_bundle(conditional=True)), image_data(6)
    np.testing.assert_array_equal(model.decode(model.encode(data)), model.reconstruct(data))


def test_saving_over_a_model_needs_force(tmp_path):
    model = Model(vector_bundle())
    model.save(tmp_path)
    with pytest.raises(ConfigError, match="must hold no model, found one"):
        model.save(tmp_path)
    model.save(tmp_path, force=True)


def run_folder(folder, **budget):
    """A folder with a model and the run that made it."""
    vaekit.train(vector_data().raw(), folder, precision="float32", display="quiet", **budget)
    return vaekit.load(folder)


def test_a_model_saved_into_the_folder_of_another_leaves_nothing_of_its_run(tmp_path):
    folder = tmp_path / "run"
    run_folder(folder, steps=2, latent=2)
    (folder / "notes.txt").write_text("mine")
    (folder / "preview.png").write_bytes(b"of the other")
    other = Model(vector_bundle())
    other.save(folder, force=True)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.safetensors", "notes.txt", "vaekit.json"]
    np.testing.assert_array_equal(vaekit.load(folder).generate(3, seed=1), other.generate(3, seed=1))


def test_a_model_saved_where_it_was_trained_keeps_its_run(tmp_path):
    folder = tmp_path / "run"
    model = run_folder(folder, steps=2, latent=2)
    (folder / "preview.png").write_bytes(b"mine")
    model.save(folder, force=True)
    assert (folder / "preview.png").read_bytes() == b"mine"
    data = vector_data().raw()
    more = vaekit.train(data, folder, resume=True, steps=4, latent=2, precision="float32", display="quiet")
    assert more.bundle.training["steps"] == 4


def test_a_run_without_a_model_is_not_saved_over_unasked(tmp_path):
    folder = tmp_path / "run"
    run_folder(folder, steps=2, latent=2)
    (folder / "vaekit.json").unlink()
    with pytest.raises(ConfigError, match="must hold no run, found one"):
        Model(vector_bundle()).save(folder)
    assert (folder / "training").is_dir()
    Model(vector_bundle()).save(folder, force=True)
    assert not (folder / "training").exists()
    (folder / "training").mkdir()
    (folder / "training" / "thesis.md").write_text("not a run")
    with pytest.raises(ConfigError, match="found no run at"):
        Model(image_bundle()).save(folder, force=True)


def test_loading_what_is_no_model(tmp_path):
    with pytest.raises(ModelFormatError, match=r"must hold vaekit\.json"):
        vaekit.load(tmp_path)
    Model(vector_bundle()).save(tmp_path / "model")
    with pytest.raises(ConfigError, match="`device` must be one that is there, got 'quantum'"):
        vaekit.load(tmp_path / "model", device="quantum")


def test_train_gives_a_model_that_does_its_jobs(tmp_path):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(m, 0.2, (60, 3)) for m in (0.0, 3.0)]).astype(np.float32)
    model = vaekit.train(x, tmp_path / "run", latent=2, steps=30, precision="float32", display="quiet")
    assert model.vae.prior.shape == (2,)
    assert model.generate(4).shape == (4, 3)
    assert model.encode(x).mean.shape == (120, 2)
    again = vaekit.load(tmp_path / "run")
    np.testing.assert_array_equal(again.encode(x).mean, model.encode(x).mean)
