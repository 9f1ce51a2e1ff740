"""Trainings of recipes, resumed wherever they stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

from hf_mixture.training.stage import collate, train_on


STEPS, BATCH, ROWS = 5, 2, 6


def trained(folder: Path, *, max_steps: int = STEPS) -> dict[str, Any]:
    """Weights after a training whose last step is in the middle of an epoch; its checkpoints stay."""
    set_seed(0)
    config = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    rows = [{"input_ids": ids.tolist()} for ids in torch.randint(16, (ROWS, 8), generator=generator)]
    arguments = TrainingArguments(
        str(folder),
        max_steps=max_steps,
        per_device_train_batch_size=BATCH,
        save_steps=2,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collate)
    train_on(trainer, folder)
    assert trainer.state.global_step == max_steps
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("stopped", [3, STEPS])
def test_a_training_resumes_to_the_same_weights_wherever_it_stopped(stopped: int, tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")
    trained(tmp_path / "stopped", max_steps=stopped)
    assert (tmp_path / "stopped" / f"checkpoint-{stopped}").is_dir()
    resumed = trained(tmp_path / "stopped")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
