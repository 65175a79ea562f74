import json

import polars as pl
import pytest

from vaekit.data.tables import infer, parse_overrides, profiles
from vaekit.errors import ConfigError, DataError


def column_of(cells, override=None, **options):
    frame = pl.DataFrame({"x": cells}, strict=False) if not isinstance(cells, pl.Series) else pl.DataFrame({"x": cells})
    columns, notes = infer([frame], {"x": override} if override else None, **options)
    return columns[0], notes


def repeated(*cells):
    return list(cells) * 10


TYPES = [
    (["1.5", "2", "3.25", None], "continuous"),
    (["39", "50", "-3"], "integer"),
    (["1", "2", "3"] * 30 + ["16"], "integer"),
    (["0"] * 20 + ["1", "2", "900"], "count"),
    (["0", "1", "1"], "binary"),
    (["F", "M"], "binary"),
    (["a", "b", "c"], "categorical"),
    (["007", "012", "100"], "categorical"),
    (["low", "High", "medium"], "ordinal"),
    (["2020-01-05", "2020-02-30"], "binary"),
    (["2020-01-05", "2020-02-29", None], "datetime"),
    (["same", None, "same"], "constant"),
    ([None, None], "constant"),
    ([str(row) for row in range(1, 31)], "identifier"),
    ([f"name {row * row}" for row in range(30)], "identifier"),
    ([str(2**60 + row) for row in (0, 5, 9)], "categorical"),
    ([str(year) for year in range(1980, 2020)], "integer"),
]


@pytest.mark.parametrize(("cells", "expected"), TYPES)
def test_types_of_text(cells, expected):
    assert column_of(cells)[0].type == expected


@pytest.mark.parametrize("size", [1, 3, 7])
def test_batches_make_no_difference(size):
    frame = pl.DataFrame({str(index): (cells * 60)[:60] for index, (cells, _) in enumerate(TYPES)}, strict=False)
    whole, _ = infer([frame])
    parts, _ = infer(frame.iter_slices(size))
    for one, other in zip(whole, parts, strict=True):
        assert one == other


def test_beyond_the_limit_the_same_is_found_without_keeping_values(monkeypatch):
    cells = {
        "date": [
            f"2020-01-{day:02d} {hour:02d}:{minute:02d}" for day in range(1, 29) for hour in range(9) for minute in range(9)
        ],
        "money": [f"${index * 7 % 50_000:,}.50" for index in range(28 * 81)],
        "number": [f"{index / 4}" for index in range(28 * 81)],
        "text": [f"word{index}x" for index in range(28 * 81)],
    }
    frame = pl.DataFrame(cells)
    monkeypatch.setattr(profiles, "MAX_DISTINCT", 500)
    monkeypatch.setattr("vaekit.data.tables.inference.MAX_DISTINCT", 500)
    columns, _ = infer(frame.iter_slices(200))
    assert [column.type for column in columns] == ["datetime", "continuous", "continuous", "identifier"]
    assert [column.format for column in columns][:3] == ["%Y-%m-%d %H:%M", "$#,##0.00", "0.0#"]
    assert columns[2].high == (28 * 81 - 1) / 4


@pytest.mark.parametrize(
    ("cells", "pattern", "low", "high"),
    [
        (repeated("1,234", "12,345,678", "5"), "#,##0", 5, 12345678),
        (repeated("$1.50", "$2.25", "$1,000.00"), "$#,##0.00", 1.5, 1000),
        (repeated("12%", "3.5%", "100%"), "0.#%", 3.5, 100),
        (repeated("1.234,5", "12,1", "3"), "#.##0,#", 3, 1234.5),
        (repeated("3,14", "2,71", "-0,50"), "0,00", -0.5, 3.14),
        (repeated("1 234,50 €", "99,00 €", "7,25 €"), "# ##0,00 €", 7.25, 1234.5),
        (repeated("1.50", "2.25", "3.00"), "0.00", 1.5, 3),
        (repeated("1.5", "2.25", "3"), "0.##", 1.5, 3),
        (repeated("1.5", "2.25", "3.0"), "0.0#", 1.5, 3),
    ],
)
def test_spellings_of_numbers(cells, pattern, low, high):
    column, _ = column_of(cells)
    assert (column.format, column.low, column.high) == (pattern, low, high)


