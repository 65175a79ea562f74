"""Measures of disentanglement on codes whose scores are known by hand; the formulas on given matrices."""

from __future__ import annotations

import itertools
import json
import math
import sys

import numpy as np
import pytest
from sklearn import metrics
from sklearn.ensemble import RandomForestClassifier

from vaekit.errors import ConfigError, DataError, MissingExtraError
from vaekit.evaluation.disentanglement import (
    beta_vae_score,
    dci,
    dci_from_importance,
    evaluate_disentanglement,
    factor_vae_score,
    irs,
    irs_from_robustness,
    mig,
    mig_from_information,
    modularity,
    modularity_from_information,
    sap,
    sap_from_scores,
    threshold_accuracy,
)
from vaekit.evaluation.disentanglement.examples import as_examples
from vaekit.evaluation.disentanglement.importance import _gains, _shares_by_depth
from vaekit.evaluation.disentanglement.information import binned, factor_entropies, mutual_information

LN2 = math.log(2)
FEW = {"num_train": 600, "num_eval": 600, "batch_size": 32}


def entropy(*shares):
    return -sum(p * math.log(p) for p in shares if p > 0)


def grid(*num_values, copies=1):
    """Every combination of the factors' values, each so many times."""
    axes = np.meshgrid(*(np.arange(num) for num in num_values), indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, len(num_values)).repeat(copies, 0)


def signs(copies=25):
    """Two independent factors, -1 or 1 as codes."""
    factors = grid(2, 2, copies=copies)
    return 2.0 * factors - 1.0, factors


