"""Fully sharded sparse data parallelism on real processes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM
from two_processes import run_alone, run_on

from hf_mixture import FssdpOptions, fssdp_step


WORKER = Path(__file__).with_name("fssdp_worker.py")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process computes."""
    folder = tmp_path_factory.mktemp("fssdp")
    run_alone(WORKER, folder)
    return folder


def test_two_processes_train_as_one(reference, monkeypatch):
    monkeypatch.setenv("EXPECTED_WORLD", "2")
    run_on(2, WORKER, reference, "mixtral")


@pytest.mark.slow
def test_two_processes_train_other_families_as_one(reference, monkeypatch):
    monkeypatch.setenv("EXPECTED_WORLD", "2")
    run_on(2, WORKER, reference, "olmoe", "qwen3_moe", "variants")


@pytest.mark.slow
def test_four_processes(reference, monkeypatch):
    """Training, the algebra of the collectives, bytes, and balance, in one start."""
    monkeypatch.setenv("EXPECTED_WORLD", "4")
    run_on(4, WORKER, reference, "mixtral", "olmoe", "qwen3_moe", "variants", timeout=900)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_slots": -1}, "num_slots=-1 is not a whole number of at least 0"),
        ({"window": 0}, "window=0 is not a whole number of at least 1"),
        ({"copy_tokens": -1}, "copy_tokens=-1 is not a number of at least 0"),
        ({"reshard_interval": 0}, "reshard_interval=0 is not a whole number of at least 1"),
        ({"num_busy": 1.5}, "num_busy=1.5 is not a whole number of at least 0"),
        ({"ranks_per_node": 0}, "ranks_per_node=0 is not a whole number of at least 1"),
    ],
)
def test_options_are_checked(values, said):
    with pytest.raises(ValueError, match=said):
        FssdpOptions(**values)


def test_other_models_have_no_such_layers():
    config = MixtralConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    with torch.device("meta"), pytest.raises(ValueError, match="load it with distributed_config=DistributedConfig"):
        fssdp_step(MixtralForCausalLM(config))


@pytest.mark.slow
def test_the_stock_trainer(tmp_path):
    """Losses, clipped gradients and the saved model of one process, with and without accumulation."""
    worker = Path(__file__).with_name("fssdp_trainer_worker.py")
    run_alone(worker, tmp_path)
    run_on(2, worker, tmp_path)
