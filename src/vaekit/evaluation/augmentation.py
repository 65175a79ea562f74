"""Does augmentation help? A classifier with and without the new examples, on real ones held out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vaekit.errors import ConfigError, DataError
from vaekit.inference import Progress, seeded
from vaekit.types import Json

BATCH = 128
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-4
FEWEST = 10
"""Test examples below which nothing is said."""

_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom; beyond, the last is taken."""

_REACH = 5.0
"""Standardised inputs beyond are cut: pixels that hardly vary in few examples."""

Examples = tuple[np.ndarray, np.ndarray]
"""(N, ...) values, and (N,) codes of their labels, -1 where unknown."""


@dataclass(frozen=True)
class AugmentationReport:
    """What new examples do for a classifier, on real examples that neither it nor they were made of.

    Attributes:
        accuracy: of a classifier trained on the real examples, a mean over seeds: the share of the test examples that it gets
            right, or the mean of the classes' shares where `balanced`.
        augmented: of one trained on the real and the new examples, by as many updates from the same start.
        difference: `augmented` - `accuracy`.
        standard_error: of the difference, that of the seeds (draws of new examples, starts, batches) and that of the test
            examples together: sqrt(v_seeds / S + v_examples / n), the variances of the paired differences.
        by_seed: the difference of each seed.
        balanced: whether each class counts the same.
        num_train: real examples that were trained on.
        num_new: new ones of a seed.
        num_test: real examples that were tested on.
        num_left_out: test examples that are among the training ones too, and were left out.
        num_steps: updates of either classifier.
    """

    accuracy: float
    augmented: float
    difference: float
    standard_error: float
    by_seed: tuple[float, ...]
    balanced: bool
    num_train: int
    num_new: int
    num_test: int
    num_left_out: int
    num_steps: int

    @property
    def verdict(self) -> str:
        """`helps` or `harms` where the difference is beyond the 95 % interval of Student's t about 0; else `no difference`."""
        if abs(self.difference) <= _STUDENT[min(len(self.by_seed) - 1, len(_STUDENT)) - 1] * self.standard_error:
            return "no difference"
        return "helps" if self.difference > 0 else "harms"

    @property
    def sentence(self) -> str:
        """The verdict for people."""
        said = {
            "helps": "Augmentation helps",
            "harms": "Augmentation harms: train without it",
            "no difference": "Augmentation does not help: the difference cannot be told from chance",
        }[self.verdict]
        what = "mean accuracy of the classes" if self.balanced else "accuracy"
        return (
            f"{said}. The {what} is {self.augmented:.4f} with {self.num_new:,} new examples and {self.accuracy:.4f} without, "
            f"{self.difference:+.4f} +- {self.standard_error:.4f} ({len(self.by_seed)} seeds, {self.num_test:,} test examples)."
        )

    def to_json(self) -> Json:
        """The figures by name, with the verdict."""
        return {**asdict(self), "verdict": self.verdict}


