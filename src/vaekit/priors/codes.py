"""Masses over codes: uniform, of each token by itself, or of one token after another."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.attention import attention
from vaekit.distributions import CodeSequence, IndependentCodes, Quantizer
from vaekit.distributions import UniformCodes as UniformDistribution
from vaekit.errors import ConfigError
from vaekit.priors.base import Prior


class CodePrior(Prior, abc.ABC):
    """p(z) = p(codes of z), for the codes of the posterior that it is bound to.

    Args:
        shape: *Z, that of the posterior.
        num_codes: V.
        num_tokens: T.
    """

    posterior: Quantizer
    made_of_posterior = True

    def __init__(self, shape: int | Sequence[int], num_codes: int, num_tokens: int) -> None:
        super().__init__()
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if not self.shape or min(*self.shape, num_tokens) < 1 or num_codes < 2:
            raise ConfigError(
                "A prior over codes must have a `shape` and `num_tokens` of at least 1 and `num_codes` of at least 2, got "
                f"{self.shape}, {num_tokens} and {num_codes}. Give those of the posterior."
            )
        self.num_codes, self.num_tokens = num_codes, num_tokens
        self.space = f"codes({num_codes} at each of {num_tokens})"

    def bind(self, posterior: Callable[..., Distribution]) -> None:
        """Takes the posterior, whose codes these are.

        Raises:
            ConfigError: if it has no codes, or other ones.
        """
        name, kept = type(posterior).__name__, posterior
        if not isinstance(posterior, Quantizer):
            raise ConfigError(f"{type(self).__name__} must be given a posterior over codes, got {name}. Use VectorQuantized.")
        if (posterior.num_codes, posterior.num_tokens) != (self.num_codes, self.num_tokens):
            raise ConfigError(
                f"{type(self).__name__} must have the codes and tokens of the posterior, which has {posterior.num_codes} and "
                f"{posterior.num_tokens}; got {self.num_codes} and {self.num_tokens}. Give its `num_codes` and `num_tokens`."
            )
        self.keep(kept)

    @property
    def quantizer(self) -> Quantizer:
        """The posterior.

        Raises:
            ConfigError: if none was bound.
        """
        posterior = getattr(self, "posterior", None)
        if posterior is None:
            raise ConfigError(f"{type(self).__name__} must be bound to a posterior over codes, found none. Make a VAE of both.")
        return posterior


class UniformCodes(CodePrior):
    """p(z) = V^-T for every choice of codes: what is charged before anything is known of which codes are used together.

    The prior that a VQ-VAE is trained with: its rate is then T log V nats whatever the data, and has no gradient (van den Oord
    et al., 2017, section 3.2). Samples of it are of little use; fit `CategoricalCodes` or `AutoregressiveCodes` to the codes
    of the trained model for those.

    Args:
        shape: *Z, that of the posterior.
        num_codes: V.
        num_tokens: T.

    Raises:
        ConfigError: for sizes that cannot be; when bound, for a posterior of other codes.

    Example:
        >>> from vaekit.networks import MLP
        >>> from vaekit.posteriors import VectorQuantized
        >>> q = VectorQuantized(MLP(5, [8]), num_codes=16, code_dims=3, positions=2)
        >>> prior = UniformCodes(q.shape, q.num_codes, q.num_tokens)
        >>> prior.bind(q)
        >>> round(prior().log_prob(torch.zeros(6)).item(), 4)
        -5.5452
    """

    like: Tensor

    def __init__(self, shape: int | Sequence[int], num_codes: int, num_tokens: int) -> None:
        super().__init__(shape, num_codes, num_tokens)
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> UniformDistribution:
        """The uniform distribution, at every temperature."""
        return UniformDistribution(self.quantizer, self.like)


class CategoricalCodes(CodePrior):
    """p(z) = prod_t p_t(codes_t), with T V probabilities that are learned.

    Temperature divides the logits.

    Args:
        shape: *Z, that of the posterior.
        num_codes: V.
        num_tokens: T.

    Raises:
        ConfigError: for sizes that cannot be; when bound, for a posterior of other codes.

    Example:
        >>> from vaekit.networks import MLP
        >>> from vaekit.posteriors import GumbelSoftmax
        >>> q = GumbelSoftmax(MLP(5, [8]), num_categories=4, positions=2)
        >>> prior = CategoricalCodes(q.shape, q.num_codes, q.num_tokens)
        >>> prior.bind(q)
        >>> prior().sample((3,)).shape
        torch.Size([3, 8])
    """

    def __init__(self, shape: int | Sequence[int], num_codes: int, num_tokens: int) -> None:
        super().__init__(shape, num_codes, num_tokens)
        self.logits = nn.Parameter(torch.zeros(num_tokens, num_codes))

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> IndependentCodes:
        """The product over tokens."""
        return IndependentCodes(self.quantizer, (self.logits / temperature).log_softmax(-1))


class AutoregressiveCodes(CodePrior):
    """p(z|c) = prod_t p(codes_t|codes_<t, c), by a causal transformer over the tokens, in the order of the layout.

    Trained with everything else held, or with the rest: -log p(z) is all of the bound that depends on it, and the codes of a
    VQ-VAE carry no gradient back. Densities take one pass; a sample takes T passes over one token each, as keys and values
    are kept. Temperature divides the logits of every factor.

    Vaswani et al., "Attention is all you need" (2017), is the network, with the layer norm before each layer. Van den Oord et
    al. (2017), section 3.3, fit such a prior after the fact. Departure: theirs is a PixelCNN.

    Args:
        shape: *Z, that of the posterior.
        num_codes: V.
        num_tokens: T.
        features: width of the transformer.
        num_layers: how many layers.
        num_heads: attention heads a layer; divides `features`.
        dropout: share of what a layer adds that is dropped in training, in [0, 1).
        condition_features: width of the condition, 0 for a prior that does not depend on it.

    Raises:
        ConfigError: for sizes that cannot be; when bound, for a posterior of other codes.

    Example:
        >>> from vaekit.networks import MLP
        >>> from vaekit.posteriors import VectorQuantized
        >>> _ = torch.manual_seed(0)
        >>> q = VectorQuantized(MLP(5, [8]), num_codes=16, code_dims=3, positions=4)
        >>> prior = AutoregressiveCodes(q.shape, q.num_codes, q.num_tokens, features=16, num_layers=2, num_heads=2)
        >>> prior.bind(q)
        >>> prior().log_prob(prior().sample((3,))).shape
        torch.Size([3])
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        num_codes: int,
        num_tokens: int,
        features: int = 256,
        num_layers: int = 6,
        num_heads: int = 8,
        dropout: float = 0.0,
        condition_features: int = 0,
    ) -> None:
        super().__init__(shape, num_codes, num_tokens)
        if min(features, num_layers, num_heads) < 1 or features % num_heads:
            raise ConfigError(
                "`features`, `num_layers` and `num_heads` must be at least 1, and heads divide features, got "
                f"{features}, {num_layers} and {num_heads}. Use 256, 6 and 8."
            )
        if not 0 <= dropout < 1:
            raise ConfigError(f"`dropout` must be in [0, 1), got {dropout}. Use 0 for none.")
        self.condition_features = condition_features
        self.network = CodeTransformer(num_codes, num_tokens, features, num_layers, num_heads, dropout, condition_features)

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> CodeSequence:
        """The chain; batch shape (B,) where it depends on the condition, else ()."""
        used = condition if self.condition_features else None
        if self.condition_features and (condition is None or condition.shape[-1] != self.condition_features):
            found = 0 if condition is None else condition.shape[-1]
            raise ConfigError(
                f"The prior takes a condition of {self.condition_features} features, got {found}. Pass what it was built for."
            )
        return CodeSequence(self.quantizer, self.network, used, temperature)


