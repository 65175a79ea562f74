"""How varied a set of texts is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from vaekit.data.text.units import ngrams
from vaekit.errors import ConfigError, DataError
from vaekit.evaluation.text.bleu import Units, of_counts


def self_bleu(texts: Sequence[Units], *, order: int = 4, most: int = 500, seed: int = 0) -> float:
    """Mean BLEU of each text with all the others as its references, from 0 to 100: lower is more varied.

    Each text's BLEU is its own, with 0.1 counted where no run of an order is right (`corpus_bleu`, `epsilon`). Zhu, Lu, Zheng,
    Guo, Zhang, Wang, Yu, "Texygen: a benchmarking platform for text generation models" (2018), section 3. It rises with the
    number of references, so figures compare only for as many texts.

    Args:
        texts: as their units.
        order: the longest runs.
        most: so many texts at most, drawn without repetition.
        seed: of that draw.

    Raises:
        ConfigError: for an order below 1, or fewer than two texts to compare.

    Example:
        >>> round(self_bleu([["a", "b"], ["a", "b"], ["c", "d"]], order=2), 2)
        66.67
    """
    if order < 1 or most < 2 or len(texts) < 2:
        raise ConfigError(
            f"There must be at least two texts, and an order of at least 1, got {min(len(texts), most)} and {order}. Make more."
        )
    if len(texts) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(len(texts), most, replace=False))
        texts = [texts[i] for i in map(int, chosen)]
    right, total = np.zeros((2, len(texts), order), dtype=np.int64)
    for k in range(order):
        counts = [Counter(ngrams(text, k + 1)) for text in texts]
        best = _two_greatest(counts)
        for i, of_text in enumerate(counts):
            total[i, k] = sum(of_text.values())
            # What the other texts have at most is what all have at most, unless that is this text's own.
            right[i, k] = sum(min(count, best[run][2] if best[run][1] == i else best[run][0]) for run, count in of_text.items())
    lengths = np.array([len(text) for text in texts])
    nearest = _nearest_others(lengths)
    scores = [
        of_counts(right[i].tolist(), total[i].tolist(), int(lengths[i]), int(nearest[i]), "epsilon").score
        for i in range(len(texts))
    ]
    return float(np.mean(scores))


def _two_greatest(counts: Sequence[Counter[tuple[str, ...]]]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """Of each run: its greatest count in a text, that text's number, and the greatest count in another text."""
    best: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for i, of_text in enumerate(counts):
        for run, count in of_text.items():
            first, owner, second = best.get(run, (0, -1, 0))
            best[run] = (count, i, first) if count > first else (first, owner, max(second, count))
    return best


def _nearest_others(lengths: np.ndarray) -> np.ndarray:
    """(N,): of each text the length of the other that is nearest to its own; the shorter of two."""
    ordered = np.argsort(lengths, kind="stable")
    values = lengths[ordered]
    before = np.concatenate([[-(10**9)], values[:-1]])
    after = np.concatenate([values[1:], [10**9]])
    nearest = np.empty_like(lengths)
    nearest[ordered] = np.where(values - before <= after - values, before, after)
    return nearest


def distinct(texts: Sequence[Units], order: int) -> float | None:
    """Different runs of `order` units as a share of all runs in the texts, from 0 to 1: higher is more varied.

    Li, Galley, Brockett, Gao, Dolan, "A diversity-promoting objective function for neural conversation models" (2016), section
    5.2 (distinct-1, distinct-2). It falls with the number of texts, so figures compare only for as many.

    Returns:
        The share, or None where the texts have no such run.

    Raises:
        ConfigError: for an order below 1.

    Example:
        >>> distinct([["a", "b", "a"], ["a", "b"]], 1), distinct([["a", "b", "a"], ["a", "b"]], 2)
        (0.4, 0.6666666666666666)
    """
    if order < 1:
        raise ConfigError(f"`order` must be at least 1, got {order}. Use 1 or 2.")
    seen: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        runs = ngrams(text, order)
        total += len(runs)
        seen.update(runs)
    return len(seen) / total if total else None


def duplicate_share(texts: Sequence[str]) -> float:
    """The share of texts that an earlier one is already.

    Raises:
        DataError: if there are none.

    Example:
        >>> duplicate_share(["a", "b", "a", "a"])
        0.5
    """
    if not texts:
        raise DataError("There must be a text to look for duplicates, found none. Give some.")
    return 1 - len(set(texts)) / len(texts)
