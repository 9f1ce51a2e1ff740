"""Runs on a mixture in processes of their own: on several ranks, with workers, killed and resumed."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, interleave_datasets
from datasets.distributed import split_dataset_by_node
from mixture_run import WEIGHTS, Settings, fetched, read_records, row_digests, run, start
from mixture_run_process import sources
from packed_text import write_packs
from torch.utils.data import DataLoader

from hf_mixture import Mixture
from hf_mixture.data.mixture_dataset import MixtureDataset


ONLY_JSON = {"email": 0.0, "json": 1.0, "logging": 0.0}
MORE_LOGGING = {"email": 0.1, "json": 0.1, "logging": 0.8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("packs")
    write_packs(folder)
    return str(folder)


def in_order(records: list[list[dict[str, Any]]]) -> list[str]:
    """The samples that all ranks trained on, in the order of the stream: micro-batch by micro-batch, rank by rank."""
    return [
        digest
        for steps in zip(*records, strict=True)
        for micro_batches in zip(*(step["digests"] for step in steps), strict=True)
        for batch in micro_batches
        for digest in batch
    ]


def stream(settings: Settings, num_examples: int, block_size: int, changes: dict[int, dict[str, float]]) -> list[str]:
    """The samples of the stream as the plan alone says."""
    mixture = Mixture(WEIGHTS, unit="tokens", seed=1)
    dataset = MixtureDataset(sources(settings), mixture, num_examples=num_examples, block_size=block_size)
    for at, weights in changes.items():
        dataset.set_weights(weights, at=at)
    return row_digests(dataset.rows(np.arange(num_examples))["input_ids"])


def domains(settings: Settings, num_examples: int) -> list[str]:
    """The domain at each position of the stream."""
    dataset = MixtureDataset(
        sources(settings), Mixture(WEIGHTS, unit="tokens", seed=1), num_examples=num_examples, block_size=6
    )
    return [dataset.names[source] for source in dataset.plan.locate(range(num_examples))[0]]


# One order for all.


def test_the_stream_is_the_same_for_any_number_of_processes_and_workers(folder: str, tmp_path: Path) -> None:
    found = {}
    for num_processes, workers in [(1, 0), (1, 2), (2, 0), (2, 2), (4, 1)]:
        settings = Settings(
            folder=folder,
            output=str(tmp_path / f"{num_processes}-{workers}"),
            num_processes=num_processes,
            workers=workers,
            batch_size=8 // num_processes,
            steps=10,
            # Decided after step 2 on rank 0; the longest way to its effect is that of 2 workers.
            decisions={2: ONLY_JSON},
            lag=5,
            dropout=0.0,
        )
        records = run(settings)
        assert {record["world_size"] for record in records[0]} == {num_processes}
        assert {record["backend"] for record in records[0]} == {None if num_processes == 1 else "gloo"}
        assert [[record["changes"] for record in rank] for rank in records] == [
            [record["changes"] for record in records[0]]
        ] * num_processes
        found[num_processes, workers] = (in_order(records), [record["losses"] for record in records[0]])
    expected = stream(settings, 80, 8, {56: ONLY_JSON})
    assert len(set(expected)) > 60
    for digests, losses in found.values():
        assert digests == expected
        # Losses by domain are sums over all ranks, in which rounding depends on the size of a batch.
        assert losses == [pytest.approx(step, abs=2e-5) for step in found[1, 0][1]]


def test_what_is_repeated_at_the_end_is_the_beginning(folder: str, tmp_path: Path) -> None:
    settings = Settings(
        folder=folder, output=str(tmp_path), num_processes=2, batch_size=3, steps=4, num_examples=20, workers=1
    )
    records = run(settings)
    expected = stream(settings, 20, 6, {})
    assert in_order(records) == expected + expected[:4]
    # The losses are those of the domains that were read, also of the repeated samples.
    names = {digest: name for name, digest in zip(domains(settings, 20), expected, strict=True)}
    for step in range(4):
        read = {names[digest] for digest in in_order(records)[step * 6 : step * 6 + 6]}
        logged = {name.removeprefix("loss/") for name in records[0][step]["losses"]} - {"loss"}
        assert logged == read


def test_stock_datasets_draw_the_same_sources_on_every_rank_and_another_number_of_rows() -> None:
    tables = [Dataset.from_dict({"source": [number] * 400}) for number in range(3)]

    def interleaved(**arguments: Any) -> Any:
        streams = [table.to_iterable_dataset(num_shards=4) for table in tables]
        return interleave_datasets(streams, probabilities=[0.5, 0.3, 0.2], seed=0, **arguments)

    ranks = [
        [row["source"] for row in split_dataset_by_node(interleaved(), rank=rank, world_size=2).take(100)]
        for rank in range(2)
    ]
    assert ranks[0] == ranks[1]
    assert len(Counter(ranks[0])) == 3
    totals = {
        workers: sum(
            len(batch)
            for batch in DataLoader(
                interleaved(stopping_strategy="all_exhausted"), batch_size=100, num_workers=workers, collate_fn=list
            )
        )
        for workers in (0, 2, 4)
    }
    assert len(set(totals.values())) == 3


# How far ahead samples are fetched.


@pytest.mark.parametrize(("workers", "accumulation"), [(0, 1), (0, 4), (2, 1), (2, 4)])
def test_the_frontier_is_what_has_been_fetched(folder: str, tmp_path: Path, workers: int, accumulation: int) -> None:
    settings = Settings(
        folder=folder,
        output=str(tmp_path),
        workers=workers,
        accumulation=accumulation,
        batch_size=4,
        steps=3,
        num_examples=400,
        measure_frontier=True,
    )
    (records,) = run(settings)
    lookahead = 1 + workers * 2
    assert [record["fetched"] for record in records] == [(step * accumulation + lookahead) * 4 for step in range(1, 4)]
    assert [record["frontier"] for record in records] == [record["fetched"] for record in records]


# Interruptions.


def check_same(resumed: list[dict[str, Any]], whole: list[dict[str, Any]]) -> None:
    assert [record["step"] for record in resumed] == [record["step"] for record in whole]
    for ours, theirs in zip(resumed, whole, strict=True):
        for key in ("digests", "losses", "weights"):
            assert ours[key] == theirs[key], (ours["step"], key)


def kill_after(settings: Settings, step: int) -> None:
    """Start a run and kill all its processes when a step has been recorded."""
    processes = start(settings)
    while all(process.is_alive() for process in processes) and len(read_records(settings)) < step:
        time.sleep(0.005)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    assert {process.exitcode for process in processes} <= {-9, 1}
    assert len(read_records(settings)) < settings.steps


@pytest.mark.parametrize(
    ("num_processes", "workers", "restore"),
    [
        (1, 2, False),
        (2, 1, True),
        pytest.param(1, 2, True, marks=pytest.mark.slow),
        pytest.param(2, 0, False, marks=pytest.mark.slow),
    ],
)
def test_killed_between_a_decision_and_its_effect(
    folder: str, tmp_path: Path, num_processes: int, workers: int, restore: bool
) -> None:
    settings = Settings(
        folder=folder,
        output=str(tmp_path / "whole"),
        num_processes=num_processes,
        workers=workers,
        restore=restore,
        steps=14,
        accumulation=2,
        save_steps=4,
        # The second decision falls after the checkpoint of step 8 and is made again.
        decisions={3: ONLY_JSON, 9: MORE_LOGGING},
        lag=6,
    )
    whole = run(settings)
    assert [at // (4 * num_processes) for at, _ in whole[0][-1]["changes"]] == [9, 15][:1]
    killed = replace(settings, output=str(tmp_path / "killed"), step_seconds=0.05)
    # Step 5: the last checkpoint is that of step 4, with a change that is pending until step 9.
    kill_after(killed, 5)
    assert sorted(path.name for path in Path(killed.output).glob("checkpoint-*")) == ["checkpoint-4"]
    before = [len(fetched(killed, rank)) for rank in range(num_processes)]
    resumed = run(replace(killed, resume=True, step_seconds=0.0))
    for rank in range(num_processes):
        check_same(resumed[rank], whole[rank])
        ahead = (1 + workers * 2) * settings.batch_size
        remaining = (settings.steps - 4) * settings.accumulation * settings.batch_size
        assert remaining <= len(fetched(killed, rank)) - before[rank] <= remaining + ahead


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_every_resume_is_the_same_run(folder: str, tmp_path: Path, kills: int) -> None:
    settings = Settings(
        folder=folder,
        output=str(tmp_path / "whole"),
        steps=16,
        save_steps=2,
        decisions={3: ONLY_JSON, 8: MORE_LOGGING, 12: WEIGHTS},
        lag=3,
        step_seconds=0.03,
    )
    (whole,) = run(settings)
    assert [at // 2 for at, _ in whole[-1]["changes"]] == [6, 11, 15]
    rng = np.random.default_rng(kills)
    killed_at = []
    for number in range(kills):
        run_settings = replace(settings, output=str(tmp_path / str(number)), restore=bool(number % 2))
        (process,) = start(run_settings)
        # Some moment in the run: in a step, between two, or while a checkpoint is written.
        step = rng.integers(0, settings.steps - 1)
        while process.is_alive() and len(read_records(run_settings)) < step:
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.05))
        process.kill()
        process.join()
        killed_at.append(len(read_records(run_settings)))
        assert process.exitcode == -9
        (resumed,) = run(replace(run_settings, resume=True, step_seconds=0.0))
        check_same(resumed, whole)
    assert len(set(killed_at)) > kills // 3, killed_at
