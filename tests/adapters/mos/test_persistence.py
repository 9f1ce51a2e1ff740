from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from adapters_of_transformers import needs_adapter_methods
from peft import (
    AutoPeftModelForCausalLM,
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hf_mixture import MosConfig
from hf_mixture.adapters.mos.bank import find_bank
from hf_mixture.adapters.mos.checkpoint import check_before_loading, check_folder
from hf_mixture.adapters.mos.layer import MosLayer


WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def _loading_is_silent():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(missing adapter keys|not initialized|UNEXPECTED).*")
        yield


@pytest.fixture(scope="module")
def saved(llama_folder, tmp_path_factory):
    """A saved adapter with the logits of its model."""
    torch.manual_seed(0)
    config = MosConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(llama_folder), config).eval()
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    tokens = torch.arange(3, 17).view(2, 7)
    return folder, tokens, model(tokens).logits


def load_into_transformers(base, folder, **kwargs):
    base.load_adapter(str(folder), **kwargs)
    return base


ROUTES = {
    "PeftModel": lambda base, folder: PeftModel.from_pretrained(base(), folder),
    "PeftModel, other name": lambda base, folder: PeftModel.from_pretrained(base(), folder, adapter_name="other"),
    "PeftModel, low memory": lambda base, folder: PeftModel.from_pretrained(base(), folder, low_cpu_mem_usage=True),
    "AutoPeftModel": lambda base, folder: AutoPeftModelForCausalLM.from_pretrained(folder),
    "AutoModel": lambda base, folder: AutoModelForCausalLM.from_pretrained(folder),
    "load_adapter": lambda base, folder: load_into_transformers(base(), folder),
}


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_restores_the_model_frozen(route, saved, llama):
    folder, tokens, logits = saved
    model = ROUTES[route](llama, folder).eval()
    assert torch.equal(model(tokens).logits, logits)
    assert not any(parameter.requires_grad for parameter in find_bank(model)[1].parameters())
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_loads_trainable_when_asked(saved, llama):
    model = PeftModel.from_pretrained(llama(), saved[0], is_trainable=True)
    assert model.get_nb_trainable_parameters()[0] == sum(p.numel() for p in find_bank(model)[1].parameters())


def test_the_file_holds_each_pool_once(saved):
    folder, _, _ = saved
    tensors = load_file(folder / WEIGHTS)
    assert sum(".mos_bank." in key for key in tensors) == 14
    assert sum(key.endswith(".mos_index") for key in tensors) == 21
    payload = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert (folder / WEIGHTS).stat().st_size <= payload + 160 * len(tensors) + 1024


def test_file_size_of_a_32_layer_model(tmp_path):
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=16,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=32,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )
    model = get_peft_model(base, MosConfig(target_modules="all-linear"))
    model.save_pretrained(tmp_path)
    layers = [module for module in model.modules() if isinstance(module, MosLayer)]
    pools = 4 * 2 * sum(layer.in_features + layer.out_features for layer in layers)
    indices = sum(layer.mos_index["default"].nbytes for layer in layers)
    assert pools + indices < (tmp_path / WEIGHTS).stat().st_size <= pools + indices + 64_000


@needs_adapter_methods()
def test_transformers_adds_saves_loads_and_deletes_adapters(llama, mos_config, saved, tmp_path):
    folder, tokens, logits = saved
    model = llama()
    model.add_adapter(mos_config(), adapter_name="own")
    own = model(tokens).logits
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".safetensors") == [WEIGHTS]
    assert torch.equal(load_into_transformers(llama(), tmp_path)(tokens).logits, own)
    model.load_adapter(str(folder), adapter_name="saved")
    model.set_adapter("saved")
    assert torch.equal(model(tokens).logits, logits)
    model.set_adapter("own")
    assert torch.equal(model(tokens).logits, own)
    model.delete_adapter("saved")
    model.delete_adapter("own")
    assert not any("mos_" in name for name, _ in model.named_parameters())


def test_unsaved_indices_come_back_from_the_seed_on_every_route(llama, mos_config, tokens, tmp_path):
    model = get_peft_model(llama(), mos_config(save_indices=False, index_seed=5)).eval()
    logits = model(tokens).logits
    model.get_base_model().config._name_or_path = str(llama().config._name_or_path)
    model.save_pretrained(tmp_path)
    assert not any("mos_index" in key for key in load_file(tmp_path / WEIGHTS))
    for route in ROUTES.values():
        assert torch.equal(route(llama, tmp_path).eval()(tokens).logits, logits)


