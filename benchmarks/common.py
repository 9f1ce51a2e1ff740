"""Measuring candidates side by side in one process, and writing what was measured.

Candidates run in interleaved rounds, in an order that rotates from round to round: what disturbs the machine disturbs
all of them alike. Ratios are medians of the ratios inside each round.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm


RESULTS = Path(__file__).parent / "results"
FORMAT = "hf_mixture.benchmark"
FORMAT_VERSION = 1
MIB = 2**20


def describe_machine() -> dict[str, Any]:
    """The hardware and the library versions that a measurement belongs to."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "peft")},
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def synchronize() -> None:
    """Wait until the accelerator has done its work, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Times(NamedTuple):
    """Seconds per run of each candidate, by round."""

    wall: dict[str, list[float]]
    cpu: dict[str, list[float]]


def time_interleaved(
    candidates: dict[str, Callable[[], Any]], *, rounds: int = 24, warmup: int = 2, title: str = "rounds"
) -> Times:
    """Run all candidates in every round and time each run.

    Args:
        candidates: Functions to time, by name.
        rounds: Measured rounds.
        warmup: Rounds before them that are not measured.
        title: Text of the progress bar.

    Returns:
        Wall-clock time, which other work on the machine lengthens, and processor time of all threads of this process,
        which it does not: `rounds` values for each candidate.
    """
    names = list(candidates)
    times = Times({name: [] for name in names}, {name: [] for name in names})
    for turn in tqdm(range(-warmup, rounds), desc=title):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            synchronize()
            wall, cpu = time.perf_counter(), time.process_time()
            candidates[name]()
            synchronize()
            if turn >= 0:
                times.wall[name].append(time.perf_counter() - wall)
                times.cpu[name].append(time.process_time() - cpu)
    return times


def summarise(samples: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and extremes of a sample."""
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return {"median": median, "quartile_1": low, "quartile_3": high, "min": min(samples), "max": max(samples)}


def compare(times: dict[str, list[float]], subject: str) -> dict[str, dict[str, float]]:
    """How long the subject takes relative to each other candidate; below 1 the subject is faster."""
    return {
        f"{subject} / {name}": summarise([ours / theirs for ours, theirs in zip(times[subject], samples, strict=True)])
        for name, samples in times.items()
        if name != subject
    }


def peak_bytes(function: Callable[[], Any]) -> int:
    """Highest number of bytes of tensors that a call holds at once beyond those that exist before it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    # The tables of the profiler attribute allocations to operators; their running sum is in the raw events only.
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def write(name: str, result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write a result with the machine that made it to `results/NAME.json`, or to another folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    record = {"format": FORMAT, "version": FORMAT_VERSION, "name": name, "machine": describe_machine(), **result}
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written to {path.relative_to(RESULTS.parents[1]) if folder == RESULTS else path}")
    return path


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table with aligned columns."""
    cells = [list(map(str, header)), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
