"""Latents that are made of codes: whole numbers from 0 to V - 1 at T tokens, each of which stands for a vector.

A quantiser is what turns codes into latents and back. It belongs to the posterior, and the prior is given it, so that both
speak of masses over the same codes: log p(z) is the logarithm of the probability of the codes of z.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl

from vaekit.component import stopped_copy
from vaekit.errors import ConfigError

_MAX_ELEMENTS = 2**24
"""Elements of the largest tensor of a chunk where no gradient is recorded."""


@dataclass(frozen=True)
class CodeLayout:
    """Where the vectors of codes stand in a latent.

    With P positions and vectors of C numbers a latent is (P C), one position after the other, where the positions are a
    number, and (C, H, W) where they are a grid H x W, row by row. With a depth, the latent has that many such layers,
    (depth, ...), and the tokens of one position, coarse to fine, follow one another.

    Attributes:
        positions: how many, or the sizes of the grid.
        dims: C.
        depth: vectors a position, None for one.

    Example:
        >>> CodeLayout((8, 8), 64).shape, CodeLayout((8, 8), 64).num_tokens
        ((64, 8, 8), 64)
        >>> CodeLayout(5, 3, depth=2).shape, CodeLayout(5, 3, depth=2).num_tokens
        ((2, 15), 10)
    """

    positions: int | tuple[int, ...]
    dims: int
    depth: int | None = None

    @classmethod
    def of(cls, positions: int | Sequence[int], dims: int, depth: int | None = None) -> CodeLayout:
        """The layout, if there can be one.

        Raises:
            ConfigError: for a size below 1.
        """
        sizes = (positions,) if isinstance(positions, int) else tuple(positions)
        if not sizes or min(sizes) < 1:
            raise ConfigError(
                f"`positions` must be a number or sizes of a grid of at least 1, got {positions}. Give 16, or [8, 8]."
            )
        if dims < 1:
            raise ConfigError(f"The vectors of codes must have at least 1 number, got {dims}. 64 is a good start.")
        if depth is not None and depth < 1:
            raise ConfigError(f"`depth` must be at least 1, got {depth}. 4 is a good start.")
        return cls(positions if isinstance(positions, int) else sizes, dims, depth)

    @property
    def num_positions(self) -> int:
        """P."""
        return self.positions if isinstance(self.positions, int) else math.prod(self.positions)

    @property
    def num_tokens(self) -> int:
        """T = P, times the depth."""
        return self.num_positions * (self.depth or 1)

    @property
    def layer(self) -> tuple[int, ...]:
        """The shape of a latent of one vector a position."""
        return (self.positions * self.dims,) if isinstance(self.positions, int) else (self.dims, *self.positions)

    @property
    def shape(self) -> tuple[int, ...]:
        """*Z."""
        return self.layer if self.depth is None else (self.depth, *self.layer)

    def split(self, layer: Tensor) -> Tensor:
        """(..., *layer) to (..., P, C)."""
        if isinstance(self.positions, int):
            return layer.unflatten(-1, (self.positions, self.dims))
        return layer.flatten(-len(self.positions)).transpose(-1, -2)

    def join(self, vectors: Tensor) -> Tensor:
        """(..., P, C) to (..., *layer)."""
        if isinstance(self.positions, int):
            return vectors.flatten(-2)
        return vectors.transpose(-1, -2).unflatten(-1, self.positions)

    def tokens(self, z: Tensor) -> Tensor:
        """(..., *Z) to (..., T, C)."""
        vectors = self.split(z)
        return vectors if self.depth is None else vectors.transpose(-3, -2).flatten(-3, -2)

    def latent(self, tokens: Tensor) -> Tensor:
        """(..., T, C) to (..., *Z)."""
        return self.join(tokens if self.depth is None else tokens.unflatten(-2, (-1, self.depth)).transpose(-3, -2))


@runtime_checkable
class Quantizer(Protocol):
    """What turns codes into latents and back.

    Attributes:
        shape: *Z.
        num_codes: V.
        num_tokens: T.
    """

    shape: tuple[int, ...]
    num_codes: int
    num_tokens: int

    def embed(self, codes: Tensor) -> Tensor:
        """The latents (..., *Z) of codes (..., T)."""
        ...

    def codes_of(self, z: Tensor) -> Tensor:
        """The codes (..., T) of latents (..., *Z): those of which `embed` makes z, or whose vectors are nearest."""
        ...

    def weights_of(self, z: Tensor) -> Tensor | None:
        """(..., T, V): how much of each code is in z, where a latent may lie between codes; else None."""
        ...


class _Codes(constraints.Constraint):
    """The latents that codes have."""

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        """Not known here: it takes the vectors of the codes."""
        raise NotImplementedError


class Quantized(Distribution):
    """All mass at the codes that are nearest to what a network gave: log q(z|x) is 0 at that latent, -inf elsewhere.

    `rsample` is that latent, and its gradient goes straight through to the network's output, as if nothing had been rounded
    (van den Oord, Vinyals, Kavukcuoglu, "Neural discrete representation learning", 2017, section 3.2; Bengio, Leonard,
    Courville, "Estimating or propagating gradients through stochastic neurons", 2013). Against a prior over codes the KL
    is -log p(codes).

    Args:
        layout: of the latent.
        inputs: (*batch, P, C), what the network gave.
        vectors: (*batch, T, C), those of the codes.
        codes: (*batch, T).
        num_codes: V.
        learned: whether the vectors are moved by gradients.
        drawn_together: whether inputs and vectors have to be drawn together by a loss.

    Example:
        >>> inputs = torch.tensor([[[0.2], [0.9]]], requires_grad=True)
        >>> q = Quantized(CodeLayout(2, 1), inputs, inputs.detach().round(), torch.tensor([[0, 1]]), num_codes=2)
        >>> q.rsample((3,))[0], q.log_prob(q.mean)
        (tensor([[0., 1.]], grad_fn=<SelectBackward0>), tensor([0.]))
        >>> round(q.commitment.item(), 4)
        0.05
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    support: ClassVar[constraints.Constraint] = _Codes()  # pyright: ignore
    has_rsample = True

    def __init__(
        self,
        layout: CodeLayout,
        inputs: Tensor,
        vectors: Tensor,
        codes: Tensor,
        num_codes: int,
        learned: bool = False,
        drawn_together: bool = True,
    ) -> None:
        self.layout, self.inputs, self.vectors, self.codes = layout, inputs, vectors, codes
        self.num_codes, self.learned, self.drawn_together = num_codes, learned, drawn_together
        super().__init__(inputs.shape[:-2], torch.Size(layout.shape), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """(*batch, *Z): the latent, with the gradient of `rsample`."""
        through = self.inputs - self.inputs.detach()  # zeros, exactly, so that the value is that of the codes to the last bit
        if self.layout.depth is not None:
            # Of a decoder that sums the layers, the input then has the gradient of the sum.
            through = (through / self.layout.depth).repeat_interleave(self.layout.depth, dim=-2)
        return self.layout.latent(self.vectors.detach() + through)

    @property
    def variance(self) -> Tensor:
        """(*batch, *Z): zeros."""
        return torch.zeros_like(self.layout.latent(self.vectors.detach()))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch, *Z): the latent, as often as asked."""
        mean = self.mean
        return mean.expand(*sample_shape, *mean.shape)

    def measures(self) -> frozenset[str]:
        """A mass; see `distributions.measures`."""
        return frozenset({"mass"})

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): 0 where `value` is the latent, -inf elsewhere."""
        own = self.layout.latent(self.vectors.detach())
        same = (value.detach() == own).flatten(value.dim() - len(self.event_shape)).all(-1)
        return torch.zeros_like(same, dtype=own.dtype).masked_fill(~same, -math.inf)

    @property
    def residuals(self) -> Tensor:
        """(*batch, P, depth, C): what is left of the input for each vector of a position; the whole input for the first."""
        vectors = self.vectors.detach().unflatten(-2, (-1, self.layout.depth or 1))
        return self.inputs.unsqueeze(-2) - (vectors.cumsum(-2) - vectors)

    @property
    def commitment(self) -> Tensor:
        """(*batch): sum of |r - sg(e)|^2 over tokens, with r a token's residual and e its vector; moves the network."""
        return (self.residuals - self._by_position().detach()).square().sum((-3, -2, -1))

    @property
    def codebook_distance(self) -> Tensor:
        """(*batch): sum of |sg(r) - e|^2 over tokens; moves the vectors, where they are learned by gradients."""
        return (self.residuals.detach() - self._by_position()).square().sum((-3, -2, -1))

    def _by_position(self) -> Tensor:
        return self.vectors.unflatten(-2, (-1, self.layout.depth or 1))

    def usage_entropy(self) -> Tensor:
        """Scalar: entropy of how often each code is used in the batch, nats; with a depth, the mean over its layers.

        The codes of all positions are counted together. Its exponential is known as the perplexity: so many codes, used
        equally often, would have that entropy.
        """
        depth = self.layout.depth or 1
        codes = self.codes.reshape(-1, depth) + self.num_codes * torch.arange(depth, device=self.codes.device)
        counts = torch.zeros(depth * self.num_codes, dtype=self.vectors.dtype, device=codes.device)
        counts.index_add_(0, codes.flatten(), counts.new_ones(codes.numel()))
        return entropy_of(counts.view(depth, -1) / len(codes)).mean()


