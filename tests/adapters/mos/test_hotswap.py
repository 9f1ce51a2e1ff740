from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch._dynamo.testing import CompileCounter

from hf_mixture.adapters.mos.bank import find_bank
from hf_mixture.adapters.mos.hotswap import hotswap_adapter


@pytest.fixture
def other(llama, mos_config, tokens, tmp_path):
    """A saved adapter with other shards and other weights, and its logits."""

    def save(**changes):
        torch.manual_seed(3)
        model = get_peft_model(llama(), mos_config(**{"index_seed": 3, **changes})).eval()
        model.save_pretrained(tmp_path)
        return tmp_path, model(tokens).logits

    return save


@pytest.mark.parametrize("save_indices", [True, False])
def test_swaps_in_place(save_indices, other, llama, mos_config, tokens):
    folder, logits = other(save_indices=save_indices)
    model = get_peft_model(llama(), mos_config()).eval()
    pools = dict(find_bank(model)[1].named_parameters())
    hotswap_adapter(model, folder)
    assert torch.equal(model(tokens).logits, logits)
    assert all(pool is pools[name] for name, pool in find_bank(model)[1].named_parameters())


def test_what_was_swapped_in_is_saved_with_its_seed(other, llama, mos_config, tokens, tmp_path):
    folder, logits = other()
    model = get_peft_model(llama(), mos_config(save_indices=False)).eval()
    hotswap_adapter(model, folder)
    model.save_pretrained(tmp_path / "again")
    loaded = PeftModel.from_pretrained(llama(), tmp_path / "again").eval()
    assert torch.equal(loaded(tokens).logits, logits)


def test_a_compiled_model_is_not_compiled_again(mos_config, tmp_path):
    def build(**changes):
        base = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3))).requires_grad_(False)
        for linear in base:
            torch.nn.init.eye_(linear.weight)
        return get_peft_model(base, mos_config(task_type=None, target_modules="all-linear", **changes))

    other = build(index_seed=3)
    other.save_pretrained(tmp_path)
    model, counter = build(), CompileCounter()
    model.get_base_model().load_state_dict(
        {key: value for key, value in other.get_base_model().state_dict().items() if "base_layer" in key}, strict=False
    )
    compiled = torch.compile(model, backend=counter)
    x = torch.randn(2, 8)
    with torch.no_grad():
        before = compiled(x)
        frames = counter.frame_count
        hotswap_adapter(model, tmp_path)
        assert not torch.equal(compiled(x), before)
        torch.testing.assert_close(compiled(x), other(x))
    assert counter.frame_count == frames > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 3}, r"r=3 differs from 4.*load_adapter"),
        ({"mos_alpha": 8}, "mos_alpha=8 differs from 16"),
        ({"target_modules": ["q_proj"]}, r"only one of this file and the loaded adapter 'default' has a tensor"),
        ({"num_shards": 2}, "num_shards=2 differs from 4"),
    ],
)
def test_different_adapters_are_refused_unchanged(changes, message, other, llama, mos_config):
    folder, _ = other(**changes)
    model = get_peft_model(llama(), mos_config())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        hotswap_adapter(model, folder)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("saved_in_full", [{}, {"modules_to_save": ["lm_head"]}])
def test_modules_saved_in_full_are_not_left_behind(saved_in_full, other, llama, mos_config):
    folder, _ = other(modules_to_save=["lm_head"])
    model = get_peft_model(llama(), mos_config(**saved_in_full))
    with pytest.raises(ValueError, match=r"'lm_head.*is saved in full.*load_adapter"):
        hotswap_adapter(model, folder)


def test_a_merged_adapter_is_not_replaced(other, llama, mos_config):
    folder, _ = other()
    model = get_peft_model(llama(), mos_config())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.merge_adapter()
    with pytest.raises(ValueError, match=r"is merged into the weight of 'model\.layers.*unmerge_adapter"):
        hotswap_adapter(model, folder)
    model.unmerge_adapter()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_an_adapter_of_another_type_is_refused(llama, mos_config, tmp_path):
    get_peft_model(llama(), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="peft_type='LORA' must be 'MOS'"):
        hotswap_adapter(get_peft_model(llama(), mos_config()), tmp_path)


def test_needs_an_adapter_to_overwrite(other, llama, mos_config):
    folder, _ = other()
    with pytest.raises(ValueError, match="adapter_name='default' is not a MoS adapter"):
        hotswap_adapter(llama(), folder)
    with pytest.raises(ValueError, match="adapter_name='nope'"):
        hotswap_adapter(get_peft_model(llama(), mos_config()), folder, "nope")
