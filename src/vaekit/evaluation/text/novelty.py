"""Whether texts are new, or copied from others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vaekit.data.text.units import Unit, divided, ngrams
from vaekit.errors import DataError

_LISTED = 20


@dataclass(frozen=True)
class Novelty:
    """Texts against those that a model was trained on.

    Attributes:
        share: of the texts, those that are none of the training texts.
        num_copies: how many are.
        copies: of the copied texts at most 20, the most often made first: the text, how often it was made, and how often it is
            in the training texts.
        unseen: (order, share): of all runs of so many units in the texts, those that no training text has; an order of which
            there is no run is left out.
    """

    share: float
    num_copies: int
    copies: tuple[tuple[str, int, int], ...]
    unseen: tuple[tuple[int, float], ...]


def novelty(texts: Sequence[str], training: Iterable[str], unit: Unit, orders: Sequence[int] = (1, 2, 3, 4)) -> Novelty:
    """How many of the texts, and of their runs of units, the training texts do not have.

    Two texts are the same here where they differ in nothing but spaces. The training texts are read once, one after another,
    and memory grows with the texts alone.

    Args:
        texts: N made texts.
        training: all that a model was trained on.
        unit: of the runs.
        orders: lengths of the runs.

    Raises:
        DataError: if there are no texts.

    Example:
        >>> found = novelty(["a b", "a  c", "b a"], ["a b", "x a b c"], "word", orders=[1, 2])
        >>> found.num_copies, found.copies, found.unseen
        (1, (('a b', 1, 1),), ((1, 0.0), (2, 0.6666666666666666)))
    """
    if not texts:
        raise DataError("There must be a text to look for in the training texts, found none. Give some.")
    made = Counter(_plain(text) for text in texts)
    there = dict.fromkeys(made, 0)
    runs = {k: Counter(run for of_text in divided(texts, unit) for run in ngrams(of_text, k)) for k in orders}
    unseen = {k: set(of_order) for k, of_order in runs.items()}
    for text in training:
        plain = _plain(text)
        if plain in there:
            there[plain] += 1
        (units,) = divided([text], unit)
        for k, left in unseen.items():
            if left:
                left.difference_update(ngrams(units, k))
    copied = sorted(((text, made[text], count) for text, count in there.items() if count), key=lambda row: -row[1])
    num_copies = sum(count for _, count, _ in copied)
    shares = [
        (k, sum(runs[k][run] for run in left) / sum(runs[k].values())) for k, left in unseen.items() if runs[k]
    ]  # fmt: skip
    return Novelty(1 - num_copies / len(texts), num_copies, tuple(copied[:_LISTED]), tuple(shares))


def _plain(text: str) -> str:
    return " ".join(text.split())