class RelaxedCodes(Distribution):
    """A product of categoricals over T tokens whose samples are vectors (V,): one-hot, or near it.

    A relaxed sample is softmax((log pi + g) / temperature) with Gumbel noise g, through which gradients go; its largest
    entry is at a code of probability pi, whatever the temperature (Jang, Gu, Poole, "Categorical reparameterization with
    Gumbel-softmax", 2017, equation 2; Maddison, Mnih, Teh, "The concrete distribution", 2017, section 3). `hard` samples are
    one-hot, with the gradient of the relaxed ones.

    Masses are those of the categoricals: log q(z) = sum_t sum_v z_tv log pi_tv, which is the log-mass of the codes where z is
    one-hot, and lies between those of the codes elsewhere. It is no density of relaxed samples.

    Args:
        layout: of the latent, with V numbers a vector.
        logits: (*batch, T, V).
        temperature: of the relaxation, > 0.
        hard: whether samples are one-hot.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> q = RelaxedCodes(CodeLayout(1, 2), torch.tensor([[[0.0, 0.0]]]), torch.tensor(0.5), hard=True)
        >>> q.rsample((3,)).sum(-1).flatten(), q.entropy()
        (tensor([1., 1., 1.]), tensor([0.6931]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    support: ClassVar[constraints.Constraint] = constraints.independent(constraints.unit_interval, 1)  # pyright: ignore
    has_rsample = True

    def __init__(self, layout: CodeLayout, logits: Tensor, temperature: Tensor, hard: bool) -> None:
        self.layout, self.temperature, self.hard = layout, temperature, hard
        self.log_probs = logits.log_softmax(-1)
        super().__init__(logits.shape[:-2], torch.Size(layout.shape), validate_args=False)

    @property
    def probs(self) -> Tensor:
        """(*batch, T, V)."""
        return self.log_probs.exp()

    @property
    def codes(self) -> Tensor:
        """(*batch, T): the most probable code of each token."""
        return self.log_probs.argmax(-1)

    @property
    def mean(self) -> Tensor:
        """(*batch, *Z): the probabilities, which is the mean of one-hot samples."""
        return self.layout.latent(self.probs)

    @property
    def variance(self) -> Tensor:
        """(*batch, *Z): pi (1 - pi), of one-hot samples."""
        return self.layout.latent(self.probs * (1 - self.probs))

    @property
    def covariance_matrix(self) -> Tensor:
        """(*batch, D, D): of one-hot samples, flattened: diag(pi_t) - pi_t pi_t^T within a token, 0 between tokens."""
        probs = self.probs
        within = torch.diag_embed(probs) - probs.unsqueeze(-1) * probs.unsqueeze(-2)  # (*batch, T, V, V)
        count = torch.arange(probs.shape[-2] * probs.shape[-1], device=probs.device)
        place = torch.empty_like(count)  # of each number of a token in the latent
        place[self.layout.latent(count.view(probs.shape[-2:])).flatten()] = count
        place = place.view(probs.shape[-2:])
        found = probs.new_zeros(*self.batch_shape, len(count), len(count))
        rows, columns = torch.broadcast_tensors(place.unsqueeze(-1), place.unsqueeze(-2))
        found[..., rows, columns] = within
        return found

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch, *Z)."""
        log_probs = self.log_probs.expand(*sample_shape, *self.log_probs.shape)
        tiny = torch.finfo(log_probs.dtype).tiny
        exponential = torch.empty(log_probs.shape, dtype=log_probs.dtype, device=log_probs.device).exponential_()
        scores = log_probs - exponential.clamp_min(tiny).log()
        soft = (scores / self.temperature).softmax(-1)
        if not self.hard:
            return self.layout.latent(soft)
        hard = torch.zeros_like(soft).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)
        return self.layout.latent(hard + (soft - soft.detach()))

    def measures(self) -> frozenset[str]:
        """A mass where samples are one-hot; see `distributions.measures`."""
        return frozenset({"mass" if self.hard else "relaxed"})

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): the log-mass of the codes."""
        return (self.layout.tokens(value) * self.log_probs).sum((-2, -1))

    def entropy(self) -> Tensor:
        """(*batch): of the categoricals, nats."""
        return -(self.probs * self.log_probs).sum((-2, -1))

    def usage_entropy(self) -> Tensor:
        """Scalar: entropy of the mean over the batch of pi, nats, a mean over tokens."""
        return entropy_of(self.probs.reshape(-1, *self.probs.shape[-2:]).mean(0)).mean()


def entropy_of(probs: Tensor) -> Tensor:
    """(...): -sum_v p_v log p_v of probabilities (..., V), with 0 log 0 = 0.

    Example:
        >>> entropy_of(torch.tensor([0.5, 0.5, 0.0]))
        tensor(0.6931)
    """
    # Clamped, as the derivative of the logarithm at 0 would spoil every gradient.
    return -(probs * probs.clamp_min(torch.finfo(probs.dtype).tiny).log()).sum(-1)


class CodeDistribution(Distribution, abc.ABC):
    """A distribution over latents that is one over codes: log p(z) is the log-mass of the codes of z.

    Args:
        quantizer: turns codes into latents and back.
        batch_shape: () where it does not depend on a condition.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, quantizer: Quantizer, batch_shape: torch.Size = torch.Size()) -> None:  # noqa: B008 - immutable
        self.quantizer = quantizer
        super().__init__(batch_shape, torch.Size(quantizer.shape), validate_args=False)

    @abc.abstractmethod
    def log_mass(self, codes: Tensor, weights: Tensor | None = None) -> Tensor:
        """(...): log p of codes (..., T); of relaxed ones, whose `weights` are (..., T, V), the expectation over each token."""

    @abc.abstractmethod
    def draw(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch, T) codes."""

    def log_prob(self, value: Tensor) -> Tensor:
        """(...): the log-mass of the codes of `value` (..., *Z)."""
        return self.log_mass(self.quantizer.codes_of(value), self.quantizer.weights_of(value))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch, *Z)."""
        return self.quantizer.embed(self.draw(sample_shape))


