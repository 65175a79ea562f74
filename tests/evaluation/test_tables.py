"""Shapes, trends and coverage of synthetic rows against cases that are worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from evaluation.tables_cases import MIXED, category, mixed, number, rows_of
from vaekit.data.tables.columns import TableColumn
from vaekit.errors import ConfigError, DataError
from vaekit.evaluation.samples import neighbourhoods
from vaekit.evaluation.tables import pairs as pairs_module
from vaekit.evaluation.tables.coverage import table_coverage
from vaekit.evaluation.tables.features import MAX_KINDS, scaled_features, tree_features
from vaekit.evaluation.tables.pairs import bin_edges, correlation, joint_variation, pair_trends
from vaekit.evaluation.tables.rows import Rows
from vaekit.evaluation.tables.shapes import column_shapes, kolmogorov_smirnov, total_variation

# ---------------------------------------------------------------------------------------------------------------- rows


def test_what_cells_are():
    age = number("age", words=("young", "old"), missing=True)
    kind = category("kind", 3, missing=True)
    rows = rows_of(
        [7, np.nan, np.nan, np.nan, np.nan],
        [2, np.nan, 0, np.nan, 1],
        [0, 1, 2, 3, 0],
        [0, 1, 0, 0, np.nan],
        columns=(age, kind),
    )
    np.testing.assert_array_equal(rows.numbers(0), [7, np.nan, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(rows.codes(0), [0, 1, 2, 3, 3])  # the last has neither a value nor a word: missing
    np.testing.assert_array_equal(rows.codes(1), [2, 3, 0, 3, 3])  # an unknown state is missing, whatever the value
    assert (rows.num_codes(0), rows.num_codes(1)) == (4, 4)


def test_a_value_under_a_word_is_not_read():
    rows = rows_of([7.0, 8.0], [0, 1], columns=(number("age", words=("old",)),))
    np.testing.assert_array_equal(rows.numbers(0), [7.0, np.nan])


def test_what_is_measured():
    assert Rows(mixed(5), MIXED).measured == (0, 2, 3, 5)
    holed = TableColumn(name="holed", type="constant", categories=("x",), missing=True)
    empty = TableColumn(name="empty", type="constant", missing=True)
    assert rows_of([0, 0], [np.nan, np.nan], [0, 0], [1, 1], columns=(holed, empty)).measured == (0,)


@pytest.mark.parametrize(
    ("cells", "columns", "error", "sentence"),
    [
        (np.zeros((3, 2)), (number("a"),), DataError, r"must be a matrix \(N, 1\)"),
        (np.zeros((0, 1)), (number("a"),), DataError, "with a row"),
        (np.zeros((1, 2)), (number("a"), number("a")), ConfigError, "found 'a' twice"),
        (np.array([[np.inf]]), (number("a"),), DataError, "found an infinite one in the column 'a'"),
        (np.array([[3.0]]), (category("a", 3),), DataError, "from 0 to 2, found 3"),
        (np.array([[0.5]]), (category("a", 3),), DataError, "found 0.5"),
        (
            np.array([[0.0, 2.0]]),
            (number("a", missing=True),),
            DataError,
            "States of the column 'a' must be whole numbers from 0 to 1",
        ),
    ],
)
def test_cells_that_do_not_fit(cells, columns, error, sentence):
    with pytest.raises(error, match=sentence):
        Rows(cells, columns)


def test_other_columns_are_refused():
    with pytest.raises(DataError, match="two lists of columns"):
        column_shapes(rows_of([1.0], columns=(number("a"),)), rows_of([1.0], columns=(number("b"),)))


# -------------------------------------------------------------------------------------------------------------- shapes


def test_kolmogorov_smirnov_is_the_greatest_gap_of_distribution_functions():
    rng = np.random.default_rng(0)
    for x, y in [(rng.normal(size=57), rng.normal(0.4, 2, 80)), (rng.integers(0, 5, 40), rng.integers(1, 9, 70))]:
        assert kolmogorov_smirnov(x, y) == pytest.approx(stats.ks_2samp(x, y).statistic, abs=1e-12)
    n = 1000
    grid = (np.arange(n) + 0.5) / n
    assert kolmogorov_smirnov(grid, grid**2) == pytest.approx(0.25, abs=2 / n)  # sqrt(t) - t is greatest at t = 1/4
    assert kolmogorov_smirnov(grid, grid + 5) == kolmogorov_smirnov(grid + 5, grid) == 1.0


def test_shapes_by_hand():
    columns = (category("kind", 3, missing=True), number("age", words=("old",), missing=True))
    real = rows_of([0, 0, 1, np.nan], [1, 2, np.nan, np.nan], [0, 0, 0, 1], [0, 0, 1, 2], columns=columns)
    made = rows_of([0, 1, 1, 2], [1, 1, 1, np.nan], [0, 0, 0, 0], [0, 0, 0, 2], columns=columns)
    kind, age = column_shapes(real, made)
    # Shares 2/3, 1/3, 0 against 1/4, 2/4, 1/4.
    assert (kind.measure, kind.score, kind.error) == ("total_variation", pytest.approx(7 / 12), pytest.approx(5 / 12))
    assert (kind.states, kind.missing_real, kind.missing_synthetic) == (0.75, 0.25, 0.0)
    # Numbers 1, 2 against 1, 1, 1. States 2/4, 1/4, 1/4 against 3/4, 0, 1/4.
    assert (age.measure, age.score) == ("kolmogorov_smirnov", 0.5)
    assert (age.states, age.missing_real, age.missing_synthetic) == (0.75, 0.25, 0.25)


@pytest.mark.parametrize("make", [number, lambda name, missing: category(name, 3, missing=missing)])
def test_shapes_without_plain_cells(make):
    columns = (make("a", missing=True), make("b", missing=True))
    real = rows_of([1, 2], [np.nan, np.nan], [0, 0], [1, 1], columns=columns)
    made = rows_of([np.nan, np.nan], [1, 2], [1, 1], [0, 0], columns=columns)
    assert [(shape.score, shape.states) for shape in column_shapes(real, made)] == [(0.0, 0.0), (None, 0.0)]
    assert column_shapes(real, made)[1].error is None


# -------------------------------------------------------------------------------------------------------------- trends


def test_correlation():
    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    y = 0.3 * x + rng.normal(size=50)
    assert correlation(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)
    assert correlation(1e200 * x, 1e-200 * y) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)
    assert correlation(1.7e308 * np.array([-1.0, 0, 1]), np.array([2.0, 1, 0])) == pytest.approx(-1)
    x[3], y[7] = np.nan, np.nan
    kept = np.delete(np.stack([x, y]), [3, 7], axis=1)
    assert correlation(x, y) == pytest.approx(np.corrcoef(kept)[0, 1], abs=1e-12)
    assert correlation(np.ones(4), np.arange(4.0)) is None
    assert correlation(np.array([1.0, np.nan]), np.array([1.0, 2.0])) is None


def test_trend_of_two_numbers():
    columns = (number("a"), number("b"))
    a = np.array([-1.0, 0.0, 1.0, 0.0])
    b = np.array([0.0, 1.0, 0.0, -1.0])  # without correlation
    real = rows_of(a, b, columns=columns)
    assert pair_trends(real, rows_of(a, a, columns=columns)).mean == pytest.approx(0.5)  # 0 against 1
    assert pair_trends(rows_of(a, -a, columns=columns), rows_of(a, a, columns=columns)).mean == pytest.approx(0.0)
    assert pair_trends(rows_of(a, -a, columns=columns), rows_of(a, 0 * a, columns=columns)).mean == pytest.approx(0.5)
    undefined = pair_trends(rows_of(a, 0 * a, columns=columns), real)
    assert (undefined.pairs[0].score, undefined.mean, undefined.error) == (None, None, None)


def test_trend_of_two_categories_with_missing_cells():
    columns = (category("a", 2, missing=True), category("b", 2))
    real = rows_of([0, 0, 1, np.nan], [0, 1, 1, 1], [0, 0, 0, 1], columns=columns)
    made = rows_of([0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], columns=columns)
    # Real: 00, 01, 11, -1 by a quarter each; made: 00, 11 by a half each.
    trends = pair_trends(real, made)
    assert (trends.pairs[0].measure, trends.pairs[0].score) == ("contingency", 0.5)
    assert (trends.num_pairs, trends.error) == (1, 0.0)


def test_trend_of_a_number_and_a_category():
    columns = (number("a", words=("none",)), category("b", 2))
    ten = np.arange(10.0)
    real = rows_of([*ten, 10.0, np.nan], [0] * 12, [0] * 11 + [1], columns=columns)
    # Bins of width 1: 0..8 hold one each, the last, closed, 9 and 10; then the word.
    made = rows_of([-1.0, *(ten[1:] + 0.5), 11.0, 1.7], [0] * 12, [0] * 12, columns=columns)
    # The first takes in what is less, the last what is greater; the share of the word is 1/12 there and 0 here.
    assert pair_trends(real, made).mean == pytest.approx(1 - 1 / 12)
    np.testing.assert_array_equal(bin_edges(np.array([0.0, 10.0]), "width"), np.arange(11.0))
    # Quantiles coincide, and are one: 0 | 100.
    np.testing.assert_array_equal(bin_edges(np.array([0.0] * 95 + [100.0] * 5), "quantile"), [0.0, 100.0])
    assert np.isfinite(bin_edges(np.array([-1.7e308, 1.7e308]), "width")).all()


def test_quantiles_see_what_equal_widths_do_not():
    rng = np.random.default_rng(0)
    columns = (number("a"), category("b", 2))
    a = np.exp(3 * rng.normal(size=4000))
    b = a > np.median(a)
    real, made = rows_of(a, b, columns=columns), rows_of(a, rng.permutation(b), columns=columns)
    assert pair_trends(real, made).mean > 0.9
    assert pair_trends(real, made, binning="quantile").mean == pytest.approx(0.5, abs=0.03)


def test_joint_tables_of_many_codes(monkeypatch):
    rng = np.random.default_rng(0)
    a, b, c, d = (rng.integers(0, 30, num) for num in (200, 200, 300, 300))
    expected = 0.5 * sum(
        abs(((a == i) & (b == j)).mean() - ((c == i) & (d == j)).mean()) for i, j in itertools.product(range(30), repeat=2)
    )
    assert joint_variation(a, b, c, d) == pytest.approx(expected)
    monkeypatch.setattr(pairs_module, "_CELLS", 10)
    assert joint_variation(a, b, c, d) == pytest.approx(expected)


def test_a_choice_of_pairs():
    rng = np.random.default_rng(0)
    columns = tuple(number(f"x{i}") for i in range(12))
    real, made = (Rows(rng.normal(size=(40, 12)) @ rng.normal(size=(12, 12)), columns) for _ in range(2))
    whole, part = pair_trends(real, made), pair_trends(real, made, max_pairs=30, seed=3)
    assert (len(whole.pairs), whole.num_pairs, len(part.pairs), part.num_pairs) == (66, 66, 30, 66)
    scores = {(pair.first, pair.second): pair.score for pair in whole.pairs}
    assert len({(pair.first, pair.second) for pair in part.pairs}) == 30
    assert all(scores[pair.first, pair.second] == pair.score for pair in part.pairs)
    spread = np.std([pair.score for pair in part.pairs], ddof=1)
    assert part.error == pytest.approx(spread * np.sqrt((1 - 30 / 66) / 30))
    errors = [pair_trends(real, made, max_pairs=30, seed=seed).mean - whole.mean for seed in range(100)]
    assert np.std(errors) == pytest.approx(part.error, rel=0.3)
    assert [whole.pairs[0].first, whole.pairs[0].second] == ["x0", "x1"]


def test_refusals_of_trends():
    rows = Rows(mixed(5), MIXED)
    with pytest.raises(ConfigError, match="`max_pairs` must be at least 1"):
        pair_trends(rows, rows, max_pairs=0)
    with pytest.raises(ConfigError, match="`binning` must be"):
        pair_trends(rows, rows, binning="kmeans")


# ------------------------------------------------------------------------------------------------------------ coverage


def test_coverage_by_hand():
    columns = (number("a", missing=True), category("b", 4))
    a, lost = [0, 10, 5, 5, 5, np.nan], [0, 0, 0, 0, 0, 1]
    real = rows_of(a, [0, 1, 2, 2, 2, 2], lost, columns=columns)
    made = rows_of([2, 7, 12, 3, -1, np.nan], [0, 2, 2, 2, 2, 2], lost, columns=columns)
    found = table_coverage(real, made, num_neighbours=1)
    assert found.by_column == {"a": 1.0, "b": pytest.approx(2 / 3)}
    assert found.within == 3 / 5
    inner = rows_of([2, 7, 6, 3, 4, np.nan], [0, 2, 2, 2, 3, 3], lost, columns=columns)
    found = table_coverage(real, inner, num_neighbours=1)
    assert (found.ranges, found.categories) == (
        pytest.approx(0.5),
        pytest.approx(2 / 3),
    )  # a category that is not real counts not
    away = rows_of([20, 21, 22, 23, 24, np.nan], [0, 2, 2, 2, 3, 3], lost, columns=columns)
    assert (table_coverage(real, away, num_neighbours=1).ranges, table_coverage(real, away, num_neighbours=1).within) == (
        0.0,
        0.0,
    )


def test_neighbourhoods_of_scaled_rows():
    real, made = Rows(mixed(60), MIXED), Rows(mixed(50, seed=1), MIXED)
    found = table_coverage(real, made, num_neighbours=3)
    first, second = real.take(50, 0), made.take(50, 1)
    x, y = scaled_features(first, (first, second), "range")
    assert {name: getattr(found, name) for name in ("precision", "recall", "density", "coverage")} == neighbourhoods(x, y, 3)
    assert (found.num_rows, found.num_neighbours) == (50, 3)
    assert table_coverage(real, real, num_neighbours=3).coverage == 1.0
    far = Rows(mixed(50, seed=1, shift=100.0), MIXED)
    assert table_coverage(real, far, num_neighbours=3).coverage == 0.0
    with pytest.raises(ConfigError, match="more than 5 rows on each side, got 4"):
        table_coverage(real, made, limit=4)


# ------------------------------------------------------------------------------------------------------------ features


def test_scaled_features_by_hand():
    columns = (number("a", missing=True), category("b", 2))
    rows = rows_of([0, 4, np.nan], [0, 0, 1], [0, 0, 1], columns=columns)
    (x,) = scaled_features(rows, (rows,), "range")
    half = np.sqrt(0.5)
    # The number (the mean where there is none), two indicators of what its cell is, two of the category.
    np.testing.assert_allclose(x, [[0, half, 0, half, 0], [1, half, 0, half, 0], [0.5, 0, half, 0, half]])
    (x,) = scaled_features(rows, (rows,), "standard")
    np.testing.assert_allclose(x, [[-1, 1, 0, 1, 0], [1, 1, 0, 1, 0], [0, 0, 1, 0, 1]])


def test_tree_features_share_a_code_among_the_rarest():
    column = category("b", 1000)
    rows = rows_of([*[7] * 3, *[9] * 2, *range(500)], columns=(column,))
    (x, y), coded = tree_features(rows, (rows, rows_of([7, 9, 999], columns=(column,))), (0,))
    assert coded.all()
    assert x.max() == MAX_KINDS - 1
    np.testing.assert_array_equal(y[:, 0], [0, 1, MAX_KINDS - 1])


def test_total_variation_is_symmetric_and_at_most_one():
    p, q = np.array([3, 0, 1]), np.array([0, 5, 0])
    assert total_variation(p, q) == total_variation(q, p) == 1.0
