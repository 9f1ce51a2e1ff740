"""Attention to keys that lie in several tensors."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from hf_mixture.models.mixture_of_thoughts.interaction import attend


@pytest.mark.parametrize("num_queries", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_parts_are_attended_to_as_one_tensor(num_queries: int, dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)

    def states(num_tokens: int) -> torch.Tensor:
        return torch.randn(2, 4, num_tokens, 8, generator=generator).to(dtype)

    queries = states(num_queries)
    keys, values = ([states(number) for number in (5, 0, 7)] for _ in range(2))
    mask = torch.rand(2, 1, num_queries, 12, generator=generator) < 0.5
    mask[..., 0] = True
    expected = scaled_dot_product_attention(
        queries.float(), torch.cat(keys, -2).float(), torch.cat(values, -2).float(), attn_mask=mask
    )
    found = attend(queries, keys, values, mask)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=tolerance)
