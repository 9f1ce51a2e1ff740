"""Loss-free balance: the update, its callback under the stock Trainer, and the load that it leads to."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from moe_families import build_tiny_moe
from transformers import (
    AutoModelForCausalLM,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from hf_mixture.moe.anatomy import find_routers
from hf_mixture.moe.routers import replace_routers
from hf_mixture.moe.routers.balance import LossFreeBalanceCallback, balanced_bias
from hf_mixture.moe.routers.losses import count_choices
from hf_mixture.moe.routers.sigmoid_bias import route_sigmoid


worker = runpy.run_path(str(Path(__file__).parent / "loss_worker.py"))
train, train_balanced, build_model = worker["train"], worker["train_balanced"], worker["build_model"]


def biases(model):
    return torch.stack([router.bias.tensor.detach().clone().reshape(-1) for router in find_routers(model)])


def balanced_model():
    model = build_model()
    replace_routers(model, "sigmoid_bias")
    return model


def arguments(folder, **more):
    return TrainingArguments(output_dir=str(folder), report_to="none", use_cpu=True, disable_tqdm=True, **more)


def test_update_against_the_formula():
    for seed in range(1000):
        g = torch.Generator().manual_seed(seed)
        bias = torch.randn(5, dtype=torch.float64, generator=g)
        counts = torch.randint(0, 4, (5,), generator=g)
        mean = sum(counts.tolist()) / 5
        expected = [b + 0.1 * ((mean > c) - (mean < c)) for b, c in zip(bias.tolist(), counts.tolist(), strict=True)]
        assert balanced_bias(bias, counts, 0.1).tolist() == expected
    many = torch.tensor([2**24 + 1, 2**24, 2**24 - 1])
    assert balanced_bias(torch.zeros(3), many, 1.0).tolist() == [-1.0, 0.0, 1.0]


def test_zipf_load_becomes_even(tmp_path):
    """The callback on a whole model whose gates are given Zipf-distributed logits.

    The load is that of 16384 tokens of their own, and, as a constant rate keeps the biases swinging, also that of what
    100 further steps choose together.
    """
    num_experts = 16
    tiny = build_tiny_moe("qwen3_moe", num_experts=num_experts, num_hidden_layers=1)
    model = tiny.model.train()
    replace_routers(model, "sigmoid_bias")
    (router,) = find_routers(model)
    gate = router.module
    zipf = -torch.arange(1, num_experts + 1).log()
    # Hidden states of one constant and of noise: the constant carries log(1 / rank), the noise the wishes of tokens.
    with torch.no_grad():
        gate.weight.zero_()
        gate.weight[:, 0] = zipf - zipf.mean()
        gate.weight[:, 1 : num_experts + 1] = torch.eye(num_experts)
    generator = torch.Generator().manual_seed(0)

    def hidden(num_tokens, generator):
        noise = torch.randn(num_tokens, gate.hidden_dim, generator=generator)
        noise[:, 0] = 1.0
        return noise

    gate.register_forward_pre_hook(lambda module, args: (hidden(args[0].numel() // gate.hidden_dim, generator),))
    callback, args = LossFreeBalanceCallback(rate=1e-2), arguments(tmp_path)
    state, control = TrainerState(), TrainerControl()
    callback.on_train_begin(args, state, control, model=model)
    ids = torch.randint(10, (16, 64), generator=generator)
    probe = hidden(16384, torch.Generator().manual_seed(1))

    def load(counts):
        return (counts.max() * num_experts / counts.sum()).item()

    def step():
        chosen = []
        (handle,) = router.observe(lambda output: chosen.append(count_choices(output.indices, num_experts)))
        model(input_ids=ids)
        handle.remove()
        callback.on_pre_optimizer_step(args, state, control)
        return chosen[0]

    with torch.no_grad():
        assert load(step()) > 4
        num_updates = 1
        while load(count_choices(gate.route(probe).indices, num_experts)) >= 1.2:
            num_updates += 1
            assert num_updates <= 2000
            step()
        assert load(torch.stack([step() for _ in range(100)]).sum(0)) < 1.2
    assert num_updates > 10


@pytest.mark.parametrize("top_k", [1, 4, 8])
def test_zipf_load_of_64_experts_becomes_even(top_k):
    generator = torch.Generator().manual_seed(0)
    zipf = -torch.arange(1, 65).log()
    bias, counts = torch.zeros(64), []
    for _ in range(300):
        logits = zipf - zipf.mean() + torch.randn(2048, 64, generator=generator)
        counts.append(count_choices(route_sigmoid(logits, top_k, bias=bias).indices, 64))
        bias = balanced_bias(bias, counts[-1], 1e-2)
    first, last = counts[0].double(), torch.stack(counts[-100:]).sum(0).double()
    assert first.max() / first.mean() > 4
    assert last.max() / last.mean() < 1.2


def test_counts_of_one_step_are_those_of_its_tokens(tmp_path):
    """Against a forward of the test's own; padding, of which the batch has much, is left out."""
    model = balanced_model()
    batch = worker["collate"](worker["rows"]()[:8])
    assert 0.2 < batch["attention_mask"].float().mean() < 0.8
    found = []
    routers = find_routers(model)
    handles = [handle for router in routers for handle in router.observe(lambda output: found.append(output.indices))]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    train(tmp_path, 8, model=model, arguments={"max_steps": 1}, callbacks=[LossFreeBalanceCallback(rate=0.01)])
    seen = batch["attention_mask"].flatten().bool()
    differs = 0
    for indices, bias in zip(found, biases(model), strict=True):
        counts = torch.bincount(indices[seen].flatten(), minlength=4).double()
        assert torch.equal(bias, 0.01 * (counts.mean() - counts).sign().float())
        all_tokens = torch.bincount(indices.flatten(), minlength=4).double()
        differs += int(((counts.mean() - counts).sign() != (all_tokens.mean() - all_tokens).sign()).sum())
    assert differs > 0


