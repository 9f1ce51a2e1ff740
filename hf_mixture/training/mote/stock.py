"""Answers of a saved model in a process that knows transformers and not this package."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


# Run as it stands: what it imports is all that the saved model needs.
_PROGRAM = """
import json, sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

folder, given, written, options = sys.argv[1:]
model, inputs = AutoModelForCausalLM.from_pretrained(folder).eval(), load_file(given)
with torch.no_grad():
    found = {"logits": model(**inputs).logits, "generated": model.generate(**inputs, **json.loads(options))}
assert not any(name.partition(".")[0] == "hf_mixture" for name in sys.modules), "the package was imported"
save_file(found, written)
"""


def answer_in_stock_process(folder: Path, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Let a new process load a model with transformers alone, and answer.

    Args:
        folder: The saved model.
        inputs: `input_ids` and `attention_mask` [B, S].
        options: Options of `generate`.

    Returns:
        `logits` [B, S, V] and `generated` [B, S + new tokens].

    Raises:
        RuntimeError: If the process fails, or imported this package.
    """
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory() as place:
        given, written = Path(place) / "inputs.safetensors", Path(place) / "found.safetensors"
        save_file({name: value.contiguous() for name, value in inputs.items()}, str(given))
        # -P: the working folder is not where modules are looked for.
        command = [sys.executable, "-P", "-c", _PROGRAM, str(folder), str(given), str(written), json.dumps(options)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{folder} does not answer in a process with transformers alone:\n{done.stderr}")
        return load_file(written)
