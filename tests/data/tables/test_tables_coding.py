import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vaekit.data.tables import Encoder, TableColumn, decode, encode, infer, open_source, read, state_channels, write
from vaekit.data.tables.identifiers import fresh
from vaekit.errors import ConfigError, DataError

RELAXED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=6)


def columns_of(frame, overrides=None, **options):
    return infer([frame], overrides, **options)[0]


def again(frame, columns):
    return decode(encode(frame, columns), columns)


def assert_same(frame, overrides=None):
    found = again(frame, columns_of(frame, overrides))
    assert found.schema == frame.schema
    assert found.equals(frame), (frame.to_dict(as_series=False), found.to_dict(as_series=False))


def numbers_as_text(decimals):
    return st.integers(-(10**9), 10**9).map(lambda value: f"{value / 10**decimals:.{decimals}f}")


@RELAXED
@given(st.lists(st.one_of(st.none(), TEXT), min_size=1, max_size=12))
def test_any_text_is_given_back(cells):
    assert_same(
        pl.DataFrame({"x": pl.Series(cells, dtype=pl.String)}), {"x": "categorical"} if len(set(cells) - {None, ""}) else None
    )


@RELAXED
@given(st.lists(st.one_of(st.none(), TEXT), min_size=1, max_size=12), st.lists(TEXT, min_size=12, max_size=12))
def test_any_text_survives_a_file(tmp_path_factory, cells, others):
    frame = pl.DataFrame({"x": pl.Series(cells, dtype=pl.String), 'a "name",': others[: len(cells)]})
    path = tmp_path_factory.mktemp("t") / "t.csv"
    write(frame, path)
    assert read(path, delimiter=",", header=True).equals(frame)


@RELAXED
@given(
    st.integers(0, 5).flatmap(
        lambda decimals: st.lists(st.one_of(st.none(), numbers_as_text(decimals)), min_size=1, max_size=15)
    )
)
def test_numbers_print_as_they_were_spelled(cells):
    cells = [
        cell.replace("-0.00000"[: len(cell)], "0.00000"[: len(cell) - 1]) if cell and float(cell) == 0 else cell
        for cell in cells
    ]
    assert_same(pl.DataFrame({"x": pl.Series(cells, dtype=pl.String)}))


@RELAXED
@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=15))
def test_floats_are_exact(cells):
    assert_same(pl.DataFrame({"x": pl.Series(cells, dtype=pl.Float64)}))


@RELAXED
@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=15))
def test_integers_are_exact_at_any_size(cells):
    assert_same(pl.DataFrame({"x": pl.Series(cells, dtype=pl.Int64)}))


@RELAXED
@given(st.lists(st.one_of(st.none(), st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1))), min_size=1, max_size=10))
def test_times_are_exact_to_the_microsecond(cells):
    for unit in ("us", "ns"):
        assert_same(pl.DataFrame({"x": pl.Series(cells, dtype=pl.Datetime(unit))}))
    assert_same(pl.DataFrame({"x": pl.Series(cells, dtype=pl.Datetime("us")).cast(pl.Date)}))


ODD = ["", "1", "2.5", "-3", "007", "1,000", "1.5e3", "nan", "NA", "?", "inf", "a", "2020-01-05", "05/06/2021", "13/06/2021"]
ODD += [
    "$5",
    "12%",
    ">9",
    " 7",
    "7 ",
    "1e400",
    "9" * 20,
    "\n",
    "true",
    "False",
    "0",
    "-0",
    "1.",
    ".5",
    "+4",
    "12:30",
    "5 May 2020",
]


@settings(RELAXED, max_examples=150)
@given(
    st.lists(st.one_of(st.none(), st.sampled_from(ODD)), max_size=20),
    st.integers(0, 25),
    st.lists(st.sampled_from(["a", "?"]), max_size=1),
)
def test_any_mixture_is_read_the_same_in_any_batches_and_prints_what_reads_the_same(cells, num_numbers, missing_words):
    frame = pl.DataFrame({"x": pl.Series([*cells, None, *map(str, range(0, 3 * num_numbers, 3))], dtype=pl.String)})
    columns, notes = infer([frame], missing_words=missing_words)
    assert infer(frame.iter_slices(7), missing_words=missing_words) == (columns, notes)
    encoder = Encoder(columns)
    found = encoder.encode(frame)
    assert encoder.notes == ()
    printed = decode(found, columns)
    if columns[0].type != "identifier":
        assert notes or printed.equals(frame)
        np.testing.assert_array_equal(encode(printed, columns), found)