def test_micro_batches_add_up_and_checkpointed_layers_count_once(tmp_path):
    whole = train_balanced(tmp_path, 8)
    assert torch.equal(whole, train_balanced(tmp_path, 2, 4))
    checkpointing = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    counted = []

    class Counts(TrainerCallback):
        def __init__(self, balance):
            self.balance = balance

        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            counted.append(torch.stack(self.balance._counts))

    for more in ({}, checkpointing):
        balance = LossFreeBalanceCallback(rate=0.01)
        train(tmp_path, 4, 2, model=balanced_model(), arguments=more, callbacks=[Counts(balance), balance])
    assert torch.equal(torch.stack(counted[:2]), torch.stack(counted[2:]))
    assert whole.abs().unique().tolist() != [0.0]


def test_a_resumed_run_continues_exactly(tmp_path):
    def run(folder, steps, resume=None, model=None):
        model = balanced_model() if model is None else model
        more = {"max_steps": steps, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
        callback = LossFreeBalanceCallback(rate=0.01)
        _, logs, _ = train(folder, 4, model=model, arguments=more, callbacks=[callback], resume=resume)
        return biases(model), logs

    expected, logs = run(tmp_path / "whole", 4)
    half, _ = run(tmp_path / "parts", 2)
    assert half.abs().max() > 0
    checkpoint = str(tmp_path / "parts" / "checkpoint-2")
    # The Trainer does not load tensors that the files of a family name otherwise, those of the experts among them.
    with pytest.raises(ValueError, match=r"not those of step 2.*from_pretrained"):
        run(tmp_path / "parts", 4, resume=checkpoint)
    saved = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float64, attn_implementation="eager", experts_implementation="eager"
    )
    assert torch.equal(biases(saved), half)
    resumed, more_logs = run(tmp_path / "parts", 4, resume=checkpoint, model=saved)
    assert torch.equal(resumed, expected)
    assert not torch.equal(resumed, half)
    assert torch.equal(logs[2:], more_logs[-2:])