def test_words_among_numbers_are_kept_and_missing_spellings_are_missing():
    column, notes = column_of([str(index * 3) for index in range(28)] + ["n/a", ">90", "unknown"])
    assert (column.type, column.words, column.missing, column.missing_as) == ("integer", (">90", "unknown"), True, "n/a")
    assert any("2 words" in note for note in notes)
    assert column_of(["a", "?", "b", "NA"])[0].categories == ("?", "NA", "a", "b")
    column, _ = column_of(["a", "?", "b", None, "?"], missing_words=["?"])
    assert (column.categories, column.missing_as, column.also_missing) == (("a", "b"), "?", ())
    assert column_of(["1", "2", "3", "x"])[0].type == "categorical"
    assert column_of(["1", "2", "?", "1"])[0].type == "binary"


def test_empty_text_and_missing():
    assert column_of(["1", "", None, "2", "3", " "])[0].words == ()
    assert column_of(["a", "", "b", "c"])[0].missing_as == '""'
    column, _ = column_of(["a", "", None, "b"])
    assert (column.categories, column.missing, column.missing_as) == (("", "a", "b"), True, "")


def test_day_and_month_are_told_apart_by_the_data_or_left_as_text():
    assert column_of(["05/01/2020", "13/02/2020", "01/03/2020"])[0].format == "%d/%m/%Y"
    assert column_of(["05/01/2020", "02/13/2020", "01/03/2020"])[0].format == "%m/%d/%Y"
    column, notes = column_of(["05/01/2020", "06/02/2020", "01/03/2020"])
    assert column.type == "categorical"
    assert "may be %d/%m/%Y or %m/%d/%Y" in notes[0]
    column, _ = column_of(["05/01/2020", "06/02/2020", "01/03/2020"], "datetime:%m/%d/%Y")
    assert column.low == 1577836800e6 + 2 * 86400e6
    assert column_of(["20200105", "20200206", "20200301"], "datetime:%Y%m%d")[0].high == 1583020800e6
    assert column_of(["2020-01-05T00:00:00+01:00", "2020-06-05T00:00:00+01:00", None])[0].low == 1578182400e6 - 3600e6


def test_types_of_frames():
    def kind(values, dtype=None):
        return column_of(pl.Series(values, dtype=dtype))[0].type

    assert kind([1, 5, 9]) == "integer"
    assert kind([1.0, 5.0, 9.0]) == "integer"
    assert kind([1.5, 2.0, 3.0]) == "continuous"
    assert kind([True, False]) == "binary"
    assert kind(["a", "b", "c"], pl.Categorical) == "categorical"
    assert kind(["b", "a"], pl.Enum(["b", "a", "z"])) == "ordinal"
    assert kind([2**62, 2**62 + 1, 5]) == "categorical"
    assert kind(list(range(5, 35))) == "identifier"
    assert kind([float("nan"), None]) == "constant"
    assert column_of(pl.Series([0.1, 0.25, 3.0], dtype=pl.Float32))[0].decimals == 2
    assert column_of(pl.Series([1 / 3, 0.25, 3.0]))[0].decimals is None
    with pytest.raises(DataError, match="infinities in 1 rows"):
        column_of(pl.Series([1.0, float("inf")]))
    with pytest.raises(DataError, match="List"):
        column_of(pl.Series([[1], [2]]))


def test_overrides(tmp_path):
    assert column_of(["1", "2", "3"], "categorical")[0].categories == ("1", "2", "3")
    assert column_of(["b", "a", "c"], "ordinal:c<b<a")[0].categories == ("c", "b", "a")
    assert column_of([str(row) for row in range(40)], "integer")[0].type == "integer"
    assert column_of(["1", "2", "3"], "identifier")[0].format == "4+"
    for cells, override in [
        (["a", "b"], "integer"),
        (["1.5", "2"], "integer"),
        (["a", "b", "c"], "binary"),
        (["a", "b"], "datetime"),
        (["b", "a", "c"], "ordinal:a<b"),
        ([str(2**60), "5", "6"], "integer"),
        (["a"], "nonsense"),
    ]:
        with pytest.raises(ConfigError):
            column_of(cells, override)
    path = tmp_path / "types.json"
    path.write_text(json.dumps({"a=b": "integer"}))
    assert parse_overrides(path)["a=b"].type == "integer"
    assert parse_overrides(["a=b=integer"], ["a", "a=b"])["a=b"].type == "integer"
    with pytest.raises(ConfigError, match="Did you mean `age`"):
        parse_overrides({"aeg": "integer"}, ["age"])


def test_no_rows_and_no_columns():
    with pytest.raises(DataError, match="rows"):
        infer([])
    with pytest.raises(DataError, match="columns"):
        infer([pl.DataFrame()])
