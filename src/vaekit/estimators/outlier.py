"""Rows that are unlike the others."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import OutlierMixin
from sklearn.utils.validation import check_is_fitted

from vaekit.component import device_of
from vaekit.data import loading
from vaekit.data.dataset import Dataset, spaced
from vaekit.errors import ConfigError
from vaekit.estimators.base import VAEEstimator
from vaekit.estimators.scoring import Aggregate, strangeness
from vaekit.model import Model
from vaekit.objectives import Objective

_MOST_COMPONENTS = 32
_WEAKEST = 0.1
"""Of the last member's beta, as a share of the first one's."""
_MOST_POSTERIORS = 2000
_NUM_SAMPLES = 32
_TINY = 1e-12


class VAEOutlier(OutlierMixin, VAEEstimator):
    """Outlier detection by how badly an ensemble of small VAEs reconstructs a row.

    Each of `n_estimators` members is a VAE with as many latent units as columns (at most 32), so that it is the rate, and not a
    narrow bottleneck, that makes it leave out what is rare. The score of a row is the mean over the members of

        -u(log |x - E p(x|z)|^2) - u(E_q [ log q(z|x) - log q(z) - log p(x|z) ])

    where q(z), in the place of the prior, is the aggregate posterior of (at most 2,000 of) the training rows, and u takes away
    the median, and divides by the distance between the quartiles, of the rows that the member was not trained on. The first
    part is how badly the row is reconstructed, in standardised columns; the second is a bound on -log p(x). The weight of
    the rate falls from `beta` to `beta / 10` over the members: strong ones see rows that are far from all others, weak ones
    rows in the gaps between them. Noise has a scale of at least 0.05 standard deviations, so that few rows are not learned by
    heart. What was measured, beside other detectors: benchmarks/latents/anomaly.py.

    Args:
        n_components: D, the number of latent units; None for the number of columns, at most 32.
        n_estimators: members of the ensemble.
        contamination: the share of the training rows that are outliers, in (0, 0.5], which sets `offset_`; or `auto` for the
            fence of Tukey, "Exploratory data analysis" (1977): the first quartile of the scores of held-out rows less 1.5 times
            the distance between their quartiles.
        validation_fraction: of the rows that each member holds out, its own part, for its best weights and for what is usual.
        recipe, hidden, likelihood, objective, beta, max_steps, learning_rate, batch_size, patience, random_state, verbose,
            device: see `vaekit.estimators.base.VAEEstimator`.

    Attributes:
        models_: the members, each a `vaekit.Model`.
        offset_: the score below which a row is an outlier.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(200, 3))
        >>> detector = VAEOutlier(max_steps=100, n_estimators=2, random_state=0).fit(X)
        >>> detector.predict([[0.0, 0.0, 0.0], [9.0, 0.0, -9.0]])
        array([ 1, -1])
    """

    _min_scale = 0.05

    def __init__(
        self,
        n_components: int | None = None,
        *,
        n_estimators: int = 3,
        contamination: float | str = 0.1,
        recipe: str = "auto",
        hidden: Sequence[int] | None = None,
        likelihood: str = "normal",
        objective: Objective | str | None = None,
        beta: float = 1.0,
        max_steps: int = 600,
        learning_rate: float = 1e-2,
        batch_size: int = 128,
        validation_fraction: float = 0.2,
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
        self.n_estimators = n_estimators
        self.contamination = contamination

    def fit(self, X: Any, y: Any = None) -> Self:
        """Trains the members, and sets the threshold.

        Args:
            X: (N, D) numbers: an array, a frame, or a sparse matrix. Rows that are outliers may be among them.
            y: not used.

        Raises:
            ConfigError: for an argument that cannot be.
        """
        self._check_arguments()
        X = self._validated(X, reset=True)
        dataset, seed = self._opened(X), self._random_seed()
        latent = min(_MOST_COMPONENTS, X.shape[1]) if self.n_components is None else self.n_components
        self.models_, self._posteriors, self._usual = [], [], []
        unseen = []
        for member in range(self.n_estimators):
            held_out = self._held_out(len(dataset), seed + member)
            beta = self.beta * _WEAKEST ** (member / max(1, self.n_estimators - 1))
            model = self._fit_model(dataset, seed + member, held_out, n_components=latent, beta=beta)
            unseen.append(self._calibrate(model, dataset, held_out))
        self.n_iter_ = max(model.bundle.training["steps"] for model in self.models_)
        if self.contamination == "auto":
            low, high = np.percentile(np.concatenate(unseen), [25, 75])
            self.offset_ = float(low - 1.5 * (high - low))
        else:
            self.offset_ = float(np.percentile(self.score_samples(X), 100.0 * float(self.contamination)))
        return self

    def _check_arguments(self) -> None:
        share: Any = self.contamination
        if share != "auto" and not (isinstance(share, numbers.Real) and 0 < float(share) <= 0.5):
            raise ConfigError(f"`contamination` must be `auto`, or in (0, 0.5], got {share!r}. 0.1 takes a tenth as outliers.")
        if not isinstance(self.n_estimators, numbers.Integral) or self.n_estimators < 1:
            raise ConfigError(f"`n_estimators` must be at least 1, got {self.n_estimators!r}. 3 are enough.")

    def _calibrate(self, model: Model, dataset: Dataset, held_out: np.ndarray) -> np.ndarray:
        """Adds a member, with the posteriors of its training rows and what is usual of its measures.

        Returns:
            The scores of the rows that it was not trained on; of all rows where it was trained on all.
        """
        training = np.setdiff1d(np.arange(len(dataset)), held_out)
        found = model.encode(dataset.select(training[spaced(len(training), _MOST_POSTERIORS)]))
        self.models_.append(model)
        self._posteriors.append((found.mean, found.scale))
        unseen = dataset.select(held_out) if len(held_out) else dataset
        measured = strangeness(model, unseen, self._aggregate(-1), _NUM_SAMPLES)
        low, middle, high = np.percentile(measured, [25, 50, 75], axis=0)
        self._usual.append((middle, np.maximum(high - low, _TINY)))
        return -((measured - middle) / self._usual[-1][1]).mean(axis=1)

    def _aggregate(self, member: int) -> Aggregate:
        mean, scale = self._posteriors[member]
        return Aggregate.of(mean, scale, device_of(self.models_[member].vae))

    def score_samples(self, X: Any) -> np.ndarray:
        """(N,) float64: how usual each row is; the lower, the stranger. 0 is about the middle of usual rows.

        Args:
            X: (N, D) numbers.
        """
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        return np.concatenate([self._scores(part) for part in self._dense_parts(X)])

    def _scores(self, X: np.ndarray) -> np.ndarray:
        dataset = loading.conform(X, self.models_[0].schema)
        total = np.zeros(len(X))
        for member, (model, (middle, spread)) in enumerate(zip(self.models_, self._usual, strict=True)):
            measured = strangeness(model, dataset, self._aggregate(member), _NUM_SAMPLES)
            total -= ((measured - middle) / spread).mean(axis=1)
        return total / len(self.models_)

    def decision_function(self, X: Any) -> np.ndarray:
        """(N,) float64: `score_samples` less `offset_`, below 0 for outliers.

        Args:
            X: (N, D) numbers.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """(N,) integers: 1 for rows that are usual, -1 for outliers.

        Args:
            X: (N, D) numbers.
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)
