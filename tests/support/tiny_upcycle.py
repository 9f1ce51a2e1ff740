"""An upcycling recipe of seconds on real text: sources and documentation of the standard library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from tiny_recipe import write_domains


def tiny_upcycle(folder: Path, *, steps: int = 4) -> dict[str, Any]:
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
        "seeds": [0, 1],
        "block_size": 32,
        "domains": write_domains(folder),
        "mixture": {"weights": {"code": 0.75, "prose": 0.25}},
        "tokenizer": {"train_bpe": {"vocab_size": 257}},
        "dense": {
            "model_type": "llama",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
        },
        "pretrain": {**arguments},
        "upcycle": {"num_experts": 4, "top_k": 2},
        "continued": {**arguments},
        "routers": {
            "softmax": {"router": "topk_softmax", "losses": {"load_balance": 0.01}},
            "bias": {"router": "sigmoid_bias", "bias": {"rate": 0.01}},
        },
        "evaluation": {"test_bytes": 1500, "validation_bytes": 1000, "document_bytes": 500},
        "smoke": {"seeds": [3]},
    }


def write_recipe(folder: Path, recipe: dict[str, Any]) -> Path:
    """Write a recipe as YAML."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
