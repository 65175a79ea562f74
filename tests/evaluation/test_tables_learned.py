"""Detection and utility of synthetic rows: classifiers and models against what is known of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics
from sklearn.dummy import DummyClassifier

from evaluation.tables_cases import MIXED, category, mixed, number, rows_of
from vaekit.data.tables.columns import TableColumn
from vaekit.errors import ConfigError, DataError
from vaekit.evaluation.tables import utility as utility_module
from vaekit.evaluation.tables.detection import detection
from vaekit.evaluation.tables.rows import Rows
from vaekit.evaluation.tables.statistics import area_interval, area_under_curve, share_interval
from vaekit.evaluation.tables.utility import average_precision, f1_scores, utility

# ---------------------------------------------------------------------------------------------------------- statistics


def test_area_is_that_of_pairs_with_ties():
    rng = np.random.default_rng(0)
    x, y = rng.integers(2, 9, 30), rng.integers(0, 7, 40)
    wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    area, error = area_under_curve(x, y)
    assert area == pytest.approx(wins.mean())
    assert error == pytest.approx(np.sqrt(wins.mean(1).var(ddof=1) / 30 + wins.mean(0).var(ddof=1) / 40))
    assert area_under_curve(np.ones(3), np.zeros(4)) == (1.0, 0.0)
    assert np.isnan(area_under_curve(np.ones(1), np.zeros(4))[1])


def test_area_intervals_hold_the_truth():
    rng = np.random.default_rng(1)
    truth = 0.7602499  # Phi(1 / sqrt(2)) of two unit normals 1 apart
    inside = error_inside = 0
    for _ in range(400):
        area, error = area_under_curve(rng.normal(1, 1, 40), rng.normal(0, 1, 60))
        low, high = area_interval(area, 40, 60)
        inside += low <= truth <= high
        error_inside += abs(area - truth) <= 1.96 * error
    assert inside / 400 == pytest.approx(0.95, abs=0.03)
    assert error_inside / 400 == pytest.approx(0.95, abs=0.04)
    low, high = area_interval(1.0, 30, 30)
    assert 0.9 < low < 0.95
    assert high == 1.0
    assert area_interval(0.0, 30, 30) == pytest.approx((0.0, 1 - low))


def test_share_intervals_end_where_the_score_test_does():
    low, high = share_interval(7, 20)
    for end in (low, high):
        assert abs(7 / 20 - end) == pytest.approx(1.959963985 * np.sqrt(end * (1 - end) / 20))
    assert share_interval(20, 20)[1] == 1.0
    with pytest.raises(ConfigError, match="at least one trial"):
        share_interval(0, 0)


def test_figures_of_predictions_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth, scores = rng.integers(0, 2, 200).astype(bool), rng.integers(0, 15, 200) / 15
    assert average_precision(truth, scores) == pytest.approx(metrics.average_precision_score(truth, scores))
    assert area_under_curve(scores[truth], scores[~truth])[0] == pytest.approx(metrics.roc_auc_score(truth, scores))
    truth, said = rng.integers(0, 4, 100), rng.integers(0, 4, 100)
    np.testing.assert_allclose(f1_scores(truth, said, 4), metrics.f1_score(truth, said, average=None))
    assert f1_scores(np.array([0]), np.array([0]), 3).tolist() == [1.0, 0.0, 0.0]


# ----------------------------------------------------------------------------------------------------------- detection


@pytest.mark.parametrize("classifier", ["logistic", "boosting"])
def test_halves_of_one_kind_are_not_told_apart(classifier):
    found = detection(Rows(mixed(600), MIXED), Rows(mixed(700, seed=1), MIXED), classifier=classifier, num_folds=3)
    assert found.auc == pytest.approx(0.5, abs=3 * found.auc_error)
    assert 0.01 < found.auc_error < 0.025  # sqrt(1 / (12 n) 2) for n = 600 is 0.0167
    assert found.score == 1 - 2 * (max(found.auc, 0.5) - 0.5)
    assert (found.num_rows, found.num_folds, found.classifier) == (600, 3, classifier)


def test_a_shift_is_told_by_its_likelihood_ratio():
    found = detection(
        Rows(mixed(500), (*MIXED,)), Rows(mixed(500, seed=1, shift=100.0), MIXED), classifier="logistic", num_folds=2
    )
    assert found.auc == 1.0
    assert found.score == 0.0
    rng = np.random.default_rng(0)
    columns = (number("a"),)
    sides = [rows_of(rng.normal(shift, 1, 3000), columns=columns) for shift in (0, 1)]
    found = detection(*sides, classifier="logistic", num_folds=2)
    assert found.auc == pytest.approx(0.7602499, abs=4 * found.auc_error)  # the best there can be: Phi(1 / sqrt(2))


def test_only_trees_see_how_columns_go_together():
    rng = np.random.default_rng(0)
    columns = (category("a", 2), category("b", 2))
    a, b = rng.integers(0, 2, (2, 600))
    real, made = rows_of(a, a, columns=columns), rows_of(a, b, columns=columns)
    assert detection(real, made, num_folds=2).auc == pytest.approx(0.75, abs=0.03)
    assert detection(real, made, classifier="logistic", num_folds=2).auc < 0.6


def test_repeated_rows_are_told_below_a_half():
    rows = Rows(mixed(200), MIXED)
    assert detection(rows, rows, num_folds=4).auc < 0.45
    assert detection(rows, rows, num_folds=4).score == 1.0


def test_detection_has_a_seed_and_a_limit():
    rows, made = Rows(mixed(300), MIXED), Rows(mixed(300, seed=1), MIXED)
    first, again, other = (detection(rows, made, classifier="logistic", seed=seed, limit=100) for seed in (0, 0, 1))
    assert first == again != other
    assert first.num_rows == 100


def test_missing_cells_are_told():
    rng = np.random.default_rng(0)
    columns = (number("a", missing=True),)
    values, lost = rng.normal(size=400), rng.random(400) < 0.5
    whole = rows_of(values, np.zeros(400), columns=columns)
    holed = rows_of(np.where(lost, np.nan, values), lost, columns=columns)
    for classifier in ("logistic", "boosting"):
        assert detection(whole, holed, classifier=classifier, num_folds=2).auc > 0.65


def test_without_columns_nothing_is_told():
    rows = rows_of(np.zeros(20), columns=(TableColumn(name="id", type="identifier"),))
    for classifier in ("logistic", "boosting"):
        assert detection(rows, rows, classifier=classifier).auc == 0.5


def test_refusals_of_detection():
    rows = Rows(mixed(9), MIXED)
    with pytest.raises(ConfigError, match="5 folds of 9 rows"):
        detection(rows, rows)
    with pytest.raises(ConfigError, match="`classifier` must be"):
        detection(rows, rows, classifier="svm")


# ------------------------------------------------------------------------------------------------------------- utility


def figures(found):
    return {metric.name: metric for metric in found.metrics}


def test_rows_of_one_kind_are_as_useful():
    real, made, test = (Rows(mixed(num, seed=seed), MIXED) for seed, num in enumerate((500, 500, 800)))
    found = utility(real, made, test, "flag", num_resamples=50)
    assert (found.task, found.target, found.num_real, found.num_test) == ("classification", "flag", 500, 800)
    for metric in found.metrics:
        assert metric.difference == metric.synthetic - metric.real
        assert abs(metric.difference) < 4 * metric.difference_error + 0.02
    assert set(figures(found)) == {"accuracy", "f1_macro", "f1_rarer", "auc", "average_precision"}
    assert 0.85 < figures(found)["auc"].real < 0.94  # at most Phi(2 / sqrt(2)) = 0.921


def test_shuffled_labels_are_worth_nothing():
    real, test = Rows(mixed(500), MIXED), Rows(mixed(800, seed=2), MIXED)
    cells = mixed(500, seed=1)
    cells[:, 5] = np.random.default_rng(0).permutation(cells[:, 5])
    found = figures(utility(real, Rows(cells, MIXED), test, "flag", num_resamples=50))
    assert found["auc"].synthetic == pytest.approx(0.5, abs=0.1)
    assert found["auc"].difference < -10 * found["auc"].difference_error
    assert found["average_precision"].synthetic < 0.65


def test_figures_by_a_model_of_ones_own():
    """A model that always says the same: all figures are known."""
    columns = (number("a"), category("b", 3))
    train = rows_of(np.zeros(10), [0] * 5 + [1] * 3 + [2] * 2, columns=columns)
    made = rows_of(np.zeros(10), [1] * 10, columns=columns)
    test = rows_of(np.zeros(8), [0] * 4 + [1] * 2 + [2] * 2, columns=columns)
    found = figures(utility(train, made, test, "b", model=DummyClassifier, num_resamples=200))
    assert found["accuracy"].real == 0.5
    assert found["accuracy"].synthetic == 0.25
    assert found["f1_macro"].real == pytest.approx((2 * 4 / 12) / 3)
    assert found["f1_macro"].synthetic == pytest.approx((2 * 2 / 10) / 3)
    assert found["auc"].real == found["auc"].synthetic == 0.5
    assert found["average_precision"].real == pytest.approx((0.5 + 0.25 + 0.25) / 3)
    # Of each row the difference is -1, 1 or 0 by 4, 2 and 2 of 8: the standard deviation of a mean of 8.
    assert found["accuracy"].difference_error == pytest.approx(np.sqrt((6 / 8 - (2 / 8) ** 2) / 8), rel=0.2)


def test_errors_by_smaller_resamples(monkeypatch):
    columns = (number("a"), category("b", 2))
    train = rows_of(np.zeros(10), [0] * 6 + [1] * 4, columns=columns)
    made = rows_of(np.zeros(10), [1] * 10, columns=columns)
    test = rows_of(np.zeros(1000), [0] * 600 + [1] * 400, columns=columns)
    monkeypatch.setattr(utility_module, "RESAMPLED", 50)
    found = figures(utility(train, made, test, "b", model=DummyClassifier, num_resamples=400))
    assert found["accuracy"].difference == pytest.approx(-0.2)
    assert (found["f1_rarer"].real, found["f1_rarer"].synthetic) == (0.0, pytest.approx(800 / 1400))
    assert found["average_precision"].synthetic == pytest.approx(0.4)
    assert found["accuracy"].difference_error == pytest.approx(np.sqrt((1 - 0.2**2) / 1000), rel=0.12)


def test_numbers_are_regressed():
    rng = np.random.default_rng(0)
    columns = (number("x"), number("y", missing=True))

    def draw(num, noise):
        x = rng.uniform(-1, 1, num)
        lost = rng.random(num) < 0.1
        return rows_of(x, np.where(lost, np.nan, 3 * np.sign(x) + noise * rng.normal(size=num)), lost, columns=columns)

    real, test = draw(600, 0.5), draw(600, 0.5)
    found = utility(real, draw(600, 3.0), test, "y", num_resamples=50)
    measured = figures(found)
    assert found.task == "regression"
    assert found.num_test == (test.states(1) == 0).sum()
    assert measured["rmse"].real == pytest.approx(0.5, abs=0.1)
    assert measured["r2"].real == pytest.approx(1 - 0.25 / 9.25, abs=0.02)
    assert measured["rmse"].difference > 5 * measured["rmse"].difference_error
    constant = rows_of(np.zeros(10), np.full(10, 2.0), np.zeros(10), columns=columns)
    alone = figures(utility(real, constant, test, "y", num_resamples=10))
    truth = test.numbers(1)[test.states(1) == 0]
    assert alone["rmse"].synthetic == pytest.approx(np.sqrt(np.square(truth - 2).mean()))


def test_refusals_of_utility():
    rows = Rows(mixed(20), MIXED)
    with pytest.raises(ConfigError, match="one of the measured columns size, kind, age, flag, got 'id'"):
        utility(rows, rows, rows, "id")
    many = rows_of([0.0, 1.0], columns=(category("b", 101),))
    with pytest.raises(ConfigError, match="at most 100 categories, 'b' has 101"):
        utility(many, many, many, "b")
    lost = rows_of([np.nan], [1], columns=(number("y", missing=True),))
    there = rows_of([1.0], [0], columns=(number("y", missing=True),))
    with pytest.raises(DataError, match="1 real, 0 synthetic and 1 held-out"):
        utility(there, lost, there, "y")
