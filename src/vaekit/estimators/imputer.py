"""Missing cells, by what the others of their row say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from vaekit.data import loading
from vaekit.errors import DataError
from vaekit.estimators.base import VAEEstimator
from vaekit.estimators.scoring import weighted
from vaekit.objectives import Objective


class VAEImputer(OneToOneFeatureMixin, TransformerMixin, VAEEstimator):
    """Fills cells that are NaN with their expectation given the rest of the row.

        E[x_miss|x_obs] = sum_k w_k E[x_miss|z_k] / sum_k w_k,   w_k = p(x_obs|z_k) p(z_k) / q(z_k|x_obs)

    The model is trained on what is observed, of which a random part is hidden in half of the rows, so that q(z|x_obs) learns
    to infer from any part of a row. Mattei, Frellsen, "MIWAE: deep generative modelling and imputation of incomplete data sets"
    (2019), section 2.3. Cells are taken to be missing at random. Columns of categories and dates are for `vaekit impute`, which
    also draws several imputations.

    Args:
        n_components: D, the number of latent units; None for half the number of columns, at most 32.
        num_samples: K, candidates of the latent a row; more is nearer to the exact expectation, and slower.
        recipe, hidden, likelihood, objective, beta, max_steps, learning_rate, batch_size, validation_fraction, patience,
            random_state, verbose, device: see `vaekit.estimators.base.VAEEstimator`.

    Example:
        >>> z = np.random.default_rng(0).normal(size=(300, 1))
        >>> X = z * [[1.0, -2.0, 3.0]]
        >>> holed = np.where(np.random.default_rng(1).random(X.shape) < 0.2, np.nan, X)
        >>> filled = VAEImputer(max_steps=300, random_state=0).fit_transform(holed)
        >>> bool(np.isfinite(filled).all()), bool((filled == holed)[~np.isnan(holed)].all())
        (True, True)
    """

    _missing = True
    _hide = 0.5

    def __init__(
        self,
        n_components: int | None = None,
        *,
        num_samples: int = 64,
        recipe: str = "auto",
        hidden: Sequence[int] | None = None,
        likelihood: str = "normal",
        objective: Objective | str | None = None,
        beta: float = 1.0,
        max_steps: int = 1000,
        learning_rate: float = 5e-3,
        batch_size: int = 128,
        validation_fraction: float = 0.1,
        patience: int = 5,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        device: str = "cpu",
    ) -> None:
        super().__init__(
            n_components,
            recipe=recipe,
            hidden=hidden,
            likelihood=likelihood,
            objective=objective,
            beta=beta,
            max_steps=max_steps,
            learning_rate=learning_rate,
            batch_size=batch_size,
            validation_fraction=validation_fraction,
            patience=patience,
            random_state=random_state,
            verbose=verbose,
            device=device,
        )
        self.num_samples = num_samples

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def fit(self, X: Any, y: Any = None) -> Self:
        """Trains the model on the cells that are there.

        Args:
            X: (N, D) numbers, NaN where missing.
            y: not used.

        Raises:
            DataError: if a column has no value.
        """
        X = self._validated(X, reset=True)
        empty = np.flatnonzero(np.isnan(X).all(axis=0))
        if len(empty):
            raise DataError(f"Every column must have a value, found none in column {empty[0]}. Leave out {len(empty)} of them.")
        self.model_ = self._fit_model(self._opened(X), self._random_seed())
        self.n_iter_ = self.model_.bundle.training["steps"]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """(N, D) without NaN: cells that are there stay as they are, to the last bit.

        Args:
            X: (N, D) numbers, NaN where missing.
        """
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        filled, holes = np.array(X), np.isnan(X)
        todo = np.flatnonzero(holes.any(axis=1))
        for start in range(0, len(todo), 4096):
            rows = todo[start : start + 4096]
            part = loading.conform(X[rows], self.model_.schema, missing="nan")
            _, expected = weighted(self.model_, part, self.num_samples, fill=True)
            assert expected is not None
            filled[rows] = np.where(holes[rows], expected, X[rows])
        return filled
