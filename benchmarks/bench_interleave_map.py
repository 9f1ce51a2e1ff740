"""Interleaving map-style datasets: exact shares against the random draws of `datasets.interleave_datasets`.

Both give a dataset of the same length over the same sources. The plan alone is also timed at ten million rows, with
the memory it keeps.
"""

from __future__ import annotations

import datasets
import numpy as np
from common import compare, print_table, summarise, time_interleaved, write
from datasets import Dataset

from hf_mixture.data import Mixture, interleave_datasets
from hf_mixture.data.plan import MixturePlan


NUM_SOURCES = 20
ROWS_OF_A_SOURCE = 20_000
PLAN_ROWS = 10_000_000
ROUNDS = 7
OURS, STOCK, PLAN = "mixture=Mixture(...)", "datasets, all_exhausted", "plan of 10M rows"


def main() -> None:
    datasets.disable_progress_bars()
    shares = np.random.default_rng(0).dirichlet(np.full(NUM_SOURCES, 20.0))
    names = [f"source_{i}" for i in range(NUM_SOURCES)]
    sources = {
        name: Dataset.from_dict({"row": np.arange(ROWS_OF_A_SOURCE), "source": np.full(ROWS_OF_A_SOURCE, i)})
        for i, name in enumerate(names)
    }
    mixture = Mixture(dict(zip(names, shares.tolist(), strict=True)), unit="examples", normalise=True)
    probabilities = list(mixture.shares)

    def stock() -> Dataset:
        return interleave_datasets(list(sources.values()), probabilities, 0, stopping_strategy="all_exhausted")

    num_rows = len(stock())

    def ours() -> Dataset:
        return interleave_datasets(sources, mixture=mixture, num_examples=num_rows)

    def plan() -> MixturePlan:
        built = MixturePlan.build(shares, [PLAN_ROWS] * NUM_SOURCES, num_examples=PLAN_ROWS)
        built.materialise()
        return built

    counts = {OURS: counts_of(ours()), STOCK: counts_of(stock())}
    times = time_interleaved({OURS: ours, STOCK: stock, PLAN: plan}, rounds=ROUNDS, warmup=1)
    rows = {OURS: num_rows, STOCK: num_rows, PLAN: PLAN_ROWS}
    # Per row, so that the plan of another length can be compared.
    clocks = {
        clock: {name: [1e9 * second / rows[name] for second in samples] for name, samples in seconds.items()}
        for clock, seconds in times._asdict().items()
    }
    nanoseconds = {
        clock: {name: summarise(samples) for name, samples in measured.items()} for clock, measured in clocks.items()
    }
    ratios = {
        clock: compare({name: measured[name] for name in (STOCK, OURS)}, STOCK)
        | compare({name: measured[name] for name in (STOCK, PLAN)}, STOCK)
        for clock, measured in clocks.items()
    }
    errors = {name: float(np.abs(count - num_rows * shares).max()) for name, count in counts.items()}
    print_table(
        ["what", "ns per row", "largest error of a count"],
        [
            [name, f"{row['median']:.0f}", f"{errors[name]:.2f}" if name in errors else ""]
            for name, row in nanoseconds["cpu"].items()
        ],
    )
    write(
        "interleave_map",
        {
            "sources": NUM_SOURCES,
            "rows": num_rows,
            "plan_rows": PLAN_ROWS,
            "rounds": ROUNDS,
            "nanoseconds_per_row": nanoseconds,
            "ratio_per_row": ratios,
            "largest_error_of_a_count": errors,
            "plan_bytes": plan().prefix.nbytes,
            "datasets": datasets.__version__,
        },
    )


def counts_of(rows: Dataset) -> np.ndarray:
    return np.bincount(np.asarray(rows.with_format("numpy")["source"]), minlength=NUM_SOURCES)


if __name__ == "__main__":
    main()
