"""Factors of a person's own data: codes, order, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from small_models import image_data
from vaekit.data.writing import write_table
from vaekit.errors import DataError
from vaekit.evaluation.disentanglement.factors import factors_beside, read_factors


def test_values_keep_their_order_and_the_unknown_is_unknown():
    columns = {
        "word": np.array(["b", "a", "", "b"], dtype=object),
        "whole": np.array([30, -1, 7, 7]),
        "number": np.array([0.5, np.nan, -2.0, 0.5]),
        "flag": np.array([True, False, True, True]),
    }
    found = read_factors(columns, 4)
    assert found.names == ("word", "whole", "number", "flag")
    assert found.values.tolist() == [[1, 2, 1, 1], [0, 0, -1, 0], [-1, 1, 0, 1], [1, 1, 1, 1]]
    assert found.numbers == (False,) * 4
    assert found.known().tolist() == [0, 3]


def test_many_numbers_are_cut_into_cells_of_equal_width():
    x = np.linspace(0.0, 10.0, 101)
    found = read_factors({"angle": x, "count": np.arange(101)}, 101)
    assert found.numbers == (True, True)
    assert found.values[:, 0].tolist() == np.minimum(np.floor(x / 0.5 + 1e-9), 19).astype(int).tolist()
    values, names, places, notes = found.varying(np.arange(101))
    assert (names, places) == (("angle", "count"), (0, 1))
    assert notes == ("angle, count: numbers in 20 cells of equal width.",)
    assert read_factors({"few": np.repeat(np.arange(64) / 7, 2)}, 128).numbers == (False,)
    np.testing.assert_array_equal(values, found.values)


def test_rows_go_by_the_names_of_files(tmp_path):
    write_table({"name": np.array(["c.png", "a.png", "b.png"]), "size": np.array([3, 1, 2])}, tmp_path / "f.csv")
    for names in (["a.png", "b.png", "c.png"], ["x/a.png", "y/b.png", "x/c.png"]):
        assert read_factors(tmp_path / "f.csv", 3, names).values[:, 0].tolist() == [0, 1, 2]
    assert read_factors(tmp_path / "f.csv", 3).values[:, 0].tolist() == [2, 0, 1]
    with pytest.raises(DataError, match=r"found none for d\.png"):
        read_factors(tmp_path / "f.csv", 1, ["d.png"])
    with pytest.raises(DataError, match=r"found none for x/a\.png"):  # which of the two is not known
        read_factors(tmp_path / "f.csv", 2, ["x/a.png", "y/a.png"])


def test_arrays_of_factors(tmp_path):
    latents = np.array([[0, 5], [1, 5], [1, 6]])
    np.savez(tmp_path / "f.npz", latents=latents)
    found = read_factors(tmp_path / "f.npz", 3)
    assert found.names == ("latents0", "latents1")
    assert found.values.tolist() == [[0, 0], [1, 0], [1, 1]]


def test_what_stands_beside_the_data():
    data = image_data(9)
    found = factors_beside(data)
    assert found.names == ("label",)
    np.testing.assert_array_equal(found.values[:, 0], data.columns["label"])
    with pytest.raises(DataError, match="must take different values, found label"):
        found.varying(np.arange(9))
    with pytest.raises(DataError, match="all of their factors known, found none"):
        read_factors({"a": ["", ""], "b": ["x", "y"]}, 2).known()
    left = read_factors({"a": ["x", "y", "x"], "b": [1, 2, 2], "c": ["k", "k", ""]}, 3)
    values, names, _, notes = left.varying(left.known())
    assert names == ("a", "b")
    assert values.tolist() == [[0, 0], [1, 1]]
    assert notes == ("c is the same in all examples, and left out.", "1 of 3 examples are left out.")
