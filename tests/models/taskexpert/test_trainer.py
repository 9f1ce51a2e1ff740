"""Training on the stock stack: accumulation, processes, logs, resuming, evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_taskexpert as tiny
import torch
from transformers import EvalPrediction, Trainer
from two_processes import run_alone, run_on_two

from hf_mixture import TaskExpertTrainer, TaskLossCallback, collate_scenes


def trained(folder: Path, kind: type[Trainer] = TaskExpertTrainer, **fields: object) -> Trainer:
    trainer = kind(
        tiny.without_batch_norm(),
        tiny.arguments(folder, **fields),
        train_dataset=tiny.uneven_rows(),
        data_collator=collate_scenes,
    )
    trainer.train()
    return trainer


def largest_difference(one: Trainer, other: Trainer) -> float:
    theirs = other.model.state_dict()
    return max(float((value - theirs[name]).abs().max()) for name, value in one.model.state_dict().items())


def test_accumulation_changes_nothing_with_labels_that_are_missing(tmp_path: Path) -> None:
    whole = trained(tmp_path)
    parts = trained(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=4)
    assert largest_difference(whole, parts) < 1e-5
    for one, other in zip(whole.state.log_history[:3], parts.state.log_history[:3], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    # The stock Trainer averages means of batches that have unequally many labels.
    stock = trained(tmp_path, Trainer, per_device_train_batch_size=4, gradient_accumulation_steps=4)
    assert largest_difference(whole, stock) > 5e-5


@pytest.mark.slow
def test_two_processes_train_the_model_of_one_though_they_lack_different_tasks(tmp_path: Path) -> None:
    worker = Path(__file__).parent / "taskexpert_worker.py"
    run_on_two(worker, tmp_path, 2)
    run_alone(worker, tmp_path, 1)
    first, second, alone = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("2-0", "2-1", "1-0"))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        torch.testing.assert_close(value, alone[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", [TaskExpertTrainer, Trainer])
def test_logs_have_tasks_and_gates(kind: type[Trainer], tmp_path: Path) -> None:
    trainer = kind(
        tiny.model(),
        tiny.arguments(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=2),
        train_dataset=tiny.rows(8),
        data_collator=collate_scenes,
        callbacks=[TaskLossCallback()],
    )
    trainer.train()
    first, second = trainer.state.log_history[:2]
    for entry in (first, second):
        total = sum(trainer.model.config.weight_of(task) * entry[f"task_loss/{task}"] for task in tiny.TASKS)
        assert total == pytest.approx(entry["loss"], rel=1e-4)
        for level in range(2):
            slots = [entry[f"gate/level{level}/{name}"] for name in ("expert0", "expert1", "expert2", "memory")]
            assert sum(slots) == pytest.approx(1, abs=1e-5)
    # The hook goes with the training.
    assert not trainer.model._forward_hooks


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "optim": "adamw_torch"}
    whole = trained(tmp_path / "a", per_device_train_batch_size=4, **saving)
    again = TaskExpertTrainer(
        tiny.without_batch_norm(),
        tiny.arguments(tmp_path / "b", per_device_train_batch_size=4, **saving),
        train_dataset=tiny.uneven_rows(),
        data_collator=collate_scenes,
    )
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_evaluation_of_the_stock_trainer_gives_maps(tmp_path: Path) -> None:
    model, rows = tiny.model().eval(), tiny.rows(6)
    trainer = Trainer(
        model, tiny.arguments(tmp_path, per_device_eval_batch_size=4), data_collator=collate_scenes, eval_dataset=rows
    )
    found = trainer.predict(rows)
    assert found.metrics["test_loss"] > 0
    (maps,) = found.predictions if isinstance(found.predictions, tuple) else (found.predictions,)
    whole = model(**collate_scenes(rows))
    for task in tiny.TASKS:
        torch.testing.assert_close(torch.tensor(maps[task]), whole.logits[task].detach(), rtol=1e-4, atol=1e-4)


def test_metrics_of_data_of_which_some_batches_lack_a_task(tmp_path: Path) -> None:
    rows = tiny.uneven_rows()
    for row in rows:
        row["labels"]["parts"] = None
    seen = {}

    def measure(found: EvalPrediction) -> dict[str, float]:
        seen.update({task: (maps != 255).any(axis=(-2, -1)).sum() for task, maps in found.label_ids.items()})
        return {"predicted": float(len(found.predictions["depth"]))}

    trainer = TaskExpertTrainer(
        tiny.model(),
        tiny.arguments(tmp_path, per_device_eval_batch_size=4),
        eval_dataset=rows,
        data_collator=collate_scenes,
        compute_metrics=measure,
    )
    assert trainer.evaluate()["eval_predicted"] == 16
    assert set(seen) == {"semseg", "saliency", "normals", "edges", "depth"}
    assert seen["depth"] == 8
    assert trainer.compute_metrics is measure
