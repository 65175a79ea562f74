"""Features: latents in the form that is best handed to a classifier, a regression or a search for neighbours.

What a model is conditioned on is taken as unknown: a posterior q(z|x, c) may hold the label c and nothing of x, and a
classifier on its latents would then be told what it is to predict.

Which units are used, and how they are whitened, are statistics of data. They must be the same for all parts of a comparison,
training and test: give those of the first to the second (`like`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vaekit.data.dataset import Dataset
from vaekit.errors import ConfigError, DataError
from vaekit.inference import ACTIVE, Progress, check_examples
from vaekit.jobs.blocks import posterior_of
from vaekit.jobs.conditions import printed
from vaekit.storage import Bundle
from vaekit.vae import VAE, HierarchicalVAE

KINDS = ("auto", "means", "whitened", "scales", "levels")

_MOST_UNITS = 1024
"""Units beyond which `auto` takes the averages of a ladder's levels."""

_FLAT = 1e-6
"""Of the greatest variance: below, a direction of the latents is one in which the data do not differ."""

_UNSEEN = (
    "In training no share of {names} was made unknown, so what the model does without may never have been trained. Train it "
    "with `ConditionEncoder(..., dropout=0.1)`, or without conditions."
)
_UNUSED = "The latent is not used: no unit varies with the data, so the features say next to nothing of them."
_OWN = "Whitened by the mean and covariance of these data. For others to be compared with them, make those `like` these."


@dataclass(frozen=True)
class Statistics:
    """Of the posterior means of data: what makes features of them, the same for whatever they are made of.

    Attributes:
        kind: `means`, `whitened`, `scales` or `levels`.
        units: (U,) the units that are used, rising.
        centre: (U,), the mean that whitening takes away.
        whiten: (U, U), symmetric: the inverse square root of the covariance of the means; None unless `whitened`.
        source: in words, which data these are of.
    """

    kind: str
    units: np.ndarray
    centre: np.ndarray
    whiten: np.ndarray | None
    source: str


@dataclass(frozen=True)
class Features:
    """Features of N examples.

    Attributes:
        x: (N, F) float32.
        names: of the F columns: `z3` a mean, `w3` a whitened one, `scale3` the logarithm of a standard deviation, `level1_4`
            channel 4 of level 1.
        files: the file name of each example, or None.
        columns: the data's columns as text, each (N,), such as the label; empty text where unknown.
        statistics: by which they were made; for `like` of further data.
        notes: sentences that a person should read.
    """

    x: np.ndarray
    names: tuple[str, ...]
    files: Sequence[str] | None
    columns: Mapping[str, np.ndarray]
    statistics: Statistics
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    @property
    def kind(self) -> str:
        """What they are: `means`, `whitened`, `scales` or `levels`."""
        return self.statistics.kind

    def to_columns(self) -> dict[str, np.ndarray]:
        """The features as the columns of a table: index, name, labels, and a column a feature."""
        table: dict[str, np.ndarray] = {"index": np.arange(len(self))}
        if self.files is not None:
            table["name"] = np.array(self.files, dtype=object)
        return {**table, **self.columns, **dict(zip(self.names, self.x.T, strict=True))}


def features(
    bundle: Bundle,
    dataset: Dataset,
    *,
    kind: str = "auto",
    level: Sequence[int] = (),
    like: Statistics | Features | Dataset | None = None,
    progress: Progress | None = None,
) -> Features:
    """The latents of examples as features, every condition of the model taken as unknown.

        means:     E_q[z_d] of the units that the data use, Var_x(E_q[z_d]) > 0.01
        whitened:  W (E_q[z] - m), with m the mean and W the inverse square root of the covariance of these means
        scales:    the means, and beside them the logarithms of the standard deviations of q
        levels:    of a ladder, the means of each channel of each level, averaged over its positions
        auto:      means; of a ladder that uses more than 1,024 units, levels

    Whitening is for what compares distances or penalises weights alike: it makes all directions in which the latents of data
    differ equally long. The symmetric root (Kessy, Lewin, Strimmer, "Optimal whitening and decorrelation" (2018), ZCA) keeps
    each feature as near to its unit as can be. Directions in which the data do not differ are left out.

    Deterministic, and each row the same whatever else is encoded with it, for given statistics.

    Args:
        bundle: the model.
        dataset: N examples that fit its schema. Their columns are not read, but given back.
        kind: one of the five.
        level: of a ladder, only these levels, the one that is sampled first being 0; all if empty.
        like: features (or their statistics) of other data, which choose the units, the whitening, and the kind; or data, from
            which these are computed. The given data themselves if None.
        progress: called with (done, total) as examples are done.

    Raises:
        ConfigError: if `kind` is none of the five or another than that of `like`, the model has no such level, or the
            statistics are of another model.
        DataError: if there are no examples, or whitening is asked for with fewer than two.
    """
    check_examples(dataset)
    if kind not in KINDS:
        raise ConfigError(f"`kind` must be one of {', '.join(KINDS)}, got {kind!r}. Use `auto` when in doubt.")
    shapes = _level_shapes(bundle)
    _check_levels(shapes, level, kind)
    mean, scale = _encoded(bundle, dataset, progress)
    found = like.statistics if isinstance(like, Features) else like
    if isinstance(found, Dataset):
        check_examples(found)
        found = _statistics(bundle, _encoded(bundle, found)[0], kind, level, "the data given beside")
    notes: tuple[str, ...] = ()
    if found is None:
        found = _statistics(bundle, mean, kind, level, "these data")
        if len(mean) > 1 and mean.var(axis=0).max() <= _least_variance(bundle, mean.var(axis=0)):
            notes = (_UNUSED,)
        if found.whiten is not None:
            notes = (*notes, _OWN)
    if kind not in ("auto", found.kind):
        raise ConfigError(
            f"`like` must be features of the kind that is asked for, got {found.kind} for {kind}. Leave out `kind`."
        )
    if found.units.size and found.units[-1] >= mean.shape[1]:
        raise ConfigError(
            f"`like` must be features of the same model, found {found.units[-1] + 1} units or more and a model of "
            f"{mean.shape[1]}. Compute them with this model."
        )
    condition = bundle.vae.condition
    if condition is not None and getattr(condition, "dropout", 1.0) == 0:
        notes = (*notes, _UNSEEN.format(names=" and ".join(f"`{name}`" for name in condition.names)))
    x, names = _made(found, mean, scale, shapes)
    columns = printed(bundle.schema, dataset.columns)
    return Features(x.astype(np.float32), names, dataset.names, columns, found, notes)


