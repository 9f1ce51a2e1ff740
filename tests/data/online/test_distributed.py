"""Two processes decide as one does with the doubled batch, and the same on both ranks."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from two_processes import run_on_two


WORKER = Path(__file__).parent / "distributed_worker.py"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    run_on_two(WORKER, folder)
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return runpy.run_path(str(WORKER))["run"](tmp_path_factory.mktemp("single"), 4)


@pytest.mark.parametrize("method", ["aioli", "doremi", "doge", "odm"])
def test_both_ranks_decide_the_same(ranks, method):
    first, second = (rank[method] for rank in ranks)
    assert first["world_size"] == 2
    assert first["report"] == second["report"]
    assert first["plan"] == second["plan"]
    assert first["parameters"] == second["parameters"]
    assert len(first["report"]["rounds"]) >= 2


@pytest.mark.parametrize("method", ["aioli", "doremi", "doge", "odm"])
def test_two_processes_equal_one_with_the_doubled_batch(ranks, single, method):
    one, both = single[method], [rank[method] for rank in ranks]
    together = [
        digest
        for parts in zip(*(np.reshape(rank["digests"], (16, 2)).tolist() for rank in both), strict=True)
        for part in parts
        for digest in part
    ]
    assert together == one["digests"]
    assert both[0]["losses"] == pytest.approx(one["losses"], abs=1e-5)
    for two, alone in zip(both[0]["report"]["rounds"], one["report"]["rounds"], strict=True):
        assert two["step"] == alone["step"]
        assert list(two["weights"].values()) == pytest.approx(list(alone["weights"].values()), abs=1e-4)
        assert list(two["losses"].values()) == pytest.approx(list(alone["losses"].values()), abs=1e-5)
