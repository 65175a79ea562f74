"""Stages go on after a stop as if nothing had been, and together in several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from tests.training.test_run import SCRIPT
from tests.training.test_stages import data, make_trainer, make_vae, same, scripted, staged

from vaekit import priors
from vaekit.objectives import ELBO
from vaekit.training.checkpoint import Checkpoint
from vaekit.training.loop import CHECKPOINT_FILE
from vaekit.training.progress import Progress

__all__ = ["data"]

BOTH = {"steps": 40, "pretrain": 12, "aggressive": 2, "ema": 0.9, "validate_every": 7, "learning_rate": 0.01}


@pytest.mark.parametrize("stop", [5, 11, 12, 13, 15, 25, 39])
def test_a_stop_in_any_stage_and_at_its_ends_changes_no_bit(data, tmp_path, stop):
    def run(folder, resume=False, stop=None):
        torch.manual_seed(0)
        vae = make_vae(priors.MixtureOfNormals(2, 3))
        objective = ELBO(warm_up=10)
        trainer = make_trainer(data, vae, objective, folder, resume=resume, **BOTH)
        step = trainer._after_step

        def stopping():
            if stop is not None and trainer.progress.step == stop - 1:
                trainer.interrupt()
            step()

        trainer._after_step = stopping
        return trainer.fit()

    whole = run(tmp_path / "whole")
    assert run(tmp_path / "parts", stop=stop).progress.step == stop
    resumed = run(tmp_path / "parts", resume=True)
    assert same(resumed.weights, whole.weights)
    ours, theirs = (Checkpoint.load(tmp_path / name / CHECKPOINT_FILE) for name in ("parts", "whole"))
    assert same(ours.tensors, theirs.tensors)
    assert ours.state["progress"] == theirs.state["progress"]


def test_the_state_of_a_stage_is_in_the_checkpoint(data, tmp_path, monkeypatch):
    scripted(monkeypatch, [0.0, 1.0, 2.0, 3.0, 4.0])
    trainer = make_trainer(data, steps=20, aggressive=2, validate_every=5, folder=tmp_path)
    trainer.fit()
    state = Checkpoint.load(tmp_path / CHECKPOINT_FILE).state["progress"]
    assert (state["stage"], state["information"]) == ("aggressive", 4.0)
    assert Progress(**{**state, "best_loss": float(state["best_loss"])}).stage == "aggressive"


def staged_with_a_checkpoint_at_every_step(out):
    staged(out, resume=True, checkpoint_seconds=0.0)


@pytest.mark.slow
def test_killed_around_the_boundary_and_resumed_gives_the_same_bits(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.test_stages_resume"])
    staged(tmp_path / "whole")
    out, dice = tmp_path / "run", random.Random(4)
    checkpoint = out / "training" / "last" / "checkpoint.safetensors"
    at = []
    for aim in (20, 58, 60, 62, 100):
        worker = context.Process(target=staged_with_a_checkpoint_at_every_step, args=(out,))
        worker.start()
        while worker.is_alive() and (not checkpoint.exists() or step_of(checkpoint) < aim):
            time.sleep(0.001)
        time.sleep(dice.random() * 0.01)
        assert worker.is_alive()
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        at.append(step_of(checkpoint))
    assert at == sorted(at)
    staged(out, resume=True)
    for file in ("model.safetensors", "training/last/checkpoint.safetensors"):
        assert same(load_file(out / file), load_file(tmp_path / "whole" / file)), file


def step_of(checkpoint):
    with checkpoint.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(json.loads(file.read(size))["__metadata__"]["state"])["progress"]["step"]


@pytest.mark.slow
def test_two_processes_go_through_the_stages_together(tmp_path):
    """The same weights as those of one process, up to rounding: both begin anew with the same decoder, at the same step."""
    script = SCRIPT.replace("steps=60", "steps=60, pretrain=15, aggressive=2, ema=0.9")
    (tmp_path / "script.py").write_text(script)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, command in (("two", launch), ("one", [sys.executable])):
        arguments = [*command, str(tmp_path / "script.py"), str(tmp_path / name)]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
    two, one = (Checkpoint.load(tmp_path / name / "training" / CHECKPOINT_FILE) for name in ("two", "one"))
    assert two.state["progress"]["stage"] == one.state["progress"]["stage"] == ""  # what each latent shares does not rise
    for part in ("model", "average", "best"):
        theirs = two.part(part)
        for name, tensor in one.part(part).items():
            assert torch.allclose(theirs[name], tensor, atol=1e-4), name
