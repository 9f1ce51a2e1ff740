"""The check that a saved adapter is what was trained: loaded by a fresh process, it gives the same logits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


# Largest difference, relative to the largest logit: float32 is rounded at 6e-8, half types at 8e-3 (bfloat16).
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 5e-3, "auto": 2e-2}


def save_reference(model: Any, input_ids: Any, path: Path) -> None:
    """Save token ids and the logits that a model gives for them.

    Args:
        model: The trained model.
        input_ids (`torch.Tensor` of shape `(N, T)`): The token ids.
        path: A safetensors file.
    """
    from safetensors.torch import save_file

    save_file({"input_ids": input_ids.contiguous(), "logits": reference_logits(model, input_ids)}, str(path))


def reference_logits(model: Any, input_ids: Any) -> Any:
    """Return the float32 logits of token ids, on the CPU."""
    import torch

    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=input_ids.to(next(model.parameters()).device), use_cache=False).logits
    model.train(was_training)
    return logits.float().cpu().contiguous()


def check_in_fresh_process(
    folders: Mapping[str, Path], references: Mapping[str, Path], loading: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Load saved folders through `AutoModelForCausalLM.from_pretrained` in one new process and compare logits.

    Args:
        folders: Saved adapters or models, by name.
        references: The file of `save_reference` for each of them.
        loading: Keyword arguments of `from_pretrained`, as of `hf_mixture.training.models.loading_arguments`.

    Returns:
        For each name the largest difference and the largest logit.

    Raises:
        RuntimeError: If the process fails or a difference is above the tolerance.
    """
    job = {name: [str(folders[name]), str(references[name])] for name in folders}
    command = [sys.executable, "-m", "hf_mixture.training.reload", json.dumps({"job": job, "loading": dict(loading)})]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"what was saved could not be loaded by a fresh process:\n{done.stderr}")
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    limit = TOLERANCE[loading["dtype"]]
    for name, entry in found.items():
        # Written so that NaN fails.
        if not entry["max_difference"] <= limit * max(1.0, entry["max_logit"]):
            raise RuntimeError(
                f"what was saved in {folders[name]} does not reload as it was trained: its logits differ by "
                f"{entry['max_difference']:.3g} (largest logit {entry['max_logit']:.3g}, tolerance {limit:g} of it)"
            )
    return found


def _main(request: str) -> None:
    from safetensors.torch import load_file

    import hf_mixture  # noqa: F401 - registers the adapter types, as a user does
    from hf_mixture.training.models import load_model

    asked = json.loads(request)
    found = {}
    for name, (folder, reference) in asked["job"].items():
        expected = load_file(reference)
        logits = reference_logits(load_model(folder, asked["loading"]), expected["input_ids"])
        difference = (logits - expected["logits"]).abs().max()
        found[name] = {"max_difference": float(difference), "max_logit": float(expected["logits"].abs().max())}
    print(json.dumps(found))


if __name__ == "__main__":
    _main(sys.argv[1])
