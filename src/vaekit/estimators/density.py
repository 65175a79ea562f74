"""The density of rows, and new ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from vaekit.data import loading
from vaekit.estimators.base import VAEEstimator
from vaekit.estimators.scoring import weighted
from vaekit.objectives import Objective


class VAEDensity(DensityMixin, VAEEstimator):
    """Density estimation by a VAE: log p(x) of rows, and rows drawn from p(x).

    `score_samples` gives the importance-weighted bound on log p(x) with `num_samples` samples, which rises to log p(x) with
    their number: Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders" (2016), equation 8. The noise of the samples
    is the same for every row, so that a row has one score, alone and in any company.

    Args:
        n_components: D, the number of latent units; None for half the number of columns, at most 32.
        num_samples: K, samples of the latent a row when scoring; more is tighter and slower.
        recipe, hidden, likelihood, objective, beta, max_steps, learning_rate, batch_size, validation_fraction, patience,
            random_state, verbose, device: see `vaekit.estimators.base.VAEEstimator`.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(300, 2)) * [1.0, 3.0] + 5.0
        >>> density = VAEDensity(max_steps=200, random_state=0).fit(X)
        >>> inside, outside = density.score_samples([[5.0, 5.0], [12.0, 5.0]])
        >>> bool(inside > outside), density.sample(4).shape
        (True, (4, 2))
    """

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

    def fit(self, X: Any, y: Any = None) -> Self:
        """Trains the model.

        Args:
            X: (N, D) numbers: an array, a frame, or a sparse matrix.
            y: not used.
        """
        X = self._validated(X, reset=True)
        self.model_ = self._fit_model(self._opened(X), self._random_seed())
        self.n_iter_ = self.model_.bundle.training["steps"]
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """(N,) float64: the bound on log p(x) of each row, in nats.

        Args:
            X: (N, D) numbers.
        """
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        schema = self.model_.schema
        parts = (loading.conform(part, schema) for part in self._dense_parts(X))
        return np.concatenate([weighted(self.model_, part, self.num_samples)[0] for part in parts])

    def score(self, X: Any, y: Any = None) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The mean of `score_samples`, so that data of any size compare.

        Args:
            X: (N, D) numbers.
            y: not used.
        """
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None) -> np.ndarray:
        """(N, D) float64: rows drawn from the model.

        Args:
            n_samples: N.
            random_state: of the draws.
        """
        check_is_fitted(self)
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        return np.asarray(self.model_.generate(n_samples, draw="sample", seed=seed), dtype=np.float64)