def rotated(codes):
    return codes @ np.array([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2)


# ------------------------------------------------------------------------------------------------------- formulas


def test_mig_of_given_information():
    information = [[0.6, 0.0, 0.1], [0.2, 0.5, 0.1], [0.1, 0.3, 0.0]]
    assert mig_from_information(information, [1.0, 0.5, 2.0]) == pytest.approx((0.4 / 1 + 0.2 / 0.5 + 0.0 / 2) / 3)
    assert mig_from_information([[0.6, 0.3]], [1.0, 0.5]) == pytest.approx(0.6)  # a single unit leads by all it knows


def test_modularity_of_given_information():
    found = modularity_from_information([[2.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    assert found.units == (pytest.approx(1 - (1 / 4) / 2), 0.0, 1.0, None)
    assert found.score == pytest.approx((0.875 + 0.0 + 1.0) / 3)
    assert modularity_from_information(np.zeros((2, 2))).score == 0.0
    tiny = modularity_from_information([[2e-200, 1e-200]])  # squares would be 0
    assert tiny.score == pytest.approx(0.75)


def test_dci_of_given_importance():
    found = dci_from_importance([[0.75, 0.0, 0.5], [0.25, 1.0, 0.5], [0.0, 0.0, 0.0]])
    units = [1 - entropy(0.6, 0.4) / math.log(3), 1 - entropy(1 / 7, 4 / 7, 2 / 7) / math.log(3), 0.0]
    factors = [1 - entropy(0.75, 0.25) / math.log(3), 1.0, 1 - LN2 / math.log(3)]
    assert found.units == pytest.approx(units)
    assert found.factors == pytest.approx(factors)
    assert found.disentanglement == pytest.approx((1.25 * units[0] + 1.75 * units[1]) / 3)
    assert found.completeness == pytest.approx(sum(factors) / 3)


def test_completeness_weighs_factors_by_their_importance_and_nothing_scores_nothing():
    found = dci_from_importance([[3.0, 0.0, 0.5], [0.0, 0.0, 0.5]])
    assert found.factors == (1.0, 0.0, 0.0)
    assert found.completeness == pytest.approx(3 / 4)
    nothing = dci_from_importance(np.zeros((3, 2)))
    assert (nothing.disentanglement, nothing.completeness) == (0.0, 0.0)
    lone = dci_from_importance([[0.5, 0.5]])
    assert (lone.disentanglement, lone.completeness) == (pytest.approx(0.0), 1.0)


def test_a_factor_in_two_units_is_disentangled_but_not_complete():
    found = dci_from_importance([[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]])
    assert found.disentanglement == pytest.approx(1.0)
    assert found.completeness == pytest.approx((1 - LN2 / math.log(3) + 1) / 2)


def test_sap_and_irs_of_given_matrices():
    assert sap_from_scores([[0.9, 0.5], [0.4, 0.7], [0.6, 0.5]]) == pytest.approx((0.3 + 0.2) / 2)
    assert irs_from_robustness([[0.5, 0.25], [0.0, 1.0], [0.9, 0.0]], [2.0, 1.0, 0.0]) == pytest.approx((1.0 + 1.0) / 3)
    assert irs_from_robustness([[0.0]], [0.0]) == 0.0


@pytest.mark.parametrize("seed", range(6))
def test_thresholds_are_the_best_there_are(seed):
    rng = np.random.default_rng(seed)
    cells, num_values = 7, 2 + seed % 3
    counts = rng.integers(0, 5, (cells, num_values))
    counts[0] += 1
    share = counts / counts.sum(0) / num_values
    best = max(
        sum(share[cell, label] for cell, label in enumerate(labels))
        for labels in itertools.product(range(num_values), repeat=cells)
        if sum(a != b for a, b in itertools.pairwise(labels)) < num_values
    )
    assert threshold_accuracy(counts) == pytest.approx(best)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mig_from_information([[1.0]], [0.0]), "`entropies` must be a number > 0 for each of 1 factors"),
        (lambda: mig_from_information([1.0], [1.0]), r"`information` must be a matrix \(D, F\)"),
        (lambda: modularity_from_information([[1.0]]), "at least 2 factors, got 1"),
        (lambda: dci_from_importance([[-1.0]]), "`importance` must be a matrix"),
        (lambda: dci_from_importance([[math.nan]]), "`importance` must be a matrix"),
        (lambda: sap_from_scores(np.zeros((0, 2))), r"got the shape \(0, 2\)"),
        (lambda: irs_from_robustness([[1.0]], [-1.0]), "`reach` must be a number >= 0"),
    ],
)
def test_matrices_that_cannot_be(call, words):
    with pytest.raises(ConfigError, match=words):
        call()


# ---------------------------------------------------------------------------------------------------- information


def test_mig_of_a_joint_table_in_closed_form():
    # p(u, v) = (1/2 - q, q; q, 1/2 - q) has I = ln 2 - H(2q); the two units have q = 0.1 and q = 0.2.
    v = np.repeat([0, 1], 50)
    units = np.stack([(np.arange(100) % 50 < 10) != v, (np.arange(100) % 50 < 20) != v], axis=1)
    found = mig(units, v[:, None])
    assert found.information == (pytest.approx((LN2 - entropy(0.2, 0.8),)), pytest.approx((LN2 - entropy(0.4, 0.6),)))
    assert found.entropies == pytest.approx((LN2,))
    assert found.score == pytest.approx((entropy(0.4, 0.6) - entropy(0.2, 0.8)) / LN2)
    assert found.units == (0,)


def test_information_is_that_of_scikit_learn_with_the_bins_of_the_large_study():
    rng = np.random.default_rng(0)
    factors = np.stack([rng.integers(0, 5, 500), rng.choice([2, 7, 11], 500)], axis=1)
    codes = rng.normal(size=(500, 3)) + factors[:, :1] * [1.0, 0.3, 0.0]
    found = mutual_information(as_examples(codes, factors))
    for unit, factor in itertools.product(range(3), range(2)):
        bins = np.digitize(codes[:, unit], np.histogram(codes[:, unit], 20)[1][:-1])
        np.testing.assert_array_equal(binned(codes[:, unit], 20), bins - 1)
        assert found[unit, factor] == pytest.approx(metrics.mutual_info_score(bins, factors[:, factor]))
    assert factor_entropies(as_examples(codes, factors))[1] == pytest.approx(
        metrics.mutual_info_score(factors[:, 1], factors[:, 1])
    )


def test_fewer_bins_than_values_lose_information():
    factors = grid(4, 4)
    assert mig(factors, factors, num_bins=2).score == pytest.approx(LN2 / math.log(4))


# ------------------------------------------------------------------------------------------- codes known by hand


def all_scores(codes, factors, **options):
    found = {
        "mig": mig(codes, factors).score,
        "sap": sap(codes, factors).score,
        "modularity": modularity(codes, factors).score,
        "irs": irs(codes, factors).score,
        "factor_vae": factor_vae_score(codes, factors, **FEW).score,
        "beta_vae": beta_vae_score(codes, factors, **FEW).score,
    }
    parts = dci(codes, factors, **options)
    return found | {
        "disentanglement": parts.disentanglement,
        "completeness": parts.completeness,
        "informativeness": parts.informativeness,
    }


def test_codes_that_are_the_factors():
    factors = grid(4, 5, 2, copies=6)
    found = all_scores(factors, factors)
    assert found.pop("sap") == pytest.approx((3 / 4 + 4 / 5 + 1 / 2) / 3)  # the second best unit is right by chance
    assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=1e-9)


