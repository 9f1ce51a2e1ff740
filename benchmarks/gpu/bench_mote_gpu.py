"""The comparison of bench_mote_patch.py with layers of the size of OLMoE in bf16 on one CUDA device."""

from __future__ import annotations

import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_mote_patch import EXPERTS, MODES, OFF, TOP_K, edited, measure, qwen3_moe
from part import parse


def main() -> None:
    part = parse(__doc__)
    layers, hidden, inner, batch, length, rounds = (1, 64, 16, 1, 8, 2) if part.tiny else (4, 2048, 1024, 4, 512, 16)
    with torch.device(part.device):
        base = qwen3_moe(layers, hidden_size=hidden, moe_intermediate_size=inner, num_attention_heads=hidden // 32)
        tokens = torch.randint(1024, (batch, length))
    base = base.to(part.dtype)
    models = {"unedited": base}
    models |= {f"patch, {mode}": edited(base, mode) for mode in MODES}
    models["interceptor"] = edited(base, "reroute", intercept=True)
    result = measure(models, tokens, rounds, [*models][1:], "qwen3_moe")
    setting = {"layers": layers, "hidden": hidden, "inner": inner, "experts": EXPERTS, "top_k": TOP_K}
    setting |= {"off_per_layer": OFF, "batch": batch, "length": length, "rounds": rounds}
    ratios = {
        f"time of {phase}: {name.removesuffix(', wall')}": ratio
        for phase, measured in result.items()
        for name, ratio in measured["ratios"].items()
        if name.endswith(", wall")
    }
    part.write("mote_gpu", setting, {"qwen3_moe": result}, ratios)


if __name__ == "__main__":
    main()
