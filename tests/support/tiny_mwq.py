"""A D2MoE recipe of seconds on real text: sources and documentation of the standard library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_recipe import write_domains


def tiny_mwq(folder: Path, *, steps: int = 4) -> dict[str, Any]:
    """A recipe that writes to `folder / "run"`."""
    arguments = {
        "max_steps": steps,
        "eval_steps": 2,
        "save_steps": 1,
        "logging_steps": 1,
        "per_device_train_batch_size": 4,
        "use_cpu": True,
        "learning_rate": 1e-2,
    }
    return {
        "name": "tiny",
        "description": "A test.",
        "output_dir": str(folder / "run"),
        "block_size": 32,
        "domains": write_domains(folder),
        "mixture": {"weights": {"code": 0.75, "prose": 0.25}},
        "tokenizer": {"train_bpe": {"vocab_size": 257}},
        "model": {
            "model_type": "qwen3_moe",
            "hidden_size": 32,
            "intermediate_size": 32,
            "moe_intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "num_experts": 4,
            "num_experts_per_tok": 2,
        },
        "pretrain": {**arguments},
        "planes": {"widths": [2, 3, 4], "group_size": 16},
        "bit_routers": {"alphas": [0.1, 0.5], "average_bits": 3.2, "training_arguments": {**arguments}},
        "speed": {"prompt_tokens": 4, "new_tokens": 3, "rounds": 2, "budget": 0.5, "tight_budget": 0.25},
        "evaluation": {"test_bytes": 1500, "validation_bytes": 1000, "document_bytes": 500},
        "smoke": {"seed": 3},
    }