FORMATS = [
    "%Y-%m-%d",
    "%d.%m.%Y",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%dT%H:%M+05:30",
    "%d %b %Y",
    "%d/%m/%Y %I:%M %p",
    "%H:%M",
    "%Y%m%d %H:%M",
    "%I:%M:%S %p",
]


@pytest.mark.parametrize("form", FORMATS)
def test_dates_print_in_their_format(form):
    days = [
        dt.datetime(2020, 1, 31) + dt.timedelta(days=index, minutes=977 * index, seconds=index) for index in range(0, 90, 7)
    ]
    cells = [day.strftime(form) for day in days] + [None]
    frame = pl.DataFrame({"x": cells})
    assert columns_of(frame)[0].type == "datetime"
    assert_same(frame)


def test_dtypes_of_frames_come_back():
    assert_same(
        pl.DataFrame(
            {
                "a": [1, 2, None],
                "c": [True, False, None],
                "d": [dt.date(2020, 1, 1), None, dt.date(1999, 1, 1)],
                "e": pl.Series(["x", None, "y"], dtype=pl.Categorical),
                "f": pl.Series(["lo", "hi", None], dtype=pl.Enum(["lo", "hi", "never"])),
                "g": pl.Series([dt.datetime(2020, 1, 1), None, None], dtype=pl.Datetime("ms", "Europe/Berlin")),
                "h": [dt.time(1, 2, 3), None, dt.time(0)],
                "i": [dt.timedelta(1), None, dt.timedelta(seconds=3)],
                "j": pl.Series(["1.25", "2.50", None]).cast(pl.Decimal(10, 2)),
                "l": pl.Series([1, 250, 3], dtype=pl.UInt8),
                "m": pl.Series([0.1, 0.2, 0.3], dtype=pl.Float32),
                "n": [None, None, None],
                "u": pl.Series([2**64 - 1, 5, 7], dtype=pl.UInt64),
                "k": pl.Series([None, None, None], dtype=pl.Categorical),
            }
        )
    )
    frame = pl.DataFrame({"o": [float("nan"), 1.5, 2.25]})
    assert np.isnan(again(frame, columns_of(frame))["o"][0])


def test_channels_and_states_are_those_of_the_design():
    cells = [str(index) for index in range(20)] + [">90", None]
    frame = pl.DataFrame({"a": ["x", "y"] * 11, "n": cells})
    columns = columns_of(frame)
    assert state_channels(columns) == {1: 2}
    found = encode(frame, columns)
    assert found.shape == (22, 3)
    assert found[3].tolist() == [1.0, 3.0, 0.0]
    np.testing.assert_array_equal(found[20:, 1:], [[np.nan, 1], [np.nan, 2]])
    assert again(frame, columns).equals(frame)


def test_many_columns_and_one_row():
    frame = pl.DataFrame({f"c{index}": [str(index)] if index % 2 else [index / 3] for index in range(2000)})
    assert_same(frame)


def test_what_was_never_seen_is_unknown_and_counted():
    frame = pl.DataFrame({"sex": ["F", "M", "F"], "age": ["3", "4", "9"]})
    columns = columns_of(frame)
    encoder = Encoder(columns)
    found = encoder.encode(pl.DataFrame({"age": ["3", "old", None], "sex": ["M", "X", " F"], "more": [1, 2, 3]}))
    np.testing.assert_array_equal(found, [[1, 3], [np.nan, np.nan], [0, np.nan]])
    assert encoder.notes[0] == "1 cell of `sex` is of no known category or spelling ('X') and is unknown."
    assert any("1 cell of `age` is missing" in note for note in encoder.notes)
    assert any("`more`" in note for note in encoder.notes)
    with pytest.raises(DataError, match="must hold numbers"):
        encode(frame.with_columns(age=pl.Series(["a", "b", "c"])), columns)
    with pytest.raises(DataError, match="must have the column `age`"):
        encode(frame.drop("age"), columns)
    assert np.isnan(encode(frame.drop("age"), columns, absent="unknown")[:, 1]).all()


