"""Routers whose choice depends on later tokens, against slow float64 twins, and inside models.

Expert choice, batch prioritised routing, Soft MoE, and one choice for a whole sequence.
"""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from moe_families import build_tiny_moe
from transformers import AutoModelForCausalLM

from hf_mixture.moe.anatomy import UnsupportedRouterError, find_routers
from hf_mixture.moe.routers import replace_routers
from hf_mixture.moe.routers.allowed import route_allowed
from hf_mixture.moe.routers.batch_prioritised import route_batch_prioritised
from hf_mixture.moe.routers.expert_choice import route_expert_choice
from hf_mixture.moe.routers.pooled import pool_sequences
from hf_mixture.moe.routers.soft import soft_logits, soft_weights


NAMES = ("batch_prioritised", "context", "expert_choice", "soft")


def softmax(values):
    top = max(values)
    parts = [math.exp(v - top) for v in values]
    return [part / sum(parts) for part in parts]


def random_case(seed):
    g = torch.Generator().manual_seed(seed)
    t, e = int(torch.randint(1, 13, (), generator=g)), int(torch.randint(2, 7, (), generator=g))
    mask = torch.rand(t, generator=g) < 0.75
    mask[int(torch.randint(t, (), generator=g))] = True
    return torch.randn(t, e, dtype=torch.float64, generator=g), mask if seed % 2 else None, g


def check(output, expected, num_experts):
    """Indices exact, weights to 1e-12; `expected` is a list of (expert, weight) for each token."""
    assert (output.indices == num_experts).equal(output.weights == 0)
    for t, choices in enumerate(expected):
        assert output.indices[t].tolist() == [i for i, _ in choices]
        for weight, (_, wanted) in zip(output.weights[t].tolist(), choices, strict=True):
            assert abs(weight - wanted) < 1e-12


def test_expert_choice():
    widths = set()
    for seed in range(1000):
        logits, mask, g = random_case(seed)
        num_experts = logits.shape[1]
        capacity = 0.25 + 2 * torch.rand((), generator=g).item()
        scores = [softmax(row) for row in logits.tolist()]
        valid = [t for t in range(len(scores)) if mask is None or mask[t]]
        taken = min(len(valid), math.ceil(len(valid) * capacity / num_experts))
        chosen = [[] for _ in scores]
        for i in range(num_experts):
            for t in sorted(valid, key=lambda t: -scores[t][i])[:taken]:
                chosen[t].append((i, scores[t][i]))
        width = max(1, *map(len, chosen), 0)
        expected = [choices + [(num_experts, 0.0)] * (width - len(choices)) for choices in chosen]
        output = route_expert_choice(logits, capacity, mask=mask)
        check(output, expected, num_experts)
        counts = torch.bincount(output.indices.flatten(), minlength=num_experts + 1)[:num_experts]
        assert counts.tolist() == [taken] * num_experts
        widths.add(width)
    assert len(widths) > 3


def test_batch_prioritised():
    dropped = 0
    for seed in range(1000):
        logits, mask, g = random_case(seed)
        num_experts = logits.shape[1]
        top_k = int(torch.randint(1, num_experts + 1, (), generator=g))
        factor = 0.3 + torch.rand((), generator=g).item()
        scores = [softmax(row) for row in logits.tolist()]
        valid = [t for t in range(len(scores)) if mask is None or mask[t]]
        places = max(1, math.floor(top_k * len(valid) * factor / num_experts + 0.5))
        ranked = [sorted(range(num_experts), key=lambda i: -row[i])[:top_k] for row in scores]
        used = [0] * num_experts
        expected = [[(num_experts, 0.0)] * top_k for _ in scores]
        for rank in range(top_k):
            for t in sorted(valid, key=lambda t: -max(scores[t])):
                i = ranked[t][rank]
                if used[i] < places:
                    used[i] += 1
                    expected[t][rank] = (i, scores[t][i])
        output = route_batch_prioritised(logits, top_k, capacity_factor=factor, mask=mask)
        check(output, expected, num_experts)
        assert max(used) <= places
        dropped += top_k * len(valid) - sum(used)
    assert dropped > 1000


def test_equal_tokens_are_taken_in_order():
    logits = torch.zeros(4, 2)
    assert route_expert_choice(logits, 1.0).indices.tolist() == [[0, 1], [0, 1], [2, 2], [2, 2]]
    first = torch.tensor([[1.0, 0.0]] * 4)
    assert route_batch_prioritised(first, 1).indices.flatten().tolist() == [0, 0, 2, 2]


