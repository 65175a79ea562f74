"""What `vaekit evaluate` prints."""

from __future__ import annotations

import json

import numpy as np

from small_models import vector_bundle, vector_data
from vaekit import storage
from vaekit.cli.main import run


def test_the_table_and_its_json(tmp_path, capsys):
    storage.save(vector_bundle(), tmp_path / "model")
    np.save(tmp_path / "x.npy", vector_data(12).raw())
    line = ["evaluate", str(tmp_path / "model"), str(tmp_path / "x.npy"), "--samples", "4", "--ais", "2"]
    assert run([*line, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["unit_variances"]) == 4
    assert record["annealing"]["num_steps"] == 2
    assert record["calibration"]["measure"] == "coverage"
    assert run(line) == 0
    shown = dict(row.split(maxsplit=1) for row in capsys.readouterr().out.splitlines())
    assert shown["nll_nats"] == f"{record['nll_nats']:.5g} +- {record['standard_error']:.2g}"
    information = record["information"]
    mutual = f"{information['mutual_information']:.5g} +- {information['mutual_information_error']:.2g}"
    assert shown["information.mutual_information"] == mutual
    assert shown["information.whole_latent"] == "yes"
    assert float(shown["annealing.gap"].split()[0]) == float(f"{record['annealing']['gap']:.5g}")
    assert not {"standard_error", "unit_variances", "bits_per_dim", "calibration.curve"} & set(shown)


def test_a_loose_bound_is_said(tmp_path, capsys):
    bundle = vector_bundle()
    bundle.vae.posterior.head.linear.bias.data[4:] = -4.0
    storage.save(bundle, tmp_path / "model")
    np.save(tmp_path / "x.npy", vector_data(12).raw())
    assert run(["evaluate", str(tmp_path / "model"), str(tmp_path / "x.npy"), "--samples", "40"]) == 0
    assert "fewer than 10 of the 40 samples carry the bound" in capsys.readouterr().err