@pytest.mark.parametrize("predictor", ["forest", "boosting"])
def test_dci_of_the_factors_by_both_predictors(predictor):
    factors = grid(3, 4, copies=10)
    found = dci(-7.0 * factors[:, ::-1], factors, predictor=predictor)
    assert (found.disentanglement, found.completeness, found.informativeness) == pytest.approx((1.0, 1.0, 1.0), abs=1e-6)
    np.testing.assert_allclose(found.importance, [[0, 1], [1, 0]], atol=1e-6)
    assert found.predictor == predictor


def test_a_rotation_by_45_degrees():
    # u = (a + b) / sqrt 2 is -sqrt 2, 0 or sqrt 2 with probability 1/4, 1/2, 1/4: I(u; a) = ln 2 - ln 2 / 2 for both units and
    # both factors. The best threshold is right for 3/4. Given a, u lies 1 / sqrt 2 off its mean, and sqrt 2 at most without.
    # The difference of codes is as large in both units whichever factor is fixed, so votes and points are of chance.
    codes, factors = signs()
    found = mig(rotated(codes), factors)
    np.testing.assert_allclose(found.information, np.full((2, 2), LN2 / 2))
    assert found.score == pytest.approx(0.0)
    assert modularity(rotated(codes), factors).score == pytest.approx(0.0)
    assert sap(rotated(codes), factors).score == pytest.approx(0.0)
    np.testing.assert_allclose(sap(rotated(codes), factors).scores, np.full((2, 2), 0.75))
    assert irs(rotated(codes), factors).score == pytest.approx(0.5)
    many, of_many = signs(copies=2500)
    noisy = rotated(many) + np.random.default_rng(0).normal(size=many.shape) * 0.1  # or else all votes are ties
    assert factor_vae_score(noisy, of_many, num_train=2000, num_eval=2000).score == pytest.approx(0.5, abs=0.08)
    assert beta_vae_score(noisy, of_many, **FEW).score == pytest.approx(0.5, abs=0.1)
    parts = dci(rotated(codes), factors)
    # The first split of a tree by either unit gains 1/2 of the information (of one side), the second the other half.
    assert parts.disentanglement < 0.1
    assert parts.completeness < 0.1
    assert parts.informativeness == 1.0


def test_a_factor_that_two_units_hold():
    codes, factors = signs()
    twice = codes[:, [0, 0, 1]]
    assert mig(twice, factors).gaps == pytest.approx((0.0, 1.0))
    assert sap(twice, factors).gaps == pytest.approx((0.0, 0.5))
    assert modularity(twice, factors).score == 1.0
    assert irs(twice, factors).score == 1.0
    assert factor_vae_score(twice, factors, **FEW).score == 1.0
    parts = dci(twice, factors)
    assert parts.disentanglement == pytest.approx(1.0)
    assert parts.factors[1] == pytest.approx(1.0)
    # each of 20 trees takes one of the two at random: 1 - H(k/20) / ln 3, which is least at k = 10
    share = parts.importance[0][0]
    assert 0 < share < 1
    assert parts.factors[0] == pytest.approx(1 - entropy(share, 1 - share) / math.log(3))


def test_random_codes_score_by_chance():
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 4, (3000, 3))
    codes = rng.uniform(-1, 1, (3000, 5))
    found = all_scores(codes, factors)
    assert found["mig"] < 0.01
    assert found["sap"] < 0.05
    assert found["irs"] < 0.05
    assert found["factor_vae"] == pytest.approx(1 / 3, abs=0.08)
    assert found["beta_vae"] == pytest.approx(1 / 3, abs=0.08)
    assert found["informativeness"] == pytest.approx(1 / 4, abs=0.04)


