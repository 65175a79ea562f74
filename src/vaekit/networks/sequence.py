"""What the networks of sequences of tokens share."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.errors import ConfigError
from vaekit.networks.inputs import append_condition
from vaekit.networks.mlp import LinearHead
from vaekit.symbols import END, FIRST, PAD, UNKNOWN

State = dict[str, Tensor]
"""What a decoder remembers of the tokens so far; the first dimension of every tensor is that of the sequences."""


class SequenceNetwork(Component, abc.ABC):
    """The network of an autoregressive likelihood: features of the next token, given those before it and a latent.

    It is called in two ways that agree: with whole sequences (teacher forcing), and step by step with a state, in which what
    earlier tokens have led to is kept. A sequence begins with the code END as its input.

    Args:
        num_tokens: V, codes from 0 to V - 1.
        num_latents: D.
        condition_features: width of the condition, 0 for none.
        word_dropout: the share of input tokens that are hidden in training, as UNKNOWN, so that the latent must tell them:
            Bowman et al., "Generating sentences from a continuous space" (2016), section 3.1.

    Raises:
        ConfigError: for no token beside the special ones, no latent, or a share outside [0, 1).
    """

    out_shape: tuple[int, ...]

    def __init__(self, num_tokens: int, num_latents: int, condition_features: int = 0, word_dropout: float = 0.0) -> None:
        super().__init__()
        if num_tokens <= FIRST or num_latents < 1 or condition_features < 0:
            raise ConfigError(
                f"A decoder of tokens must have more than {FIRST} codes and at least one latent, got {num_tokens} codes, "
                f"{num_latents} latents and {condition_features} features of a condition. Give the codes of the tokens and the "
                "latent's size."
            )
        check_share("word_dropout", word_dropout)
        self.num_tokens, self.num_latents, self.condition_features = num_tokens, num_latents, condition_features
        self.word_dropout = word_dropout

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> nn.Module:
        """A linear layer from the features of a position."""
        return LinearHead(self.out_shape[0], num_parameters, event_shape)

    @abc.abstractmethod
    def forward(self, tokens: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Features (N, T, H) of each position, from the tokens before it.

        Args:
            tokens: (N, T) codes; what stands behind a position is not read for it.
            z: (N, D).
            condition: (N, F), or None.
        """

    @abc.abstractmethod
    def begin(self, z: Tensor, condition: Tensor | None = None) -> State:
        """The state before the first step, for N latents (N, D)."""

    @abc.abstractmethod
    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Features (N, H) of the next position, and the state after it.

        Args:
            tokens: (N,) codes of the position before; END at the first step.
            state: of `begin`, or of the step before.
        """

    def inputs(self, tokens: Tensor) -> Tensor:
        """(N, T): the code before each position, END first; in training a share of them hidden."""
        before = torch.cat([torch.full_like(tokens[:, :1], END), tokens[:, :-1]], dim=1)
        if not self.training or self.word_dropout == 0:
            return before
        hide = (torch.rand(before.shape, device=before.device) < self.word_dropout) & (before != END) & (before != PAD)
        return torch.where(hide, UNKNOWN, before)

    def told(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """(N, D + F): the latent, and the condition behind it."""
        return append_condition(z, condition, self.condition_features)


class SequenceEncoder(Component, abc.ABC):
    """A network that reads a sequence of codes and gives features of the whole.

    Args:
        num_tokens: V. A hidden token is read as the code V, which no text has.
        condition_features: width of the condition, 0 for none.
        hide: the share of tokens that are hidden in training, so that features do not rest on single words: the encoder's part
            of a denoising autoencoder (Shen et al., "Educating text autoencoders: latent representation guidance via
            denoising", 2020, section 2).

    Raises:
        ConfigError: for no token beside the special ones, or a share outside [0, 1).
    """

    out_shape: tuple[int, ...]

    def __init__(self, num_tokens: int, condition_features: int = 0, hide: float = 0.0) -> None:
        super().__init__()
        if num_tokens <= FIRST or condition_features < 0:
            raise ConfigError(
                f"An encoder of tokens must have more than {FIRST} codes, got {num_tokens} codes and {condition_features} "
                "features of a condition. Give the codes of the tokens."
            )
        check_share("hide", hide)
        self.num_tokens, self.condition_features, self.hide = num_tokens, condition_features, hide

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> nn.Module:
        """A linear layer from the features."""
        return LinearHead(self.out_shape[0], num_parameters, event_shape)

    @abc.abstractmethod
    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, T) codes to features (B, H); padding, and what is behind the END, is not read.

        Args:
            x: (B, T) codes.
            condition: (B, F), or None.
            mask: (B, T) bool, False where a token is hidden, whatever stands there: leave padding as it is.
        """

    def visible(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T) int64: codes, V where a token is hidden."""
        codes = x.long()
        if mask is not None:
            codes = torch.where(mask.expand(codes.shape), codes, self.num_tokens)
        if not self.training or self.hide == 0:
            return codes
        hidden = (torch.rand(codes.shape, device=codes.device) < self.hide) & (codes > END)
        return torch.where(hidden, self.num_tokens, codes)


def lengths_of(codes: Tensor) -> Tensor:
    """(N,): the positions of each sequence up to its END, or to where the padding begins, at least 1."""
    return (codes != PAD).sum(-1).clamp_min(1)


def embedding_of(num_tokens: int, features: int, reach: float = 0.1) -> nn.Embedding:
    """Embeddings from U(-reach, reach). Given its weights, one is built without importing torch's compiler."""
    return nn.Embedding(num_tokens, features, _weight=torch.empty(num_tokens, features).uniform_(-reach, reach))


def check_share(name: str, value: float) -> None:
    """Raises a ConfigError unless 0 <= value < 1."""
    if not 0 <= value < 1:
        raise ConfigError(f"`{name}` must be in [0, 1), got {value}. Use 0 for none.")
