"""A search recipe of seconds on real text of the standard library: sources, documentation, tables of code points."""

from __future__ import annotations

import encodings
import json
from pathlib import Path
from typing import Any

import yaml
from tiny_recipe import write_domains


MODEL = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def write_three_domains(folder: Path) -> dict[str, str]:
    """Write the domains `code`, `prose` and `tables` as JSON lines."""
    paths = sorted(Path(encodings.__file__).parent.glob("cp*.py"))
    lines = [json.dumps({"text": path.read_text(encoding="utf-8")[2000:5000]}) for path in paths]
    (folder / "tables.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {**write_domains(folder), "tables": str(folder / "tables.jsonl")}


def tiny_search(folder: Path, method: str = "regmix", **settings: Any) -> dict[str, Any]:
    """A search over three domains for the loss on one of them, writing to `folder / "run"`.

    Args:
        folder: Where the text is written.
        method: Name of the method.
        settings: Settings of the method.
    """
    arguments = {"per_device_train_batch_size": 4, "learning_rate": 1e-2, "use_cpu": True}
    recipe: dict[str, Any] = {
        "name": "tiny",
        "description": "A test.",
        "output_dir": str(folder / "run"),
        "block_size": 16,
        "domains": write_three_domains(folder),
        "tokenizer": {"train_bpe": {"vocab_size": 280, "max_bytes": 20000}},
        "objective": {"metric": "loss/code", "direction": "minimize"},
        "method": {"name": method, "settings": settings},
        "comparison": {"model": dict(MODEL), "seeds": [0, 1], "training_arguments": {**arguments, "max_steps": 6}},
        "evaluation": {"test_bytes": 1500, "validation_bytes": 1000, "document_bytes": 500},
        "smoke": {"comparison.seeds": [3]},
    }
    if method != "aioli":
        recipe["proxy"] = {"model": dict(MODEL), "num_steps": 4, "batch_size": 4, "learning_rate": 1e-2}
    return recipe


def write_search(folder: Path, recipe: dict[str, Any]) -> Path:
    """Write a recipe as YAML."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
