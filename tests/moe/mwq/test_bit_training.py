"""Bit routers under the stock Trainer: the loss, what it teaches, resuming, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_planes import full_model, inputs, logits, nested_model
from transformers import Trainer, TrainingArguments

from hf_mixture.moe.mwq.bit_training import BitRouterTraining
from hf_mixture.moe.mwq.budget import add_bit_routers, average_bits, set_bit_budget
from hf_mixture.moe.mwq.targets import nested_experts


def rows(number=64):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (number, 12), generator=generator).tolist()
    return [{"input_ids": row, "labels": row} for row in ids]


def trainer_of(folder: Path, alpha: float, *, model=None, teacher=None, **options) -> Trainer:
    if model is None:
        model = nested_model()
        torch.manual_seed(0)
        add_bit_routers(model)
    arguments = TrainingArguments(
        folder,
        **{
            "max_steps": 24,
            "per_device_train_batch_size": 8,
            "learning_rate": 2e-2,
            "logging_steps": 8,
            "save_strategy": "no",
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            **options,
        },
    )
    trainer = Trainer(model, arguments, train_dataset=rows())
    BitRouterTraining(alpha, teacher=teacher).attach(trainer)
    return trainer


@pytest.mark.parametrize("alphas", [(0.0, 0.2, 2.0), pytest.param((0.0, 0.02, 0.2, 2.0), marks=pytest.mark.slow)])
def test_a_bit_that_costs_more_is_chosen_less(alphas, tmp_path):
    """Acceptance check 6: the share of the lowest width rises with alpha, and only the routers change."""
    teacher, shares, bits = full_model(), [], []
    before = nested_model().state_dict()
    for alpha in alphas:
        trainer = trainer_of(tmp_path, alpha, teacher=teacher)
        trainer.train()
        model = trainer.model.eval()
        average_bits(model)
        logits(model)
        counts = [
            sum(c) for c in zip(*(m.mwq_policy.take_counts() for m in nested_experts(model).values()), strict=True)
        ]
        shares.append(counts[0] / sum(counts))
        bits.append(trainer.state.log_history[-2]["bits/expected"])
        for name, tensor in before.items():
            assert torch.equal(model.state_dict()[name], tensor)
    assert shares == sorted(shares)
    assert shares[-1] > shares[0] + 0.1
    assert bits == sorted(bits, reverse=True)


def test_the_loss_is_distillation_and_bits(tmp_path):
    teacher, alpha = full_model(), 0.3
    trainer = trainer_of(tmp_path, alpha, teacher=teacher)
    model = trainer.model.train()
    for module in nested_experts(model).values():
        module.mwq_policy.capacity = dict.fromkeys(module.mwq_widths, 1.0)
    given = inputs()
    loss = trainer.compute_loss(model, {**given, "labels": given["input_ids"]})
    with torch.no_grad():
        target, answer = teacher(**given).logits.softmax(-1), model(**given).logits.log_softmax(-1)
    kept = given["attention_mask"].bool()
    distillation = -(target * answer).sum(-1)[kept].mean()
    bits = torch.stack([module.mwq_policy.expected_bits for module in nested_experts(model).values()]).mean()
    torch.testing.assert_close(loss, distillation + alpha * bits)
    loss.backward()
    assert all(module.mwq_policy.weight.grad.abs().sum() > 0 for module in nested_experts(model).values())


def test_without_a_teacher_the_model_teaches_itself_at_its_last_width(tmp_path):
    trainer = trainer_of(tmp_path, 0.0)
    given = {"input_ids": inputs()["input_ids"]}
    target = nested_model()
    with torch.no_grad():
        expected = target(**given).logits.softmax(-1)
        routed = trainer.model.eval()(**given).logits
    (callback,) = [c for c in trainer.callback_handler.callbacks if isinstance(c, BitRouterTraining)]
    assert torch.equal(callback._teach(given), expected)
    with torch.no_grad():
        assert torch.equal(trainer.model(**given).logits, routed)


def test_evaluation_is_left_alone(tmp_path):
    trainer = trainer_of(tmp_path, 0.1)
    found = trainer.evaluate(rows(8))["eval_loss"]
    model = trainer.model
    batch = torch.tensor([row["input_ids"] for row in rows(8)])
    with torch.no_grad():
        assert found == pytest.approx(float(model(input_ids=batch, labels=batch).loss), rel=1e-5)


def test_accumulated_steps_are_one_step(tmp_path):
    losses = []
    for size, number in ((8, 1), (4, 2)):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": number, "logging_steps": 1}
        trainer = trainer_of(tmp_path, 0.1, max_steps=3, train_sampling_strategy="sequential", **options)
        for module in nested_experts(trainer.model).values():
            module.mwq_policy.capacity = dict.fromkeys(module.mwq_widths, 1.0)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_run_that_was_killed_goes_on(tmp_path):
    whole = trainer_of(tmp_path / "whole", 0.1, max_steps=8, save_strategy="steps", save_steps=4)
    whole.train()
    again = trainer_of(tmp_path / "again", 0.1, max_steps=8)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    with pytest.raises(ValueError, match="holds no checkpoint of a nested model"):
        again._load_from_checkpoint(str(tmp_path))


def test_trained_routers_are_saved_with_a_sample_for_budgets(tmp_path):
    trainer = trainer_of(tmp_path / "out", 0.1)
    trainer.train()
    model = trainer.model.eval()
    assert set_bit_budget(model, 2.9) == pytest.approx(2.9, abs=0.05)
    model.save_pretrained(tmp_path / "saved")
    loaded = type(model).from_pretrained(tmp_path / "saved").eval()
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.config.quantization_config.bit_policy == {"kind": "router", "gradient": "straight_through"}
    assert set_bit_budget(loaded, 2.4) <= 2.4


def test_what_is_refused(tmp_path):
    for alpha in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="is not a number >= 0"):
            BitRouterTraining(alpha)
    with pytest.raises(ValueError, match="call add_bit_routers"):
        BitRouterTraining(0.1).attach(Trainer(full_model(), TrainingArguments(tmp_path, use_cpu=True, report_to=[])))
    model = nested_model()
    add_bit_routers(model)
    trainer = Trainer(model, TrainingArguments(tmp_path, use_cpu=True, report_to=[]), train_dataset=rows())
    with pytest.raises(ValueError, match=r"capacity=.* must give a part of at least 0 to each of the widths"):
        BitRouterTraining(0.1, capacity={2: 1.0}).attach(trainer)
    with pytest.raises(ValueError, match=r"adds up to 0.9.*; it must add up to 1"):
        BitRouterTraining(0.1, capacity={2: 0.3, 3: 0.3, 4: 0.3}).attach(trainer)
    other = full_model()
    other.resize_token_embeddings(10)
    with pytest.raises(ValueError, match="the teacher has 10 tokens and the model"):
        BitRouterTraining(0.1, teacher=other).attach(trainer)
    alone = Trainer(
        model,
        TrainingArguments(tmp_path, use_cpu=True, report_to=[], max_steps=1),
        train_dataset=rows(),
        callbacks=[BitRouterTraining(0.1)],
    )
    with pytest.raises(ValueError, match=r"call BitRouterTraining\(...\).attach\(trainer\)"):
        alone.train()
    attached = BitRouterTraining(0.1).attach(trainer)
    with pytest.raises(ValueError, match="is attached to a Trainer already"):
        attached.attach(trainer)
