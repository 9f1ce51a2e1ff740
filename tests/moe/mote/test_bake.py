from __future__ import annotations

from typing import Any

import pytest
import torch
from adapters_of_transformers import needs_adapter_methods
from moe_families import build_tiny_moe
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from hf_mixture.moe.anatomy import GroupRule, SelectionRule, UnsupportedRouterError, find_routers, select
from hf_mixture.moe.mote.bake import bake, leak_rate
from hf_mixture.moe.mote.edit import ExpertEdit
from hf_mixture.moe.mote.edits import ExpertEdits
from hf_mixture.moe.mote.patch import tune_experts
from hf_mixture.moe.mote.prune import pruning_differs
from hf_mixture.moe.mote.score_bounds import score_bounds


GATES = [f"model.layers.{layer}.mlp.gate" for layer in range(4)]


def logits_of(tiny: Any) -> torch.Tensor:
    with torch.no_grad():
        return tiny.model(**tiny.inputs).logits


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model: Any, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def patched(tiny: Any, edits: ExpertEdits) -> torch.Tensor:
    before = logits_of(tiny)
    with tune_experts(tiny.model, edits):
        result = logits_of(tiny)
    assert not torch.equal(result, before)
    return result


def edits_of(*triples: tuple[Any, ...], **fields: Any) -> ExpertEdits:
    return ExpertEdits([ExpertEdit(*triple) for triple in triples], **fields)


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "llama4_text", "deepseek_v3", "nemotron_h"])
def test_zeroed_experts_equal_mode_zero(family: str) -> None:
    tiny = build_tiny_moe(family)
    router = find_routers(tiny.model)[-1]
    edits = edits_of(*((router.path, expert, "off") for expert in range(4)), mode="zero")
    expected = patched(tiny, edits)
    report = bake(tiny.model, edits)
    assert (report.method, report.exact, report.leak_rate) == ("zero_experts", True, None)
    names = ["down_proj", "down_proj_bias"] if family == "gpt_oss" else ["down_proj"]
    assert report.keys == tuple(f"{router.experts_path}.{name}" for name in names)
    torch.testing.assert_close(logits_of(tiny), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_scaled_experts_equal_op_scale(family: str) -> None:
    tiny = build_tiny_moe(family)
    edits = edits_of(*((router.path, 3, "scale", 1.7) for router in find_routers(tiny.model)))
    expected = patched(tiny, edits)
    assert bake(tiny.model, edits).exact
    torch.testing.assert_close(logits_of(tiny), expected, rtol=0, atol=1e-5)


def test_zeroed_experts_by_name_say_that_they_are_not_rerouting() -> None:
    tiny = build_tiny_moe("mixtral")
    edits = edits_of((GATES[1], 2, "off"), (GATES[1], 5, "off"))
    zero = patched(tiny, edits_of((GATES[1], 2, "off"), (GATES[1], 5, "off"), mode="zero"))
    rerouted = patched(tiny, edits)
    report = bake(tiny.model, edits, method="zero_experts")
    assert not report.exact
    assert "mode 'zero', not 'reroute'" in report.note
    torch.testing.assert_close(logits_of(tiny), zero, rtol=0, atol=1e-6)
    assert (logits_of(tiny) - rerouted).abs().max() > 1e-3


def test_weights_before_the_experts_are_no_factor_of_their_output() -> None:
    tiny = build_tiny_moe("llama4_text")
    with pytest.raises(UnsupportedRouterError, match="multiplies what goes into an expert"):
        bake(tiny.model, edits_of((find_routers(tiny.model)[0].path, 1, "scale", 0.5)))


@pytest.mark.parametrize(
    ("family", "edits", "reason"),
    [
        ("deepseek_v3", {"op": "off", "mode": "zero_renorm"}, "token by token"),
        ("ernie4_5_moe", {"op": "on"}, "force_weight='max'"),
        ("ernie4_5_moe", {"op": "on", "value": 0.5, "force_weight": "const"}, "force_weight='const'"),
        ("gpt_oss", {"op": "on", "force_weight": "own"}, "the bias takes part in the weights"),
        ("gpt_oss", {"op": "bias", "value": 1.0}, "the bias takes part in the weights"),
        ("inkling_text", {"op": "bias", "value": 1.0}, "shared experts"),
        ("longcat_flash", {"op": "scale", "value": 2.0, "expert": 9}, "no down_proj with a slice"),
        ("jetmoe", {"op": "off", "mode": "zero"}, "no down_proj"),
        ("zaya", {"op": "off", "expert": 8}, "skip class"),
    ],
)
def test_what_is_not_exact_is_refused_with_the_reason(family: str, edits: dict[str, Any], reason: str) -> None:
    tiny = build_tiny_moe(family)
    before = state(tiny.model)
    expert, op, value = edits.pop("expert", 1), edits.pop("op"), edits.pop("value", None)
    with pytest.raises(UnsupportedRouterError, match=reason):
        bake(tiny.model, edits_of((find_routers(tiny.model)[-1].path, expert, op, value), **edits))
    assert unchanged(tiny.model, before)


def test_hash_layers_have_no_scores() -> None:
    tiny = build_tiny_moe("deepseek_v4")
    hashed, scored = find_routers(tiny.model)[:2]
    with pytest.raises(UnsupportedRouterError, match="table of token ids"):
        bake(tiny.model, edits_of((scored.path, 0, "off"), (hashed.path, 0, "off")))
    edits = edits_of(*((hashed.path, expert, "off") for expert in range(4)), mode="zero")
    expected = patched(tiny, edits)
    bake(tiny.model, edits)
    torch.testing.assert_close(logits_of(tiny), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["deepseek_v3", "ernie4_5_moe", "kolibri1", "minimax_m2", "longcat_flash"])
def test_forced_experts_with_their_own_weight_and_biased_experts(family: str) -> None:
    tiny = build_tiny_moe(family)
    forced, biased = (router.path for router in find_routers(tiny.model)[-2:])
    edits = edits_of(
        # The mate of a forced expert in its group is off.
        (forced, 2, "on"),
        (forced, 3, "off"),
        (biased, 1, "bias", 0.3),
        (biased, 6, "bias", -0.4),
        force_weight="own",
    )
    expected = patched(tiny, edits)
    report = bake(tiny.model, edits)
    assert (report.method, report.exact) == ("bias", True)
    assert torch.equal(logits_of(tiny), expected)


def test_forced_experts_of_too_many_groups() -> None:
    tiny = build_tiny_moe("deepseek_v3", num_experts_per_tok=4)
    edits = edits_of((GATES[1], 0, "on"), (GATES[1], 2, "on"), (GATES[1], 4, "on"), force_weight="own")
    with pytest.raises(UnsupportedRouterError, match="lie in 3 groups, and a token may use 2"):
        bake(tiny.model, edits)


def test_short_groups_are_refused() -> None:
    """With one live group of four, the second best is chosen by what is off, and -1e4 is not -inf."""
    tiny = build_tiny_moe("deepseek_v3")
    edits = edits_of((GATES[1], 0, "off"), (GATES[1], 2, "off"), (GATES[1], 4, "off"))
    with tune_experts(tiny.model, edits), pytest.raises(ValueError, match="tuned by a patch"):
        bake(tiny.model, edits)
    with pytest.raises(UnsupportedRouterError, match="only 1 groups"):
        bake(tiny.model, edits)


def test_capacity_holds_for_baked_models_too() -> None:
    tiny = build_tiny_moe("deepseek_v3", num_experts_per_tok=4, n_group=2, topk_group=1)
    with pytest.raises(ValueError, match="leave 3 enabled experts"):
        bake(tiny.model, edits_of((GATES[1], 0, "off")))


def test_negative_biases_where_other_groups_get_zero() -> None:
    tiny = build_tiny_moe("axk2")
    router = find_routers(tiny.model)[-1]
    router.bias.tensor.fill_(-1.5)
    before = state(tiny.model)
    with pytest.raises(UnsupportedRouterError, match="their bias is negative"):
        bake(tiny.model, edits_of((router.path, 0, "off")))
    assert unchanged(tiny.model, before)


@pytest.mark.parametrize("family", ["gpt_oss", "kolibri1", "deepseek_v3", "openai_privacy_filter"])
def test_a_value_within_reach_of_the_scores_is_refused(family: str) -> None:
    tiny = build_tiny_moe(family)
    router = find_routers(tiny.model)[-1]
    edits = edits_of((router.path, 0, "off"))
    before = state(tiny.model)
    with pytest.raises(ValueError, match="further from 0"):
        bake(tiny.model, edits, value=-1.0)
    if family != "deepseek_v3":
        with torch.no_grad():
            router.weight.mul_(1e4)
        before = state(tiny.model)
        with pytest.raises(ValueError, match="further from 0"):
            bake(tiny.model, edits)
    assert unchanged(tiny.model, before)


@pytest.mark.parametrize("family", ["deepseek_v3", "gpt_oss", "zaya"])
def test_minus_infinity_is_the_same(family: str) -> None:
    tiny = build_tiny_moe(family)
    router = find_routers(tiny.model)[-1]
    edits = edits_of((router.path, 0, "off"), (router.path, 1, "off"))
    expected = patched(tiny, edits)
    bake(tiny.model, edits, value=float("-inf"))
    assert torch.equal(logits_of(tiny), expected)
    assert router.bias.tensor[0] == float("-inf")


@pytest.mark.parametrize(
    "family", ["axk2", "deepseek_v3", "deepseek_v4", "ernie4_5_moe", "gpt_oss", "inkling_text", "kolibri1"]
)
def test_bounds_of_scores_hold_and_mean_something(family: str) -> None:
    tiny = build_tiny_moe(family)
    for router in find_routers(tiny.model):
        bounds = score_bounds(tiny.model, router)
        seen: list[torch.Tensor] = []
        # The rule of a hash layer is its score function alone.
        handles = router.observe(lambda output, seen=seen: seen.append(output.logits))
        logits_of(tiny)
        for handle in handles:
            handle.remove()
        logits = seen[0].double()
        if router.rule is None:
            assert (logits <= bounds.high).all()
            assert (logits >= bounds.low).all()
            continue
        if router.rule.bias_on == "logits":
            logits = logits - router.bias.tensor.double()
        scores = {
            "softmax": lambda z: z.softmax(-1),
            "sigmoid": torch.sigmoid,
            "identity": lambda z: z,
            "sqrtsoftplus": lambda z: torch.nn.functional.softplus(z).sqrt(),
        }[router.rule.score](logits)
        assert (scores <= bounds.high + 1e-6).all()
        assert (scores >= bounds.low - 1e-6).all()
        assert bounds.high.max() < 100


def test_all_or_nothing() -> None:
    tiny = build_tiny_moe("deepseek_v3")
    before = state(tiny.model)
    for last in ((GATES[2], 99, "off"), ("model.layers.0.mlp.gate", 0, "off"), (GATES[2], 0, "on")):
        with pytest.raises(ValueError):
            bake(tiny.model, edits_of((GATES[1], 0, "off"), last))
    with pytest.raises(ValueError, match="no batch"):
        bake(tiny.model, edits_of((GATES[1], 0, "off")), calibration=[])
    assert unchanged(tiny.model, before)


def test_bad_arguments() -> None:
    tiny = build_tiny_moe("mixtral")
    edits = edits_of((GATES[1], 0, "off"))
    with pytest.raises(ValueError, match="method='mask' must be one of"):
        bake(tiny.model, edits, method="mask")
    with pytest.raises(ValueError, match=r"value=0\.0 must be a negative number"):
        bake(tiny.model, edits, value=0.0)
    with pytest.raises(ValueError, match="method='bias' cannot write"):
        bake(tiny.model, edits_of((GATES[1], 0, "off"), mode="zero"), method="bias")
    with pytest.raises(ValueError, match="method='zero_experts' cannot write"):
        bake(tiny.model, edits_of((GATES[1], 0, "bias", 0.1)), method="zero_experts")
    with pytest.raises(ValueError, match="other router weights"):
        bake(tiny.model, edits.signed(build_tiny_moe("mixtral", seed=1).model))
    with pytest.raises(TypeError, match="merge adapters"):
        bake(get_peft_model(build_tiny_moe("mixtral").model, LoraConfig(target_modules=["q_proj"])), edits)
    with torch.device("meta"):
        empty = type(tiny.model)(tiny.model.config)
    with pytest.raises(ValueError, match="offloaded"):
        bake(empty, edits, check_fingerprint=False)


@needs_adapter_methods()
def test_a_model_with_adapters_of_transformers_is_refused() -> None:
    tiny = build_tiny_moe("mixtral")
    tiny.model.add_adapter(LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="has adapters"):
        bake(tiny.model, edits_of((GATES[0], 0, "off")))


def test_leak_rate_counts_choices_of_experts_that_are_off() -> None:
    tiny = build_tiny_moe("deepseek_v3")
    routers = find_routers(tiny.model)
    path, off = routers[1].path, [0, 1, 5]
    seen: list[torch.Tensor] = []
    handles = routers[1].observe(lambda output: seen.append(output.indices))
    rate, num_choices = leak_rate(tiny.model, routers, {path: off}, [tiny.inputs, tiny.inputs])
    for handle in handles:
        handle.remove()
    assert num_choices == sum(indices.numel() for indices in seen) == 2 * 18 * 2
    assert rate == sum(int(expert in off) for indices in seen for expert in indices.flatten().tolist()) / num_choices
    assert rate > 0
    report = bake(tiny.model, edits_of(*((path, expert, "off") for expert in off[:2])), calibration=[tiny.inputs])
    assert (report.leak_rate, report.num_choices_seen) == (0.0, 36)
    assert not tiny.model.training


@pytest.mark.parametrize(
    ("family", "dtype", "bias_dtype"),
    [
        ("deepseek_v3", torch.bfloat16, torch.float32),
        ("ernie4_5_moe", torch.bfloat16, torch.float32),
        ("lfm2_moe", torch.float16, torch.float32),
        ("gpt_oss", torch.bfloat16, torch.bfloat16),
        ("gpt_oss", torch.float16, torch.float16),
    ],
)
def test_key_and_type_on_disk(family: str, dtype: torch.dtype, bias_dtype: torch.dtype, tmp_path: Any) -> None:
    tiny = build_tiny_moe(family)
    router = find_routers(tiny.model)[-1]
    bake(tiny.model, edits_of((router.path, 0, "off"), (router.path, 1, "off")))
    tiny.model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        baked = [key for key in file.keys() if (file.get_tensor(key).reshape(-1)[:2] == -1e4).all()]  # noqa: SIM118
        assert len(baked) == 1
        assert baked[0].endswith("bias")
        assert file.get_tensor(baked[0]).dtype == torch.float32
    tiny.model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()
    routers = find_routers(tiny.model)
    assert routers[-1].bias.tensor.dtype == bias_dtype
    assert leak_rate(tiny.model, routers, {router.path: [0, 1]}, [tiny.inputs])[0] == 0
    assert logits_of(tiny).isfinite().all()


PRUNED = {
    "softmax": SelectionRule(score="softmax"),
    "softmax, renormalised": SelectionRule(score="softmax", normalise=True),
    "softmax over the chosen": SelectionRule(score="identity", gate="softmax_selected"),
    "softmax with a bias": SelectionRule(score="softmax", bias_on="scores", normalise=True),
    "softmax with a floor": SelectionRule(score="softmax", normalise=True, min_sum=0.5),
    "sigmoid with a bias": SelectionRule(score="sigmoid", bias_on="scores", normalise=True, eps=1e-20),
    "groups": SelectionRule(
        score="sigmoid", bias_on="scores", normalise=True, group=GroupRule(num_groups=2, num_kept=1)
    ),
    "groups, 0 outside": SelectionRule(
        score="softmax", normalise=True, eps=1e-20, group=GroupRule(num_groups=2, num_kept=1, fill=0.0)
    ),
    "groups by maximum": SelectionRule(
        score="softmax", gate="choice", group=GroupRule(num_groups=2, num_kept=1, score="max", fill=0.0)
    ),
}


@pytest.mark.parametrize("mode", ["reroute", "logit_mask"])
@pytest.mark.parametrize("name", PRUNED)
def test_what_pruning_is_said_to_equal(name: str, mode: str) -> None:
    """Deleting rows against routing with them off, on random logits."""
    rule = PRUNED[name]
    if mode == "logit_mask" and (rule.bias_on or rule.score not in ("softmax", "identity")):
        return
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 8, generator=generator)
    bias = 0.3 * torch.randn(8, generator=generator) if rule.bias_on else None
    off = torch.zeros(8, dtype=torch.bool)
    off[[1, 6]] = True
    left = (~off).nonzero().flatten()
    masked = logits.masked_fill(off, float("-inf")) if mode == "logit_mask" else logits
    expected = select(rule, masked, 2, bias, off=off)
    pruned = select(rule, logits[:, left], 2, None if bias is None else bias[left])

    def dense(output: Any, names: torch.Tensor) -> torch.Tensor:
        return torch.zeros(500, 8).scatter(1, names[output.indices], output.weights)

    equal = torch.allclose(dense(expected, torch.arange(8)), dense(pruned, left), rtol=0, atol=1e-6)
    assert equal == (pruning_differs(rule, mode) == "")


