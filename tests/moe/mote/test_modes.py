"""What each mode computes, against routing written out token by token in Python numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from moe_families import build_tiny_moe
from mote_runs import observe_run

from hf_mixture.moe.anatomy import GroupRule, SelectionBias, SelectionRule, UnsupportedRouterError, find_routers
from hf_mixture.moe.mote.checks import check_means
from hf_mixture.moe.mote.edit import ExpertEdit
from hf_mixture.moe.mote.edits import ExpertEdits
from hf_mixture.moe.mote.masks import RouterMasks
from hf_mixture.moe.mote.modes import choose, reweigh
from hf_mixture.moe.mote.patch import tune_experts


EXPERTS, TOP_K, TOKENS = 12, 3, 40
# The operation on an expert, and its value.
Edits = dict[int, tuple[str, float]]
RULES = {
    "softmax": SelectionRule(score="softmax"),
    "softmax, renormalised": SelectionRule(score="softmax", normalise=True),
    "softmax over the chosen": SelectionRule(score="identity", gate="softmax_selected"),
    "sigmoid over the chosen": SelectionRule(score="identity", gate="sigmoid_selected"),
    "sigmoid and bias": SelectionRule(score="sigmoid", bias_on="scores", normalise=True, eps=1e-20, scale=2.5),
    "softmax and bias": SelectionRule(score="softmax", bias_on="scores", normalise=True, min_sum=0.3),
    "groups": SelectionRule(
        score="sigmoid", bias_on="scores", normalise=True, group=GroupRule(num_groups=3, num_kept=2)
    ),
    "groups, 0 outside": SelectionRule(
        score="softmax", gate="choice", group=GroupRule(num_groups=3, num_kept=2, score="max", fill=0.0)
    ),
}


def softmax(values: list[float]) -> list[float]:
    top = max(values)
    powers = [math.exp(value - top) for value in values]
    return [power / sum(powers) for power in powers]


def route(
    rule: SelectionRule, logits: list[float], bias: list[float], edits: Edits, meaning: tuple[str, str]
) -> dict[int, float]:
    """The weight of each chosen expert of one token; the meaning is the mode and the weight of forced experts."""
    mode, own = meaning
    off = {e for e, (op, _) in edits.items() if op == "off"}
    on = {e for e, (op, _) in edits.items() if op == "on"}
    out = off if mode in ("reroute", "logit_mask") else set()
    z = [-math.inf if mode == "logit_mask" and e in off else value for e, value in enumerate(logits)]
    scores = {"softmax": softmax, "sigmoid": lambda v: [1 / (1 + math.exp(-x)) for x in v], "identity": list}[
        rule.score
    ](z)
    choice = [
        s + (b if rule.bias_on else 0.0) + (edits[e][1] if edits.get(e, ("",))[0] == "bias" else 0.0)
        for e, (s, b) in enumerate(zip(scores, bias, strict=True))
    ]
    if rule.group is not None:
        size = EXPERTS // rule.group.num_groups
        ranks = []
        for g in range(rule.group.num_groups):
            members = range(g * size, (g + 1) * size)
            best = sorted((4e4 if e in on else -1e4 if e in out else choice[e] for e in members), reverse=True)
            ranks.append((best[0] if rule.group.score == "max" else best[0] + best[1], g))
        kept = {g for _, g in sorted(ranks, reverse=True)[: rule.group.num_kept]}
        for e in range(EXPERTS):
            if e // size not in kept:
                choice[e] = rule.group.fill
                if rule.gate == "choice" and own == "own":
                    scores[e] = rule.group.fill
    order = sorted((e for e in range(EXPERTS) if e not in out), key=lambda e: (e not in on, -choice[e]))
    chosen = order[:TOP_K]
    if rule.gate == "softmax_selected":
        gates, divide = dict(enumerate(softmax(z))), True
    elif rule.gate == "sigmoid_selected":
        gates, divide = {e: 1 / (1 + math.exp(-x)) for e, x in enumerate(z)}, rule.normalise
    else:
        gates, divide = dict(enumerate(scores)), rule.normalise
    if own == "max":
        gates |= dict.fromkeys(on, max(gates.values()))
    elif own == "const":
        gates |= {e: edits[e][1] for e in on}
    total = sum(gates[e] for e in chosen)
    if divide:
        total = max(total, rule.min_sum) if rule.min_sum else total + rule.eps
    weights = {e: gates[e] / (total if divide else 1) * rule.scale for e in chosen}
    if mode in ("zero", "zero_renorm"):
        before = sum(weights.values())
        weights = {e: 0.0 if e in off else w for e, w in weights.items()}
        after = sum(weights.values())
        if mode == "zero_renorm" and after:
            weights = {e: w * before / after for e, w in weights.items()}
    return {e: w * (edits[e][1] if edits.get(e, ("",))[0] == "scale" else 1.0) for e, w in weights.items()}


def draw(
    rng: np.random.Generator, rule: SelectionRule, ops: tuple[str, ...], own: str
) -> dict[int, tuple[str, float]]:
    """Edits that leave every group two experts."""
    spread = range(0, EXPERTS, 4) if rule.group is not None else range(0, EXPERTS, 2)
    edits: Edits = {}
    for op in ops:
        free = [e for e in (spread if op == "off" else range(EXPERTS)) if e not in edits]
        for e in rng.permutation(free)[: 2 if op == "on" else 3].tolist():
            value = {"off": 0.0, "on": 0.7, "bias": rng.uniform(-0.4, 0.4), "scale": rng.uniform(0.2, 3)}[op]
            edits[int(e)] = (op, float(value))
    return edits


def bare_router(rule: SelectionRule, bias: torch.Tensor) -> Any:
    """A router of a model with another rule and bias."""
    found = find_routers(build_tiny_moe("mixtral", num_experts=EXPERTS, top_k=TOP_K).model)[0]
    found.module.register_buffer("own_bias", bias)
    return replace(found, rule=rule, bias=SelectionBias(found.module, "own_bias", "own_bias"))


CASES = [
    ("reroute", ("off",), "own"),
    ("reroute", ("off", "bias", "scale"), "own"),
    ("reroute", ("off", "on"), "own"),
    ("reroute", ("off", "on"), "max"),
    ("reroute", ("on", "bias"), "const"),
    ("logit_mask", ("off",), "own"),
    ("zero", ("off", "scale"), "own"),
    ("zero_renorm", ("off",), "own"),
    ("zero_renorm", ("off", "on"), "max"),
]


def masks_logits(rule: SelectionRule) -> bool:
    """Elsewhere an expert with a masked logit could still be chosen, and the mode is refused."""
    return rule.bias_on is None and (rule.score == "softmax" or rule.gate == "softmax_selected")


@pytest.mark.parametrize(("mode", "ops", "own"), CASES, ids=[f"{m}-{'+'.join(o)}-{w}" for m, o, w in CASES])
@pytest.mark.parametrize("name", RULES)
def test_every_mode_under_every_rule(name: str, mode: str, ops: tuple[str, ...], own: str) -> None:
    rule = RULES[name]
    if mode == "logit_mask" and not masks_logits(rule):
        router = bare_router(rule, torch.zeros(EXPERTS))
        with pytest.raises(UnsupportedRouterError, match="mode='logit_mask' needs a softmax"):
            check_means(router, [ExpertEdit("gate", 0, "off")], mode, "own", intercept=False)
        return
    rng = np.random.default_rng(0)
    for _ in range(5):
        logits, bias = rng.normal(size=(TOKENS, EXPERTS)) * 2, rng.normal(size=EXPERTS) * 0.2
        edits = draw(rng, rule, ops, own)
        expected = [route(rule, row, bias.tolist(), edits, (mode, own)) for row in logits.tolist()]

        needs_value = {"scale", "bias", *(["on"] if own == "const" else [])}
        listed = [ExpertEdit("gate", e, op, v if op in needs_value else None) for e, (op, v) in edits.items()]
        masks = RouterMasks(EXPERTS)
        masks.write(listed, ExpertEdits(listed, mode=mode, force_weight=own))
        router = bare_router(rule, torch.tensor(bias))
        rows = torch.tensor(logits)
        chosen = router.select(rows)
        weights, indices = choose(router, rows, masks) if masks.chooses else (chosen.weights, chosen.indices)
        weights = reweigh(weights, indices, masks) if masks.reweighs else weights
        for token, want in enumerate(expected):
            assert set(indices[token].tolist()) == set(want), (token, edits)
            for e, weight in zip(indices[token].tolist(), weights[token].tolist(), strict=True):
                assert weight == pytest.approx(want[e], rel=2e-6, abs=1e-6)


def test_a_group_with_a_forced_expert_among_experts_that_are_off_is_no_nan() -> None:
    rule = RULES["groups"]
    edits = [ExpertEdit("gate", 0, "on"), *(ExpertEdit("gate", e, "off") for e in (1, 2, 3))]
    masks = RouterMasks(EXPERTS)
    masks.write(edits, ExpertEdits(edits))
    logits = torch.randn(200, EXPERTS, generator=torch.Generator().manual_seed(0))
    weights, indices = choose(bare_router(rule, torch.zeros(EXPERTS)), logits, masks)
    assert (indices == 0).any(-1).all()
    assert not torch.isin(indices, torch.tensor([1, 2, 3])).any()
    assert weights.isfinite().all()


def logits_of(tiny: Any, edits: ExpertEdits) -> torch.Tensor:
    with tune_experts(tiny.model, edits), torch.no_grad():
        return tiny.model(**tiny.inputs).logits


@pytest.mark.parametrize(
    ("family", "overrides", "equal"),
    [
        ("mixtral", {}, True),
        ("granitemoe", {}, True),
        ("gpt_oss", {}, True),
        ("qwen3_moe", {"norm_topk_prob": True}, True),
        ("qwen3_moe", {"norm_topk_prob": False}, False),
        ("olmoe", {}, False),
        ("deepseek_v2", {}, False),
    ],
)
def test_rerouting_and_masked_logits_agree_where_weights_are_renormalised(
    family: str, overrides: dict[str, Any], equal: bool
) -> None:
    tiny = build_tiny_moe(family, **overrides)
    edits = [ExpertEdit(router.path, expert, "off") for router in find_routers(tiny.model) for expert in (1, 6)]
    difference = logits_of(tiny, ExpertEdits(edits)) - logits_of(tiny, ExpertEdits(edits, mode="logit_mask"))
    largest = float(difference.abs().max())
    assert largest <= 1e-5 if equal else largest > 1e-3


@pytest.mark.parametrize("family", ["deepseek_v3", "glm4_moe", "mimo_v2_flash", "minimax_m2", "ernie4_5_moe", "zaya"])
def test_masking_logits_would_leak_where_a_bias_follows_and_is_refused(family: str) -> None:
    """The trap itself: with a logit at -inf an expert still wins by its bias; rerouting leaves no token."""
    tiny = build_tiny_moe(family)
    router = find_routers(tiny.model)[-1]
    _, seen = observe_run(tiny.model, tiny.inputs)
    favourite = int(seen[router.path].indices[seen[router.path].indices < router.num_experts].bincount().argmax())
    router.bias.tensor.view(-1)[favourite] = 0.9
    edits = [ExpertEdit(router.path, favourite, "off")]
    with pytest.raises(ValueError, match="mode='logit_mask' needs a softmax"):
        tune_experts(tiny.model, ExpertEdits(edits, mode="logit_mask"))
    logits = seen[router.path].logits.clone()
    logits[:, favourite] = -math.inf
    assert (router.select(logits).indices == favourite).any()
    with tune_experts(tiny.model, ExpertEdits(edits)):
        after = observe_run(tiny.model, tiny.inputs)[1][router.path].indices
    assert not (after == favourite).any()


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "gpt_oss", "llama4_text", "dbrx", "jetmoe"])
def test_forcing_changes_more_with_the_weight_of_the_largest_gate(family: str) -> None:
    """The expert that is chosen least, forced with its own gate and with the largest: both see every token."""
    tiny = build_tiny_moe(family)
    routers = find_routers(tiny.model)
    _, before = observe_run(tiny.model, tiny.inputs)
    edits = []
    for router in routers:
        counts = before[router.path].indices.flatten().bincount(minlength=router.num_experts)
        edits.append(ExpertEdit(router.path, int(counts.argmin()), "on"))
    first = routers[0].path
    shares = {}
    for weight in ("own", "max"):
        with tune_experts(tiny.model, ExpertEdits(edits, force_weight=weight)):
            _, after = observe_run(tiny.model, tiny.inputs)
        for edit in edits:
            assert (after[edit.module].indices == edit.expert).any(-1).all(), edit
        where = after[first].indices == edits[0].expert
        shares[weight] = float(after[first].weights[where].mean())
    assert shares["max"] > shares["own"]