@pytest.mark.parametrize(
    "family", ["deepseek_v3", "glm4_moe", "ernie4_5_moe", "minimax_m2", "lfm2_moe", "longcat_flash", "laguna"]
)
def test_stock_families_with_a_selection_bias(family, tmp_path):
    tiny = build_tiny_moe(family)
    model, callback = tiny.model.train(), LossFreeBalanceCallback(rate=0.25)
    args, state, control = arguments(tmp_path), TrainerState(), TrainerControl()
    keys, before = list(model.state_dict()), biases(model)
    callback.on_train_begin(args, state, control, model=model)
    counts = []
    routers = find_routers(model)
    handles = [
        handle
        for router in routers
        for handle in router.observe(
            lambda output, e=router.num_experts: counts.append(
                count_choices(output.indices, e, mask=tiny.inputs.get("attention_mask"))
            )
        )
    ]
    with torch.no_grad():
        model(**tiny.inputs)
    for handle in handles:
        handle.remove()
    callback.on_pre_optimizer_step(args, state, control)
    callback.on_train_end(args, state, control)
    for router, old, count in zip(routers, before, counts, strict=True):
        expected = old.clone()
        expected[: router.num_experts] += 0.25 * (count.double().mean() - count).sign().float()
        assert torch.allclose(router.bias.tensor.reshape(-1), expected, atol=1e-6)
        assert not torch.equal(expected, old)
    assert list(model.state_dict()) == keys
    assert not any(router.module._forward_hooks for router in routers)


def test_half_precision_keeps_the_bias_in_float32(tmp_path):
    tiny = build_tiny_moe("deepseek_v3")
    model = tiny.model.to(torch.bfloat16).train()
    for router in find_routers(model):
        router.bias.tensor.fill_(1.0)
    assert find_routers(model)[0].bias.tensor.dtype == torch.bfloat16
    callback = LossFreeBalanceCallback(rate=1e-3)
    args, state, control = arguments(tmp_path), TrainerState(), TrainerControl()
    callback.on_train_begin(args, state, control, model=model)
    with torch.no_grad():
        model(**tiny.inputs)
        callback.on_pre_optimizer_step(args, state, control)
        model(**tiny.inputs)
    bias = biases(model)
    assert bias.dtype == torch.float32
    assert set(((bias - 1.0).abs() * 1000).round().flatten().tolist()) <= {0.0, 1.0}
    assert not torch.equal(bias, torch.ones_like(bias))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert torch.equal(biases(loaded), bias)


def test_evaluation_does_not_count(tmp_path):
    model = balanced_model()
    callback = LossFreeBalanceCallback(rate=0.01)
    more = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "no", "learning_rate": 1e-2}
    args = arguments(
        tmp_path, per_device_train_batch_size=8, optim="sgd", train_sampling_strategy="sequential", **more
    )
    rows = worker["rows"]()
    other = [{"input_ids": [1] * 12}] * 16
    Trainer(
        model, args, train_dataset=rows, eval_dataset=other, data_collator=worker["collate"], callbacks=[callback]
    ).train()
    assert torch.equal(biases(model), train_balanced(tmp_path, 8, compute=None, arguments={"max_grad_norm": 1.0}))


@pytest.mark.parametrize(
    ("family", "reason"),
    [("qwen3_moe", "no selection bias"), ("gpt_oss", "a bias that its logits, and so the weights, contain")],
)
def test_families_without_one_are_refused(family, reason, tmp_path):
    model = build_tiny_moe(family).model
    with pytest.raises(ValueError, match=rf"{reason}.*replace_routers\(model, 'sigmoid_bias'\)"):
        LossFreeBalanceCallback().on_train_begin(arguments(tmp_path), TrainerState(), TrainerControl(), model=model)
    assert not any(module._forward_hooks for router in find_routers(model) for module in router.module.modules())


@pytest.mark.parametrize("rate", [0, -1e-3, float("nan")])
def test_rates_that_are_none(rate):
    with pytest.raises(ValueError, match=r"rate=.* is not a number > 0"):
        LossFreeBalanceCallback(rate=rate)


def test_the_load_joins_the_log(tmp_path):
    entries = []

    class Log(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            entries.append(logs)

    train(tmp_path, 8, model=balanced_model(), callbacks=[LossFreeBalanceCallback(), Log()])
    loads = [entry["router/max_load"] for entry in entries if "loss" in entry]
    assert len(loads) == 2
    assert all(1.0 <= load <= 2.0 for load in loads)  # of 4 experts, 2 for each token
