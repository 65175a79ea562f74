"""Hiding a part of each example in training, so that a model learns to infer from any part."""

from __future__ import annotations

import torch
from torch import Tensor


def hidden(x: Tensor, mask: Tensor | None, share: float) -> Tensor | None:
    """What of x stays visible: in `share` of the examples a part is hidden, each element with a probability r ~ U(0, 1) of its
    example's own.

    Both the posterior and the likelihood are given the mask, so the bound is one on log p(visible elements), and q(z|visible)
    learns to be near p(z|visible): Ivanov, Figurnov, Vetrov, "Variational autoencoder with arbitrary conditioning" (2019), for
    the masks; Mattei, Frellsen, "MIWAE" (2019), for the bound.

    Args:
        x: (B, *S).
        mask: (B, *S) bool, True where observed, or None.
        share: of the examples, in [0, 1].

    Returns:
        (B, *S) bool, or the mask as it is where `share` is 0.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> round(hidden(torch.zeros(20000, 50), None, 0.5).float().mean().item(), 2)
        0.75
    """
    if share == 0:
        return mask
    ones = [1] * (x.dim() - 1)
    rate = torch.rand(len(x), *ones, device=x.device) * (torch.rand(len(x), *ones, device=x.device) < share)
    visible = torch.rand(x.shape, device=x.device) >= rate
    return visible if mask is None else visible & mask
