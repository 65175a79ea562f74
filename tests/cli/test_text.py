"""The command line on text: what it sees, and what a model of text writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from text_models import SENTENCES, text_bundle, text_data
from vaekit import storage
from vaekit.cli.main import run
from vaekit.data import loading
from vaekit.model import load


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "model"
    storage.save(text_bundle(text_data(), conditional=True), folder)
    return folder


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.csv"
    rows = "".join(f'"The cat number {index}, and more words.",{index % 2}\n' for index in range(40))
    path.write_text("body;n\n".replace(";", ",") + rows, encoding="utf-8")
    assert run(["inspect", str(path), "--tokens", "word", "--vocabulary", "20", "--max-tokens", "6", "--long", "split"]) == 0
    shown = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "text (csv, column body)" in shown["kind"]
    assert "80 texts of at most 6 tokens" in shown["shape"]
    assert "20 words: " in shown["tokens"]
    assert "% of the tokens" in shown["unknown"]
    assert "0 40, 1 40" in shown["column n"]
    assert {"lengths", "example", "size", "note"} <= set(shown)
    assert run(["inspect", str(path), "--json", "--tokens", "byte"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"]["text"]["tokens"], found["schema"]["levels"], found["num_examples"]) == ("byte", 259, 40)
    assert run(["inspect", str(path), "--kind", "table"]) == 0
    assert "table (csv)" in capsys.readouterr().out
    assert run(["inspect", str(path), "--text", "body", "--encoding", "utf-8", "--delimiter", ","]) == 0
    assert "text (csv, column body)" in capsys.readouterr().out


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], refused, model: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("naïve\n".encode("cp1252"))
    assert "must be UTF-8 text" in refused("inspect", path)
    assert "`size` must be left out for text" in refused("inspect", path, "--size", "8", "--encoding", "cp1252")
    assert "OUT of text must be .txt, .jsonl, .csv, .tsv or .parquet" in refused("generate", model, "-o", tmp_path / "a.png")
    assert "must be text, as those" in refused("encode", model, Path(__file__).parent, "-o", tmp_path / "z.csv")


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv"])
def test_generate(tmp_path: Path, model: Path, suffix: str) -> None:
    out = tmp_path / f"made{suffix}"
    assert run(["generate", str(model), "-o", str(out), "-n", "5", "--where", "label=pos", "--quiet"]) == 0
    made = load(model).generate(5, where={"label": "pos"})
    assert isinstance(made, list)
    assert all(isinstance(text, str) for text in made)
    if suffix == ".txt":
        assert out.read_text(encoding="utf-8").split("\n") == [*made, ""]
    else:
        read = loading.open(out, text="text", tokens="byte")
        assert read.raw().tolist() == made
        if suffix == ".jsonl":
            assert [json.loads(line)["label"] for line in out.read_text(encoding="utf-8").splitlines()] == ["pos"] * 5


def test_data_for_a_model(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\n".join([*SENTENCES[:3], "", "é"]).encode("utf-16"))
    assert run(["reconstruct", str(model), str(path), "-o", str(tmp_path / "r.txt"), "--quiet"]) == 0
    assert len((tmp_path / "r.txt").read_text(encoding="utf-8").splitlines()) == 4
    assert run(["encode", str(model), str(path), "-o", str(tmp_path / "z.npy"), "--encoding", "utf-16", "--quiet"]) == 0


def test_a_damaged_folder_is_told_in_one_sentence(tmp_path: Path, model: Path, refused) -> None:
    for name in ("vaekit.json", "README.md", "model.safetensors"):
        if (model / name).exists():
            (tmp_path / name).write_bytes((model / name).read_bytes())
    config = json.loads((model / "vaekit.json").read_text(encoding="utf-8"))
    config["schema"]["text"]["vocabulary"][3] = config["schema"]["text"]["vocabulary"][2]
    (tmp_path / "vaekit.json").write_text(json.dumps(config), encoding="utf-8")
    sentence = refused("generate", tmp_path, "-o", tmp_path / "a.txt")
    assert "must hold no token twice" in sentence
