"""Mixtures of normals fitted to latents by expectation maximisation, their weights by the condition."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vaekit.data.dataset import Dataset
from vaekit.data.schema import UNKNOWN
from vaekit.errors import ConfigError, DataError, require
from vaekit.inference import Progress
from vaekit.priors import MixtureOfNormals, Standardized, StandardNormal
from vaekit.types import Json
from vaekit.vae import LatentModel

_EM_ROWS, _EM_ITERATIONS, _EM_REPORT = 200_000, 300, 10
_COMPONENTS, _LATENTS_A_COMPONENT = 10, 20
_MOST_GROUPS = 100
_GATE_ROWS, _GATE_STEPS, _GATE_PENALTY, _UNKNOWN_SHARE = 20_000, 300, 1e-6, 0.1


@dataclass(frozen=True)
class Told:
    """What M latents are conditioned on.

    Attributes:
        features: (U, F) of the U different conditions that there are.
        unknown: (F,) where nothing is known.
        index: (M,), which of the conditions a latent has.
        groups: (M,) codes of the only column, where it is one of at most 100 categories; -1 where unknown. None otherwise.
    """

    features: Tensor
    unknown: Tensor
    index: np.ndarray
    groups: np.ndarray | None

    @classmethod
    @torch.no_grad()
    def of(cls, vae: LatentModel, dataset: Dataset, draws: int) -> Told | None:
        """Those of all examples, `draws` times one after the other; None for a model without conditions."""
        encoder = vae.condition
        if encoder is None:
            return None
        given = {name: torch.from_numpy(np.asarray(dataset.columns[name])) for name in encoder.names if name in dataset.columns}
        columns, nothing = vae.condition_of(given, len(dataset)), vae.condition_of(None, 1)
        assert columns is not None
        assert nothing is not None
        table = np.stack([columns[name].double().cpu().numpy() for name in encoder.names], axis=1)
        _, first, index = np.unique(np.nan_to_num(table, nan=np.inf), axis=0, return_index=True, return_inverse=True)
        different = {name: values[torch.from_numpy(first).to(values.device)] for name, values in columns.items()}
        features, unknown = (encoder(c, drop=False).double().cpu() for c in (different, nothing))
        grouped = len(encoder.names) == 1 and 1 < next(iter(encoder.categories.values()), 0) <= _MOST_GROUPS
        groups = np.tile(table[:, 0].astype(np.int64), draws) if grouped else None
        return cls(features, unknown[0], np.tile(index.reshape(-1), draws), groups)


def fit_mixture(
    z: Tensor, components: int | None, covariance: str, seed: int, told: Told | None = None, progress: Progress | None = None
) -> tuple[MixtureOfNormals, Json]:
    """A mixture by expectation maximisation, on latents of mean 0 and standard deviation 1, brought back to their units.

        p(z|c) = sum_m w_m(c) N(z; mean_m, Sigma_m),    w(c) = softmax(a + G f(c))

    Where the condition is one column of categories, each has components of its own, in proportion to its latents; otherwise all
    conditions share them. Then a and G are the multinomial logistic regression, on the features f(c), of the weights that the
    latents of each condition have, and of those that all latents have, where nothing is known.

    Args:
        z: (M, D).
        components: at most one for 20 latents; about 10 if None, and for each category as many.
        covariance: `diagonal` or `full`.
        seed: of where the fit begins.
        told: the conditions; None for weights that do not depend on one.
        progress: called with (done, total).

    Raises:
        ConfigError: for too many components.
        DataError: for fewer than two latents.
    """
    if len(z) < 2:
        raise DataError("A mixture must have at least 2 latents to be fitted to, found 1. Give more data.")
    most = max(1, len(z) // _LATENTS_A_COMPONENT)
    if components is not None and components > most:
        raise ConfigError(
            f"A mixture must have no more components than one for {_LATENTS_A_COMPONENT} latents, got {components} for "
            f"{len(z)}. Use at most {most}."
        )
    units = Standardized(StandardNormal(z.shape[1]))
    units.fit(z)
    shift, scale = units.shift.double(), units.scale.double()
    standard = ((z.double() - shift) / scale).numpy()
    parts = _parts(None if told is None else told.groups, len(z), components, most)
    fits = [
        _expectation_maximisation(standard[part.rows], part.components, covariance, seed, _nth(progress, place, len(parts)))
        for place, part in enumerate(parts)
    ]
    shares = [len(part.rows) / sum(len(p.rows) for p in parts) for part in parts]
    weights = np.concatenate([fit.estimate.weights_ * share for fit, share in zip(fits, shares, strict=True)])
    means, spread = (
        torch.from_numpy(np.concatenate([getattr(fit.estimate, name) for fit in fits])) for name in ("means_", "covariances_")
    )
    lengths = spread.sqrt() * scale if covariance == "diagonal" else torch.linalg.cholesky(spread) * scale[:, None]
    width = 0 if told is None else len(told.unknown)
    prior = MixtureOfNormals(z.shape[1], len(weights), covariance=covariance, condition_features=width)
    # A component that lost all its latents keeps a weight that has a logarithm.
    prior.set_components(torch.from_numpy(weights).clamp_min(1e-30), means * scale + shift, lengths)
    if told is not None:
        owner = np.repeat([part.group for part in parts], [part.components for part in parts])
        _fit_gate(prior, z, told, owner)
    how = {"iterations": sum(fit.iterations for fit in fits), "converged": all(bool(fit.estimate.converged_) for fit in fits)}
    return prior, how


@dataclass(frozen=True)
class _Part:
    """Latents that have components of their own: those of one category, or all."""

    group: int
    rows: np.ndarray
    components: int


@dataclass(frozen=True)
class _Fit:
    """What expectation maximisation made of some latents."""

    estimate: Any
    iterations: int


def _parts(groups: np.ndarray | None, num: int, components: int | None, most: int) -> list[_Part]:
    """Each category with components in proportion to its latents, at least one; or all latents together."""
    codes = [] if groups is None else [code for code in np.unique(groups) if code != UNKNOWN]
    if groups is None or len(codes) < 2 or min(int((groups == code).sum()) for code in codes) < 2:
        return [_Part(UNKNOWN, np.arange(num), components or min(_COMPONENTS, most))]
    rows = [np.flatnonzero(groups == code) for code in codes]
    wanted, known = components or _COMPONENTS * len(codes), sum(map(len, rows))
    return [
        _Part(int(code), own, max(1, min(len(own) // _LATENTS_A_COMPONENT, round(wanted * len(own) / known))))
        for code, own in zip(codes, rows, strict=True)
    ]


def _expectation_maximisation(rows: np.ndarray, components: int, covariance: str, seed: int, progress: Progress | None) -> _Fit:
    models = require("sklearn.mixture", "sklearn", "Fitting a mixture")
    if len(rows) > _EM_ROWS:
        rows = rows[np.sort(np.random.default_rng(seed).choice(len(rows), _EM_ROWS, replace=False))]
    estimate = models.GaussianMixture(
        components,
        covariance_type="diag" if covariance == "diagonal" else "full",
        max_iter=_EM_REPORT,
        random_state=seed % 2**32,
        warm_start=True,  # each call goes on where the one before ended
    )
    iterations = 0
    with warnings.catch_warnings():  # that it has not converged is part of what is returned
        warnings.simplefilter("ignore", require("sklearn.exceptions", "sklearn", "Fitting a mixture").ConvergenceWarning)
        while iterations < _EM_ITERATIONS and not (iterations and estimate.converged_):
            estimate.fit(rows)
            iterations += int(estimate.n_iter_)
            if progress is not None:
                progress(_EM_ITERATIONS if estimate.converged_ else iterations, _EM_ITERATIONS)
    return _Fit(estimate, iterations)


def _nth(progress: Progress | None, place: int, parts: int) -> Progress | None:
    """The progress of one of several parts as that of all."""
    if progress is None:
        return None
    return lambda done, total: progress(place * total + done, parts * total)


@torch.no_grad()
def _fit_gate(prior: MixtureOfNormals, z: Tensor, told: Told, owner: np.ndarray) -> None:
    """Writes a and G, by which each condition has the weights that its latents have, and all latents' where nothing is known.

    Args:
        prior: with its components.
        z: (M, D).
        told: what they are conditioned on.
        owner: (K,), the category whose latents alone a component stands for; -1 of one that stands for all.
    """
    chosen = torch.from_numpy(np.random.default_rng(0).permutation(len(z))[:_GATE_ROWS])
    groups = None if told.groups is None else torch.from_numpy(told.groups[chosen])
    belongs = _responsibilities(prior, z[chosen], groups, torch.from_numpy(owner))
    counts = torch.zeros(len(told.features), belongs.shape[1], dtype=torch.float64)
    counts.index_add_(0, torch.from_numpy(told.index[chosen]), belongs)
    # Without features at all the weights are softmax(a): those of all latents, as where nothing is known.
    features = torch.cat([told.features, told.unknown[None], torch.zeros_like(told.unknown)[None]])
    counts = torch.cat([counts, _UNKNOWN_SHARE * belongs.sum(0).expand(2, -1)])
    share = counts / counts.sum()
    assert prior.gate is not None
    bias = prior.logits.detach().double().clamp_min(-20.0).requires_grad_()
    gate = torch.zeros_like(prior.gate, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.LBFGS([bias, gate], max_iter=_GATE_STEPS, line_search_fn="strong_wolfe", history_size=20)

    @torch.enable_grad()
    def closure() -> Tensor:
        optimizer.zero_grad()
        log_weights = F.log_softmax(bias + features @ gate.T, dim=1)
        loss = _GATE_PENALTY * (gate.square().sum() + bias.square().sum()) - (share * log_weights).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    prior.logits.copy_(bias.detach())
    prior.gate.copy_(gate.detach())


def _responsibilities(prior: MixtureOfNormals, z: Tensor, groups: Tensor | None, owner: Tensor) -> Tensor:
    """(M, K) float64: how much of each latent is each component's, among those of its own category where it has one."""
    mixture, blocks = prior(), []
    block = max(1, 2**24 // (len(owner) * z.shape[1] * (z.shape[1] if prior.covariance == "full" else 1)))
    for start in range(0, len(z), block):
        log_each = mixture.component_distribution.log_prob(z[start : start + block, None]).double()
        log_each += torch.log_softmax(prior.logits.double(), dim=0)
        if groups is not None:
            own = groups[start : start + block, None]
            log_each = log_each.masked_fill((own != owner) & (own != UNKNOWN) & (owner != UNKNOWN), -torch.inf)
        blocks.append(torch.softmax(log_each, dim=1))
    return torch.cat(blocks)
