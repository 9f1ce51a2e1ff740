"""Routers by task, modality, attributes and token id: slow float64 twins, whole models, and the stock Trainer."""

from __future__ import annotations

import math

import pytest
import torch
from moe_families import build_tiny_moe
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, default_data_collator

from hf_mixture.moe.anatomy import find_routers
from hf_mixture.moe.routers import replace_routers, routing_context
from hf_mixture.moe.routers.allowed import membership, route_allowed
from hf_mixture.moe.routers.attribute import attribute_logits
from hf_mixture.moe.routers.levels_collator import LevelDataCollator
from hf_mixture.moe.routers.mask_moe import frequent_tokens, set_token_frequencies, visible_experts
from hf_mixture.moe.routers.task import route_fixed, task_logits


IDS = torch.arange(12).view(2, 6) % 7 + 3
EXPERTS = [[0, 2], [1, 3]]
# The index that stands for no expert in the tiny model.
NONE = 8


def softmax(values):
    top = max(values)
    parts = [math.exp(v - top) for v in values]
    return [part / sum(parts) for part in parts]


def slow_allowed(logits, allowed, top_k, normalise):
    """(expert, weight) of each token, in plain Python."""
    result = []
    for row, may in zip(logits.tolist(), allowed.tolist(), strict=True):
        usable = [i for i, ok in enumerate(may) if ok]
        p = dict(zip(usable, softmax([row[i] for i in usable]), strict=True))
        best = sorted(usable, key=lambda i: -row[i])[:top_k]
        total = sum(p[i] for i in best) if normalise and top_k > 1 else 1.0
        result.append([(i, p[i] / total) for i in best] + [(len(row), 0.0)] * (top_k - len(best)))
    return result


def check(output, expected):
    for indices, weights, choices in zip(output.indices.tolist(), output.weights.tolist(), expected, strict=True):
        assert indices == [i for i, _ in choices]
        assert all(abs(w - wanted) < 1e-12 for w, (_, wanted) in zip(weights, choices, strict=True))


def sizes(g, *highs):
    return [int(torch.randint(1, high, (), generator=g)) for high in highs]


def test_choice_among_allowed_experts():
    """What the modality router, MaskMoE and the gates of tasks choose by."""
    free = 0
    for seed in range(1000):
        g = torch.Generator().manual_seed(seed)
        t, e = sizes(g, 6, 8)
        k = int(torch.randint(1, e + 1, (), generator=g))
        logits = torch.randn(t, e, dtype=torch.float64, generator=g)
        allowed = torch.rand(t, e, generator=g) < 0.5
        allowed[torch.arange(t), torch.randint(e, (t,), generator=g)] = True
        output = route_allowed(logits, allowed, k, normalise=bool(seed % 2))
        check(output, slow_allowed(logits, allowed, k, bool(seed % 2)))
        assert output.logits[~allowed].softmax(0).isfinite().all()
        assert output.logits.softmax(-1)[~allowed].sum() == 0
        free += int((output.indices == e).sum())
    assert free > 500


def test_tasks():
    for seed in range(1000):
        g = torch.Generator().manual_seed(seed)
        t, e, h, n = sizes(g, 6, 6, 4, 4)
        ids = torch.randint(n, (t,), generator=g)
        hidden = torch.randn(t, h, dtype=torch.float64, generator=g)
        weight = torch.randn(n, e, h, dtype=torch.float64, generator=g)
        z = task_logits(hidden, ids, weight)
        for token, task in enumerate(ids.tolist()):
            slow = [
                sum(w * x for w, x in zip(row, hidden[token].tolist(), strict=True)) for row in weight[task].tolist()
            ]
            assert max(abs(a - b) for a, b in zip(slow, z[token].tolist(), strict=True)) < 1e-12
        groups = [torch.randperm(e, generator=g)[: sizes(g, e + 1)[0]].tolist() for _ in range(n)]
        longest = max(map(len, groups))
        expected = [
            [(i, 1 / len(groups[task])) for i in groups[task]] + [(e, 0.0)] * (longest - len(groups[task]))
            for task in ids.tolist()
        ]
        output = route_fixed(ids, groups, e, torch.float64)
        check(output, expected)
        used = membership(groups, e)[ids]
        assert torch.equal(output.logits.softmax(-1), used / used.sum(-1, keepdim=True, dtype=torch.float64))


