"""Discrete latents: codes from a codebook, from a grid of levels, or drawn from categoricals."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.distributions import CodeLayout, Quantized, RelaxedCodes
from vaekit.errors import ConfigError
from vaekit.posteriors.base import Posterior
from vaekit.posteriors.codebook import Codebook
from vaekit.types import as_network


class CodePosterior(Posterior, abc.ABC):
    """A posterior over codes, which is the quantiser of the prior that it is bound to (`distributions.Quantizer`).

    Args:
        network: maps data to features; with a grid of positions, one that keeps a grid, such as `networks.GridEncoder`.
        num_codes: V.
        layout: of the latent.
    """

    def __init__(self, network: Component, num_codes: int, layout: CodeLayout) -> None:
        super().__init__()
        self.network, self.num_codes, self.layout = network, num_codes, layout
        self.shape, self.num_tokens = layout.shape, layout.num_tokens
        self.space = f"codes({num_codes} at each of {self.num_tokens})"
        self.head = as_network(network, type(self).__name__).make_head(1, layout.layer)

    def vectors_at(self, x: Tensor, condition: Tensor | None, mask: Tensor | None) -> Tensor:
        """(B, P, C): what the network gives at each position, in float32 or better."""
        raw = self.head(self.network(x, condition, mask)).squeeze(-1 - len(self.layout.layer))
        return self.layout.split(raw if raw.dtype == torch.float64 else raw.float())

    def learns_from(self, vectors: Tensor) -> bool:
        """Whether what training counts by itself counts these: not in evaluation, nor where the network is held as it is."""
        return self.training and vectors.requires_grad

    @property
    def is_held(self) -> bool:
        """Whether nothing of it is trained."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    @abc.abstractmethod
    def embed(self, codes: Tensor) -> Tensor:
        """The latents (..., *Z) of codes (..., T)."""

    @abc.abstractmethod
    def codes_of(self, z: Tensor) -> Tensor:
        """The codes (..., T) of latents (..., *Z): those whose vectors are nearest."""

    def weights_of(self, z: Tensor) -> Tensor | None:
        """(..., T, V): how much of each code is in z, where a latent may lie between codes; else None."""
        return None


