"""64 proxies trained one by one by the stock Trainer, and stacked as a swarm: the same losses, the time of each.

All 64 runs are made both ways, in rounds of 16 whose order alternates. A run is a whole experiment: building the
model, training on its mixture, and the losses of seven domains. Several sizes are measured, because stacking saves
what a run and a step cost beside arithmetic, and that share shrinks as the proxies grow.

    python benchmarks/bench_swarm.py [--proxies 64] [--steps 100]
"""

from __future__ import annotations

import argparse
import sysconfig
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from common import print_table, summarise, write
from tqdm import tqdm

from hf_mixture.data.proxy import ProxyRunner, ProxySpec, ProxySwarm, tiny_llama
from hf_mixture.data.search import Trial


PACKAGES = ("asyncio", "email", "encodings", "idlelib", "lib2to3", "tkinter", "unittest")
ROUND = 16
EVAL_SAMPLES = 32
TRAINER, SWARM = "Trainer, one by one", "swarm"


class Size(NamedTuple):
    """Width of the Llama of 2 layers, tokens of a sample, samples of a step."""

    width: int
    length: int
    batch: int


SIZES = (Size(16, 32, 8), Size(32, 32, 8), Size(32, 64, 8), Size(64, 64, 4), Size(64, 64, 8), Size(64, 128, 8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proxies", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    results = [measure(size, arguments.proxies, arguments.steps) for size in SIZES]
    print_table(
        [
            "width",
            "tokens",
            "samples",
            "Trainer s/run",
            "swarm s/run",
            "wall ratio",
            "cpu ratio",
            "largest difference",
        ],
        [
            [
                *result["size"].values(),
                *(f"{result['wall_seconds_per_run'][name]:.3f}" for name in (TRAINER, SWARM)),
                f"{result['wall_ratio']['median']:.2f}",
                f"{result['cpu_ratio']['median']:.2f}",
                f"{result['largest_difference_of_a_loss']:.1e}",
            ]
            for result in results
        ],
    )
    write(
        "swarm",
        {
            "proxies": arguments.proxies,
            "steps": arguments.steps,
            "proxies_in_a_round": ROUND,
            "layers": 2,
            "domains": len(PACKAGES),
            "eval_samples_of_a_domain": EVAL_SAMPLES,
            "all_runs_timed": True,
            "sizes": results,
        },
    )


def measure(
    size: Size, num_proxies: int, num_steps: int, *, round_size: int = ROUND, device: str = "cpu"
) -> dict[str, Any]:
    """Run all proxies both ways and compare."""
    train, validation = samples(size.length)
    model = {**tiny_llama(), "hidden_size": size.width, "intermediate_size": 2 * size.width}
    spec = ProxySpec(
        model=model, num_steps=num_steps, batch_size=size.batch, learning_rate=3e-3, eval_samples=EVAL_SAMPLES
    )
    shares = np.random.default_rng(0).dirichlet(np.ones(len(PACKAGES)), num_proxies + 2)
    trials = [Trial(f"run-{i:03d}", PACKAGES, tuple(share.tolist())) for i, share in enumerate(shares)]
    experiments = {
        TRAINER: ProxyRunner(spec, train, validation, device=device),
        SWARM: ProxySwarm(spec, train, validation, device=device, max_stack=round_size),
    }
    warmup, trials = trials[:2], trials[2:]
    for kind in experiments.values():
        kind.run(warmup)
    wall: dict[str, list[float]] = {name: [] for name in experiments}
    cpu: dict[str, list[float]] = {name: [] for name in experiments}
    runs: dict[str, list[Any]] = {name: [] for name in experiments}
    starts = range(0, num_proxies, round_size)
    for turn, start in enumerate(tqdm(starts, desc=f"{size}", disable=None)):
        for name in list(experiments)[:: 1 if turn % 2 else -1]:
            began = time.perf_counter(), time.process_time()
            runs[name] += experiments[name].run(trials[start : start + round_size])
            wall[name].append(time.perf_counter() - began[0])
            cpu[name].append(time.process_time() - began[1])
    return {
        "size": size._asdict(),
        "wall_seconds_per_run": {name: sum(values) / num_proxies for name, values in wall.items()},
        "cpu_seconds_per_run": {name: sum(values) / num_proxies for name, values in cpu.items()},
        "wall_ratio": ratio(wall),
        "cpu_ratio": ratio(cpu),
        "largest_difference_of_a_loss": max(
            abs(one.metrics[name] - two.metrics[name])
            for one, two in zip(runs[TRAINER], runs[SWARM], strict=True)
            for name in one.metrics
        ),
    }


def ratio(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Time of the Trainer over time of the swarm, by round; above 1 the swarm is faster."""
    ratios = [theirs / ours for theirs, ours in zip(seconds[TRAINER], seconds[SWARM], strict=True)]
    return summarise(ratios * 2 if len(ratios) == 1 else ratios)


def samples(length: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Sources of packages of the standard library as blocks of bytes: to train on, and every tenth held out."""
    train, validation = {}, {}
    for package in PACKAGES:
        files = sorted(Path(sysconfig.get_path("stdlib"), package).rglob("*.py"))
        text = b"".join(file.read_bytes() for file in files)[:400_000]
        blocks = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(torch.int32)
        blocks = blocks[: len(blocks) // length * length].view(-1, length)
        held_out = torch.arange(len(blocks)) % 10 == 0
        train[package], validation[package] = blocks[~held_out], blocks[held_out]
    return train, validation


if __name__ == "__main__":
    main()
