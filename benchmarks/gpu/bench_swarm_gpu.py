"""The comparison of bench_swarm.py on one CUDA device: a swarm of proxies against runs one by one."""

from __future__ import annotations

import sys
from pathlib import Path

import transformers


sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_swarm import SWARM, TRAINER, Size, measure
from part import parse


def main() -> None:
    part = parse(__doc__)
    transformers.logging.set_verbosity_error()
    sizes = [Size(16, 16, 2)] if part.tiny else [Size(64, 128, 8), Size(256, 256, 8)]
    proxies, steps = (2, 2) if part.tiny else (16, 60)
    results = [measure(size, proxies, steps, round_size=proxies, device=part.device) for size in sizes]
    ratios = {}
    for size, result in zip(sizes, results, strict=True):
        label = f"width {size.width}, {size.batch} x {size.length} tokens a step"
        ratios[f"time, {label}: {TRAINER} / {SWARM}"] = result["wall_ratio"]
        tokens = steps * size.batch * size.length
        result["tokens_per_second"] = {name: tokens / value for name, value in result["wall_seconds_per_run"].items()}
    part.write("swarm_gpu", {"proxies": proxies, "steps": steps, "layers": 2}, {"sizes": results}, ratios)


if __name__ == "__main__":
    main()
