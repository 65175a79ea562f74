"""Transformers over sequences of tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.attention import attention
from vaekit.errors import ConfigError
from vaekit.networks.inputs import append_condition
from vaekit.networks.sequence import SequenceEncoder, SequenceNetwork, State, check_share, embedding_of, lengths_of
from vaekit.symbols import END

LATENT = ("low-rank", "attend")
"""How a latent enters each layer of a `TransformerDecoder`."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values, each (N, heads, T, features), to what each position gathers (N, heads, T, features)."""


class TransformerEncoder(SequenceEncoder):
    """Layers in which every token attends to every other, and a learned query that gathers features of the whole.

        h = e(END, x),  h = h + attention(norm(h)),  h = h + mlp(norm(h)) in each layer,  features = attention(query, norm(h))

    Vaswani et al., "Attention is all you need" (2017), with the norm before each part (Xiong et al., "On layer normalization in
    the transformer architecture", 2020) and positions as rotations of queries and keys (Su et al., "RoFormer: enhanced
    transformer with rotary position embedding", 2021), so that no length is set. What is behind the END of a sequence is not
    read; a code END is put before it, from which positions can be told.

    Args:
        num_tokens: V, codes from 0 to V - 1.
        width: H, features of a token in each layer, a multiple of twice the heads.
        depth: how many layers.
        heads: of each layer's attention.
        condition_features: width of the condition, appended to the features; 0 for none.
        dropout: of the embeddings and of what each layer adds, in training.
        hide: the share of tokens that are hidden in training.

    Raises:
        ConfigError: for sizes below 1, a width that the heads do not divide, or shares outside [0, 1).

    Example:
        >>> TransformerEncoder(6, width=8, depth=1, heads=2)(torch.tensor([[4, 3, 1, 0], [5, 1, 0, 0]])).shape
        torch.Size([2, 8])
    """

    twice_differentiable = False  # fused attention is differentiable once

    def __init__(
        self,
        num_tokens: int,
        width: int = 256,
        depth: int = 4,
        heads: int = 4,
        condition_features: int = 0,
        dropout: float = 0.0,
        hide: float = 0.0,
    ) -> None:
        super().__init__(num_tokens, condition_features, hide)
        _check_sizes(width, depth, heads, dropout)
        self.heads = heads
        self.embedding = embedding_of(num_tokens + 1, width, _REACH)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout, depth) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.pool = nn.Linear(width, 2 * width, bias=False)  # keys and values of the last attention
        self.query = nn.Parameter(torch.randn(width))
        self.out_shape = (width + condition_features,)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, T) codes to (B, H): see the class. A token that `mask` (B, T) hides is read as hidden."""
        codes = self.visible(x, mask)
        real = torch.arange(codes.shape[1] + 1, device=codes.device) <= lengths_of(codes).unsqueeze(1)
        real = real[:, None, None]  # (B, heads, queries, keys)
        h = self.dropout(self.embedding(F.pad(codes, (1, 0), value=END)))
        turn = rotation(0, h.shape[1], h.shape[2] // self.heads, h)
        for block in self.blocks:
            h = block(h, turn, lambda q, k, v: attention(q, k, v, real))
        keys, values = self.pool(self.norm(h)).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        query = self.query.to(keys.dtype).view(1, self.heads, 1, -1).expand(len(h), -1, -1, -1)
        pooled = attention(query, keys, values, real)
        return append_condition(pooled.flatten(1), condition, self.condition_features)


class TransformerDecoder(SequenceNetwork):
    """Layers in which every token attends to those before it, told the latent in every layer.

        h = h + W (attention(norm(h)) * (V z + b)),  h = h + mlp(norm(h))

    With `latent="low-rank"`, as here, what a layer's attention gathers is multiplied by a linear map of the latent: a tensor
    product of the two, and W and V are factors of its decomposition. Hu, Yi, Li, Sun, Xie, "Fuse it more deeply! A variational
    transformer with layer-wise latent variable inference for text generation" (2022). Departures: all layers are told one
    latent, as of any other decoder; b begins at 1; and each factor is one linear map, which a sum of several is too. They
    multiply the values, which is the same, as the latent does not vary by position.

    `latent="attend"`: the latent is a token more in each layer, to which all others attend: the memory of Li et al., "Optimus:
    organizing sentences via pre-trained modeling of a latent space" (2020).

    Layers are those of `TransformerEncoder`.

    Args:
        num_tokens: V, codes from 0 to V - 1.
        num_latents: D.
        width: H, features of a token in each layer, a multiple of twice the heads.
        depth: how many layers.
        heads: of each layer's attention.
        latent: `low-rank` or `attend`, see above.
        condition_features: width of the condition, 0 for none; it enters beside the latent.
        dropout: of the embeddings and of what each layer adds, in training.
        word_dropout: the share of input tokens that are hidden in training.
        skip: whether the latent and the condition stand beside the features that come out, as in `LSTMDecoder`: H + D + F of
            them.

    Raises:
        ConfigError: for sizes below 1, a width that the heads do not divide, another `latent`, or shares outside [0, 1).

    Example:
        >>> network = TransformerDecoder(6, num_latents=2, width=8, depth=1, heads=2)
        >>> network(torch.tensor([[4, 3, 1]]), torch.zeros(1, 2)).shape
        torch.Size([1, 3, 10])
    """

    twice_differentiable = False  # fused attention is differentiable once

    def __init__(
        self,
        num_tokens: int,
        num_latents: int,
        width: int = 256,
        depth: int = 4,
        heads: int = 4,
        latent: str = "low-rank",
        condition_features: int = 0,
        dropout: float = 0.0,
        word_dropout: float = 0.0,
        skip: bool = True,
    ) -> None:
        super().__init__(num_tokens, num_latents, condition_features, word_dropout)
        _check_sizes(width, depth, heads, dropout)
        if latent not in LATENT:
            raise ConfigError(f"`latent` must be {' or '.join(LATENT)}, got {latent!r}. Use `low-rank` when in doubt.")
        self.heads, self.latent, self.skip = heads, latent, skip
        self.embedding = embedding_of(num_tokens, width, _REACH)
        self.dropout = nn.Dropout(dropout)
        self.tell = nn.Linear(num_latents + condition_features, depth * (2 if latent == "attend" else 1) * width)
        if latent == "low-rank":
            nn.init.ones_(self.tell.bias)
        self.blocks = nn.ModuleList(Block(width, heads, dropout, depth) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out_shape = (width + (num_latents + condition_features if skip else 0),)

    def forward(self, tokens: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """See `SequenceNetwork.forward`."""
        h = self.dropout(self.embedding(self.inputs(tokens.long())))
        turn = rotation(0, h.shape[1], h.shape[2] // self.heads, h)
        for block, told in zip(self.blocks, self._tell(z, condition), strict=True):

            def attend(q: Tensor, k: Tensor, v: Tensor, told: Tensor = told) -> Tensor:
                if self.latent != "attend":
                    return self._fuse(attention(q, k, v, causal=True), told)
                key, value = self._memory(told)
                seen = torch.ones(q.shape[2], q.shape[2] + 1, dtype=torch.bool, device=q.device).tril(1)
                k, v = torch.cat([key.to(k.dtype), k], dim=2), torch.cat([value.to(v.dtype), v], dim=2)
                return attention(q, k, v, seen)

            h = block(h, turn, attend)
        return self._beside(self.norm(h), self.told(z, condition).unsqueeze(1))

    def _beside(self, h: Tensor, told: Tensor) -> Tensor:
        """Features (N, T, H), with the latent and the condition (N, 1, D + F) beside them."""
        return torch.cat([h, told.expand(-1, h.shape[1], -1).to(h.dtype)], dim=-1) if self.skip else h

    def begin(self, z: Tensor, condition: Tensor | None = None) -> State:
        """See `SequenceNetwork.begin`: what each layer is told, and keys and values of what a token finds before it."""
        told = self._tell(z, condition)
        state = {"told": torch.stack(told, dim=1), "beside": self.told(z, condition).unsqueeze(1)}
        for layer, of_layer in enumerate(told):
            state[f"keys_{layer}"], state[f"values_{layer}"] = self._memory(of_layer)
        return state

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """See `SequenceNetwork.step`."""
        h = self.embedding(tokens.long()).unsqueeze(1)
        position = state["keys_0"].shape[2] - (self.latent == "attend")
        turn = rotation(position, 1, h.shape[2] // self.heads, h)
        after = {"told": state["told"], "beside": state["beside"]}
        for layer, (block, told) in enumerate(zip(self.blocks, state["told"].unbind(1), strict=True)):
            keys, values = f"keys_{layer}", f"values_{layer}"

            def attend(q: Tensor, k: Tensor, v: Tensor, told: Tensor = told, keys: str = keys, values: str = values) -> Tensor:
                after[keys] = torch.cat([state[keys].to(k.dtype), k], dim=2)
                after[values] = torch.cat([state[values].to(v.dtype), v], dim=2)
                return self._fuse(attention(q, after[keys], after[values]), told)

            h = block(h, turn, attend)
        return self._beside(self.norm(h), state["beside"])[:, 0], after

    def _tell(self, z: Tensor, condition: Tensor | None) -> tuple[Tensor, ...]:
        """What each layer is told, (N, H) or (N, 2 H)."""
        return self.tell(self.told(z, condition)).chunk(len(self.blocks), dim=-1)

    def _fuse(self, gathered: Tensor, told: Tensor) -> Tensor:
        """What a layer's attention gathered (N, heads, T, H / heads), and the latent."""
        return gathered * told.view(len(told), self.heads, 1, -1) if self.latent == "low-rank" else gathered

    def _memory(self, told: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (N, heads, 1, H / heads) of the latent as a token; (N, heads, 0, H / heads) where it is none."""
        if self.latent != "attend":
            none = told.new_empty(len(told), self.heads, 0, told.shape[1] // self.heads)
            return none, none
        keys, values = told.view(len(told), 2, self.heads, 1, -1).unbind(1)
        return keys, values


class Block(nn.Module):
    """One layer: attention, then an MLP of four times the width, each added to what came in.

    At the start, what is added is smaller by sqrt(2 depth), so that the sum does not grow with depth: Radford et al., "Language
    models are unsupervised multitask learners" (2019), section 2.3.
    """

    def __init__(self, width: int, heads: int, dropout: float, depth: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width, bias=False)  # queries, keys and values
        self.mix = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            for parameter in (*self.mix.parameters(), *self.mlp[2].parameters()):
                parameter.mul_((2 * depth) ** -0.5)

    def forward(self, h: Tensor, turn: Callable[[Tensor], Tensor], attend: Attend) -> Tensor:
        """(N, T, H) to (N, T, H), with `turn` the rotation of queries and keys."""
        qkv = self.project(self.norm_attention(h)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = turn(qkv[:2]).unbind(0)
        gathered = attend(q, k, qkv[2]).transpose(1, 2).flatten(2)
        h = h + self.dropout(self.mix(gathered))
        return h + self.dropout(self.mlp(self.norm_mlp(h)))


def rotation(first: int, count: int, features: int, like: Tensor) -> Callable[[Tensor], Tensor]:
    """Turns x (..., count, features), at the positions first, first + 1, ..., by angles that grow with the position.

        (x_i, x_{i + F/2})  turned by  t 10000^(-2 i / F)  at the position t

    A product of two turned vectors depends on how far apart they stand, and on no position by itself. Su et al., "RoFormer:
    enhanced transformer with rotary position embedding" (2021), equation 34, with the halves of x as the pairs.
    """
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    speeds = 10_000.0 ** (torch.arange(0, features, 2, device=like.device, dtype=dtype) / -features)
    angles = torch.arange(first, first + count, device=like.device, dtype=dtype).unsqueeze(1) * speeds
    cos, sin = angles.cos().repeat(1, 2), torch.cat([-angles.sin(), angles.sin()], dim=-1)

    def turn(x: Tensor) -> Tensor:
        return torch.addcmul(x * cos, x.roll(features // 2, dims=-1), sin).to(x.dtype)

    return turn


_REACH = 0.5
"""Embeddings begin uniform in +- this."""


def _check_sizes(width: int, depth: int, heads: int, dropout: float) -> None:
    if min(width, depth, heads) < 1 or width % (2 * heads) != 0:
        raise ConfigError(
            f"`width` must be a multiple of twice the `heads`, and `depth` at least 1, got width={width}, heads={heads} and "
            f"depth={depth}. Use width=256, heads=4 and depth=4 when in doubt."
        )
    check_share("dropout", dropout)
