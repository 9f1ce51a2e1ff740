"""The comparison of bench_mos_step.py at a billion parameters in bf16 on one CUDA device."""

from __future__ import annotations

import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parents[1]))

from common import write
from mos_models import VOCABULARY, adapter_configs, base_model, compare_steps


LAYERS, HIDDEN, BATCH, LENGTH, ROUNDS = 22, 2048, 4, 1024, 24


def main() -> None:
    if not torch.cuda.is_available():
        print("skipped: this benchmark needs a CUDA device")
        return
    with torch.device("cuda"):
        base = base_model(layers=LAYERS, hidden=HIDDEN, num_key_value_heads=4, vocab_size=32000).bfloat16()
        tokens = torch.randint(VOCABULARY, (BATCH, LENGTH))
    result = compare_steps(base, adapter_configs(layers=LAYERS), tokens, rounds=ROUNDS)
    setting = {"layers": LAYERS, "hidden": HIDDEN, "batch": BATCH, "length": LENGTH, "rounds": ROUNDS, "dtype": "bf16"}
    setting["base_parameters"] = sum(parameter.numel() for parameter in base.parameters())
    write("mos_gpu", {"setting": setting, **result})


if __name__ == "__main__":
    main()
