"""From data to a model: few rows, one's own parts, several processes, and what a run leaves."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from small_models import image_bundle, vector_bundle
from vaekit import likelihoods, networks, posteriors, priors, storage
from vaekit.component import check_device
from vaekit.data.transforms import Levels, Standardize
from vaekit.errors import ConfigError, DataError, TrainingError
from vaekit.objectives import IWAE
from vaekit.training import folder, loop, precision, run
from vaekit.training.callbacks import Callback
from vaekit.training.run import make_fabric, split, train
from vaekit.vae import VAE


def pixels(num, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size=(num, 5, 4), dtype=np.uint8)


class Notes(Callback):
    def __init__(self):
        self.sentences = []

    def on_note(self, sentence):
        self.sentences.append(sentence)


def test_fewer_rows_than_a_batch_is_said_and_works():
    notes = Notes()
    bundle = train(pixels(10), batch_size=64, steps=3, display_as="quiet", callbacks=[notes])
    assert bundle.training["config"]["batch_size"] == 9
    assert "Batch: 9 examples, because there are no more; 64 were asked for." in notes.sentences


def test_one_row_is_too_few():
    with pytest.raises(DataError, match="At least 2 examples must be there"):
        train(pixels(1), steps=3, display_as="quiet")


def test_two_rows_are_enough():
    assert train(pixels(2), steps=3, display_as="quiet").training["steps"] == 3


def own_vae():
    return VAE(
        prior=priors.MixtureOfNormals(2, 3),
        posterior=posteriors.FullNormal(networks.MLP([1, 5, 4], [8], input_range=[0.0, 255.0]), num_latents=2),
        likelihood=likelihoods.DiscretizedLogisticMixture(networks.MLP(2, [8]), [1, 5, 4], num_components=2),
    )


def test_parts_of_ones_own_are_trained_saved_and_loaded(tmp_path):
    bundle = train(
        pixels(50),
        tmp_path / "run",
        vae=own_vae(),
        transform=Levels(),
        objective=IWAE(),
        num_samples=4,
        steps=20,
        display_as="quiet",
    )
    loaded = storage.load(tmp_path / "run")
    assert loaded.vae.spec() == own_vae().spec()
    assert loaded.training["objective"] == {"type": "objectives.IWAE"}
    assert all(torch.equal(a, b) for a, b in zip(bundle.vae.parameters(), loaded.vae.parameters(), strict=True))
    with pytest.raises(ConfigError, match="must come with its `transform`"):
        train(pixels(50), vae=own_vae(), steps=2, display_as="quiet")


def test_values_outside_the_support_are_refused_before_the_first_step():
    vae = own_vae()
    vae.likelihood = likelihoods.Bernoulli(networks.MLP(2, [8]), [1, 5, 4])
    with pytest.raises(DataError, match="Bernoulli likelihood must have values 0 and 1, found values from -?[0-9.]+ to"):
        train(pixels(50), vae=vae, transform=Standardize(127.0, 64.0), steps=2, display_as="quiet")


def test_what_a_run_leaves(tmp_path):
    train(pixels(60), tmp_path / "run", steps=60, validate_every=30, display_as="quiet")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "README.md",
        "model.safetensors",
        "preview.png",
        "training",
        "vaekit.json",
    ]
    lines = [json.loads(line) for line in (tmp_path / "run" / "training" / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if line["event"] == "validation"]
    assert [line["step"] for line in validations] == [30, 60]
    saved = json.loads((tmp_path / "run" / "vaekit.json").read_text())
    best = min(validations, key=lambda line: line["loss"])
    assert saved["metrics"]["validation_elbo"] == best["elbo"]
    assert saved["training"]["best_step"] == best["step"]
    config = json.loads((tmp_path / "run" / "training" / "config.json").read_text())
    assert config["config"]["steps"] == 60
    events = list((tmp_path / "run" / "training").glob("events.out.tfevents.*"))
    assert len(events) == 1
    assert b"validation/elbo" in events[0].read_bytes()


def test_the_test_split_is_never_trained_on(tmp_path):
    np.savez(tmp_path / "data.npz", x_train=pixels(50), x_test=pixels(20, seed=1))
    from vaekit.data.loading import open as open_data

    training, held_out = split(open_data(tmp_path / "data.npz"))
    given = {row.tobytes() for row in pixels(50)}
    found = [row.tobytes() for row in np.concatenate([training.raw(), held_out.raw()])]
    assert set(found) == given
    assert len(found) == 50
    assert not {row.tobytes() for row in training.raw()} & {row.tobytes() for row in held_out.raw()}


def test_devices_that_are_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert check_device("cpu") == torch.device("cpu")
    assert check_device("cuda:1") == torch.device("cuda", 1)
    for name in ("tpu", "cuda:2", "cuda:", "cuda:-1", "cuda:x", "mps", "cpu:1", "meta", ""):
        sentence = f"`device` must be one that is there, got {name!r}. Use `cpu`, `cuda`, `cuda:N` or `mps`, or `auto`"
        for refuse in (check_device, make_fabric):
            with pytest.raises(ConfigError, match=re.escape(sentence)):
                refuse(name)


class Two(Fabric):
    """One process that takes itself for the first of two."""

    world_size = 2


def test_a_batch_that_processes_cannot_share_is_refused_before_the_old_model_is_touched(tmp_path, monkeypatch):
    train(pixels(30), tmp_path / "run", steps=1, display_as="quiet")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    monkeypatch.setattr(run, "make_fabric", lambda *_: Two(accelerator="cpu", devices=1))
    with pytest.raises(ConfigError, match="`batch_size` must be a multiple of the 2 processes, got 5"):
        train(pixels(30), tmp_path / "run", steps=1, batch_size=5, force=True, display_as="quiet")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before
    assert (tmp_path / "run" / "training" / "last" / "checkpoint.safetensors").is_file()


@pytest.mark.parametrize("out", ["photos", "photos/model", "."])
def test_an_output_that_is_not_apart_from_the_data_is_refused(tmp_path, monkeypatch, out):
    (tmp_path / "photos" / "training").mkdir(parents=True)
    (tmp_path / "photos" / "training" / "a.png").write_bytes(b"a")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"must lie apart from the data, got .* for photos\. Choose another name"):
        train("photos", out, steps=1, force=True, display_as="quiet")
    assert (tmp_path / "photos" / "training" / "a.png").read_bytes() == b"a"


def test_force_replaces_runs_and_no_other_folder_of_that_name(tmp_path):
    (tmp_path / "work" / "training").mkdir(parents=True)
    letter = tmp_path / "work" / "training" / "letter.txt"
    letter.write_text("dear")
    with pytest.raises(ConfigError, match=r"must replace nothing but a run, found no run at .*training\. Choose another name"):
        train(pixels(30), tmp_path / "work", steps=1, force=True, display_as="quiet")
    with pytest.raises(ConfigError, match="must replace nothing but a run"):
        folder.remove_run(tmp_path / "work")
    assert letter.read_text() == "dear"
    letter.rename(tmp_path / "work" / "training" / ".config.0123456789ab.tmp.json")  # a kill at the very start
    assert train(pixels(30), tmp_path / "work", steps=1, force=True, display_as="quiet").training["steps"] == 1
    assert not list((tmp_path / "work" / "training").glob(".*"))
    folder.remove_run(tmp_path / "work")
    assert not (tmp_path / "work" / "training").exists()
    folder.remove_run(tmp_path / "work")


def test_what_a_kill_has_left_is_removed_and_nothing_else(tmp_path):
    out = tmp_path / "run"
    train(pixels(30), out, steps=1, display_as="quiet")
    ours = [
        out / ".model.0123456789ab.tmp.safetensors",
        out / ".vaekit.ba9876543210.tmp.json",
        out / ".preview.0123456789ab.tmp.png",
        out / "training" / ".metrics.0123456789ab.tmp.jsonl",
        out / "training" / "last" / ".checkpoint.0123456789ab.tmp.safetensors",
    ]
    theirs = [out / ".notes.0123456789ab.tmp.json", out / ".model.tmp.safetensors", out / "training" / ".my.tmp"]
    for path in (*ours, *theirs):
        path.write_bytes(b"half")
    train(pixels(30), out, steps=2, resume=True, display_as="quiet")
    assert [path.exists() for path in ours] == [False] * len(ours)
    assert [path.read_bytes() for path in theirs] == [b"half"] * len(theirs)
    ours[0].mkdir()  # cannot be unlinked
    with pytest.raises(TrainingError, match=r"must be writable, but: .*\. The last checkpoint is whole\. Make room"):
        train(pixels(30), out, steps=3, resume=True, display_as="quiet")


def test_an_infinite_budget_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError, match="`epochs`: Input should be a finite number, got inf"):
        train(pixels(30), tmp_path / "run", epochs=float("inf"), display_as="quiet")
    assert not (tmp_path / "run").exists()


def test_an_older_preview_does_not_stay(tmp_path):
    folder.publish(image_bundle(), tmp_path / "model")
    assert (tmp_path / "model" / "preview.png").is_file()
    folder.publish(vector_bundle(), tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["README.md", "model.safetensors", "vaekit.json"]


SCRIPT = """
import sys, numpy as np, torch
from vaekit import likelihoods, networks, posteriors, priors
from vaekit.data.transforms import Standardize
from vaekit.distributions import diagonal_normal
from vaekit.objectives import ELBO
from vaekit.training.run import train
from vaekit.vae import VAE

