"""The declarations of transformers that say which modules are routers."""

from __future__ import annotations

from torch import nn
from transformers import JetMoeConfig, JetMoeModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from hf_mixture._compat.recorders import recorded_classes


def test_the_router_class_of_a_model_is_declared():
    config = Qwen3MoeConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_experts=4, head_dim=4)
    (router,) = recorded_classes(Qwen3MoeForCausalLM(config), "router_logits")
    assert router.__name__ == "Qwen3MoeTopKRouter"
    assert issubclass(router, nn.Module)


def test_a_list_of_recorders_gives_all_classes():
    config = JetMoeConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_key_value_heads=1, kv_channels=4)
    names = [router.__name__ for router in recorded_classes(JetMoeModel(config), "router_logits")]
    assert names == ["JetMoeAttention", "JetMoeTopKGating"]


def test_a_model_without_routers_declares_none():
    assert recorded_classes(nn.Linear(2, 2), "router_logits") == ()