def test_other_dtypes_of_the_same_meaning_are_understood():
    text = pl.DataFrame(
        {
            "n": ["1", "2", "3"],
            "b": ["0", "1", "1"],
            "d": ["2020-01-05", "2020-01-06", "2020-02-06"],
            "t": ["True", "False", "True"],
        }
    )
    typed = pl.DataFrame(
        {
            "n": [1.0, 2.0, 3.0],
            "b": [0.0, 1.0, 1.0],
            "d": [dt.date(2020, 1, 5), dt.date(2020, 1, 6), dt.date(2020, 2, 6)],
            "t": [True, False, True],
        }
    )
    columns = columns_of(text)
    np.testing.assert_array_equal(encode(text, columns), encode(typed, columns))
    columns = columns_of(typed)
    np.testing.assert_array_equal(encode(text, columns), encode(typed, columns))


def test_generated_numbers_are_brought_to_the_grid_and_never_clipped_in_silence():
    frame = pl.DataFrame(
        {"p": ["1.50", "2.25", "9.75"], "i": pl.Series([1, 250, 3], dtype=pl.UInt8), "d": ["2020-01-05", "2020-01-07", None]}
    )
    columns = columns_of(frame)
    cells = np.array([[3.14159, 7.6, 1578182400e6 + 50_000e6, 0.0], [-0.001, 3.2, np.nan, 1.0]])
    found = decode(cells, columns)
    assert found.to_dict(as_series=False) == {"p": ["3.14", "0.00"], "i": [8, 3], "d": ["2020-01-06", None]}
    cells[0, 1] = 300.0
    with pytest.raises(DataError, match="1 numbers of `i` lie beyond UInt8"):
        decode(cells, columns)
    notes: list[str] = []
    assert decode(cells, columns, notes=notes)["i"].to_list() == [255, 3]
    assert len(notes) == 1
    values = decode(cells, columns, "values", notes=[])
    assert values.schema["p"] == pl.Float64
    assert values["d"][0] == dt.datetime(2020, 1, 5, 13, 53, 20)
    for bad in (np.zeros((1, 3)), np.array([[np.inf, 1.0, 0.0, 0.0]]), np.array([[1.0, 1.0, 0.0, 5.0]])):
        with pytest.raises((ConfigError, DataError)):
            decode(bad, columns)


@pytest.mark.parametrize(
    "values",
    [
        [f"ID-{index:05d}" for index in range(30)],
        [f"user{index}" for index in range(30)],
        [str(index) for index in range(30)],
        [f"{index * 2654435761 % 2**32:08x}-{index * 40503 % 2**16:04x}" for index in range(1, 300)],
        [f"free text {index * index}!" for index in range(30)],
        [str(2**60 + 3 * index) for index in range(30)],
        [f"x-{index}" for index in range(30)],
        [f"{chr(97 + index)}{'z' * 5}" for index in range(26)],
    ],
)
def test_fresh_identifiers_are_of_the_pattern_and_none_of_the_data(values):
    frame = pl.DataFrame({"x": values})
    columns = columns_of(frame, {"x": "identifier"})
    cells = encode(frame, columns)
    assert not cells.any()
    found = decode(np.zeros((1000, 1)), columns, seed=1)["x"]
    assert found.n_unique() == 1000
    assert not set(found.to_list()) & set(values)
    assert found.equals(decode(np.zeros((1000, 1)), columns, seed=1)["x"])


def test_patterns_of_identifiers():
    values = [f"{value:08x}" for value in np.random.default_rng(0).integers(2**32 - 2**24, size=300).tolist()]
    pattern = columns_of(pl.DataFrame({"x": values}))[0].format
    assert fresh(pattern, 50, 0).str.contains("^[0-9a-f]{8}$").all()
    assert fresh("ID-{00998+}", 3, 0).to_list() == ["ID-00998", "ID-00999", "ID-01000"]
    with pytest.raises(DataError, match="wider dtype"):
        fresh("250+", 10, 0, pl.UInt8())


def test_a_text_file_all_the_way(tmp_path):
    rows = ["a;b;c;d", '"x;1";1,5;05.03.2020;', 'y;2,0;28.02.2021;"q""\n"', ";1.000,5;01.01.1999;z", "y;7,5;;z"] * 1
    path = tmp_path / "in.csv"
    path.write_bytes(("\n".join(rows) + "\n").encode())
    source = open_source(path)
    columns, _ = infer(source.batches(2))
    frame = read(path)
    found = again(frame, columns)
    assert found.equals(frame)
    write(found, tmp_path / "out.csv", delimiter=source.delimiter)
    assert (tmp_path / "out.csv").read_bytes() == path.read_bytes()


def test_a_column_survives_json():
    column = columns_of(pl.DataFrame({"x": ["1,5", "2,25", None]}))[0]
    assert TableColumn.model_validate_json(column.model_dump_json()) == column
