"""A language model of n-grams: what texts cost under the statistics of others."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vaekit.data.text.units import Unit, divided
from vaekit.errors import ConfigError, DataError

_BEGIN, _END, _UNKNOWN, _FIRST = 0, 1, 2, 3
_CHUNK = 4096


@dataclass(frozen=True)
class _Order:
    """The runs of k units of the training texts, in the order of their keys.

    Attributes:
        keys: (R,) number of the run without its last unit * V + the last unit, sorted.
        counts: (R,) how often it counts, see `NgramModel`.
        totals: (R',) of each run of k - 1 units, the sum of the counts of the runs that it begins.
        types: (R',) and how many they are.
        discount: what is taken from each count.
    """

    keys: np.ndarray
    counts: np.ndarray
    totals: np.ndarray
    types: np.ndarray
    discount: float


@dataclass(frozen=True)
class _Runs:
    """The different runs of k units: their keys, how many copies of each there are, the place where the first copy ends, and
    for each place the number of the run that ends there."""

    keys: np.ndarray
    copies: np.ndarray
    first: np.ndarray
    numbers: np.ndarray


class NgramModel:
    """p(text) = prod_t p(u_t | the n - 1 units before it), by interpolated Kneser-Ney, ended by an END.

        p_k(u|h) = max(c_k(hu) - D_k, 0) / c_k(h) + D_k N_k(h) / c_k(h) p_{k-1}(u|h'),    p_0 = 1 / V

    h' is h without its first unit, c_k(h) the sum of c_k(hu) over u and N_k(h) how many different u there are. c_n counts runs
    in the training texts; c_k of a shorter run counts the different units before it, unless it begins a text, where it is
    counted itself. D_k = n1 / (n1 + 2 n2), with n1 and n2 the numbers of runs that count once and twice; 0.75 where that cannot
    be had. V counts the units of the training texts, the END, and one for all units that they have not.

    Kneser, Ney, "Improved backing-off for m-gram language modeling" (1995); interpolated, and compared with others, in Chen,
    Goodman, "An empirical study of smoothing techniques for language modeling" (1998). What others report as the perplexity of
    samples under a language model is of this kind; figures of different training texts or units do not compare.

    Memory is some dozens of bytes for each unit of the training texts and order.

    Args:
        texts: to learn from.
        unit: `word` or `character`.
        order: n.

    Raises:
        ConfigError: for an order below 1.
        DataError: if there are no texts.

    Example:
        >>> model = NgramModel(["anna", "hanna", "ann"], "character", order=3)
        >>> model.perplexity(["hann"]) < model.perplexity(["nnah"])
        True
    """

    def __init__(self, texts: Sequence[str], unit: Unit, order: int = 5) -> None:
        if order < 1:
            raise ConfigError(f"`order` must be at least 1, got {order}. Use 5 when in doubt.")
        if not texts:
            raise DataError("There must be a text to learn n-grams from, found none. Give the training texts.")
        self.unit: Unit = unit
        self.order = order
        self.vocabulary: dict[str, int] = {}
        parts = [self._flat(texts[start : start + _CHUNK], learn=True) for start in range(0, len(texts), _CHUNK)]
        units = np.concatenate([part[0] for part in parts])
        places = np.concatenate([part[1] for part in parts])
        del parts
        self.num_codes = _FIRST + len(self.vocabulary)
        self.orders = self._orders(units, places)

    @property
    def num_outcomes(self) -> int:
        """V, what may come next: all codes but that of the beginning."""
        return self.num_codes - 1

    def _flat(self, texts: Sequence[str], learn: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Codes of the texts one after another, each between a beginning and an END, and the place of each in its text."""
        if learn:
            for text in divided(texts, self.unit):
                for unit in text:
                    self.vocabulary.setdefault(unit, _FIRST + len(self.vocabulary))
        codes = [[_BEGIN, *(self.vocabulary.get(u, _UNKNOWN) for u in text), _END] for text in divided(texts, self.unit)]
        lengths = np.array([len(text) for text in codes])
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        flat = np.fromiter(itertools.chain.from_iterable(codes), dtype=np.int64, count=int(lengths.sum()))
        return flat, np.arange(len(flat)) - starts

    def _orders(self, units: np.ndarray, places: np.ndarray) -> list[_Order]:
        """What is counted of the runs of 1 to n units of the training texts."""
        runs = [self._runs(units, places, 1, np.zeros(len(units), dtype=np.int64))]
        for k in range(2, self.order + 1):
            runs.append(self._runs(units, places, k, np.concatenate([[0], runs[-1].numbers[:-1]])))
        tables = []
        for k, of_order in enumerate(runs, 1):
            counts = of_order.copies
            if k < self.order:
                # Different longer runs that end in this one: of each, this one is at the place of its first copy.
                longer = np.bincount(of_order.numbers[runs[k].first], minlength=len(counts))
                begins = places[of_order.first] == k - 1  # a text, so that nothing stands before it
                counts = np.where(begins, counts, longer)
            if k == 1:
                counts = np.where(of_order.keys == _BEGIN, 0, counts)  # nothing is followed by a beginning
            history, size = of_order.keys // self.num_codes, 1 if k == 1 else len(runs[k - 2].keys)
            totals = np.bincount(history, weights=counts, minlength=size)
            types = np.bincount(history, weights=counts > 0, minlength=size)
            tables.append(_Order(of_order.keys, counts, totals, types, _discount(counts)))
        return tables

    def _runs(self, units: np.ndarray, places: np.ndarray, k: int, history: np.ndarray) -> _Runs:
        """The runs of k units, where `history` numbers the run of k - 1 units before each place."""
        found = np.flatnonzero(places >= k - 1)
        keys, first, inverse, copies = np.unique(
            history[found] * self.num_codes + units[found], return_index=True, return_inverse=True, return_counts=True
        )
        numbers = np.full(len(units), -1, dtype=np.int64)
        numbers[found] = inverse.ravel()
        return _Runs(keys, copies, found[first], numbers)

    def log_prob(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """log p of each text in nats, (N,) float64, and how many units it has with its END, (N,)."""
        sums, counts = [], []
        for start in range(0, len(texts), _CHUNK):
            units, places = self._flat(texts[start : start + _CHUNK])
            ends = np.flatnonzero(units == _END)
            total = np.cumsum(self._log_masses(units, places))[ends]
            sums.append(np.diff(total, prepend=0.0))
            counts.append(places[ends])
        return (np.concatenate(sums), np.concatenate(counts)) if sums else (np.zeros(0), np.zeros(0, dtype=np.int64))

    def _log_masses(self, units: np.ndarray, places: np.ndarray) -> np.ndarray:
        """log p of each unit, 0 of the beginnings."""
        masses = np.full(len(units), 1.0 / self.num_outcomes)
        numbers = np.zeros(len(units), dtype=np.int64)
        for k, table in enumerate(self.orders, 1):
            if not len(table.keys):  # no text is so long
                break
            history = np.zeros(len(units), dtype=np.int64) if k == 1 else np.concatenate([[-1], numbers[:-1]])
            history[places < k - 1] = -1
            known = history >= 0
            keys = history * self.num_codes + units
            index = np.minimum(np.searchsorted(table.keys, keys), len(table.keys) - 1)
            there = known & (table.keys[index] == keys)
            total = np.where(known, table.totals[history], 0.0)
            counts = np.where(there, table.counts[index], 0)
            used = total > 0
            kept = np.maximum(counts - table.discount, 0.0)
            handed_on = table.discount * np.where(known, table.types[history], 0.0)
            masses[used] = (kept[used] + handed_on[used] * masses[used]) / total[used]
            numbers = np.where(there, index, -1)
        return np.where(units == _BEGIN, 0.0, np.log(masses))

    def perplexity(self, texts: Sequence[str]) -> float:
        """exp(-sum log p / sum of units), the END of each text counted as one.

        Raises:
            DataError: if there are no texts.
        """
        if not texts:
            raise DataError("There must be a text to have a perplexity, found none. Give some.")
        sums, counts = self.log_prob(texts)
        return math.exp(-sums.sum() / counts.sum())

    def unknown_share(self, texts: Sequence[str]) -> float:
        """The share of units that the training texts do not have."""
        units = [unit for text in divided(texts, self.unit) for unit in text]
        return sum(unit not in self.vocabulary for unit in units) / max(1, len(units))


def _discount(counts: np.ndarray) -> float:
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return once / (once + 2 * twice) if once and twice else 0.75