def test_attributes():
    for seed in range(1000):
        g = torch.Generator().manual_seed(seed)
        t, e = sizes(g, 6, 6)
        h = 1 + sizes(g, 6)[0]
        bits = torch.randint(2, (t, 8), generator=g)
        named = {
            "weight": torch.randn(h, 8, dtype=torch.float64, generator=g),
            "bias": torch.randn(h, dtype=torch.float64, generator=g),
            "norm": torch.randn(h, dtype=torch.float64, generator=g),
            "shift": torch.randn(h, dtype=torch.float64, generator=g),
            "gate": torch.randn(e, h, dtype=torch.float64, generator=g),
        }
        z = attribute_logits(bits, **named)
        for token in range(t):
            embedded = [
                sum(w * c for w, c in zip(row, bits[token].tolist(), strict=True)) + b
                for row, b in zip(named["weight"].tolist(), named["bias"].tolist(), strict=True)
            ]
            mean = sum(embedded) / h
            deviation = math.sqrt(sum((v - mean) ** 2 for v in embedded) / h + 1e-5)
            normed = [
                (v - mean) / deviation * a + b
                for v, a, b in zip(embedded, named["norm"].tolist(), named["shift"].tolist(), strict=True)
            ]
            slow = [sum(w * v for w, v in zip(row, normed, strict=True)) for row in named["gate"].tolist()]
            assert max(abs(a - b) for a, b in zip(slow, z[token].tolist(), strict=True)) < 1e-11 * max(map(abs, slow))


def test_visible_experts_of_token_ids():
    g = torch.Generator().manual_seed(0)
    for seed in range(1000):
        v, e = sizes(g, 8, 8)
        counts = torch.randint(1, e + 1, (v,), generator=g)
        visible = visible_experts(counts, e, seed)
        assert torch.equal(visible.sum(-1), counts)
        more = visible_experts((counts + 1).clamp(max=e), e, seed)
        assert not (visible & ~more).any()
        assert torch.equal(visible, visible_experts(counts, e, seed))
    drawn = visible_experts(torch.ones(4000, dtype=torch.long), 4, 0).sum(0)
    assert drawn.min() > 900
    occurrences = torch.randint(0, 50, (30,), generator=g)
    for coverage in (0.0, 0.3, 0.9, 1.0):
        frequent = frequent_tokens(occurrences, coverage)
        order = sorted(range(30), key=lambda i: -occurrences[i].item())
        wanted, seen = set(), 0
        for i in order:
            if seen >= coverage * occurrences.sum().item():
                break
            wanted.add(i)
            seen += occurrences[i].item()
        assert set(frequent.nonzero().flatten().tolist()) == wanted


OPTIONS = {
    "task": {"num_tasks": 3},
    "modality": {"experts": EXPERTS},
    "attribute": {},
    "mask_moe": {"vocab_size": 64, "num_frequent": 8, "num_visible": 2},
}
CONTEXT = {
    "task": {"task_ids": torch.tensor([1, 0])},
    "modality": {"modality_ids": torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 0, 0]])},
    "attribute": {"attributes": torch.tensor([[1, 0, 0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 1, 0, 0, 1]])},
    "mask_moe": {},
}


def model_with(name, **options):
    model = build_tiny_moe("qwen3_moe").model
    replace_routers(model, name, **OPTIONS[name] | options)
    with torch.no_grad():
        for router in find_routers(model):
            for parameter in router.module.parameters():
                parameter.copy_(torch.randn_like(parameter))
    return model


