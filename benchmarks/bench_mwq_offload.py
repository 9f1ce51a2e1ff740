"""Experts on disk: orders of loading and rules of eviction, against each other and against experts in memory.

Prompts and decoding of one nested model, with a mix of widths by gate and error, at budgets of a part of all experts
at 8 bits. The page cache is left out, so that what the budget does not hold comes from the disk in every round. All
candidates give the same tokens, bit by bit, or the benchmark stops.

`--read-limits` adds disks that are slower than the one at hand: the block I/O controller of Linux (version 1, as root)
holds this process to so many megabytes a second.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import print_table, summarise, time_interleaved, write

from hf_mixture.moe.mwq.budget import calibrate_bits, set_bit_budget
from hf_mixture.moe.mwq.cache import ExpertCache
from hf_mixture.moe.mwq.config import MwqConfig
from hf_mixture.moe.mwq.offload import set_expert_cache
from hf_mixture.moe.mwq.quantise import quantise_experts


EXPERTS, TOP_K, VOCABULARY = 16, 2, 512
SYSTEMS = {
    "hebf": ("hebf", "high_bits_first"),
    "expert_id": ("expert_id", "high_bits_first"),
    "johnson": ("johnson", "high_bits_first"),
    "hebf, lru": ("hebf", "lru"),
    "hebf, static": ("hebf", "static"),
}


def build_model(layers: int, hidden: int, inner: int) -> Any:
    """A random Qwen3-MoE, nested, at 3 bits on average."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=hidden,
        moe_intermediate_size=inner,
        num_experts=EXPERTS,
        num_experts_per_tok=TOP_K,
        norm_topk_prob=True,
        initializer_range=0.1,
    )
    model = Qwen3MoeForCausalLM(config).eval()
    quantise_experts(model, MwqConfig())
    calibrate_bits(model, [{"input_ids": torch.randint(VOCABULARY, (8, 64))}])
    set_bit_budget(model, 3.0)
    return model


@contextlib.contextmanager
def limited_disk(folder: str, megabytes: float | None) -> Iterator[None]:
    """Hold reads of this process from the disk of a folder to so many megabytes a second."""
    if megabytes is None:
        yield
        return
    root = Path("/sys/fs/cgroup/blkio")
    group = root / f"hf_mixture_{os.getpid()}"
    device = os.stat(folder).st_dev
    group.mkdir()
    try:
        limit = f"{os.major(device)}:{os.minor(device)} {int(megabytes * 1e6)}"
        (group / "blkio.throttle.read_bps_device").write_text(limit)
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (root / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def main() -> None:
    from transformers import Qwen3MoeForCausalLM

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--inner", type=int, default=512)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.15, 0.3, 0.5])
    parser.add_argument("--read-limits", type=float, nargs="*", default=[], help="megabytes a second")
    parser.add_argument("--dry-run", action="store_true", help="print the tables without writing results")
    arguments = parser.parse_args()
    ratios: dict[str, dict[str, float]] = {}
    seconds: dict[str, dict[str, float]] = {}
    caches: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        memory = build_model(arguments.layers, arguments.hidden, arguments.inner)
        memory.save_pretrained(folder)
        weights = arguments.layers * EXPERTS * 3 * arguments.hidden * arguments.inner
        generator = torch.Generator().manual_seed(1)
        prompts = {
            "prompt of 64": torch.randint(VOCABULARY, (1, 64), generator=generator),
            "prompts of 8 x 64": torch.randint(VOCABULARY, (8, 64), generator=generator),
            "decoding 16": torch.randint(VOCABULARY, (1, 8), generator=generator),
        }
        settings = [(limit, budget) for limit in [None, *arguments.read_limits] for budget in arguments.budgets]
        for limit, budget in settings:
            models, rules = {}, {}
            for name, (order, eviction) in SYSTEMS.items():
                models[name] = Qwen3MoeForCausalLM.from_pretrained(
                    Path(folder), experts_implementation="mwq_offload"
                ).eval()
                cache = ExpertCache(
                    int(budget * weights),
                    order=order,  # type: ignore[arg-type]
                    eviction=eviction,  # type: ignore[arg-type]
                    keep_page_cache=False,
                )
                set_expert_cache(models[name], cache)
                rules[name] = cache
            for task, ids in prompts.items():
                disk = "" if limit is None else f"{limit:g} MB/s, "
                label = f"{disk}budget {budget:.0%}, {task}"

                def run(model: Any, task: str = task, ids: torch.Tensor = ids) -> torch.Tensor:
                    with torch.no_grad():
                        if task.startswith("prompt"):
                            logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
                            return logits
                        options = {"max_new_tokens": 16, "min_new_tokens": 16, "do_sample": False}
                        tokens: torch.Tensor = model.generate(ids, **options)
                        return tokens

                expected = run(memory)
                for name, model in models.items():
                    assert torch.equal(run(model), expected), f"{label}: {name} computed something else"
                    rules[name].reset()
                candidates = {name: lambda model=model, run=run: run(model) for name, model in models.items()}
                candidates["in memory"] = lambda run=run: run(memory)
                with limited_disk(folder, limit):
                    times = time_interleaved(candidates, rounds=arguments.rounds, title=label).wall
                for name in SYSTEMS:
                    statistics = vars(rules[name].statistics).copy()
                    caches[f"{label}: {name}"] = statistics
                    # Speed as tokens per second: above 1 the first is faster.
                    for other in ("in memory", "expert_id"):
                        if name != other:
                            pairs = zip(times[other], times[name], strict=True)
                            ratios[f"{label}: {name} / {other}"] = summarise([b / a for b, a in pairs])
                seconds[label] = {name: summarise(samples)["median"] for name, samples in times.items()}
    print_table(
        ("ratio of tokens per second", "median", "quartiles"),
        [(n, f"{r['median']:.3f}", f"{r['quartile_1']:.3f}..{r['quartile_3']:.3f}") for n, r in ratios.items()],
    )
    print_table(
        ("cache", "read MB", "evictions", "bubbles s", "peak MB"),
        [
            (
                n,
                f"{c['bytes_read'] / 1e6:.1f}",
                c["evictions"],
                f"{c['bubble_seconds']:.2f}",
                f"{c['peak_bytes'] / 1e6:.1f}",
            )
            for n, c in caches.items()
        ],
    )
    if not arguments.dry_run:
        write(
            "mwq_offload",
            {
                "page_cache": "left out: dropped after every read",
                "experts": EXPERTS,
                "experts_per_token": TOP_K,
                "layers": arguments.layers,
                "hidden": arguments.hidden,
                "inner": arguments.inner,
                "average_bits": 3.0,
                "seconds": seconds,
                "token_rate_ratios": ratios,
                "caches": caches,
            },
        )


if __name__ == "__main__":
    main()
