"""The patch on every mixture-of-experts family of transformers: each is built once, and all checks share it.

K chosen experts of each token, C classes that the selection ranks.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from moe_families import MOE_FAMILIES, build_tiny_moe
from mote_runs import assert_same_choice, draw_edits, first_tensor, most_used, observe_run

from hf_mixture.moe.anatomy import UnsupportedRouterError, find_routers
from hf_mixture.moe.anatomy.ties import tied_routers
from hf_mixture.moe.mote.edits import ExpertEdit, ExpertEdits
from hf_mixture.moe.mote.patch import tune_experts, untune_experts


REFUSED = {"doge": "product keys"}
# The model does not compute with the experts that its router chooses, so that no edit can mean what it says.
WITHOUT_EFFECT = {"nllb-moe": "only expert_0 and expert_1 compute"}
TABLE_LAYERS = {"deepseek_v4"}


@pytest.mark.parametrize("family", [family for family in MOE_FAMILIES if family not in {*REFUSED, *WITHOUT_EFFECT}])
def test_edits_of_a_family(family: str) -> None:
    tiny = build_tiny_moe(family)
    model, inputs = tiny.model, tiny.inputs
    if model._can_set_experts_implementation():
        model.set_experts_implementation("eager")
    keys, forwards = list(model.state_dict()), [module.forward for module in model.modules()]
    base, before = observe_run(model, inputs)
    routers = [r for r in find_routers(model) if r.path in before and not hasattr(r.module, "tid2eid")]
    assert routers

    _switching_off_leaves_no_token(model, inputs, routers, before)
    _what_is_off_computes_nothing(model, inputs, routers, before)
    _no_edit_changes_nothing(model, inputs, routers, base)
    _rule_and_interceptor_agree(model, inputs, routers)
    _weights_alone_change(model, inputs, routers, before)
    _kernels_agree(model, inputs, routers)

    untune_experts(model)
    assert torch.equal(first_tensor(observe_run(model, inputs, routers)[0]), first_tensor(base))
    assert [module.forward for module in model.modules()] == forwards
    assert list(model.state_dict()) == keys


def _switching_off_leaves_no_token(model, inputs, routers, before):
    off = most_used(routers, before)
    assert all((before[path].indices == expert).any() for path, expert in off.items())
    edits = ExpertEdits([ExpertEdit(path, expert, "off") for path, expert in off.items()]).signed(model)
    with tune_experts(model, edits):
        output, after = observe_run(model, inputs, routers)
    assert torch.isfinite(first_tensor(output)).all()
    for router in routers:
        routed = after[router.path]
        assert not (routed.indices == off[router.path]).any(), router.path
        assert routed.indices.shape[-1] == router.top_k
        assert routed.indices.numel() == before[router.path].indices.numel()
        ordered = routed.indices.sort(-1).values
        # The index E stands for a token that no expert takes, which may happen twice.
        assert ((ordered[:, 1:] != ordered[:, :-1]) | (ordered[:, 1:] == router.num_experts)).all(), router.path
        assert torch.isfinite(routed.weights).all()


def _what_is_off_computes_nothing(model, inputs, routers, before):
    """Other weights in experts that are off change no logit, and without the edits they do."""
    off = {path: e for path, e in most_used(routers, before).items() if e < before[path].logits.shape[-1]}
    off |= {path: off[owner] for path, owner in tied_routers(routers).items()}
    parts = []
    for router in routers:
        if router.path in tied_routers(routers):
            continue
        expert = off[router.path]
        if router.experts is None or expert >= router.num_experts:
            continue
        if isinstance(router.experts, torch.nn.ModuleDict):
            parts += list(router.experts[f"expert_{expert}"].parameters())
        else:
            rows = [p for p in router.experts.parameters(recurse=False) if p.shape[0] >= router.num_experts]
            if not rows:
                # DBRX keeps the matrices of all experts below each other.
                rows = [p.unflatten(0, (router.num_experts, -1)) for p in router.experts.mlp.parameters()]
            parts += [p[expert] for p in rows]
    assert parts or all(router.experts is None or off[router.path] >= router.num_experts for router in routers)
    kept = [part.detach().clone() for part in parts]

    def output():
        return first_tensor(observe_run(model, inputs, routers)[0])

    stock = output()
    edits = ExpertEdits([ExpertEdit(path, expert, "off") for path, expert in off.items()])
    with tune_experts(model, edits):
        expected = output()
        with torch.no_grad():
            for part in parts:
                part.mul_(3)
        assert torch.equal(output(), expected)
    assert not parts or not torch.equal(output(), stock)
    with torch.no_grad():
        for part, old in zip(parts, kept, strict=True):
            part.copy_(old)


def _no_edit_changes_nothing(model, inputs, routers, base):
    nothing = ExpertEdits([])
    with tune_experts(model, nothing):
        assert torch.equal(first_tensor(observe_run(model, inputs, routers)[0]), first_tensor(base))
    # Once edited, a router computes on with neutral masks.
    with tune_experts(model, draw_edits(routers, np.random.default_rng(1), ops=["off"])) as handle:
        handle.set(nothing)
        difference = first_tensor(observe_run(model, inputs, routers)[0]) - first_tensor(base)
        assert difference.abs().max() <= 1e-5


def _rule_and_interceptor_agree(model, inputs, routers):
    rng = np.random.default_rng(0)
    with_rule = [router for router in routers if router.rule is not None and router.layout != "one_hot"]
    # In a group that is left out a bias acts before the fill of 0, and the interceptor adds it after.
    fills = {router.rule.group.fill for router in with_rule if router.rule.group is not None}
    for ops in (["off"], ["off"], ["off"], ["off", "on"], *([] if 0.0 in fills else [["off", "on", "bias"]])):
        edits = draw_edits(routers if ops == ["off"] else with_rule, rng, ops=ops, force_weight="own")
        with tune_experts(model, edits):
            ours = observe_run(model, inputs, routers)[1]
        with tune_experts(model, edits, intercept=True):
            theirs = observe_run(model, inputs, routers)[1]
        assert_same_choice(ours, theirs, 1e-6)
        for edit in edits.edits:
            if edit.op == "on" and edit.expert < len(ours[edit.module].logits[0]):
                assert (ours[edit.module].indices == edit.expert).any(-1).all(), edit


def _weights_alone_change(model, inputs, routers, before):
    off = most_used(routers, before)
    for mode in ("zero", "zero_renorm"):
        edits = ExpertEdits([ExpertEdit(path, expert, "off") for path, expert in off.items()], mode=mode)
        if not all(router.rewritable or router.layout == "logits_only" for router in routers):
            with pytest.raises(UnsupportedRouterError, match="weights of single experts"):
                tune_experts(model, edits)
            return
        with tune_experts(model, edits):
            after = observe_run(model, inputs, routers)[1]
        first = next(router for path in before for router in routers if router.path == path)
        old, new, is_off = before[first.path], after[first.path], before[first.path].indices == off[first.path]
        if first.layout == "dense_scores":
            # Reads the K largest of the scores, among which the zero may not be.
            assert new.weights[new.indices == off[first.path]].abs().sum() == 0
            continue
        assert torch.equal(new.indices, old.indices) or first.layout == "skip_class"
        assert (new.weights[is_off] == 0).all()
        kept = old.weights.masked_fill(is_off, 0)
        if mode == "zero_renorm":
            total, left = old.weights.sum(-1, keepdim=True), kept.sum(-1, keepdim=True)
            kept = torch.where(left == 0, kept, kept * total / left)
        torch.testing.assert_close(new.weights, kept, rtol=1e-6, atol=1e-7)


def _kernels_agree(model, inputs, routers):
    if not model._can_set_experts_implementation():
        return
    outputs = {}
    with tune_experts(model, draw_edits(routers, np.random.default_rng(2), ops=["off"])):
        for name in ("eager", "batched_mm", "grouped_mm"):
            model.set_experts_implementation(name)
            outputs[name] = first_tensor(observe_run(model, inputs, routers)[0])
        model.set_experts_implementation("eager")
    for name, output in outputs.items():
        largest = max(1.0, float(outputs["eager"].abs().max()))
        assert (output - outputs["eager"]).abs().max() <= 1e-5 * largest, name


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_cannot_be_read_is_refused_with_the_reason(family: str) -> None:
    with pytest.raises(UnsupportedRouterError, match=REFUSED[family]):
        tune_experts(build_tiny_moe(family).model, ExpertEdits([]))


@pytest.mark.parametrize("family", WITHOUT_EFFECT)
@pytest.mark.parametrize("op", ["off", "on", "scale", "bias"])
def test_edits_without_effect_are_refused_with_the_reason(family: str, op: str) -> None:
    model = build_tiny_moe(family).model
    hooks = [len(module._forward_hooks) for module in model.modules()]
    path = find_routers(model)[0].path
    with pytest.raises(UnsupportedRouterError, match=WITHOUT_EFFECT[family]):
        tune_experts(model, ExpertEdits([ExpertEdit(path, 5, op, 2.0 if op in ("scale", "bias") else None)]))
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


@pytest.mark.parametrize("family", sorted(TABLE_LAYERS))
def test_a_table_of_experts_has_no_score_to_edit(family: str) -> None:
    tiny = build_tiny_moe(family)
    path = next(r.path for r in find_routers(tiny.model) if hasattr(r.module, "tid2eid"))
    with pytest.raises(UnsupportedRouterError, match="table of token ids"):
        tune_experts(tiny.model, ExpertEdits([ExpertEdit(path, 0, "off")]))
    expert = int(observe_run(tiny.model, tiny.inputs)[1][path].indices[0, 0])
    with tune_experts(tiny.model, ExpertEdits([ExpertEdit(path, expert, "off")], mode="zero")):
        after = observe_run(tiny.model, tiny.inputs)[1][path]
    assert (after.weights[after.indices == expert] == 0).all()
