"""What README and docs show is run: Python blocks in order in one process, shell blocks as commands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```(python|bash)\n(.*?)```", re.DOTALL)


def blocks(page):
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


def run(language, code, folder):
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euc", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_quickstart_runs_as_it_stands(tmp_path):
    said = {code: run(language, code, tmp_path) for language, code in blocks("docs/quickstart.md")}
    (inspected,) = [out for code, out in said.items() if code.startswith("vaekit inspect")]
    assert "8 x 8" in inspected
    assert "17 levels" in inspected
    made = {"threes.png", "reconstructions.png", "interpolation.png", "traversal.png", "latents.csv", "scores.csv"}
    assert made <= {path.name for path in tmp_path.iterdir()}
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 298


def test_the_readmes_python_runs(tmp_path):
    python = [code for language, code in blocks("README.md") if language == "python"]
    assert len(python) == 2
    for code in python:
        run("python", code, tmp_path)


def test_the_readmes_commands_exist():
    fenced = re.findall(r"```(?:bash|text)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    verbs = re.findall(r"^\s*vaekit (\w+)", "\n".join(fenced), re.MULTILINE)
    assert len(set(verbs)) > 5
    for verb in dict.fromkeys(verbs):
        run("bash", f"vaekit {verb} --help", ROOT)


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
