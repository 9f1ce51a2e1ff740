from __future__ import annotations

import math

import pytest
import torch
from peft import get_base_model_state_dict, get_peft_model, set_base_model_state_dict
from torch import nn

from hf_mixture import MosConfig
from hf_mixture.adapters.mos.bank import MosBank, find_bank


def square_model(num_layers: int = 16, size: int = 32) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(size, size) for _ in range(num_layers)))


def test_each_pool_is_one_parameter_of_the_root_bank(llama, mos_config):
    model = get_peft_model(llama(), mos_config())
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(names) == 14
    assert all(name.startswith("base_model.model.mos_bank.default.") for name in names)
    assert isinstance(model.get_base_model().mos_bank, MosBank)
    assert len({parameter.data_ptr() for parameter in model.get_base_model().mos_bank.parameters()}) == 14


def test_layers_hold_the_bank_without_registering_it(llama, mos_config):
    layer = get_peft_model(llama(), mos_config()).get_base_model().model.layers[0].self_attn.q_proj
    assert [name for name, _ in layer.named_parameters()] == ["base_layer.weight"]
    assert set(layer.state_dict()) == {"base_layer.weight", "mos_index.default"}


@pytest.mark.parametrize("num_shards", [1, 4, 16])
def test_initial_scale_does_not_depend_on_the_number_of_shards(num_shards):
    size = 256
    model = get_peft_model(
        square_model(size=size), MosConfig(target_modules="all-linear", num_shards=num_shards, equivalent_rank=8, r=16)
    )
    pools = model.get_base_model().mos_bank["default"]
    expected = 1 / math.sqrt(3 * size)
    assert abs(pools["A_module_256x256"].std().item() / expected - 1) < 0.02
    assert pools["A_module_256x256"].abs().max() <= 1 / math.sqrt(size)
    assert not pools["B_module_256x256"].any()


def test_pools_are_shared_after_every_way_of_replacing_parameters(llama, mos_config):
    model = get_peft_model(llama(), mos_config())
    model.to(torch.bfloat16)
    bank = model.get_base_model().mos_bank
    layers = [layer.self_attn.q_proj for layer in model.get_base_model().model.layers]
    assert all(layer.bank is bank for layer in layers)
    state = {key: torch.ones_like(value) for key, value in bank.state_dict().items()}
    bank.load_state_dict(state, assign=True)
    assert all((layer.factors("default")[0] == 1).all() for layer in layers)
    assert all(layer.mos_index["default"].dtype == torch.int32 for layer in layers)


def test_a_sequential_base_model_still_runs(tokens):
    base = square_model()
    x = torch.randn(2, 32)
    expected = base(x)
    model = get_peft_model(base, MosConfig(target_modules="all-linear"))
    assert torch.equal(model(x), expected)
    assert torch.equal(model.unload()(x), expected)
    assert len(base) == 16


def test_another_attribute_of_that_name_is_refused_before_anything_changes():
    base = square_model()
    base.mos_bank = nn.Linear(2, 2)
    keys = list(base.state_dict())
    with pytest.raises(ValueError, match="already has an attribute 'mos_bank' of type Linear"):
        get_peft_model(base, MosConfig(target_modules=["0", "1"], r=2))
    assert list(base.state_dict()) == keys


def test_base_state_dict_functions_of_peft_leave_the_pools_out(llama, mos_config):
    original = llama().state_dict()
    model = get_peft_model(llama(), mos_config())
    extracted = get_base_model_state_dict(model)
    assert set(extracted) == set(original)
    changed = {key: value + 1 for key, value in original.items()}
    pools = {name: pool.clone() for name, pool in find_bank(model)[1].named_parameters()}
    result = set_base_model_state_dict(model, changed, strict=True)
    assert result.missing_keys == result.unexpected_keys == []
    assert all(torch.equal(value, changed[key]) for key, value in get_base_model_state_dict(model).items())
    assert all(torch.equal(pool, pools[name]) for name, pool in find_bank(model)[1].named_parameters())


def test_adapters_have_separate_pools_and_deleting_one_frees_only_its_own(llama, mos_config):
    model = get_peft_model(llama(), mos_config())
    model.add_adapter("other", mos_config(r=2, equivalent_rank=4, num_shards=2, target_modules=["q_proj"]))
    bank = model.get_base_model().mos_bank
    assert set(bank["other"]) == {"A_q_proj_64x64", "B_q_proj_64x64"}
    assert bank["other"]["A_q_proj_64x64"].shape == (4 * 3 * 2, 32)
    before = {name: pool.clone() for name, pool in bank["default"].items()}
    model.delete_adapter("other")
    assert list(bank) == ["default"]
    assert all(torch.equal(pool, before[name]) for name, pool in bank["default"].items())
    assert not any("other" in name for name in model.state_dict())
