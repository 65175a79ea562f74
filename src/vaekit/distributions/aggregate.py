"""The mixture of the posteriors of many examples, q(z) = 1/N sum_n q(z|x_n), at a sample of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal
from torch.distributions import Independent as TorchIndependent

_MAX_ELEMENTS = 2**20


def mixture_log_probs(samples: Sequence[Tensor], posteriors: Sequence[Distribution]) -> tuple[Tensor, Tensor]:
    """log q(z_i|x_i) and log sum_{n != i} q(z_i|x_n) of N examples that come in blocks.

    N^2 densities are computed, in bounded memory. Of products of normals they are two products of matrices: some tens of
    milliseconds for 2,000 examples.

    Args:
        samples: one tensor a block, (b, *Z): z_i ~ q(z|x_i).
        posteriors: one distribution a block, of batch shape (b,).

    Returns:
        Two tensors (N,), in float64 on the CPU.

    Example:
        >>> from vaekit.distributions import diagonal_normal
        >>> q = diagonal_normal(torch.tensor([[0.0], [100.0]]), torch.ones(2, 1))
        >>> own, others = mixture_log_probs([q.mean], [q])
        >>> information_terms(own, others)  # each example is known by its latent: log 2 nats
        tensor([0.6931, 0.6931], dtype=torch.float64)
    """
    densities = [_pairs(posterior) for posterior in posteriors]
    own, others = [], []
    for i, z in enumerate(samples):
        total = torch.full((len(z),), -math.inf, dtype=torch.float64)
        for n, density in enumerate(densities):
            log_q = density(z)
            if i == n:
                own.append(log_q.diagonal().clone())
                log_q.fill_diagonal_(-math.inf)
            total = torch.logaddexp(total, torch.logsumexp(log_q, dim=1))
        others.append(total)
    return torch.cat(own), torch.cat(others)


def information_terms(own: Tensor, others: Tensor) -> Tensor:
    """(N,): log q(z_i|x_i) - log 1/N sum_n q(z_i|x_n), whose mean is the mutual information of z and the N examples.

    Args:
        own, others: (N,), as `mixture_log_probs` gives them.
    """
    return own - torch.logaddexp(own, others) + math.log(len(own))


def _pairs(posterior: Distribution) -> Callable[[Tensor], Tensor]:
    """z (M, *Z) to log q(z_i|x_n), (M, b) in float64 on the CPU."""
    if isinstance(posterior, TorchIndependent) and isinstance(posterior.base_dist, Normal) and len(posterior.batch_shape) == 1:
        return _normal_pairs(posterior.base_dist)
    (num,) = posterior.batch_shape

    def pairs(z: Tensor) -> Tensor:
        rows = max(1, _MAX_ELEMENTS // (num * max(1, z[0].numel())))
        pieces = [part[:, None].expand(len(part), num, *z.shape[1:]) for part in z.split(rows)]
        return torch.cat([posterior.log_prob(piece).cpu().double() for piece in pieces])

    return pairs


def _normal_pairs(q: Normal) -> Callable[[Tensor], Tensor]:
    """-1/2 sum_d [ (z_d - m_d)^2 / s_d^2 + log 2 pi s_d^2 ] by the three terms of the square."""
    mean, scale = (t.expand(q.batch_shape).flatten(1).cpu().double() for t in (q.loc, q.scale))
    centre = mean.mean(0)  # what is squared is then no larger than it must be
    precision = scale.square().reciprocal()
    weighted = (mean - centre) * precision
    constant = 0.5 * ((mean - centre) * weighted).sum(1) + scale.log().sum(1) + 0.5 * mean.shape[1] * math.log(2 * math.pi)

    def pairs(z: Tensor) -> Tensor:
        z = z.flatten(1).cpu().double() - centre
        return z @ weighted.T - 0.5 * (z.square() @ precision.T) - constant

    return pairs
