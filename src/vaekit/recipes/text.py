"""Parts for text."""

from __future__ import annotations

from collections.abc import Sequence

from vaekit import likelihoods, networks, posteriors
from vaekit.component import Component
from vaekit.data.dataset import Dataset
from vaekit.data.transforms import Tokens
from vaekit.errors import ConfigError
from vaekit.objectives import ELBO
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
_FREE_NATS = 8.0
"""Of the whole latent: what it may say of a text without being charged."""
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
) -> Recipe:
    """An autoregressive decoder with a latent that is used: pretrained, its first nats free, and its prior fitted afterwards.

    What is free is free for the latent as a whole: of nats that are free for each unit, many are spent on a narrow scale that
    is the same for all texts, and says nothing. The prior that is fitted to the latents takes back what these lie off a normal.
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
    kind = "transformer" if recipe == "auto" else recipe
    inward, outward, why_network = _networks(kind, data, num_latents, features, accelerated)
    vae = VAE(
        prior=prior_of(prior or "standard", num_latents, schema, (-1.0, 1.0), features, len(data)),
        posterior=posteriors.DiagonalNormal(inward, num_latents),
        likelihood=likelihoods.Tokens(outward, schema.shape[0], [UNKNOWN] if schema.text.tokens in ("byte", "bpe") else []),
        condition=encoder,
    )
    batch_size = batch_size_of(len(data), 64)
    steps = max(1, len(data) // batch_size)
    settings: Json = {
        "learning_rate": 2e-3,
        "batch_size": batch_size,
        "clip_norm": 5.0,
        "weight_decay": 0.01,
        "pretrain": min(max(_PRETRAIN_EPOCHS * steps, 500), _PRETRAIN_STEPS),
    }
    why = (
        f"Likelihood: tokens, each given those before it and the latent; {num_tokens:,} of them.",
        why_network,
        f"Latent: {num_latents} units{'' if latent is None else ', as asked'}.",
        *(() if prior is None else (f"Prior: {prior}, as asked.",)),
        f"Objective: the first {_FREE_NATS:g} nats of the latent are free, so that the decoder does not do without it.",
    )
    objective = ELBO(warm_up=steps, free_bits=_FREE_NATS, free_bits_per="level")
    second_stage = SECOND_STAGE if prior is None and len(data) >= LEAST_FOR_SECOND_STAGE else None
    return Recipe(vae, Tokens(), settings, why, objective, second_stage)


def _networks(kind: str, data: Dataset, num_latents: int, features: int, accelerated: bool) -> tuple[Component, Component, str]:
    """Encoder and decoder, larger on a GPU, and a sentence on them."""
    about = {"condition_features": features, "dropout": _DROPOUT}
    num_tokens = data.schema.levels or 0
    many = data.schema.num_examples * data.schema.shape[0] > _MANY_TOKENS
    if kind == "lstm":
        hidden = 512 if accelerated else 256 if many else 128
        widths = {"embedding": hidden // 2, "hidden": hidden}
        inward = networks.LSTMEncoder(num_tokens, **widths, **about)
        outward = networks.LSTMDecoder(num_tokens, num_latents, **widths, **about)
        return inward, outward, f"Network: an LSTM of {hidden} on each side, as asked."
    width, depth = (512, 6) if accelerated else (192, 3) if many else (128, 2)
    sizes = {"width": width, "depth": depth, "heads": width // 64}
    inward = networks.TransformerEncoder(num_tokens, **sizes, **about)
    outward = networks.TransformerDecoder(num_tokens, num_latents, **sizes, **about)
    return inward, outward, f"Network: a transformer of {depth} layers of {width} on each side."
