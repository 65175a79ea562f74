"""A model folder and its data, and the command line as a process or in this one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from small_models import image_bundle, image_data, vector_bundle, vector_data
from vaekit import storage
from vaekit.cli.main import run


@dataclass(frozen=True)
class Place:
    """Paths that every test may read."""

    images: Path
    conditional: Path
    vectors: Path
    image_data: Path
    split_data: Path
    vector_data: Path


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("place")
    storage.save(image_bundle(), root / "images")
    storage.save(image_bundle(conditional=True), root / "conditional")
    storage.save(vector_bundle(), root / "vectors")
    x = image_data(20).raw()
    np.save(root / "images.npy", x)
    np.savez(root / "split.npz", x_train=x[:14], y_train=np.arange(14) % 3, x_test=x[14:], y_test=np.arange(6) % 3)
    np.save(root / "vectors.npy", vector_data(20).raw())
    return Place(
        root / "images", root / "conditional", root / "vectors", root / "images.npy", root / "split.npz", root / "vectors.npy"
    )


@pytest.fixture
def command():
    """Runs `vaekit ...` as a process of its own."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        line = [sys.executable, "-W", "error", "-m", "vaekit", *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, env=environment, timeout=300)

    return call


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]):
    """The one line with which a command is refused, by exit code 2 and nothing on standard output."""

    def call(*arguments: object) -> str:
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert code == 2, err
        assert out == ""
        assert err.count("\n") == 1
        return err.strip()

    return call