@pytest.mark.parametrize(
    ("family", "exact"), [("mixtral", True), ("deepseek_v3", True), ("gpt_oss", True), ("olmoe", False)]
)
def test_pruned_model(family: str, exact: bool) -> None:
    tiny = build_tiny_moe(family, **({"n_group": 2, "topk_group": 1} if family == "deepseek_v3" else {}))
    triples = [(router.path, expert, "off") for router in find_routers(tiny.model) for expert in (1, 6)]
    expected = patched(tiny, edits_of(*triples))
    masked = None if exact else patched(tiny, edits_of(*triples, mode="logit_mask"))
    report = bake(tiny.model, edits_of(*triples), method="prune")
    assert (report.method, report.exact) == ("prune", exact)
    assert {router.num_experts for router in find_routers(tiny.model)} == {6}
    assert any(key.endswith("down_proj") for key in report.keys)
    if exact:
        torch.testing.assert_close(logits_of(tiny), expected, rtol=0, atol=1e-5)
    else:
        assert "as in mode 'logit_mask'" in report.note
        torch.testing.assert_close(logits_of(tiny), masked, rtol=0, atol=1e-5)
        assert (logits_of(tiny) - expected).abs().max() > 1e-3


def test_pruning_needs_equal_numbers_of_experts_that_are_off() -> None:
    tiny = build_tiny_moe("mixtral")
    before = state(tiny.model)
    with pytest.raises(ValueError, match=r"would delete 1 experts of .* and 0 of"):
        bake(tiny.model, edits_of((GATES[1], 0, "off")), method="prune")
    with pytest.raises(ValueError, match="has op='scale'"):
        bake(tiny.model, edits_of((GATES[1], 0, "scale", 2.0)), method="prune")
    assert unchanged(tiny.model, before)
    longcat = build_tiny_moe("longcat_flash").model
    identities = edits_of(*((router.path, 9, "off") for router in find_routers(longcat)))
    with pytest.raises(UnsupportedRouterError, match="no weights to delete"):
        bake(longcat, identities, method="prune")
