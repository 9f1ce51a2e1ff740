"""Stacks of layers and the layers themselves, for any family."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_experts import tiny_expert
from transformers import AutoModelForCausalLM, BertConfig, MambaConfig

from hf_mixture.models.mixture_of_thoughts.stacks import decoder_layers, stack_ends


@given(st.integers(1, 200), st.data())
def test_stacks_are_balanced_contiguous_and_never_empty(num_layers, data):
    num_levels = data.draw(st.integers(1, num_layers))
    ends = stack_ends(num_layers, num_levels)
    sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    assert len(ends) == num_levels
    assert ends[-1] == num_layers
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


def test_depths_that_the_rounded_up_size_cuts_badly():
    assert stack_ends(6, 4) == [2, 3, 5, 6]
    assert stack_ends(9, 4) == [2, 5, 7, 9]


def test_more_stacks_than_layers_are_refused():
    with pytest.raises(ValueError, match="num_levels=4 must be from 1 to 3, the number of layers"):
        stack_ends(3, 4)


@pytest.mark.parametrize(
    ("family", "num_layers"), [("llama", 5), ("gpt2", 3), ("bloom", 4), ("gemma3", 3), ("qwen3", 4)]
)
def test_the_layers_of_a_family_are_found(family, num_layers):
    assert len(decoder_layers(tiny_expert(family))) == num_layers


def test_the_layers_of_a_model_without_attention_are_found():
    model = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=16, hidden_size=16, num_hidden_layers=2))
    assert len(decoder_layers(model)) == 2


def test_an_encoder_is_refused():
    config = BertConfig(
        vocab_size=16, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    with pytest.raises(ValueError, match="BertLMHeadModel must be a causal language model"):
        decoder_layers(AutoModelForCausalLM.from_config(config))
