"""Privacy of synthetic rows, and the whole report."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from evaluation.tables_cases import MIXED, category, mixed, number, rows_of
from vaekit.data.tables.columns import TableColumn
from vaekit.errors import ConfigError
from vaekit.evaluation.tables import TableReport, evaluate_tables
from vaekit.evaluation.tables import distances as distances_module
from vaekit.evaluation.tables.coverage import table_coverage
from vaekit.evaluation.tables.detection import detection
from vaekit.evaluation.tables.distances import Distance, fingerprints
from vaekit.evaluation.tables.pairs import pair_trends
from vaekit.evaluation.tables.privacy import privacy
from vaekit.evaluation.tables.rows import Rows
from vaekit.evaluation.tables.shapes import column_shapes
from vaekit.evaluation.tables.utility import utility


def apart(x, y, fitted):
    """(N, M, C): how far cells lie apart, a pair of cells at a time."""
    found = np.zeros((len(x), len(y), len(fitted.measured)))
    for c, index in enumerate(fitted.measured):
        values = fitted.numbers(index) if fitted.is_number(index) else None
        for i in range(len(x)):
            for j in range(len(y)):
                if x.codes(index)[i] != y.codes(index)[j]:
                    found[i, j, c] = 1.0
                elif values is not None and x.codes(index)[i] == 0:
                    width = np.nanmax(values) - np.nanmin(values)
                    found[i, j, c] = abs(x.cells[i, index] - y.cells[j, index]) / width
    return found


@pytest.mark.parametrize("metric", ["gower", "euclidean"])
def test_nearest_is_brute_force(metric, monkeypatch):
    train, asked = Rows(mixed(23), MIXED), Rows(mixed(17, seed=1, shift=0.5), MIXED)
    each = apart(asked, train, train)
    expected = np.sort(each.mean(2) if metric == "gower" else np.sqrt(np.square(each).sum(2)), axis=1)
    distance = Distance(train, metric)
    np.testing.assert_allclose(distance.nearest(asked, train, 3), expected[:, :3], atol=1e-12)
    np.testing.assert_allclose(distance.nearest(asked, train)[:, 0], expected[:, 0], atol=1e-12)
    monkeypatch.setattr(distances_module, "_BLOCK", (5, 4))
    np.testing.assert_allclose(distance.nearest(asked, train, 3), expected[:, :3], atol=1e-12)
    np.testing.assert_array_equal(distance.nearest(train, train)[:, 0], 0.0)


def test_euclidean_distance_is_that_of_scaled_numbers_and_indicators():
    columns = (number("a"), category("b", 3))
    train = rows_of([0, 10, 5], [0, 1, 2], columns=columns)
    asked = rows_of([4], [1], columns=columns)
    x, y = (np.concatenate([rows.cells[:, :1] / 10, np.eye(3)[rows.codes(1)] / np.sqrt(2)], axis=1) for rows in (asked, train))
    expected = np.sort(np.linalg.norm(x - y, axis=1))
    np.testing.assert_allclose(Distance(train, "euclidean").nearest(asked, train, 3)[0], expected)


def test_distances_of_numbers_without_a_range():
    train = rows_of([2.0, 2.0], columns=(number("a"),))
    asked = rows_of([2.0, 2.1, -1.7e308], columns=(number("a"),))
    assert Distance(train).nearest(asked, train)[:, 0].tolist() == [0.0, 1.0, 1.0]
    wide = rows_of([-1.7e308, 1.7e308], columns=(number("a"),))
    assert Distance(wide).nearest(rows_of([0.0], columns=wide.columns), wide)[0, 0] == pytest.approx(0.5)


def test_distances_to_words():
    columns = (number("a", words=("none",)),)
    train, words = rows_of([0.0, 10.0], [0, 0], columns=columns), rows_of([np.nan, np.nan], [1, 1], columns=columns)
    for metric in ("gower", "euclidean"):
        distance = Distance(train, metric)
        assert distance.nearest(words, train).tolist() == distance.nearest(train, words).tolist() == [[1.0], [1.0]]
        assert distance.nearest(words, words).tolist() == [[0.0], [0.0]]


def test_refusals_of_distances():
    rows = Rows(mixed(5), MIXED)
    with pytest.raises(ConfigError, match="`metric` must be"):
        Distance(rows, "cosine")
    with pytest.raises(ConfigError, match="at least 9 rows to look among, got 5"):
        Distance(rows).nearest(rows, rows, 9)
    with pytest.raises(ConfigError, match="neither constant nor an identifier"):
        Distance(rows_of([0.0], columns=(TableColumn(name="id", type="identifier"),)))


def test_fingerprints_tell_rows_apart():
    cells = mixed(300)
    cells[:, 0] = np.round(cells[:, 0], 1)
    rows = Rows(cells, MIXED)
    kept = np.nan_to_num(cells[:, [0, 2, 3, 5, 6, 7]], nan=-1.0)
    expected = (kept[:, None] == kept).all(2)
    found = fingerprints(rows)
    np.testing.assert_array_equal(found[:, None] == found, expected)
    # Whole numbers and powers of two have few bits set; columns that are exchanged are other rows.
    grid = np.array([(a, b) for a in 2.0 ** np.arange(-30, 30) for b in range(50)])
    assert len(np.unique(fingerprints(Rows(grid, (number("a"), number("b")))))) == len(np.unique(grid, axis=0))
    bits = fingerprints(Rows(grid, (number("a"), number("b"))))[:, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)
    np.testing.assert_allclose(bits.mean(0), 0.5, atol=0.05)


# ------------------------------------------------------------------------------------------------------------- privacy


def sides(num=300, shift=0.0):
    return [Rows(mixed(num, seed=seed, shift=shift if seed == 1 else 0.0), MIXED) for seed in range(3)]


def test_rows_of_one_kind_give_nothing_away():
    train, made, test = sides(600)
    found = privacy(train, made, test)
    assert found.closer_interval[0] < 0.5 < found.closer_interval[1]
    assert found.membership_interval[0] < 0.5 < found.membership_interval[1]
    assert found.synthetic.median == pytest.approx(found.held_out.median, rel=0.1)
    assert found.copies.count == found.held_out_copies.count == 0
    assert found.copies.share_interval[1] < 0.01
    assert (found.num_train, found.num_references, found.num_members, found.metric) == (600, 600, 600, "gower")


def test_a_memoriser_is_found():
    train, _, test = sides()
    noise = np.zeros_like(train.cells)
    noise[:, 0] = 1e-6 * np.random.default_rng(0).normal(size=len(train))
    found = privacy(train, Rows(train.cells + noise, MIXED), test)
    assert found.membership_auc > 0.99
    assert found.membership_interval[0] > 0.97
    assert found.closer_share > 0.97
    assert found.synthetic.median < 1e-6 < found.held_out.median
    assert found.synthetic.ratio_median < 1e-4 < 0.2 < found.held_out.ratio_median
    assert found.copies.count == 0
    half = Rows(np.concatenate([train.cells[:150], mixed(150, seed=5)]), MIXED)
    found = privacy(train, half, test)
    assert found.copies.count == 150
    assert found.copies.share == 0.5
    # Half of the members lie at no distance; the other half are as far as others: 1/2 + 1/2 1/2.
    assert found.membership_auc == pytest.approx(0.75, abs=0.05)
    assert found.closer_share == pytest.approx(0.75, abs=0.05)


def test_figures_are_those_of_brute_force():
    train, made, test = sides(40)
    found = privacy(train, made, test)
    nearest = {
        name: np.sort(apart(rows, train, train).mean(2), axis=1) for name, rows in (("synthetic", made), ("held_out", test))
    }
    for name, distances in nearest.items():
        measured = getattr(found, name)
        assert measured.median == pytest.approx(np.median(distances[:, 0]))
        assert measured.lowest == pytest.approx(np.quantile(distances[:, 0], 0.05))
        assert measured.ratio_median == pytest.approx(np.median(distances[:, 0] / distances[:, 1]))
        assert measured.ratio_lowest == pytest.approx(np.quantile(distances[:, 0] / distances[:, 1], 0.05))
    to_test = apart(made, test, train).mean(2).min(1)
    assert found.closer_share == pytest.approx((nearest["synthetic"][:, 0] < to_test).mean())
    members, others = (apart(rows, made, train).mean(2).min(1) for rows in (train, test))
    wins = (members[:, None] < others) + 0.5 * (members[:, None] == others)
    assert found.membership_auc == pytest.approx(wins.mean())


def test_copies_are_counted_beside_those_that_are_common_anyway():
    columns = (category("a", 2), TableColumn(name="id", type="identifier"))
    train, test = (rows_of([0, 0, 0, 1], np.zeros(4), columns=columns) for _ in range(2))
    found = privacy(train, rows_of([0, 1], [0, 0], columns=columns), test)
    assert (found.copies.count, found.copies.num_rows, found.held_out_copies.count) == (2, 2, 4)
    assert found.synthetic.median == 0.0
    assert found.synthetic.ratio_median == 0.5  # of 0 / 0, which is 1, and of 0 / 1: the category 1 is there once
    assert (found.closer_share, found.membership_auc) == (0.5, 0.5)


def test_as_many_rows_on_both_sides():
    """The nearest of many is nearer than that of few: sides of one size, or rows of one kind would look remembered."""
    train, made, test = Rows(mixed(900), MIXED), Rows(mixed(400, seed=1), MIXED), Rows(mixed(60, seed=2), MIXED)
    found = privacy(train, made, test)
    assert found.num_references == found.num_members == 60
    assert found.closer_share == pytest.approx(0.5, abs=0.15)


def test_limits_and_seeds():
    train, made, test = sides(300)
    steps = []
    first, again, other = (
        privacy(train, made, test, seed=seed, limit=20, progress=lambda *at: steps.append(at)) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert (first.num_train, first.synthetic.num_rows, first.num_members, first.copies.num_rows) == (100, 20, 20, 300)
    assert steps[:4] == [(1, 5), (2, 5), (4, 5), (5, 5)]
    with pytest.raises(ConfigError, match="at least two rows of each kind"):
        privacy(train, made, test.select(slice(0, 1)))


# -------------------------------------------------------------------------------------------------------------- report


def test_the_whole_report():
    train, made, test = sides(150)
    steps = []
    found = evaluate_tables(
        train.cells, made.cells, MIXED, test=test.cells, target="flag", seed=3, progress=lambda *at: steps.append(at)
    )
    assert found.shapes == column_shapes(train, made)
    assert found.mean_shape == pytest.approx(np.mean([shape.score for shape in found.shapes]))
    assert found.mean_error == 1 - found.mean_shape
    assert found.trends == pair_trends(train, made, seed=3)
    assert found.reference_shape == pytest.approx(np.mean([shape.score for shape in column_shapes(train, test)]))
    assert found.reference_trend == pair_trends(train, test, seed=3).mean
    assert found.detections[1] == detection(train, made, seed=3)
    assert found.coverage == table_coverage(train, made, seed=3)
    assert found.utility == utility(train, made, test, "flag", seed=3)
    assert found.privacy == privacy(train, made, test, seed=3)
    assert found.left_out == ("id", "always")
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
    assert steps[-1] == (11, 11)
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["privacy"]["copies"]["share_interval"] == list(found.privacy.copies.share_interval)
    assert record["shapes"][0]["name"] == "size"
    assert record["mean_error"] == found.mean_error


def test_a_report_without_held_out_rows():
    found = evaluate_tables(mixed(60), mixed(60, seed=1), MIXED, limit=50)
    assert isinstance(found, TableReport)
    assert (found.utility, found.privacy, found.reference_shape, found.num_test) == (None, None, None, 0)
    assert any("held-out" in note for note in found.notes)
    assert found.detections[0].num_rows == 50
    undefined = replace(found, mean_shape=float("nan"))
    assert undefined.to_dict()["mean_shape"] is None


def test_numbers_at_the_ends_of_float64():
    columns = (number("huge"), number("tiny"), number("same"), category("many", 5000))

    def draw(seed):
        rng = np.random.default_rng(seed)
        huge, tiny = 1.7e308 * rng.uniform(-1, 1, 80), 1e-300 * rng.normal(size=80)
        return np.stack([huge, tiny, np.full(80, 3.0), rng.integers(0, 5000, 80)], axis=1)

    for target in ("huge", "tiny"):
        found = evaluate_tables(draw(0), draw(1), columns, test=draw(2), target=target)
        figures = [(metric.real, metric.synthetic, metric.difference_error) for metric in found.utility.metrics]
        assert np.isfinite(figures).all()
        assert all(error > 0 for _, _, error in figures)
        assert 0.3 < found.privacy.membership_auc < 0.7
        assert found.coverage.by_column["huge"] > 0.9
        json.dumps(found.to_dict(), allow_nan=False)


def test_refusals_of_the_report():
    with pytest.raises(ConfigError, match="Held-out rows must be given"):
        evaluate_tables(mixed(30), mixed(30), MIXED, target="flag")
    with pytest.raises(ConfigError, match="`limit` must be at least 10"):
        evaluate_tables(mixed(30), mixed(30), MIXED, limit=3)
