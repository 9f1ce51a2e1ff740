"""A recipe of seconds on real text: sources and documentation of the standard library."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import yaml


def write_domains(folder: Path) -> dict[str, str]:
    """Write the domains `code` and `prose` as JSON lines."""
    sources = sorted(Path(json.__file__).parent.glob("*.py")) + sorted(Path(json.__file__).parents[1].glob("[ab]*.py"))
    texts = {
        "code": [path.read_text(encoding="utf-8", errors="replace") for path in sources[:30]],
        "prose": [topics[name] for name in sorted(topics)][:60],
    }
    for name, rows in texts.items():
        lines = [json.dumps({"text": text[:4000]}) for text in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {name: str(folder / f"{name}.jsonl") for name in texts}


def tiny_recipe(folder: Path, *, steps: int = 4) -> dict[str, Any]:
    """A recipe that trains on prose and adapts to code, writing to `folder / "run"`."""
    arguments = {
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "use_cpu": True,
        "save_steps": 1,
        "eval_steps": 4,
    }
    return {
        "name": "tiny",
        "description": "A test.",
        "output_dir": str(folder / "run"),
        "block_size": 32,
        "model": {
            "from_config": {
                "model_type": "llama",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
            }
        },
        "tokenizer": {"train_bpe": {"vocab_size": 300, "max_bytes": 20000}},
        "domains": write_domains(folder),
        "pretrain": {
            "mixture": {"weights": {"prose": 1.0}},
            "training_arguments": {**arguments, "max_steps": max(2, steps // 3), "learning_rate": 1e-2},
        },
        "adapt": {
            "mixture": {"weights": {"code": 0.75, "prose": 0.25}},
            "learning_rates": [1e-4, 2e-2],
            "training_arguments": {**arguments, "logging_steps": 1},
        },
        "adapters": {
            "mos": {
                "peft_type": "MOS",
                "r": 3,
                "equivalent_rank": 2,
                "num_shards": 2,
                "mos_dropout": 0.1,
                "target_modules": ["q_proj", "v_proj"],
            },
            "lora": {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "v_proj"]},
        },
        "evaluation": {"test_bytes": 1500, "validation_bytes": 1000, "document_bytes": 500},
        "smoke": {"adapt.learning_rates": [2e-2], "pretrain": None},
    }


def write_recipe(folder: Path, recipe: dict[str, Any]) -> Path:
    """Write a recipe as YAML."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
