from __future__ import annotations

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from hf_mixture.adapters.mos.bank import find_bank
from hf_mixture.adapters.mos.parameter import ParamWrapper


EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
FAMILIES = {
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4)),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SIZES, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2, head_dim=8)
    ),
    # Stores its experts as (experts, in, out).
    "gpt_oss": lambda: GptOssForCausalLM(GptOssConfig(**SIZES, num_local_experts=4, head_dim=8)),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    FAMILIES[request.param]().save_pretrained(folder)
    return folder


@pytest.fixture
def load(family):
    return lambda: AutoModelForCausalLM.from_pretrained(family).eval()


@pytest.fixture
def experts_config(mos_config):
    def build(**changes):
        return mos_config(**{"target_modules": [], "target_parameters": EXPERTS, "r": 3, **changes})

    return build


def wrappers(model: nn.Module) -> list[ParamWrapper]:
    return [module for module in model.modules() if isinstance(module, ParamWrapper)]


def test_all_experts_of_all_layers_share_pools(load, experts_config):
    model = get_peft_model(load(), experts_config())
    pools = find_bank(model)[1]["default"]
    assert len(pools) == 4
    assert {pool.shape[0] for pool in pools.values()} == {2 * (2 * 4) * 4}
    trainable = sum(pool.numel() for pool in pools.values())
    rank_e_lora = sum(2 * 4 * (wrapper.in_features + wrapper.out_features) for wrapper in wrappers(model))
    assert trainable == rank_e_lora
    assert model.get_nb_trainable_parameters()[0] == trainable


def test_each_expert_gets_its_own_update(load, experts_config, tokens):
    base = load()
    model = get_peft_model(load(), experts_config()).eval()
    for wrapper in wrappers(model):
        a, b = wrapper.factors("default")
        assert a.shape == (4, 3, wrapper.in_features)
        delta = wrapper.get_delta_weight("default")
        for expert in range(4):
            update = 16 / 3 * b[expert].T @ a[expert]
            torch.testing.assert_close(delta[expert], update.T if wrapper.transposed else update)
    expected = model(tokens).logits
    dense = dict(base.named_parameters())
    with torch.no_grad():
        for wrapper in wrappers(model):
            name = next(name for name, module in model.get_base_model().named_modules() if module is wrapper).replace(
                ".base_layer", ""
            )
            dense[f"{name}.{wrapper.parameter_name}"].add_(wrapper.get_delta_weight("default"))
    torch.testing.assert_close(base(tokens).logits, expected, rtol=0, atol=1e-5)


def test_gradients_reach_every_pool(load, experts_config, tokens):
    model = get_peft_model(load(), experts_config()).train()
    for context in (torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False)):
        model.zero_grad()
        with context:
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        assert all(pool.grad is not None and pool.grad.any() for pool in find_bank(model)[1].parameters())


def test_saves_loads_merges_and_unloads(load, family, experts_config, tokens, tmp_path):
    base_logits = load()(tokens).logits
    model = get_peft_model(load(), experts_config(target_modules=["v_proj"])).eval()
    logits = model(tokens).logits
    assert not torch.equal(logits, base_logits)
    model.save_pretrained(tmp_path)
    for loaded in (
        PeftModel.from_pretrained(load(), tmp_path),
        PeftModel.from_pretrained(load(), tmp_path, adapter_name="other", low_cpu_mem_usage=True),
        AutoModelForCausalLM.from_pretrained(tmp_path),
    ):
        assert torch.equal(loaded.eval()(tokens).logits, logits)
    model.merge_adapter()
    torch.testing.assert_close(model(tokens).logits, logits, rtol=0, atol=1e-5)
    model.unmerge_adapter()
    assert torch.equal(model(tokens).logits, logits)
    with model.disable_adapter():
        assert torch.equal(model(tokens).logits, base_logits)
    torch.testing.assert_close(model.merge_and_unload()(tokens).logits, logits, rtol=0, atol=1e-5)
    unloaded = PeftModel.from_pretrained(load(), tmp_path).unload()
    assert torch.equal(unloaded(tokens).logits, base_logits)
    assert unloaded.state_dict().keys() == load().state_dict().keys()


def test_second_adapter_and_deletion(load, experts_config, tokens):
    model = get_peft_model(load(), experts_config()).eval()
    logits = model(tokens).logits
    model.add_adapter("other", experts_config(r=2, index_seed=1))
    assert len(wrappers(model)) == 4
    model.set_adapter("other")
    assert not torch.equal(model(tokens).logits, logits)
    model.set_adapter("default")
    assert torch.equal(model(tokens).logits, logits)
    model.delete_adapter("other")
    assert torch.equal(model(tokens).logits, logits)
    with pytest.raises(ValueError, match=r"target_parameters=\['experts.down_proj'\] must equal those of"):
        model.add_adapter("third", experts_config(target_parameters=["experts.down_proj"]))


def test_exports_as_lora(load, experts_config, tokens, tmp_path):
    model = get_peft_model(load(), experts_config()).eval()
    model.to_lora(save_directory=tmp_path)
    loaded = PeftModel.from_pretrained(load(), tmp_path).eval()
    torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits, rtol=0, atol=1e-6)


def test_rows_of_a_batch_cannot_have_different_experts(load, experts_config, tokens):
    model = get_peft_model(load(), experts_config()).eval()
    with pytest.raises(ValueError, match="adapter_names cannot select adapters for the target parameter"):
        model(tokens, adapter_names=["default", "default", "__base__"])


def test_conv1d_beside_a_target_parameter_loads_again(gpt2_folder, mos_config, tokens, tmp_path):
    config = mos_config(target_modules=["c_attn"], target_parameters=["mlp.c_fc.weight"])
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(gpt2_folder), config).eval()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(gpt2_folder), tmp_path).eval()
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)


def test_matrices_are_supported_and_other_shapes_refused(mos_config):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 16))
            self.bias = nn.Parameter(torch.zeros(8))

        def forward(self, x):
            return x @ self.weight.T + self.bias

    base = nn.ModuleDict({f"block{i}": nn.ModuleDict({"inner": Scaled()}) for i in range(3)})
    config = mos_config(task_type=None, target_modules=[], target_parameters=["inner.weight"])
    model = get_peft_model(base, config)
    wrapper = wrappers(model)[0]
    x = torch.randn(2, 16)
    expected = x @ (wrapper.get_base_weight() + wrapper.get_delta_weight("default")).T
    torch.testing.assert_close(wrapper(x), expected)
    with pytest.raises(TypeError, match=r"'block0\.inner\.bias' has 1 dimensions"):
        get_peft_model(
            nn.ModuleDict({"block0": nn.ModuleDict({"inner": Scaled()})}),
            mos_config(task_type=None, target_modules=[], target_parameters=["inner.bias"]),
        )