def test_soft_weights():
    for seed in range(1000):
        g = torch.Generator().manual_seed(seed)
        b, s, p, h = (int(torch.randint(1, 5, (), generator=g)) for _ in range(4))
        hidden = torch.randn(b, s, h, dtype=torch.float64, generator=g)
        slots = torch.randn(p, h, dtype=torch.float64, generator=g)
        scale = torch.rand((), dtype=torch.float64, generator=g) * 3
        mask = torch.rand(b, s, generator=g) < 0.7 if seed % 2 else None
        logits = soft_logits(hidden, slots, scale)
        dispatch, combination = soft_weights(logits, mask=mask)
        for i in range(b):
            seen = [t for t in range(s) if mask is None or mask[i, t]]
            for j in range(p):
                z = [
                    scale.item()
                    * (hidden[i, t] @ slots[j]).item()
                    / (hidden[i, t].norm().item() * slots[j].norm().item())
                    for t in range(s)
                ]
                assert max(abs(a - b) for a, b in zip(z, logits[i, :, j].tolist(), strict=True)) < 1e-12
                column = [0.0] * s
                if seen:
                    for t, value in zip(seen, softmax([z[t] for t in seen]), strict=True):
                        column[t] = value
                    assert abs(dispatch[i, :, j].sum().item() - 1) < 1e-12
                assert max(abs(a - b) for a, b in zip(column, dispatch[i, :, j].tolist(), strict=True)) < 1e-12
            for t in range(s):
                row = softmax(logits[i, t].tolist())
                assert max(abs(a - b) for a, b in zip(row, combination[i, t].tolist(), strict=True)) < 1e-12


def test_pooled_sequences():
    for seed in range(1000):
        g = torch.Generator().manual_seed(seed)
        b, s, e = (int(torch.randint(1, 6, (), generator=g)) for _ in range(3))
        hidden = torch.randn(b * s, 3, dtype=torch.float64, generator=g)
        gate = torch.randn(e, 3, dtype=torch.float64, generator=g)
        mask = torch.rand(b * s, generator=g) < 0.7 if seed % 2 else None
        k = int(torch.randint(1, e + 1, (), generator=g))
        pooled = pool_sequences(hidden, b, mask=mask)
        logits = pooled @ gate.T
        output = route_allowed(logits, torch.ones_like(logits, dtype=torch.bool), k)
        expected = []
        for i in range(b):
            rows = [hidden[i * s + t].tolist() for t in range(s) if mask is None or mask[i * s + t]]
            mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)] if rows else [0.0] * 3
            p = softmax([sum(w * x for w, x in zip(row, mean, strict=True)) for row in gate.tolist()])
            best = sorted(range(e), key=lambda j: -p[j])[:k] if rows else output.indices[i].tolist()
            total = sum(p[j] for j in best) if k > 1 else 1.0
            expected.append([(j, p[j] / total) for j in best])
        check(output, expected, e)


@pytest.fixture
def padded():
    """A model, and two sequences of which one is padded on the right."""
    tiny = build_tiny_moe("qwen3_moe")
    ids = torch.arange(12).view(2, 6) % 7 + 3
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    return tiny.model, {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("name", NAMES)
def test_causal_models_refuse_them_unless_forced(name, padded):
    model, inputs = padded
    before, config = model(**inputs).logits, model.config.to_dict()
    with pytest.raises(ValueError, match=rf"{name!r}.*later tokens.*force=True"):
        replace_routers(model, name)
    assert torch.equal(model(**inputs).logits, before)
    assert model.config.to_dict() == config
    replaced = replace_routers(model, name, force=True)
    assert not torch.equal(model(**inputs).logits, before)
    replaced.remove()
    assert torch.equal(model(**inputs).logits, before)
    assert not any(router.experts._forward_pre_hooks for router in find_routers(model))


@pytest.mark.parametrize("name", NAMES)
def test_they_do_look_at_later_tokens(name, padded):
    """What the refusal is for: another last token changes the logits of the first."""
    model, inputs = padded
    options = {"capacity_factor": 0.4} if name == "batch_prioritised" else {}
    replace_routers(model, name, force=True, **options)
    changed = 0
    with torch.no_grad():
        first = model(**inputs).logits[0, 0]
        for token in range(10, 30):
            ids = inputs["input_ids"].clone()
            ids[0, -1] = token
            changed += not torch.equal(model(**inputs | {"input_ids": ids}).logits[0, 0], first)
    assert changed > 0


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
@pytest.mark.parametrize("name", NAMES)
def test_padding_has_no_part(name, implementation, padded):
    """What stands at padding, and how much of it there is, changes nothing for the tokens."""
    model, inputs = padded
    replace_routers(model, name, force=True)
    model.set_experts_implementation(implementation)
    with torch.no_grad():
        logits = model(**inputs).logits
        other = inputs["input_ids"].clone()
        other[1, 4:] = 29
        seen = inputs["attention_mask"].bool()
        assert (model(**inputs | {"input_ids": other}).logits - logits)[seen].abs().max() < 1e-5
        more = {key: torch.nn.functional.pad(value, (0, 3)) for key, value in inputs.items()}
        assert (model(**more).logits[:, :6] - logits)[seen].abs().max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_save_load_copy_train(name, padded, tmp_path):
    model, inputs = padded
    options = {"soft": {"num_slots": 2}, "expert_choice": {"capacity": 1.5}}.get(name, {})
    replace_routers(model, name, force=True, **options)
    with torch.no_grad():
        for router in find_routers(model):
            for parameter in router.module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        logits = model(**inputs).logits
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301 - its own bytes
        for router in find_routers(model):
            router.module.zero_grad()
        assert torch.equal(twin(**inputs).logits, logits)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (loaded(**inputs).logits - logits).abs().max() < 1e-6
    found = []
    for checkpointing in (False, True):
        model.train().zero_grad()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        routers = [p for router in find_routers(model) for p in router.module.parameters()]
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in routers)
        found.append({key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None})
    assert all((found[0][key] - found[1][key]).abs().max() < 1e-6 for key in found[0])


