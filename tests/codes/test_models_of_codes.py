"""Whole models of codes: trained, killed, resumed, saved, loaded, sampled, evaluated."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import vaekit
from vaekit import likelihoods, networks, posteriors, priors
from vaekit.data import loading
from vaekit.data.transforms import Levels
from vaekit.errors import ConfigError
from vaekit.model import Model
from vaekit.objectives import Quantization
from vaekit.storage import Bundle
from vaekit.training.callbacks import Callback
from vaekit.training.refit import refit_prior
from vaekit.training.run import train
from vaekit.vae import VAE

GRID = [2, 2]


def examples(num: int = 120, seed: int = 0) -> np.ndarray:
    """Grey images 4 x 4 of few kinds, and a little noise."""
    rng = np.random.default_rng(seed)
    kinds = np.random.default_rng(7).integers(40, 216, (5, 4, 4))
    return np.clip(kinds[rng.integers(0, 5, num)] + rng.integers(-9, 10, (num, 4, 4)), 0, 255).astype(np.uint8)


def encoder(**options) -> networks.GridEncoder:
    return networks.GridEncoder([1, 4, 4], [8, 8], input_range=[0.0, 255.0], **options)


def model(kind: str = "vectors", prior=priors.UniformCodes, **options) -> VAE:
    torch.manual_seed(1)
    if kind == "vectors":
        posterior = posteriors.VectorQuantized(encoder(), 8, 3, GRID, **{"revival": 0.3, "decay": 0.9, **options})
    elif kind == "residual":
        posterior = posteriors.ResidualQuantized(encoder(), 8, 3, GRID, depth=2, **options)
    elif kind == "levels":
        posterior = posteriors.FiniteScalar(encoder(), [4, 3], GRID)
    else:
        posterior = posteriors.GumbelSoftmax(encoder(), 6, GRID, anneal_rate=1e-2)
    decoder = networks.GridDecoder(posterior.layout.layer, [1, 4, 4], [8, 8])
    network = networks.SumOfLayers(decoder, layer_dims=3) if kind == "residual" else decoder
    likelihood = likelihoods.DiscretizedLogisticMixture(network, [1, 4, 4], num_components=1)
    return VAE(prior(posterior.shape, posterior.num_codes, posterior.num_tokens), posterior, likelihood)


def run(out, vae=None, resume=False, **settings):
    torch.set_num_threads(1)
    settings = {"steps": 40, "batch_size": 16, "validate_every": 8, "patience": 0, "precision": "float32", **settings}
    own = {"transform": Levels(), "objective": Quantization()}
    return train(examples(), out, vae=vae or model(), **own, display_as="quiet", resume=resume, **settings)


class Killed(BaseException):
    pass


class Kill(Callback):
    """Ends a run without a word at a step, after checkpoints of the steps before it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_validation(self, progress, budget) -> None:
        if progress.step == self.step:
            raise Killed


@pytest.mark.parametrize(("kind", "options"), [("vectors", {}), ("residual", {"shared": True}), ("categories", {})])
def test_a_run_that_is_killed_and_resumed_ends_in_the_same_bits(tmp_path, kind, options) -> None:
    """Codebook, shares, what a step recorded, and the step of the temperature, in the average and in the best weights too."""
    run(tmp_path / "whole", model(kind, **options))
    for step in (16, 32):
        with pytest.raises(Killed):
            run(tmp_path / "run", model(kind, **options), resume=step > 16, checkpoint_seconds=0.0, callbacks=[Kill(step)])
    run(tmp_path / "run", model(kind, **options), resume=True)
    for file in ("model.safetensors", "training/last/checkpoint.safetensors"):
        ours, theirs = load_file(tmp_path / "run" / file), load_file(tmp_path / "whole" / file)
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert torch.equal(ours[name], tensor), (file, name)
        moving = [name for name in theirs if "share" in name or name.endswith("posterior.steps")]
        assert moving
        assert all(theirs[name].unique().numel() > 1 or theirs[name].item() > 0 for name in moving)
    if kind == "categories":
        assert theirs["model.posterior.steps"].item() == 40


