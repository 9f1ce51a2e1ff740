"""The comparison of bench_mwq_experts.py at the size of OLMoE in bf16 on one CUDA device."""

from __future__ import annotations

import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_mwq_experts import EXPERTS, TOP_K, compare_experts
from part import parse


def main() -> None:
    part = parse(__doc__)
    hidden, inner, tokens, rounds = (128, 128, [1, 8], 2) if part.tiny else (2048, 1024, [1, 16, 256, 4096], 16)
    result = compare_experts(
        hidden=hidden, inner=inner, tokens=tokens, dtypes=[part.dtype], rounds=rounds, device=part.device
    )
    setting = {"hidden": hidden, "inner": inner, "experts": EXPERTS, "top_k": TOP_K, "rounds": rounds}
    ratios = {f"time of a layer, {name}": ratio for name, ratio in result.pop("wall_time_ratios").items()}
    part.write("mwq_gpu", setting, {"seconds": result["seconds"]}, ratios)


if __name__ == "__main__":
    main()
