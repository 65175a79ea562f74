"""Small untrained models of text and their data, for tests of what a trained model is used for."""

from __future__ import annotations

import torch

from vaekit.data import loading
from vaekit.data.dataset import Dataset
from vaekit.data.transforms import Tokens as AsTokens
from vaekit.likelihoods import Tokens
from vaekit.networks import ConditionEncoder, LSTMDecoder, LSTMEncoder, TransformerDecoder, TransformerEncoder
from vaekit.posteriors import DiagonalNormal
from vaekit.priors import StandardNormal
from vaekit.storage import Bundle
from vaekit.vae import VAE

SENTENCES = [
    "the food was good .",
    "the food was bad .",
    "we liked the place .",
    "we never liked it here .",
    "the place was good and the food was good .",
    "never again .",
]


def text_data(texts: list[str] | None = None, *, labels: bool = True, tokens: str = "word", **options: object) -> Dataset:
    """Sentences, each with a label of two: `neg` and `pos`."""
    texts = SENTENCES if texts is None else texts
    y = ["pos" if index % 2 == 0 else "neg" for index in range(len(texts))] if labels else None
    return loading.open(texts, y=y, tokens=tokens, **options)


def text_bundle(
    data: Dataset | None = None,
    *,
    conditional: bool = False,
    latents: int = 3,
    hidden: int = 8,
    size: float = 0.5,
    seed: int = 0,
    transformer: bool = False,
) -> Bundle:
    """A model of text with weights far from zero, so that texts and latents matter."""
    data = text_data() if data is None else data
    torch.manual_seed(seed)
    levels, width = data.schema.levels, data.schema.shape[0]
    condition = ConditionEncoder({"label": 2}, features=2) if conditional else None
    features = 2 if conditional else 0
    if transformer:
        how = {"width": hidden, "depth": 1, "heads": 2, "condition_features": features}
        encoder, decoder = TransformerEncoder(levels, **how), TransformerDecoder(levels, latents, **how)
    else:
        how = {"embedding": 6, "hidden": hidden, "condition_features": features}
        encoder, decoder = LSTMEncoder(levels, **how), LSTMDecoder(levels, latents, **how)
    vae = VAE(StandardNormal(latents), DiagonalNormal(encoder, latents), Tokens(decoder, width), condition)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(torch.randn_like(parameter) * size)
    return Bundle(vae.eval(), AsTokens(), data.schema, {"steps": 1})
