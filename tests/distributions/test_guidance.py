"""Guided sequences against the definition, over every sequence of a small vocabulary."""

from __future__ import annotations

import pytest
import torch

from sequence_cases import DECODERS, D, T, V, decoders, every_sequence, masses_of, wild
from vaekit.distributions import TokenSequence, guided
from vaekit.likelihoods import Tokens
from vaekit.symbols import END, UNKNOWN


def pair(decoder: str, never: tuple[int, ...] = ()) -> tuple[TokenSequence, TokenSequence]:
    """p(x|z, c) at three latents under two conditions each."""
    likelihood = wild(Tokens(DECODERS[decoder](condition_features=2), T, never))
    z, first, second = torch.randn(3, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind()
    assert z.shape[-1] == D
    return likelihood(z, first), likelihood(z, second)


@decoders
@pytest.mark.parametrize("strength", [0.0, 1.0, 0.4, 3.0, -1.5])
def test_each_token_is_on_the_line_between_two_conditions(decoder, strength):
    start, end = pair(decoder)
    found = guided(start, end, strength)
    sequences = every_sequence()
    masses = masses_of(found, sequences)
    torch.testing.assert_close(masses.sum(0), torch.ones(3, dtype=torch.float64))
    if strength in (0.0, 1.0):
        torch.testing.assert_close(masses, masses_of(end if strength else start, sequences))
    of = [masses_of(p, sequences) for p in (start, end)]
    for codes in sequences[:: len(sequences) // 12]:  # by the definition, from the two alone
        expected = torch.zeros(3, dtype=torch.float64)
        for position in range(T - 1):
            first, second = (_next(each, sequences, codes[:position]).log() for each in of)
            expected += ((1 - strength) * first + strength * second).log_softmax(-1)[:, codes[position] - END]
            if codes[position] == END:
                break
        torch.testing.assert_close(found.log_prob(codes), expected)


def _next(masses: torch.Tensor, sequences: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
    """(3, V - 1): p of the next token, from END on, from the masses of all sequences."""
    begins = (sequences[:, : len(prefix)] == prefix).all(1)
    by_code = [masses[begins & (sequences[:, len(prefix)] == code)].sum(0) for code in range(END, V)]
    found = torch.stack(by_code, dim=-1)
    return found / found.sum(-1, keepdim=True)


@decoders
def test_draws_and_searches_are_of_the_guided_masses(decoder):
    start, end = pair(decoder)
    found = guided(start, end, 2.5)
    sequences = every_sequence()
    masses = masses_of(found, sequences)
    torch.manual_seed(0)
    drawn = found.sample((4000,))
    for index in range(3):
        share = (drawn[:, index, None] == sequences).all(-1).double().mean(0)
        assert (share - masses[:, index]).abs().max() < 5 * 0.5 / 4000**0.5
    known = (sequences != UNKNOWN).all(-1)
    likeliest = sequences[known][masses[known].argmax(0)]
    assert torch.equal(found.beam(30), likeliest)


def test_a_token_without_mass_has_none_at_any_strength():
    start, end = pair("lstm", (UNKNOWN,))
    sequences = every_sequence()
    for strength in (-2.0, 0.0, 0.5, 1.0, 4.0):
        masses = masses_of(guided(start, end, strength), sequences)
        assert not masses.isnan().any()
        assert (masses[(sequences == UNKNOWN).any(-1)] == 0).all()
        torch.testing.assert_close(masses.sum(0), torch.ones(3, dtype=torch.float64))


def test_two_that_have_nothing_in_common_are_refused():
    start, end = pair("lstm")
    with pytest.raises(ValueError, match="one likelihood"):
        guided(start, pair("lstm")[1], 1.0)
    moved = TokenSequence(end.network, end.head, end.z + 1, end.condition, T)
    with pytest.raises(ValueError, match="same latents"):
        guided(start, moved, 1.0)
    with pytest.raises(ValueError, match="same latents"):
        guided(TokenSequence(end.network, end.head, end.z, None, T), end, 1.0)
