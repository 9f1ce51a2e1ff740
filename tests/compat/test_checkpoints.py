"""What of a checkpoint of a mixture of experts the Trainer reads, and what this package adds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM, Trainer, TrainingArguments

from hf_mixture._compat.checkpoints import load_converted_weights


ROWS = [{"input_ids": [1, 2, 3, 4], "labels": [1, 2, 3, 4]}] * 8


def fresh() -> Qwen3MoeForCausalLM:
    torch.manual_seed(0)
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=16,
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=8,
            moe_intermediate_size=8,
            num_experts=4,
            num_experts_per_tok=2,
        )
    )


def train(model: Qwen3MoeForCausalLM, folder: Path, resume: Path | None = None) -> None:
    arguments = TrainingArguments(
        str(folder),
        max_steps=4,
        save_steps=2,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(model, arguments, train_dataset=ROWS).train(resume_from_checkpoint=None if resume is None else str(resume))


@pytest.mark.parametrize("ours", [True, False])
def test_a_resumed_mixture_of_experts_ends_as_one_that_was_not(tmp_path: Path, ours: bool) -> None:
    whole, again = fresh(), fresh()
    train(whole, tmp_path / "whole")
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    if ours:
        load_converted_weights(again, str(checkpoint))
    train(again, tmp_path / "again", checkpoint)
    same = all(torch.equal(one, other) for one, other in zip(whole.parameters(), again.parameters(), strict=True))
    # The day the Trainer reads them itself, load_converted_weights has nothing left to do.
    assert same == ours


def test_other_models_are_left_alone(tmp_path: Path) -> None:
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    # There is no checkpoint: an attempt to read it would be an error.
    load_converted_weights(LlamaForCausalLM(config), str(tmp_path / "none"))
    load_converted_weights(torch.nn.Linear(1, 1), str(tmp_path / "none"))