class VectorQuantized(CodePosterior):
    """q(z|x) is a point: at each position, the vector of a codebook that is nearest to what the network gives there.

        codes_t = argmin_v |f(x)_t - e_v|,    z_t = e_codes_t

    The gradient goes straight through the rounding. With `objectives.Quantization`, which holds the network's output near
    the vectors, and a prior over codes this is the VQ-VAE: van den Oord, Vinyals, Kavukcuoglu, "Neural discrete
    representation learning" (2017), equations 1 to 3. The rate is -log p(codes): T log V under `priors.UniformCodes`, as q
    has no entropy of its own; so the bound is one, log p(x) >= log p(x|z) p(z) of any single latent.

    The codebook is a running mean of what is assigned to it, or learned by gradients, and starts by k-means; codes that fall
    out of use start again (`posteriors.codebook`). `Quantized.codes` are the codes.

    Args:
        network: maps data to features; `networks.GridEncoder` for a grid.
        num_codes: V.
        code_dims: C, numbers a vector.
        positions: P for latents (P C,), or the sizes of a grid, (H, W) for latents (C, H, W).
        decay: of the running means, in [0, 1); 0 for vectors that are learned by gradients.
        revival: a code that is used less than this share of the mean use starts again at an encoded token; 0 for never.
        initialization: from the first data, `kmeans` or tokens at random (`rows`); or `uniform`, U(-1/V, 1/V).

    Raises:
        ConfigError: for a size that is too small, a decay or revival outside [0, 1), or an unknown initialisation.

    Example:
        >>> from vaekit.networks import GridEncoder
        >>> q = VectorQuantized(GridEncoder([3, 32, 32], [8, 8, 8]), num_codes=512, code_dims=4, positions=[8, 8])
        >>> q.shape, q(torch.zeros(2, 3, 32, 32)).codes.shape
        ((4, 8, 8), torch.Size([2, 64]))
    """

    def __init__(
        self,
        network: Component,
        num_codes: int,
        code_dims: int,
        positions: int | Sequence[int],
        decay: float = 0.99,
        revival: float = 0.05,
        initialization: str = "kmeans",
    ) -> None:
        super().__init__(network, num_codes, CodeLayout.of(positions, code_dims))
        self.codebook = Codebook(num_codes, code_dims, decay, revival, initialization)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Quantized:
        """The point, batch shape (B,). In training mode the codebook takes in the step before, and records this one."""
        inputs = self.vectors_at(x, condition, mask)
        learns = self.learns_from(inputs)
        if learns:
            self.codebook.follow(inputs)
        codes = self.codebook.nearest(inputs)
        if learns:
            self.codebook.record(inputs, codes)
        return Quantized(self.layout, inputs, self.codebook(codes), codes, self.num_codes, learned=self.codebook.decay == 0)

    @torch.no_grad()
    def initialize(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> None:
        """The codebook from what the network gives for x, unless it has been trained already or is held."""
        if not self.is_held:
            self.codebook.fit(self.vectors_at(x, condition, mask))

    def embed(self, codes: Tensor) -> Tensor:
        """See `CodePosterior.embed`."""
        return self.layout.latent(self.codebook(codes))

    def codes_of(self, z: Tensor) -> Tensor:
        """See `CodePosterior.codes_of`."""
        return self.codebook.nearest(self.layout.tokens(z))


class ResidualQuantized(CodePosterior):
    """As `VectorQuantized`, with several vectors a position: each is nearest to what those before it have left over.

        r_1 = f(x)_t,    e_d = nearest to r_d in codebook d,    r_d+1 = r_d - e_d

    V^depth sums from depth V vectors, so fine latents of few positions. The decoder is to read the sum, which
    `networks.SumOfLayers` gives it. Lee, Kim, Kim, Cho, Han, "Autoregressive image generation using residual quantization"
    (2022), section 3.1; Zeghidour et al., "SoundStream: an end-to-end neural audio codec" (2021), section III-C.
    Departure: z keeps the vectors of the depth side by side, (depth, P C) or (depth, C, H, W), as codes cannot be told from a
    sum of vectors; the sum is taken by the decoder's network. Tokens are ordered by position, coarse to fine within one.

    Args:
        network: maps data to features; `networks.GridEncoder` for a grid.
        num_codes: V, of each codebook.
        code_dims: C, numbers a vector.
        positions: P, or the sizes of a grid, (H, W).
        depth: vectors a position.
        shared: whether all layers have one codebook.
        decay: of the running means, in [0, 1); 0 for vectors that are learned by gradients.
        revival: a code that is used less than this share of the mean use starts again at an encoded token; 0 for never.
        initialization: from the first data, `kmeans` or tokens at random (`rows`); or `uniform`, U(-1/V, 1/V).

    Raises:
        ConfigError: for a size that is too small, a decay or revival outside [0, 1), or an unknown initialisation.

    Example:
        >>> from vaekit.networks import MLP
        >>> q = ResidualQuantized(MLP(5, [8]), num_codes=16, code_dims=3, positions=2, depth=4)
        >>> q.shape, q(torch.zeros(7, 5)).codes.shape
        ((4, 6), torch.Size([7, 8]))
    """

    def __init__(
        self,
        network: Component,
        num_codes: int,
        code_dims: int,
        positions: int | Sequence[int],
        depth: int = 4,
        shared: bool = False,
        decay: float = 0.99,
        revival: float = 0.05,
        initialization: str = "kmeans",
    ) -> None:
        super().__init__(network, num_codes, CodeLayout.of(positions, code_dims, depth))
        self.depth, self.decay = depth, decay
        self.codebooks = nn.ModuleList(
            Codebook(num_codes, code_dims, decay, revival, initialization) for _ in range(1 if shared else depth)
        )

    def _layers(self) -> list[Codebook]:
        """The codebook of each layer."""
        books = [book for book in self.codebooks if isinstance(book, Codebook)]
        return books * self.depth if len(books) == 1 else books

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Quantized:
        """The point, batch shape (B,). In training mode the codebooks take in the step before, and record this one."""
        inputs = self.vectors_at(x, condition, mask)
        learns = self.learns_from(inputs)
        books, shared = self._layers(), len(self.codebooks) == 1
        rest, rests, codes = inputs.detach(), [], []
        for layer, book in enumerate(books):
            if learns and not (shared and layer):
                book.follow(rest)
            codes.append(book.nearest(rest))
            rests.append(rest)
            rest = rest - book(codes[-1]).detach()
        if learns and shared:
            books[0].record(torch.stack(rests), torch.stack(codes))
        elif learns:
            for book, rest, chosen in zip(books, rests, codes, strict=True):
                book.record(rest, chosen)
        tokens = torch.stack(codes, dim=-1).flatten(-2)
        return Quantized(self.layout, inputs, self._vectors(tokens), tokens, self.num_codes, learned=self.decay == 0)

    @torch.no_grad()
    def initialize(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> None:
        """The codebooks from what the network gives for x, each from what those before it leave over.

        One codebook for all layers starts from half of each scale: the tokens, and what a codebook of them leaves over.
        Codebooks that have been trained already, or are held, stay as they are.
        """
        if self.is_held:
            return
        rest = self.vectors_at(x, condition, mask)
        books = self._layers()
        if len(self.codebooks) == 1:
            books[0].fit(rest)
            left = rest - books[0](books[0].nearest(rest))
            books[0].fit(torch.cat([rest.flatten(0, -2), left.flatten(0, -2)]))
            return
        for book in books:
            book.fit(rest)
            rest = rest - book(book.nearest(rest))

    def _vectors(self, codes: Tensor) -> Tensor:
        """(..., T, C) of codes (..., T)."""
        layers = codes.unflatten(-1, (-1, self.depth)).unbind(-1)
        return torch.stack([book(layer) for book, layer in zip(self._layers(), layers, strict=True)], dim=-2).flatten(-3, -2)

    def embed(self, codes: Tensor) -> Tensor:
        """See `CodePosterior.embed`."""
        return self.layout.latent(self._vectors(codes))

    def codes_of(self, z: Tensor) -> Tensor:
        """See `CodePosterior.codes_of`; each layer by itself."""
        layers = self.layout.tokens(z).unflatten(-2, (-1, self.depth)).unbind(-2)
        codes = [book.nearest(layer) for book, layer in zip(self._layers(), layers, strict=True)]
        return torch.stack(codes, dim=-1).flatten(-2)


class FiniteScalar(CodePosterior):
    """q(z|x) is a point: each number of the latent is rounded to one of a few levels, and nothing is learned for it.

        b_i = tanh(f_i + s_i) (L_i - 1) / 2 - o_i,    z_i = round(b_i) / floor(L_i / 2)

    where f_i is what the network gives, o_i is 1/2 where L_i is even and else 0, and s_i such that b_i is 0 where f_i is (0 for
    L_i = 2, where there is no such s). A position's vector has a number for each of `levels`, so there are V = prod L_i codes:
    sum_i k_i prod_{j<i} L_j is that of levels k_i. There is no codebook to collapse and no further loss: `objectives.ELBO`
    trains it.
    Mentzer, Minnen, Agustsson, Tschannen, "Finite scalar quantization: VQ-VAE made simple" (2024), section 3.1. Departure: f is
    shifted and scaled once, so that each number starts with mean 0 and variance 1 over the first data; what an untrained
    network gives varies little, and all of it would be rounded to one code.

    Args:
        network: maps data to features; `networks.GridEncoder` for a grid.
        levels: L_i, from 2 to 256 each; the paper takes [8, 6, 5], [8, 5, 5, 5], [7, 5, 5, 5, 5] for 2^8, 2^10, 2^12 codes.
        positions: P for latents (P C,), or the sizes of a grid, (H, W) for latents (C, H, W), with C as many as `levels`.

    Raises:
        ConfigError: for levels that cannot be, more than 2^31 codes, or a size below 1.

    Example:
        >>> from vaekit.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> q = FiniteScalar(MLP(5, [8]), levels=[8, 5], positions=3)
        >>> q.num_codes, q.codes_of(q.embed(torch.tensor([0, 17, 39])))
        (40, tensor([ 0, 17, 39]))
    """

    sizes: Tensor
    strides: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, network: Component, levels: Sequence[int], positions: int | Sequence[int]) -> None:
        if not levels or min(levels) < 2 or max(levels) > 256 or math.prod(levels) > 2**31:
            raise ConfigError(
                f"`levels` must be numbers from 2 to 256 with a product of at most 2^31, got {tuple(levels)}. "
                "Use [8, 5, 5, 5] for about 1000 codes."
            )
        super().__init__(network, math.prod(levels), CodeLayout.of(positions, len(levels)))
        self.register_buffer("sizes", torch.tensor(list(levels)), persistent=False)
        strides = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("strides", torch.tensor(strides), persistent=False)
        self.register_buffer("shift", torch.zeros(len(levels)))
        self.register_buffer("scale", torch.ones(len(levels)))

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Quantized:
        """The point, batch shape (B,)."""
        raw = (self.vectors_at(x, condition, mask) - self.shift) / self.scale
        sizes, even = self.sizes.to(raw.dtype), self.sizes % 2 == 0
        reach = (sizes - 1) * (1 + 1e-3) / 2  # a little more, so that the last levels are reached
        offset = torch.where(even, 0.5, 0.0).to(raw.dtype)
        to_zero = torch.where(self.sizes > 2, (offset / reach).atanh(), 0.0)
        bounded = torch.tanh(raw + to_zero) * reach - offset
        rounded = bounded.detach().round()
        codes = self._codes(rounded)
        half = self.sizes // 2
        return Quantized(self.layout, bounded / half, rounded / half, codes, self.num_codes, drawn_together=False)

    @torch.no_grad()
    def initialize(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> None:
        """Shift and scale from what the network gives for x, once, unless it is held."""
        if self.is_held or bool((self.scale != 1).any()):
            return
        raw = self.vectors_at(x, condition, mask).flatten(0, -2)
        scale = raw.std(0, unbiased=False)
        self.shift.copy_(raw.mean(0))
        self.scale.copy_(torch.where(scale > 1e-6, scale, 1.0))  # a number that does not vary has no scale

    def _codes(self, rounded: Tensor) -> Tensor:
        """(...) of whole numbers (..., C) around 0."""
        top = self.sizes - 1
        levels = (rounded.long() + self.sizes // 2).clamp_min(0).minimum(top)
        return (levels * self.strides).sum(-1)

    def embed(self, codes: Tensor) -> Tensor:
        """See `CodePosterior.embed`."""
        levels = codes.unsqueeze(-1) // self.strides % self.sizes
        dtype = next(self.head.parameters()).dtype
        half = self.sizes // 2
        return self.layout.latent((levels - half).to(dtype) / half)

    def codes_of(self, z: Tensor) -> Tensor:
        """See `CodePosterior.codes_of`."""
        return self._codes((self.layout.tokens(z) * (self.sizes // 2)).round())


class GumbelSoftmax(CodePosterior):
    """q(z|x) = prod_t Categorical(pi_t(x)), with samples that are relaxed so that gradients go through them.

    A token's vector is one-hot, C = V; in training it is softmax((log pi + g) / temperature) with Gumbel noise g, or, straight
    through, one-hot with the gradient of that. The temperature falls with the steps of training,

        temperature_s = max(min_temperature, temperature exp(-anneal_rate s))

    and the posterior counts the steps itself. The rate is that of the categoricals, T log V less their entropy under
    `priors.UniformCodes`. In evaluation samples are one-hot, so figures are those of the discrete model, and bounds on it.
    `objectives.ELBO` trains it. Objectives of several weighted samples, such as `IWAE`, refuse relaxed ones, of which log q is
    no density.

    Jang, Gu, Poole, "Categorical reparameterization with Gumbel-softmax" (2017); Maddison, Mnih, Teh, "The concrete
    distribution" (2017). Departure from the latter: the rate is not that of relaxed densities.

    Args:
        network: maps data to features; `networks.GridEncoder` for a grid.
        num_categories: V.
        positions: T for latents (T V,), or the sizes of a grid, (H, W) for latents (V, H, W).
        temperature: at the start, > 0.
        min_temperature: the least, > 0.
        anneal_rate: by how much its logarithm falls a step, >= 0; 0 for a constant.
        straight_through: whether training samples are one-hot as well.

    Raises:
        ConfigError: for a size that is too small, a temperature that is not above 0, or a negative rate.

    Example:
        >>> from vaekit.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> q = GumbelSoftmax(MLP(5, [8]), num_categories=10, positions=3).eval()
        >>> q(torch.zeros(2, 5)).rsample((4,)).sum(-1)[0]
        tensor([3., 3.], grad_fn=<SelectBackward0>)
    """

    steps: Tensor

    def __init__(
        self,
        network: Component,
        num_categories: int,
        positions: int | Sequence[int],
        temperature: float = 1.0,
        min_temperature: float = 0.5,
        anneal_rate: float = 1e-4,
        straight_through: bool = False,
    ) -> None:
        if num_categories < 2:
            raise ConfigError(f"`num_categories` must be at least 2, got {num_categories}. 10 is a good start.")
        if not 0 < min_temperature <= temperature < math.inf:
            raise ConfigError(
                "`min_temperature` must be > 0 and at most `temperature`, got "
                f"{min_temperature} and {temperature}. Use 0.5 and 1."
            )
        if not anneal_rate >= 0:
            raise ConfigError(f"`anneal_rate` must be >= 0, got {anneal_rate}. Use 0 for a constant temperature.")
        super().__init__(network, num_categories, CodeLayout.of(positions, num_categories))
        self.start_temperature, self.min_temperature = temperature, min_temperature
        self.anneal_rate, self.straight_through = anneal_rate, straight_through
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def temperature_now(self) -> Tensor:
        """Scalar: the temperature after the steps that were counted."""
        fallen = self.start_temperature * torch.exp(-self.anneal_rate * self.steps.float())
        return fallen.clamp_min(self.min_temperature)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> RelaxedCodes:
        """The categoricals, batch shape (B,)."""
        logits = self.vectors_at(x, condition, mask)
        temperature = self.temperature_now().to(logits.dtype)
        if self.learns_from(logits):
            self.steps += 1
        return RelaxedCodes(self.layout, logits, temperature, hard=self.straight_through or not self.training)

    def embed(self, codes: Tensor) -> Tensor:
        """See `CodePosterior.embed`: one-hot vectors."""
        shape, like = (*codes.shape, self.num_codes), next(self.head.parameters())
        one_hot = torch.zeros(shape, dtype=like.dtype, device=codes.device)
        return self.layout.latent(one_hot.scatter_(-1, codes.unsqueeze(-1), 1.0))

    def codes_of(self, z: Tensor) -> Tensor:
        """See `CodePosterior.codes_of`: the largest entries."""
        return self.layout.tokens(z).argmax(-1)

    def weights_of(self, z: Tensor) -> Tensor:
        """See `CodePosterior.weights_of`: the vectors themselves."""
        return self.layout.tokens(z)
