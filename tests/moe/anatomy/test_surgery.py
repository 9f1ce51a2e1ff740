from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from moe_families import MOE_FAMILIES, build_tiny_moe

from hf_mixture.moe.anatomy import MoeRouter, UnsupportedRouterError, find_routers, select
from hf_mixture.moe.anatomy.surgery import keep_experts


# No stacked experts, a table of expert ids, or no readable router.
REFUSED = {
    "deepseek_v4": "is a table of expert ids",
    "doge": "cannot be read",
    "nllb-moe": "only expert_0 and expert_1 compute",
    "switch_transformers": "a module of its own for one expert",
}
# Two groups of four experts, so that a group can lose one and still has the two that rank it.
GROUPS = {"n_group": 2, "topk_group": 1}


def tiny(family: str, **overrides: Any) -> Any:
    moe = build_tiny_moe(family, **overrides)
    routers = _routers(moe.model)
    if any(router.rule is not None and router.rule.group is not None for router in routers):
        moe = build_tiny_moe(family, **GROUPS, **overrides)
    return moe


def _routers(model: Any) -> tuple[MoeRouter, ...]:
    try:
        return find_routers(model)
    except UnsupportedRouterError:
        return ()


def some(router: MoeRouter) -> list[int]:
    """The last three of every four experts: other ones than a cut at the end would leave."""
    return [expert for expert in range(router.num_experts) if expert % 4]


def every(paths: Sequence[str], experts: list[int]) -> dict[str, list[int]]:
    return dict.fromkeys(paths, experts)


def logits(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    # Diffusion models draw random tokens.
    torch.manual_seed(0)
    with torch.no_grad():
        result: torch.Tensor = model(**inputs).logits
    return result


def masked(model: Any, inputs: Mapping[str, Any], keep: Mapping[str, Sequence[int]]) -> torch.Tensor:
    """The logits of the whole model with the logits of all other experts at -inf: the oracle."""
    handles = []
    for router in find_routers(model):
        off = torch.ones(router.num_choices, dtype=torch.bool)
        off[keep[router.path]] = False
        off[router.num_experts :] = False

        def hook(_: Any, __: Any, output: Any, router: MoeRouter = router, off: torch.Tensor = off) -> Any:
            if router.layout == "logits_only":
                return output.masked_fill(off, float("-inf"))
            assert router.rule is not None
            seen = router.read(output).logits
            if router.rule.score == "softmax":
                seen = seen.masked_fill(off, float("-inf"))
            bias = router.bias.tensor if router.bias is not None and router.rule.bias_on == "scores" else None
            new = select(router.rule, seen, router.top_k, bias, expert_scale=router.expert_scale, off=off)
            return router.replace(output, weights=new.weights, indices=new.indices)

        handles.append(router.module.register_forward_hook(hook))
    result = logits(model, inputs)
    for handle in handles:
        handle.remove()
    return result


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_a_model_with_fewer_experts_routes_as_the_whole_one_without_them(family: str) -> None:
    if family in REFUSED:
        moe = build_tiny_moe(family)
        with pytest.raises(ValueError, match=REFUSED[family]):
            keep_experts(moe.model, {router.path: some(router) for router in find_routers(moe.model)})
        return
    moe = tiny(family)
    routers = find_routers(moe.model)
    keep = {router.path: some(router) for router in routers}
    before = logits(moe.model, moe.inputs)
    readable = all(router.rule is not None for router in routers)
    expected = masked(moe.model, moe.inputs, keep) if readable else None
    keep_experts(moe.model, keep)
    assert [router.num_experts for router in find_routers(moe.model)] == [len(experts) for experts in keep.values()]
    after = logits(moe.model, moe.inputs)
    assert not torch.allclose(after, before, atol=1e-3)
    if expected is not None:
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "longcat_flash", "deepseek_v3", "gemma4_text", "qwen2_moe"])
def test_it_loads_with_the_stock_from_pretrained(family: str, tmp_path: Any) -> None:
    moe = tiny(family)
    keep_experts(moe.model, {router.path: some(router) for router in find_routers(moe.model)})
    moe.model.save_pretrained(tmp_path)
    loaded, info = type(moe.model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    state = moe.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    torch.testing.assert_close(logits(loaded, moe.inputs), logits(moe.model, moe.inputs))


def test_reroute_with_the_weights_of_the_whole_model_is_the_same_where_they_are_renormalised() -> None:
    for family, same in (("mixtral", True), ("deepseek_v3", True), ("olmoe", False)):
        moe = tiny(family)
        router = find_routers(moe.model)[-1]
        raw = torch.randn(64, router.num_choices)
        off = torch.ones(router.num_choices, dtype=torch.bool)
        off[some(router)] = False
        rerouted = router.select(raw, off=off)
        keep_experts(moe.model, {router.path: some(router) for router in find_routers(moe.model)})
        pruned = find_routers(moe.model)[-1].select(raw[:, ~off])
        assert torch.equal(torch.tensor(some(router))[pruned.indices], rerouted.indices)
        assert torch.allclose(pruned.weights, rerouted.weights, atol=1e-6) == same


def test_a_new_order_changes_nothing() -> None:
    moe = build_tiny_moe("mixtral")
    before = logits(moe.model, moe.inputs)
    order = [3, 0, 7, 5, 1, 2, 6, 4]
    weight = find_routers(moe.model)[0].weight
    assert weight is not None
    first = weight[3].clone()
    keep_experts(moe.model, {router.path: order for router in find_routers(moe.model)})
    assert torch.equal(weight[0], first)
    torch.testing.assert_close(logits(moe.model, moe.inputs), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "overrides", "field"),
    [
        ("mixtral", {"num_experts_per_tok": 8}, "num_local_experts"),
        ("longcat_flash", {"zero_expert_num": 8}, "n_routed_experts"),
        ("dbrx", {}, None),
    ],
)
def test_the_number_of_experts_is_told_from_equal_numbers(
    family: str, overrides: dict[str, Any], field: str | None
) -> None:
    moe = build_tiny_moe(family, **overrides)
    for router in find_routers(moe.model):
        router.module.top_k = 2  # type: ignore[assignment]
    before = moe.model.config.to_dict()
    keep_experts(moe.model, {router.path: [0, 2, 5] for router in find_routers(moe.model)})
    changed = {name for name, value in moe.model.config.to_dict().items() if value != before[name]}
    assert changed == ({field} if field else {"ffn_config"})


