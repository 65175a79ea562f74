"""What `import vaekit` gives, and what it does not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vaekit

HEAVY = ("torch", "numpy", "pydantic", "cyclopts", "rich", "lightning_fabric")


def loaded_after(code: str) -> set[str]:
    """The heavy packages that are loaded after running the code in a fresh interpreter."""
    probe = f"import sys\n{code}\nprint(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(found.stderr.split())


def test_import_loads_nothing_heavy():
    assert loaded_after("import vaekit; vaekit.__version__; dir(vaekit); vaekit.ConfigError") == set()


def test_help_loads_no_torch():
    code = "from vaekit.cli.main import run; run(['--help']); run(['train', '--help'])"
    assert loaded_after(code).isdisjoint({"torch", "numpy", "pydantic"})


def test_every_public_name_resolves():
    for name in vaekit.__all__:
        assert getattr(vaekit, name) is not None
        assert name in dir(vaekit)


def test_names_are_those_of_their_modules():
    from vaekit import model, objectives, vae

    assert vaekit.train is model.train
    assert vaekit.load is model.load
    assert vaekit.ELBO is objectives.ELBO
    assert vaekit.VAE is vae.VAE
    assert vaekit.objectives is objectives


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'vaekit' has no attribute 'tarin'"):
        _ = vaekit.tarin


def test_stub_has_the_same_names():
    source = Path(vaekit.__file__).with_suffix(".pyi").read_text()
    named = {"__version__"}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom):
            named |= {alias.asname or alias.name for alias in node.names}
    assert named == set(vaekit.__all__)
