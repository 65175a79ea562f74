"""Sequences of tokens, one after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Size, Tensor
from torch.distributions import Distribution

from vaekit.errors import ConfigError
from vaekit.symbols import END, PAD, UNKNOWN

_MAX_ELEMENTS = 2**22
"""Elements of the logits that are made at once where no gradient is asked for."""

_LOOK = 4
"""Positions between two looks at which sequences have ended, elsewhere than on the CPU, where a look waits for the device."""

_ENDED = 0.1
"""The share of sequences that have ended from which those that go on are gathered."""


@runtime_checkable
class NextToken(Protocol):
    """What the distribution asks of a network; see `networks.SequenceNetwork`."""

    num_tokens: int

    def __call__(self, tokens: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Features (N, T, H) of whole sequences."""
        ...

    def begin(self, z: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]:
        """The state before the first step."""
        ...

    def step(self, tokens: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Features (N, H) of the next position, and the state after it."""
        ...


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen: first without the unknown ones, then by temperature, `top_k` and `top_p`, in this order.

    Attributes:
        temperature: of each token's distribution, > 0: p^(1 / temperature), normalised.
        top_k: only so many of the likeliest tokens are drawn from, and those as likely as the last of them; None for all.
        top_p: only the fewest tokens that together have this mass are drawn from, in (0, 1]: Holtzman et al., "The curious case
            of neural text degeneration" (2020), section 3.1.
        unknown: whether the code of unknown tokens may be drawn.

    Raises:
        ConfigError: for a value outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    unknown: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError(
                f"`temperature` of tokens must be > 0, got {self.temperature}. Use a small value for likely text."
            )
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"`top_k` must be at least 1, got {self.top_k}. Use 1 for the likeliest token.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"`top_p` must be in (0, 1], got {self.top_p}. Use 1 for all tokens.")

    def of(self, logits: Tensor) -> Tensor:
        """Probabilities (N, V) to draw from, of logits (N, V)."""
        if not self.unknown:
            logits = _without_unknown(logits)
        if self.temperature != 1.0:
            logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        probabilities = logits.softmax(-1)
        if self.top_p is not None and self.top_p < 1:
            ordered, order = probabilities.sort(dim=-1, descending=True)
            beyond = F.pad(ordered.cumsum(-1)[..., :-1], (1, 0)) >= self.top_p  # the first token is always kept
            kept = torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(beyond, 0.0))
            probabilities = kept / kept.sum(-1, keepdim=True)
        return probabilities


PLAIN = Decoding(unknown=True)
"""The distribution itself."""


def _without_unknown(logits: Tensor) -> Tensor:
    """The same (..., V), -inf for UNKNOWN; not normalised again."""
    logits = logits.clone()
    logits[..., UNKNOWN] = -math.inf
    return logits


def _likeliest(logits: Tensor) -> Tensor:
    """The index of the largest of logits (..., V), but for UNKNOWN's: without a copy of thousands of numbers."""
    if logits.shape[-1] == UNKNOWN + 1:
        return _without_unknown(logits).argmax(-1)
    before, behind = logits[..., :UNKNOWN].max(-1), logits[..., UNKNOWN + 1 :].max(-1)
    return torch.where(before.values >= behind.values, before.indices, behind.indices + UNKNOWN + 1)


def well_formed(codes: Tensor) -> Tensor:
    """(...): whether codes (..., T) are tokens, one END, then PAD.

    Example:
        >>> well_formed(torch.tensor([[3, 4, 1, 0], [1, 0, 0, 0], [3, 0, 1, 0], [3, 4, 3, 4]]))
        tensor([ True,  True, False, False])
    """
    tokens = (codes > END).long().cumprod(-1).sum(-1)
    at = tokens.clamp_max(codes.shape[-1] - 1).unsqueeze(-1)
    ended = codes.gather(-1, at).squeeze(-1) == END
    return ended & ((codes == PAD).sum(-1) + tokens + 1 == codes.shape[-1])


class TokenSequence(Distribution):
    """p(x|z, c) = prod_t p(x_t | x_<t, z, c) over sequences of codes that end in END.

    An x is (T): tokens, END, then PAD. Sequences have at most T - 1 tokens before the END: at position T the END is certain, so
    that the masses of all sequences sum to one. What is behind the END adds nothing, so sequences may have less padding than T,
    or more. What is no sequence of tokens, one END and then PAD has no mass.

    Args:
        network: gives features of the next token, for N sequences and latents at once.
        head: features (..., H) to logits (..., V); -inf where a token never is.
        z: (*batch, D).
        condition: (..., F) that broadcasts against the batch, or None.
        max_length: T.
    """

    arg_constraints = {}  # noqa: RUF012  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    has_rsample = False

    def __init__(
        self, network: NextToken, head: Callable[[Tensor], Tensor], z: Tensor, condition: Tensor | None, max_length: int
    ) -> None:
        super().__init__(z.shape[:-1], Size([max_length]), validate_args=False)
        self.network, self.head, self.max_length = network, head, max_length
        self.z = z.reshape(-1, z.shape[-1])
        self.condition = None
        if condition is not None:
            self.condition = condition.expand(*z.shape[:-1], condition.shape[-1]).reshape(-1, condition.shape[-1])

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> TokenSequence:
        """The same for a larger batch."""
        z, condition = self.z.view(*self.batch_shape, -1).expand(*batch_shape, -1), self.condition
        if condition is not None:
            condition = condition.view(*self.batch_shape, -1).expand(*batch_shape, -1)
        return TokenSequence(self.network, self.head, z, condition, self.max_length)

    # ------------------------------------------------------------------------------------------------- densities

    def log_prob(self, value: Tensor) -> Tensor:
        """(..., *batch): log p of sequences (..., T') that broadcast against the batch, by one pass over all positions."""
        lead = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        if lead != self.batch_shape:
            return self.expand(lead).log_prob(value)
        codes = value.expand(*self.batch_shape, value.shape[-1]).reshape(-1, value.shape[-1]).long()
        by_token = self.log_masses(codes).sum(-1)
        return torch.where(well_formed(codes), by_token, -math.inf).reshape(self.batch_shape)

    def log_masses(self, codes: Tensor) -> Tensor:
        """(N, T'): log p(x_t | x_<t, z, c) at each position of codes (N, T'), 0 behind the END; N is the whole batch."""
        features = self.network(codes, self.z, self.condition)
        counted = (codes != PAD) & (torch.arange(codes.shape[-1], device=codes.device) < self.max_length - 1)
        last = (codes[:, self.max_length - 1 :] > END).any(-1)  # a token where the END is certain
        if _chooses(codes.device):
            chosen, targets = features[counted], codes[counted]
            found = self._log_mass(chosen, targets)
            masses = found.new_zeros(codes.shape).masked_scatter(counted, found)
        else:
            masses = self._log_mass(features.flatten(0, 1), codes.flatten()).view(codes.shape)
            masses = torch.where(counted, masses, 0.0)
        return torch.where(last.unsqueeze(-1), -math.inf, masses)

    def _log_mass(self, features: Tensor, targets: Tensor) -> Tensor:
        """(M,): log p of one token each, from features (M, H); in pieces where no gradient needs them all."""
        if torch.is_grad_enabled() and features.requires_grad:
            return -F.cross_entropy(self.head(features), targets, reduction="none")
        size = max(1, _MAX_ELEMENTS // self.network.num_tokens)
        parts = zip(features.split(size), targets.split(size), strict=True)
        return torch.cat([-F.cross_entropy(self.head(f), t, reduction="none") for f, t in parts])

    # ------------------------------------------------------------------------------------------------- draws

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(*sample_shape, *batch, T): sequences, token by token."""
        return self.draw(PLAIN, tuple(sample_shape))

    @torch.no_grad()
    def draw(self, decoding: Decoding = PLAIN, sample_shape: tuple[int, ...] = (), prefix: Tensor | None = None) -> Tensor:
        """(*sample_shape, *batch, T): sequences drawn token by token.

        Args:
            decoding: how tokens are chosen.
            sample_shape: of the draws for each latent.
            prefix: (P,) codes of tokens that every sequence begins with; P < T.

        Raises:
            ConfigError: for a prefix that is too long, or holds a code that is no token's.
        """
        num_tokens = self.network.num_tokens
        if prefix is not None and (len(prefix) >= self.max_length or bool(((prefix <= END) | (prefix >= num_tokens)).any())):
            raise ConfigError(
                f"`prefix` must be at most {self.max_length - 1} tokens with codes from {END + 1} to {num_tokens - 1}, got "
                f"{prefix.tolist()}. Leave its end and padding out."
            )

        def choose(logits: Tensor) -> Tensor:
            return torch.multinomial(decoding.of(logits), 1).squeeze(-1)

        return self._walk(choose, sample_shape, prefix)

    @property
    def middle(self) -> Tensor:
        """(*batch, T): the likeliest token at each step."""
        with torch.no_grad():
            return self._walk(_likeliest, (), None)

    @property
    def mean(self) -> Tensor:
        """Sequences of codes have none.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("sequences of tokens have no mean")

    def _begin(self, repeated: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The state before the first step, of latents and conditions that `repeated` lays out."""
        return self.network.begin(repeated(self.z), None if self.condition is None else repeated(self.condition))

    def _walk(self, choose: Callable[[Tensor], Tensor], sample_shape: tuple[int, ...], prefix: Tensor | None) -> Tensor:
        """Sequences token by token, chosen by their logits; those that have ended are left behind."""
        copies, device = math.prod(sample_shape), self.z.device
        state = self._begin(lambda told: told.repeat(copies, 1))
        out = torch.full((copies * len(self.z), self.max_length), PAD, dtype=torch.int64, device=device)
        rows = torch.arange(len(out), device=device)  # those that are carried on
        token = torch.full((len(out),), END, dtype=torch.int64, device=device)
        ended = torch.zeros(len(out), dtype=torch.bool, device=device)
        given, look = () if prefix is None else prefix.to(device), 1 if device.type == "cpu" else _LOOK
        for position in range(self.max_length - 1):
            if position % look == 0 and position:
                going = int((~ended).sum())
                if going == 0:
                    return out.reshape(*sample_shape, *self.batch_shape, self.max_length)
                if going <= (1 - _ENDED) * len(rows):
                    rows, token, state = rows[~ended], token[~ended], {name: kept[~ended] for name, kept in state.items()}
                    ended = torch.zeros_like(rows, dtype=torch.bool)
            features, state = self.network.step(token, state)
            if position < len(given):
                token = given[position].expand_as(token)
            else:
                token = choose(self.head(features))
            out[rows, position] = torch.where(ended, PAD, token)
            ended = ended | (token == END)
        out[rows, -1] = torch.where(ended, PAD, END)
        return out.reshape(*sample_shape, *self.batch_shape, self.max_length)

    @torch.no_grad()
    def beam(self, width: int = 5) -> Tensor:
        """(*batch, T): of each latent, the likeliest sequence that a search keeping `width` beginnings at a time finds.

        UNKNOWN is left out. Where a width is as large as the number of beginnings, it is the likeliest of all without UNKNOWN.

        Args:
            width: beginnings that are kept, at least 1; 1 is `middle`.

        Raises:
            ConfigError: for a width below 1.
        """
        if width < 1:
            raise ConfigError(f"`beams` must be at least 1, got {width}. Use 1 for the likeliest token at each step.")
        num, device = len(self.z), self.z.device
        state = self._begin(lambda told: told.repeat_interleave(width, 0))
        score = torch.full((num, width), -math.inf, device=device)
        score[:, 0] = 0.0  # all beginnings are the same one
        token = torch.full((num * width,), END, dtype=torch.int64, device=device)
        out = torch.full((num, width, self.max_length), PAD, dtype=torch.int64, device=device)
        ended = torch.zeros(num, width, dtype=torch.bool, device=device)
        for position in range(self.max_length):
            if bool(ended[:, 0].all()):  # the others can only become less likely
                break
            features, state = self.network.step(token, state)
            log_masses = _without_unknown(self.head(features).log_softmax(-1)).view(num, width, -1)
            if position == self.max_length - 1:  # the END is certain
                log_masses = _certain(END, log_masses)
            log_masses = torch.where(ended.unsqueeze(-1), _certain(PAD, log_masses), log_masses)
            codes = log_masses.shape[-1]
            score, best = (score.unsqueeze(-1) + log_masses).flatten(1).topk(width, dim=-1)
            parent, chosen = best // codes, best % codes
            rows = (torch.arange(num, device=device).unsqueeze(-1) * width + parent).flatten()
            state = {name: kept[rows] for name, kept in state.items()}
            out = out.gather(1, parent.unsqueeze(-1).expand_as(out))
            ended = ended.gather(1, parent) | (chosen == END)
            out[:, :, position], token = chosen, chosen.flatten()
        return out[:, 0].reshape(*self.batch_shape, self.max_length)


def _certain(code: int, like: Tensor) -> Tensor:
    """Log-masses (..., V) of a token that is known: 0, and -inf for the others."""
    masses = torch.full_like(like, -math.inf)
    masses[..., code] = 0.0
    return masses


def _chooses(device: torch.device) -> bool:
    """Whether only the positions that count are looked at: elsewhere than on the CPU, the choice would wait for the device."""
    return device.type == "cpu"