def test_soft_experts_work_on_slots(padded):
    """The whole block against the paper's formula, with the experts of the model."""
    model, inputs = padded
    replace_routers(model, "soft", force=True, num_slots=2)
    router = find_routers(model)[0]
    seen = {}
    router.block.register_forward_hook(lambda _, args, output: seen.update(x=args[0], y=output))
    with torch.no_grad():
        model(**inputs)
        x = seen["x"].view(2, 6, -1)
        gate = router.module
        z = soft_logits(x, gate.slot_weight, gate.scale)
        mask = inputs["attention_mask"].bool()
        expected = torch.zeros_like(x)
        for i in range(2):
            tokens = x[i][mask[i]]
            dispatch = z[i][mask[i]].softmax(0)
            combine = z[i].softmax(1)
            for slot in range(dispatch.shape[1]):
                expert = slot // 2
                made = dispatch[:, slot] @ tokens
                gate_up = router.experts.gate_up_proj[expert] @ made
                a, b = gate_up.chunk(2)
                out = router.experts.down_proj[expert] @ (torch.nn.functional.silu(a) * b)
                expected[i] += combine[:, slot : slot + 1] * out
    y = seen["y"][0] if isinstance(seen["y"], tuple) else seen["y"]
    assert (y.view(2, 6, -1) - expected).abs().max() < 1e-6


def test_soft_can_be_replaced_in_turn(padded):
    model, inputs = padded
    before = model(**inputs).logits
    gates = [router.weight.detach().clone() for router in find_routers(model)]
    options = replace_routers(model, "topk_softmax").options
    replace_routers(model, "soft", force=True)
    replace_routers(model, "topk_softmax", **options)
    with torch.no_grad():
        for router, gate in zip(find_routers(model), gates, strict=True):
            router.weight.copy_(gate)
    assert torch.equal(model(**inputs).logits, before)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("expert_choice", {"capacity": 0}, "capacity=0 must be a number above 0"),
        ("batch_prioritised", {"capacity_factor": -1.0}, "capacity_factor=-1.0 must be"),
        ("soft", {"num_slots": 0}, "num_slots=0 must be an integer of at least 1"),
    ],
)
def test_options_out_of_range(name, options, message, padded):
    with pytest.raises(ValueError, match=message):
        replace_routers(padded[0], name, force=True, **options)


def test_a_mask_that_says_nothing_about_padding(padded):
    model, inputs = padded
    replace_routers(model, "expert_choice", force=True)
    causal = torch.ones(2, 1, 6, 6, dtype=torch.bool).tril()
    with pytest.raises(ValueError, match=r"attention_mask has the shape \(2, 1, 6, 6\)"):
        model(input_ids=inputs["input_ids"], attention_mask=causal)


def test_soft_needs_experts_that_take_slots():
    with pytest.raises(UnsupportedRouterError, match="cannot be replaced"):
        replace_routers(build_tiny_moe("jetmoe").model, "soft", force=True)