class CodeTransformer(nn.Module):
    """A causal transformer: the logits of each token from the tokens before it and the condition.

    The sequence that goes in is a start, made of the condition, and all tokens but the last. All layers start damped, so
    that depth does not change the scale.

    Args:
        num_codes: V.
        num_tokens: T.
        features: width.
        num_layers: how many layers.
        num_heads: attention heads a layer.
        dropout: share that is dropped in training.
        condition_features: width of the condition.
    """

    def __init__(
        self,
        num_codes: int,
        num_tokens: int,
        features: int,
        num_layers: int,
        num_heads: int,
        dropout: float,
        condition_features: int,
    ) -> None:
        super().__init__()
        self.num_codes, self.num_tokens = num_codes, num_tokens
        self.start = nn.Parameter(0.02 * torch.randn(features))
        self.condition = nn.Linear(condition_features, features) if condition_features else None
        self.table = nn.Parameter(0.02 * torch.randn(num_codes, features)) if num_tokens > 1 else None
        self.places = nn.Parameter(0.02 * torch.randn(num_tokens, features))
        self.layers = nn.ModuleList(
            _Layer(features, num_heads, dropout, 1 / math.sqrt(2 * num_layers)) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, num_codes)
        with torch.no_grad():  # near the uniform distribution
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()

    def _begin(self, num: int, condition: Tensor | None) -> Tensor:
        """(N, 1, F): what stands before the first token."""
        start = self.start.expand(num, -1)
        if self.condition is not None and condition is not None:
            start = start + self.condition(condition.to(start.dtype))
        return start.unsqueeze(1)

    def _embed(self, inputs: Tensor) -> Tensor:
        """(N, t, F) of codes (N, t), or of weights (N, t, V)."""
        assert self.table is not None
        return F.embedding(inputs, self.table) if inputs.dim() == 2 else inputs.to(self.table.dtype) @ self.table

    def logits(self, inputs: Tensor, condition: Tensor | None) -> Tensor:
        """(N, T, V), in float32 or better: those of token t from codes (N, T), or weights (N, T, V), before t."""
        h = self._begin(len(inputs), condition)
        if self.table is not None:
            h = torch.cat([h, self._embed(inputs[:, :-1]).to(h.dtype)], dim=1)
        h = h + self.places
        for layer in self.layers:
            h, _ = layer(h)
        raw = self.head(self.norm(h))
        return raw if raw.dtype == torch.float64 else raw.float()

    @torch.no_grad()
    def draw(self, num: int, condition: Tensor | None, temperature: float) -> Tensor:
        """(num, T) codes, drawn one token after another."""
        h, codes = self._begin(num, condition), []
        kept: list[tuple[Tensor, Tensor] | None] = [None] * len(self.layers)
        for t in range(self.num_tokens):
            h = h + self.places[t]
            for i, layer in enumerate(self.layers):
                h, kept[i] = layer(h, kept[i])
            probs = (self.head(self.norm(h[:, 0])).float() / temperature).softmax(-1)
            codes.append(torch.multinomial(probs, 1))
            if t + 1 < self.num_tokens:
                h = self._embed(codes[-1])
        return torch.cat(codes, dim=1)


