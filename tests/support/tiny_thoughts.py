"""A recipe of thoughts of seconds on real text: sources and documentation of the standard library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from tiny_recipe import write_domains


def tiny_thoughts(folder: Path) -> dict[str, Any]:
    """A recipe of two experts that writes to `folder / "run"`."""
    arguments = {"per_device_train_batch_size": 4, "use_cpu": True, "logging_steps": 1, "save_steps": 1}
    return {
        "name": "tiny",
        "description": "A test.",
        "output_dir": str(folder / "run"),
        "seeds": [0, 1],
        "learning_rates": [1e-2, 3e-2],
        "block_size": 192,
        "domains": write_domains(folder),
        "experts": {
            "coder": {
                "from_config": {
                    "model_type": "llama",
                    "hidden_size": 32,
                    "intermediate_size": 48,
                    "num_hidden_layers": 3,
                    "num_attention_heads": 2,
                    "num_key_value_heads": 2,
                },
                "tokenizer": {"train_bpe": {"vocab_size": 300, "max_bytes": 20000}},
                "mixture": {"weights": {"code": 1.0}},
            },
            "writer": {
                "from_config": {"model_type": "gpt2", "n_embd": 24, "n_layer": 2, "n_head": 2},
                "tokenizer": {"train_bpe": {"vocab_size": 320, "max_bytes": 20000}},
                "mixture": {"weights": {"prose": 1.0}},
            },
        },
        "pretrain": {**arguments, "max_steps": 3, "eval_steps": 3, "learning_rate": 1e-2},
        "documents": {
            "kinds": {"code_first": ["code", "prose"], "prose_first": ["prose", "code"]},
            "num_segments": 4,
            "prompt_segments": 2,
            "segment_characters": 30,
            "num_train": 6,
            "num_validation": 2,
            "num_test": 3,
        },
        "thoughts": {
            "num_levels": 2,
            "latent_size": 16,
            "num_heads": 2,
            "peer_decode": "stream",
            "router_hidden_size": 8,
            "expert_nll_coefficient": 0.1,
        },
        "tune": {**arguments, "max_steps": 3, "eval_steps": 1},
        "evaluation": {"test_bytes": 500, "validation_bytes": 500, "document_bytes": 200},
        "smoke": {"seeds": [3]},
    }


def write_recipe(folder: Path, recipe: dict[str, Any]) -> Path:
    """Write a recipe as YAML."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
