from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.data_loader import BatchSamplerShard, DataLoaderShard
from datasets import Dataset
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from transformers import TrainingArguments

from hf_mixture import Mixture
from hf_mixture.data.loader import Layout, check_passes, read_layout
from hf_mixture.data.mixture_dataset import MixtureDataset


def mixed(num_examples: int) -> MixtureDataset:
    rows = Dataset.from_dict({"text": list("abcdefgh")})
    return MixtureDataset({"a": rows}, Mixture({"a": 1}, unit="examples"), num_examples=num_examples)


def shard(dataset: Any, rank: int, split_batches: bool = False) -> Any:
    batches = BatchSampler(SequentialSampler(dataset), 4, drop_last=False)
    return BatchSamplerShard(batches, num_processes=2, process_index=rank, split_batches=split_batches)


def arguments(**changes: Any) -> TrainingArguments:
    return TrainingArguments(output_dir="out", use_cpu=True, train_sampling_strategy="sequential", **changes)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_layout_says_which_positions_a_rank_reads(rank: int) -> None:
    dataset = mixed(64)
    loader = DataLoaderShard(
        dataset, batch_sampler=shard(dataset, rank), collate_fn=list, num_workers=1, prefetch_factor=3
    )
    layout = read_layout(loader, arguments(gradient_accumulation_steps=2))
    assert layout == Layout(
        num_processes=2, process_index=rank, batch_size=4, accumulation_steps=2, lookahead=4, num_batches=8
    )
    assert (layout.global_batch, layout.num_steps, layout.min_lag) == (16, 4, 2)
    for number, indices in enumerate(loader.batch_sampler):
        start = (number * 2 + rank) * 4
        assert indices == list(range(start, start + 4))
    # What is fetched when s steps have begun is used up `min_lag` steps later.
    for step in range(1, 4):
        assert layout.num_fetched(step) == (step * 2 + 4) * 8 <= (step + layout.min_lag) * 16


def test_batches_that_are_split_are_refused() -> None:
    dataset = mixed(64)
    loader = DataLoaderShard(dataset, batch_sampler=shard(dataset, 0, split_batches=True), collate_fn=list)
    with pytest.raises(ValueError, match='"split_batches": False'):
        read_layout(loader, arguments())


def test_another_batch_sampler_is_refused() -> None:
    class Odd(BatchSampler):
        pass

    dataset = mixed(64)
    loader = DataLoader(dataset, batch_sampler=Odd(SequentialSampler(dataset), 4, drop_last=False), collate_fn=list)
    with pytest.raises(ValueError, match="its order is what makes the mixture"):
        read_layout(loader, arguments())


def layout(num_batches: int) -> Layout:
    return Layout(
        num_processes=2, process_index=0, batch_size=4, accumulation_steps=1, lookahead=1, num_batches=num_batches
    )


def test_samples_that_are_repeated_at_the_end_are_announced(recwarn: pytest.WarningsRecorder) -> None:
    state: Any = SimpleNamespace(max_steps=8, global_step=0)
    with pytest.warns(UserWarning, match="61 samples are no multiple of the 8 that all processes take at a time"):
        check_passes(state, layout(8), 0, length=61, drops_last=False)
    check_passes(state, layout(8), 0, length=64, drops_last=False)
    check_passes(state, layout(8), 0, length=61, drops_last=True)
    # A run that ends before is not concerned.
    check_passes(state, layout(9), 0, length=69, drops_last=False)
    assert len(recwarn) == 0


def test_steps_that_were_skipped_do_not_count_twice() -> None:
    state: Any = SimpleNamespace(max_steps=8, global_step=5)
    check_passes(state, layout(8), 5, length=64, drops_last=False)
    with pytest.raises(ValueError, match="has 3 more optimizer steps of 8 samples, and the mixture has enough for 2"):
        check_passes(state, layout(2), 0, length=16, drops_last=False)