class Narrow(posteriors.DiagonalNormal):
    \"\"\"A posterior without noise to speak of, so that what processes draw makes no difference.\"\"\"
    def forward(self, x, condition=None, mask=None):
        return diagonal_normal(super().forward(x, condition, mask).base_dist.loc, torch.full((len(x), 2), 1e-7))

torch.manual_seed(int(__import__("os").environ.get("RANK", 0)))  # processes start apart; the first one's weights count
vae = VAE(
    prior=priors.StandardNormal(2),
    posterior=Narrow(networks.MLP(3, [8]), num_latents=2),
    likelihood=likelihoods.Normal(networks.MLP(2, [8]), shape=[3]),
)
x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
x[:, 2] = x[:, 0] + 0.1 * x[:, 1]
train(x, sys.argv[1], vae=vae, transform=Standardize(0.0, 1.0), objective=ELBO(beta=0.0), steps=60, batch_size=16,
      precision="float32", device="cpu", validate_every=20, display_as="quiet", learning_rate_warm_up=0,
      checkpoint_seconds=0.02, resume="--resume" in sys.argv)
"""


@pytest.mark.slow
def test_two_processes_train_the_model_that_one_does(tmp_path):
    """Each process takes its half of every batch, and their gradients are averaged: the same weights up to rounding."""
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(tmp_path / "script.py"), str(tmp_path / "two")]
    for arguments in (command, [*command, "--resume"], [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "one")]):
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
    two, one = (load_file(tmp_path / run / "model.safetensors") for run in ("two", "one"))
    assert two.keys() == one.keys()
    for name, tensor in one.items():
        assert torch.allclose(two[name], tensor, atol=1e-4), name
    reports = [json.loads((tmp_path / run / "vaekit.json").read_text()) for run in ("two", "one")]
    assert reports[0]["training"]["steps"] == reports[1]["training"]["steps"] == 60
    distortions = [report["metrics"]["validation_distortion"] for report in reports]
    assert distortions[0] == pytest.approx(distortions[1], abs=1e-3)
    steps = [json.loads(line)["step"] for line in (tmp_path / "two" / "training" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


@pytest.mark.slow
def test_two_processes_stop_by_the_clock_together(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT.replace("steps=60", "minutes=0.03"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(tmp_path / "script.py"), str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "vaekit.json").read_text())["training"]["stopped"] == "budget"


@pytest.mark.parametrize("kind", ["live", "plain", "auto"])
def test_the_screen(kind, capsys):
    train(pixels(60), steps=60, validate_every=20, display_as=kind)
    said = capsys.readouterr().err
    assert "Likelihood: mixture of discretised logistics" in said
    assert "The budget is used up after 60 steps" in said


def test_training_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    train(pixels(30), steps=5, display_as="quiet")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("name", "options", "spec", "num_samples"),
    [
        ("elbo", {"beta": 2.0}, {"type": "objectives.ELBO", "beta": 2.0}, 1),
        ("iwae", {}, {"type": "objectives.IWAE"}, 5),
        ("dreg", {"num_samples": 3}, {"type": "objectives.DReG"}, 3),
        ("stl", {}, {"type": "objectives.StickingTheLanding"}, 1),
        ("total-correlation", {"beta": 3.0}, {"type": "objectives.TotalCorrelation", "beta": 3.0}, 1),
        ("total-correlation", {}, {"type": "objectives.TotalCorrelation", "beta": 6.0}, 1),
        ("total-correlation", {"beta": 1.0}, {"type": "objectives.TotalCorrelation", "beta": 1.0}, 1),
        ("iwae", {"beta": 1.0}, {"type": "objectives.IWAE"}, 5),
    ],
)
def test_objectives_by_name(name, options, spec, num_samples):
    bundle = train(pixels(60), objective=name, steps=3, display_as="quiet", precision="float32", **options)
    assert bundle.training["objective"] | spec == bundle.training["objective"]
    assert bundle.training["config"]["num_samples"] == num_samples


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"objective": "best"},
            "`objective` must be one of elbo, iwae, dreg, stl, total-correlation, neighbours, semi-supervised; got 'best'",
        ),
        ({"objective": "iwae", "beta": 2.0}, "`beta` must be left out with the objective `iwae`"),
        ({"objective": "total-correlation", "free_bits": 1.0}, "`free_bits` must be left out"),
    ],
)
def test_objectives_that_cannot_be(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        train(pixels(60), steps=3, display_as="quiet", **options)


def test_a_run_goes_on_with_the_prior_and_objective_it_began_with(tmp_path):
    told = {"prior": "mixture", "objective": "dreg", "display_as": "quiet", "precision": "float32"}
    train(pixels(60), tmp_path / "run", steps=4, **told)
    bundle = train(pixels(60), tmp_path / "run", steps=8, resume=True, **told)
    assert bundle.training["steps"] == 8
    assert bundle.vae.prior.spec()["type"] == "priors.MixtureOfNormals"
    with pytest.raises(ConfigError, match="objective: 'dreg' then, 'iwae' now"):
        train(pixels(60), tmp_path / "run", steps=9, resume=True, **{**told, "objective": "iwae"})


@pytest.mark.parametrize(("objective", "beta"), [(None, 1.0), ("elbo", 1.0), ("total-correlation", 6.0)])
def test_a_run_saved_with_the_defaults_written_out_goes_on(tmp_path, objective, beta):
    """Older runs were told 1, 0 and 0 where nothing was given."""
    told = {"objective": objective, "display_as": "quiet", "precision": "float32"}
    train(pixels(60), tmp_path / "run", steps=2, **told)
    path = tmp_path / "run" / "training" / "config.json"
    saved = json.loads(path.read_text())
    assert saved["asked"]["beta"] is None
    saved["asked"] |= {"beta": 1.0, "free_bits": 0.0, "warm_up": 0}
    path.write_text(json.dumps(saved))
    bundle = train(pixels(60), tmp_path / "run", steps=4, resume=True, **told)
    assert bundle.training["steps"] == 4
    assert bundle.training["objective"]["beta"] == beta
    assert bundle.training["reasons"] == saved["reasons"]
    with pytest.raises(ConfigError, match="beta: 1.0 then, 2.0 now"):
        train(pixels(60), tmp_path / "run", steps=6, resume=True, beta=2.0, **told)


def test_a_run_without_a_beta_goes_on_with_the_default_named(tmp_path):
    told = {"objective": "total-correlation", "display_as": "quiet", "precision": "float32"}
    train(pixels(60), tmp_path / "run", steps=2, **told)
    with pytest.raises(ConfigError, match="beta: None then, 1.0 now"):
        train(pixels(60), tmp_path / "run", steps=4, resume=True, beta=1.0, **told)
    assert train(pixels(60), tmp_path / "run", steps=4, resume=True, beta=6.0, **told).training["steps"] == 4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"objective": "dreg"}, "Objective: dreg with 5 samples, as asked."),
        ({"objective": "stl"}, "Objective: stl, as asked."),
        ({"beta": 4.0, "free_bits": 0.5}, "Objective: elbo with beta 4 and free bits 0.5, as asked."),
    ],
)
def test_the_objective_is_echoed(options, sentence):
    bundle = train(pixels(60), steps=1, display_as="quiet", precision="float32", **options)
    assert sentence in bundle.training["reasons"]
    assert not any("Objective" in reason for reason in train(pixels(60), steps=1, display_as="quiet").training["reasons"])


def test_few_examples_are_said():
    for num, said in ((50, True), (60, False)):  # 45 and 54 to train on
        notes = Notes()
        train(pixels(num), steps=1, display_as="quiet", callbacks=[notes])
        assert any(sentence.startswith("Examples: 45 to train on are few") for sentence in notes.sentences) == said


def test_nothing_to_resume_is_said(tmp_path):
    for said in (True, False):
        notes = Notes()
        train(pixels(60), tmp_path / "run", steps=1, resume=True, display_as="quiet", callbacks=[notes])
        assert any("There is nothing to resume in" in sentence for sentence in notes.sentences) == said


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"objective": IWAE}, r"`objective` must be an `Objective` or the name of one, got the class IWAE. Make one: `IWAE"),
        ({"objective": 3}, "`objective` must be an `Objective` or the name of one, got a int"),
        ({"vae": VAE, "transform": Levels()}, "`vae` must be a `VAE` .* got the class VAE"),
        ({"vae": own_vae(), "transform": Levels}, "`transform` must be a `data.transforms.Transform`, got the class Levels"),
        ({"recipe": "ladder", "objective": "total-correlation"}, "TotalCorrelation must be given one level of latents"),
        ({"prior": "vamp", "objective": "total-correlation"}, "TotalCorrelation must be given a prior that is a product"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, monkeypatch, options, sentence):
    monkeypatch.setattr(precision, "_measure", lambda *_: pytest.fail("the precision was measured first"))
    with pytest.raises(ConfigError, match=sentence):
        train(pixels(60), tmp_path / "run", steps=3, display_as="quiet", **options)
    assert not (tmp_path / "run").exists()


def test_a_model_of_another_shape_is_refused():
    wide = np.zeros((60, 6, 4), np.uint8) + np.arange(60, dtype=np.uint8)[:, None, None] * 4
    with pytest.raises(DataError, match=r"must have the shape \(1, 5, 4\) that the `vae` is made for, found \(1, 6, 4\)"):
        train(wide, vae=own_vae(), transform=Levels(), steps=2, display_as="quiet")
    blind = own_vae()
    blind.posterior = posteriors.FullNormal(networks.MLP([1, 7, 7], [8]), num_latents=2)
    with pytest.raises(DataError, match=r"must take examples of the shape \(1, 5, 4\), but: .*\. Make their networks"):
        train(pixels(60), vae=blind, transform=Levels(), steps=2, display_as="quiet")


def test_a_diverged_run_is_said_aloud(capsys):
    bundle = train(pixels(60), steps=30, learning_rate=1000.0, display_as="quiet", learning_rate_warm_up=0, clip_norm=None)
    said = capsys.readouterr().err
    assert said.startswith("Training has made the model worse: the best loss on held-out examples is ")
    assert said.count("\n") == 1
    assert bundle.training["warning"] == said.strip()
    quiet = train(pixels(60), steps=30, display_as="quiet")
    assert quiet.training["warning"] is None
    assert capsys.readouterr().err == ""


def test_a_run_whose_losses_were_never_finite_leaves_no_model(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "validate", lambda *_: dict.fromkeys(("loss", "elbo", "rate", "active_units"), float("nan")))
    with pytest.raises(TrainingError, match="at no validation up to step 5 it was"):
        train(pixels(60), tmp_path / "run", steps=5, display_as="quiet")
    assert not (tmp_path / "run" / "vaekit.json").exists()
