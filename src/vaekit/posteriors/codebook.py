"""Vectors that follow what they stand for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.errors import ConfigError

INITIALIZATIONS = ("kmeans", "rows", "uniform")
_MAX_ELEMENTS = 2**25
_KMEANS_STEPS = 10
_SHARE_DECAY = 0.99
"""Of the running shares of use where the vectors themselves are learned by gradients."""


class Codebook(nn.Module):
    """V vectors (C,), one a code.

    With a decay gamma the vectors are running means of what is assigned to them. Of a batch of T tokens, n_v of them
    nearest to code v with the sum s_v,

        N_v <- gamma N_v + (1 - gamma) n_v / T,    m_v <- gamma m_v + (1 - gamma) s_v / T,    e_v = m_v / N_v

    (van den Oord et al., 2017, appendix A.1, divided by T, so that batches of any size weigh the same). N starts at 1 / V.
    Without a decay the vectors are parameters. The statistics of a step move the vectors at the start of the next one, as an
    optimiser would: within a step nothing moves, so all that reads them sees the same ones.

    A code whose share of use N_v falls below `revival` / V is dead: it starts anew at a token of the batch, with a share of
    1 / V. Dhariwal et al., "Jukebox: a generative model for music" (2020), whose random restarts these are; Williams et al.,
    "Hierarchical quantized autoencoders" (2020).

    Several processes add their statistics up, and the first one's tokens revive.

    Args:
        num_codes: V.
        dims: C.
        decay: gamma; 0 for vectors that are learned by gradients.
        revival: the share of the mean use below which a code is dead; 0 for no revival.
        initialization: what `fit` does: k-means from tokens, tokens at random, or nothing. Before it, U(-1/V, 1/V).
    """

    embedding: Tensor
    share: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, num_codes: int, dims: int, decay: float, revival: float, initialization: str) -> None:
        super().__init__()
        if num_codes < 2:
            raise ConfigError(f"`num_codes` must be at least 2, got {num_codes}. 512 is a good start.")
        if not 0 <= decay < 1:
            raise ConfigError(f"`decay` must be in [0, 1), got {decay}. Use 0 for a codebook that is learned by gradients.")
        if not 0 <= revival < 1:
            raise ConfigError(f"`revival` must be in [0, 1), got {revival}. Use 0 to leave codes that are not used alone.")
        if initialization not in INITIALIZATIONS:
            raise ConfigError(
                f"`initialization` must be one of {', '.join(INITIALIZATIONS)}; got {initialization!r}. Use `kmeans`."
            )
        self.num_codes, self.decay, self.revival, self.initialization = num_codes, decay, revival, initialization
        embedding = (2 * torch.rand(num_codes, dims) - 1) / num_codes
        self.register_buffer("share", torch.full((num_codes,), 1 / num_codes))
        self.register_buffer("counts", torch.zeros(num_codes))  # n / T of the last step, to be taken in by the next
        if decay == 0:
            self.embedding = nn.Parameter(embedding)
        else:
            self.register_buffer("embedding", embedding)
            self.register_buffer("sums", torch.zeros(num_codes, dims))  # s / T of the last step

    @torch.no_grad()
    def nearest(self, tokens: Tensor) -> Tensor:
        """(...): the codes whose vectors are nearest to tokens (..., C), in their whole precision."""
        flat, rows = tokens.reshape(-1, tokens.shape[-1]), max(1, _MAX_ELEMENTS // self.num_codes)
        centre = self.embedding.mean(0)  # the last digits of far-off tokens would be lost in the products
        vectors = self.embedding - centre
        bias = -0.5 * vectors.square().sum(-1)
        with torch.autocast(tokens.device.type, enabled=False):
            parts = [F.linear(part - centre, vectors, bias).argmax(-1) for part in flat.split(rows)]
        return torch.cat(parts).view(tokens.shape[:-1])

    def forward(self, codes: Tensor) -> Tensor:
        """(..., C): the vectors of codes (...)."""
        return F.embedding(codes, self.embedding)

    @torch.no_grad()
    def follow(self, tokens: Tensor) -> None:
        """Takes in what the last step recorded, and revives dead codes at tokens (..., C) of this one."""
        # Nothing was recorded before the first step, and a batch that is not finite must not spoil the vectors.
        good = (self.counts.sum() > 0) & torch.isfinite(self.counts).all()
        decay = self.decay or _SHARE_DECAY
        share = decay * self.share + (1 - decay) * self.counts
        if self.decay:
            good = good & torch.isfinite(self.sums).all()
            # m / N without keeping m, which is N e.
            step = (1 - decay) * (self.sums - self.counts[:, None] * self.embedding) / share.clamp_min(1e-12)[:, None]
            self.embedding.copy_(torch.where(good, self.embedding + step, self.embedding))
        self.share.copy_(torch.where(good, share, self.share))
        if self.revival:
            rows = _rows_of(tokens.reshape(-1, tokens.shape[-1]), self.num_codes)
            if _several_processes():
                torch.distributed.broadcast(rows, 0)
            dead = good & (self.share < self.revival / self.num_codes) & torch.isfinite(rows).all(-1)
            self.embedding.copy_(torch.where(dead[:, None], rows, self.embedding))
            self.share.masked_fill_(dead, 1 / self.num_codes)

    @torch.no_grad()
    def record(self, tokens: Tensor, codes: Tensor) -> None:
        """Keeps the statistics of tokens (..., C) and their codes (...) for the next step."""
        tokens, codes = tokens.reshape(-1, tokens.shape[-1]), codes.flatten()
        counts = torch.zeros_like(self.counts).index_add_(0, codes, self.counts.new_ones(len(codes)))
        parts = [counts[:, None]]
        if self.decay:
            parts.append(torch.zeros_like(self.sums).index_add_(0, codes, tokens.to(self.sums.dtype)))
        packed = torch.cat(parts, dim=1) / len(tokens)
        if _several_processes():
            torch.distributed.all_reduce(packed)
            packed /= torch.distributed.get_world_size()
        self.counts.copy_(packed[:, 0])
        if self.decay:
            self.sums.copy_(packed[:, 1:])

    @torch.no_grad()
    def fit(self, tokens: Tensor) -> None:
        """Starts the vectors from tokens (..., C), unless they have been trained already."""
        if self.initialization == "uniform" or bool(self.counts.any()):
            return
        tokens = tokens.reshape(-1, tokens.shape[-1]).to(self.embedding.dtype)
        tokens = tokens[torch.randperm(len(tokens), device=tokens.device)[: max(2**15, 4 * self.num_codes)]]
        self.embedding.copy_(_rows_of(tokens, self.num_codes))
        for _ in range(_KMEANS_STEPS if self.initialization == "kmeans" else 0):
            codes = self.nearest(tokens)
            counts = torch.zeros_like(self.counts).index_add_(0, codes, self.counts.new_ones(len(codes)))
            means = torch.zeros_like(self.embedding).index_add_(0, codes, tokens) / counts.clamp_min(1)[:, None]
            empty = counts[:, None] == 0  # of no cluster: they start again at tokens
            self.embedding.copy_(torch.where(empty, _rows_of(tokens, self.num_codes), means))


def _rows_of(tokens: Tensor, num: int) -> Tensor:
    """(num, C): tokens (N, C) at random, each once where there are enough; else a little moved, so that no two are the same."""
    if len(tokens) >= num:
        return tokens[torch.randperm(len(tokens), device=tokens.device)[:num]]
    rows = tokens[torch.randint(len(tokens), (num,), device=tokens.device)]
    return rows + 0.01 * tokens.std(0, unbiased=False) * torch.randn_like(rows)


def _several_processes() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
