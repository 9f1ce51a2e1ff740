"""The stock Trainer on a mixed stream, in one process and in two; one launch of `torchrun` runs all cases."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from two_processes import run_on_two


WORKER = Path(__file__).parent / "streaming_worker.py"
BATCH, STEPS = 4, 12


@pytest.fixture(scope="module")
def worker() -> dict[str, Any]:
    return runpy.run_path(str(WORKER))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("streaming")
    run_on_two(WORKER, folder)
    results = json.loads((folder / "results.json").read_text())
    assert results["num_processes"] == 2
    return results["cases"]


def positions(batches: list[list[list[int]]]) -> list[int]:
    """Micro-batch k of process r is number k W + r."""
    assert len({len(own) for own in batches}) == 1
    return [row for turn in zip(*batches, strict=True) for batch in turn for row in batch]


@pytest.mark.parametrize(
    ("case", "unit", "num_lanes", "num_shards"),
    [
        ("one reads, 2 workers", "examples", 2, 8),
        ("all read all", "examples", 1, 8),
        ("own parts, 2 workers", "examples", 4, 8),
        ("own parts, one shard", "examples", 1, 1),
        ("tokens", "tokens", 4, 8),
        ("accumulated", "examples", 4, 8),
    ],
)
def test_two_processes_see_the_stream_in_order(
    worker: Any, cases: Any, *, case: str, unit: str, num_lanes: int, num_shards: int
) -> None:
    stream = worker["build_stream"](unit, num_shards, num_lanes=num_lanes, batch_size=BATCH)
    expected = [row["number"] for row in stream]
    found = positions(cases[case])
    assert len(found) == 2 * BATCH * STEPS * (2 if case == "accumulated" else 1)
    assert found == expected[: len(found)]


def test_one_process_sees_the_same(worker: Any, cases: Any, tmp_path: Path) -> None:
    for num_workers in (0, 2):
        stream = worker["build_stream"](num_lanes=4)
        stream.set_layout(rank=0, world_size=1, batch_size=BATCH)
        seen = worker["train"](
            tmp_path, stream, callback=True, num_workers=num_workers, per_device_train_batch_size=2 * BATCH
        )
        # Chunks of 8 positions lie in other lanes than chunks of 4: the sources are the same, the rows need not be.
        found = [row // 1000 for batch in seen for row in batch]
        assert found == [row // 1000 for row in positions(cases["own parts, 2 workers"])]


def test_processes_end_together(cases: Any) -> None:
    assert len(positions(cases["to the end"])) == 64


def test_a_resumed_run_sees_what_the_whole_one_sees(cases: Any) -> None:
    first, second = cases["resumed:first"], cases["resumed:second"]
    assert [len(own) for own in first + second] == [5, 5, 7, 7]
    assert positions(first) + positions(second) == positions(cases["own parts, 2 workers"])


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("refused: dispatch", ["dispatch_batches", '{"dispatch_batches": False}', "leave the callback out"]),
        ("refused: wrapped", ["split among 2 processes by set_layout", "MixtureStreamCallback"]),
        ("refused: dispatched", ["split among 2 processes by set_layout", "rows would be lost"]),
        ("refused: no length", ["would not end together", "pass num_examples"]),
        ("refused: split batches", ["split_batches=True"]),
        ("refused: map-style", ["train_dataset is a Dataset", "MixtureIterableDataset"]),
    ],
)
def test_misuse_is_an_error_before_the_first_step(cases: Any, case: str, words: list[str]) -> None:
    for message in cases[case]:
        assert isinstance(message, str), "it trained"
        assert all(word in message for word in words), message