@pytest.mark.parametrize("kind", ["vectors", "residual", "levels", "categories"])
def test_a_model_does_every_job(tmp_path, kind) -> None:
    bundle = run(tmp_path / "run", model(kind))
    trained, loaded = Model(bundle), vaekit.load(tmp_path / "run")
    x = examples(20, seed=1)
    encoding = loaded.encode(x)
    assert np.array_equal(encoding.mean, trained.encode(x).mean)
    alone = [loaded.encode(x[i : i + 1]).mean[0] for i in (0, 7, 19)]
    assert np.array_equal(alone, encoding.mean[[0, 7, 19]])  # whatever the company
    assert np.array_equal(loaded.encode(x[::-1]).mean[::-1], encoding.mean)
    posterior, z = loaded.vae.posterior, torch.from_numpy(encoding.mean).unflatten(1, loaded.vae.posterior.shape)
    if kind != "categories":
        assert torch.equal(posterior.embed(posterior.codes_of(z)), z)
        assert not encoding.scale.any()
        assert len(np.unique(encoding.mean, axis=0)) > 1
    assert np.array_equal(loaded.decode(encoding, draw="mean"), loaded.reconstruct(x, split="all"))
    assert loaded.generate(5).shape == (5, 4, 4)
    assert np.array_equal(loaded.generate(5), trained.generate(5))
    with pytest.raises(ConfigError, match="a way from one to another"):  # there is nothing between two codes
        loaded.interpolate(x, 0, 1)
    with pytest.raises(ConfigError, match="a way from one to another"):
        loaded.traverse(x, num_units=2, num_steps=3)
    report = loaded.evaluate(x, num_samples=3, split="all")
    assert math.isfinite(report.nll_nats)
    if kind != "categories":
        assert report.rate == pytest.approx(posterior.num_tokens * math.log(posterior.num_codes), rel=1e-6)
        assert report.nll_nats == pytest.approx(-report.elbo, rel=1e-5)  # one latent, whatever the number of samples
    assert loaded.score(x, split="all").log_likelihood.shape == (20,)


def test_what_training_logs(tmp_path) -> None:
    run(tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "training" / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["event"] == "validation"][-1]
    assert 0 < last["code_entropy"] <= math.log(8)
    assert last["commitment"] > 0
    assert last["codebook"] == 0
    assert last["rate"] == pytest.approx(4 * math.log(8), rel=1e-6)
    assert last["loss"] == pytest.approx(-last["elbo"] + 0.25 * last["commitment"], rel=1e-5)


def test_a_prior_is_fitted_to_the_codes_of_a_trained_model(tmp_path) -> None:
    bundle = run(None, steps=100)
    held = {name: value.clone() for name, value in bundle.vae.posterior.state_dict().items()}
    prior = priors.AutoregressiveCodes(bundle.vae.prior.shape, 8, 4, features=16, num_layers=2, num_heads=2)
    data = loading.open(examples())
    fitted = refit_prior(bundle, data, prior, steps=100, learning_rate=1e-2, batch_size=32)
    report = Model(fitted).evaluate(examples(40, seed=2), num_samples=1, split="all")
    assert report.rate < 0.75 * 4 * math.log(8)
    assert fitted.training["prior_fit"]["rate_before"] == pytest.approx(4 * math.log(8))
    Model(fitted).save(tmp_path / "fitted")
    again = vaekit.load(tmp_path / "fitted")
    assert np.array_equal(again.generate(3), Model(fitted).generate(3))
    for name, value in again.vae.posterior.state_dict().items():
        assert torch.equal(value, held[name]), name