def choices(model, **inputs):
    """Indices of each router [T, K]."""
    seen = []
    routers = find_routers(model)
    handles = [handle for router in routers for handle in router.observe(lambda output: seen.append(output.indices))]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return seen


def test_ids_map_to_fixed_experts():
    """Whatever the text: a task has its experts, a modality its group, attributes their choice, an id its set."""
    model = build_tiny_moe("qwen3_moe").model
    replace_routers(model, "task", experts=[[3, 1], [0]])
    for ids in (IDS, IDS + 9):
        for indices in choices(model, input_ids=ids, task_ids=torch.tensor([1, 0])):
            assert indices.tolist() == [[0, NONE]] * 6 + [[3, 1]] * 6

    modalities = CONTEXT["modality"]["modality_ids"]
    for ids in (IDS, IDS + 9):
        for indices in choices(model_with("modality"), input_ids=ids, modality_ids=modalities):
            for modality, row in zip(modalities.flatten().tolist(), indices.tolist(), strict=True):
                assert set(row) == set(EXPERTS[modality])

    model = model_with("attribute")
    first = choices(model, input_ids=IDS, **CONTEXT["attribute"])
    other = choices(model, input_ids=IDS + 9, **CONTEXT["attribute"])
    swapped = choices(model, input_ids=IDS, attributes=CONTEXT["attribute"]["attributes"].flip(0))
    for a, b, c in zip(first, other, swapped, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c.roll(6, 0))
        assert len(a[:6].unique(dim=0)) == len(a[6:].unique(dim=0)) == 1
    assert any(not torch.equal(a[:6], a[6:]) for a in first)

    model = model_with("mask_moe")
    for indices, router in zip(choices(model, input_ids=IDS), find_routers(model), strict=True):
        visible = router.module.visible
        assert visible[:8].sum(-1).unique().tolist() == [2]
        assert visible[8:].sum(-1).unique().tolist() == [1]
        for token, row in zip(IDS.flatten().tolist(), indices.tolist(), strict=True):
            assert {i for i in row if i < router.num_experts} == set(visible[token].nonzero().flatten().tolist())
    sets = [router.module.visible for router in find_routers(model)]
    assert not torch.equal(sets[0], sets[1])


def test_learned_experts_of_a_task_do_not_read_the_token():
    model = model_with("task", reads_token=False)
    for indices in choices(model, input_ids=IDS, task_ids=torch.tensor([2, 0])):
        assert len(indices[:6].unique(dim=0)) == len(indices[6:].unique(dim=0)) == 1
    assert any(len(i[:6].unique(dim=0)) > 1 for i in choices(model_with("task"), input_ids=IDS, **CONTEXT["task"]))


def test_as_many_attributes_as_positions_are_still_attributes():
    model = model_with("attribute")
    ids = torch.arange(16).view(2, 8)
    for indices in choices(model, input_ids=ids, **CONTEXT["attribute"]):
        assert len(indices[:8].unique(dim=0)) == 1


@pytest.mark.parametrize("name", OPTIONS)
def test_save_load_train_generate(name, tmp_path):
    model, context = model_with(name), CONTEXT[name]
    logits = model(input_ids=IDS, **context).logits
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(input_ids=IDS, **context).logits, logits)
    by_sequence = {key: value for key, value in context.items() if key != "modality_ids"}
    if name == "modality":
        by_sequence = {"modality_ids": torch.tensor([0, 1])}
    with routing_context(model, **by_sequence):
        assert model.generate(IDS, max_new_tokens=3, do_sample=False).shape == (2, 9)
    model.train()
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        model(input_ids=IDS, labels=IDS, **context).loss.backward()
        parameters = [p for router in find_routers(model) for p in router.module.parameters()]
        # A modality, or an id, with as many experts as are chosen still weighs them.
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in parameters)


