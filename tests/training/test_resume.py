"""A run that is killed, interrupted, or short of disk goes on as if nothing had been."""

import json
import multiprocessing
import os
import random
import resource
import signal
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vaekit import storage
from vaekit.errors import ConfigError, TrainingError
from vaekit.training.callbacks import Callback
from vaekit.training.run import train

STEPS = 700
KILLS = 12


def examples(seed=0):
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(128, 40, size=(300, 6, 6)) + 60 * rng.normal(size=(300, 1, 1)), 0, 255).astype(np.uint8)


def run(out, resume=False, **settings):
    torch.set_num_threads(1)
    settings = {
        "steps": STEPS,
        "latent": 3,
        "recipe": "mlp",
        "patience": 0,
        "precision": "float32",
        "validate_every": 60,
        **settings,
    }
    return train(examples(), out, display_as="quiet", resume=resume, **settings)


def run_with_checkpoint_at_every_step(out):
    run(out, resume=True, checkpoint_seconds=0.0)


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.test_resume"])
    return context


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder)
    return folder


@pytest.mark.slow
def test_killed_a_dozen_times_and_resumed_gives_the_same_bits(processes, tmp_path, uninterrupted):
    out, dice = tmp_path / "run", random.Random(20)
    checkpoint = out / "training" / "last" / "checkpoint.safetensors"
    steps_at_kill = []
    while len(steps_at_kill) < KILLS:
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        worker = processes.Process(target=run_with_checkpoint_at_every_step, args=(out,))
        worker.start()
        while worker.is_alive() and (checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0) == before:
            time.sleep(0.001)
        time.sleep(dice.random() * 0.12)
        assert worker.is_alive(), "the run ended before it was killed often enough: raise STEPS"
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        steps_at_kill.append(json.loads(_header(checkpoint)["state"])["progress"]["step"])
    assert steps_at_kill == sorted(steps_at_kill)
    assert steps_at_kill[-1] < STEPS
    worker = processes.Process(target=run_with_checkpoint_at_every_step, args=(out,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    same_bits(out, uninterrupted)
    assert sorted(p.name for p in checkpoint.parent.iterdir()) == ["checkpoint.safetensors"]
    steps = [json.loads(line)["step"] for line in (out / "training" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def same_bits(run, other):
    """Weights, average, optimiser, random states and best weights."""
    for file in ("model.safetensors", "training/last/checkpoint.safetensors"):
        ours, theirs = load_file(run / file), load_file(other / file)
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert torch.equal(ours[name], tensor), (file, name)


def convolutional(out, resume=False, **settings):
    """Another kind of everything: convolutions, binary draws, a condition, bf16, clipping and patience."""
    torch.set_num_threads(1)
    data = {"x": examples(), "y": np.arange(300) % 3}
    options = {"recipe": "conv", "likelihood": "bernoulli", "condition": ["label"], "latent": 3, "precision": "bf16"}
    options |= {"steps": 80, "batch_size": 16, "validate_every": 7, "patience": 30, "clip_norm": 20.0, "free_bits": 0.1}
    return train(data, out, display_as="quiet", resume=resume, **{**options, **settings})


def convolutional_with_checkpoints_now_and_then(out):
    convolutional(out, resume=True, checkpoint_seconds=0.15)


@pytest.mark.slow
def test_a_convolutional_conditional_run_resumes_to_the_same_bits(processes, tmp_path):
    """Checkpoints lie several steps apart, so a resumed run does some of its steps, and of its validations, again."""
    convolutional(tmp_path / "whole")
    out, dice = tmp_path / "run", random.Random(3)
    checkpoint = out / "training" / "last" / "checkpoint.safetensors"
    kills = 0
    while kills < 4:
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        worker = processes.Process(target=convolutional_with_checkpoints_now_and_then, args=(out,))
        worker.start()
        while worker.is_alive() and (checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0) == before:
            time.sleep(0.001)
        time.sleep(dice.random() * 0.1)
        if not worker.is_alive():
            break
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        kills += 1
    assert kills >= 2, "the run ended before it was killed often enough: raise its steps"
    convolutional(out, resume=True)
    same_bits(out, tmp_path / "whole")


def _header(path):
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(size))["__metadata__"]


def test_killed_before_the_first_checkpoint_starts_again(tmp_path, uninterrupted):
    out = tmp_path / "run"
    run(out, steps=5)
    (out / "training" / "last" / "checkpoint.safetensors").unlink()
    resumed = run(out, resume=True)
    whole = storage.load(uninterrupted)
    assert all(torch.equal(a, b) for a, b in zip(resumed.vae.parameters(), whole.vae.parameters(), strict=True))


def test_a_raised_budget_goes_on(tmp_path):
    first = run(tmp_path / "run", steps=100, decay="constant")
    more = run(tmp_path / "run", steps=200, decay="constant", resume=True)
    straight = run(tmp_path / "straight", steps=200, decay="constant")
    assert first.training["steps"] == 100
    assert more.training["steps"] == 200
    assert all(torch.equal(a, b) for a, b in zip(more.vae.parameters(), straight.vae.parameters(), strict=True))


class Interrupt(Callback):
    def __init__(self, number):
        self.number = number

    def on_validation(self, progress, budget):
        if progress.step == 120:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_and_resumes_exactly(tmp_path, uninterrupted, number):
    handler = signal.getsignal(number)
    stopped = run(tmp_path / "run", callbacks=[Interrupt(number)])
    assert signal.getsignal(number) is handler
    assert stopped.training["stopped"] == "interrupted"
    assert 120 <= stopped.training["steps"] <= 122
    assert storage.load(tmp_path / "run").training["stopped"] == "interrupted"
    ended = run(tmp_path / "run", resume=True)
    whole = storage.load(uninterrupted)
    assert all(torch.equal(a, b) for a, b in zip(ended.vae.parameters(), whole.vae.parameters(), strict=True))


def run_with_little_space(out, limit, answers):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        run(out, resume=True, checkpoint_seconds=0.0)
        answers.put("no error")
    except TrainingError as error:
        answers.put(str(error))


def test_a_full_disk_gives_one_sentence_and_leaves_the_last_checkpoint(processes, tmp_path, uninterrupted):
    out = tmp_path / "run"
    run(out, steps=50)
    checkpoint = out / "training" / "last" / "checkpoint.safetensors"
    before = checkpoint.read_bytes()
    answers = processes.Queue()
    worker = processes.Process(target=run_with_little_space, args=(out, len(before) // 2, answers))
    worker.start()
    sentence = answers.get(timeout=120)
    worker.join()
    assert "must be writable, but: File too large" in sentence
    assert "--resume" in sentence
    assert "\n" not in sentence
    assert checkpoint.read_bytes() == before
    assert sorted(p.name for p in checkpoint.parent.iterdir()) == ["checkpoint.safetensors"]
    ended = run(out, resume=True)
    whole = storage.load(uninterrupted)
    assert ended.training["steps"] == whole.training["steps"]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((ConfigError, TrainingError), match="must be (writable|a folder)"):
        run(tmp_path / "file" / "run", steps=5)
    with pytest.raises(ConfigError, match="must be a folder, found a file"):
        run(tmp_path / "file", steps=5)


def test_other_settings_or_other_data_are_refused(tmp_path):
    run(tmp_path / "run", steps=5)
    with pytest.raises(ConfigError, match=r"settings it began with, found latent: 3 then, 4 now\. Leave them out"):
        run(tmp_path / "run", steps=5, resume=True, latent=4)
    with pytest.raises(ConfigError, match="batch_size: None then, 7 now"):
        run(tmp_path / "run", steps=5, resume=True, batch_size=7)
    with pytest.raises(TrainingError, match="resumed on the data it began with"):
        train(
            examples(seed=1),
            tmp_path / "run",
            display_as="quiet",
            resume=True,
            steps=9,
            latent=3,
            recipe="mlp",
            patience=0,
            precision="float32",
            validate_every=60,
        )


def test_an_existing_output_is_kept(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="must be new or empty, found other files .* `--force`"):
        run(tmp_path / "other", steps=5)
    run(tmp_path / "run", steps=5)
    with pytest.raises(ConfigError, match="found a run in .* go on with it by `--resume`, or replace .* by `--force`"):
        run(tmp_path / "run", steps=5)
    replaced = run(tmp_path / "run", steps=7, force=True)
    assert replaced.training["steps"] == 7
    with pytest.raises(ConfigError, match="must not be given together"):
        run(tmp_path / "run", steps=5, force=True, resume=True)
    with pytest.raises(ConfigError, match="must have a folder to be resumed from"):
        run(None, steps=5, resume=True)


def test_columns_beside_the_data_are_no_conditions_unless_asked_for(tmp_path):
    np.savez(tmp_path / "data.npz", x=examples(), y=np.arange(300) % 3)
    plain = train(tmp_path / "data.npz", display_as="quiet", steps=3, latent=2)
    assert plain.vae.condition is None
    conditional = train(tmp_path / "data.npz", tmp_path / "run", display_as="quiet", steps=3, latent=2, condition=["label"])
    assert conditional.vae.condition.categories == {"label": 3}
    assert sum(conditional.training["condition_counts"]["label"]) == conditional.training["num_training_examples"]
    assert train(
        tmp_path / "data.npz", tmp_path / "run", display_as="quiet", steps=6, latent=2, condition=["label"], resume=True
    )