@pytest.fixture(scope="module")
def middling():
    """Codes of a model that is neither good nor bad: noise, a mixture of factors, a unit of noise alone."""
    rng = np.random.default_rng(3)
    factors = rng.integers(0, [3, 4], (900, 2))
    codes = factors @ [[1.0, 0.4, 0.0], [0.1, 1.0, 0.0]] + 0.4 * rng.normal(size=(900, 3))
    return codes, factors


def test_order_and_scale_of_units_do_not_matter(middling):
    codes, factors = middling
    plain = all_scores(codes, factors)
    assert 0.05 < plain["mig"] < 0.9
    order = [2, 0, 1]
    changed = all_scores(codes[:, order] * [0.5, 4.0, 2.0], factors)
    assert {"irs", "disentanglement", "completeness"} < set(plain)
    irs_of_plain, irs_of_changed = plain.pop("irs"), changed.pop("irs")  # weighs units by how far they reach
    assert irs_of_changed != pytest.approx(irs_of_plain, abs=1e-3)
    assert irs(codes * 4, factors).score == pytest.approx(irs_of_plain)
    loose = {"beta_vae", "disentanglement", "completeness", "informativeness"}  # a solver that stops, trees that draw
    for name, score in plain.items():
        assert changed[name] == pytest.approx(score, abs=0.03 if name in loose else 1e-9), name


def test_names_of_values_do_not_matter(middling):
    codes, factors = middling
    renamed = np.array([[7, 100], [0, 5], [90, 6], [0, 0]])[factors, [0, 1]]
    assert mig(codes, renamed).score == pytest.approx(mig(codes, factors).score)
    assert sap(codes, renamed).score == pytest.approx(sap(codes, factors).score)
    assert irs(codes, renamed).score == pytest.approx(irs(codes, factors).score)


def test_constant_units_know_nothing():
    codes, factors = signs()
    with_constant = np.concatenate([codes, np.full((len(codes), 2), 0.3)], axis=1)
    found = all_scores(with_constant, factors)
    assert found.pop("sap") == 0.5
    assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=1e-9)
    assert modularity(with_constant, factors).units[2:] == (None, None)
    assert factor_vae_score(with_constant, factors, **FEW).units == (0, 1, None, None)


def test_a_model_whose_units_are_all_constant():
    _, factors = signs()
    found = all_scores(np.full((100, 3), 0.1), factors)
    assert found.pop("informativeness") == pytest.approx(0.5, abs=0.2)
    assert found.pop("beta_vae") == pytest.approx(0.5, abs=0.05)
    assert found == dict.fromkeys(found, 0.0)


# ------------------------------------------------------------------------------------------------------ DCI, SAP


def test_noise_has_no_share_in_the_importance_by_forests():
    # Neighbouring values overlap, so trees that grow to the end split by noise.
    rng = np.random.default_rng(0)
    factors = rng.integers(0, [10, 10], (3000, 2))
    codes = np.concatenate([factors + 0.6 * rng.normal(size=(3000, 2)), rng.normal(size=(3000, 4))], axis=1)
    found = dci(codes, factors)
    assert found.disentanglement > 0.85
    assert found.completeness > 0.85
    full = RandomForestClassifier(20, max_features=None, random_state=0).fit(codes[:1600], factors[:1600, 0])
    assert full.feature_importances_[2:].sum() > 0.3 > 0.1 > np.array(found.importance)[2:, 0].sum()
    # No classifier can do better than to take the nearest value.
    nearest = (np.rint(codes[:, 0]).clip(0, 9) == factors[:, 0]).mean()
    assert found.accuracies[0] == pytest.approx(nearest, abs=0.06)


def test_trees_that_are_not_cut_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 3)), rng.integers(0, 3, 200)
    forest = RandomForestClassifier(3, criterion="entropy", max_depth=12, random_state=0).fit(x, y)
    for estimator in forest.estimators_:
        gains = _gains(estimator.tree_, 3, 12)
        np.testing.assert_allclose(gains / gains.sum(), estimator.feature_importances_)
        shares = _shares_by_depth(estimator.tree_, x)
        np.testing.assert_allclose(shares[-1], estimator.predict_proba(x))
        assert (shares[0] == shares[0][0]).all()  # the root
        assert _gains(estimator.tree_, 3, 0).sum() == 0
    stump = RandomForestClassifier(1, criterion="entropy", max_depth=2, random_state=0).fit(x, y).estimators_[0]
    deep = RandomForestClassifier(1, criterion="entropy", random_state=0).fit(x, y).estimators_[0]
    assert deep.tree_.feature[0] == stump.tree_.feature[0]