MIXTRAL = [f"model.layers.{layer}.mlp.gate" for layer in range(4)]
V3 = [f"model.layers.{layer}.mlp.gate" for layer in range(1, 4)]


@pytest.mark.parametrize(
    ("family", "keep", "said"),
    [
        ("mixtral", {}, "keep is empty"),
        ("mixtral", {"model.layers.9.mlp.gate": [0, 1]}, "'model.layers.9.mlp.gate', which is no router"),
        ("mixtral", every(MIXTRAL, [0, 8]), "has expert 8; the experts are 0 to 7"),
        ("mixtral", every(MIXTRAL, [0, 1, 1]), "names an expert twice"),
        ("mixtral", every(MIXTRAL, [5]), "leaves 1 experts and a token takes 2"),
        ("mixtral", {**every(MIXTRAL, [0, 1, 2]), MIXTRAL[2]: [0, 1]}, "keep equally many"),
        ("mixtral", every(MIXTRAL[:3], [0, 1, 2]), "also counts the experts of 'model.layers.3.mlp.gate'"),
        ("deepseek_v3", every(V3, [0, 1, 4]), "do not divide into the 2 groups"),
        ("deepseek_v3", every(V3, [0, 1, 2, 4]), "an expert would change its group"),
        ("deepseek_v3", every(V3, [0, 4, 1, 5]), "an expert would change its group"),
        ("deepseek_v3", every(V3, [0, 4]), "leaves one expert a group"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_changes(
    family: str, keep: dict[str, list[int]], said: str
) -> None:
    model = tiny(family).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = model.config.to_dict()
    with pytest.raises(ValueError, match=said):
        keep_experts(model, keep)
    assert model.config.to_dict() == config
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_too_few_in_the_groups_of_a_token() -> None:
    model = build_tiny_moe("deepseek_v3", **GROUPS, num_experts_per_tok=3).model
    with pytest.raises(ValueError, match="leaves 2 experts in each group, 2 in the 1 groups a token may use"):
        keep_experts(model, every(V3, [0, 1, 4, 5]))


def test_a_model_that_is_not_as_its_configuration_says_is_refused() -> None:
    from peft import LoraConfig, get_peft_model

    model = build_tiny_moe("mixtral").model
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    keep = {router.path: [0, 1] for router in find_routers(adapted)}
    with pytest.raises(ValueError, match="the model is a PeftModel, not a model of transformers"):
        keep_experts(adapted, keep)
    with pytest.raises(ValueError, match="merge adapters, undo patches"):
        keep_experts(model, keep)
    offloaded = build_tiny_moe("mixtral").model.to("meta")
    with pytest.raises(ValueError, match="is on the device 'meta'"):
        keep_experts(offloaded, keep)