def test_state_dict_selects_the_modules(llama, mos_config, tokens):
    source = inject_adapter_in_model(mos_config(target_modules=["q_proj", "up_proj"]), llama())
    state = get_peft_model_state_dict(source)
    with pytest.warns(RuntimeWarning, match="additional target modules"):
        target = inject_adapter_in_model(mos_config(), llama(), state_dict=state)
    set_peft_model_state_dict(target, state)
    assert {name.rpartition(".")[2] for name, m in target.named_modules() if isinstance(m, MosLayer)} == {
        "q_proj",
        "up_proj",
    }
    assert torch.equal(target(tokens).logits, source(tokens).logits)


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_a_state_dict_without_indices_leaves_the_choice_to_the_configuration(prefix, llama, mos_config, tokens):
    config = mos_config(save_indices=False, target_modules=["q_proj"])
    source = inject_adapter_in_model(config, llama())
    state = {prefix + key: value for key, value in get_peft_model_state_dict(source).items()}
    target = inject_adapter_in_model(
        mos_config(save_indices=False, target_modules=["q_proj"]), llama(), state_dict=state
    )
    set_peft_model_state_dict(target, state)
    assert torch.equal(target(tokens).logits, source(tokens).logits)


def test_a_checkpoint_loads_into_an_adapter_in_training(llama, mos_config, tokens, saved):
    folder, tokens, logits = saved
    model = get_peft_model(llama(), MosConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    model.load_adapter(folder, "default", is_trainable=True)
    assert torch.equal(model.eval()(tokens).logits, logits)
    assert all(pool.requires_grad for pool in find_bank(model)[1].parameters())


def truncate(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def edit(change):
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return damage


def point_outside(tensors):
    next(tensor for key, tensor in tensors.items() if key.endswith("mos_index"))[0, 0] = 999


def point_below(tensors):
    next(tensor for key, tensor in tensors.items() if key.endswith("mos_index"))[1, 2] = -1


def shorten_pool(tensors):
    key = next(key for key in tensors if "mos_bank" in key)
    tensors[key] = tensors[key][:8].clone()


def drop_pool(tensors):
    del tensors["base_model.model.mos_bank.B_q_proj_64x64"]


def make_indices_real(tensors):
    key = next(key for key in tensors if key.endswith("mos_index"))
    tensors[key] = tensors[key].float()


def change_config(**changes):
    def damage(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


DAMAGES = {
    "truncated": (truncate, ["adapter_model.safetensors", "truncated or damaged", "copy or download it again"]),
    "index too large": (edit(point_outside), ["mos_index", "999", "[0, 24)", "intact copy"]),
    "index negative": (edit(point_below), ["mos_index", "-1", "[0, 24)"]),
    "index not an integer": (edit(make_indices_real), ["float32", "integers"]),
    "pool too short": (edit(shorten_pool), ["mos_bank", "(8, ", "(24, "]),
    "pool missing": (edit(drop_pool), ["'mos_bank.B_q_proj_64x64'", "Remedy"]),
    "another equivalent rank": (change_config(equivalent_rank=3), ["mos_bank", "(24, ", "(36, "]),
    "an infeasible rank": (change_config(r=40), ["r=40", "is too large"]),
}


@pytest.mark.parametrize("route", ["PeftModel", "AutoPeftModel", "AutoModel", "load_adapter"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused_before_the_model_changes(damage, route, saved, llama, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(saved[0], folder)
    change, parts = DAMAGES[damage]
    change(folder)
    base = llama()
    modules = [type(module) for module in base.modules()]
    flags = [parameter.requires_grad for parameter in base.parameters()]
    with pytest.raises(ValueError) as error:
        ROUTES[route](lambda: base, folder)
    assert all(part in str(error.value) for part in parts), error.value
    assert [type(module) for module in base.modules()] == modules
    assert [parameter.requires_grad for parameter in base.parameters()] == flags


@pytest.mark.parametrize("route", ["PeftModel", "load_adapter"])
@pytest.mark.parametrize(
    "changes", [{"num_hidden_layers": 4}, {"intermediate_size": 64}, {"hidden_size": 32, "head_dim": 8}]
)
def test_another_base_model_is_refused_before_it_changes(changes, route, saved, llama):
    base = LlamaForCausalLM(LlamaConfig(**{**llama().config.to_dict(), **changes}))
    modules = [type(module) for module in base.modules()]
    with pytest.raises(ValueError, match=r"base model.*Remedy: load the base model"):
        ROUTES[route](lambda: base, saved[0])
    assert [type(module) for module in base.modules()] == modules


@pytest.mark.parametrize("save_indices", [True, False])
def test_a_model_without_its_head_loads_the_adapter_as_well(save_indices, llama, mos_config, tokens, tmp_path):
    model = get_peft_model(llama(), mos_config(save_indices=save_indices)).eval()
    model.save_pretrained(tmp_path)
    expected = model(tokens, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(AutoModel.from_pretrained(tmp_path).eval()(tokens).last_hidden_state, expected)


def test_a_model_with_a_head_loads_an_adapter_made_without(llama_folder, mos_config, tokens, tmp_path):
    config = mos_config(task_type="FEATURE_EXTRACTION")
    model = get_peft_model(AutoModel.from_pretrained(llama_folder), config).eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    hidden = loaded(tokens, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(hidden, model(tokens).last_hidden_state)


def test_what_cannot_be_checked_before_is_checked_after_loading(llama, mos_config):
    model = get_peft_model(llama(), mos_config())
    model.base_model.model.model.layers[1].self_attn.q_proj.mos_index["default"][1, 2] = 999
    tensors = get_peft_model_state_dict(model)
    with pytest.raises(ValueError, match=r"layers\.1\.self_attn\.q_proj\.mos_index' has indices from 0 to 999"):
        llama().load_adapter(peft_config=mos_config(), adapter_state_dict=tensors)


def test_peft_which_does_not_reconcile_names_is_not_left_to_load_nothing(saved, llama_folder):
    with pytest.raises(ValueError, match="made for another base model"):
        PeftModel.from_pretrained(AutoModel.from_pretrained(llama_folder), saved[0])


@pytest.mark.parametrize(
    ("old", "new"), [('"r": 8', '"r": 8, "r": 8'), ('"lora_bias": false', '"lora_bias": Infinity')]
)
def test_adapters_of_other_types_are_read_by_their_own_rules(old, new, llama, tmp_path):
    get_peft_model(llama(), LoraConfig(r=8, target_modules=["q_proj"])).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))
    check_before_loading(tmp_path, llama())


@pytest.mark.parametrize(
    ("peft_type", "message"),
    [("null", "has no 'peft_type'"), ("[]", "has no 'peft_type'"), ('"MOR"', "peft_type='MOR' is no type of adapter")],
)
def test_a_folder_of_no_known_type_is_named(peft_type, message, saved, llama, tmp_path):
    shutil.copytree(saved[0], tmp_path / "damaged")
    path = tmp_path / "damaged" / "adapter_config.json"
    path.write_text(path.read_text().replace('"peft_type": "MOS"', f'"peft_type": {peft_type}'))
    with pytest.raises(ValueError, match=rf"adapter_config\.json.*{message}.*Remedy"):
        PeftModel.from_pretrained(llama(), tmp_path / "damaged")


def test_a_damaged_checkpoint_leaves_a_model_in_training_unchanged(saved, llama, tmp_path):
    shutil.copytree(saved[0], tmp_path / "damaged")
    model = PeftModel.from_pretrained(llama(), saved[0], is_trainable=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for change in (truncate, edit(point_outside)):
        shutil.copytree(saved[0], tmp_path / "damaged", dirs_exist_ok=True)
        change(tmp_path / "damaged")
        with pytest.raises(ValueError, match=r"Remedy|copy or download it again"):
            model.load_adapter(tmp_path / "damaged", "default", is_trainable=True)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    state = get_peft_model_state_dict(model)
    key = next(key for key in state if key.endswith("mos_index"))
    with pytest.raises(ValueError, match=r"adapter 'default': tensor .*mos_index' has indices from .* to 999"):
        set_peft_model_state_dict(model, {**state, key: torch.full_like(state[key], 999)})


def test_a_folder_can_be_checked_without_a_model(saved, tmp_path):
    check_folder(saved[0])
    shutil.copytree(saved[0], tmp_path / "damaged")
    edit(point_outside)(tmp_path / "damaged")
    with pytest.raises(ValueError, match="999"):
        check_folder(tmp_path / "damaged")


def test_bfloat16_base_keeps_float32_pools_exactly(llama, saved):
    folder, tokens, _ = saved
    stored = load_file(folder / WEIGHTS)
    for low_cpu_mem_usage in (False, True):
        model = PeftModel.from_pretrained(llama(dtype=torch.bfloat16), folder, low_cpu_mem_usage=low_cpu_mem_usage)
        for name, pool in find_bank(model)[1]["default"].items():
            assert torch.equal(pool, stored[f"base_model.model.mos_bank.{name}"])
        assert model(tokens).logits.dtype == torch.bfloat16
