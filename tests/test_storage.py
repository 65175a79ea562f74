"""The model folder: what is written is what is read, and nothing else is believed."""

import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from vaekit import likelihoods, networks, posteriors, priors, storage
from vaekit.data.loading import open as open_data
from vaekit.data.transforms import Binarize
from vaekit.errors import ConfigError, ModelFormatError
from vaekit.storage import Bundle
from vaekit.vae import VAE


def make_bundle(seed=0):
    torch.manual_seed(seed)
    shape = [1, 6, 5]
    vae = VAE(
        prior=priors.MixtureOfNormals(3, 4),
        posterior=posteriors.DiagonalNormal(
            networks.ConvEncoder(shape, [4, 8], features=12, input_range=[0.0, 1.0]), num_latents=3
        ),
        likelihood=likelihoods.Bernoulli(networks.ConvDecoder(3, shape, [4, 8]), shape),
    )
    schema = open_data(np.random.default_rng(0).integers(0, 256, size=(9, 6, 5), dtype=np.uint8)).schema
    return Bundle(vae.eval(), Binarize(256), schema, {"steps": 5, "stopped": "budget"}, {"validation_elbo": -1.5})


@pytest.fixture
def folder(tmp_path):
    return storage.save(make_bundle(), tmp_path / "model")


def test_saved_and_loaded_gives_identical_output(folder):
    bundle, loaded = make_bundle(), storage.load(folder)
    x = (torch.rand(7, 1, 6, 5) > 0.5).float()
    with torch.no_grad():
        for before, after in (
            (bundle.vae.encode(x).mean, loaded.vae.encode(x).mean),
            (bundle.vae.decode(torch.ones(2, 4, 3)).mean, loaded.vae.decode(torch.ones(2, 4, 3)).mean),
            (bundle.vae.prior().log_prob(torch.ones(3)), loaded.vae.prior().log_prob(torch.ones(3))),
        ):
            assert torch.equal(before, after)
    assert loaded.schema == bundle.schema
    assert loaded.training == bundle.training
    assert loaded.metrics == bundle.metrics
    assert loaded.transform.spec() == bundle.transform.spec()
    assert not loaded.vae.training
    card = (folder / "README.md").read_text()
    assert "likelihoods.Bernoulli" in card
    assert f"{sum(p.numel() for p in bundle.vae.parameters()):,}" in card


def test_loading_leaves_the_random_state_alone(folder):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    storage.load(folder)
    assert torch.equal(torch.rand(4), expected)


def edit(folder, change):
    path = folder / "vaekit.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def set_spec(*path_and_value):
    *path, last, value = path_and_value

    def change(config):
        for key in path:
            config = config[key]
        config[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (set_spec("format", 99), "up to format 1, found format 99. Upgrade"),
        (set_spec("format", "1"), "must give a format version, found '1'"),
        (set_spec("model", None), "must have an object under 'model'"),
        (
            set_spec("model", "type", "os.system"),
            r"vaekit\.json must describe a model, but: .* must be registered, found the type 'os\.system'.* If the file",
        ),
        (set_spec("model", "type", "priors.StandardNormal"), "must be here|must fit its arguments"),
        (set_spec("model", "prior", {"type": "priors.StandardNormal", "num_latents": 3}), "exactly the tensors .* foreign"),
        (set_spec("model", "prior", "num_components", 5), r"prior\.\w+ must have the shape \(5,.*\), found \(4,.*\)"),
        (set_spec("model", "prior", "num_latents", "3"), "priors.MixtureOfNormals must fit its arguments"),
        (set_spec("model", "prior", "num_components", 10**15), "must have the shape"),
        (set_spec("model", "prior", "cheat", 1), "must fit its arguments"),
        (set_spec("transform", "type", "data.Nothing"), "must be registered"),
        (set_spec("schema", "shape", [6, 5]), r"schema in .* must be valid, but: \w"),
        (set_spec("schema", "kind", "spells"), r"schema in .* must be valid, but: `kind`: Input should be"),
        (set_spec("schema", "source", "dtype", 3), r"schema in .* must be valid, but: `source\.dtype`: Input should be"),
        (set_spec("weights", "sha256", "0" * 64), "must have the hash"),
    ],
)
def test_a_foreign_config_is_one_sentence(folder, change, sentence):
    edit(folder, change)
    with pytest.raises(ModelFormatError, match=sentence) as caught:
        storage.load(folder)
    assert "\n" not in str(caught.value).strip()


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe\x00", b"null", b"[" * 100_000])
def test_a_config_that_is_no_json_object(folder, content):
    (folder / "vaekit.json").write_bytes(content)
    with pytest.raises(ModelFormatError, match=r"vaekit\.json must"):
        storage.load(folder)


def test_missing_files(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFormatError, match=r"must hold model\.safetensors, none was found"):
        storage.load(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFormatError, match=r"must hold vaekit\.json, none was found .* Give a folder"):
        storage.load(tmp_path / "empty")
    with pytest.raises(ModelFormatError, match=r"must hold vaekit\.json"):
        storage.load(tmp_path / "nowhere")
    (tmp_path / "empty" / "training").mkdir()
    with pytest.raises(ModelFormatError, match="has not finished: .* `--resume`"):
        storage.load(tmp_path / "empty")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_weights_are_found(tmp_path_factory, data):
    folder = storage.save(make_bundle(), tmp_path_factory.mktemp("model"))
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[at:]
    path.write_bytes(bytes(content))
    with pytest.raises(ModelFormatError, match="must have the hash"):
        storage.load(folder)


def test_weights_of_another_format_are_refused_even_with_their_hash(folder):
    import hashlib

    for content in (b"\x80\x04.", struct.pack("<Q", 2**63) + b"{}", b""):
        (folder / "model.safetensors").write_bytes(content)
        edit(folder, set_spec("weights", "sha256", hashlib.sha256(content).hexdigest()))
        with pytest.raises(ModelFormatError, match="must be a safetensors file"):
            storage.load(folder)


def test_nothing_is_left_half_written(tmp_path, monkeypatch):
    folder = storage.save(make_bundle(0), tmp_path / "model")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "save_file", fail)
    with pytest.raises(ConfigError, match="must be writable, but: No space left on device"):
        storage.save(make_bundle(1), folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_disk_that_is_full_is_one_sentence(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: File too large (os error 27)")

    monkeypatch.setattr(storage, "save_file", fail)
    with pytest.raises(ConfigError, match=r"must be writable, but: File too large \(os error 27\)\. Free some space"):
        storage.save(make_bundle(), tmp_path / "model")
    assert not (tmp_path / "model" / "vaekit.json").exists()


def test_numbers_that_json_has_not_are_null(tmp_path):
    bundle = make_bundle()
    bundle.metrics["elbo"] = float("nan")
    bundle.training["losses"] = [1.5, float("-inf")]
    loaded = storage.load(storage.save(bundle, tmp_path / "model"))
    assert loaded.metrics == {"validation_elbo": -1.5, "elbo": None}
    assert loaded.training == {"steps": 5, "stopped": "budget", "losses": [1.5, None]}
