from __future__ import annotations

import copy
import pickle

import pytest
import torch
from adapters_of_transformers import needs_adapter_methods
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from hf_mixture import MosConfig, MosModel
from hf_mixture.adapters.mos.bank import find_bank, pool_shapes
from hf_mixture.adapters.mos.layer import MosLayer
from hf_mixture.adapters.mos.layout import plan_layout
from hf_mixture.adapters.mos.targets import find_targets


ARCHITECTURES = {
    "LLaMA2-7B": ((4096, 11008, 32, 32, 32), 2_498_560),
    "LLaMA2-13B": ((5120, 13824, 40, 40, 40), 3_911_680),
    "Llama-3-8B": ((4096, 14336, 32, 32, 8), 2_621_440),
    "Llama-3.2-3B": ((3072, 8192, 28, 24, 8), 1_519_616),
}
PUBLISHED = {
    ("LLaMA2-7B", 2): 4_997_120,
    ("LLaMA2-7B", 4): 9_994_240,
    ("LLaMA2-7B", 8): 19_988_480,
    ("LLaMA2-7B", 16): 39_976_960,
    ("LLaMA2-7B", 64): 159_907_840,
    ("LLaMA2-13B", 2): 7_823_360,
    ("Llama-3-8B", 1): 2_621_440,
    ("Llama-3-8B", 2): 5_242_880,
}


