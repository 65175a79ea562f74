import numpy as np
import polars as pl
import pytest

from vaekit.data.tables import batches, csvfiles, is_table, open_source, read, to_form, write
from vaekit.data.tables.reading import unique_names
from vaekit.errors import ConfigError, DataError


def written(folder, data, name="table.csv"):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


CASES = {
    "empty and quoted": ('a,b\n1,""\n,x\n', {"a": ["1", None], "b": ["", "x"]}),
    "windows": ('a,b\r\n1,\r\n"q\r\nr",x\r\n\r\n', {"a": ["1", "q\r\nr"], "b": [None, "x"]}),
    "decimal comma": ("\ufeffa;b\n1,5;2,5\n3,1;4,0", {"a": ["1,5", "3,1"], "b": ["2,5", "4,0"]}),
    "tabs": ("a\tb\n01\t2\n", {"a": ["01"], "b": ["2"]}),
    "bars": ("a|b\n1|2\n", {"a": ["1"], "b": ["2"]}),
    "one column": ("a\n1\n\n3\n", {"a": ["1", None, "3"]}),
    "padded": ("a, b\n1, x\n2, y\n", {"a": ["1", "2"], "b": ["x", "y"]}),
    "old mac": ("a,b\r1,2\r3,4\r", {"a": ["1", "3"], "b": ["2", "4"]}),
    "blank lines": ("\n\na,b\n1,2\n\n3,4\n", {"a": ["1", "3"], "b": ["2", "4"]}),
    "quote in a cell": ('a,b\n5" pipe,2\nx,"y"\n', {"a": ['5" pipe', "x"], "b": ["2", "y"]}),
    "doubled quotes": ('a,b\n"x ""\n,y",1\n', {"a": ['x "\n,y'], "b": ["1"]}),
    "no header": ("1,2\n3,4\n", {"column_1": ["1", "3"], "column_2": ["2", "4"]}),
    "same names": ("x,x,\n1,2,3\n", {"x": ["1"], "x.1": ["2"], "column_3": ["3"]}),
    "unicode": ("ä,b\n日本,é\n", {"ä": ["日本"], "b": ["é"]}),
}


@pytest.mark.parametrize("piece", [1 << 24, 7, 1])
@pytest.mark.parametrize("case", CASES)
def test_a_text_file_is_read_as_text_whatever_the_size_of_a_piece(tmp_path, monkeypatch, case, piece):
    text, expected = CASES[case]
    monkeypatch.setattr(csvfiles, "_PIECE", piece)
    assert read(written(tmp_path, text)).to_dict(as_series=False) == expected


@pytest.mark.parametrize("case", CASES)
def test_batches_have_the_rows_of_the_whole(tmp_path, case):
    path = written(tmp_path, CASES[case][0])
    parts = list(batches(path, rows=1))
    assert all(len(part) == 1 for part in parts)
    assert pl.concat(parts).equals(read(path))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ('a,b\n"x\ny",2\n1,2,3\n', "found 3 in line 4"),
        ("a,b\n1,2\n\n1\n", "found 1 in line 4"),
        ('a,b\n5" pipe,2\nx,"y",3\n', "found 3 in line 3"),
        ('a,b\n1,"x\n3,4\n', "close every quote"),
        ("a,b\n1,2\ncafé,1\n".encode("latin-1"), "bytes e9 2c 31 0a in line 3"),
        (b"", "found no row"),
    ],
)
def test_a_damaged_file_is_refused_with_the_place(tmp_path, data, found):
    with pytest.raises(DataError, match=found):
        read(written(tmp_path, data))


def test_encodings_by_name_and_by_mark(tmp_path):
    path = written(tmp_path, "a,b\ncafé,1\n".encode("cp1252"))
    assert read(path, encoding="cp1252")["a"].to_list() == ["café"]
    assert read(written(tmp_path, "a,b\ncafé,1\n".encode("utf-16")))["a"].to_list() == ["café"]
    with pytest.raises(ConfigError, match="text encoding"):
        read(path, encoding="nope")
    with pytest.raises(ConfigError, match="one ASCII character"):
        read(path, delimiter=";;")


def test_gzip_and_a_header_of_numbers(tmp_path):
    import gzip

    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"2019,2020\n1,2\n"))
    assert read(path).height == 2
    assert read(path, header=True).columns == ["2019", "2020"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".arrow", ".xlsx"])
