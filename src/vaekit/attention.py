"""Attention, on each kind of device in the way that is quick there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """softmax(Q K^T / sqrt(F)) V, fused.

    Vaswani et al., "Attention is all you need" (2017), equation 1.

    On a processor in half precision it is computed in float32 where a gradient is asked for: of sequences of tens of tokens
    PyTorch's backward in half precision takes several times as long, and of none is it quicker.

    Args:
        queries: (N, heads, T, F).
        keys: (N, heads, S, F).
        values: (N, heads, S, F).
        mask: bool, broadcast to (N, heads, T, S): which keys a query sees. All of them if None.
        causal: whether a query sees keys up to its own place alone, of which then T = S.

    Returns:
        (N, heads, T, F), of the dtype of the queries; under autocast, of autocast's.

    Example:
        >>> one = torch.ones(1, 1, 2, 4)
        >>> attention(one, one, one, causal=True).shape
        torch.Size([1, 1, 2, 4])
    """
    kind = queries.device.type
    if kind != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=causal)
    halved = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else queries.dtype
    if halved not in (torch.bfloat16, torch.float16):
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=causal)
    with torch.autocast(kind, enabled=False):
        q, k, v = queries.float(), keys.float(), values.float()
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal).to(halved)