class IndependentCodes(CodeDistribution):
    """A product over tokens: p(z) = prod_t p_t(codes_t).

    Args:
        quantizer: turns codes into latents and back.
        log_probs: (T, V), normalised.
    """

    def __init__(self, quantizer: Quantizer, log_probs: Tensor) -> None:
        super().__init__(quantizer)
        self.log_probs = log_probs

    def log_mass(self, codes: Tensor, weights: Tensor | None = None) -> Tensor:
        """See `CodeDistribution.log_mass`."""
        if weights is not None:
            return (weights * self.log_probs).sum((-2, -1))
        lead = codes.shape[:-1]
        return self.log_probs.expand(*lead, *self.log_probs.shape).gather(-1, codes.unsqueeze(-1)).squeeze(-1).sum(-1)

    def draw(self, sample_shape: Any = ()) -> Tensor:
        """See `CodeDistribution.draw`."""
        shape = torch.Size(sample_shape)
        return torch.multinomial(self.log_probs.exp(), max(1, shape.numel()), replacement=True).T.reshape(*shape, -1)


class UniformCodes(IndependentCodes):
    """Every code as likely as every other: log p(z) = -T log V.

    Args:
        quantizer: turns codes into latents and back.
        like: a tensor of the device and dtype of densities.
    """

    def __init__(self, quantizer: Quantizer, like: Tensor) -> None:
        log_prob = torch.full((), -math.log(quantizer.num_codes), dtype=like.dtype, device=like.device)
        super().__init__(quantizer, log_prob.expand(quantizer.num_tokens, quantizer.num_codes))

    def draw(self, sample_shape: Any = ()) -> Tensor:
        """See `CodeDistribution.draw`."""
        shape = (*sample_shape, self.quantizer.num_tokens)
        return torch.randint(self.quantizer.num_codes, shape, device=self.log_probs.device)


