"""The declarations of transformers that say which modules are routers."""

from __future__ import annotations

import pytest
from torch import nn
from transformers import JetMoeConfig, JetMoeModel, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.jetmoe.modeling_jetmoe import JetMoeAttention, JetMoeTopKGating
from transformers.utils.output_capturing import OutputRecorder

from hf_mixture._compat.recorders import recorded_classes


def test_the_router_class_of_a_model_is_declared():
    config = Qwen3MoeConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_experts=4, head_dim=4)
    (router,) = recorded_classes(Qwen3MoeForCausalLM(config), "router_logits")
    assert router.__name__ == "Qwen3MoeTopKRouter"
    assert issubclass(router, nn.Module)


class TwoRecorders(JetMoeModel):
    """As JetMoe declares it in transformers 5.23, and no model does in 5.24."""

    _can_record_outputs = {  # noqa: RUF012
        "router_logits": [OutputRecorder(JetMoeAttention, index=2), OutputRecorder(JetMoeTopKGating, index=4)]
    }


class OneRecorderOfTwo(JetMoeModel):
    """As models of transformers 5.24 declare classes whose outputs are alike."""

    _can_record_outputs = {  # noqa: RUF012
        "router_logits": OutputRecorder((JetMoeAttention, JetMoeTopKGating))
    }


@pytest.mark.parametrize("model_class", [TwoRecorders, OneRecorderOfTwo])
def test_several_recorded_classes_are_all_found(model_class):
    config = JetMoeConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_key_value_heads=1, kv_channels=4)
    names = [router.__name__ for router in recorded_classes(model_class(config), "router_logits")]
    assert names == ["JetMoeAttention", "JetMoeTopKGating"]


def test_a_model_without_routers_declares_none():
    assert recorded_classes(nn.Linear(2, 2), "router_logits") == ()
