"""The check that a saved adapter is what was trained: loaded by a fresh process, it gives the same logits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


# Largest difference, relative to the largest logit: float32 is rounded at 6e-8, half types at 8e-3 (bfloat16).
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 5e-3, "auto": 2e-2}


def save_reference(model: Any, inputs: Any, path: Path) -> None:
    """Save the inputs of a model and the logits that it gives for them.

    Args:
        model: The trained model.
        inputs: Token ids (`torch.Tensor` of shape `(N, T)`), or arguments of the model: tensors in mappings and lists.
        path: A safetensors file; its folder exists.
    """
    from safetensors.torch import save_file

    given = inputs if isinstance(inputs, Mapping) else {"input_ids": inputs}
    tensors = {name: value.contiguous() for name, value in flat(given).items()}
    save_file({**tensors, "logits": reference_logits(model, given)}, str(path))


def reference_logits(model: Any, inputs: Mapping[str, Any]) -> Any:
    """Return the float32 logits of the arguments of a model, on the CPU."""
    import torch

    device = next(model.parameters()).device
    moved = nested({name: value.to(device) for name, value in flat(inputs).items()})
    settings = {"use_cache": False} if "input_ids" in inputs else {}
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(**moved, **settings).logits
    model.train(was_training)
    return logits.float().cpu().contiguous()


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Name everything in mappings and lists by its path.

    Example:
        >>> from hf_mixture.training.reload import flat, nested
        >>> flat({"a": [1, {"b": 2}]})
        {'a.0': 1, 'a.1.b': 2}
        >>> nested(flat({"a": [1, {"b": 2}]}))
        {'a': [1, {'b': 2}]}
    """
    if not isinstance(values, Mapping | list | tuple):
        return {prefix: values}
    items = values.items() if isinstance(values, Mapping) else enumerate(values)
    found: dict[str, Any] = {}
    for key, value in items:
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def nested(values: Mapping[str, Any]) -> Any:
    """Undo `flat`; keys that are numbers make a list."""
    parts: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        head, _, rest = path.partition(".")
        parts.setdefault(head, {})[rest] = value
    made = {head: inner[""] if "" in inner else nested(inner) for head, inner in parts.items()}
    return list(made.values()) if all(head.isdigit() for head in made) else made


def check_in_fresh_process(
    folders: Mapping[str, Path | str],
    references: Mapping[str, Path],
    loading: Mapping[str, Any],
    *,
    with_edits: bool = False,
    environment: Mapping[str, str] | None = None,
) -> dict[str, dict[str, float]]:
    """Load saved folders through `AutoModelForCausalLM.from_pretrained` in one new process and compare logits.

    Args:
        folders: Saved adapters or models, or their repositories on the Hub, by name.
        references: The file of `save_reference` for each of them.
        loading: Keyword arguments of `from_pretrained`, as of `hf_mixture.training.models.loading_arguments`.
        with_edits: Whether expert edits lie beside them; `AutoMoTE.from_pretrained` then loads them. Default: False.
        environment: Variables of the process that differ from those of this one. Default: none.

    Returns:
        For each name the largest difference and the largest logit.

    Raises:
        RuntimeError: If the process fails or a difference is above the tolerance.
    """
    job = {name: [str(folders[name]), str(references[name])] for name in folders}
    request = {"job": job, "loading": dict(loading), "with_edits": with_edits}
    command = [sys.executable, "-m", "hf_mixture.training.reload", json.dumps(request)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})}
    )
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

    import hf_mixture  # registers the adapter types, as a user does
    from hf_mixture.training.models import load_model

    asked = json.loads(request)

    def load(place: str) -> Any:
        if asked["with_edits"]:
            return hf_mixture.AutoMoTE.from_pretrained(place, **asked["loading"])
        return load_model(place, asked["loading"])

    found = {}
    for name, (folder, reference) in asked["job"].items():
        inputs = load_file(reference)
        expected = inputs.pop("logits")
        logits = reference_logits(load(folder), nested(dict(sorted(inputs.items(), key=_place))))
        difference = (logits - expected).abs().max()
        found[name] = {"max_difference": float(difference), "max_logit": float(expected.abs().max())}
    print(json.dumps(found))


def _place(item: tuple[str, Any]) -> list[tuple[int, str]]:
    """Order of a path, with the places of a list as numbers: a safetensors file has an order of its own."""
    return [(int(key) if key.isdigit() else -1, key) for key in item[0].split(".")]


if __name__ == "__main__":
    _main(sys.argv[1])
