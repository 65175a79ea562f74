"""What keeps the latent alive, from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vaekit.cli.main import run


def test_every_remedy_composes_and_info_tells_of_them(tmp_path, capsys):
    data = tmp_path / "data.npy"
    np.save(data, np.random.default_rng(0).normal(size=(60, 5)).astype("float32"))
    line = ["train", str(data), "-o", str(tmp_path / "m"), "--steps", "12", "--latent", "3", "--precision", "float32", "--json"]
    line += ["--pretrain", "4", "--aggressive", "2", "--warm-up", "2", "--cycles", "2", "--free-bits", "0.5"]
    assert run([*line, "--free-bits-per", "level"]) == 0
    said = capsys.readouterr()
    record = json.loads(said.out)["training"]
    assert record["objective"]["free_bits_per"] == "level"
    assert (record["objective"]["warm_up"], record["objective"]["cycles"], record["objective"]["free_bits"]) == (2, 2, 0.5)
    assert (record["config"]["pretrain"], record["config"]["aggressive"]) == (4, 2)
    for sentence in ("Pretraining: the first 4 steps", "Aggressive: 2 steps", "Pretraining has ended after 4 steps"):
        assert sentence in said.err
    assert run(["info", str(tmp_path / "m")]) == 0
    table = dict(row.split(maxsplit=1) for row in capsys.readouterr().out.splitlines())
    assert table["objective"] == "objectives.ELBO with warm_up 2, free_bits 0.5, free_bits_per level, cycles 2"
    assert float(table["metrics.validation_mutual_information"]) >= 0


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["--pretrain", "5"], "`pretrain` must be below the 5 steps of the run"),
        (["--cycles", "2"], "`cycles` must be at least 1, and 1 without a warm-up, got 2"),
        (["--cycles", "2", "--warm-up", "1", "--objective", "iwae"], "`warm_up` must be left out with the objective `iwae`"),
        (["--free-bits-per", "level", "--objective", "stl"], "`free_bits_per` must be left out with the objective `stl`"),
        (["--aggressive", "2", "--recipe", "ladder"], "`aggressive` must go with a `vae.VAE`"),
    ],
)
def test_what_cannot_be_is_one_line(refused, tmp_path, asked, sentence):
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(60, 5)).astype("float32"))
    assert sentence in refused("train", tmp_path / "data.npy", "-o", tmp_path / "m", "--steps", 5, *asked)
