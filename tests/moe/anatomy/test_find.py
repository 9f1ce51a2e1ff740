"""Routers are found through wrappers, and models without readable routers are refused by name."""

from __future__ import annotations

import copy
from typing import ClassVar

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    DogeConfig,
    DogeForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from hf_mixture.moe.anatomy import UnsupportedRouterError, base_path, find_routers


TINY = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
MOE = {"num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}


def tiny_model(**overrides) -> Qwen3MoeForCausalLM:
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**TINY, **MOE, **overrides)).eval()


def test_dense_layers_have_no_router_and_keep_their_number():
    routers = find_routers(tiny_model(mlp_only_layers=[0]))
    assert [(router.layer, router.ordinal) for router in routers] == [(1, 0), (2, 1)]
    assert routers[0].path == "model.layers.1.mlp.gate"
    assert routers[0].weight_path == "model.layers.1.mlp.gate.weight"
    assert routers[0].experts_path == "model.layers.1.mlp.experts"


def test_the_paths_are_those_of_the_bare_model_inside_peft_and_other_wrappers():
    model = tiny_model()
    bare = [router.path for router in find_routers(model)]
    targets = ["mlp.experts.gate_up_proj", "mlp.gate.weight"]
    wrapped = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=["q_proj"], target_parameters=targets))
    routers = find_routers(wrapped)
    assert [router.path for router in routers] == bare
    assert [type(router.module).__name__ for router in routers] == ["Qwen3MoeTopKRouter"] * 3
    assert [type(router.experts).__name__ for router in routers] == ["Qwen3MoeExperts"] * 3
    assert next(router.path for router in find_routers(nn.Sequential(model))) == "0." + bare[0]
    compiled = torch.compile(model, backend="eager")
    assert [router.path for router in find_routers(compiled)] == bare


def test_base_path_strips_wrappers_only():
    assert base_path("base_model.model.model.layers.3.mlp.gate.base_layer") == "model.layers.3.mlp.gate"
    assert base_path("module._orig_mod.model.base_layers.module_list") == "model.base_layers.module_list"


def test_a_router_on_the_meta_device_is_described_without_memory():
    with torch.device("meta"):
        routers = find_routers(tiny_model())
    assert routers[0].weight is not None
    assert routers[0].weight.is_meta


def test_observe_sees_every_choice_and_ends_with_its_handles():
    model = tiny_model()
    router = find_routers(model)[1]
    seen: list[torch.Tensor] = []
    handles = router.observe(lambda output: seen.append(output.indices))
    model(input_ids=torch.arange(10).reshape(2, 5))
    assert [indices.shape for indices in seen] == [(10, 2)]
    for handle in handles:
        handle.remove()
    model(input_ids=torch.arange(10).reshape(2, 5))
    assert len(seen) == 1


def test_a_dense_model_is_refused():
    with pytest.raises(UnsupportedRouterError, match="LlamaForCausalLM has no router"):
        find_routers(LlamaForCausalLM(LlamaConfig(**TINY, intermediate_size=8, num_key_value_heads=2)))


def test_an_unreadable_family_is_refused_by_name_and_reason():
    config = DogeConfig(**TINY, intermediate_size=8, num_key_value_heads=2, is_moe=True, num_experts=16)
    with pytest.raises(UnsupportedRouterError, match=r"DogeCDMoE at model\.layers\.0\.mlp .*product keys"):
        find_routers(DogeForCausalLM(config))


def test_a_recorded_class_that_nobody_knows_is_refused_by_name():
    class NewRouter(nn.Module):
        pass

    class NewModel(Qwen3MoeForCausalLM):
        _can_record_outputs: ClassVar = {"router_logits": NewRouter}

    model = NewModel(Qwen3MoeConfig(**TINY, **MOE, mlp_only_layers=[0, 1, 2]))
    model.add_module("novel", NewRouter())
    with pytest.raises(UnsupportedRouterError, match="NewRouter at novel cannot be read: this router class"):
        find_routers(model)
