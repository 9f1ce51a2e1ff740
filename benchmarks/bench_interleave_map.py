"""Interleaving map-style datasets: exact shares against the random draws of `datasets.interleave_datasets`.

Both give a dataset of the same length over the same sources. The plan alone is timed at ten million positions, in the
three forms in which it is used: ready to train (how many rows of each source every block holds; positions are then
computed when they are read), with every position located in batches, as a training run does, and as two arrays.

    python benchmarks/bench_interleave_map.py
    python benchmarks/bench_interleave_map.py --smoke
"""

from __future__ import annotations

import argparse
import tracemalloc
from collections.abc import Callable

import datasets
import numpy as np
from common import compare, print_table, summarise, time_interleaved, write
from datasets import Dataset

from hf_mixture.data import Mixture, interleave_datasets
from hf_mixture.data.plan import MixturePlan


NUM_SOURCES = 20
BATCH = 4096
OURS, STOCK = "mixture=Mixture(...)", "datasets, all_exhausted"
READY, LOCATED, ARRAYS = "plan, ready to train", "plan, every position located", "plan, as arrays"


def main() -> None:
    parser = argparse.ArgumentParser(description="Interleaving map-style datasets.")
    parser.add_argument("--smoke", action="store_true", help="small sizes, one round, nothing is written")
    smoke = parser.parse_args().smoke
    rows_of_a_source, plan_rows, rounds = (500, 100_000, 2) if smoke else (20_000, 10_000_000, 7)
    datasets.disable_progress_bars()
    shares = np.random.default_rng(0).dirichlet(np.full(NUM_SOURCES, 20.0))
    names = [f"source_{i}" for i in range(NUM_SOURCES)]
    sources = {
        name: Dataset.from_dict({"row": np.arange(rows_of_a_source), "source": np.full(rows_of_a_source, i)})
        for i, name in enumerate(names)
    }
    mixture = Mixture(dict(zip(names, shares.tolist(), strict=True)), unit="examples", normalise=True)
    probabilities = list(mixture.shares)

    def stock() -> Dataset:
        return interleave_datasets(list(sources.values()), probabilities, 0, stopping_strategy="all_exhausted")

    num_rows = len(stock())

    def ours() -> Dataset:
        return interleave_datasets(sources, mixture=mixture, num_examples=num_rows)

    def ready() -> MixturePlan:
        plan = MixturePlan.build(shares, [plan_rows] * NUM_SOURCES, num_examples=plan_rows)
        assert int(plan.counts.sum()) == plan_rows
        return plan

    def located() -> None:
        plan = ready()
        for start in range(0, plan_rows, BATCH):
            plan.locate(range(start, min(start + BATCH, plan_rows)))

    def arrays() -> None:
        ready().materialise()

    candidates = {OURS: ours, STOCK: stock, READY: ready, LOCATED: located, ARRAYS: arrays}
    counts = {OURS: counts_of(ours()), STOCK: counts_of(stock())}
    times = time_interleaved(candidates, rounds=rounds, warmup=1)
    rows = {name: num_rows if name in counts else plan_rows for name in candidates}
    # Per row, so that streams of other lengths can be compared.
    clocks = {
        clock: {name: [1e9 * second / rows[name] for second in samples] for name, samples in seconds.items()}
        for clock, seconds in times._asdict().items()
    }
    nanoseconds = {
        clock: {name: summarise(samples) for name, samples in measured.items()} for clock, measured in clocks.items()
    }
    ratios = {clock: compare(measured, STOCK) for clock, measured in clocks.items()}
    errors = {name: float(np.abs(count - num_rows * shares).max()) for name, count in counts.items()}
    peaks = {name: peak(candidates[name]) for name in (READY, LOCATED)}
    print_table(
        ["what", "ns per row", "datasets / this (cpu)", "(wall)", "largest error of a count", "peak MB"],
        [
            [
                name,
                f"{nanoseconds['cpu'][name]['median']:.1f}",
                *("" if name == STOCK else f"{ratios[c][f'{STOCK} / {name}']['median']:.1f}" for c in ("cpu", "wall")),
                f"{errors[name]:.2f}" if name in errors else "",
                f"{peaks[name] / 1e6:.2f}" if name in peaks else "",
            ]
            for name in candidates
        ],
    )
    if smoke:
        return
    write(
        "interleave_map",
        {
            "sources": NUM_SOURCES,
            "rows": num_rows,
            "plan_rows": plan_rows,
            "batch": BATCH,
            "rounds": rounds,
            "nanoseconds_per_row": nanoseconds,
            "ratio_per_row": ratios,
            "largest_error_of_a_count": errors,
            "peak_bytes": peaks,
            "datasets": datasets.__version__,
        },
    )


def peak(function: Callable[[], object]) -> int:
    """Most bytes that a call holds at once; NumPy reports its arrays to tracemalloc."""
    tracemalloc.start()
    function()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def counts_of(rows: Dataset) -> np.ndarray:
    return np.bincount(np.asarray(rows.with_format("numpy")["source"]), minlength=NUM_SOURCES)


if __name__ == "__main__":
    main()
