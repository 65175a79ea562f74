"""Sequences of tokens on the line through two distributions over them."""

from __future__ import annotations

import torch
from torch import Tensor

from vaekit.distributions.sequence import NextToken, TokenSequence


def guided(start: TokenSequence, end: TokenSequence, strength: float) -> TokenSequence:
    """Sequences whose tokens are each drawn on the line from one distribution to another, and beyond.

        log p_s(x_t | x_<t) = (1 - s) log p_start(x_t | x_<t) + s log p_end(x_t | x_<t) - log of the sum over x_t

    s = 0 is `start`, s = 1 is `end`, and s > 1 draws what tells `end` from `start`: classifier-free guidance, of Ho, Salimans,
    "Classifier-free diffusion guidance" (2022), for tokens as in Sanchez, Fan, Spangher, Levi, Ammanamanchi, Biderman, "Stay on
    topic with classifier-free guidance" (2023), equation 7. A token without mass in one of the two has none.

    Args:
        start: of a batch of latents under conditions; what a decoder would do without being told.
        end: of the same latents under other conditions.
        strength: s, any finite number.

    Raises:
        ValueError: if the two are not of one likelihood and one batch of latents, or have no conditions.

    Example:
        >>> from vaekit.networks import LSTMDecoder
        >>> network, head = LSTMDecoder(6, 2, embedding=4, hidden=5, condition_features=1), torch.nn.Linear(8, 6)
        >>> z, x = torch.zeros(1, 2), torch.tensor([3, 4, 1, 0])
        >>> start, end = (TokenSequence(network, head, z, torch.full((1, 1), told), 4) for told in (0.0, 1.0))
        >>> bool(torch.allclose(guided(start, end, 1.0).log_prob(x), end.log_prob(x)))
        True
    """
    if start.network is not end.network or start.max_length != end.max_length:
        raise ValueError("both distributions must be of one likelihood")
    if start.condition is None or end.condition is None or not torch.equal(start.z, end.z):
        raise ValueError("both distributions must be of the same latents, each under conditions")

    def head(features: Tensor) -> Tensor:
        first, second = (d.head(part).log_softmax(-1) for d, part in zip((start, end), features.chunk(2, dim=-1), strict=True))
        none = torch.isneginf(first) | torch.isneginf(second)
        return torch.where(none, -torch.inf, (1 - strength) * first + strength * second)

    told = torch.cat([start.condition, end.condition], dim=-1)
    return TokenSequence(
        _Twice(start.network), head, start.z.view(*start.batch_shape, -1), told.view(*start.batch_shape, -1), start.max_length
    )


class _Twice:
    """A network under two conditions at once, which stand side by side, as its features then do.

    Args:
        network: is told one half of the condition, then the other.
    """

    def __init__(self, network: NextToken) -> None:
        self.network, self.num_tokens = network, network.num_tokens

    def __call__(self, tokens: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.cat([self.network(tokens, z, told) for told in _halves(condition)], dim=-1)

    def begin(self, z: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]:
        states = (self.network.begin(z, told) for told in _halves(condition))
        return {f"{which}{name}": kept for which, state in enumerate(states) for name, kept in state.items()}

    def step(self, tokens: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        parts, after = [], {}
        for which in "01":
            own = {name[1:]: kept for name, kept in state.items() if name[0] == which}
            features, new = self.network.step(tokens, own)
            parts.append(features)
            after |= {which + name: kept for name, kept in new.items()}
        return torch.cat(parts, dim=-1), after


def _halves(condition: Tensor | None) -> tuple[Tensor, ...]:
    assert condition is not None
    return condition.chunk(2, dim=-1)