def test_written_is_read(tmp_path, suffix):
    frame = pl.DataFrame({"t": ["x", 'quo"te', "line\nbreak", "comma,tab\t"], "n": [1, 2, 3, 4], "f": [0.5, 1.25, -3.0, 2.0]})
    path = tmp_path / f"out{suffix}"
    write(frame, path)
    again = read(path)
    expected = frame.select(pl.all().cast(pl.String)) if suffix in (".csv", ".tsv") else frame
    assert again.equals(expected)
    assert open_source(path).form == suffix[1:]
    with pytest.raises(DataError, match="must not exist"):
        write(frame, path)
    write(frame.head(1), path, force=True)
    assert read(path).height == 1


def test_missing_and_empty_survive_a_text_file(tmp_path):
    frame = pl.DataFrame({"a": ["", None, "x"]})
    write(frame, tmp_path / "a.csv")
    assert read(tmp_path / "a.csv").equals(frame)
    with pytest.raises(ConfigError, match="must end in"):
        write(frame, tmp_path / "a.doc")


def test_frames_of_every_kind():
    frame = pl.DataFrame({"a": [1, None], "b": ["x", "y"]})
    assert read(frame).equals(frame)
    assert read(frame.lazy()).equals(frame)
    assert read({"a": [1, None], "b": np.array(["x", "y"])}).equals(frame)
    assert read({"m": [1, "x", None, 2.5]})["m"].to_list() == ["1", "x", None, "2.5"]
    with pytest.raises(DataError, match="same length"):
        read({"a": [1], "b": [1, 2]})
    with pytest.raises(ConfigError, match="a path, a frame or a dict"):
        read(3)


def test_pandas_frames_come_back(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "i": [1, 2],
            "f": [1.5, None],
            "s": ["a", None],
            "b": [True, False],
            "c": pandas.Categorical(["x", None]),
            "o": pandas.Categorical(["lo", "hi"], ["lo", "hi"], ordered=True),
            "d": pandas.to_datetime(["2020-01-01", None]),
            "z": pandas.to_datetime(["2020-07-01", None]).tz_localize("Europe/Berlin"),
            "I": pandas.array([1, None], dtype="Int64"),
            "B": pandas.array([True, None], dtype="boolean"),
        }
    )
    polars = read(frame)
    assert polars.schema["o"] == pl.Enum(["lo", "hi"])
    assert str(polars["z"][0]) == "2020-07-01 00:00:00+02:00"
    again = to_form(polars, "pandas")
    pandas.testing.assert_frame_equal(again, frame, check_dtype=True)
    twice = pandas.DataFrame([[1, 2]], columns=["x", "x"])
    assert read(twice).columns == ["x", "x.1"]


def test_what_is_a_table(tmp_path):
    write(pl.DataFrame({"a": [1]}), tmp_path / "a.parquet")
    (tmp_path / "a.parquet").rename(tmp_path / "unnamed")
    assert is_table(tmp_path / "unnamed")
    assert read(tmp_path / "unnamed")["a"].to_list() == [1]
    assert not is_table(written(tmp_path, b"\x93NUMPY", "x.npy"))
    assert not is_table(np.zeros(3))
    with pytest.raises(DataError, match="found nothing"):
        read(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="whole parquet file"):
        read(written(tmp_path, b"PAR1 damaged", "d.parquet"))


def test_names_are_told_apart():
    assert unique_names(["x", "x", "x.1", "", "x"])[0] == ("x", "x.2", "x.1", "column_4", "x.3")


def test_a_header_of_any_length_and_lines_within_it(tmp_path):
    names = [f"a long name of a column, number {index}" for index in range(5000)]
    write(pl.DataFrame({name: [str(index)] for index, name in enumerate(names)}), tmp_path / "wide.csv")
    assert read(tmp_path / "wide.csv").columns == names
    assert read(written(tmp_path, '"two\nlines",b\n1,x\n')).to_dict(as_series=False) == {"two\nlines": ["1"], "b": ["x"]}


def test_a_workbook_keeps_numbers_dates_and_gaps(tmp_path):
    frame = pl.DataFrame({"d": ["2020-01-05", None], "n": [1.5, None], "i": [3, 4], "b": [True, False], "t": ["x", None]})
    frame = frame.with_columns(pl.col("d").str.to_date())
    write(frame, tmp_path / "a.xlsx")
    assert read(tmp_path / "a.xlsx").equals(frame)
    assert read(tmp_path / "a.xlsx", sheet=1).height == 2
    with pytest.raises(DataError, match="xlsx"):
        read(tmp_path / "a.xlsx", sheet="nothing")