class CodeNetwork(Protocol):
    """What gives the probabilities of each token, of those before it."""

    def logits(self, inputs: Tensor, condition: Tensor | None) -> Tensor:
        """(N, T, V), those of token t from the tokens before it; `inputs` are codes (N, T), or weights (N, T, V)."""
        ...

    def draw(self, num: int, condition: Tensor | None, temperature: float) -> Tensor:
        """(num, T) codes."""
        ...


class CodeSequence(CodeDistribution):
    """One token after another: p(z|c) = prod_t p(codes_t|codes_<t, c).

    Args:
        quantizer: turns codes into latents and back.
        network: gives the factors.
        condition: (B, F) features, or None.
        temperature: divides the logits of each factor, which is no more a temperature of the whole than of a factor.
    """

    def __init__(
        self, quantizer: Quantizer, network: CodeNetwork, condition: Tensor | None = None, temperature: float = 1.0
    ) -> None:
        super().__init__(quantizer, torch.Size() if condition is None else condition.shape[:-1])
        self.network, self.condition, self.temperature = network, condition, temperature

    def log_mass(self, codes: Tensor, weights: Tensor | None = None) -> Tensor:
        """See `CodeDistribution.log_mass`; relaxed tokens enter those after them relaxed as well."""
        inputs = codes if weights is None else weights
        lead = torch.broadcast_shapes(codes.shape[:-1], self.batch_shape)
        inputs = inputs.expand(*lead, *inputs.shape[codes.dim() - 1 :]).flatten(0, len(lead) - 1) if lead else inputs[None]
        condition = self._condition(lead)
        tokens, num_codes = self.quantizer.num_tokens, self.quantizer.num_codes
        rows = len(inputs) if torch.is_grad_enabled() else max(1, _MAX_ELEMENTS // (tokens * num_codes))
        starts = range(0, len(inputs), rows)
        conditions = [None if condition is None else condition[start : start + rows] for start in starts]
        parts = [self._of_rows(inputs[start : start + rows], c) for start, c in zip(starts, conditions, strict=True)]
        return torch.cat(parts).view(lead)

    def _of_rows(self, inputs: Tensor, condition: Tensor | None) -> Tensor:
        """(N,): the log-mass of codes (N, T), or of weights (N, T, V)."""
        log_probs = (self.network.logits(inputs, condition) / self.temperature).log_softmax(-1)
        if inputs.dim() == 3:
            return (inputs * log_probs).sum((-2, -1))
        return log_probs.gather(-1, inputs.unsqueeze(-1)).squeeze(-1).sum(-1)

    @torch.no_grad()
    def draw(self, sample_shape: Any = ()) -> Tensor:
        """See `CodeDistribution.draw`: T passes over one token each."""
        lead = torch.Size(sample_shape) + self.batch_shape
        codes = self.network.draw(lead.numel(), self._condition(lead), self.temperature)
        return codes.view(*lead, codes.shape[-1])

    def _condition(self, lead: torch.Size) -> Tensor | None:
        if self.condition is None:
            return None
        return self.condition.expand(*lead, self.condition.shape[-1]).flatten(0, -2)

    def stopped(self) -> CodeSequence:
        """The same, with a network and a condition that no gradient reaches."""
        assert isinstance(self.network, nn.Module)
        condition = None if self.condition is None else self.condition.detach()
        return CodeSequence(self.quantizer, stopped_copy(self.network), condition, self.temperature)


@register_kl(Quantized, CodeDistribution)
def _kl_quantized(q: Quantized, p: CodeDistribution) -> Tensor:
    """-log p(codes): a point's own entropy is 0."""
    return -p.log_mass(q.codes)


@register_kl(RelaxedCodes, IndependentCodes)
def _kl_relaxed(q: RelaxedCodes, p: IndependentCodes) -> Tensor:
    """sum_t KL(pi_t || p_t), of the categoricals."""
    return (q.probs * (q.log_probs - p.log_probs)).sum((-2, -1))