def evaluate_augmentation(
    train: Examples,
    new: Callable[[int], Examples],
    test: Examples,
    *,
    num_seeds: int = 5,
    num_steps: int = 1000,
    hidden: int = 256,
    balanced: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> AugmentationReport:
    """Trains a classifier on real examples, and one on real and new ones, and compares them on real ones held out.

    Both are a network with one hidden layer and have the same start, the same number of updates, of batches of 128 drawn evenly
    from what they train on, and AdamW with a rate that falls to 0 along a cosine. New examples are drawn anew for each
    seed. Test examples that are among the training ones, value for value, are left out.

    Args:
        train: real examples.
        new: gives new ones of a seed.
        test: real examples held out.
        num_seeds: at least 2.
        num_steps: updates.
        hidden: units of the hidden layer.
        balanced: count each class of the test examples the same.
        seed: the first of the seeds.
        progress: called with (done, total) classifiers.

    Raises:
        ConfigError: if a number is too small.
        DataError: if there are fewer than two labels to be told apart, or fewer than 10 test examples.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> def drawn(num):
        ...     y = rng.integers(0, 2, num)
        ...     return rng.normal(2.0 * y[:, None], 1.0, (num, 2)), y
        >>> found = evaluate_augmentation(drawn(6), lambda seed: drawn(200), drawn(500), num_seeds=2, num_steps=20)
        >>> found.num_new, found.num_steps
        (200, 20)
    """
    for name, value, least in (("num_seeds", num_seeds, 2), ("num_steps", num_steps, 1), ("hidden", hidden, 1)):
        if value < least:
            raise ConfigError(f"`{name}` must be at least {least}, got {value}. Leave it out when in doubt.")
    x, y = _labelled(*train)
    apart = _apart(x, _labelled(*test))
    num_left_out = int((np.asarray(test[1]) >= 0).sum()) - len(apart[1])
    if len(np.unique(y)) < 2:
        raise DataError("Training examples must have two labels to be told apart, found fewer. Choose another column.")
    if len(apart[1]) < FEWEST:
        raise DataError(
            f"At least {FEWEST} labelled test examples must be none of the training ones, found {len(apart[1])}. Give others."
        )
    num_classes = int(max(y.max(), apart[1].max())) + 1
    weight = _weights(apart[1], balanced)
    hits = np.empty((num_seeds, 2, len(apart[1])))
    num_new = 0
    for index in range(num_seeds):
        more = _labelled(*new(seed + index))
        num_new = len(more[1])
        pools = (x, y), (np.concatenate([x, more[0]]), np.concatenate([y, more[1]]))
        for side, pool in enumerate(pools):
            said = _said(pool, x, apart[0], num_classes, num_steps, hidden, seed + index)
            hits[index, side] = said == apart[1]
            if progress is not None:
                progress(2 * index + side + 1, 2 * num_seeds)
    shares = (hits * weight).sum(-1)
    paired = hits[:, 1] - hits[:, 0]
    by_seed = shares[:, 1] - shares[:, 0]
    return AugmentationReport(
        accuracy=float(shares[:, 0].mean()),
        augmented=float(shares[:, 1].mean()),
        difference=float(by_seed.mean()),
        standard_error=_standard_error(by_seed, paired.mean(0), weight),
        by_seed=tuple(by_seed.tolist()),
        balanced=balanced,
        num_train=len(y),
        num_new=num_new,
        num_test=len(apart[1]),
        num_left_out=num_left_out,
        num_steps=num_steps,
    )


def _standard_error(by_seed: np.ndarray, by_example: np.ndarray, weight: np.ndarray) -> float:
    """Of the mean difference: of seeds (S,), and of a weighted mean (weights that add up to 1) over examples (n,)."""
    spread = by_example - (by_example * weight).sum()
    of_examples = float((weight**2 * spread**2).sum()) * len(weight) / (len(weight) - 1)
    return math.sqrt(float(by_seed.var(ddof=1)) / len(by_seed) + of_examples)


def _labelled(x: np.ndarray, y: np.ndarray) -> Examples:
    """Flat values and labels of the examples whose label is known."""
    labels = np.asarray(y, dtype=np.int64)
    if len(x) != len(labels):
        raise DataError(f"Each example must have a label, found {len(labels)} of {len(x)} examples. Give one for each.")
    known = labels >= 0
    return np.asarray(x, dtype=np.float32).reshape(len(x), math.prod(np.shape(x)[1:]))[known], labels[known]


def _apart(x: np.ndarray, test: Examples) -> Examples:
    """The test examples that are none of x."""
    seen = {row.tobytes() for row in x}
    rows = np.array([row.tobytes() not in seen for row in test[0]], dtype=bool)
    return test[0][rows], test[1][rows]


def _weights(labels: np.ndarray, balanced: bool) -> np.ndarray:
    """(n,) that add up to 1."""
    if not balanced:
        return np.full(len(labels), 1.0 / len(labels))
    _, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1.0 / (len(counts) * counts[place])


def _said(
    pool: Examples, real: np.ndarray, test: np.ndarray, num_classes: int, num_steps: int, hidden: int, seed: int
) -> np.ndarray:
    """(n,) labels of the test examples by a classifier trained on the pool; inputs are standardised by the real examples."""
    centre = np.nanmean(real, axis=0)
    spread = np.nanstd(real, axis=0)
    spread = np.where(spread > 1e-6 * max(float(np.nanmax(spread)), 1e-30), spread, np.inf)  # what never varies says nothing

    def scaled(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.nan_to_num((values - centre) / spread).clip(-_REACH, _REACH).astype(np.float32))

    x, y = scaled(pool[0]), torch.from_numpy(pool[1])
    with seeded(seed, torch.device("cpu")):
        network = nn.Sequential(nn.Linear(x.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, num_classes))
        optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
        for _ in range(num_steps):
            rows = torch.randint(len(y), (BATCH,))
            optimizer.zero_grad()
            F.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    with torch.inference_mode():
        return network(scaled(test)).argmax(1).numpy()
