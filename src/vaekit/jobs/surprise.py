"""Surprise: which words of a text are unlikely, given those before them and the latent."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from vaekit.component import device_of, full_precision
from vaekit.data.dataset import Dataset, to_source
from vaekit.data.text.batches import trimmed
from vaekit.data.text.tokens import Tokenizer, tokenizer_of
from vaekit.data.text.units import Unit, divided, unit_of
from vaekit.distributions.sequence import TokenSequence
from vaekit.errors import ConfigError
from vaekit.inference import MAX_ELEMENTS, prepare, seeded
from vaekit.storage import Bundle
from vaekit.symbols import END, PAD

THE_END = "<end>"
"""How the end of a text is listed."""

_SAMPLES = 8
_ROWS = 64
_LISTED = 3


@dataclass(frozen=True)
class Surprises:
    """What a model finds odd in N texts.

    Attributes:
        texts: as they are printed.
        num_tokens: (N,), the END counted as one.
        unit: what the texts are best counted in, see `unit_of`.
        num_units: (N,), words as whitespace divides them, or characters.
        words: of each text its words, or its tokens where it has fewer than two words, and the END, in their order, with
            -log p of each given what is before it, in nats.
    """

    texts: list[str]
    num_tokens: np.ndarray
    unit: Unit
    num_units: np.ndarray
    words: list[list[tuple[str, float]]]

    def odd(self) -> list[str]:
        """Of each text at most three words, the most surprising first, each more so than the text's words are on average."""
        return [
            ", ".join(f"{word} ({nats:.1f})" for word, nats in _above_average(words)[:_LISTED]) for words in self.words
        ]  # fmt: skip

    def perplexity(self, log_likelihood: np.ndarray) -> np.ndarray:
        """(N,): exp(-log p / (units + 1)) of log p (N,): the END counts as a word, or as a character."""
        return np.exp(np.minimum(-log_likelihood / (self.num_units + 1), 700.0))


def _above_average(words: list[tuple[str, float]]) -> list[tuple[str, float]]:
    average = sum(nats for _, nats in words) / len(words)
    return sorted((pair for pair in words if pair[1] > average), key=lambda pair: -pair[1])


def surprises(bundle: Bundle, dataset: Dataset, *, num_samples: int = _SAMPLES, seed: int = 0) -> Surprises:
    """-log p of each word of each text, the latent integrated out.

        s_t = -sum_k w_k log p(x_t | x_<t, z_k, c),    w_k = p(x, z_k|c) / q(z_k|x, c), divided by their sum,    z_k ~ q(z|x, c)

    It is the mean over p(z|x, c), the latent of the whole text: a word is odd where even a latent that knows it makes it
    unlikely.

    Args:
        bundle: the model of text.
        dataset: N texts.
        num_samples: K.
        seed: of all draws; the global random state is left as it was.

    Raises:
        ConfigError: if the model is none of text.
    """
    if bundle.schema.text is None:
        raise ConfigError(f"The model must be one of text to tell odd words, got one of {bundle.schema.kind}. Leave it out.")
    tokenizer = tokenizer_of(bundle.schema.text)
    at_once = MAX_ELEMENTS // (num_samples * bundle.vae.peak_elements())
    rows = max(1, min(_ROWS, at_once))
    texts: list[str] = []
    words: list[list[tuple[str, float]]] = []
    counts: list[np.ndarray] = []
    with torch.inference_mode(), seeded(seed, device_of(bundle.vae)), full_precision():
        for start in range(0, len(dataset), rows):
            batch = trimmed(dataset.batch(np.arange(start, min(start + rows, len(dataset)))), bundle.schema)
            inputs = prepare(bundle, batch)
            trace = bundle.vae(inputs.x, condition=inputs.condition, mask=inputs.mask, num_samples=num_samples)
            p = cast(TokenSequence, trace.likelihood)
            found = _weighted(p, inputs.x, trace.log_weights.softmax(0)).cpu().numpy()
            codes = inputs.x.cpu().numpy()
            counts.append((codes != PAD).sum(1))
            texts += to_source(codes, bundle.schema).tolist()
            words += [_words(tokenizer, row[row != PAD], nats) for row, nats in zip(codes, found, strict=True)]
    unit = unit_of(texts)
    num_units = np.array([len(units) for units in divided(texts, unit)])
    return Surprises(texts, np.concatenate(counts), unit, num_units, words)


def _weighted(p: TokenSequence, x: Tensor, weights: Tensor) -> Tensor:
    """(B, T) float64: -sum_k w_k log p of each code of x (B, T), of weights (K, B)."""
    codes = x.expand(len(weights), *x.shape)
    masses = p.log_masses(codes.reshape(-1, x.shape[-1])).view(codes.shape).double()
    weights = weights.double().unsqueeze(-1)
    return -torch.where(weights > 0, weights * masses, 0.0).sum(0)


def _words(tokenizer: Tokenizer, codes: np.ndarray, nats: np.ndarray) -> list[tuple[str, float]]:
    """The words of one text, codes (n,) with its END, each with the sum of its tokens' nats."""
    tokens = codes[codes != END]
    printed = [tokenizer.printed[code] for code in tokens.tolist()]
    begins = np.array([token[0].isspace() for token in printed], dtype=bool)
    if (text := "".join(printed)) and len(text.split()) < 2:
        begins = ~tokenizer.continues[tokens]
    blank = np.array([token.isspace() for token in printed], dtype=bool)
    begins[1:] &= ~blank[:-1]  # what follows a space of its own goes with it
    begins[:1] = True
    edges = [*np.flatnonzero(begins).tolist(), len(tokens)]
    found = [
        (tokenizer.decode(tokens[None, start:end])[0].strip(), float(nats[start:end].sum()))
        for start, end in itertools.pairwise(edges)
    ]
    found = [(word or repr(" "), value) for word, value in found]
    return [*found, (THE_END, float(nats[len(tokens)]))]
