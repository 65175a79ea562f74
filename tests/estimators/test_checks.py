"""scikit-learn's own checks, all of them, for every estimator."""

from __future__ import annotations

from sklearn.utils.estimator_checks import parametrize_with_checks

from vaekit.estimators import VAEDensity, VAEImputer, VAEOutlier, VAETransformer

# Small networks and few steps: the checks are about behaviour, and fit each estimator some sixty times.
SMALL = {"max_steps": 6, "hidden": [4]}


@parametrize_with_checks(
    [
        VAETransformer(**SMALL),
        VAEDensity(**SMALL, num_samples=4),
        VAEOutlier(**SMALL, n_estimators=2),
        VAEImputer(**SMALL, num_samples=4),
    ]
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)