def test_dci_looks_at_no_more_than_it_is_told(middling):
    codes, factors = middling
    assert dci(codes, factors, most=60, seed=1) != dci(codes, factors, most=60, seed=2)
    assert dci(codes, factors, most=60, seed=1) == dci(codes, factors, most=60, seed=1)


def test_sap_of_numbers_is_the_squared_correlation(middling):
    codes, factors = middling
    found = sap(codes, factors, continuous=(1,))
    expected = np.array([np.corrcoef(codes[:, unit], factors[:, 1])[0, 1] ** 2 for unit in range(3)])
    np.testing.assert_allclose(np.array(found.scores)[:, 1], expected)
    np.testing.assert_allclose(np.array(found.scores)[:, 0], np.array(sap(codes, factors).scores)[:, 0])
    ordered = np.sort(expected)
    assert found.gaps[1] == pytest.approx(ordered[-1] - ordered[-2])
    constant = sap(np.full((900, 1), 0.1), factors, continuous=(0, 1))
    assert constant.score == 0.0


def test_sap_with_many_codes_is_nearly_exact():
    # Classes N(-1, 1) and N(1, 1): the best threshold is 0, and right with probability Phi(1) = 0.8413.
    rng = np.random.default_rng(0)
    factors = np.repeat([0, 1], 20_000)[:, None]
    codes = rng.normal(size=(40_000, 1)) + 2.0 * factors - 1.0
    assert sap(codes, factors).scores[0][0] == pytest.approx(0.8413, abs=0.005)


# ------------------------------------------------------------------------------------------------------- report


def test_the_report_has_every_score_and_goes_into_json(middling):
    codes, factors = middling
    seen = []
    found = evaluate_disentanglement(
        codes, factors, names=("shape", "x"), continuous=(1,), chance=True, seed=5, progress=lambda *at: seen.append(at)
    )
    assert seen == [(done, 14) for done in range(1, 15)]
    assert found.mig == mig(codes, factors)
    assert found.sap == sap(codes, factors, continuous=(1,))
    assert found.irs == irs(codes, factors)
    assert found.dci == dci(codes, factors, seed=5)
    assert found.factor_vae == factor_vae_score(codes, factors, seed=5)
    said = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert next(iter(said)) == "scores"
    assert said["scores"] == found.scores
    assert set(found.scores) == {
        "mig", "dci_disentanglement", "dci_completeness", "dci_informativeness", "sap", "factor_vae", "beta_vae",
        "modularity", "irs",
    }  # fmt: skip
    assert said["factors"] == ["shape", "x"]
    assert said["unit_variances"] == pytest.approx(codes.var(0).tolist())
    assert (said["active_units"], said["num_examples"], said["seed"]) == (3, 900, 5)
    assert found.notes == ("With 900 examples, figures do not compare with published ones, which are of 10,000 or more.",)
    assert set(found.chance) == set(found.scores)
    assert found.chance["mig"] < 0.05 < found.scores["mig"]
    assert found.chance["factor_vae"] == pytest.approx(0.5, abs=0.15)


def test_the_report_says_what_was_pruned_and_its_seed_is_all_its_chance(middling):
    codes, factors = middling
    small = codes * [1.0, 1.0, 0.1]
    found = evaluate_disentanglement(small, factors)
    assert found.notes[0] == (
        "1 of 3 units are constant or have a variance below 0.05, and take no part in the FactorVAE score."
    )
    assert found.factors == ("factor 0", "factor 1")
    assert found.chance is None
    assert evaluate_disentanglement(small, factors) == found
    assert evaluate_disentanglement(small, factors, least_variance=0.0).factor_vae.num_active == 3


def test_tensors_and_lists_are_arrays():
    torch = pytest.importorskip("torch")
    factors = grid(3, 4)
    assert mig(torch.from_numpy(factors).float(), factors.tolist()).score == pytest.approx(1.0)


