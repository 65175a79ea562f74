"""Parts for text."""

from __future__ import annotations

from collections.abc import Sequence

from vaekit import likelihoods, networks, posteriors
from vaekit.component import Component
from vaekit.data.dataset import Dataset
from vaekit.data.transforms import Tokens
from vaekit.errors import ConfigError
from vaekit.objectives import ELBO
from vaekit.recipes.base import Recipe, batch_size_of, check_latent, condition_of, prior_of
from vaekit.symbols import UNKNOWN
from vaekit.types import Json
from vaekit.vae import VAE

_NUM_LATENTS = 32
_FREE_NATS = 6.0
"""Of the whole latent: what a sentence may say of itself without being charged."""
_DROPOUT = 0.3


def text(
    data: Dataset,
    recipe: str,
    latent: int | None,
    likelihood: str | None,
    condition: Sequence[str],
    accelerated: bool,
    prior: str | None,
) -> Recipe:
    """An autoregressive decoder that is told the latent, kept from doing without it by pretraining and free bits."""
    schema = data.schema
    if recipe not in ("auto", "lstm", "transformer"):
        raise ConfigError(f"The recipe of text must be `lstm`, `transformer` or `auto`, got {recipe!r}. Leave it out.")
    if likelihood not in (None, "auto"):
        raise ConfigError(f"`likelihood` must be left out for text, whose tokens are categorical; got {likelihood!r}.")
    if prior == "vamp":
        raise ConfigError("The prior of text must not be `vamp`, whose inputs are numbers; use `mixture` or `flow`.")
    check_latent(latent)
    num_latents = latent or _NUM_LATENTS
    num_tokens, max_length = schema.levels or 0, schema.shape[0]
    encoder, features = condition_of(schema, condition)
    kind = "transformer" if recipe == "auto" else recipe
    inward, outward, why_network = _networks(kind, num_tokens, num_latents, features, accelerated)
    never = [UNKNOWN] if schema.text is not None and schema.text.tokens in ("byte", "bpe") else []
    vae = VAE(
        prior=prior_of(prior or "standard", num_latents, schema, (-1.0, 1.0), features, len(data)),
        posterior=posteriors.DiagonalNormal(inward, num_latents),
        likelihood=likelihoods.Tokens(outward, max_length, never),
        condition=encoder,
    )
    batch_size = batch_size_of(len(data), 64)
    steps = max(1, len(data) // batch_size)
    settings: Json = {"learning_rate": 1e-3, "batch_size": batch_size, "clip_norm": 5.0}
    why = (
        f"Likelihood: tokens, each given those before it and the latent; {num_tokens:,} of them.",
        why_network,
        f"Latent: {num_latents} units{'' if latent is None else ', as asked'}.",
        f"Objective: {_FREE_NATS:g} nats of the latent are free, so that the decoder cannot do without it.",
        *(() if prior is None else (f"Prior: {prior}, as asked.",)),
    )
    return Recipe(vae, Tokens(), settings, why, ELBO(free_bits=_FREE_NATS / num_latents, warm_up=5 * steps))


def _networks(
    kind: str, num_tokens: int, num_latents: int, features: int, accelerated: bool
) -> tuple[Component, Component, str]:
    """Encoder and decoder, larger on a GPU, and a sentence on them."""
    about = {"condition_features": features, "dropout": _DROPOUT}
    if kind == "lstm":
        hidden = 512 if accelerated else 256
        widths = {"embedding": hidden // 2, "hidden": hidden}
        inward = networks.LSTMEncoder(num_tokens, **widths, **about)
        outward = networks.LSTMDecoder(num_tokens, num_latents, **widths, **about)
        return inward, outward, f"Network: an LSTM of {hidden} on each side, as asked."
    width, depth = (512, 6) if accelerated else (192, 3)
    sizes = {"width": width, "depth": depth, "heads": width // 64}
    inward = networks.TransformerEncoder(num_tokens, **sizes, **about)
    outward = networks.TransformerDecoder(num_tokens, num_latents, **sizes, **about)
    return inward, outward, f"Network: a transformer of {depth} layers of {width} on each side."