@pytest.mark.parametrize("name", ["task", "modality", "attribute"])
def test_a_batch_without_context_is_an_error_that_names_it(name):
    (key,) = CONTEXT[name]
    with pytest.raises(ValueError, match=rf"'{key}' in the batch.*LevelDataCollator.*remove_unused_columns=False"):
        model_with(name)(input_ids=IDS)


@pytest.mark.parametrize(
    ("name", "context", "message"),
    [
        ("task", {"task_ids": torch.tensor([0, 3])}, "ids from 0 to 3, and the routers know 0 to 2"),
        ("task", {"task_ids": torch.tensor([0.0, 1.0])}, "must be integers"),
        ("task", {"task_ids": torch.zeros(2, 5, dtype=torch.long)}, r"shape \(2, 5\) and the routers see 12 tokens"),
        ("modality", {"modality_ids": torch.tensor([0, -1])}, "ids from -1 to 0"),
        ("attribute", {"attributes": torch.zeros(2, 7)}, "7 entries for each token and must have 8"),
        ("attribute", {"attributes": torch.full((2, 8), 2)}, "other than 0 and 1"),
    ],
)
def test_context_out_of_range(name, context, message):
    with pytest.raises(ValueError, match=message):
        model_with(name)(input_ids=IDS, **context)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("task", {}, "num_tasks=None with experts=None"),
        ("task", {"num_tasks": 2, "experts": [[0]]}, r"num_tasks=2 with experts=\[\[0\]\]"),
        ("task", {"num_tasks": 0}, "num_tasks=0 must be an integer of at least 1"),
        ("task", {"experts": [[0], [8]]}, r"experts\[1\]=\[8\] must name different experts from 0 to 7"),
        ("modality", {}, "needs the option 'experts'"),
        ("modality", {"experts": [[0, 0]]}, r"experts\[0\]=\[0, 0\]"),
        ("modality", {"experts": []}, r"experts=\[\] is empty"),
        ("mask_moe", {"vocab_size": 8, "num_frequent": 9}, "num_frequent=9 must be an integer from 0 to 8"),
        ("mask_moe", {"vocab_size": 8, "num_frequent": 1, "num_visible": 9}, "num_visible=9"),
    ],
)
def test_options_out_of_range(name, options, message):
    model = build_tiny_moe("qwen3_moe").model
    with pytest.raises(ValueError, match=message):
        replace_routers(model, name, **options)
    assert not hasattr(model.config, "moe_router")


def test_frequencies_decide_what_ids_see(tmp_path):
    model = model_with("mask_moe")
    counts = torch.ones(64, dtype=torch.long)
    counts[[40, 50]] = 500
    assert set_token_frequencies(model, counts, coverage=0.9) == 2
    for router in find_routers(model):
        many = router.module.visible.sum(-1) == 2
        assert many.nonzero().flatten().tolist() == [40, 50]
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    for a, b in zip(find_routers(loaded), find_routers(model), strict=True):
        assert torch.equal(a.module.visible, b.module.visible)
    with pytest.raises(ValueError, match="63 entries, and the routers know 64"):
        set_token_frequencies(model, counts[1:], coverage=0.9)
    with pytest.raises(ValueError, match="no MaskMoE routers"):
        set_token_frequencies(build_tiny_moe("qwen3_moe").model, counts, coverage=0.9)


def pad(features):
    """A collator that knows nothing of levels; rows of padding on the left."""
    longest = max(len(feature["input_ids"]) for feature in features)
    gaps = [longest - len(feature["input_ids"]) for feature in features]
    assert all(set(feature) == {"input_ids"} for feature in features)
    ids = [[0] * gap + feature["input_ids"] for gap, feature in zip(gaps, features, strict=True)]
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor([[0] * gap + [1] * (longest - gap) for gap in gaps]),
        "labels": torch.tensor(ids),
    }