EVERY = [mig, sap, modularity, irs, factor_vae_score, beta_vae_score, dci, evaluate_disentanglement]


@pytest.mark.parametrize("measure", EVERY)
def test_what_cannot_be_measured_is_said(measure):
    codes, factors = signs()
    with pytest.raises(DataError, match=r"`codes` \(N, D\) and `factors` \(N, F\) .* got the shapes \(100, 2\) and \(99, 2\)"):
        measure(codes, factors[:-1])
    with pytest.raises(DataError, match=r"got the shapes \(100,\) and \(100, 2\)"):
        measure(codes[:, 0], factors)
    with pytest.raises(DataError, match="at least 10 examples, found 9"):
        measure(codes[:9], factors[:9])
    with pytest.raises(DataError, match="at least 1 unit"):
        measure(codes[:, :0], factors)
    for bad in (math.nan, math.inf, 1e200):
        wrong = codes.copy()
        wrong[7, 1] = bad
        with pytest.raises(DataError, match=r"must be finite numbers below 1e\+100, found .* in row 7, unit 1"):
            measure(wrong, factors)
    with pytest.raises(DataError, match="at least 2 values, factor 1 is always 0. Leave it out"):
        measure(codes, factors * [1, 0])
    with pytest.raises(DataError, match="must be known, found -1 in row 0, factor 0"):
        measure(codes, factors - 1)
    with pytest.raises(DataError, match="`factors` must be whole numbers, found the dtype float64"):
        measure(codes, factors / 2)
    with pytest.raises(DataError, match="`codes` must be real numbers, found the dtype complex128"):
        measure(codes + 1j, factors)


@pytest.mark.parametrize("measure", [modularity, factor_vae_score, beta_vae_score, dci, evaluate_disentanglement])
def test_some_need_two_factors(measure):
    codes, factors = signs()
    with pytest.raises(DataError, match="2 of the factors, found 2 and 1"):
        measure(codes, factors[:, :1])


@pytest.mark.parametrize("measure", [irs, factor_vae_score, beta_vae_score])
def test_some_need_examples_that_share_a_value(measure):
    factors = np.stack([np.arange(20), np.arange(20) % 2], axis=1)
    with pytest.raises(DataError, match="none do of factor 0"):
        measure(factors, factors)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda z, v: mig(z, v, num_bins=1), "`num_bins` must be at least 2, got 1"),
        (lambda z, v: modularity(z, v, num_bins=0), "`num_bins` must be at least 2"),
        (lambda z, v: sap(z, v, continuous=(2, 0)), r"places of the 2 factors, got \[2\]"),
        (lambda z, v: dci(z, v, predictor="lasso"), "`predictor` must be `forest` or `boosting`, got 'lasso'"),
        (lambda z, v: dci(z, v, most=5), "`most` must be at least 30, got 5"),
        (lambda z, v: irs(z, v, quantile=0.0), "`quantile` must be above 0"),
        (lambda z, v: factor_vae_score(z, v, batch_size=1), "`batch_size` must be at least 2"),
        (lambda z, v: factor_vae_score(z, v, num_eval=1), "`num_eval` must be at least 2"),
        (lambda z, v: factor_vae_score(z, v, least_variance=math.nan), "`least_variance` must be at least 0"),
        (lambda z, v: beta_vae_score(z, v, num_train=0), "`num_train` must be at least 2"),
        (lambda z, v: evaluate_disentanglement(z, v, names=("a",)), "`names` must name each of the 2 factors, got 1"),
    ],
)
def test_settings_that_cannot_be(call, words):
    with pytest.raises(ConfigError, match=words):
        call(*signs())


def test_dci_needs_thirty_examples():
    codes, factors = signs(copies=5)
    with pytest.raises(DataError, match="at least 30 examples, found 20"):
        dci(codes, factors)


@pytest.mark.parametrize(("measure", "part"), [(dci, "ensemble"), (beta_vae_score, "linear_model")])
def test_scikit_learn_is_an_extra(monkeypatch, measure, part):
    monkeypatch.setitem(sys.modules, f"sklearn.{part}", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vaekit\[sklearn\]'"):
        measure(*signs())
