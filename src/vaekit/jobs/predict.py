"""Predict: what an example says of the columns that a model is conditioned on, such as its label."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vaekit.component import device_of
from vaekit.data.dataset import Dataset
from vaekit.data.schema import UNKNOWN
from vaekit.data.text.batches import trimmed
from vaekit.errors import ConfigError
from vaekit.inference import Progress, bounds, check_examples, is_point, prepare, seeded
from vaekit.jobs.blocks import block_size, in_blocks
from vaekit.jobs.conditions import conditioned, frequencies, quantiles
from vaekit.storage import Bundle

Method = Literal["auto", "classifier", "bayes"]

METHODS = ("auto", "classifier", "bayes")

MOST_COMBINATIONS = 256
"""The most combinations of values that are weighed together; beyond, each column is predicted by itself."""

CELLS = 33
"""How many numbers, of equal mass in training, stand for a column of numbers."""


@dataclass(frozen=True)
class Predicted:
    """p(c|x) of N examples, by column.

    Attributes:
        labels: of categories the likeliest, (N,) texts; of numbers the posterior mean, (N,).
        probabilities: of categories p(c|x), (N, C).
        categories: what the C are.
        scales: of numbers the standard deviation of p(c|x), (N,).
        names: the file name of each example, or None.
        method: `classifier` or `bayes`.
        notes: what a person should know.
    """

    labels: Mapping[str, np.ndarray]
    probabilities: Mapping[str, np.ndarray]
    categories: Mapping[str, tuple[str, ...]]
    scales: Mapping[str, np.ndarray]
    names: Sequence[str] | None
    method: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.labels.values())))

    def to_columns(self, every: bool = False) -> dict[str, np.ndarray]:
        """A table: index, name, and for each column C its `C`, and `C_probability`, or of numbers `C_scale`.

        Args:
            every: also the probability of each category, as `C_probability_NAME`.
        """
        table: dict[str, np.ndarray] = {"index": np.arange(len(self))}
        if self.names is not None:
            table["name"] = np.array(self.names, dtype=object)
        for name, labels in self.labels.items():
            table[name] = labels
            if name in self.scales:
                table[f"{name}_scale"] = self.scales[name]
                continue
            share = self.probabilities[name]
            table[f"{name}_probability"] = share.max(1)
            if every:
                table |= {f"{name}_probability_{c}": share[:, i] for i, c in enumerate(self.categories[name])}
        return table


def predict(
    bundle: Bundle,
    dataset: Dataset,
    columns: Sequence[str] | None = None,
    *,
    method: Method = "auto",
    num_samples: int = 16,
    uniform: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Predicted:
    """What the conditioned columns of each example are, given the example.

        bayes:       p(c|x) = p(c) e^{L_K(x|c)} / sum_c' p(c') e^{L_K(x|c')},   L_K the K-sample bound on log p(x|c)
        classifier:  q(c|x), where the model has a classifier (see `objectives.SemiSupervised`)

    Bayes' rule is exact where the bound is; the same draws serve all values. Several columns are weighed together, their prior
    being the product of the columns', and each is then summed out; of more than 256 combinations each column is weighed by
    itself, the others unknown. A column of numbers is weighed at 33 numbers of equal mass in training, so its error is at least
    about a hundredth of its range. What the data themselves say of a column that is predicted is not read.

    Args:
        bundle: the model.
        dataset: N examples that fit its schema. Conditioned columns that are not predicted are as the data have them.
        columns: which are predicted; all that the model is conditioned on if None, or all that its classifier has.
        method: `auto`: the classifier where there is one for all of `columns`, else Bayes' rule.
        num_samples: K.
        uniform: whether p(c) is uniform, and not as often as in training.
        seed: of the draws of the bounds.
        progress: called with (done, total).

    Raises:
        ConfigError: if the model is not conditioned on a column, has no classifier where it is asked for, or has no bound.
        DataError: if there are no examples.
    """
    check_examples(dataset)
    chosen, how = _chosen(bundle, columns, method)
    if how == "classifier":
        assert bundle.vae.classifier is not None
        log_p, notes = _classified(bundle, dataset, progress), ()
        log_p = {name: log_p[name] for name in chosen}
        supports = {name: _Support.of(bundle, name, uniform) for name in chosen}
    else:
        if is_point(bundle.vae):
            raise ConfigError("A model must have a posterior with a density to predict by Bayes' rule, this one's is a point.")
        supports = {name: _Support.of(bundle, name, uniform) for name in chosen}
        size = math.prod(len(support.values) for support in supports.values())
        together = [chosen] if size <= MOST_COMBINATIONS else [(name,) for name in chosen]
        total = len(dataset) * sum(math.prod(len(supports[name].values) for name in group) for group in together)
        counted = None if progress is None else _Counter(progress, total)
        log_p = {}
        for group in together:
            own = {name: supports[name] for name in group}
            log_p |= _by_bayes(bundle, dataset, own, chosen, num_samples, seed, counted)
        notes = () if len(together) == 1 else (_APART.format(names=" and ".join(f"`{name}`" for name in chosen)),)
    return _predicted(bundle, dataset, supports, log_p, how, notes)


_APART = "{names} have more than 256 combinations, so each is predicted by itself, the others unknown."


def _chosen(bundle: Bundle, columns: Sequence[str] | None, method: str) -> tuple[tuple[str, ...], str]:
    """Which columns, and how."""
    if method not in METHODS:
        raise ConfigError(f"`method` must be auto, classifier or bayes, got {method!r}. Use auto when in doubt.")
    known = conditioned(bundle)
    if not known:
        raise ConfigError("A model must be conditioned on a column to predict it, this one is on none. Train with `condition`.")
    for name in columns or ():
        if name not in known:
            raise ConfigError(f"`{name}` must be one of the columns that the model is conditioned on: {', '.join(known)}.")
    read = () if bundle.vae.classifier is None else tuple(bundle.vae.classifier.categories)
    chosen = tuple(dict.fromkeys(columns or (read if read and method != "bayes" else known)))
    if method == "classifier" and not set(chosen) <= set(read):
        raise ConfigError(
            f"The model must have a classifier of {', '.join(chosen)}, it has one of {', '.join(read) or 'nothing'}. Use the "
            "method `bayes`, or train with the objective `semi-supervised`."
        )
    return chosen, "classifier" if method != "bayes" and read and set(chosen) <= set(read) else "bayes"


class _Counter:
    """Examples that are done, over several passes."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.before = progress, total, 0

    def __call__(self, done: int, num: int) -> None:
        self.progress(self.before + done, self.total)
        self.before += num if done == num else 0


@dataclass(frozen=True)
class _Support:
    """The values that a column is weighed at, and the logarithm of their prior mass."""

    values: np.ndarray
    log_prior: Tensor

    @classmethod
    def of(cls, bundle: Bundle, name: str, uniform: bool) -> _Support:
        assert bundle.vae.condition is not None
        if name in bundle.vae.condition.numbers:
            table = quantiles(bundle, name)
            at = (np.arange(CELLS) + 0.5) / CELLS
            values = np.interp(at, np.linspace(0, 1, len(table)), table)
            if uniform:
                values = table[0] + at * (table[-1] - table[0])
            return cls(values, torch.zeros(CELLS, dtype=torch.float64))
        counts = frequencies(bundle, name)
        return cls(np.arange(len(counts)), torch.zeros_like(counts) if uniform else counts.log())


def _by_bayes(
    bundle: Bundle,
    dataset: Dataset,
    supports: Mapping[str, _Support],
    hidden: Sequence[str],
    num_samples: int,
    seed: int,
    progress: Progress | None,
) -> dict[str, Tensor]:
    """log p(c|x) of each column, (N, C): all combinations of the columns weighed, and the others summed out."""
    shown = {name: codes for name, codes in dataset.columns.items() if name not in hidden}
    sizes = [len(support.values) for support in supports.values()]
    prior = torch.zeros(sizes, dtype=torch.float64)
    for axis, support in enumerate(supports.values()):
        prior = prior + support.log_prior.view([-1 if axis == other else 1 for other in range(len(sizes))])
    found = []
    for values in itertools.product(*(support.values for support in supports.values())):
        told = {name: np.full(len(dataset), value) for name, value in zip(supports, values, strict=True)}
        with seeded(seed, device_of(bundle.vae)):
            each = bounds(bundle, replace(dataset, columns={**shown, **told}), num_samples, progress)
            found.append(np.concatenate([part.log_likelihood for _, _, part in each]))
    joint = torch.from_numpy(np.stack(found, axis=1)).unflatten(1, sizes) + prior
    joint = joint - joint.flatten(1).logsumexp(1).view(-1, *[1] * len(sizes))
    axes = range(1, len(sizes) + 1)
    return {
        name: joint.logsumexp([other for other in axes if other != axis]) if len(sizes) > 1 else joint
        for axis, name in zip(axes, supports, strict=True)
    }


@torch.inference_mode()
def _classified(bundle: Bundle, dataset: Dataset, progress: Progress | None) -> dict[str, Tensor]:
    """log q(c|x) of each column, (N, C): the same to the last bit in any company."""
    classifier, block = bundle.vae.classifier, block_size(bundle.schema)
    assert classifier is not None
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, len(dataset), block):
        batch = dataset.batch(np.arange(start, min(start + block, len(dataset))))
        inputs = prepare(bundle, trimmed(batch, bundle.schema), expected=True)

        def read(x: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
            return tuple(classifier(x, mask).values())

        parts.append(tuple(out.cpu().double() for out in in_blocks(read, [inputs.x, inputs.mask], block)))
        if progress is not None:
            progress(min(start + block, len(dataset)), len(dataset))
    return {name: torch.cat(logs) for name, logs in zip(classifier.categories, zip(*parts, strict=True), strict=True)}


def _predicted(
    bundle: Bundle,
    dataset: Dataset,
    supports: Mapping[str, _Support],
    log_p: Mapping[str, Tensor],
    how: str,
    notes: tuple[str, ...],
) -> Predicted:
    labels, probabilities, categories, scales = {}, {}, {}, {}
    for name, logs in log_p.items():
        p, column = logs.exp().numpy(), bundle.schema.column(name)
        if column.kind == "number":
            values = supports[name].values
            labels[name] = p @ values
            scales[name] = np.sqrt(np.maximum(p @ values**2 - labels[name] ** 2, 0.0))
            continue
        known = ~np.isnan(p).any(1)
        labels[name] = column.printed(np.where(known, np.nan_to_num(p).argmax(1), UNKNOWN))
        probabilities[name], categories[name] = p, column.categories
        if not known.all():
            notes = (*notes, f"{int((~known).sum())} examples have no finite bound, and no `{name}`.")
    return Predicted(labels, probabilities, categories, scales, dataset.names, how, notes)
