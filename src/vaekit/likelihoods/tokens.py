"""Text: sequences of tokens, each given those before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from vaekit.component import Component
from vaekit.distributions.sequence import NextToken, TokenSequence, well_formed
from vaekit.errors import ConfigError
from vaekit.likelihoods.base import Likelihood, last_bias, observed_values
from vaekit.symbols import END, PAD
from vaekit.types import Network


class Tokens(Likelihood):
    """p(x|z, c) = prod_t p(x_t | x_<t, z, c): a categorical of each token, by an autoregressive network.

    Formula and masses: `vaekit.distributions.TokenSequence`. Such a decoder can describe text without its latent, and then the
    posterior collapses: Bowman et al., "Generating sentences from a continuous space" (2016), section 3; `docs/text.md` says
    what is done about it.

    Args:
        network: an autoregressive network, such as `networks.LSTMDecoder`.
        max_length: T, positions of a sequence, its END included, at least 2.
        never: codes that no text has, PAD aside: UNKNOWN where the tokens can spell everything.

    Raises:
        ConfigError: for a network that is none of sequences, a length below 2, or codes that are not there.

    Example:
        >>> from vaekit.networks import LSTMDecoder
        >>> _ = torch.manual_seed(0)
        >>> p = Tokens(LSTMDecoder(6, num_latents=2, embedding=4, hidden=5), max_length=4)(torch.zeros(7, 3, 2))
        >>> p.log_prob(torch.tensor([[3, 4, 1, 0], [5, 1, 0, 0], [1, 0, 0, 0]])).shape
        torch.Size([7, 3])
    """

    discrete = True

    def __init__(self, network: Component, max_length: int, never: Sequence[int] = ()) -> None:
        if not isinstance(network, NextToken):
            raise ConfigError(
                f"The `network` of Tokens must be one of sequences, got a {type(network).__name__}. Use `networks.LSTMDecoder` "
                "or `networks.TransformerDecoder`."
            )
        num_tokens = network.num_tokens
        if max_length < 2 or any(not END < code < num_tokens for code in never):
            raise ConfigError(
                f"`max_length` must be at least 2, and `never` hold codes from 2 to {num_tokens - 1}, got {max_length} and "
                f"{list(never)}. Count the END of a sequence too."
            )
        super().__init__(network, [max_length], 1, (num_tokens,))
        self.max_length, self.never = max_length, list(never)
        self.twice_differentiable = bool(getattr(network, "twice_differentiable", True))
        offset = torch.zeros(num_tokens)
        offset[[PAD, *never]] = -torch.inf
        self.register_buffer("_offset", offset, persistent=False)  # the constructor's arguments hold it
        self._offset: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """(..., V) of features (..., H), -inf for what never is."""
        bias = last_bias(self.head)
        if bias is None:
            return self.head(features).squeeze(-2).to(self._offset.dtype) + self._offset
        name = next(name for name, parameter in self.head.named_parameters() if parameter is bias)
        # Added to the bias, and not to the logits, of which there are thousands of times more.
        logits = torch.func.functional_call(self.head, {name: bias + self._offset}, (features,))
        return logits.squeeze(-2).to(self._offset.dtype)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> TokenSequence:
        """See `Likelihood.forward`."""
        return TokenSequence(cast(NextToken, self.network), self.logits, z, condition, self.max_length)

    @torch.no_grad()
    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Sets the bias so that training starts at the frequencies of the tokens of x (B, T), each with half a token more."""
        bias = last_bias(self.head)
        if bias is not None:
            codes = observed_values(x.long(), mask)
            counts = torch.bincount(codes[codes != PAD], minlength=len(bias)) + 0.5
            bias.copy_((counts / counts.sum()).log())

    def peak_elements(self) -> int:
        """See `Likelihood.peak_elements`: the features of all positions, or the logits of one."""
        return max(self.max_length * cast(Network, self.network).out_shape[0], self._offset.numel())

    def check(self, x: Tensor, mask: Tensor | None = None) -> str | None:
        """Each sequence must be at most T - 1 tokens of known codes, one END, then padding."""
        codes = x.long()
        last = self._offset.numel() - 1
        if not bool(((codes >= 0) & (codes <= last)).all()) or not bool(well_formed(codes).all()):
            return f"A Tokens likelihood must have codes from 0 to {last}, one END ({END}) and then padding ({PAD})"
        if bool((codes[..., self.max_length - 1 :] > END).any()):
            return f"A Tokens likelihood must have at most {self.max_length - 1} tokens before the END"
        if bool(torch.isin(codes, torch.tensor(self.never, dtype=torch.int64, device=codes.device)).any()):
            return f"A Tokens likelihood must have none of the codes {self.never}, which `never` says no text has"
        return None