def meta_llama(name: str) -> LlamaForCausalLM:
    hidden, intermediate, layers, heads, kv_heads = ARCHITECTURES[name][0]
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def num_planned(base: nn.Module, config: MosConfig) -> int:
    shapes = {
        (slot.group, key): shape
        for slot in plan_layout(config, find_targets(config, base)).values()
        for key, shape in pool_shapes(
            slot, equivalent_rank=config.equivalent_rank, num_shards=config.num_shards
        ).items()
    }
    return sum(rows * width for rows, width in shapes.values())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_trainable_parameters_are_those_of_rank_e_lora(name):
    base, unit = meta_llama(name), ARCHITECTURES[name][1]
    for e in (1, 2, 4, 8, 16, 64):
        for r, p, num_shards in ((e, 0, 1), (2 * e, min(1, e - 1), 4), (8 * e, e // 2, 16)):
            config = MosConfig(
                r=r, equivalent_rank=e, private_rank=p, num_shards=num_shards, target_modules="all-linear"
            )
            assert num_planned(base, config) == e * unit == PUBLISHED.get((name, e), e * unit)
    model = get_peft_model(base, MosConfig(target_modules="all-linear"))
    trainable, total = model.get_nb_trainable_parameters()
    assert trainable == 2 * unit
    assert total - trainable == sum(p.numel() for p in meta_llama(name).parameters())


def test_uses_no_shared_state_on_the_tuner(llama, mos_config):
    assert MosModel.uses_shared_state is False
    assert isinstance(get_peft_model(llama(), mos_config()).base_model, MosModel)
    assert find_bank(inject_adapter_in_model(mos_config(), llama())) is not None


def test_default_target_modules_are_those_of_lora(llama):
    model = get_peft_model(llama(), MosConfig(r=3))
    assert {name.rpartition(".")[2] for name in model.base_model.targeted_module_names} == {"q_proj", "v_proj"}


def test_infeasible_settings_leave_the_model_untouched(llama):
    base = llama()
    before = {name: (value, value.requires_grad) for name, value in base.named_parameters()}
    modules = [type(module) for module in base.modules()]
    for config in (
        MosConfig(),
        MosConfig(r=3, num_shards=3),
        MosConfig(r=3, pool_by={"q_proj": "query"}),
        MosConfig(r=3, pool_by={"q_proj": "q", "v_proj": "v", "k_proj": "k"}),
    ):
        with pytest.raises(ValueError, match="Remedy"):
            get_peft_model(base, config)
        assert [type(module) for module in base.modules()] == modules
        assert all(value is before[name][0] for name, value in base.named_parameters())
        assert all(value.requires_grad is before[name][1] for name, value in base.named_parameters())
    get_peft_model(base, MosConfig(r=3))


def test_a_failed_second_adapter_leaves_the_first_alone(llama, mos_config, tokens):
    model = get_peft_model(llama(), mos_config()).eval()
    expected = model(tokens).logits
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match="is too large"):
        model.add_adapter("other", mos_config(r=50))
    assert list(model.state_dict()) == keys
    assert list(model.peft_config) == ["default"]
    assert torch.equal(model(tokens).logits, expected)


@needs_adapter_methods(AssertionError)
def test_a_corrected_configuration_is_accepted_after_a_refused_one(llama, mos_config, tokens):
    model = llama()
    for name in ("first", "second"):
        with pytest.raises(ValueError, match="is too large"):
            model.add_adapter(mos_config(r=50), adapter_name=name)
        model.add_adapter(mos_config(), adapter_name=name)
    assert list(model.peft_config) == ["first", "second"]


def test_unsupported_modules_are_named(llama, mos_config):
    with pytest.raises(TypeError, match=r"'model\.embed_tokens' is a Embedding.*exclude_modules"):
        get_peft_model(llama(), mos_config(target_modules=["embed_tokens"]))
    attention = nn.ModuleDict({"attention": nn.MultiheadAttention(16, 2)})
    with pytest.raises(TypeError, match=r"nn\.MultiheadAttention reads its weight without calling it"):
        get_peft_model(attention, mos_config(target_modules=["out_proj"]))


def test_layers_to_transform_and_exclude_modules_shape_the_pools(llama, mos_config):
    model = get_peft_model(llama(), mos_config(layers_to_transform=[0, 2], r=3, target_modules=["q_proj"]))
    assert find_bank(model)[1]["default"]["A_q_proj_64x64"].shape[0] == 2 * 2 * 4
    excluded = mos_config(exclude_modules=["layers.1.self_attn.q_proj"], r=3)
    model = get_peft_model(llama(), excluded)
    assert find_bank(model)[1]["default"]["A_q_proj_64x64"].shape[0] == 2 * 2 * 4
    assert find_bank(model)[1]["default"]["A_v_proj_64x32"].shape[0] == 2 * 3 * 4


def test_indices_do_not_depend_on_other_adapters_or_targets(llama, mos_config):
    alone = get_peft_model(llama(), mos_config(target_modules=["q_proj"]))
    later = get_peft_model(llama(), mos_config(target_modules=["v_proj"]))
    later.add_adapter("second", mos_config())
    pairs = zip(
        (m for m in alone.modules() if isinstance(m, MosLayer)),
        (m for m in later.modules() if isinstance(m, MosLayer) and "q_proj" in m.slots["second"].group),
        strict=True,
    )
    assert all(torch.equal(a.mos_index["default"], b.mos_index["second"]) for a, b in pairs)


def test_several_adapters_with_different_shapes(llama, mos_config, tokens):
    model = get_peft_model(llama(), mos_config()).eval()
    model.add_adapter("small", mos_config(r=2, equivalent_rank=3, num_shards=2, target_modules=["q_proj", "up_proj"]))
    bank = find_bank(model)[1]

    def trainable() -> set[str]:
        return {name.split(".")[0] for name, pool in bank.named_parameters() if pool.requires_grad}

    assert trainable() == {"default"}
    outputs = {}
    for name in ("default", "small"):
        model.set_adapter(name)
        assert trainable() == {name}
        outputs[name] = model(tokens).logits
    assert not torch.equal(outputs["default"], outputs["small"])
    model.base_model.set_adapter(["default", "small"])
    assert trainable() == {"default", "small"}
    assert not torch.equal(model(tokens).logits, outputs["default"])
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    x = torch.randn(2, 64)
    both = sum(x @ layer.get_delta_weight(name).T for name in ("default", "small"))
    torch.testing.assert_close(layer(x), layer.base_layer(x) + both, rtol=0, atol=1e-5)


def test_a_second_adapter_on_all_linear_finds_the_adapted_layers(llama, mos_config):
    model = get_peft_model(llama(), mos_config(target_modules="all-linear"))
    model.add_adapter("other", mos_config(target_modules="all-linear", num_shards=2))
    assert all(set(m.slots) == {"default", "other"} for m in model.modules() if isinstance(m, MosLayer))


def test_status_reports_gradients_of_the_pools(llama, mos_config):
    model = get_peft_model(llama(), mos_config())
    model.add_adapter("other", mos_config(target_modules=["q_proj"]))
    status = {layer.name: layer for layer in model.get_layer_status()}
    q_proj = status["model.model.layers.0.self_attn.q_proj"]
    assert q_proj.requires_grad == {"default": True, "other": False}
    assert q_proj.available_adapters == ["default", "other"]
    assert q_proj.devices == {"default": ["cpu"], "other": ["cpu"]}
    assert q_proj.module_type == "mos.Linear"
    assert status["model.model.layers.0.mlp.up_proj"].available_adapters == ["default"]
    summary = model.get_model_status()
    assert summary.requires_grad == {"default": True, "other": False}
    assert summary.trainable_params == model.get_nb_trainable_parameters()[0]


def test_freezing_a_layer_freezes_the_pools_it_reads(llama, mos_config):
    model = get_peft_model(llama(), mos_config())
    model.get_base_model().model.layers[0].self_attn.q_proj.requires_grad_(False)
    frozen = {name for name, pool in find_bank(model)[1].named_parameters() if not pool.requires_grad}
    assert frozen == {"default.A_q_proj_64x64", "default.B_q_proj_64x64"}
    model.set_requires_grad("default", requires_grad=False)
    assert not any(pool.requires_grad for pool in find_bank(model)[1].parameters())
    model.set_requires_grad("default")
    assert all(pool.requires_grad for pool in find_bank(model)[1].parameters())


def test_disabling_and_unloading_give_the_base_model(llama, mos_config, tokens):
    expected = llama()(tokens).logits
    model = get_peft_model(llama(), mos_config()).eval()
    adapted = model(tokens).logits
    with model.disable_adapter():
        assert torch.equal(model(tokens).logits, expected)
    assert torch.equal(model(tokens).logits, adapted)
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(model(tokens).logits, expected)
    unloaded = model.unload()
    assert torch.equal(unloaded(tokens).logits, expected)
    assert not any("mos" in name for name in unloaded.state_dict())


def through_pickle(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own bytes


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle])
def test_copies_are_equal_and_independent(duplicate, llama, mos_config, tokens):
    model = get_peft_model(llama(), mos_config()).eval()
    expected = model(tokens).logits
    twin = duplicate(model)
    assert torch.equal(twin(tokens).logits, expected)
    bank = find_bank(twin)[1]
    assert all(layer.bank is bank for layer in twin.modules() if isinstance(layer, MosLayer))
    with torch.no_grad():
        for pool in bank.parameters():
            pool.add_(1)
    assert torch.equal(model(tokens).logits, expected)
    assert not torch.equal(twin(tokens).logits, expected)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(use_reentrant, llama, mos_config, tokens):
    model = get_peft_model(llama(), mos_config()).train()
    model(input_ids=tokens, labels=tokens).loss.backward()
    expected = [pool.grad.clone() for pool in find_bank(model)[1].parameters()]
    model.zero_grad()
    model.config.use_cache = False
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    model(input_ids=tokens, labels=tokens).loss.backward()
    for pool, gradient in zip(find_bank(model)[1].parameters(), expected, strict=True):
        torch.testing.assert_close(pool.grad, gradient)


