"""Two processes give what one gives: DDP through the stock Trainer, both kinds of checkpointing, and FSDP2.

One launch of `torchrun` runs all cases (see distributed_worker.py), because starting the processes is what takes time.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch
from two_processes import run_under_torchrun


WORKER = Path(__file__).parent / "distributed_worker.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    run_under_torchrun(2, WORKER, folder)
    return folder


@pytest.fixture(scope="module")
def results(folder):
    results = json.loads((folder / "results.json").read_text())
    assert results["num_processes"] == [2, 2]
    return results


def test_trainer_equals_one_process_with_the_doubled_batch(folder, results, tmp_path):
    worker = runpy.run_path(str(WORKER))
    model, losses = worker["train_with_trainer"](tmp_path, batch_size=worker["BATCH"])
    assert len(losses) == worker["NUM_STEPS"]
    assert results["trainer"]["losses"] == pytest.approx(losses, abs=1e-5, rel=0)
    two, one = torch.load(folder / "pools.pt", weights_only=True), worker["pools"](model)
    start = worker["pools"](worker["build_model"]())
    assert two.keys() == one.keys()
    for name in one:
        assert (two[name] - one[name]).abs().max() <= 1e-5
        assert (start[name] - one[name]).abs().max() > 1e-2
    assert results["trainer"]["rank_difference"] == 0.0


@pytest.mark.parametrize("checkpointing", ["none", "non_reentrant", "reentrant"])
def test_ddp_gradients(results, checkpointing):
    case = results[f"ddp_{checkpointing}"]
    assert max(case["gradient_differences"]) <= 1e-6
    assert case["rank_difference"] == 0.0
    assert case["forwards_per_step"] == (1 if checkpointing == "none" else 2)


def test_ddp_that_would_drop_gradients_is_refused(results):
    assert "use_reentrant=False" in results["refused"]["error"]
    assert "static_graph=True" in results["refused"]["error"]


@pytest.mark.parametrize("checkpointing", ["none", "non_reentrant"])
def test_fsdp2_per_decoder_layer(results, checkpointing):
    case = results[f"fsdp_{checkpointing}"]
    assert case["losses"]["sharded"] == pytest.approx(case["losses"]["single"], abs=1e-6, rel=0)
    assert case["pool_keys"] == case["expected_keys"]
    assert len(case["pool_keys"]) == 14
    assert case["pool_difference"] <= 1e-5
    assert case["forwards_per_step"] == (1 if checkpointing == "none" else 2)
    assert case["collectors"] == [14, 14, 14]  # one gradient buffer per pool
