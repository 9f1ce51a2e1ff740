"""The comparison of bench_mwq_experts.py at the size of OLMoE in bf16 on one CUDA device, and experts on disk there.

Experts on disk are read by a thread, copied on a stream of their own, and must answer as in memory, bit by bit.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch


sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_mwq_experts import compare_experts
from bench_mwq_offload import build_model
from common import summarise, time_interleaved, write

from hf_mixture.moe.mwq.cache import ExpertCache
from hf_mixture.moe.mwq.offload import set_expert_cache


HIDDEN, INNER, ROUNDS = 2048, 1024, 24


def compare_offload() -> dict[str, Any]:
    """Prompts on a model with its experts on disk and in memory."""
    from transformers import Qwen3MoeForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        memory = build_model(4, HIDDEN, INNER).to("cuda")
        memory.save_pretrained(folder)
        on_disk = Qwen3MoeForCausalLM.from_pretrained(folder, experts_implementation="mwq_offload").eval().to("cuda")
        ids = torch.randint(512, (4, 128), device="cuda")
        ratios = {}
        for budget in (0.15, 0.3, 0.5):
            weights = 4 * 16 * 3 * HIDDEN * INNER
            cache = ExpertCache(int(budget * weights), keep_page_cache=False)
            set_expert_cache(on_disk, cache)
            with torch.no_grad():
                assert torch.equal(on_disk(ids).logits, memory(ids).logits), "experts on disk answered differently"
                times = time_interleaved(
                    {"on disk": lambda: on_disk(ids), "in memory": lambda: memory(ids)}, rounds=ROUNDS
                ).wall
            assert cache.statistics.peak_bytes <= int(budget * weights)
            pairs = zip(times["in memory"], times["on disk"], strict=True)
            ratios[f"budget {budget:.0%}: on disk / in memory, tokens per second"] = summarise(
                [a / b for a, b in pairs]
            )
    return ratios


def main() -> None:
    if not torch.cuda.is_available():
        print("skipped: this benchmark needs a CUDA device")
        return
    result = compare_experts(
        hidden=HIDDEN, inner=INNER, tokens=[1, 16, 256, 4096], dtypes=[torch.bfloat16], rounds=ROUNDS, device="cuda"
    )
    write("mwq_gpu", result | {"token_rate_ratios": compare_offload()})


if __name__ == "__main__":
    main()
