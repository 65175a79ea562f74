"""Every network of sequences, small, and all sequences of a small vocabulary."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from vaekit.distributions.sequence import TokenSequence
from vaekit.likelihoods import Tokens
from vaekit.networks import LSTMDecoder, LSTMEncoder, SequenceEncoder, SequenceNetwork, TransformerDecoder, TransformerEncoder
from vaekit.symbols import END, FIRST, UNKNOWN

V, D, T = 5, 2, 4
"""Codes, of which two are tokens and one is UNKNOWN; latents; positions."""

Module = TypeVar("Module", bound=nn.Module)

DECODERS: dict[str, Callable[..., SequenceNetwork]] = {
    "lstm": lambda v=V, d=D, **more: LSTMDecoder(v, d, **({"embedding": 4, "hidden": 5} | more)),
    "no skip": lambda v=V, d=D, **more: LSTMDecoder(v, d, 4, 5, skip=False, **more),
    "low-rank": lambda v=V, d=D, **more: TransformerDecoder(v, d, 8, 2, 2, "low-rank", **more),
    "attend": lambda v=V, d=D, **more: TransformerDecoder(v, d, 8, 2, 2, "attend", **more),
}
ENCODERS: dict[str, Callable[..., SequenceEncoder]] = {
    "lstm": lambda v=V, **more: LSTMEncoder(v, 4, 5, **more),
    "both ways": lambda v=V, **more: LSTMEncoder(v, 4, 5, bidirectional=True, **more),
    "transformer": lambda v=V, **more: TransformerEncoder(v, 8, 2, 2, **more),
}
decoders = pytest.mark.parametrize("decoder", DECODERS)
encoders = pytest.mark.parametrize("encoder", ENCODERS)


def wild(module: Module, by: float = 0.5, seed: int = 7) -> Module:
    """The same in float64 and for use, with weights that are no longer small, so that no two sequences are alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.double().eval().parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def tokens_of(decoder: str, never: tuple[int, ...] = (), num: int = 3, max_length: int = T, **more: Any) -> TokenSequence:
    """p(x|z) of a wild network at `num` latents."""
    likelihood = wild(Tokens(DECODERS[decoder](**more), max_length, never))
    return likelihood(2 * torch.randn(num, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def every_sequence(num_tokens: int = V, max_length: int = T, unknown: bool = True) -> Tensor:
    """(M, T): all sequences of at most T - 1 tokens, with their END and padding."""
    codes = range(UNKNOWN if unknown else FIRST, num_tokens)
    texts = itertools.chain.from_iterable(itertools.product(codes, repeat=length) for length in range(max_length))
    return torch.stack([nn.functional.pad(torch.tensor([*text, END]), (0, max_length - len(text) - 1)) for text in texts])


def masses_of(p: TokenSequence, sequences: Tensor) -> Tensor:
    """(M, *batch): p of each sequence."""
    return p.log_prob(sequences.view(len(sequences), *[1] * len(p.batch_shape), -1)).exp().detach()
