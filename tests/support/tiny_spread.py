"""A spread recipe of seconds on real text: sources and documentation of the standard library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_recipe import write_domains


def tiny_spread(folder: Path) -> dict[str, Any]:
    """A recipe that writes to `folder / "run"`."""
    return {
        "name": "tiny",
        "description": "A test.",
        "output_dir": str(folder / "run"),
        "block_size": 32,
        "domains": write_domains(folder),
        "mixture": {"weights": {"code": 0.75, "prose": 0.25}},
        "tokenizer": {"train_bpe": {"vocab_size": 257}},
        "model": {
            "model_type": "mixtral",
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
        "pretrain": {
            "max_steps": 6,
            "save_steps": 2,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
        },
        "systems": {
            "one": {"num_processes": 1},
            "copies": {
                "num_processes": 2,
                "ep_implementation": "fssdp",
                "options": {"num_slots": 1, "window": 2, "reshard_interval": 2},
            },
            "split": {"num_processes": 2, "ep_implementation": "folded", "etp": 2},
            "drops": {"num_processes": 2, "ep_implementation": "capacity", "options": {"factor": 0.5}},
        },
        "publish": "copies",
        "evaluation": {"test_bytes": 1500, "validation_bytes": 1000, "document_bytes": 500},
        "smoke": {"seed": 3},
    }
