"""Mixed streams: `MixtureIterableDataset` against the iterable `datasets.interleave_datasets`, in rows per second.

Both read the same three in-memory streams in this process, in equal shares: rows of one number, and rows of 2048
tokens in the NumPy format. The shares of datasets are random draws; those of the mixture are met, in rows or tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
from common import compare, print_table, summarise, time_interleaved, write
from datasets import Dataset, IterableDataset

from hf_mixture.data import Mixture
from hf_mixture.data.streaming import MixtureIterableDataset


NUM_SOURCES = 3
TOKENS = 2048
ROWS = {"tiny rows": 20_000, "rows of 2048 tokens": 2_000}
ROUNDS = 7
STOCK, EXAMPLES, BY_TOKENS = "datasets", "by examples", "by tokens"


def sources_of(kind: str) -> dict[str, IterableDataset]:
    """Streams of 4 shards, each as long as what is read."""
    num_rows = ROWS[kind]
    sources = {}
    for i in range(NUM_SOURCES):
        if kind == "tiny rows":
            columns: dict[str, Any] = {"length": np.arange(num_rows) % 100 + 1}
        else:
            tokens = np.random.default_rng(i).integers(0, 50_000, (num_rows, TOKENS), dtype=np.int32)
            columns = {"input_ids": tokens, "length": np.full(num_rows, TOKENS)}
        stream = Dataset.from_dict(columns).to_iterable_dataset(num_shards=4)
        sources[f"source_{i}"] = stream if kind == "tiny rows" else stream.with_format("numpy")
    return sources


def candidates(kind: str) -> dict[str, Callable[[], int]]:
    """Functions that read `ROWS[kind]` rows and return how many they read."""
    sources, num_rows = sources_of(kind), ROWS[kind]
    stock = datasets.interleave_datasets(list(sources.values()), [1 / NUM_SOURCES] * NUM_SOURCES, seed=0)
    if kind != "tiny rows":
        stock = stock.with_format("numpy")
    by_examples = MixtureIterableDataset(sources, Mixture.uniform(sources, unit="examples"), num_examples=num_rows)
    by_tokens = MixtureIterableDataset(
        sources, Mixture.uniform(sources, unit="tokens"), num_examples=num_rows, length_column="length"
    )

    def reader(dataset: Any) -> Callable[[], int]:
        return lambda: sum(1 for _ in itertools.islice(dataset, num_rows))

    return {STOCK: reader(stock), EXAMPLES: reader(by_examples), BY_TOKENS: reader(by_tokens)}


def main() -> None:
    datasets.disable_progress_bars()
    results, table = {}, []
    for kind, num_rows in ROWS.items():
        readers = candidates(kind)
        assert {read() for read in readers.values()} == {num_rows}
        times = time_interleaved(readers, rounds=ROUNDS, warmup=1, title=kind)
        rates = {
            clock: {name: summarise([num_rows / second for second in samples]) for name, samples in seconds.items()}
            for clock, seconds in times._asdict().items()
        }
        results[kind] = {
            "rows": num_rows,
            "rows_per_second": rates,
            "ratio": {clock: compare(seconds, STOCK) for clock, seconds in times._asdict().items()},
        }
        table += [
            [kind, name, f"{row['median']:,.0f}", f"{rates['wall'][name]['median']:,.0f}"]
            for name, row in rates["cpu"].items()
        ]
    print_table(["rows", "what", "rows per CPU second", "rows per second"], table)
    write(
        "streaming",
        {"sources": NUM_SOURCES, "rounds": ROUNDS, "kinds": results, "datasets": datasets.__version__},
    )


if __name__ == "__main__":
    main()
