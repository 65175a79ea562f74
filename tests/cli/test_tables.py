"""The commands on a table, from the file to the jobs."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vaekit.cli.main import run

HEADER = ["name", "city", "age", "income", "since", "score"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """people.csv with every sort of column, and a model that has seen a few steps of it."""
    root = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    with open(root / "people.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for row in range(300):
            city = ["Zürich", "Genève, GE", "Chur"][rng.integers(0, 3)]
            age = rng.integers(18, 90)
            income = "" if rng.random() < 0.2 else f"{rng.normal(5000, 900):.2f}"
            since = f"{rng.integers(1, 29):02d}.{rng.integers(1, 13):02d}.20{rng.integers(10, 24)}"
            score = "late" if rng.random() < 0.1 else rng.integers(0, 60)
            writer.writerow([f"id-{row:04d}", city, age, income, since, score])
    assert done("train", root / "people.csv", "-o", root / "model", "--steps", 12, "--quiet") == 0
    return root


def done(*line: object) -> int:
    return run([str(part) for part in line])


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def as_in_the_source(row: dict[str, str]) -> None:
    assert list(row) == HEADER
    assert row["name"].startswith("id-")
    assert row["city"] in ("Zürich", "Genève, GE", "Chur")
    assert 18 <= int(row["age"]) <= 89
    assert row["income"] == "" or row["income"] == f"{float(row['income']):.2f}"
    day, month, year = row["since"].split(".")
    assert (len(day), len(month), len(year)) == (2, 2, 4)
    assert 2010 <= int(year) <= 2023
    assert row["score"] == "late" or 0 <= int(row["score"]) < 60


def test_inspect_says_what_each_column_is(folder, capsys):
    assert done("inspect", folder / "people.csv") == 0
    said = capsys.readouterr().out
    for line in ("table (csv)", "300 rows of 6 columns", "identifier", "datetime", "or late", "some missing"):
        assert line in said


def test_generated_rows_are_printed_as_the_source_was(folder, tmp_path):
    assert done("generate", folder / "model", "-n", 70, "-o", tmp_path / "a.csv", "--seed", 3, "--quiet") == 0
    rows = rows_of(tmp_path / "a.csv")
    assert len(rows) == 70
    for row in rows:
        as_in_the_source(row)
    known = {row["name"] for row in rows_of(folder / "people.csv")}
    assert len({row["name"] for row in rows} - known) == 70
    assert done("generate", folder / "model", "-n", 70, "-o", tmp_path / "b.csv", "--seed", 3, "--quiet") == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_where_holds_in_every_row(folder, tmp_path):
    out = tmp_path / "w.parquet"
    asked = ["--where", "age=30..40", "--where", "city=Chur|Zürich", "--where", "income=", "--where", "score!=late"]
    assert done("generate", folder / "model", "-n", 40, "-o", out, *asked, "--quiet") == 0
    frame = pl.read_parquet(out)
    assert len(frame) == 40
    assert frame["age"].cast(pl.Int64).is_between(30, 40).all()
    assert set(frame["city"]) <= {"Chur", "Zürich"}
    assert frame["income"].null_count() == 40
    assert "late" not in set(frame["score"])


def test_impute_fills_holes_and_columns_that_are_not_there(folder, tmp_path):
    (tmp_path / "holes.csv").write_text("name,city,age,income\nx1,Chur,44,\nx2,,31,4000.00\n", encoding="utf-8")
    line = ["impute", folder / "model", tmp_path / "holes.csv", "-o", tmp_path / "full.csv", "--quiet"]
    assert done(*line, "--uncertainty", tmp_path / "u.csv") == 0
    first, second = rows_of(tmp_path / "full.csv")
    assert (first["city"], first["age"], second["age"], second["income"]) == ("Chur", "44", "31", "4000.00")
    for row in (first, second):
        as_in_the_source({**row, "name": "id-"})
        assert row["income"] != ""
    sure = [{name: float(value) for name, value in row.items()} for row in rows_of(tmp_path / "u.csv")]
    assert sure[0]["city"] == 0 < sure[0]["income"]
    assert sure[1]["income"] == 0 < sure[1]["city"] < 1
    assert done(*line[:-2], tmp_path / "five.csv", "--draw", "sample", "-n", 5, "--quiet") == 0
    assert [row["imputation"] for row in rows_of(tmp_path / "five.csv")] == [str(i) for i in (1, 1, 2, 2, 3, 3, 4, 4, 5, 5)]


def test_augment_balances(folder, tmp_path, capsys):
    line = ["augment", folder / "model", folder / "people.csv", "-o", tmp_path / "more.csv", "--balance", "city", "--json"]
    assert done(*line) == 0
    record = json.loads(capsys.readouterr().out)
    rows = rows_of(tmp_path / "more.csv")
    counts = {city: sum(row["city"] == city for row in rows) for city in record["counts"]}
    assert len(set(counts.values())) == 1
    assert record["num_rows"] == len(rows) == 300 + record["num_new"]
    source = rows_of(folder / "people.csv")
    names = [name for name in HEADER if name != "name"]
    assert [[row[name] for name in names] for row in rows[:300]] == [[row[name] for name in names] for row in source]


def test_the_other_jobs(folder, tmp_path, capsys):
    data = folder / "people.csv"
    assert done("evaluate", folder / "model", data, "--samples", 5, "--limit", 20, "--no-rows", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["reconstruction_mse"] is None
    assert record["nll_nats"] > 0
    assert done("encode", folder / "model", data, "-o", tmp_path / "z.csv", "--quiet") == 0
    assert len(rows_of(tmp_path / "z.csv")) == 300
    assert done("decode", folder / "model", tmp_path / "z.csv", "-o", tmp_path / "d.csv", "--draw", "mean", "--quiet") == 0
    assert done("reconstruct", folder / "model", data, "-o", tmp_path / "r.csv", "--split", "all", "--quiet") == 0
    assert len(rows_of(tmp_path / "r.csv")) == len(rows_of(tmp_path / "d.csv")) == 300
    way = ["--from", 2, "--to", 5, "--steps", 4, "--quiet"]
    assert done("interpolate", folder / "model", data, "-o", tmp_path / "i.csv", *way, "--split", "all") == 0
    steps = rows_of(tmp_path / "i.csv")
    ends = rows_of(tmp_path / "r.csv")
    for row in steps:
        as_in_the_source(row)
    named = [name for name in HEADER if name != "name"]
    assert [[steps[i][name] for name in named] for i in (0, 3)] == [[ends[i][name] for name in named] for i in (2, 5)]
    assert done("traverse", folder / "model", "-o", tmp_path / "t.csv", "--units", 2, "--steps", 3, "--quiet") == 0
    rows = rows_of(tmp_path / "t.csv")
    assert [float(row.pop("at")) for row in rows] == [-3.0, 0.0, 3.0] * 2
    assert len({row.pop("unit") for row in rows[:3]}) == len({row.pop("unit") for row in rows[3:]}) == 1
    for row in rows:
        as_in_the_source(row)


def test_score_says_because_of_which_columns(folder, tmp_path, capsys):
    source = (folder / "people.csv").read_text(encoding="utf-8").splitlines()
    _, city, _, income, since, score = next(csv.reader([source[40]]))
    strange = f'id-9999,"{city}",870,{income},{since},{score}'
    (tmp_path / "rows.csv").write_text("\n".join([*source[:30], strange, *source[30:60]]) + "\n", encoding="utf-8")
    line = ["score", folder / "model", tmp_path / "rows.csv", "-o", tmp_path / "s.csv", "--split", "all"]
    assert done(*line, "--explain", 12, "--columns") == 0
    said = capsys.readouterr()
    assert re.match(r"row 29 +\d+\.\d nats: age=870 \(likely \d\d\)", said.out), said.out
    assert len(said.out.splitlines()) == 5
    assert "1 cell holds a number that `age` never had (870)" in said.err
    assert "The columns of the 12 strangest rows alone were looked at." in said.err
    rows = rows_of(tmp_path / "s.csv")
    assert [name for name in rows[0] if name.startswith("anomaly")] == [
        *["anomaly", "anomaly_city", "anomaly_age", "anomaly_income", "anomaly_since", "anomaly_score"]
    ]
    assert max(rows, key=lambda row: float(row["anomaly"]))["index"] == "29"
    assert rows[29]["because"].startswith("age=870")
    assert float(rows[29]["anomaly_age"]) > 7
    assert sum(row["because"] != "" for row in rows) == sum(row["anomaly_age"] != "" for row in rows) == 12
    assert done(*line, "--json", "--force") == 0
    record = json.loads(capsys.readouterr().out)
    first = record["strangest"][0]
    assert (first["index"], len(record["strangest"])) == (29, 10)
    assert first["anomaly"] == pytest.approx(float(rows[29]["anomaly"]))
    assert (first["because"][0]["column"], first["because"][0]["value"]) == ("age", "870")
    assert list(rows_of(tmp_path / "s.csv")[0])[-2:] == ["anomaly", "because"]
    assert done(*line, "--explain", 0, "--force", "--quiet") == 0
    assert list(rows_of(tmp_path / "s.csv")[0])[-1] == "anomaly"


def test_what_is_advised_has_an_ending_that_a_table_can_have(folder, capsys):
    pytest.importorskip("sklearn")
    out = folder / "refitted"
    assert done("refit", folder / "model", folder / "people.csv", "-o", out, "--prior", "mixture", "--components", 1) == 0
    said = capsys.readouterr().err
    assert f"Try `vaekit generate {out} -o samples.csv`." in said


def test_generated_rows_are_compared_with_real_ones(folder, capsys):
    pytest.importorskip("sklearn")
    line = ["evaluate", folder / "model", folder / "people.csv", "--samples", 2, "--limit", 5, "--target", "city", "--json"]
    assert done(*line) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert (rows["num_real"], rows["num_test"], rows["num_synthetic"]) == (270, 30, 270)
    assert rows["left_out"] == ["name"]
    assert 0 < rows["mean_shape"] <= 1
    assert rows["privacy"]["copies"]["count"] == 0
    assert {metric["name"] for metric in rows["utility"]["metrics"]} >= {"accuracy", "f1_macro"}


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("generate {m} -o x.csv --where nothing=1", "column"),
        ("generate {m} -o x.csv --where age=300", "age"),
        ("generate {m} -o x.png", r"OUT of table must be"),
        ("impute {m} {d} -o x.txt", r"OUT must end in"),
        ("impute {m} nowhere.csv -o x.csv", r"nowhere\.csv"),
        ("augment {m} {d} -o x.csv --balance age", "which is integer"),
        ("augment {m} {d} -o x.csv --balance nothing", "must have the column `nothing`"),
        ("evaluate {m} {d} --no-rows --target city", "must come with a model of a table"),
        ("train {d} -o x --condition city", "must be left out for a table"),
        ("train {d} -o x --likelihood normal", "must be left out for a table"),
        ("train {d} -o x --recipe conv", "must be `table` or `auto`"),
        ("train {d} -o x --type age=colour", "must be one of"),
        ("train {d} -o x --type agee=integer", "Did you mean `age`"),
        ("train {d} -o x --epochs 1e308", "less than or equal to"),
        ("score {m} {d} -o x.csv --explain 0 --columns", "must come with rows whose columns are looked at"),
    ],
)
def test_wrong_input_is_one_sentence_and_nothing_is_left(folder, tmp_path, monkeypatch, refused, line, match):
    monkeypatch.chdir(tmp_path)
    said = refused(*line.format(m=folder / "model", d=folder / "people.csv").split())
    assert re.search(match, said), said
    assert list(tmp_path.iterdir()) == []
