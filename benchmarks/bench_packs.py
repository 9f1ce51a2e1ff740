"""Batches of packed tokens against torch-formatted `datasets`, and a mixture of packs against an interleaved dataset.

Rows of 2048 tokens, 32 in a batch; all end as one int64 tensor. The files of both are memory-mapped, and warm. Batches
are drawn at random from one source, and read in order through a `DataLoader` from three of them. What trains a causal
language model needs labels too, and packs give them without a copy. A dataset has two usual ways: the columns
`input_ids`, `attention_mask` and `labels`, as `run_clm.py` of transformers prepares them, or `input_ids` alone and
`DataCollatorForLanguageModeling`, which makes the labels. Both are measured, and `input_ids` without labels beside
them. One thread, so that waiting for a second one on a busy machine is no part of a time.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from common import compare, print_table, summarise, time_interleaved, write
from datasets import Dataset, Features, List, Value
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.utils.data import DataLoader
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast, default_data_collator

from hf_mixture import Mixture
from hf_mixture.data.mixture_dataset import MixtureDataset
from hf_mixture.data.pack import TokenPack
from hf_mixture.data.packed_rows import collate_packed


VOCABULARY, LENGTH, BATCH = 50_000, 2048, 32
ROWS, BATCHES, ROUNDS = 3000, 48, 15
WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}
PACK, TORCH, LISTS = "TokenPack blocks", "datasets, torch format", "datasets, Python lists"
LABELS = "datasets, torch format, with labels"
COLLATOR = "datasets, torch format, DataCollatorForLanguageModeling"
MIXED, STOCK = "MixtureDataset of packs", "interleave_datasets, torch format"


def main() -> None:
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder))


def measure(folder: Path) -> None:
    rng = np.random.default_rng(0)
    packs, tables = {}, {}
    features = Features({"input_ids": List(Value("int32"))})
    for name in WEIGHTS:
        tokens = rng.integers(0, VOCABULARY, (ROWS, LENGTH), dtype=np.int32)
        packs[name] = TokenPack.write(folder / name, tokens.tolist(), vocab_size=VOCABULARY).blocks(LENGTH)
        Dataset.from_dict({"input_ids": list(tokens)}, features=features).save_to_disk(str(folder / f"{name}.arrow"))
        tables[name] = Dataset.load_from_disk(str(folder / f"{name}.arrow"))
    indices = [rng.integers(0, ROWS, BATCH).tolist() for _ in range(BATCHES)]
    formatted = tables["a"].with_format("torch")
    ids = tables["a"].with_format("numpy")["input_ids"][:]
    columns = {"input_ids": list(ids), "attention_mask": list(np.ones_like(ids, np.int8)), "labels": list(ids)}
    types = {"input_ids": "int32", "attention_mask": "int8", "labels": "int64"}
    Dataset.from_dict(
        columns, features=Features({name: List(Value(dtype)) for name, dtype in types.items()})
    ).save_to_disk(str(folder / "labels.arrow"))
    labelled = Dataset.load_from_disk(str(folder / "labels.arrow")).with_format("torch")
    num_examples = BATCH * BATCHES
    mixture = Mixture(WEIGHTS, unit="tokens")
    mixed = MixtureDataset(packs, mixture, num_examples=num_examples)
    stock = datasets.interleave_datasets(
        list(tables.values()), list(WEIGHTS.values()), seed=0, stopping_strategy="all_exhausted"
    ).with_format("torch")

    def gather(dataset: Any, collate: Callable[[Any], Any]) -> Iterator[torch.Tensor]:
        for rows in indices:
            yield collate(dataset.__getitems__(rows))["input_ids"]

    def read(dataset: Any, collate: Callable[[Any], Any]) -> Iterator[torch.Tensor]:
        for batch in islice(DataLoader(dataset, batch_size=BATCH, collate_fn=collate), BATCHES):
            yield batch["input_ids"]

    candidates = {
        PACK: partial(gather, packs["a"], collate_packed),
        TORCH: partial(gather, formatted, default_data_collator),
        LABELS: partial(gather, labelled, default_data_collator),
        COLLATOR: partial(gather, formatted, DataCollatorForLanguageModeling(tokenizer(), mlm=False)),
        LISTS: partial(gather, tables["a"], default_data_collator),
        MIXED: partial(read, mixed, collate_packed),
        STOCK: partial(read, stock, default_data_collator),
    }
    for name in (TORCH, LABELS, COLLATOR, LISTS):
        assert all(map(torch.equal, candidates[PACK](), candidates[name]()))
    assert all(batch.shape == (BATCH, LENGTH) and batch.dtype == torch.int64 for batch in candidates[MIXED]())
    # As in training, a batch is gone before the next one comes.
    exhaust = partial(deque, maxlen=0)
    times = time_interleaved(
        {name: lambda batches=batches: exhaust(batches()) for name, batches in candidates.items()}, rounds=ROUNDS
    )
    num_tokens = BATCHES * BATCH * LENGTH
    rates = {
        clock: {
            name: summarise([num_tokens / second / 1e6 for second in samples]) for name, samples in seconds.items()
        }
        for clock, seconds in times._asdict().items()
    }
    ratios = {
        clock: compare({name: seconds[name] for name in (TORCH, PACK)}, TORCH)
        | compare({name: seconds[name] for name in (LABELS, PACK)}, LABELS)
        | compare({name: seconds[name] for name in (COLLATOR, PACK)}, COLLATOR)
        | compare({name: seconds[name] for name in (LISTS, PACK)}, LISTS)
        | compare({name: seconds[name] for name in (STOCK, MIXED)}, STOCK)
        for clock, seconds in times._asdict().items()
    }
    print_table(
        ["what", "million tokens per second"],
        [[name, f"{rate['median']:.1f}"] for name, rate in rates["wall"].items()],
    )
    print_table(["how much longer", "times"], [[name, f"{r['median']:.0f}"] for name, r in ratios["wall"].items()])
    write(
        "packs",
        {
            "tokens_of_a_row": LENGTH,
            "rows_of_a_batch": BATCH,
            "rows_of_a_source": ROWS,
            "batches": BATCHES,
            "rounds": ROUNDS,
            "million_tokens_per_second": rates,
            "ratio": ratios,
            "datasets": datasets.__version__,
            "load_average": os.getloadavg(),
        },
    )


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {f"t{number}": number for number in range(VOCABULARY)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, "t0")), pad_token="t0")


if __name__ == "__main__":
    main()
