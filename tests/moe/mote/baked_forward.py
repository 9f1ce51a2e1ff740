"""Loads saved models in a process without hf_mixture, and writes their logits: `python baked_forward.py FOLDER...`.

Each folder holds a model, and `inputs.safetensors` with the arguments of its forward pass.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file


def main(folders: list[str]) -> None:
    for name in folders:
        folder = Path(name)
        architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
        loader = (
            transformers.AutoModelForCausalLM
            if architecture.endswith("ForCausalLM")
            else getattr(transformers, architecture)
        )
        model = loader.from_pretrained(folder, dtype=torch.float32).eval()
        # Matrix products round differently for weights at odd addresses, as those mapped from a file are.
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        with torch.no_grad():
            logits = model(**load_file(folder / "inputs.safetensors")).logits
        save_file({"logits": logits.contiguous()}, folder / "logits.safetensors")
    assert not any(module.split(".")[0] == "hf_mixture" for module in sys.modules)


if __name__ == "__main__":
    main(sys.argv[1:])
