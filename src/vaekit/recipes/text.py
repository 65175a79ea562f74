"""Parts for text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vaekit import likelihoods, networks, posteriors
from vaekit.component import Component
from vaekit.data.dataset import Dataset
from vaekit.data.transforms import Tokens
from vaekit.errors import ConfigError
from vaekit.objectives import ELBO
from vaekit.posteriors import Posterior
from vaekit.recipes.base import (
    LEAST_FOR_SECOND_STAGE,
    SECOND_STAGE,
    Recipe,
    batch_size_of,
    check_latent,
    condition_of,
    prior_of,
)
from vaekit.symbols import UNKNOWN
from vaekit.types import Json
from vaekit.vae import VAE

_NUM_LATENTS = 32
_LEAST_NATS = 6.0
"""Of the whole latent: the least rate under a standard normal prior, by the variance of the posterior's means."""
_FEWEST_FOR_BATCHES = 256
"""Training texts, below which moments over a batch say little."""
_FREE_NATS = 8.0
"""Of the whole latent, where texts are few: what it may say of a text without being charged."""
_SHORT = 32
"""Tokens, up to which an LSTM on a processor is ahead of a transformer in equal time: so it is of names, and not of 64."""
_DROPOUT = 0.2
_PRETRAIN_EPOCHS, _PRETRAIN_STEPS = 2, 4000
_MANY_TOKENS = 500_000
"""In the training text, from which the networks are wider: fewer tokens teach them no more, and they are slower."""


def text(
    data: Dataset,
    recipe: str,
    latent: int | None,
    likelihood: str | None,
    condition: Sequence[str],
    accelerated: bool,
    prior: str | None,
    private: bool = False,
) -> Recipe:
    """An autoregressive decoder with a latent that is used: means that are normalised over the batch, and so differ from text
    to text, and a prior that is fitted afterwards and takes back what the latents lie off a normal.

    With few texts the first nats of the latent are free instead, and it is pretrained. What is free is free for the latent as a
    whole: of nats that are free for each unit, many are spent on a narrow scale that is the same for all texts, and says
    nothing.
    """
    schema = data.schema
    if recipe not in ("auto", "lstm", "transformer"):
        raise ConfigError(f"The recipe of text must be `lstm`, `transformer` or `auto`, got {recipe!r}. Leave it out.")
    if likelihood not in (None, "auto"):
        raise ConfigError(f"`likelihood` must be left out for text, whose tokens are categorical; got {likelihood!r}.")
    if prior == "vamp":
        raise ConfigError("The prior of text must not be `vamp`, whose inputs are numbers; use `mixture` or `flow`.")
    assert schema.text is not None
    check_latent(latent)
    num_latents, num_tokens = latent or _NUM_LATENTS, schema.text.num_tokens
    encoder, features = condition_of(schema, condition)
    short = not accelerated and schema.shape[0] <= _SHORT
    kind = recipe if recipe != "auto" else "lstm" if short else "transformer"
    inward, outward, why_network = _networks(kind, recipe != "auto", data, num_latents, features, accelerated)
    batch_size = batch_size_of(len(data), 64)
    posterior, objective, settings, why_used = _used(inward, num_latents, len(data), batch_size, private)
    vae = VAE(
        prior=prior_of(prior or "standard", num_latents, schema, (-1.0, 1.0), features, len(data)),
        posterior=posterior,
        likelihood=likelihoods.Tokens(outward, schema.shape[0], [UNKNOWN] if schema.text.tokens in ("byte", "bpe") else []),
        condition=encoder,
    )
    settings = {"learning_rate": 2e-3, "batch_size": batch_size, "clip_norm": 5.0, "weight_decay": 0.01, **settings}
    why = (
        f"Likelihood: tokens, each given those before it and the latent; {num_tokens:,} of them.",
        why_network,
        f"Latent: {num_latents} units{'' if latent is None else ', as asked'}.",
        *(() if prior is None else (f"Prior: {prior}, as asked.",)),
        why_used,
    )
    second_stage = SECOND_STAGE if prior is None and len(data) >= LEAST_FOR_SECOND_STAGE else None
    return Recipe(vae, Tokens(), settings, why, objective, second_stage)


def _used(
    inward: Component, num_latents: int, num_texts: int, batch_size: int, private: bool
) -> tuple[Posterior, ELBO, Json, str]:
    """A posterior that the decoder does not do without: with its objective, its settings, and a sentence on it."""
    steps = max(1, num_texts // batch_size)
    if private:
        why = "Objective: nothing is against a latent that says nothing, because all that is mixes the examples of a batch."
        return posteriors.DiagonalNormal(inward, num_latents), ELBO(warm_up=steps), {}, why
    if num_texts >= _FEWEST_FOR_BATCHES:
        gamma = min(1.0, math.sqrt(2 * _LEAST_NATS / num_latents))  # means of variance 1 are as wide as the prior
        why = f"Posterior: its means vary by {gamma:.2g} over each batch, so that the decoder does not do without the latent."
        return posteriors.BatchNormNormal(inward, num_latents, gamma), ELBO(), {}, why
    why = f"Objective: the first {_FREE_NATS:g} nats of the latent are free, so that the decoder does not do without it."
    pretrain = min(max(_PRETRAIN_EPOCHS * steps, 500), _PRETRAIN_STEPS)
    objective = ELBO(warm_up=steps, free_bits=_FREE_NATS, free_bits_per="level")
    return posteriors.DiagonalNormal(inward, num_latents), objective, {"pretrain": pretrain}, why


def _networks(
    kind: str, asked: bool, data: Dataset, num_latents: int, features: int, accelerated: bool
) -> tuple[Component, Component, str]:
    """Encoder and decoder, larger on a GPU, and a sentence on them."""
    about = {"condition_features": features, "dropout": _DROPOUT}
    num_tokens = data.schema.levels or 0
    many = data.schema.num_examples * data.schema.shape[0] > _MANY_TOKENS
    if kind == "lstm":
        why = ", as asked" if asked else ", which learns short texts on a processor sooner than a transformer"
        hidden = 512 if accelerated else 256 if many else 128
        widths = {"embedding": hidden // 2, "hidden": hidden}
        inward = networks.LSTMEncoder(num_tokens, **widths, **about)
        outward = networks.LSTMDecoder(num_tokens, num_latents, **widths, **about)
        return inward, outward, f"Network: an LSTM of {hidden} on each side{why}."
    width, depth = (512, 6) if accelerated else (192, 3) if many else (128, 2)
    sizes = {"width": width, "depth": depth, "heads": width // 64}
    inward = networks.TransformerEncoder(num_tokens, **sizes, **about)
    outward = networks.TransformerDecoder(num_tokens, num_latents, **sizes, **about)
    return inward, outward, f"Network: a transformer of {depth} layers of {width} on each side."
