"""Cached factors are never stale where addresses and versions of tensors could repeat."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model
from torch import nn

from hf_mixture import MosConfig
from hf_mixture.adapters.mos.bank import find_bank


@pytest.fixture
def model():
    return adapted()


def adapted():
    torch.manual_seed(0)
    base = nn.Sequential(*(nn.Linear(16, 16) for _ in range(4)))
    config = MosConfig(r=4, equivalent_rank=2, private_rank=1, target_modules="all-linear", init_weights=False)
    return get_peft_model(base, config)


def test_replaced_pools_at_a_reused_address(model):
    """Two replacements in a row free the address of the first pool for the second one."""
    pools = find_bank(model)[1]["default"]
    x = torch.randn(3, 16)
    model.base_model.cache_factors()
    with torch.no_grad():
        for _ in range(20):
            cached = model(x)
            model.base_model.cache_factors(enabled=False)
            assert torch.equal(cached, model(x))
            model.base_model.cache_factors()
            model(x)
            for _ in range(2):
                for key in list(pools.keys()):
                    pools[key] = nn.Parameter(torch.randn_like(pools[key]))


def test_a_forward_with_gradients_drops_the_factors(model):
    """FSDP2 refills the storage of a pool without raising its version; so does this test."""
    pool = next(find_bank(model)[1].parameters())
    x = torch.randn(3, 16)
    model.base_model.cache_factors()
    with torch.no_grad():
        before = model(x)
    version = pool._version
    pool.data.mul_(2)
    assert pool._version == version
    model(x).sum().backward()
    with torch.no_grad():
        after = model(x)
    assert not torch.equal(before, after)
    assert torch.equal(after, model(x))


def test_a_model_that_was_loaded_in_inference_mode_computes_without_a_cache():
    with torch.inference_mode():
        loaded = adapted()
        x = torch.randn(3, 16)
        expected = loaded(x)
        loaded.base_model.cache_factors()
        assert torch.equal(loaded(x), expected)
