"""Experts on disk against experts in memory, on one CUDA device.

Experts on disk are read by a thread, copied on a stream of their own, and must answer as in memory, bit by bit.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from hf_mixture.moe.mwq.cache import ExpertCache
from hf_mixture.moe.mwq.offload import set_expert_cache


sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_mwq_offload import EXPERTS, VOCABULARY, build_model
from common import summarise, time_interleaved
from part import parse


def main() -> None:
    from transformers import Qwen3MoeForCausalLM

    part = parse(__doc__)
    layers, hidden, inner, rounds = (1, 128, 128, 2) if part.tiny else (2, 2048, 1024, 12)
    ratios, seconds = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        memory = build_model(layers, hidden, inner).to(part.device)
        memory.save_pretrained(folder)
        on_disk = Qwen3MoeForCausalLM.from_pretrained(Path(folder), experts_implementation="mwq_offload").eval()
        on_disk.to(part.device)
        ids = torch.randint(VOCABULARY, (4, 128), device=part.device)
        for share in (0.15, 0.3, 0.5):
            budget = int(share * layers * EXPERTS * 3 * hidden * inner)
            cache = ExpertCache(budget, keep_page_cache=False)
            set_expert_cache(on_disk, cache)
            with torch.no_grad():
                assert torch.equal(on_disk(ids).logits, memory(ids).logits), "experts on disk answered differently"
                times = time_interleaved(
                    {"on disk": lambda: on_disk(ids), "in memory": lambda: memory(ids)}, rounds=rounds
                ).wall
            assert cache.statistics.peak_bytes <= budget
            pairs = zip(times["in memory"], times["on disk"], strict=True)
            ratios[f"tokens per second, budget {share:.0%}: on disk / in memory"] = summarise(
                [a / b for a, b in pairs]
            )
            seconds[f"budget {share:.0%}"] = {name: summarise(samples) for name, samples in times.items()}
    setting = {"layers": layers, "hidden": hidden, "inner": inner, "experts": EXPERTS, "rounds": rounds}
    part.write("mwq_offload_gpu", setting | {"average_bits": 3.0}, {"seconds": seconds}, ratios)


if __name__ == "__main__":
    main()
