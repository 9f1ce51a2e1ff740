"""The name that models of transformers have for the keys and values of earlier tokens."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from hf_mixture._compat.caches import CACHE_NAME, given_cache, returned_cache


@pytest.fixture
def model():
    config = LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
    )
    return LlamaForCausalLM(config).eval()


def test_a_model_takes_and_returns_its_cache_under_the_name_of_the_installed_version(model):
    cache = DynamicCache(config=model.config)
    output = model(torch.tensor([[3, 4]]), use_cache=True, **{CACHE_NAME: cache})
    assert returned_cache(output) is cache
    assert cache.get_seq_length() == 2
    assert returned_cache(model(torch.tensor([[3, 4]]), use_cache=False)) is None
    assert returned_cache((output.logits,)) is None


@pytest.mark.parametrize("name", sorted({"past_key_values", CACHE_NAME}))
def test_the_cache_of_a_call_is_found_under_every_name_that_models_accept(model, name):
    given = []
    model.register_forward_pre_hook(lambda _, __, kwargs: given.append(given_cache(kwargs)), with_kwargs=True)
    cache = DynamicCache(config=model.config)
    model(torch.tensor([[3, 4]]), **{name: cache})
    model(torch.tensor([[3, 4]]))
    assert given == [cache, None]
    assert cache.get_seq_length() == 2


def test_the_cache_that_generate_makes_is_found(model):
    lengths = []

    def see(_, __, kwargs):
        lengths.append(given_cache(kwargs).get_seq_length())

    model.register_forward_pre_hook(see, with_kwargs=True)
    model.generate(torch.tensor([[3, 4]]), max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert lengths == [0, 2, 3]
