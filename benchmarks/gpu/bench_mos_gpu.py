"""The comparison of bench_mos_step.py at a billion parameters in bf16 on one CUDA device: MoS against LoRA."""

from __future__ import annotations

import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parents[1]))

from mos_models import EQUIVALENT_RANK, MOS, RANK, VOCABULARY, adapter_configs, base_model, compare_steps
from part import parse


def main() -> None:
    part = parse(__doc__)
    layers, hidden, batch, length, rounds = (8, 64, 1, 16, 2) if part.tiny else (22, 2048, 4, 1024, 16)
    with torch.device(part.device):
        base = base_model(layers=layers, hidden=hidden, num_key_value_heads=max(1, hidden // 512), vocab_size=32000)
        tokens = torch.randint(VOCABULARY, (batch, length))
    base = base.to(part.dtype)
    configs = adapter_configs(layers=layers)
    compared = (MOS, f"LoRA r={RANK}", f"LoRA r={EQUIVALENT_RANK}")
    result = compare_steps(base, {name: configs[name] for name in compared}, tokens, rounds=rounds)
    setting = {"layers": layers, "hidden": hidden, "batch": batch, "length": length, "rounds": rounds}
    setting["base_parameters"] = sum(parameter.numel() for parameter in base.parameters())
    ratios = {f"time of a training step: {name}": ratio for name, ratio in result["time_ratios"].items()}
    part.write("mos_gpu", setting, result, ratios)


if __name__ == "__main__":
    main()
