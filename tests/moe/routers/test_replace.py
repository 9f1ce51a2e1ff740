"""Replacing the routers of whole models."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from moe_families import MOE_FAMILIES, build_tiny_moe
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hf_mixture.moe.anatomy import UnsupportedRouterError, find_routers
from hf_mixture.moe.routers import LinearRouter, RegistryRouter, register_router, registry, replace_routers
from hf_mixture.moe.routers.topk import route_topk_softmax


# What the entries need beside their defaults, and families whose blocks ask more of a router than the contract.
CAUSAL = [
    "cosine",
    "gaussian",
    "hash",
    "noisy_topk",
    "relu",
    "sigmoid_bias",
    "sinkhorn",
    "student_t",
    "switch",
    "top_p",
    "topk_softmax",
]
QUICK = ("deepseek_v3", "gpt_oss", "minimax_m2", "mixtral", "nemotron_h", "phimoe", "qwen3_vl_moe", "step3p7")
NO_EAGER_PADDING = {"gpt_oss", "nemotron_h", "openai_privacy_filter"}
UNSUPPORTED = {
    "afmoe": "a module inside it",
    "dbrx": "logits_only",
    "deepseek_v4": "passes input_ids",
    "diffusion_gemma": "a module inside it",
    "doge": "cannot be read",
    "gemma4": "a module inside it",
    "gemma4_text": "a module inside it",
    "hunyuan_v1_moe": "a module inside it",
    "inkling_mm_model": "rows for",
    "inkling_text": "rows for",
    "jetmoe": "grouped",
    "llama4": "dense_scores",
    "llama4_text": "dense_scores",
    "longcat_flash": "no experts",
    "nllb-moe": "combine",
    "switch_transformers": "one_hot",
    "zaya": "skip_class",
}


@pytest.fixture
def qwen():
    return build_tiny_moe("qwen3_moe")


def logits_of(tiny):
    with torch.no_grad():
        return tiny.model(**tiny.inputs)[0]


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "olmoe", "granitemoe", "gpt_oss"])
def test_topk_softmax_in_the_place_of_the_stock_router_changes_nothing(family):
    tiny = build_tiny_moe(family)
    stock = tiny.model(**tiny.inputs, labels=tiny.inputs["input_ids"], output_router_logits=True)
    report = replace_routers(tiny.model, "topk_softmax")
    assert report.new == ()
    ours = tiny.model(**tiny.inputs, labels=tiny.inputs["input_ids"], output_router_logits=True)
    assert torch.equal(ours.logits, stock.logits)
    assert torch.equal(ours.aux_loss, stock.aux_loss)
    assert ours.aux_loss > 0
    assert torch.equal(ours.loss, stock.loss)
    assert len(ours.router_logits) == len(stock.router_logits) > 1


@pytest.mark.parametrize("family", ["qwen3_moe", "olmoe", "granitemoe", "gpt_oss"])
def test_nor_does_it_in_half_precision(family):
    tiny = build_tiny_moe(family)
    tiny.model.to(torch.bfloat16)
    before = logits_of(tiny)
    replace_routers(tiny.model, "topk_softmax")
    assert torch.equal(logits_of(tiny), before)


def test_sigmoid_bias_in_the_place_of_the_deepseek_router_changes_nothing():
    tiny = build_tiny_moe("deepseek_v3")
    before = logits_of(tiny)
    report = replace_routers(tiny.model, "sigmoid_bias")
    assert report.options["num_groups"] > 1
    assert set(report.kept) == {"weight", "e_score_correction_bias"}
    assert torch.equal(logits_of(tiny), before)
    report.remove()
    with replace_routers(tiny.model, "sigmoid_bias", num_groups=None, num_kept_groups=None):
        assert not torch.equal(logits_of(tiny), before)


@pytest.mark.parametrize("name", CAUSAL)
def test_every_router_records_raw_logits_trains_copies_and_can_be_taken_out(name, qwen):
    model = qwen.model
    before, keys = logits_of(qwen), list(model.state_dict())
    replaced = replace_routers(model, name)
    assert str(replaced).startswith(f"{len(find_routers(model))} routers are now {name}(")
    # Copies before anything is recorded: transformers records with functions that pickle does not take.
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301 - its own bytes
        assert torch.equal(twin(**qwen.inputs).logits, logits_of(qwen))
    assert name == "topk_softmax" or not torch.equal(logits_of(qwen), before) or name == "sinkhorn"
    out = model(**qwen.inputs, labels=qwen.inputs["input_ids"], output_router_logits=True)
    assert len(out.router_logits) == model.config.num_hidden_layers
    for recorded, router in zip(out.router_logits, find_routers(model), strict=True):
        assert recorded.shape == (18, router.num_experts)
        probabilities = bool((recorded >= 0).all()) and torch.allclose(recorded.sum(-1), torch.ones(18))
        assert not probabilities
        assert isinstance(router.module, RegistryRouter)
    model.train()
    model(**qwen.inputs, labels=qwen.inputs["input_ids"], output_router_logits=True).loss.backward()
    for parameter in (p for router in find_routers(model) for p in router.module.parameters()):
        assert parameter.grad is not None
        assert bool(parameter.grad.isfinite().all())
    grads = [p.grad.abs().max() for router in find_routers(model) for p in router.module.parameters()]
    assert all(grad > 0 for grad in grads)
    model.eval()
    replaced.remove()
    assert torch.equal(logits_of(qwen), before)
    assert list(model.state_dict()) == keys
    assert not hasattr(model.config, "moe_router")


@pytest.mark.parametrize("family", ["qwen3_moe", "minimax_m2"])
def test_two_replacements_are_undone_in_turn(family):
    tiny = build_tiny_moe(family)
    before = logits_of(tiny)
    first = replace_routers(tiny.model, "cosine")
    middle, spec = logits_of(tiny), tiny.model.config.moe_router
    second = replace_routers(tiny.model, "top_p")
    with pytest.raises(ValueError, match="replaced again"):
        first.remove()
    second.remove()
    assert torch.equal(logits_of(tiny), middle)
    assert tiny.model.config.moe_router == spec
    first.remove()
    assert torch.equal(logits_of(tiny), before)


def test_a_model_spread_over_devices_keeps_moving_its_tensors(qwen):
    from accelerate import dispatch_model

    dispatch_model(qwen.model, {"": "cpu"}, force_hooks=True)
    before = logits_of(qwen)
    with replace_routers(qwen.model, "cosine"):
        router = find_routers(qwen.model)[0].module
        assert "_hf_hook" in vars(router)
        assert bool(logits_of(qwen).isfinite().all())
    assert torch.equal(logits_of(qwen), before)


def test_the_gate_is_kept_across_replacements_unless_told_not_to(qwen):
    stock = find_routers(qwen.model)[0].weight.clone()
    replace_routers(qwen.model, "switch")
    replace_routers(qwen.model, "noisy_topk")
    assert torch.equal(find_routers(qwen.model)[0].module.weight, stock)
    report = replace_routers(qwen.model, "noisy_topk", keep_weights=False)
    assert report.kept == ()
    assert not torch.equal(find_routers(qwen.model)[0].module.weight, stock)


def test_a_bias_of_the_logits_is_kept_across_replacements():
    tiny = build_tiny_moe("gpt_oss")
    tiny.model.set_experts_implementation("grouped_mm")
    before = logits_of(tiny)
    stock = find_routers(tiny.model)[0].module.bias.clone()
    for name in ("top_p", "topk_softmax"):
        report = replace_routers(tiny.model, name, **({"pre_softmax": False} if name == "topk_softmax" else {}))
        assert report.kept == ("weight", "bias")
        (router, *_) = find_routers(tiny.model)
        assert torch.equal(router.module.bias, stock)
    assert router.rule.bias_on == "logits"
    assert torch.equal(logits_of(tiny), before)


def test_what_is_no_gate_is_not_kept_as_one(qwen):
    """The expert embeddings of the cosine router may have the shape of a gate."""
    replace_routers(qwen.model, "cosine", projection_dim=qwen.model.config.hidden_size)
    embeddings = find_routers(qwen.model)[0].module.weight
    report = replace_routers(qwen.model, "switch")
    assert find_routers(qwen.model)[0].module.weight.shape == embeddings.shape
    assert report.kept == ()


def test_a_frozen_gate_stays_frozen(qwen):
    qwen.model.requires_grad_(False)
    replace_routers(qwen.model, "noisy_topk")
    router = find_routers(qwen.model)[0].module
    assert not router.weight.requires_grad
    assert router.noise_weight.requires_grad


def test_hooks_of_the_old_router_run_on_the_new_one(qwen):
    seen = []
    handle = find_routers(qwen.model)[0].module.register_forward_hook(lambda *_: seen.append(1))
    qwen.model(**qwen.inputs, output_router_logits=True)  # transformers places its own hooks now
    replace_routers(qwen.model, "cosine")
    out = qwen.model(**qwen.inputs, output_router_logits=True)
    assert len(out.router_logits) == qwen.model.config.num_hidden_layers
    assert len(seen) == 2
    handle.remove()
    logits_of(qwen)
    assert len(seen) == 2


def test_another_model_of_the_class_is_not_touched(qwen):
    other = build_tiny_moe("qwen3_moe")
    before = logits_of(other)
    replace_routers(qwen.model, "cosine")
    assert torch.equal(logits_of(other), before)
    assert not hasattr(other.model.config, "moe_router")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("topk_sofmax", {}, "did you mean 'topk_softmax'"),
        ("cosine", {"temprature": 1.0}, "did you mean 'temperature'"),
        ("cosine", {"temperature": 0.0}, "temperature=0.0 must be a number at least 0.01"),
        ("cosine", {"projection_dim": 1.5}, "projection_dim=1.5 must be an integer"),
        ("top_p", {"threshold": 1.5}, "threshold=1.5 must be a number above 0 and at most 1"),
        ("top_p", {"max_experts": 99}, "max_experts=99 must be an integer from 1 to"),
        ("relu", {"max_experts": 0}, "max_experts=0 must be an integer from 1"),
        ("switch", {"capacity_factor": -1}, "capacity_factor=-1 must be a number above 0"),
        ("switch", {"jitter": True}, "jitter=True must be a number"),
        ("sinkhorn", {"tolerance": float("nan")}, "tolerance=nan must be"),
        ("hash", {"kind": "sha"}, "kind='sha' must be 'random' or 'modulo'"),
        ("hash", {"seed": -1}, "seed=-1 must be an integer from 0"),
        ("student_t", {"degrees": 0}, "degrees=0 must be a number above 0"),
        ("sigmoid_bias", {"num_groups": 2}, "belong together"),
        ("sigmoid_bias", {"num_groups": 3, "num_kept_groups": 1}, "must divide"),
        ("sigmoid_bias", {"num_groups": 8, "num_kept_groups": 1}, "one expert a group"),
        ("sigmoid_bias", {"num_groups": 4, "num_kept_groups": 0}, "num_kept_groups=0 must be an integer from 1 to 4"),
        ("sigmoid_bias", {"num_groups": 8, "num_kept_groups": 1, "group_score": "max"}, "a token takes 2"),
        ("sigmoid_bias", {"num_groups": 4, "num_kept_groups": 2, "group_score": "sum"}, "group_score='sum'"),
        ("topk_softmax", {"scale": torch.tensor(1.0)}, "scale"),
    ],
)
def test_bad_input_changes_nothing(name, options, message, qwen):
    modules = dict(qwen.model.named_modules())
    with pytest.raises(ValueError, match=message):
        replace_routers(qwen.model, name, **options)
    assert dict(qwen.model.named_modules()) == modules
    assert not hasattr(qwen.model.config, "moe_router")


@pytest.fixture
def looks_ahead(monkeypatch):
    monkeypatch.setattr(registry, "_ROUTERS", dict(registry._ROUTERS))

    @register_router("looks_ahead", causal=False, paper="https://example.org", summary="Sees all tokens.")
    class LooksAhead(LinearRouter):
        def route(self, hidden):
            return route_topk_softmax(self.logits(hidden) - self.logits(hidden).mean(0), self.top_k)

    return "looks_ahead"


def test_a_router_that_looks_ahead_needs_force_in_a_causal_model(looks_ahead, qwen):
    with pytest.raises(ValueError, match="force=True"):
        replace_routers(qwen.model, looks_ahead)
    assert not isinstance(find_routers(qwen.model)[0].module, RegistryRouter)
    replace_routers(qwen.model, looks_ahead, force=True)
    replace_routers(build_tiny_moe("openai_privacy_filter").model, looks_ahead)


def test_a_model_without_storage_or_with_wrapped_routers_is_refused(qwen):
    with torch.device("meta"):
        empty = type(qwen.model)(qwen.model.config)
    with pytest.raises(ValueError, match="no storage"):
        replace_routers(empty, "cosine")
    router = find_routers(qwen.model)[0]

    class Wrapper(nn.Module):
        def __init__(self, base_layer):
            super().__init__()
            self.base_layer = base_layer

        def forward(self, hidden):
            return self.base_layer(hidden)

    router.block.gate = Wrapper(router.module)
    with pytest.raises(ValueError, match="is wrapped"):
        replace_routers(qwen.model, "cosine")


def test_a_model_inside_ddp_is_refused(qwen, tmp_path):
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path}/rendezvous")
    try:
        with pytest.raises(ValueError, match="replace before wrapping"):
            replace_routers(DistributedDataParallel(qwen.model), "cosine")
    finally:
        torch.distributed.destroy_process_group()
    assert not hasattr(qwen.model.config, "moe_router")


@pytest.mark.parametrize("family", ["qwen3_moe", "minimax_m2", "deepseek_v3"])
def test_the_anatomy_reads_what_the_new_router_computes(family):
    """The selection bias is that of the new router, not one of the family, and only a linear gate counts as a gate."""
    tiny = build_tiny_moe(family)
    replaced = replace_routers(tiny.model, "sigmoid_bias")
    for router in find_routers(tiny.model):
        router.module.e_score_correction_bias.copy_(torch.randn(router.num_experts))
        assert router.bias.tensor is router.module.e_score_correction_bias
        hidden = torch.randn(32, tiny.model.config.hidden_size)
        logits, weights, indices = router.read(router.module(hidden))
        again = router.select(logits)
        assert torch.equal(again.indices, indices)
        torch.testing.assert_close(again.weights, weights)
    replaced.remove()
    for name, is_gate in (("topk_softmax", True), ("cosine", False)):
        with replace_routers(tiny.model, name):
            for router in find_routers(tiny.model):
                assert router.bias is None
                assert (router.weight is not None) is is_gate


def test_a_model_without_routers_is_refused():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    with pytest.raises(UnsupportedRouterError, match="no router"):
        replace_routers(LlamaForCausalLM(config), "cosine")


@pytest.mark.parametrize(
    "family",
    [
        family if family in {*UNSUPPORTED, *QUICK} else pytest.param(family, marks=pytest.mark.slow)
        for family in MOE_FAMILIES
    ],
)
def test_every_family_takes_routers_of_the_registry_or_says_why_not(family):
    tiny = build_tiny_moe(family)
    if family in UNSUPPORTED:
        modules = dict(tiny.model.named_modules())
        with pytest.raises(UnsupportedRouterError, match=UNSUPPORTED[family]):
            replace_routers(tiny.model, "top_p")
        assert dict(tiny.model.named_modules()) == modules
        return
    if family == "step3p7":
        with pytest.raises(UnsupportedRouterError, match="experts interface"):
            replace_routers(tiny.model, "top_p")
        replace_routers(tiny.model, "topk_softmax")
        assert bool(logits_of(tiny).isfinite().all())
        return
    padded = {}
    for implementation in ("eager", "batched_mm", "grouped_mm"):
        tiny.model.set_experts_implementation(implementation)
        before = logits_of(tiny)
        if implementation == "eager" and family in NO_EAGER_PADDING:
            with pytest.raises(UnsupportedRouterError, match="set_experts_implementation"):
                replace_routers(tiny.model, "top_p")
            continue
        with replace_routers(tiny.model, "top_p", threshold=0.3):
            padded[implementation] = logits_of(tiny)
            assert bool(padded[implementation].isfinite().all())
            assert not torch.equal(padded[implementation], before)
        assert torch.equal(logits_of(tiny), before)
    for other in padded.values():
        torch.testing.assert_close(other, padded["grouped_mm"], rtol=1e-4, atol=1e-5)
