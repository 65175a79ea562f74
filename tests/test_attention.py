"""Attention against its formula, in each precision."""

from __future__ import annotations

import math

import pytest
import torch

from vaekit.attention import attention


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Softmax of scaled products, of the keys that are seen, times values."""
    products = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~seen, -math.inf)
    return products.softmax(-1) @ v


def examples(dtype: torch.dtype, length: int = 5) -> list[torch.Tensor]:
    """Queries, keys and values (3, 2, T, 4)."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 2, length, 4, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_it_is_its_formula_with_its_gradient(causal: bool, dtype: torch.dtype) -> None:
    """In half precision as near as that precision is, and of the dtype that came in."""
    seen = torch.ones(5, 5, dtype=torch.bool)
    seen = seen.tril() if causal else seen
    parts, exact = examples(dtype), [x.detach().double().requires_grad_() for x in examples(dtype)]
    found, expected = attention(*parts, causal=causal), by_hand(*exact, seen)
    assert found.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)
    found.square().sum().backward()
    expected.square().sum().backward()
    for one, other in zip(parts, exact, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad.double(), other.grad, atol=5 * tolerance, rtol=5 * tolerance)


def test_a_mask_hides_keys() -> None:
    """What a hidden key and its value are changes nothing."""
    q, k, v = (x.detach() for x in examples(torch.float32))
    seen = torch.tensor([[True, True, True, False, True]])
    other = [x.clone() for x in (k, v)]
    for x in other:
        x[:, :, 3] = 100.0
    torch.testing.assert_close(attention(q, k, v, seen), attention(q, *other, seen), rtol=0, atol=0)
    torch.testing.assert_close(attention(q, k, v, seen), by_hand(q, k, v, seen))


def test_under_autocast_it_has_the_dtype_of_the_products_around_it() -> None:
    """With a gradient computed in float32 in between, and without one as it comes."""
    parts = examples(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = attention(*parts)
        with torch.no_grad():
            plain = attention(*parts)
    assert trained.dtype == plain.dtype == torch.bfloat16
    expected = by_hand(*parts, torch.ones(5, 5, dtype=torch.bool))
    torch.testing.assert_close(trained.float(), expected, atol=1e-2, rtol=1e-2)
