"""The stock Trainer saves a MoS adapter and resumes it to the same weights."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from hf_mixture import MosConfig
from hf_mixture.adapters.mos.bank import find_bank


def train(folder, *, max_steps, resume=False, **arguments):
    """Six planned steps, of which `max_steps` are run, on the same base model, data and order."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )
    config = MosConfig(r=4, equivalent_rank=2, private_rank=1, mos_dropout=0.1, target_modules="all-linear")
    rows = torch.randint(64, (24, 16), generator=torch.Generator().manual_seed(1))
    trainer = Trainer(
        model=get_peft_model(base, config),
        args=TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=4,
            max_steps=max_steps,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_steps=3,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            **arguments,
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
    )
    trainer.train(resume_from_checkpoint=resume)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, {name: pool.detach() for name, pool in find_bank(trainer.model)[1].named_parameters()}


@pytest.mark.parametrize("arguments", [{}, {"activation_checkpointing": True}], ids=["plain", "checkpointing"])
def test_resumed_run_equals_uninterrupted_run(tmp_path, arguments):
    losses, pools = train(tmp_path / "whole", max_steps=6, **arguments)
    halves = tmp_path / "halves"
    train(halves, max_steps=3, **arguments)
    size = (halves / "checkpoint-3" / "adapter_model.safetensors").stat().st_size
    resumed_losses, resumed_pools = train(halves, max_steps=6, resume=True, **arguments)
    assert len(losses) == 6
    assert resumed_losses == losses
    assert all(torch.equal(resumed_pools[name], pools[name]) for name in pools)
    assert all(pool.abs().max() > 0 for pool in pools.values())
    num_values = sum(pool.numel() for pool in pools.values()) + 21 * 2 * 4 * 4  # and 21 modules with r * l indices
    assert size <= 4 * num_values + 160 * (len(pools) + 21) + 1024
