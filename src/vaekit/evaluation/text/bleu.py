"""BLEU: how many runs of units texts share with the texts that they should be."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vaekit.data.text.units import ngrams
from vaekit.errors import ConfigError, DataError

Smoothing = Literal["none", "epsilon", "exponential"]

Units = Sequence[str]

_EPSILON = 0.1


@dataclass(frozen=True)
class Bleu:
    """BLEU and what it is made of.

    Attributes:
        score: from 0 to 100.
        precisions: of each order, the share of runs that are found in a reference, from 0 to 1, smoothed as asked for; None for
            an order of which the texts have no run at all.
        brevity_penalty: below 1 where the texts are shorter than their references.
        num_units: of all texts together.
        num_reference_units: of the references that are nearest to them in length.
    """

    score: float
    precisions: tuple[float | None, ...]
    brevity_penalty: float
    num_units: int
    num_reference_units: int


def corpus_bleu(
    texts: Sequence[Units],
    references: Sequence[Sequence[Units]],
    *,
    order: int = 4,
    smoothing: Smoothing = "exponential",
) -> Bleu:
    """BLEU of N texts, each with its own references, over all of them together.

        BLEU = 100 min(1, exp(1 - r / c)) exp(1/n sum_k log p_k)

    p_k is the share of the runs of k units that a reference of the same text has, each at most as often as the reference that
    has it most; c is the number of units of the texts, r that of the references nearest to them in length (the shorter of two).
    Papineni, Roukos, Ward, Zhu, "BLEU: a method for automatic evaluation of machine translation" (2002), section 2.3.

    Only orders of which the texts have runs at all are counted, so that a set of very short texts that are all right has 100.
    An order with runs, none of which is right, makes an unsmoothed BLEU 0. `exponential`: the j-th such order counts as
    1 / (2^j total), what published figures mostly are (Chen, Cherry, "A systematic comparison of smoothing techniques for
    sentence-level BLEU", 2014, smoothing 3). `epsilon`: as 0.1 / total (smoothing 1 there).

    Args:
        texts: N texts as their units.
        references: of each text, at least one.
        order: n, the longest runs.
        smoothing: see above.

    Raises:
        ConfigError: for an order below 1, or another smoothing.
        DataError: if there are no texts, or not as many lists of references, or one is empty.

    Example:
        >>> found = corpus_bleu([["the", "cat", "sat", "here"]], [[["the", "cat", "sat", "there", "now"]]], order=2)
        >>> found.precisions, round(found.brevity_penalty, 4), round(found.score, 2)
        ((0.75, 0.6666666666666666), 0.7788, 55.07)
    """
    if order < 1 or smoothing not in ("none", "epsilon", "exponential"):
        raise ConfigError(
            f"`order` must be at least 1 and `smoothing` none, epsilon or exponential, got {order} and {smoothing!r}. Leave "
            "both out when in doubt."
        )
    if not texts or len(texts) != len(references) or not all(references):
        raise DataError(
            f"Each text must have a reference, got {len(texts)} texts and {len(references)} lists of them. Give as many."
        )
    right, total = [0] * order, [0] * order
    length, reference_length = 0, 0
    for text, given in zip(texts, references, strict=True):
        length += len(text)
        reference_length += _nearest(len(text), [len(reference) for reference in given])
        for k in range(order):
            counts = Counter(ngrams(text, k + 1))
            allowed: Counter[tuple[str, ...]] = Counter()
            for reference in given:
                allowed |= Counter(ngrams(reference, k + 1))
            right[k] += sum((counts & allowed).values())
            total[k] += sum(counts.values())
    return of_counts(right, total, length, reference_length, smoothing)


def of_counts(
    right: Sequence[int], total: Sequence[int], length: int, reference_length: int, smoothing: Smoothing = "none"
) -> Bleu:
    """BLEU from the number of right runs and of all runs of each order, and the lengths; see `corpus_bleu`."""
    precisions = _precisions(right, total, smoothing)
    penalty = 1.0 if length >= reference_length else 0.0 if length == 0 else math.exp(1 - reference_length / length)
    known = [value for value in precisions if value is not None]
    score = 0.0
    if known and right[0] > 0 and min(known) > 0:  # where not even one unit is right there is nothing to smooth
        score = 100 * penalty * math.exp(sum(map(math.log, known)) / len(known))
    elif length == reference_length == 0:
        score = 100.0
    return Bleu(score, tuple(precisions), penalty, length, reference_length)


def _precisions(right: Sequence[int], total: Sequence[int], smoothing: Smoothing) -> list[float | None]:
    found: list[float | None] = []
    halves = 1.0
    for hits, runs in zip(right, total, strict=True):
        if runs == 0:
            found.append(None)
        elif hits or smoothing == "none":
            found.append(hits / runs)
        elif smoothing == "epsilon":
            found.append(_EPSILON / runs)
        else:
            halves *= 2
            found.append(1 / (halves * runs))
    return found


def _nearest(length: int, lengths: Sequence[int]) -> int:
    return min(lengths, key=lambda other: (abs(other - length), other))


def exact_match(texts: Sequence[str], references: Sequence[str]) -> float:
    """The share of texts that are their reference, character for character.

    Raises:
        DataError: if there are none, or not as many on both sides.

    Example:
        >>> exact_match(["a b", "c"], ["a b", "d"])
        0.5
    """
    if not texts or len(texts) != len(references):
        raise DataError(f"Each text must have a reference, got {len(texts)} and {len(references)}. Give as many of both.")
    return sum(text == reference for text, reference in zip(texts, references, strict=True)) / len(texts)
