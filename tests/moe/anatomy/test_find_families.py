"""Every mixture-of-experts family of the installed transformers is read as it routes, or refused by name.

Letters: T tokens, H hidden, E experts, C classes of the selection, K chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from moe_families import MOE_FAMILIES, build_tiny_moe
from torch import Tensor, nn

from hf_mixture._compat.recorders import recorded_classes
from hf_mixture.moe.anatomy import MoeRouter, UnsupportedRouterError, find_routers


# Families whose experts cannot be read, and the class that the error names.
REFUSED = {"doge": "DogeCDMoE"}
READABLE = [family for family in MOE_FAMILIES if family not in REFUSED]

# Routers that transformers does not record, though they route.
UNRECORDED = {"DeepseekV4HashRouter", "Dots3NoteVisionTopKRouter"}
# Families whose outputs have no place for the recorded logits.
NOT_RETURNED = {"diffusion_gemma", "openai_privacy_filter", "qwen3_omni_moe_talker"}

# Router classes without an explicit rule: the reasons are in the router.
WITHOUT_RULE = {
    "DeepseekV4HashRouter",
    "InklingTopkRouter",
    "NllbMoeTop2Router",
    "PhimoeTopKRouter",
    "SwitchTransformersTop1Router",
}

# Router classes that fix K themselves; all others are built with K = 3.
FIXED_TOP_K = {"PhimoeTopKRouter": 2, "SwitchTransformersTop1Router": 1, "NllbMoeTop2Router": 2, "ZayaRouter": 1}

# Settings that take another branch of a router than the defaults of its family.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("axk2", {"n_group": None, "topk_group": None}),
    ("cohere2_moe", {"expert_selection_fn": "sigmoid", "norm_topk_prob": True}),
    ("cohere2_moe", {"expert_selection_fn": "sigmoid", "norm_topk_prob": False}),
    ("deepseek_ocr2", {"topk_method": "group_limited_greedy"}),
    ("deepseek_v2", {"topk_method": "group_limited_greedy"}),
    ("deepseek_v3", {"norm_topk_prob": False, "n_group": 1, "topk_group": 1}),
    ("deepseek_v4", {"scoring_func": "sigmoid"}),
    ("flint", {"norm_topk_prob": False}),
    ("inkling2_text", {"scoring_func": "sqrtsoftplus"}),
    ("kolibri1", {"norm_topk_prob": True}),
    ("laguna", {"moe_router_logit_softcapping": 0.5}),
    ("lfm2_moe", {"use_expert_bias": False}),
    ("lfm2_moe", {"norm_topk_prob": False}),
    ("mistral4", {"norm_topk_prob": False}),
    ("olmoe", {"norm_topk_prob": True}),
    ("qwen3_moe", {"norm_topk_prob": True}),
    ("unlimited_ocr", {"topk_method": "group_limited_greedy"}),
]


def tiny(family: str, **overrides: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """A model with 12 experts of which 3 are chosen, where the family leaves that free."""
    sizes = {"num_experts": 12} if family == "zaya" else {"num_experts": 12, "top_k": 3}
    built = build_tiny_moe(family, **sizes, **overrides)
    return built.model, built.inputs


@pytest.fixture(scope="module", params=READABLE)
def readable(request) -> tuple[str, nn.Module, dict[str, Tensor]]:
    """The name, the model and the inputs of a family; the tests change nothing but biases."""
    return request.param, *tiny(request.param)


def dense(weights: Tensor, indices: Tensor, num_choices: int) -> Tensor:
    """Weights [T, K] as a matrix [T, C] that does not depend on the order; the index C is dropped."""
    matrix = weights.new_zeros(len(weights), num_choices + 1)
    return matrix.scatter(-1, indices, weights)[:, :num_choices]


@contextmanager
def recorded_calls(modules: list[nn.Module]) -> Iterator[dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any], Any]]]:
    """The arguments and the output of the last call of each module."""
    calls: dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any], Any]] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls[module] = args, kwargs, output

    handles = [module.register_forward_hook(keep, with_kwargs=True) for module in modules]
    yield calls
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("family", REFUSED)
def test_an_unreadable_family_is_refused_by_name(family):
    with pytest.raises(UnsupportedRouterError, match=REFUSED[family]):
        find_routers(tiny(family)[0])


def test_every_recorded_router_is_found_with_its_counts(readable):
    family, model, inputs = readable
    routers = find_routers(model)
    classes = recorded_classes(model, "router_logits")
    recorded = [module for module in model.modules() if isinstance(module, classes)]
    found = {router.module for router in routers}
    # JetMoE and Ernie VL record, besides or instead, the module around a router.
    assert all(found & set(module.modules()) for module in recorded)
    inside = {part for module in recorded for part in module.modules()}
    assert {type(router).__name__ for router in found - inside} <= UNRECORDED

    for router in routers:
        name = type(router.module).__name__
        if name != "Dots3NoteVisionTopKRouter":
            assert router.num_experts == 12
            assert router.top_k == FIXED_TOP_K.get(name, 3)
        assert model.get_submodule(router.path) is router.module
        assert router.layer is not None
        assert (router.rule is None) == (name in WITHOUT_RULE)
        assert router.rule is not None or router.reason
    assert [router.ordinal for router in routers] == list(range(len(routers)))

    with recorded_calls([router.module for router in routers]) as calls, torch.no_grad():
        outputs = model(**inputs, output_router_logits=True)
    returned = [part.flatten(0, -2) for key in outputs if "router_logits" in key for part in outputs[key]]
    assert bool(returned) == (family not in NOT_RETURNED)
    logits = [router.read(calls[router.module][2]).logits for router in routers if router.module in calls]
    assert all(any(torch.equal(part, own) for own in logits) for part in returned)
    unmatched = [own for own in logits if not any(torch.equal(part, own) for part in returned)]
    assert family in NOT_RETURNED or len(unmatched) == sum(
        type(router.module).__name__ in UNRECORDED and router.module in calls for router in routers
    )


def received(router: MoeRouter, hidden: Tensor, args: tuple[Any, ...]) -> Tensor:
    """The weights [T, C] in the arguments of the experts of a router, itself called with the hidden states [T, H]."""
    if router.layout == "dense_scores":
        # Llama4 runs every expert on the hidden states times the weight.
        products = args[0].unflatten(0, (router.num_experts, -1)) * hidden
        return products.sum(-1).T / hidden.square().sum(-1, keepdim=True)
    if router.layout == "one_hot":
        return args[1].squeeze(1) * args[2]
    if router.layout == "combine":
        return args[2]
    return dense(args[2], args[1], router.num_choices)


def test_the_reading_is_what_the_experts_are_called_with(readable):
    family, model, inputs = readable
    routers = find_routers(model)
    experts = [router.experts for router in routers if router.experts is not None]
    with recorded_calls([router.module for router in routers] + experts) as calls, torch.no_grad():
        model(**inputs)
    assert any(router.module in calls for router in routers)
    for router in routers:
        if router.module not in calls:
            # Text has no vision tokens, so that the experts of vision tokens are not called.
            assert "vision" in router.path
            continue
        reading = router.read(calls[router.module][2])
        num_tokens = len(reading.logits)
        assert reading.logits.shape == (num_tokens, router.num_choices)
        assert reading.weights.shape == reading.indices.shape == (num_tokens, router.top_k)
        assert reading.indices.min() >= 0
        assert reading.indices.max() <= router.num_choices
        assert len(reading.indices.unique()) > router.top_k, f"{router.path} sends all tokens to the same experts"
        if router.experts is None:
            assert family == "jetmoe"
            continue
        weights = dense(reading.weights, reading.indices, router.num_choices)
        torch.testing.assert_close(
            weights, received(router, calls[router.module][0][0], calls[router.experts][0]), atol=1e-6, rtol=0
        )


def reroute_random_states(router: MoeRouter, args: tuple[Any, ...], kwargs: dict[str, Any], num_tokens: int) -> Any:
    """What a router says about random hidden states, under a random bias."""
    hidden = 3 * torch.randn(*(1,) * (args[0].dim() - 2), num_tokens, args[0].shape[-1])
    if router.bias is not None:
        router.bias.tensor.data.normal_(std=0.1)
    # A bias that the block hands over stays; states of the last router, as of Zaya, are left out.
    others = [arg if isinstance(arg, Tensor) and arg.dim() == 1 else None for arg in args[1:]]
    assert not kwargs or set(kwargs) == {"router_states"}
    return router.module(hidden, *others)


def check_rules(model: nn.Module, inputs: dict[str, Tensor]) -> None:
    """Compare the rules of the routers of a model with the routers."""
    routers = [router for router in find_routers(model) if router.rule is not None]
    torch.manual_seed(1)
    with recorded_calls([router.module for router in routers]) as calls, torch.no_grad():
        model(**inputs)
    compared = [router for router in routers if router.module in calls]
    assert len(compared) >= 2
    for router in compared:
        args, kwargs, _ = calls[router.module]
        with torch.no_grad():
            output = reroute_random_states(router, args, kwargs, num_tokens=256)
        if router.layout == "logits_only":
            weights, indices = router.block.route_tokens_to_experts(output)
        else:
            _, weights, indices = router.read(output)
        selected = router.select(router.read(output).logits)
        if router.rewritable:
            selected = router.read(router.replace(output, weights=selected.weights, indices=selected.indices))
        assert len(indices.unique()) > router.top_k
        assert torch.equal(selected.indices.sort().values, indices.sort().values)
        torch.testing.assert_close(
            dense(selected.weights, selected.indices, router.num_choices),
            dense(weights, indices, router.num_choices),
            atol=1e-6,
            rtol=0,
        )


def test_the_rule_routes_as_the_router(readable):
    _, model, inputs = readable
    if {type(router.module).__name__ for router in find_routers(model)} - WITHOUT_RULE:
        check_rules(model, inputs)
    else:
        pytest.skip("no router of the family has a rule")


@pytest.mark.parametrize(("family", "overrides"), VARIANTS)
def test_the_rule_follows_the_settings(family, overrides):
    check_rules(*tiny(family, **overrides))


def test_transformers_runs_two_experts_of_nllb_whatever_its_router_chooses():
    """The block of transformers 5.23 hands the one-hot mask of the router to its experts as if it held indices.

    The reading of these routers is thus what the router decides, and not what is computed; this test fails when
    transformers repairs the block.
    """
    model, inputs = tiny("nllb-moe")
    router = find_routers(model)[0]
    experts = dict(router.experts.named_children())
    with recorded_calls([router.module, *experts.values()]) as calls, torch.no_grad():
        model(**inputs)
    assert len(router.read(calls[router.module][2]).indices.unique()) > 2
    assert {name for name, expert in experts.items() if expert in calls} == {"expert_0", "expert_1"}
