"""`select` against a routing written token by token, in plain Python and float64."""

from __future__ import annotations

import math

import pytest
import torch

from hf_mixture.moe.anatomy.rule import GroupRule, SelectionRule
from hf_mixture.moe.anatomy.selection import select


NUM_CLASSES, TOP_K, NUM_TOKENS = 12, 3, 40
GROUPS = GroupRule(num_groups=4, num_kept=2)


def scores_of_token(rule: SelectionRule, logits: list[float]) -> list[float]:
    if rule.score == "softmax":
        total = sum(math.exp(z) for z in logits)
        return [math.exp(z) / total for z in logits]
    if rule.score == "sigmoid":
        return [1 / (1 + math.exp(-z)) for z in logits]
    if rule.score == "sqrtsoftplus":
        return [math.sqrt(math.log1p(math.exp(z))) for z in logits]
    return list(logits)


def route_token(rule, logits, bias, *, off=(), on=(), delta=None):
    """The chosen experts of one token and their weights, step by step."""
    scores = scores_of_token(rule, logits)
    choice = [s + (b if rule.bias_on == "scores" else 0.0) for s, b in zip(scores, bias, strict=True)]
    if delta is not None:
        choice = [c + d for c, d in zip(choice, delta, strict=True)]
    gates = list(scores)
    if rule.group is not None:
        size = len(logits) // rule.group.num_groups
        ranked = []
        for group in range(rule.group.num_groups):
            members = range(group * size, (group + 1) * size)
            values = sorted((4e4 if e in on else -1e4 if e in off else choice[e] for e in members), reverse=True)
            ranked.append((values[0] if rule.group.score == "max" else values[0] + values[1], group))
        kept = {group for _, group in sorted(ranked, reverse=True)[: rule.group.num_kept]}
        for expert in range(len(logits)):
            if expert // size not in kept:
                choice[expert] = rule.group.fill
                if rule.gate == "choice":
                    gates[expert] = rule.group.fill
    order = sorted(range(len(logits)), key=lambda e: math.inf if e in on else choice[e], reverse=True)
    chosen = [e for e in order if e not in off][:TOP_K]
    if rule.gate == "softmax_selected":
        total = sum(math.exp(logits[e]) for e in chosen)
        weights = [math.exp(logits[e]) / total for e in chosen]
    elif rule.gate == "sigmoid_selected":
        weights = [1 / (1 + math.exp(-logits[e])) for e in chosen]
    else:
        weights = [gates[e] for e in chosen]
    if rule.normalise:
        total = max(sum(weights), rule.min_sum) if rule.min_sum else sum(weights) + rule.eps
        weights = [w / total for w in weights]
    return dict(zip(chosen, [w * rule.scale for w in weights], strict=True))


RULES = {
    "softmax": SelectionRule(score="softmax", float32=False),
    "softmax renormalised": SelectionRule(score="softmax", normalise=True, float32=False),
    "softmax over the chosen": SelectionRule(score="identity", gate="softmax_selected"),
    "sigmoid over the chosen": SelectionRule(score="identity", gate="sigmoid_selected", bias_on="scores"),
    "bounded sum": SelectionRule(score="softmax", normalise=True, min_sum=0.7, bias_on="scores", float32=False),
    "sigmoid and bias": SelectionRule(
        score="sigmoid", bias_on="scores", normalise=True, eps=0.1, scale=2.5, float32=False
    ),
    "sqrtsoftplus": SelectionRule(score="sqrtsoftplus", bias_on="scores", normalise=True, float32=False),
    "groups": SelectionRule(score="sigmoid", bias_on="scores", group=GROUPS, normalise=True, float32=False),
    "groups by their best": SelectionRule(
        score="softmax",
        gate="choice",
        group=GroupRule(num_groups=4, num_kept=2, score="max", fill=0.0),
        scale=3.0,
        float32=False,
    ),
    "groups filled with zero": SelectionRule(
        score="sigmoid",
        bias_on="scores",
        group=GroupRule(num_groups=4, num_kept=2, fill=0.0),
        normalise=True,
        float32=False,
    ),
}


def compare(rule, *, seed, off=(), on=(), delta=None):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(NUM_TOKENS, NUM_CLASSES, generator=generator, dtype=torch.float64)
    # Not below zero: experts that a rule fills with 0.0 would otherwise tie for a place.
    bias = torch.rand(NUM_CLASSES, generator=generator, dtype=torch.float64)
    mask = {name: torch.zeros(NUM_CLASSES, dtype=torch.bool) for name in ("off", "on")}
    mask["off"][list(off)], mask["on"][list(on)] = True, True
    result = select(
        rule,
        logits,
        TOP_K,
        bias,
        off=mask["off"] if off else None,
        on=mask["on"] if on else None,
        delta=None if delta is None else torch.tensor(delta, dtype=torch.float64),
    )
    assert result.logits is logits
    for token in range(NUM_TOKENS):
        expected = route_token(rule, logits[token].tolist(), bias.tolist(), off=off, on=on, delta=delta)
        found = dict(zip(result.indices[token].tolist(), result.weights[token].tolist(), strict=True))
        assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_select_is_the_rule_token_by_token(name):
    for seed in range(10):
        compare(RULES[name], seed=seed)


@pytest.mark.parametrize("name", RULES)
def test_masked_experts_are_never_chosen_and_the_rest_follows_the_rule(name):
    for seed in range(10):
        # One expert of each group at most, so that every group keeps two.
        compare(RULES[name], seed=seed, off=(0, 4, 11))


@pytest.mark.parametrize("name", RULES)
def test_forced_experts_are_always_chosen(name):
    for seed in range(10):
        compare(RULES[name], seed=seed, on=(5,), off=(3, 4))


@pytest.mark.parametrize("name", RULES)
def test_a_soft_bias_moves_the_choice_and_not_the_weights(name):
    delta = [0.0] * NUM_CLASSES
    delta[2], delta[7] = 0.6, -0.6
    for seed in range(10):
        compare(RULES[name], seed=seed, delta=delta)


def test_a_forced_expert_keeps_its_group_when_the_rest_of_the_group_is_off():
    logits = torch.linspace(1, 2, NUM_CLASSES).repeat(2, 1)
    off = torch.zeros(NUM_CLASSES, dtype=torch.bool)
    on = torch.zeros(NUM_CLASSES, dtype=torch.bool)
    off[[1, 2]], on[0] = True, True
    result = select(RULES["groups"], logits, TOP_K, torch.zeros(NUM_CLASSES), off=off, on=on)
    assert (result.indices == 0).any(-1).all()
    assert torch.isfinite(result.weights).all()
    assert not torch.isin(result.indices, torch.tensor([1, 2])).any()