def test_mixed_batches_apply_one_adapter_per_row(llama, mos_config, tokens):
    model = get_peft_model(llama(), mos_config()).eval()
    model.add_adapter("other", mos_config(r=2, num_shards=2, target_modules=["q_proj"], index_seed=1))
    with model.disable_adapter():
        expected = [model(tokens).logits[2]]
    for name, row in (("other", 1), ("default", 0)):
        model.set_adapter(name)
        expected.insert(0, model(tokens).logits[row])
    mixed = model(tokens, adapter_names=["default", "other", "__base__"]).logits
    torch.testing.assert_close(mixed, torch.stack(expected), rtol=0, atol=1e-6)
    assert torch.equal(model(tokens).logits[0], expected[0])
    generated = model.generate(
        input_ids=tokens[:2], adapter_names=["__base__", "other"], num_beams=2, max_new_tokens=3
    )
    with model.disable_adapter():
        alone = model.generate(input_ids=tokens[:1], num_beams=2, max_new_tokens=3)
    assert torch.equal(generated[0], alone[0])


def test_mixed_batches_refuse_wrong_names(llama, mos_config, tokens):
    model = get_peft_model(llama(), mos_config()).eval()
    with pytest.raises(ValueError, match=r"non-existing adapter\(s\): nope"):
        model(tokens, adapter_names=["default", "nope", "__base__"])
    with pytest.raises(ValueError, match="Length of `adapter_names`"):
        model(tokens, adapter_names=["default"])
    model.merge_adapter()
    with pytest.raises(ValueError, match=r"\['default'\] are merged"):
        model(tokens, adapter_names=["default"] * 3)
    model.unmerge_adapter()
    with pytest.raises(ValueError, match="training mode"):
        model.train()(tokens, adapter_names=["default"] * 3)


def test_modules_to_save_are_trained_beside_the_pools(llama, mos_config):
    model = get_peft_model(llama(), mos_config(modules_to_save=["lm_head"]))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "base_model.model.lm_head.modules_to_save.default.weight" in trainable
    assert sum("mos_bank" in name for name in trainable) == 14


@pytest.mark.slow
def test_a_whole_model_compiles_in_one_graph(llama, mos_config, tokens):
    model = get_peft_model(llama(), mos_config(target_modules=["q_proj", "down_proj"])).eval()
    with torch.no_grad():
        expected = model(tokens).logits
        assert torch.equal(torch.compile(model, backend="aot_eager", fullgraph=True)(tokens).logits, expected)


def test_a_base_model_with_adapters_of_another_type_is_refused() -> None:
    sizes = {"vocab_size": 8, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    base = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2))
    lora = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))
    names = set(lora.state_dict())
    with pytest.raises(ValueError, match=r"has adapters of another type \(lora\).*Remedy: merge_and_unload"):
        get_peft_model(lora, MosConfig(r=2, num_shards=2, target_modules=["v_proj"]))
    assert set(lora.state_dict()) == names
    merged = lora.merge_and_unload()
    get_peft_model(merged, MosConfig(r=2, num_shards=2, target_modules=["v_proj"]))
