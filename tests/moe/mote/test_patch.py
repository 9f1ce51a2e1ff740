"""The patch of a live model: refused before anything changes, undone without a trace, and in the way of nothing."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import disk_offload, dispatch_model
from moe_families import build_tiny_moe
from mote_runs import draw_edits, observe_run
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache

from hf_mixture._compat.caches import CACHE_NAME, returned_cache
from hf_mixture.moe.anatomy import UnsupportedRouterError, find_routers
from hf_mixture.moe.mote.edit import ExpertEdit
from hf_mixture.moe.mote.edits import ExpertEdits
from hf_mixture.moe.mote.patch import tune_experts, untune_experts


GATES = [f"model.layers.{layer}.mlp.gate" for layer in range(4)]


def edits_of(*edits: tuple[Any, ...], **fields: Any) -> ExpertEdits:
    return ExpertEdits([ExpertEdit(*edit) for edit in edits], **fields)


OFF = edits_of(*((gate, expert, "off") for gate in GATES for expert in (0, 3, 6)))


def logits_of(tiny: Any, **more: Any) -> torch.Tensor:
    with torch.no_grad():
        return tiny.model(**tiny.inputs, **more).logits


def traces(model: nn.Module) -> list[Any]:
    """All that a patch could leave on the modules."""
    return [
        (
            name,
            list(module._forward_hooks.values()),
            list(module._forward_pre_hooks.values()),
            module.__dict__.get("forward"),
            sorted(vars(module)),
        )
        for name, module in model.named_modules()
    ]


@pytest.fixture
def qwen() -> Any:
    return build_tiny_moe("qwen3_moe")


def signed_for(family: str, **overrides: Any) -> ExpertEdits:
    """Edits of the first expert of the routers of another model."""
    other = build_tiny_moe(family, **overrides).model
    path = find_routers(other)[0].path
    return edits_of((path, 0, "off")).signed(other)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: signed_for("mixtral"), {}, "are for model_type='mixtral', the model is 'qwen3_moe'"),
        (
            lambda: signed_for("qwen3_moe", num_experts=12),
            {},
            "for a model with num_experts=12 at .* has num_experts=8;",
        ),
        (lambda: signed_for("qwen3_moe", top_k=3), {}, "for a model with top_k=3 at .* has top_k=2;"),
        (
            lambda: signed_for("qwen3_moe", num_hidden_layers=5),
            {},
            r"num_experts=8 at model\.layers\.4.* has no router;",
        ),
        (lambda: signed_for("qwen3_moe", seed=1), {}, "are for other router weights .*check_fingerprint=False"),
        (lambda: edits_of((GATES[0], 0, "off"), (GATES[1], 8, "off")), {}, "expert=8 .* has the experts 0 to 7"),
        (lambda: edits_of(("model.layers.9.mlp.gate", 0, "off")), {}, r"no router .*nearest .* 'model\.layers\.\d"),
        (lambda: edits_of(("model.layers.1.mlp.gate", 0, "off", None, 2)), {}, "lies in layer 1; correct one"),
        (lambda: edits_of(*((GATES[2], e, "off") for e in range(7))), {}, "leaves 1 of 8, and a token goes to 2"),
        (lambda: edits_of(*((GATES[2], e, "on") for e in range(3))), {}, "3 experts .* are forced on, .*cap_forced"),
        (lambda: edits_of((GATES[0], 0, "on")), {"intercept": True}, "force_weight='max' needs the explicit rule"),
    ],
)
def test_edits_that_do_not_suit_the_model_leave_it_alone(
    make: Callable[[], ExpertEdits], options: dict[str, Any], message: str, qwen: Any
) -> None:
    before, logits = traces(qwen.model), logits_of(qwen)
    with pytest.raises(ValueError, match=message):
        tune_experts(qwen.model, make(), **options)
    assert traces(qwen.model) == before
    assert torch.equal(logits_of(qwen), logits)


@pytest.mark.parametrize(
    ("family", "edits", "message"),
    [
        # One live expert in three of the four groups: the one group that can be relied on has not K experts.
        ("deepseek_v3", [(GATES[1], e, "off") for e in (0, 2, 4, 7, 6)], "may leave 0 enabled experts in the 2 best"),
        ("doge", [], "DogeCDMoE .* product keys"),
        (
            "phimoe",
            [("model.layers.0.mlp.router", 0, "on")],
            "PhimoeTopKRouter .*op='on' needs an explicit rule; use op='off'",
        ),
        ("phimoe", [("model.layers.0.mlp.router", 0, "bias", 1.0)], "op='bias' needs an explicit rule"),
        ("inkling_text", [("model.layers.1.mlp.gate", 0, "on")], "op='on' needs an explicit rule"),
    ],
)
def test_families_and_groups_that_do_not_allow_them(family: str, edits: list[Any], message: str) -> None:
    model = build_tiny_moe(family).model
    before = traces(model)
    with pytest.raises(ValueError, match=message):
        tune_experts(model, edits_of(*edits, force_weight="own"))
    assert traces(model) == before


def test_a_dense_model_and_other_things_are_refused(qwen: Any) -> None:
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    with pytest.raises(UnsupportedRouterError, match="LlamaForCausalLM has no router"):
        tune_experts(LlamaForCausalLM(config), OFF)
    with pytest.raises(TypeError, match="edits is a list; it must be ExpertEdits"):
        tune_experts(qwen.model, list(OFF.edits))
    compiled = torch.compile(qwen.model, backend="eager")
    with pytest.raises(ValueError, match=r"is compiled, .* before torch\.compile"):
        tune_experts(compiled, OFF)
    # As `use_kernels=True` leaves a model; setting it needs the package kernels.
    qwen.model._use_kernels = True
    with pytest.raises(ValueError, match="has use_kernels=True"):
        tune_experts(qwen.model, OFF)


def test_the_fingerprint_can_be_waived_and_holds_across_types(qwen: Any) -> None:
    other = signed_for("qwen3_moe", seed=1)
    with tune_experts(qwen.model, other, check_fingerprint=False):
        assert not (observe_run(qwen.model, qwen.inputs)[1][GATES[0]].indices == 0).any()
    own = OFF.signed(qwen.model)
    with tune_experts(qwen.model, own):
        # Signed again while it is patched, and in another type.
        assert OFF.signed(qwen.model) == own
    with tune_experts(qwen.model.to(torch.bfloat16), own):
        pass


def test_more_forced_experts_than_a_token_takes(qwen: Any) -> None:
    edits = edits_of(*((GATES[1], e, "on") for e in (5, 1, 7)), (GATES[1], 0, "off"))
    with tune_experts(qwen.model, edits, cap_forced=True):
        indices = observe_run(qwen.model, qwen.inputs)[1][GATES[1]].indices
    assert torch.equal(indices.sort(-1).values, torch.tensor([1, 5]).expand_as(indices))


def test_nothing_is_left_of_a_patch(qwen: Any) -> None:
    before, logits, keys = traces(qwen.model), logits_of(qwen), list(qwen.model.state_dict())
    handle = tune_experts(qwen.model, OFF)
    assert not torch.equal(logits_of(qwen), logits)
    assert list(qwen.model.state_dict()) == keys
    handle.remove()
    handle.remove()
    untune_experts(qwen.model)
    assert traces(qwen.model) == before
    assert torch.equal(logits_of(qwen), logits)
    with pytest.raises(RuntimeError, match="inside"), tune_experts(qwen.model, OFF):
        raise RuntimeError("inside")
    assert traces(qwen.model) == before


def test_two_patches_do_not_stack_and_another_set_takes_the_place(qwen: Any) -> None:
    stock = logits_of(qwen)
    with tune_experts(qwen.model, OFF) as handle:
        first = logits_of(qwen)
        with pytest.raises(ValueError, match="tuned already"):
            tune_experts(qwen.model, OFF)
        for bad in (edits_of((GATES[0], 99, "off")), edits_of((GATES[0], 0, "off"), model_type="other")):
            if bad.model_type is None:
                with pytest.raises(ValueError, match="out of range"):
                    handle.set(bad)
        assert handle.edits == OFF
        assert torch.equal(logits_of(qwen), first)
        handle.set(edits_of((GATES[2], 1, "scale", 3.0)))
        second = logits_of(qwen)
        handle.set(OFF)
        torch.testing.assert_close(logits_of(qwen), first, rtol=0, atol=1e-5)
    with tune_experts(qwen.model, edits_of((GATES[2], 1, "scale", 3.0))):
        torch.testing.assert_close(logits_of(qwen), second, rtol=0, atol=1e-5)
    assert not torch.allclose(first, second, atol=1e-3)
    assert not torch.allclose(stock, second, atol=1e-3)


def test_other_models_of_the_class_and_copies(qwen: Any) -> None:
    other = build_tiny_moe("qwen3_moe")
    stock = logits_of(other)
    with tune_experts(qwen.model, OFF) as handle:
        edited = logits_of(qwen)
        assert torch.equal(logits_of(other), stock)
        twins = [copy.deepcopy(qwen.model), pickle.loads(pickle.dumps(qwen.model))]  # noqa: S301 - its own bytes
        handle.set(edits_of((GATES[0], 1, "off")))
    for twin in twins:
        with torch.no_grad():
            assert torch.equal(twin(**qwen.inputs).logits, edited)
        untune_experts(twin)
        with torch.no_grad():
            assert torch.equal(twin(**qwen.inputs).logits, stock)


@pytest.mark.parametrize("family", ["qwen3_moe", "minimax_m2", "dbrx", "phimoe"])
def test_a_copy_keeps_its_patch_when_the_original_moves_on(family: str) -> None:
    """Routers with a bias in their block, blocks that choose, and intercepted routers."""
    tiny = build_tiny_moe(family)
    stock = logits_of(tiny)
    with tune_experts(tiny.model, draw_edits(find_routers(tiny.model), np.random.default_rng(0), ops=["off"])):
        edited = logits_of(tiny)
        twin = copy.deepcopy(tiny.model)
    assert torch.equal(logits_of(tiny), stock)
    with torch.no_grad():
        for parameter in tiny.model.parameters():
            parameter.zero_()
        for router in find_routers(tiny.model):
            if router.bias is not None:
                router.bias.tensor.zero_()
        assert torch.equal(twin(**tiny.inputs).logits, edited)
        untune_experts(twin)
        assert torch.equal(twin(**tiny.inputs).logits, stock)


def test_a_patched_model_is_saved_without_its_patch(qwen: Any, tmp_path: Any) -> None:
    stock = logits_of(qwen)
    with tune_experts(qwen.model, OFF):
        qwen.model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**qwen.inputs).logits, stock, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["reroute", "logit_mask", "zero", "zero_renorm"])
def test_recorded_logits_and_the_auxiliary_loss_of_the_first_layer_stay(mode: Any, qwen: Any) -> None:
    """Later layers see other hidden states; the logits of the first edited router are those of the stock model."""
    last = edits_of((GATES[3], 0, "off"), (GATES[3], 5, "off"), mode=mode)
    labels = {"labels": qwen.inputs["input_ids"], "output_router_logits": True}
    with torch.no_grad():
        stock = qwen.model(**qwen.inputs, **labels)
        with tune_experts(qwen.model, last):
            edited = qwen.model(**qwen.inputs, **labels)
    assert not torch.equal(edited.logits, stock.logits)
    assert torch.equal(edited.aux_loss, stock.aux_loss)
    for ours, theirs in zip(edited.router_logits, stock.router_logits, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.isfinite().all()


def test_routers_train_through_a_patch(qwen: Any) -> None:
    qwen.model.train()
    with tune_experts(qwen.model, edits_of((GATES[1], 0, "off"), (GATES[1], 3, "bias", 0.2))):
        qwen.model(**qwen.inputs, labels=qwen.inputs["input_ids"]).loss.backward()
    gradient = find_routers(qwen.model)[1].weight.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
    assert qwen.model.model.layers[1].mlp.experts.down_proj.grad[0].abs().max() == 0


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("order", ["dispatch first", "patch first"])
def test_hooks_of_accelerate_stay_in_force(order: str, intercept: bool, qwen: Any) -> None:
    """`dispatch_model` replaces the forward of modules too; the patch works inside and outside of it."""
    with tune_experts(qwen.model, OFF):
        expected = logits_of(qwen)
    stock = logits_of(qwen)
    if order == "dispatch first":
        dispatch_model(qwen.model, {"": "cpu"}, force_hooks=True)
    handle = tune_experts(qwen.model, OFF, intercept=intercept)
    if order == "patch first":
        dispatch_model(qwen.model, {"": "cpu"}, force_hooks=True)
    torch.testing.assert_close(logits_of(qwen), expected, rtol=0, atol=1e-5)
    handle.remove()
    assert torch.equal(logits_of(qwen), stock)
    assert hasattr(qwen.model.model.layers[0].mlp.gate, "_hf_hook")


def test_masks_follow_the_router_to_its_device(qwen: Any) -> None:
    qwen.model.set_experts_implementation("batched_mm")
    with tune_experts(qwen.model, OFF), torch.device("meta"):
        out = qwen.model.to("meta")(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits
    assert out.is_meta


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "gpt_oss", "minimax_m2"])
def test_generation_with_and_without_a_cache(family: str) -> None:
    tiny = build_tiny_moe(family)
    prompt = {name: tensor[:1] for name, tensor in tiny.inputs.items()}
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    stock = tiny.model.generate(**prompt, **options)
    routers = find_routers(tiny.model)
    edits = draw_edits(routers, np.random.default_rng(3), ops=["off"])
    off = {path: [edit.expert for edit in own] for path, own in edits.by_module().items()}
    chosen: dict[str, list[torch.Tensor]] = {router.path: [] for router in routers}
    with tune_experts(tiny.model, edits):
        handles = [
            handle
            for router in routers
            for handle in router.observe(lambda output, path=router.path: chosen[path].append(output.indices))
        ]
        cached, plain = (tiny.model.generate(**prompt, **options, use_cache=cache) for cache in (True, False))
        for handle in handles:
            handle.remove()
    assert torch.equal(cached, plain)
    assert cached.shape == (1, 17)
    assert not torch.equal(cached, stock)
    for path, experts in off.items():
        assert len(chosen[path]) == 16
        assert not torch.isin(torch.cat(chosen[path]), torch.tensor(experts)).any()
    assert torch.equal(tiny.model.generate(**prompt, **options), stock)


@pytest.mark.parametrize("name", sorted({"past_key_values", CACHE_NAME}))
def test_a_cache_of_other_edits_is_refused_and_a_new_one_is_not(qwen: Any, name: str) -> None:
    """Keys and values of the stock model must not be continued under edits, nor the other way of two edits."""
    first, second = qwen.inputs["input_ids"][:1, :5], qwen.inputs["input_ids"][:1, 5:]

    def fill(cache: Any = None) -> Any:
        with torch.no_grad():
            return returned_cache(qwen.model(input_ids=first, use_cache=True, **{name: cache}))

    def go_on(cache: Any) -> torch.Tensor:
        with torch.no_grad():
            return qwen.model(input_ids=second, use_cache=True, **{name: copy.deepcopy(cache)}).logits

    stock = fill()
    with tune_experts(qwen.model, OFF) as handle:
        with pytest.raises(ValueError, match=f"{CACHE_NAME} was filled under other expert edits"):
            go_on(stock)
        for own in (fill(), fill(DynamicCache(config=qwen.model.config))):
            continued = go_on(own)
            with torch.no_grad():
                whole = qwen.model(input_ids=torch.cat([first, second], 1)).logits[:, 5:]
            torch.testing.assert_close(continued, whole, rtol=1e-5, atol=1e-5)
        handle.set(edits_of((GATES[0], 1, "off")))
        with pytest.raises(ValueError, match="start with an empty cache"):
            go_on(own)
        go_on(fill())
    go_on(stock)


def test_a_cache_that_was_emptied_is_a_new_one(qwen: Any) -> None:
    static = StaticCache(config=qwen.model.config, max_cache_len=16)
    dynamic = DynamicCache(config=qwen.model.config)
    with tune_experts(qwen.model, OFF) as handle, torch.no_grad():
        for cache in (static, dynamic):
            qwen.model(**qwen.inputs, past_key_values=cache)
            handle.set(edits_of((GATES[0], 1, "off")))
            with pytest.raises(ValueError, match="start with an empty cache"):
                qwen.model(**qwen.inputs, past_key_values=cache)
            cache.reset()
            logits = qwen.model(**qwen.inputs, past_key_values=cache).logits
            torch.testing.assert_close(logits, logits_of(qwen), rtol=0, atol=1e-5)


def test_a_cache_of_other_edits_is_refused_inside_an_adapter_too(qwen: Any) -> None:
    """`generate` of PEFT calls the model that it wraps."""
    ids = qwen.inputs["input_ids"][:1]
    wrapped = get_peft_model(qwen.model, LoraConfig(target_modules=["q_proj"]))
    stock = wrapped(input_ids=ids[:, :5], use_cache=True).past_key_values
    with tune_experts(wrapped, OFF), pytest.raises(ValueError, match="filled under other expert edits"):
        wrapped.generate(input_ids=ids, past_key_values=stock, max_new_tokens=2, pad_token_id=0)


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "laguna", "gemma4_text"])
def test_edits_of_offloaded_models(family: str, tmp_path: Path) -> None:
    """Weights and biases of offloaded routers have no storage but while the forward of their module runs."""
    tiny = build_tiny_moe(family)
    edits = draw_edits(find_routers(tiny.model), np.random.default_rng(3), ops=["off", "scale"]).signed(tiny.model)
    with tune_experts(tiny.model, edits):
        expected = logits_of(tiny)
    disk_offload(tiny.model, str(tmp_path), offload_buffers=True, execution_device="cpu")
    assert find_routers(tiny.model)[-1].weight.is_meta
    with tune_experts(tiny.model, edits):
        torch.testing.assert_close(logits_of(tiny), expected, rtol=0, atol=1e-5)


def test_a_model_without_values_has_no_fingerprint(qwen: Any) -> None:
    edits = OFF.signed(qwen.model)
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.gate\.weight has no values .*load its weights"):
        tune_experts(qwen.model.to("meta"), edits)


class Counter:
    """A compiler that counts the graphs it is given."""

    def __init__(self) -> None:
        self.num_graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.num_graphs += 1
        return graph.forward


@pytest.mark.parametrize(
    ("family", "ops"),
    [
        ("qwen3_moe", ["off"]),
        ("deepseek_v3", ["off", "on", "bias"]),
        pytest.param("qwen3_moe", ["off", "on", "bias"], marks=pytest.mark.slow),
        pytest.param("deepseek_v3", ["off"], marks=pytest.mark.slow),
    ],
)
def test_one_compiled_graph_for_ten_changes_of_the_masks(family: str, ops: list[str]) -> None:
    tiny = build_tiny_moe(family)
    tiny.model.set_experts_implementation("batched_mm")
    inputs = {"input_ids": tiny.inputs["input_ids"]}
    routers, rng = find_routers(tiny.model), np.random.default_rng(0)
    torch._dynamo.reset()
    counter = Counter()
    handle = tune_experts(tiny.model, draw_edits(routers, rng, ops=ops), all_routers=True)
    compiled = torch.compile(tiny.model, backend=counter, fullgraph=True)
    outputs = []
    with torch.no_grad():
        for _ in range(10):
            handle.set(draw_edits(routers, rng, ops=ops))
            outputs.append(compiled(**inputs).logits)
            torch.testing.assert_close(outputs[-1], tiny.model(**inputs).logits, rtol=1e-5, atol=1e-5)
    assert counter.num_graphs == 1
    assert all(not torch.allclose(a, b, atol=1e-4) for a, b in itertools.pairwise(outputs))
    handle.remove()
    torch._dynamo.reset()
