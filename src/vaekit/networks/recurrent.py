"""Recurrent networks of sequences of tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaekit.errors import ConfigError
from vaekit.networks.inputs import append_condition
from vaekit.networks.sequence import SequenceEncoder, SequenceNetwork, State, check_share, embedding_of, lengths_of


class LSTMEncoder(SequenceEncoder):
    """The last state of an LSTM over the embeddings of the tokens, at the END of each sequence.

    Hochreiter, Schmidhuber, "Long short-term memory" (1997); as the inference network of Bowman et al., "Generating sentences
    from a continuous space" (2016). What is behind the END is not read.

    Args:
        num_tokens: V, codes from 0 to V - 1.
        embedding: features of a token.
        hidden: H, width of the LSTM, of each direction.
        bidirectional: whether a second LSTM reads backwards, whose last state is put beside: 2 H features.
        condition_features: width of the condition, appended to the features; 0 for none.
        dropout: of the embeddings, in training.
        hide: the share of tokens that are hidden in training.

    Raises:
        ConfigError: for sizes below 1, or shares outside [0, 1).

    Example:
        >>> x = torch.tensor([[4, 3, 1, 0], [5, 4, 3, 1]])
        >>> LSTMEncoder(6, embedding=8, hidden=5)(x).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        num_tokens: int,
        embedding: int = 128,
        hidden: int = 256,
        bidirectional: bool = False,
        condition_features: int = 0,
        dropout: float = 0.0,
        hide: float = 0.0,
    ) -> None:
        super().__init__(num_tokens, condition_features, hide)
        _check_widths(embedding, hidden, dropout)
        self.embedding = embedding_of(num_tokens + 1, embedding)
        self.dropout = nn.Dropout(dropout)
        self.forwards = nn.LSTM(embedding, hidden, batch_first=True)
        self.backwards = nn.LSTM(embedding, hidden, batch_first=True) if bidirectional else None
        self.out_shape = ((2 if bidirectional else 1) * hidden + condition_features,)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, T) codes to (B, H): see the class. A token that `mask` (B, T) hides is read as hidden."""
        codes = self.visible(x, mask)
        lengths = lengths_of(codes)
        embedded = self.dropout(self.embedding(codes))
        rows = torch.arange(len(codes), device=codes.device)
        features = [_run(self.forwards, embedded)[0][rows, lengths - 1]]
        if self.backwards is not None:
            places = torch.arange(codes.shape[1], device=codes.device)
            turned = (lengths[:, None] - 1 - places).clamp_min(0)  # the END first; what is behind the first token is not used
            features.append(_run(self.backwards, embedded[rows[:, None], turned])[0][rows, lengths - 1])
        return append_condition(torch.cat(features, dim=-1), condition, self.condition_features)


class LSTMDecoder(SequenceNetwork):
    """An LSTM over the tokens before, told the latent at every step and in its first state.

        c_0 = W (z, c),  h_0 = tanh(c_0),  h_t, c_t = LSTM((e(x_{t-1}), z, c), h_{t-1}, c_{t-1})

    The reference decoder of text: Bowman et al., "Generating sentences from a continuous space" (2016), with the latent at
    every step as in He, Spokoyny, Neubig, Berg-Kirkpatrick, "Lagging inference networks and posterior collapse in variational
    autoencoders" (2019), and beside the features that come out (`skip`), from where it acts on every token at once: Dieng, Kim,
    Rush, Blei, "Avoiding latent variable collapse with generative skip models" (2019).

    Args:
        num_tokens: V, codes from 0 to V - 1.
        num_latents: D.
        embedding: features of a token.
        hidden: H, width of the LSTM.
        condition_features: width of the condition, 0 for none.
        dropout: of the embeddings and of the features, in training.
        word_dropout: the share of input tokens that are hidden in training.
        skip: whether the latent and the condition stand beside the features: H + D + F of them.

    Raises:
        ConfigError: for sizes below 1, or shares outside [0, 1).

    Example:
        >>> network = LSTMDecoder(6, num_latents=2, embedding=8, hidden=5)
        >>> network(torch.tensor([[4, 3, 1]]), torch.zeros(1, 2)).shape
        torch.Size([1, 3, 7])
    """

    def __init__(
        self,
        num_tokens: int,
        num_latents: int,
        embedding: int = 128,
        hidden: int = 256,
        condition_features: int = 0,
        dropout: float = 0.0,
        word_dropout: float = 0.0,
        skip: bool = True,
    ) -> None:
        super().__init__(num_tokens, num_latents, condition_features, word_dropout)
        _check_widths(embedding, hidden, dropout)
        self.skip = skip
        told = num_latents + condition_features
        self.embedding = embedding_of(num_tokens, embedding)
        self.dropout = nn.Dropout(dropout)
        self.start = nn.Linear(told, hidden)
        self.lstm = nn.LSTM(embedding + told, hidden, batch_first=True)
        self.out_shape = (hidden + told if skip else hidden,)

    def forward(self, tokens: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """See `SequenceNetwork.forward`."""
        told = self.told(z, condition)
        embedded = self.dropout(self.embedding(self.inputs(tokens.long())))
        everywhere = told.unsqueeze(1).expand(-1, tokens.shape[1], -1)
        inputs = torch.cat([embedded, everywhere.to(embedded.dtype)], dim=-1)
        cell = self.start(told).unsqueeze(0)
        features = self.dropout(_run(self.lstm, inputs, (torch.tanh(cell), cell))[0])
        return torch.cat([features, everywhere.to(features.dtype)], dim=-1) if self.skip else features

    def begin(self, z: Tensor, condition: Tensor | None = None) -> State:
        """See `SequenceNetwork.begin`."""
        told = self.told(z, condition)
        cell = self.start(told)
        return {"told": told, "hidden": torch.tanh(cell), "cell": cell}

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """See `SequenceNetwork.step`."""
        embedded = self.embedding(tokens.long())
        inputs = torch.cat([embedded, state["told"].to(embedded.dtype)], dim=-1).unsqueeze(1)
        before = (state["hidden"].unsqueeze(0).contiguous(), state["cell"].unsqueeze(0).contiguous())
        out, (hidden, cell) = _run(self.lstm, inputs, before)
        after = {"told": state["told"], "hidden": hidden[0], "cell": cell[0]}
        features = out[:, 0]
        return torch.cat([features, state["told"].to(features.dtype)], dim=-1) if self.skip else features, after


def _run(lstm: nn.LSTM, inputs: Tensor, before: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The states of all positions, and the last. cuDNN differentiates in training alone, so elsewhere it stands aside."""
    if inputs.is_cuda and torch.is_grad_enabled() and not lstm.training:
        with torch.backends.cudnn.flags(enabled=False):
            return lstm(inputs, before)
    return lstm(inputs, before)


def _check_widths(embedding: int, hidden: int, dropout: float) -> None:
    if min(embedding, hidden) < 1:
        raise ConfigError(f"`embedding` and `hidden` must be at least 1, got {embedding} and {hidden}. Give positive widths.")
    check_share("dropout", dropout)
