"""What PEFT promises of every adapter method, on a plain model, a decoder and a decoder with `Conv1D` layers."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from peft import (
    PeftModel,
    convert_to_lora,
    get_peft_model,
    prepare_model_for_kbit_training,
    set_peft_model_state_dict,
)
from torch import nn
from transformers import AutoModelForCausalLM

from hf_mixture import MosConfig
from hf_mixture.adapters.mos.bank import find_bank
from hf_mixture.adapters.mos.layer import MosLayer


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin0 = nn.Linear(10, 20)
        self.lin1 = nn.Linear(20, 20)
        self.head = nn.Linear(20, 2)

    def forward(self, x):
        x = x.to(self.lin0.weight.dtype)
        return self.head(torch.relu(self.lin1(torch.relu(self.lin0(x)))))


class Case:
    """One base model with a configuration that fits it."""

    def __init__(self, load, inputs, **settings):
        self.load, self.inputs = load, inputs
        self.settings = {"r": 2, "equivalent_rank": 2, "private_rank": 1, "num_shards": 2, "init_weights": False}
        self.settings |= settings

    def config(self, **changes) -> MosConfig:
        return MosConfig(**{**self.settings, **changes})

    def build(self, **changes) -> PeftModel:
        torch.manual_seed(0)
        return get_peft_model(self.load(), self.config(**changes)).eval()

    def run(self, model) -> torch.Tensor:
        output = model(self.inputs)
        return getattr(output, "logits", output)


@pytest.fixture(params=["mlp", "llama", "gpt2"])
def case(request, llama_folder, gpt2_folder, tokens):
    def load_mlp():
        torch.manual_seed(0)
        return Mlp()

    if request.param == "mlp":
        return Case(load_mlp, torch.randn(4, 10), target_modules=["lin0", "lin1"])
    folder = {"llama": llama_folder, "gpt2": gpt2_folder}[request.param]
    return Case(
        lambda: AutoModelForCausalLM.from_pretrained(folder),
        tokens,
        task_type="CAUSAL_LM",
        fan_in_fan_out=request.param == "gpt2",
    )


@pytest.fixture
def decoder(llama_folder, tokens):
    return Case(lambda: AutoModelForCausalLM.from_pretrained(llama_folder), tokens, task_type="CAUSAL_LM")


def layers_of(model) -> list[MosLayer]:
    return [module for module in model.modules() if isinstance(module, MosLayer)]


def test_adapter_names_are_part_of_the_keys_in_the_model_only(case, tmp_path):
    torch.manual_seed(0)
    model = get_peft_model(case.load(), case.config(), adapter_name="my-adapter")
    assert any(".my-adapter." in name for name, _ in model.named_parameters())
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(case.load(), tmp_path / "my-adapter").eval()
    assert torch.equal(case.run(loaded), case.run(model.eval()))


def test_selected_adapters_are_saved_in_their_folders(case, tmp_path):
    model = case.build()
    model.add_adapter("a", case.config(index_seed=1))
    model.add_adapter("b", case.config(index_seed=2))
    model.save_pretrained(tmp_path, selected_adapters=["default", "b"])
    assert (tmp_path / "adapter_config.json").is_file()
    assert (tmp_path / "b" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "a").exists()
    loaded = PeftModel.from_pretrained(case.load(), tmp_path).eval()
    loaded.load_adapter(tmp_path / "b", "b")
    for name in ("default", "b"):
        model.set_adapter(name)
        loaded.set_adapter(name)
        assert torch.equal(case.run(loaded), case.run(model))


def test_names_that_contain_one_another_do_not_mix(case, tmp_path):
    model = case.build()
    for name in ("adapter", "adapter_2", "my_adapter"):
        model.add_adapter(name, case.config(index_seed=len(name)))
    model.save_pretrained(tmp_path)
    for name in ("adapter", "adapter_2", "my_adapter"):
        model.set_adapter(name)
        loaded = PeftModel.from_pretrained(case.load(), tmp_path / name, adapter_name=name).eval()
        assert torch.equal(case.run(loaded), case.run(model))


def test_names_inside_the_prefix_are_warned_about(case):
    model = case.build()
    with pytest.warns(UserWarning, match="should not be contained in the prefix"):
        model.add_adapter("s_", case.config())


def test_a_given_configuration_is_used_for_loading(case, tmp_path):
    case.build().save_pretrained(tmp_path)
    config = MosConfig.from_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(case.load(), tmp_path, config=config)
    assert loaded.peft_config["default"] is config


def test_merging_twice_is_merging_once(case):
    model = case.build()
    model.merge_adapter()
    once = case.run(model)
    with pytest.warns(UserWarning, match="already merged"):
        model.merge_adapter()
    assert torch.equal(case.run(model), once)


def test_merging_in_turn_equals_merging_at_once(case):
    model = case.build()
    model.add_adapter("other", case.config(index_seed=1))
    unmerged = case.run(model)
    model.base_model.set_adapter(["default", "other"])
    both = case.run(model)
    model.base_model.merge_adapter(["default"])
    with pytest.warns(UserWarning, match="additionally merging other"):
        model.base_model.merge_adapter(["other"])
    torch.testing.assert_close(case.run(model), both, rtol=1e-4, atol=1e-5)
    model.unmerge_adapter()
    model.set_adapter("default")
    assert torch.equal(case.run(model), unmerged)


def test_setting_an_adapter_unmerges(case):
    model = case.build()
    expected = case.run(model)
    model.merge_adapter()
    with pytest.warns(UserWarning, match="Unmerging the model first"):
        model.set_adapter("default")
    assert torch.equal(case.run(model), expected)


def test_one_adapter_of_several_is_merged_and_unloaded(case):
    model = case.build()
    model.add_adapter("other", case.config(index_seed=1))
    model.set_adapter("other")
    expected = case.run(model)
    merged = model.merge_and_unload(adapter_names=["other"])
    torch.testing.assert_close(case.run(merged.eval()), expected, rtol=1e-4, atol=1e-5)
    assert merged.state_dict().keys() == case.load().state_dict().keys()
    assert not hasattr(merged, "peft_config")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*Already found a `peft_config`.*")
        get_peft_model(merged, case.config())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_base_models_run_merge_and_unmerge(dtype, autocast, case):
    model = get_peft_model(case.load().to(dtype), case.config(), autocast_adapter_dtype=autocast).eval()
    assert {pool.dtype for pool in find_bank(model)[1].parameters()} == {torch.float32 if autocast else dtype}
    expected = case.run(model)
    assert expected.dtype == dtype
    assert expected.isfinite().all()
    model.merge_adapter(safe_merge=True)
    assert case.run(model).isfinite().all()
    model.unmerge_adapter()
    assert torch.equal(case.run(model), expected)
    assert case.run(model.merge_and_unload()).isfinite().all()


def test_training_changes_the_pools_and_nothing_else(case):
    model = case.build().train()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        case.run(model).float().pow(2).mean().backward()
        assert all(
            (parameter.grad is not None) == ("mos_bank" in name) for name, parameter in model.named_parameters()
        )
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == ("mos_bank" not in name)


def test_deleting_the_active_adapter_activates_another(case):
    model = case.build()
    expected = case.run(model)
    model.add_adapter("other", case.config(index_seed=1))
    model.set_adapter("other")
    with pytest.warns(UserWarning, match="was active which is now deleted"):
        model.delete_adapter("other")
    assert model.active_adapters == ["default"]
    assert torch.equal(case.run(model), expected)
    assert all(pool.requires_grad for pool in find_bank(model)[1].parameters())
    with pytest.raises(ValueError, match="other does not exist"):
        model.delete_adapter("other")


def test_deleting_an_adapter_leaves_nothing_of_it(case):
    model = case.build()
    case_layers = layers_of(model)
    model.base_model.cache_factors()
    with torch.no_grad():
        case.run(model)
    held = [
        attribute
        for layer in case_layers
        for name in dir(layer)
        if not name.startswith("_") and hasattr(attribute := getattr(layer, name), "keys") and "default" in attribute
    ]
    assert len(held) > 5 * len(case_layers)
    model.delete_adapter("default")
    assert not any("default" in attribute for attribute in held)
    assert not any("default" in name for name in model.state_dict())


def test_a_merged_adapter_cannot_be_deleted(case):
    model = case.build()
    model.merge_adapter()
    with pytest.raises(ValueError, match="while they are merged"):
        model.delete_adapter("default")
    model.unmerge_adapter()
    model.delete_adapter("default")


def test_adapters_on_different_modules_switch(case):
    first, second = sorted(case.build().base_model.targeted_module_names)[:2]
    settings = {"r": 2, "equivalent_rank": 2, "private_rank": 2}
    model = case.build(target_modules=[first], **settings)
    model.add_adapter("other", case.config(target_modules=[second], **settings))
    bank = find_bank(model)[1]
    for name in ("other", "default"):
        model.set_adapter(name)
        assert {n.split(".")[0] for n, pool in bank.named_parameters() if pool.requires_grad} == {name}
    alone = case.run(model)
    model.set_adapter("other")
    assert not torch.equal(case.run(model), alone)


def test_disabling_inside_a_context_restores_the_state(case):
    expected = case.run(case.load().eval())
    model = case.build()
    model.base_model.disable_adapter_layers()
    with model.disable_adapter():
        pass
    assert torch.equal(case.run(model), expected)
    model.base_model.enable_adapter_layers()
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(case.run(model), expected)


@pytest.mark.parametrize("is_trainable", [True, False])
def test_loaded_adapters_train_only_if_asked_to(is_trainable, case, tmp_path):
    case.build().save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(case.load(), tmp_path, is_trainable=is_trainable)
    assert {pool.requires_grad for pool in find_bank(model)[1].parameters()} == {is_trainable}
    model.load_adapter(tmp_path, "second", is_trainable=is_trainable)
    second = find_bank(model)[1]["second"]
    assert {pool.requires_grad for pool in second.parameters()} == {is_trainable}
    model.set_adapter("second", inference_mode=True)
    assert not any(pool.requires_grad for pool in find_bank(model)[1].parameters())
    model.set_adapter("second")
    assert all(pool.requires_grad for pool in second.parameters())


def test_peft_can_convert_to_lora_as_well(case):
    model = case.build()
    assert model.supports_lora_conversion()
    expected = case.run(model)
    lora_config, state_dict = convert_to_lora(model, rank=2)
    lora = get_peft_model(case.load(), lora_config).eval()
    set_peft_model_state_dict(lora, state_dict)
    torch.testing.assert_close(case.run(lora), expected, rtol=1e-3, atol=1e-4)


def test_layers_show_their_features_weight_and_method(case):
    for layer in layers_of(case.build()):
        assert layer.weight is layer.get_base_layer().weight
        assert {layer.in_features, layer.out_features} == set(layer.weight.shape)
        assert re.match(r"mos\.Linear\(", repr(layer))


def test_input_embeddings_follow_kbit_preparation(decoder):
    base = prepare_model_for_kbit_training(decoder.load())
    assert not any(parameter.requires_grad for parameter in base.parameters())
    model = get_peft_model(base, decoder.config())
    model.enable_input_require_grads()
    embedded = model.get_input_embeddings()(decoder.inputs)
    assert embedded.requires_grad
    assert model(inputs_embeds=embedded).logits.requires_grad


def test_generates(decoder):
    model = decoder.build()
    by_name = model.generate(input_ids=decoder.inputs, max_new_tokens=3, do_sample=False)
    assert torch.equal(model.generate(decoder.inputs, max_new_tokens=3, do_sample=False), by_name)
    merged = model.merge_and_unload()
    assert torch.equal(merged.generate(decoder.inputs, max_new_tokens=3, do_sample=False), by_name)


def test_the_card_names_the_library(decoder, tmp_path):
    decoder.build().save_pretrained(tmp_path)
    assert "library_name: peft" in (tmp_path / "README.md").read_text()
