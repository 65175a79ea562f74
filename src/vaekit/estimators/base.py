"""What all estimators share: arguments, validation, training, and a state that is JSON and numbers."""

from __future__ import annotations

import copy
import numbers
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from vaekit import recipes, storage
from vaekit.component import check_device
from vaekit.data import loading
from vaekit.data.dataset import Dataset
from vaekit.errors import ConfigError
from vaekit.model import Model
from vaekit.objectives import ELBO, Objective
from vaekit.training.run import train
from vaekit.types import Json
from vaekit.vae import VAE

REAL = ("normal", "laplace", "logistic", "log-cosh", "student-t", "log-normal", "beta", "continuous-bernoulli")
"""Likelihoods of numbers as they stand, whatever grid they lie on; the others go by the values."""

WIDTHS = (128, 128)
_LEAST_HELD_OUT = 10
_VALIDATE_EVERY, _WARM_UP = 50, 20
_ROWS = 4096
"""Rows that are made dense at once, a multiple of every block of rows that a model works on."""

_PACKED = "vaekit model"


class VAEEstimator(BaseEstimator):
    """The arguments that all estimators have, and the fit of a model.

    Args:
        n_components: D, the number of latent units; None to choose by the number of columns.
        recipe: `auto`, two dense layers on each side; or a recipe of `vaekit.train` for vectors: `mlp` or `ladder`.
        hidden: widths of the dense layers, as in `(64, 64)`; None for those of the recipe.
        likelihood: `normal`, which takes every column as real numbers; `auto` for what the values suggest (levels, counts,
            binary); or another name that `vaekit.train` knows.
        objective: an `Objective` of vaekit, or the name of one; None for the ELBO, of which alone `beta` is.
        beta: weight of the rate in the ELBO, >= 0. Below 1 the latents keep more of the data.
        max_steps: the most optimiser steps.
        learning_rate: its peak, from which it falls to 0 along a cosine.
        batch_size: rows a step, at most.
        validation_fraction: of the rows, which choose the best weights and are not trained on. Where that is fewer than 10
            rows, all rows are trained on to the end of the budget.
        patience: validations (every 50 steps) without a better bound after which training stops; 0 for never.
        random_state: a seed, a `RandomState`, or None for new randomness at every fit.
        verbose: 0 for silence; else progress on standard error.
        device: `cpu`, `auto` for the best that is there, `cuda`, or one such as `cuda:1`.

    Attributes:
        model_: the fitted `vaekit.Model`, with all of its methods; `model_.save("folder")` keeps it for the command line.
        n_features_in_: the number of columns.
        feature_names_in_: their names, where the data were a frame whose columns have names.
        n_iter_: the steps that were taken.
    """

    def __init__(
        self,
        n_components: int | None = None,
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
        self.n_components = n_components
        self.recipe = recipe
        self.hidden = hidden
        self.likelihood = likelihood
        self.objective = objective
        self.beta = beta
        self.max_steps = max_steps
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    # --------------------------------------------------------------------------------------------------- data

    _missing = False
    """Whether NaN stands for a missing cell."""

    _hide = 0.0
    """The share of the rows of which a random part is hidden in training."""

    _min_scale: float | None = None
    """The least scale of the noise of a normal likelihood, in standardised columns; None for the likelihood's own."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = not self._missing
        tags.input_tags.allow_nan = self._missing
        return tags

    def _validated(self, X: Any, *, reset: bool) -> Any:
        """X as float32 or float64, (N, D), dense or CSR; frames are checked for their columns."""
        return validate_data(
            self,
            X,
            reset=reset,
            accept_sparse=False if self._missing else "csr",
            dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan" if self._missing else True,
            ensure_min_samples=2 if reset else 1,
        )

    def _dense_parts(self, X: Any) -> Iterator[np.ndarray]:
        """Runs of rows of validated data as arrays, so that sparse data are never dense as a whole."""
        for start in range(0, X.shape[0], _ROWS):
            yield _dense(X[start : start + _ROWS])

    def _opened(self, X: Any) -> Dataset:
        """Validated data as a data set, with its own schema."""
        values = "continuous" if self.likelihood in REAL else None
        missing = "nan" if self._missing else None
        return loading.open(_dense(X), kind="vectors", values=values, missing=missing)

    # --------------------------------------------------------------------------------------------------- fit

    def _random_seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _fit_model(self, dataset: Dataset, seed: int, held_out: np.ndarray | None = None, **overrides: Any) -> Model:
        """Trains a model.

        Args:
            dataset: all rows.
            seed: of everything random.
            held_out: rows to choose the best weights by; a seeded part if None; the rows themselves if there are too few.
            **overrides: arguments of the estimator, in place of its own.

        Raises:
            KeyboardInterrupt: if the run was interrupted.
        """
        of = {**self.get_params(deep=False), **overrides}
        check_device(of["device"])
        held_out = self._held_out(len(dataset), seed) if held_out is None else held_out
        every = np.arange(len(dataset))
        training = np.setdiff1d(every, held_out)
        few = len(held_out) == 0
        dataset = replace(dataset, splits={"train": training, "valid": every if few else held_out})
        vae, transform = self._parts(dataset.split("train"), of, seed)
        bundle = train(
            dataset,
            vae=vae,
            transform=transform,
            **self._objective(of),
            steps=of["max_steps"],
            learning_rate=of["learning_rate"],
            learning_rate_warm_up=_WARM_UP,
            batch_size=min(of["batch_size"], len(training)),
            ema=0.99,
            hide=self._hide,
            patience=0 if few else of["patience"],
            validate_every=_VALIDATE_EVERY,
            precision="float32",
            device=of["device"],
            display_as="plain" if of["verbose"] else "none",
            seed=seed,
        )
        if bundle.training["stopped"] == "interrupted":  # a search over fits is to end, and not to take half a model
            raise KeyboardInterrupt
        if bundle.training["warning"]:
            warnings.warn(bundle.training["warning"], ConvergenceWarning, stacklevel=3)
        return Model(bundle)

    def _held_out(self, num: int, seed: int) -> np.ndarray:
        """Rows that choose the best weights; none where they would be too few to say anything."""
        share = self.validation_fraction
        if not isinstance(share, numbers.Real) or not 0 <= share < 1:
            raise ConfigError(f"`validation_fraction` must be in [0, 1), got {share!r}. 0.1 is a good choice.")
        count = round(num * float(share))
        if count < _LEAST_HELD_OUT:
            return np.empty(0, np.int64)
        return np.sort(np.random.default_rng(seed).permutation(num)[:count])

    def _parts(self, training: Dataset, of: Json, seed: int) -> tuple[Any, Any]:
        """The model and its transform, by vaekit's own recipe; of dense networks the widths are ours, or what was asked for."""
        import torch

        latent = of["n_components"]
        recipe = "mlp" if of["recipe"] == "auto" else of["recipe"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            chosen = recipes.make(training, recipe, latent, of["likelihood"])
            widths = WIDTHS if of["recipe"] == "auto" and of["hidden"] is None else of["hidden"]
            if widths is None or not isinstance(chosen.vae, VAE):
                return chosen.vae, chosen.transform
            changes: Json = {"hidden": [int(width) for width in np.atleast_1d(widths)]}
            if of["recipe"] == "auto":
                changes["activation"] = "silu"
            spec = _with_networks(chosen.vae.spec(), changes)
            if self._hide:  # in training some of a row is hidden, even where nothing is missing
                spec["posterior"] = _with_networks(spec["posterior"], {"observe_mask": True})
            if self._min_scale is not None and of["likelihood"] == "normal":
                spec["likelihood"]["min_scale"] = self._min_scale
            return VAE.from_spec(spec), chosen.transform

    def _objective(self, of: Json) -> Json:
        objective, beta = of["objective"], of["beta"]
        if objective is None:
            return {"objective": ELBO(beta=beta)}
        return {"objective": copy.deepcopy(objective)}  # its state may change, an argument may not

    # --------------------------------------------------------------------------------------------------- state

    def __getstate__(self) -> dict[str, Any]:
        """What pickle and joblib keep: of a fitted model its spec as JSON and its weights as safetensors, and no code."""
        state: Any = super().__getstate__()
        return {name: _packed(value) for name, value in state.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Reads the state back; a model's classes come from vaekit's registry, and lie on the CPU."""
        super().__setstate__({name: _unpacked(value) for name, value in state.items()})


def _dense(X: Any) -> np.ndarray:
    if sparse.issparse(X):
        return X.astype(np.float32).toarray()
    return X if X.flags.writeable else X.copy()


def _with_networks(spec: Any, changes: Json) -> Any:
    """A spec whose dense networks have other arguments."""
    if isinstance(spec, dict):
        changed = {name: _with_networks(value, changes) for name, value in spec.items()}
        return {**changed, **changes} if spec.get("type") == "networks.MLP" else changed
    return [_with_networks(item, changes) for item in spec] if isinstance(spec, list) else spec


def _packed(value: Any) -> Any:
    if isinstance(value, Model):
        config, weights = storage.pack(value.bundle)
        return {_PACKED: config, "weights": weights}
    if isinstance(value, Objective):
        return {_PACKED: value.spec()}
    if isinstance(value, list):
        return [_packed(item) for item in value]
    return value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict) and _PACKED in value:
        if "weights" in value:
            return Model(storage.unpack(value[_PACKED], value["weights"]))
        return Objective.from_spec(value[_PACKED])
    if isinstance(value, list):
        return [_unpacked(item) for item in value]
    return value