class _Layer(nn.Module):
    """h + attention(norm(h)), then h + dense(norm(h)); attention looks at what came before."""

    def __init__(self, features: int, num_heads: int, dropout: float, last_scale: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norms = nn.ModuleList([nn.LayerNorm(features), nn.LayerNorm(features)])
        self.queries_keys_values = nn.Linear(features, 3 * features)
        self.mix = nn.Linear(features, features)
        self.dense = nn.Sequential(nn.Linear(features, 4 * features), nn.GELU(), nn.Linear(4 * features, features))
        self.drop = nn.Dropout(dropout)
        with torch.no_grad():
            self.mix.weight.mul_(last_scale)
            self.dense[2].weight.mul_(last_scale)  # pyright: ignore[reportArgumentType, reportCallIssue]

    def forward(self, h: Tensor, kept: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(N, t, F) to the same shape, and all keys and values (N, heads, t, F / heads), those that were kept included."""
        parts = self.queries_keys_values(self.norms[0](h)).unflatten(-1, (3, self.num_heads, -1))
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        if kept is not None:
            keys, values = torch.cat([kept[0], keys], dim=2), torch.cat([kept[1], values], dim=2)
        mixed = attention(queries, keys, values, causal=kept is None)
        h = h + self.drop(self.mix(mixed.transpose(1, 2).flatten(2)))
        return h + self.drop(self.dense(self.norms[1](h))), (keys, values)
