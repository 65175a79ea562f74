"""What is refused, with exit code 2 and one line that says what to do."""

from __future__ import annotations

import numpy as np
import pytest

from small_models import image_bundle, image_data
from vaekit import storage
from vaekit.cli import use
from vaekit.cli.main import run


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("evalute m d", 'Unknown command "evalute". Did you mean "evaluate"?'),
        ("evaluate m d --sample 3", "Unknown option: --sample. Did you mean --samples? See `vaekit evaluate --help`."),
        ("evaluate m d --samples 0", 'Invalid value "0" for --samples. Must be >= 1.'),
        ("evaluate m d --samples x", 'unable to convert "x" into int'),
        ("evaluate m", "`vaekit evaluate` must have DATA, none was given. See `vaekit evaluate --help`."),
        ("evaluate m d e", "`vaekit evaluate` takes fewer values, found 'e' beyond them."),
        ("evaluate m d --seed -1", 'Invalid value "-1" for --seed. Must be >= 0.'),
        ("generate m", "`vaekit generate` must have --out, none was given."),
        ("generate m -o x.png --draw best", 'Choose from: "auto", "mean", "sample"'),
        ("generate m -o x.png -n 0", "Must be >= 1"),
        ("generate m -o x.png --temperature 0", "Must be > 0"),
        ("generate m -o x.png --where label", "`--where` must be COLUMN=VALUE"),
        ("train d -o m --size 3x4x5", "`--size` must be HxW or one number"),
        ("train d -o m --epochs 0", "Must be > 0"),
        ("train d -o m --private", "`--private` and `--epsilon` must be given together, got `--private` alone."),
        ("train d -o m --epsilon 3", "got `--epsilon` alone."),
        ("train d -o m --private --epsilon 0", "Must be > 0"),
        ("train d -o m --likelihood gauss", '"zinb", "logistic-mixture"'),
        ("interpolate m d -o x.png --from 1", "must have --to, none was given"),
    ],
)
def test_flags(refused, line, sentence):
    assert sentence in refused(*line.split())


def test_missing_model_and_data(refused, place, tmp_path):
    assert "model folder" in refused("info", tmp_path)
    assert "model folder" in refused("generate", tmp_path / "no", "-o", tmp_path / "x.png")
    assert "must be there, found nothing" in refused("train", tmp_path / "no", "-o", tmp_path / "m")
    assert "must be there, found nothing" in refused("inspect", tmp_path / "no")


def test_data_that_do_not_fit(refused, place, tmp_path):
    assert "Each example must have the shape (6, 5)" in refused(
        "score", place.images, place.vector_data, "-o", tmp_path / "s.csv"
    )
    assert "must have a split `valid`" in refused("evaluate", place.images, place.split_data, "--split", "valid")


def test_columns_are_explained_of_tables_alone(refused, place, tmp_path):
    for flags in (["--columns"], ["--explain", "3"]):
        said = refused("score", place.vectors, place.vector_data, "-o", tmp_path / "s.csv", *flags)
        assert "`--explain` and `--columns` must come with a model of a table" in said


def test_conditions_that_are_not_there(refused, place, tmp_path):
    out = tmp_path / "x.npy"
    assert "it has no conditions" in refused("generate", place.images, "-o", out, "--where", "label=1")
    assert "`label` must be one of 0, 1, 2" in refused("generate", place.conditional, "-o", out, "--where", "label=9")
    assert not out.exists()


def test_indices_out_of_range(refused, place, tmp_path):
    line = ("interpolate", place.images, place.image_data, "-o", tmp_path / "x.png", "--from", 0, "--to", 20)
    assert "`end` must be an index from 0 to 19, got 20" in refused(*line)


def test_latents_that_do_not_fit(refused, place, tmp_path):
    table = tmp_path / "z.csv"
    table.write_text("z0,z1\n1,2\n")
    assert "must have the columns z0 to z3" in refused("decode", place.images, table, "-o", tmp_path / "x.npy")


def test_no_such_device(refused, place, tmp_path):
    assert "`device` must be one that is there" in refused(
        "generate", place.images, "-o", tmp_path / "x.npy", "--device", "tpu9"
    )


def test_images_of_another_size_say_how_to_bring_them(refused, tmp_path):
    cv2 = pytest.importorskip("cv2")
    storage.save(image_bundle(), tmp_path / "model")
    (tmp_path / "photos").mkdir()
    for index in range(2):
        cv2.imwrite(str(tmp_path / "photos" / f"{index}.png"), np.random.default_rng(index).integers(0, 256, (9, 9, 3)))
    line = ["score", tmp_path / "model", tmp_path / "photos", "-o", tmp_path / "s.csv"]
    assert "(`--channels 1`)" in refused(*line)
    line += ["--channels", 1]
    assert "(`--size 6x5`)" in refused(*line)
    assert run([str(part) for part in [*line, "--size", "6x5", "--fit", "resize", "--quiet"]]) == 0
    arrays = ["score", tmp_path / "model", tmp_path / "x.npy", "-o", tmp_path / "t.csv", "--size", "6x5"]
    np.save(tmp_path / "x.npy", image_data().raw())
    assert "`size` must be left out for arrays" in refused(*arrays)


def test_existing_outputs_are_refused_before_the_work(refused, place, tmp_path, monkeypatch):
    def load(*_):
        raise AssertionError("the work has started")

    monkeypatch.setattr(use, "load_model", load)
    out = tmp_path / "x.npy"
    out.write_text("here")
    assert "must not exist yet" in refused("generate", place.images, "-o", out)
    assert "must not exist yet" in refused("reconstruct", place.images, place.image_data, "-o", out)
    assert "must end in .csv, .tsv, .parquet, .npz or .jsonl" in refused("score", place.images, place.image_data, "-o", out)
    assert out.read_text() == "here"


def test_endings_that_do_not_fit_are_refused_before_the_work(refused, place, tmp_path, monkeypatch):
    from vaekit.model import Model

    monkeypatch.delattr(Model, "generate_labelled")
    assert "OUT of images must be a folder, .png" in refused("generate", place.images, "-o", tmp_path / "x.csv")
    assert "OUT of vectors must be .npy" in refused("generate", place.vectors, "-o", tmp_path / "x.png")


def test_a_fault_of_vaekits_is_raised(place, tmp_path, monkeypatch):
    def fault(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(use, "load_model", fault)
    with pytest.raises(ZeroDivisionError):
        run(["info", str(place.images)])


def test_interruption(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(use, "load_model", interrupt)
    assert run(["info", "m"]) == 130
    assert capsys.readouterr().err == "Interrupted: outputs that were not finished have not been written.\n"


def test_force_replaces(place, tmp_path):
    out = tmp_path / "x.npy"
    out.write_text("here")
    assert run(["generate", str(place.images), "-n", "2", "-o", str(out), "--force", "--quiet"]) == 0
    assert out.read_bytes().startswith(b"\x93NUMPY")


def test_help_and_version_end_well(capsys):
    assert run([]) == 0
    assert "Usage: vaekit COMMAND" in capsys.readouterr().out
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"
