"""Routers of the registry in saved models: stock `save_pretrained` and `from_pretrained`."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from moe_families import build_tiny_moe
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3MoeForCausalLM, Qwen3MoeModel
from transformers.distributed import DistributedConfig

from hf_mixture.moe.anatomy import UnsupportedRouterError, find_routers
from hf_mixture.moe.router_loading import register_router_loading
from hf_mixture.moe.routers import RegistryRouter, replace_routers


OPTIONS = {
    "cosine": {"projection_dim": 8, "temperature": 0.3},
    "gaussian": {},
    "hash": {"seed": 5},
    "noisy_topk": {},
    "relu": {"max_experts": 3},
    "sigmoid_bias": {"num_groups": 4, "num_kept_groups": 2},
    "sinkhorn": {},
    "student_t": {"degrees": 3.0},
    "switch": {"capacity_factor": 1.0},
    "top_p": {"threshold": 0.5},
    "topk_softmax": {},
}


@pytest.fixture(autouse=True)
def loading():
    register_router_loading()


def replaced(name, family="qwen3_moe", **options):
    """A model with replaced routers, all of whose new tensors have values of their own."""
    tiny = build_tiny_moe(family)
    replace_routers(tiny.model, name, **{**OPTIONS[name], **options})
    torch.manual_seed(1)
    with torch.no_grad():
        for router in find_routers(tiny.model):
            for tensor in (*router.module.parameters(), *router.module.buffers()):
                tensor.add_(torch.randn_like(tensor) * 0.1)
    return tiny


def logits_of(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize("name", OPTIONS)
def test_a_saved_model_is_loaded_with_its_routers(name, tmp_path):
    tiny = replaced(name)
    tiny.model.save_pretrained(tmp_path)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert loaded.config.moe_router == tiny.model.config.moe_router
    assert list(loaded.state_dict()) == list(tiny.model.state_dict())
    assert torch.equal(logits_of(loaded, tiny.inputs), logits_of(tiny.model, tiny.inputs))
    assert isinstance(find_routers(loaded)[0].module, RegistryRouter)
    recorded = loaded(**tiny.inputs, output_router_logits=True).router_logits
    assert len(recorded) == len(find_routers(loaded))


def test_the_configuration_says_everything(tmp_path):
    replaced("cosine").model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())["moe_router"]
    options = {"projection_dim": 8, "temperature": 0.3, "normalise": True}
    assert written == {"format": 1, "name": "cosine", "options": options}


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "granitemoe", "gpt_oss", "minimax_m2", "qwen3_vl_moe"])
def test_other_families_reload_as_well(family, tmp_path):
    """Mixtral and DeepSeek rename their gates in files; MiniMax keeps a bias in the block; one is composite."""
    tiny = replaced("sigmoid_bias", family, num_groups=None, num_kept_groups=None)
    tiny.model.save_pretrained(tmp_path)
    loaded, report = type(tiny.model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    tensors = loaded.state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in tiny.model.state_dict().items())
    # Sums of stock models also depend on where in memory a file is mapped.
    torch.testing.assert_close(logits_of(loaded, tiny.inputs), logits_of(tiny.model, tiny.inputs), rtol=0, atol=1e-5)


def test_a_model_made_from_the_configuration_has_the_routers_and_draws_them():
    config = copy.deepcopy(replaced("sigmoid_bias").model.config)
    for model in (Qwen3MoeForCausalLM(config), AutoModelForCausalLM.from_config(config), Qwen3MoeModel(config)):
        router = find_routers(model)[0].module
        assert isinstance(router, RegistryRouter)
        assert 0.5 < float(router.weight.detach().std()) / config.initializer_range < 2
        assert not router.e_score_correction_bias.any()


def test_a_stock_checkpoint_under_a_configuration_with_a_router_draws_what_is_missing(tmp_path):
    stock = build_tiny_moe("qwen3_moe")
    stock.model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    config.moe_router = {"format": 1, "name": "noisy_topk", "options": {}}
    loaded, report = Qwen3MoeForCausalLM.from_pretrained(tmp_path, config=config, output_loading_info=True)
    assert {name.rpartition(".")[2] for name in report["missing_keys"]} == {"noise_weight"}
    router = find_routers(loaded)[0].module
    assert torch.equal(router.weight, find_routers(stock.model)[0].weight)
    assert not router.noise_weight.any()
    replace_routers(stock.model, "noisy_topk")
    assert torch.equal(logits_of(loaded, stock.inputs), logits_of(stock.model, stock.inputs))


def test_half_precision_leaves_the_selection_bias_in_float32(tmp_path):
    tiny = replaced("sigmoid_bias")
    tiny.model.save_pretrained(tmp_path)
    before = find_routers(tiny.model)[0].module.e_score_correction_bias
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    router = find_routers(loaded)[0].module
    assert router.weight.dtype == torch.bfloat16
    assert torch.equal(router.e_score_correction_bias, before)


@pytest.mark.parametrize("device_map", ["cpu", {"model": "cpu", "lm_head": "cpu"}, "offloaded"])
def test_device_maps(device_map, tmp_path):
    tiny = replaced("cosine")
    tiny.model.save_pretrained(tmp_path)
    arguments = {"device_map": device_map}
    if device_map == "offloaded":
        places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
        layers = {f"model.layers.{i}": "disk" if i else "cpu" for i in range(tiny.model.config.num_hidden_layers)}
        arguments = {"device_map": {**places, **layers}, "offload_folder": str(tmp_path / "offload")}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, **arguments)
    assert torch.equal(logits_of(loaded, tiny.inputs), logits_of(tiny.model, tiny.inputs))
    if device_map == "offloaded":
        with pytest.raises(ValueError, match="no storage"):
            replace_routers(loaded, "switch")


def test_shards(tmp_path):
    tiny = replaced("cosine")
    tiny.model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits_of(loaded, tiny.inputs), logits_of(tiny.model, tiny.inputs))


def test_models_without_the_key_are_built_as_ever():
    config = build_tiny_moe("qwen3_moe").model.config
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(config)
    assert not any(isinstance(module, RegistryRouter) for module in model.modules())
    assert "moe_router" not in config.to_dict()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cosine", "must be {'format': 1"),
        ({"name": "cosine", "options": {}}, "must be {'format': 1"),
        ({"format": 2, "name": "cosine", "options": {}}, "has format 2, and this version of hf_mixture reads 1"),
        ({"format": 1, "name": "cosign", "options": {}}, "did you mean 'cosine'"),
        ({"format": 1, "name": "cosine", "options": {"heat": 1}}, "'heat' is not an option"),
        ({"format": 1, "name": "cosine", "options": {"temperature": -1}}, "temperature=-1"),
    ],
)
def test_a_configuration_that_cannot_be_honoured_is_refused(spec, message):
    config = copy.deepcopy(build_tiny_moe("qwen3_moe").model.config)
    config.moe_router = spec
    with pytest.raises(ValueError, match=message):
        Qwen3MoeForCausalLM(config)


def test_a_family_without_the_contract_refuses_the_key():
    config = copy.deepcopy(build_tiny_moe("llama4_text").model.config)
    config.moe_router = {"format": 1, "name": "cosine", "options": {}}
    with pytest.raises(UnsupportedRouterError, match="dense_scores"):
        AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("implementation", ["all_to_all", "auto", "fssdp", "folded", "capacity"])
def test_expert_parallelism_that_sends_every_choice_to_an_expert_is_refused(implementation):
    """It would take the index E, no expert, for one, in the middle of its collectives."""
    config = copy.deepcopy(build_tiny_moe("qwen3_moe").model.config)
    config.distributed_config = DistributedConfig(ep_size=2, fsdp_size=2, ep_implementation=implementation)
    config.moe_router = {"format": 1, "name": "top_p", "options": {}}
    with pytest.raises(UnsupportedRouterError, match=f"'top_p' gives some tokens .*{implementation}.*'all_reduce'"):
        Qwen3MoeForCausalLM(config)
    config.moe_router = {"format": 1, "name": "cosine", "options": {}}
    Qwen3MoeForCausalLM(config)


def test_removed_routers_leave_nothing_in_a_saved_model(tmp_path):
    tiny = build_tiny_moe("qwen3_moe")
    before = logits_of(tiny.model, tiny.inputs)
    with replace_routers(tiny.model, "cosine"):
        pass
    tiny.model.save_pretrained(tmp_path)
    assert "moe_router" not in (tmp_path / "config.json").read_text()
    assert torch.equal(logits_of(AutoModelForCausalLM.from_pretrained(tmp_path), tiny.inputs), before)
