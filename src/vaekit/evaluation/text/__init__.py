"""How good texts are: faithful to what they should be, varied, and no copies."""

from vaekit.evaluation.text.bleu import Bleu, corpus_bleu, exact_match
from vaekit.evaluation.text.diversity import distinct, duplicate_share, self_bleu
from vaekit.evaluation.text.ngrams import NgramModel
from vaekit.evaluation.text.novelty import Novelty, novelty
from vaekit.evaluation.text.report import TextReport, evaluate_texts

__all__ = [
    "Bleu",
    "NgramModel",
    "Novelty",
    "TextReport",
    "corpus_bleu",
    "distinct",
    "duplicate_share",
    "evaluate_texts",
    "exact_match",
    "novelty",
    "self_bleu",
]
