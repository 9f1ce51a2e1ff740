"""What the benchmarks measure with."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def common():
    return runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "common.py"))


def test_rounds_are_interleaved_and_rotate(common):
    calls = []
    candidates = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = common["time_interleaved"](candidates, rounds=4, warmup=2)
    turns = ["".join(calls[start : start + 3]) for start in range(0, 18, 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert sorted(turns[2:5]) == ["abc", "bca", "cab"]
    assert all(len(samples) == 4 for clock in times for samples in clock.values())


def test_ratios_are_taken_inside_rounds(common):
    times = {"ours": [1.0, 20.0, 3.0], "theirs": [2.0, 40.0, 6.0]}
    ratio = common["compare"](times, "ours")["ours / theirs"]
    assert ratio == {"median": 0.5, "quartile_1": 0.5, "quartile_3": 0.5, "min": 0.5, "max": 0.5}


@pytest.mark.skipif(torch.cuda.is_available(), reason="on CUDA the allocator's own statistics are used")
def test_peak_bytes_counts_what_is_alive_at_once(common):
    def one_after_the_other():
        for _ in range(3):
            torch.zeros(1000, 256)

    def together():
        return [torch.zeros(1000, 256) for _ in range(3)]

    assert common["peak_bytes"](one_after_the_other) == pytest.approx(1_024_000, rel=0.01)
    assert common["peak_bytes"](together) == pytest.approx(3_072_000, rel=0.01)


def test_every_stored_result_names_its_format_and_machine():
    results = Path(__file__).parents[2] / "benchmarks" / "results"
    records = {path.stem: json.loads(path.read_text()) for path in results.glob("*.json")}
    assert records
    for name, record in records.items():
        assert record["name"] == name
        assert isinstance(record["format"], str)
        assert isinstance(record["version"], int)
        assert {"cpu", "cores", "python"} <= record["machine"].keys()