def unconditioned(dataset: Dataset) -> Dataset:
    """The data without the columns beside them, so that all conditions are unknown to a model."""
    return replace(dataset, columns={})


def _encoded(bundle: Bundle, dataset: Dataset, progress: Progress | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale of q(z|x), each (N, D), every condition unknown."""
    mean, scale = posterior_of(bundle, unconditioned(dataset), progress)
    return mean.float().numpy(), scale.float().numpy()


def _level_shapes(bundle: Bundle) -> list[tuple[int, ...]]:
    vae = bundle.vae
    if isinstance(vae, HierarchicalVAE):
        return [tuple(shape) for shape in vae.ladder.latent_shapes]
    return [(vae.num_latents,)]


def _check_levels(shapes: Sequence[tuple[int, ...]], level: Sequence[int], kind: str) -> None:
    if (level or kind == "levels") and len(shapes) == 1:
        raise ConfigError(
            "Levels must be those of a ladder, and this model has one level of latents. Train one with the recipe `ladder`, or "
            "leave them out."
        )
    for one in level:
        if not 0 <= one < len(shapes):
            raise ConfigError(f"`level` must be from 0 to {len(shapes) - 1}, got {one}. The level sampled first is 0.")


def _units_of(shapes: Sequence[tuple[int, ...]], level: Sequence[int]) -> np.ndarray:
    """The units of these levels, of all if none is given, rising."""
    ends = np.cumsum([0, *(math.prod(shape) for shape in shapes)])
    chosen = sorted(set(level)) or range(len(shapes))
    return np.concatenate([np.arange(ends[one], ends[one + 1]) for one in chosen])


def _statistics(bundle: Bundle, mean: np.ndarray, kind: str, level: Sequence[int], source: str) -> Statistics:
    units = _units_of(_level_shapes(bundle), level)
    variance = mean[:, units].var(axis=0, dtype=np.float64)
    used = units[variance > _least_variance(bundle, variance)]
    if kind == "auto":
        kind = "levels" if isinstance(bundle.vae, HierarchicalVAE) and len(used) > _MOST_UNITS else "means"
    if kind != "levels":
        units = used if len(used) else units
    centre = mean[:, units].mean(axis=0, dtype=np.float64)
    return Statistics(kind, units, centre, _whitening(mean[:, units] - centre) if kind == "whitened" else None, source)


def _least_variance(bundle: Bundle, variance: np.ndarray) -> float:
    """The variance above which a unit is used: 0.01 is for units as wide as a standard normal; other spaces have no scale."""
    vae = bundle.vae
    if isinstance(vae, VAE) and any(space != "real" for space in vae.posterior.spaces):
        return _FLAT * float(variance.max(initial=0.0))
    return ACTIVE


def _whitening(centred: np.ndarray) -> np.ndarray:
    """(U, U): the symmetric inverse square root of the covariance of centred means (N, U); 0 in directions of no variance."""
    if len(centred) < 2:
        raise DataError("Whitening needs at least two examples, found one. Give more, or features to be `like`.")
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    kept = values > _FLAT * max(values.max(), 0.0)
    return (vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T


def _made(
    found: Statistics, mean: np.ndarray, scale: np.ndarray, shapes: Sequence[tuple[int, ...]]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The features (N, F) and their names."""
    means, numbers = mean[:, found.units], found.units.tolist()
    if found.kind == "levels":
        return _averaged(mean, found.units, shapes)
    if found.whiten is not None:
        return (means - found.centre) @ found.whiten, tuple(f"w{unit}" for unit in numbers)
    names = tuple(f"z{unit}" for unit in numbers)
    if found.kind == "scales":
        logs = np.log(np.maximum(scale[:, found.units], np.finfo(np.float32).tiny))
        return np.concatenate([means, logs], axis=1), (*names, *(f"scale{unit}" for unit in numbers))
    return means, names


def _averaged(mean: np.ndarray, units: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Each channel of each of the levels that the units are of, a mean over its positions."""
    parts, names, start = [], [], 0
    for level, shape in enumerate(shapes):
        stop = start + math.prod(shape)
        if start in units:
            parts.append(mean[:, start:stop].reshape(len(mean), shape[0], -1).mean(axis=2))
            names += [f"level{level}_{channel}" for channel in range(shape[0])]
        start = stop
    return np.concatenate(parts, axis=1), tuple(names)
