"""Measures that draw examples of one value or rank models: votes, pairs, robustness, and UDR."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import Lasso

from vaekit.errors import ConfigError, DataError, MissingExtraError
from vaekit.evaluation.disentanglement import beta_vae_score, factor_vae_score, irs, udr, udr_from_similarity, unit_kl
from vaekit.evaluation.disentanglement.examples import as_examples, groups_of
from vaekit.evaluation.disentanglement.fixed import _pairs
from vaekit.evaluation.disentanglement.ranking import _lasso, _ranks, _standardised


def two_factors(num=4000, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 4, (num, 2)), rng


# --------------------------------------------------------------------------------------------------------- groups


def test_groups_hold_the_rows_of_each_value():
    factors = np.array([3, 1, 1, 3, 7, 3, 1, 8, 9, 9])
    groups = groups_of(as_examples(np.zeros((10, 1)), factors[:, None]), 0)
    assert [groups.rows(value).tolist() for value in range(3)] == [[1, 2, 6], [0, 3, 5], [8, 9]]  # 7 and 8 are alone
    rng = np.random.default_rng(0)
    drawn = groups.draw(np.array([0, 2, 1]), 200, rng)
    assert [sorted(set(row.tolist())) for row in drawn] == [[1, 2, 6], [8, 9], [0, 3, 5]]
    values = np.bincount(groups.draw_values(8000, rng)) / 8000
    np.testing.assert_allclose(values, [3 / 8, 3 / 8, 2 / 8], atol=0.03)


def test_pairs_are_two_different_rows_each_as_often_as_another():
    factors = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
    groups = groups_of(as_examples(np.zeros((10, 1)), factors[:, None]), 0)
    pairs = _pairs(groups, np.repeat([0, 1, 2], 6000), np.random.default_rng(0))
    assert (factors[pairs[:, 0]] == factors[pairs[:, 1]]).all()
    assert (pairs[:, 0] != pairs[:, 1]).all()
    seen = np.zeros((10, 10))
    np.add.at(seen, (pairs[:, 0], pairs[:, 1]), 1)
    for rows, num in ((slice(0, 3), 6), (slice(3, 5), 2), (slice(5, 10), 20)):
        part = seen[rows, rows]
        np.testing.assert_allclose(part[~np.eye(len(part), dtype=bool)], 6000 / num, rtol=0.2)


# ------------------------------------------------------------------------------------------------- votes and pairs


def test_a_factor_that_no_unit_holds():
    # The other unit is noise. With the first factor fixed, unit 0 stands still; with the second, either unit varies as
    # much as it always does, and each has half of the votes. Pairs that share the second factor still differ in unit 0.
    factors, rng = two_factors()
    noise = rng.choice([-1.5, -0.5, 0.5, 1.5], len(factors))
    codes = np.stack([factors[:, 0], noise], axis=1)
    found = factor_vae_score(codes, factors)
    assert found.accuracies[0] == 1.0
    assert found.accuracies[1] == pytest.approx(0.5, abs=0.08)
    assert found.score == pytest.approx(0.75, abs=0.04)
    assert found.units == (0, 1)
    assert beta_vae_score(codes, factors, num_train=500, num_eval=500).score == 1.0


def test_units_are_measured_by_their_own_variance():
    # Unit 1 moves a hundred times less than unit 0, whatever is fixed.
    factors, rng = two_factors()
    codes = (factors + 0.1 * rng.normal(size=factors.shape)) * [100.0, 1.0]
    found = factor_vae_score(codes, factors, num_train=200, num_eval=200)
    assert (found.score, found.units, found.chance) == (1.0, (0, 1), 0.5)
    assert beta_vae_score(codes, factors, num_train=200, num_eval=200).score == 1.0


def test_units_of_little_variance_are_pruned():
    factors, _ = two_factors()
    codes = factors / factors.std(0) * np.sqrt([1.0, 0.04])
    few = {"num_train": 200, "num_eval": 200}
    found = factor_vae_score(codes, factors, **few)
    assert (found.score, found.units, found.num_active) == (0.5, (0, None), 1)
    assert factor_vae_score(codes, factors, least_variance=0.039, **few).score == 1.0
    nothing = factor_vae_score(0.01 * codes, factors, **few)
    assert (nothing.score, nothing.units, nothing.num_active) == (0.0, (None, None), 0)
    assert factor_vae_score(1e-6 * codes, factors, least_variance=0, **few).score == 1.0


def test_memory_is_bounded_by_blocks_that_change_nothing(monkeypatch):
    from vaekit.evaluation.disentanglement import fixed

    factors, rng = two_factors(400)
    codes = factors + rng.normal(size=factors.shape) * 0.01
    plain = factor_vae_score(codes, factors, num_train=99, num_eval=99)
    monkeypatch.setattr(fixed, "_BLOCK", 1)
    assert factor_vae_score(codes, factors, num_train=99, num_eval=99) == plain
    assert beta_vae_score(codes, factors, num_train=99, num_eval=99, batch_size=8).score == 1.0


# ------------------------------------------------------------------------------------------------------------ IRS


def test_robustness_by_hand():
    # u = a + b / 2 with a, b of -1 and 1 reaches 1.5: given a it lies 0.5 off its mean, given b it lies 1 off. v = b.
    a, b = np.meshgrid([-1.0, 1.0], [-1.0, 1.0])
    a, b = a.ravel().repeat(5), b.ravel().repeat(5)
    found = irs(np.stack([a + b / 2, b], axis=1), np.stack([a > 0, b > 0], axis=1))
    np.testing.assert_allclose(found.robustness, [[2 / 3, 1 / 3], [0, 1]], atol=1e-12)
    assert found.factors == (0, 1)
    assert found.score == pytest.approx((1.5 * 2 / 3 + 1.0) / 2.5)


def test_the_quantile_forgives_a_few():
    factors = np.repeat([0, 1], 200)[:, None]
    codes = 2.0 * factors - 1.0
    codes[0] = 1.0  # one example in 200 of the value 0
    assert irs(codes, factors).score > 0.97
    strict = irs(codes, factors, quantile=1.0).score
    reach = 1 + codes.mean()
    assert strict == pytest.approx(1 - (2 * 199 / 200) / 2 / reach)


def test_values_of_one_example_do_not_count_as_robust():
    rng = np.random.default_rng(0)
    factors = np.concatenate([np.repeat([0, 1], 100), np.arange(2, 50)])[:, None]
    codes = rng.choice([-1.0, 1.0], (len(factors), 1))
    assert irs(codes, factors).score < 0.2


# ------------------------------------------------------------------------------------------------------------ UDR


def orthogonal(num=400, units=4, seed=0):
    """Codes whose columns are exactly uncorrelated, with mean 0."""
    z = np.random.default_rng(seed).normal(size=(num, units))
    return np.linalg.qr(z - z.mean(0))[0] * np.sqrt(num)


def ones(*codes):
    return [np.ones(z.shape[1]) for z in codes]


def test_udr_of_given_similarity():
    assert udr_from_similarity(np.eye(3)) == 1.0
    assert udr_from_similarity(0.9 * np.eye(3)) == pytest.approx(0.9)
    assert udr_from_similarity([[0.8], [0.2]]) == pytest.approx((0.64 / 1.0 + 0.64 / 0.8 + 0.04 / 0.2) / 3)
    assert udr_from_similarity(np.full((4, 4), 0.5)) == pytest.approx(0.125)
    assert udr_from_similarity(np.zeros((2, 2))) == 0.0
    with pytest.raises(ConfigError, match="`similarity` must be a matrix"):
        udr_from_similarity([[np.nan]])


def test_copies_up_to_order_sign_and_scale_are_found_again():
    z = orthogonal()
    copies = [z, -3.0 * z[:, [2, 0, 3, 1]], z[:, ::-1] + 5.0]
    by_lasso = udr(copies, ones(*copies))
    # A lasso on uncorrelated columns of variance 1 shrinks each coefficient by alpha, to 0.9 and to 0.
    np.testing.assert_allclose(by_lasso.pairs, 0.9 * (1 - np.eye(3)), atol=1e-9)
    assert by_lasso.scores == pytest.approx((0.9,) * 3)
    z = np.stack(np.meshgrid(*[np.arange(5.0)] * 4), axis=-1).reshape(-1, 4)  # independent, so are the ranks
    copies = [z, -(z[:, [2, 0, 3, 1]] ** 3), np.exp(z[:, ::-1])]
    assert udr(copies, ones(*copies), similarity="spearman").scores == pytest.approx((1.0,) * 3)


@pytest.mark.parametrize("similarity", ["lasso", "spearman"])
def test_models_that_share_nothing_score_low_and_rotated_ones_between(similarity):
    z = orthogonal(2000)
    strangers = [orthogonal(2000, seed=seed) for seed in range(1, 4)]
    found = udr([z, *strangers], ones(z, *strangers), similarity=similarity)
    assert max(found.scores) < 0.05
    rotations = [np.linalg.qr(np.random.default_rng(seed).normal(size=(4, 4)))[0] for seed in range(3)]
    mixed = [z @ rotation for rotation in rotations]
    turned = udr(mixed, ones(*mixed), similarity=similarity)
    assert 0.1 < min(turned.scores) <= max(turned.scores) < 0.75


def test_the_best_is_the_one_that_most_others_agree_with():
    z = orthogonal()
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    models = [z @ rotation, z, z[:, ::-1], -z]
    found = udr(models, ones(*models))
    assert found.best == 1
    assert found.scores[0] < 0.7 < 0.85 < min(found.scores[1:])
    others = [found.pairs[1][j] for j in (0, 2, 3)]
    assert found.scores[1] == pytest.approx(np.median(others))


def test_uninformative_and_constant_units_take_no_part():
    z = orthogonal(units=3)
    noise = np.random.default_rng(9).normal(size=(400, 2))
    first = np.concatenate([z, noise], axis=1)
    second = np.concatenate([np.full((400, 1), 0.1), z[:, ::-1]], axis=1)
    found = udr([first, second], [[1, 1, 1, 0.01, 0], [2.0, 1, 1, 1]])
    assert found.num_informative == (3, 3)
    assert found.scores == pytest.approx((0.9, 0.9))
    assert udr([first, second], [[1, 1, 1, 0.01, 0], [2.0, 1, 1, 1]], least_kl=0.0).num_informative == (4, 3)
    collapsed = udr([z, noise], [np.ones(3), np.zeros(2)])
    assert (collapsed.scores, collapsed.num_informative) == ((0.0, 0.0), (3, 0))


def test_numbers_of_units_may_differ():
    z = orthogonal(units=4)
    found = udr([z, z[:, :2]], ones(z, z[:, :2]))
    # rows 0.9, 0.9, 0, 0 and columns 0.9, 0.9: 4 * 0.9 / 6
    assert found.scores == pytest.approx((0.6, 0.6))


def test_similarities_are_those_of_scipy_and_scikit_learn():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, (50, 3)).astype(float), rng.normal(size=(50, 2))  # with equal numbers
    ranked = np.array([[stats.spearmanr(a[:, i], b[:, j])[0] for j in range(2)] for i in range(3)])
    np.testing.assert_allclose(np.corrcoef(_ranks(a).T, _ranks(b).T)[:3, 3:], ranked)
    found = udr([a, b], ones(a, b), similarity="spearman")
    assert found.scores[0] == pytest.approx(udr_from_similarity(np.abs(ranked)))
    x, y = _standardised(a), _standardised(b @ [[1.0, 0.2], [0.0, 1.0]] + a[:, :2])
    expected = np.abs([Lasso(alpha=0.1).fit(x, y[:, j]).coef_ for j in range(2)]).T
    np.testing.assert_allclose(_lasso(x, y), expected, atol=1e-4)
    one = _lasso(x, y[:, :1])
    assert one.shape == (3, 1)
    np.testing.assert_allclose(one, expected[:, :1], atol=1e-4)


def test_the_kl_of_units_is_that_of_torch():
    rng = np.random.default_rng(0)
    mean, scale = rng.normal(size=(30, 4)), rng.uniform(0.1, 2, (30, 4))
    normal = torch.distributions.Normal
    q = normal(torch.from_numpy(mean), torch.from_numpy(scale))
    expected = torch.distributions.kl_divergence(q, normal(torch.zeros(4).double(), torch.ones(4).double())).mean(0)
    np.testing.assert_allclose(unit_kl(mean, scale), expected.numpy())
    with pytest.raises(DataError, match=r"the scales above 0, got the shapes \(30, 4\) and \(30, 4\) and the least scale 0.0"):
        unit_kl(mean, 0 * scale)
    with pytest.raises(DataError, match="Means and scales must be"):
        unit_kl(mean, scale[:, :1])


def test_model_i_is_predicted_from_model_j():
    z = orthogonal(units=2)
    sums = np.stack([z[:, 0] + 0.5 * z[:, 1], z[:, 1]], axis=1)
    found = udr([z, sums], ones(z, sums))
    assert found.pairs[0][1] == pytest.approx(udr_from_similarity(_lasso(_standardised(sums), _standardised(z))))
    assert found.pairs[0][1] != pytest.approx(found.pairs[1][0], abs=1e-3)


@pytest.mark.parametrize(
    ("codes", "kl", "error", "words"),
    [
        ([np.eye(10)], [np.ones(10)], DataError, "at least 2 models, got 1 and 1"),
        ([np.eye(10)] * 2, [np.ones(10)], DataError, "at least 2 models, got 2 and 1"),
        ([np.eye(10)] * 2, [np.ones(9)] * 2, DataError, r"Model 0 must have codes .* \(10, 10\) and \(9,\)"),
        ([np.eye(9)] * 2, [np.ones(9)] * 2, DataError, "at least 10 examples"),
        ([np.eye(10), np.eye(11)], [np.ones(10), np.ones(11)], DataError, "model 0 has 10 and model 1 has 11"),
        ([np.eye(10), np.full((10, 10), np.nan)], [np.ones(10)] * 2, DataError, "those of model 1 are not"),
        ([np.eye(10)] * 2, [np.ones(10), np.full(10, np.inf)], DataError, "those of model 1 are not"),
    ],
)
def test_models_that_cannot_be_ranked(codes, kl, error, words):
    with pytest.raises(error, match=words):
        udr(codes, kl)


def test_settings_of_udr(monkeypatch):
    z = orthogonal()
    with pytest.raises(ConfigError, match="`similarity` must be `lasso` or `spearman`, got 'pearson'"):
        udr([z, z], ones(z, z), similarity="pearson")
    with pytest.raises(ConfigError, match="`least_kl` must be at least 0 nats, got -1"):
        udr([z, z], ones(z, z), least_kl=-1)
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(MissingExtraError, match="UDR by lasso needs the package `sklearn`"):
        udr([z, z], ones(z, z))
    assert udr([z, z], ones(z, z), similarity="spearman").scores[0] > 0.9
