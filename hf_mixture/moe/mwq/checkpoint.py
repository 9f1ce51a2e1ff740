"""A checkpoint to a nested one, in a run that can be killed and resumed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hf_mixture.hub.damage import loading
from hf_mixture.moe.mwq.config import MwqConfig


def quantise_checkpoint(
    model: str, out: str | Path, config: MwqConfig | None = None, **options: Any
) -> dict[str, int]:
    """Quantise a sparse checkpoint and save it, with its tokenizer.

    What is finished is kept in `out/.parts`, one file for each matrix: after a kill, the same call goes on with the
    rest, and gives the same planes.

    Args:
        model: Folder or Hub repository.
        out: Folder to write.
        config: How to quantise. Default: `MwqConfig()`.
        options: As for `from_pretrained`, such as `revision` or `device_map`.

    Returns:
        Bytes of the weight files, by name.

    Raises:
        ValueError: If the model cannot be quantised.
        FileNotFoundError: If it cannot be found.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target = Path(out)
    parts = target / ".parts"
    config = MwqConfig(**{**(config or MwqConfig()).to_dict(), "parts": str(parts)})
    with loading(model):
        quantised = AutoModelForCausalLM.from_pretrained(model, quantization_config=config, **options)
    quantised.save_pretrained(target)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=options.get("revision"))
    except (OSError, ValueError):
        tokenizer = None
    if tokenizer is not None:
        tokenizer.save_pretrained(target)
    shutil.rmtree(parts)
    return {path.name: path.stat().st_size for path in sorted(target.glob("*.safetensors"))}
