"""Rows to latents and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from vaekit.estimators.base import VAEEstimator
from vaekit.objectives import Objective


class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, VAEEstimator):
    """Features of rows: the means of q(z|x), and rows from features.

    A row's features are the same to the last bit alone and in any batch. There is no `partial_fit`: a VAE that sees only the
    newest rows forgets the others.

    Args:
        n_components: D, the number of latent units; None for half the number of columns, at most 32.
        recipe, hidden, likelihood, objective, beta, max_steps, learning_rate, batch_size, validation_fraction, patience,
            random_state, verbose, device: see `vaekit.estimators.base.VAEEstimator`.

    Example:
        >>> z = np.random.default_rng(0).normal(size=(200, 1))
        >>> X = z * [[1.0, -2.0, 0.5]]
        >>> vae = VAETransformer(n_components=1, max_steps=300, random_state=0).fit(X)
        >>> vae.transform(X).shape
        (200, 1)
        >>> float(np.abs(vae.inverse_transform(vae.transform(X)) - X).mean()) < 0.2
        True
    """

    def __init__(
        self,
        n_components: int | None = 2,
        *,
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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def fit(self, X: Any, y: Any = None) -> Self:
        """Trains the model.

        Args:
            X: (N, D) numbers: an array, a frame, or a sparse matrix, which is held as a dense one of float32 while training.
            y: not used.
        """
        X = self._validated(X, reset=True)
        self.model_ = self._fit_model(self._opened(X), self._random_seed())
        self.n_iter_ = self.model_.bundle.training["steps"]
        self._n_features_out = self.model_.vae.num_latents
        return self

    def transform(self, X: Any) -> np.ndarray:
        """(N, n_components): the mean of q(z|x) of each row.

        Args:
            X: (N, D) numbers.
        """
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        return np.concatenate([self.model_.encode(part).mean for part in self._dense_parts(X)]).astype(X.dtype, copy=False)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """(N, D): E p(x|z) of latents, in the units of the data.

        Args:
            X: (N, n_components) latents.
        """
        check_is_fitted(self)
        z = check_array(X, dtype=[np.float64, np.float32])  # pyright: ignore[reportArgumentType]
        return np.asarray(self.model_.decode(z, draw="mean"), dtype=z.dtype)