def test_collator():
    features = [
        {"input_ids": [5, 6, 7], "task_ids": 1, "modality_ids": [0, 1, 1], "attributes": [0, 1] * 4},
        {"input_ids": [8], "task_ids": 0, "modality_ids": [1], "attributes": [1, 0] * 4},
    ]
    batch = LevelDataCollator(pad)(features)
    assert batch["task_ids"].tolist() == [1, 0]
    assert batch["modality_ids"].tolist() == [[0, 1, 1], [0, 0, 1]]
    assert batch["attributes"].tolist() == [[0, 1] * 4, [1, 0] * 4]
    assert batch["input_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]
    right = LevelDataCollator(lambda f: {k: v.flip(1) for k, v in pad(f).items()}, padding=3)(features)
    assert right["modality_ids"].tolist() == [[0, 1, 1], [1, 3, 3]]
    by_token = [{**f, "attributes": [f["attributes"]] * len(f["input_ids"])} for f in features]
    assert LevelDataCollator(pad)(by_token)["attributes"].shape == (2, 3, 8)


@pytest.mark.parametrize(
    ("features", "keys", "message"),
    [
        ([{"input_ids": [1]}], None, "no any of 'task_ids'.*remove_unused_columns=False"),
        ([{"input_ids": [1], "task_ids": 0}, {"input_ids": [1]}], None, "no 'task_ids'.*remove_unused_columns=False"),
        ([{"input_ids": [1], "attributes": [0] * 8}], ["task_ids"], "no 'task_ids' for the routers"),
        ([{"input_ids": [1, 2], "modality_ids": [0]}], None, "1 entries in a sample of 2 tokens"),
        ([{"input_ids": [1], "modality_ids": [[0]]}], None, r"entries of \[2\] dimensions"),
        (
            [{"input_ids": [1], "attributes": [0] * 8}, {"input_ids": [1], "attributes": [0] * 7}],
            None,
            r"different lengths \[7, 8\]",
        ),
    ],
)
def test_features_that_cannot_be_collated(features, keys, message):
    with pytest.raises(ValueError, match=message):
        LevelDataCollator(pad, keys=keys)(features)


def test_a_collator_that_shortens_rows():
    features = [{"input_ids": [1, 2, 3], "modality_ids": [0, 1, 1]}]
    with pytest.raises(ValueError, match=r"3 entries for a row of 2 tokens.*shortened"):
        LevelDataCollator(lambda f: {k: v[:, :2] for k, v in pad(f).items()})(features)


@pytest.mark.parametrize("keeps_columns", [True, False])
def test_under_the_stock_trainer(keeps_columns, tmp_path):
    """Trains, evaluates and tells of removed columns; what the routers see is what the rows say."""
    model = model_with("task")
    rows = [{"input_ids": [3 + i, 4, 5], "labels": [3 + i, 4, 5], "task_ids": i % 3} for i in range(8)]
    from datasets import Dataset

    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        train_sampling_strategy="sequential",
        remove_unused_columns=not keeps_columns,
        learning_rate=1e-2,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    data = Dataset.from_list(rows)
    trainer = Trainer(
        model, arguments, train_dataset=data, eval_dataset=data, data_collator=LevelDataCollator(default_data_collator)
    )
    if not keeps_columns:
        with pytest.raises(ValueError, match="the Trainer has removed it"):
            trainer.train()
        return
    before = [router.module.task_weight.detach().clone() for router in find_routers(model)]
    seen = []
    model.model.layers[0].mlp.gate.register_forward_hook(
        lambda gate, *_: seen.append(gate.context.get("task_ids").tolist())
    )
    trainer.train()
    assert seen[:2] == [[0, 1, 2, 0], [1, 2, 0, 1]]
    for router, weight in zip(find_routers(model), before, strict=True):
        assert (router.module.task_weight - weight).abs().amax(dim=(1, 2)).min() > 0
    assert math.isfinite(trainer.evaluate()["eval_loss"])
