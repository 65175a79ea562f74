"""All measures of made texts in one report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from vaekit.data.dataset import spaced
from vaekit.data.text.units import Unit, divided, unit_of
from vaekit.errors import ConfigError, DataError
from vaekit.evaluation.text.bleu import corpus_bleu, exact_match
from vaekit.evaluation.text.diversity import distinct, duplicate_share, self_bleu
from vaekit.evaluation.text.ngrams import NgramModel
from vaekit.evaluation.text.novelty import Novelty, novelty
from vaekit.inference import Progress
from vaekit.types import Json

NGRAM_TEXTS = 200_000
"""The n-gram model learns from so many of the training texts at most, evenly spaced."""

_COMPARED = 500


@dataclass(frozen=True)
class Reconstructions:
    """Texts decoded from their own latents.

    Attributes:
        bleu: corpus BLEU-4 against the texts themselves, from 0 to 100, by the units of the report.
        exact_match: the share that is the text, character for character.
        num_texts: how many.
    """

    bleu: float
    exact_match: float
    num_texts: int


@dataclass(frozen=True)
class Variety:
    """How varied a set of texts is; figures compare only for as many texts.

    Attributes:
        self_bleu: mean BLEU-4 of each with the others as references, from 0 to 100: lower is more varied. None for one text.
        distinct_1: different units as a share of all units.
        distinct_2: different pairs as a share of all pairs; None where no text has one.
        duplicates: the share of texts that an earlier one is already.
        mean_length: units a text.
        num_texts: how many.
    """

    self_bleu: float | None
    distinct_1: float | None
    distinct_2: float | None
    duplicates: float
    mean_length: float
    num_texts: int


@dataclass(frozen=True)
class Ngrams:
    """A language model of n-grams, learned from training texts: `NgramModel`.

    Attributes:
        order: n.
        perplexity: of the samples, a unit. Below that of held-out texts: more typical than texts are; above: less fluent.
        held_out_perplexity: of held-out texts.
        held_out_nll: nats a held-out text: what a model must be below to say more of texts than counting does. Tokens that the
            vocabulary of either lacks are not paid for in full.
        num_texts: it was learned from.
    """

    order: int
    perplexity: float
    held_out_perplexity: float
    held_out_nll: float
    num_texts: int


@dataclass(frozen=True)
class TextReport:
    """How good made texts are.

    Attributes:
        unit: what BLEU, variety, novelty and n-grams count: `word` or `character`.
        reconstructions: None where none are given.
        samples: the variety of samples.
        reference: that of as many held-out texts.
        novelty: of the samples, against the training texts; None without those.
        reference_novelty: the share of the held-out texts that are no training text; None without those.
        ngrams: None without training texts.
        num_samples: how many samples.
        num_held_out: how many held-out texts.
        num_training: how many training texts.
        notes: what a person should know.
    """

    unit: Unit
    reconstructions: Reconstructions | None
    samples: Variety
    reference: Variety
    novelty: Novelty | None
    reference_novelty: float | None
    ngrams: Ngrams | None
    num_samples: int
    num_held_out: int
    num_training: int
    notes: tuple[str, ...]

    def to_json(self) -> Json:
        """The report as a JSON object."""
        return asdict(self)


def evaluate_texts(
    samples: Sequence[str],
    held_out: Sequence[str],
    *,
    training: Sequence[str] | None = None,
    reconstructed: tuple[Sequence[str], Sequence[str]] | None = None,
    unit: Unit | None = None,
    order: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> TextReport:
    """Variety and novelty of samples, their perplexity under n-grams, and reconstructions.

    Args:
        samples: texts that a model made.
        held_out: real texts that it was not trained on.
        training: texts that it was trained on; without them nothing is said of novelty and n-grams.
        reconstructed: texts, and their reconstructions.
        unit: what is counted; by the held-out texts if None, see `unit_of`.
        order: n of the n-grams.
        seed: of the choice of samples that are compared with each other.
        progress: called with (done, total) as parts are done.

    Raises:
        DataError: if there are no samples, or no held-out texts.
        ConfigError: for a unit or an order that cannot be.

    Example:
        >>> texts = ["the food was good", "we liked the place", "the place was bad"]
        >>> found = evaluate_texts(["the food was bad", "the place was bad"], texts[:2], training=texts)
        >>> found.unit, found.novelty.num_copies, found.samples.distinct_1
        ('word', 1, 0.625)
    """
    if not samples or not held_out:
        raise DataError(f"There must be samples and held-out texts, got {len(samples)} and {len(held_out)}. Give some of both.")
    if order < 1:
        raise ConfigError(f"`order` must be at least 1, got {order}. Use 5 when in doubt.")
    report = progress or (lambda done, total: None)
    unit = unit_of(held_out) if unit is None else unit
    compared = min(len(samples), len(held_out))
    varieties = [_variety(_few(texts, compared), unit, seed) for texts in (samples, held_out)]
    report(1, 3)
    found = of_held_out = ngrams = None
    if training is not None:
        found = novelty(samples, training, unit)
        of_held_out = novelty(held_out, training, unit, orders=()).share
        report(2, 3)
        ngrams = _ngrams(samples, held_out, training, unit, order)
    of_reconstructions = None if reconstructed is None else _reconstructions(*reconstructed, unit)
    report(3, 3)
    return TextReport(
        unit=unit,
        reconstructions=of_reconstructions,
        samples=varieties[0],
        reference=varieties[1],
        novelty=found,
        reference_novelty=of_held_out,
        ngrams=ngrams,
        num_samples=len(samples),
        num_held_out=len(held_out),
        num_training=0 if training is None else len(training),
        notes=_notes(training, compared, samples, held_out),
    )


def _few(texts: Sequence[str], num: int) -> list[str]:
    return [texts[i] for i in map(int, spaced(len(texts), num))]


def _variety(texts: Sequence[str], unit: Unit, seed: int) -> Variety:
    units = divided(texts, unit)
    return Variety(
        self_bleu=self_bleu(units, most=_COMPARED, seed=seed) if len(units) > 1 else None,
        distinct_1=distinct(units, 1),
        distinct_2=distinct(units, 2),
        duplicates=duplicate_share(texts),
        mean_length=float(np.mean([len(text) for text in units])),
        num_texts=len(texts),
    )


def _reconstructions(texts: Sequence[str], made: Sequence[str], unit: Unit) -> Reconstructions:
    bleu = corpus_bleu(divided(made, unit), [[text] for text in divided(texts, unit)])
    return Reconstructions(bleu.score, exact_match(made, texts), len(texts))


def _ngrams(samples: Sequence[str], held_out: Sequence[str], training: Sequence[str], unit: Unit, order: int) -> Ngrams:
    learned = _few(training, NGRAM_TEXTS)
    model = NgramModel(learned, unit, order)
    nll, counts = model.log_prob(held_out)
    return Ngrams(
        order=order,
        perplexity=model.perplexity(samples),
        held_out_perplexity=math.exp(-nll.sum() / counts.sum()),
        held_out_nll=float(-nll.mean()),
        num_texts=len(learned),
    )


def _notes(training: Sequence[str] | None, compared: int, samples: Sequence[str], held_out: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if training is None:
        notes.append("Without the training texts nothing can be said of novelty.")
    elif len(training) > NGRAM_TEXTS:
        notes.append(f"The n-grams are those of {NGRAM_TEXTS:,} of the {len(training):,} training texts.")
    if compared < len(samples):
        notes.append(
            f"The variety is that of {compared:,} of the {len(samples):,} samples, as many as there are held-out texts."
        )
    elif compared < len(held_out):
        notes.append(f"The variety of held-out texts is that of {compared:,} of them, as many as there are samples.")
    return tuple(notes)