def test_a_density_is_not_fitted_to_codes() -> None:
    posterior = posteriors.VectorQuantized(networks.MLP([1, 4, 4], [8]), 8, 3, 2)
    likelihood = likelihoods.Normal(networks.MLP(6, [8]), [1, 4, 4])
    vae = VAE(priors.UniformCodes(6, 8, 2), posterior, likelihood)
    bundle = Bundle(vae.eval(), Levels(), loading.open(examples()).schema)
    with pytest.raises(ConfigError, match="prior of a posteriors.VectorQuantized must be over codes, got mixture"):
        refit_prior(bundle, loading.open(examples()), "mixture")


def test_training_goes_on_from_a_codebook_that_was_trained() -> None:
    for kind in ("vectors", "residual", "levels"):
        vae = run(None, model(kind), steps=10).vae
        before = {name: value.clone() for name, value in vae.posterior.state_dict().items()}
        vae.initialize(torch.from_numpy(examples()).unsqueeze(1))
        assert all(torch.equal(before[name], value) for name, value in vae.posterior.state_dict().items())


def test_a_conditional_model_of_codes() -> None:
    torch.manual_seed(0)
    posterior = posteriors.VectorQuantized(encoder(condition_features=3), 8, 3, GRID)
    prior = priors.AutoregressiveCodes(posterior.shape, 8, 4, 8, 1, 2, condition_features=3)
    decoder = networks.GridDecoder(posterior.shape, [1, 4, 4], [8, 8], condition_features=3)
    vae = VAE(
        prior,
        posterior,
        likelihoods.Normal(decoder, [1, 4, 4]),
        networks.ConditionEncoder({"label": 2}, features=3),
    )
    bundle = train(
        {"x": examples(), "y": np.arange(120) % 2},
        vae=vae,
        transform=vaekit.data.transforms.Standardize(128.0, 64.0),
        objective=Quantization(),
        condition=["label"],
        steps=10,
        display_as="quiet",
    )
    assert Model(bundle).generate(4, where={"label": 1}).shape[0] == 4


# --------------------------------------------------------------------------------------------------------------- processes

SCRIPT = """
import os, sys
import torch
from vaekit.posteriors.codebook import Codebook

rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
if world > 1:
    torch.distributed.init_process_group("gloo")
torch.manual_seed(0)
book = Codebook(5, 2, 0.8, 0.0, "uniform")
for _ in range(4):
    tokens = torch.randn(12, 2)[rank::world]
    book.follow(tokens)
    book.record(tokens, book.nearest(tokens))
revived = Codebook(5, 2, 0.8, 0.9, "uniform")
torch.manual_seed(rank)
for _ in range(4):
    tokens = torch.randn(12, 2)
    revived.follow(tokens)
    revived.record(tokens, revived.nearest(tokens))
torch.save((book.state_dict(), revived.state_dict()), f"{sys.argv[1]}-{rank}-of-{world}.pt")
"""


@pytest.mark.slow
def test_two_processes_keep_the_codebook_that_one_does(tmp_path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for command in (launch, [sys.executable]):
        command = [*command, str(tmp_path / "script.py"), str(tmp_path / "state")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
    (one, _), (first, mine), (second, theirs) = (
        torch.load(tmp_path / f"state-{name}.pt", weights_only=True) for name in ("0-of-1", "0-of-2", "1-of-2")
    )
    for name, tensor in one.items():
        torch.testing.assert_close(first[name], tensor)
        assert torch.equal(first[name], second[name])
        assert torch.equal(mine[name], theirs[name])  # revived at the tokens of the first process, everywhere


@pytest.mark.parametrize("kind", ["vectors", "residual", "levels", "categories"])
@pytest.mark.parametrize("prior", [priors.UniformCodes, priors.CategoricalCodes, priors.AutoregressiveCodes])
def test_a_step_never_waits_for_the_device(kind, prior) -> None:
    """Tensors without values: whatever has to look at one, as `item` or an `if` does, raises."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        vae = model(kind, prior).train()
        for _ in range(2):
            Quantization()(vae(torch.rand(3, 1, 4, 4) * 255)).loss.backward()
        assert all(parameter.grad is not None for parameter in vae.posterior.parameters())
