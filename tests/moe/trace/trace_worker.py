"""Trains a tiny sparse model with a traced stock Trainer; run alone, under torchrun, or killed and resumed."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_mixture.moe.anatomy import find_routers
from hf_mixture.moe.trace.callback import RouterTraceCallback


def tiny_model(family: str = "qwen3_moe") -> Any:
    import transformers as t

    torch.manual_seed(0)
    shared = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 16,
        "moe_intermediate_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "num_experts_per_tok": 2,
    }
    if family == "qwen3_moe":
        model: Any = t.Qwen3MoeForCausalLM(t.Qwen3MoeConfig(**shared, num_experts=6, head_dim=8))
    else:
        config = t.DeepseekV3Config(
            **shared,
            n_routed_experts=8,
            n_group=4,
            topk_group=2,
            first_k_dense_replace=1,
            kv_lora_rank=8,
            q_lora_rank=8,
            qk_rope_head_dim=4,
            qk_nope_head_dim=4,
            v_head_dim=8,
        )
        model = t.DeepseekV3ForCausalLM(config)
    for router in find_routers(model):
        torch.nn.init.normal_(router.weight, std=0.5)
        if router.bias is not None:
            torch.nn.init.normal_(router.bias.tensor, std=0.1)
    return model


def rows(num: int = 64, length: int = 12) -> list[dict[str, torch.Tensor]]:
    """Rows with padding of different lengths at their ends."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(64, (num, length), generator=generator)
    lengths = torch.randint(3, length + 1, (num,), generator=generator)
    masks = (torch.arange(length) < lengths[:, None]).long()
    return [
        {"input_ids": i, "attention_mask": m, "labels": i.masked_fill(m == 0, -100)}
        for i, m in zip(ids, masks, strict=True)
    ]


class KillAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(
    folder: Path,
    *,
    family: str = "qwen3_moe",
    resume: bool = False,
    kill_at: int = 0,
    trace: Any = None,
    **options: Any,
) -> RouterTraceCallback:
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "max_steps": 5,
        "learning_rate": 0.05,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "train_sampling_strategy": "sequential",
        "report_to": [],
        "disable_tqdm": True,
        "logging_strategy": "no",
        "use_cpu": True,
        "seed": 0,
    }
    callback = RouterTraceCallback(str(folder / "trace"), **{"sample_every": 1, **(trace or {})})
    callbacks: list[TrainerCallback] = [callback]
    if kill_at:
        callbacks.append(KillAt(kill_at))
    arguments = TrainingArguments(str(folder / "run"), **(settings | options))
    model = tiny_model(family)
    keys = list(model.state_dict())
    Trainer(model, arguments, train_dataset=rows(), eval_dataset=rows(4), callbacks=callbacks).train(
        resume_from_checkpoint=resume
    )
    assert list(model.state_dict()) == keys
    watched = [model, *(router.module for router in find_routers(model))]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in watched)
    return callback


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mode", choices=("two", "apart", "long"))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kill-at", type=int, default=0)
    args = parser.parse_args()
    if args.mode == "long":
        train(
            args.folder,
            resume=args.resume,
            kill_at=args.kill_at,
            trace={"sample_every": 2, "flush_every": 3},
            max_steps=16,
            save_strategy="steps",
            save_steps=5,
        )
    else:
        assert int(os.environ["WORLD_SIZE"]) == 2
        # A rate of 0: rounding of averaged gradients must not move a token to another expert.
        train(
            args.folder,
            family="deepseek_v3",
            trace={"per_rank": args.mode == "apart"},
            per_device_train_batch_size=4,
            learning_rate=0.0,
        )
        # A process that exits with gloo's threads alive may abort.
        torch.distributed.destroy_process_group()
