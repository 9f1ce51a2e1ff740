"""Experts split over ranks, on real processes: numerics of one process, bytes of the cost model, what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from two_processes import run_alone, run_on

from hf_mixture import FoldingPlan
from hf_mixture.moe.parallel.folded import split_experts


WORKER = Path(__file__).with_name("folded_worker.py")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process computes."""
    folder = tmp_path_factory.mktemp("folded")
    run_alone(WORKER, folder)
    return folder


def test_two_processes(reference, monkeypatch):
    monkeypatch.setenv("EXPECTED_WORLD", "2")
    run_on(2, WORKER, reference, "two")


@pytest.mark.slow
def test_eight_processes(reference, monkeypatch):
    """Acceptance checks 2 and 5: all layouts with tp=2 in one start, etp=2 with ep=1 among them."""
    monkeypatch.setenv("EXPECTED_WORLD", "8")
    run_on(8, WORKER, reference, "eight", timeout=900)


def test_experts_with_biases_are_not_split():
    experts = nn.Module()
    experts.has_bias = True
    with pytest.raises(TypeError, match="has biases, which expert tensor parallelism would add once for each share"):
        split_experts(experts, SimpleNamespace(shape=(1, 2)))


def test_inner_columns_must_divide():
    experts = nn.Module()
    experts.down_proj = nn.Parameter(torch.zeros(4, 8, 6, device="meta"))
    with pytest.raises(ValueError, match="etp=4 does not divide the 6 inner columns of Module"):
        split_experts(experts, SimpleNamespace(shape=(1, 4)))


def test_the_plan_names_the_implementation():
    config = FoldingPlan(world=16, tp=2, ep=2, etp=4).to_distributed_config()
    assert (config.tp_size, config.fsdp_size, config.ep_size) == (2, 8, 8)
    assert config.efsdp_size == FoldingPlan(world=16, tp=2, ep=2, etp=4).edp
    assert config.ep_implementation == "folded_etp4"
    config = FoldingPlan(world=4, etp=2).to_distributed_config(ep_implementation="capacity")
    assert config.ep_implementation == "capacity_etp2"
    with pytest.raises(ValueError, match="ep_implementation='fssdp' does not split experts, and etp=2"):
        FoldingPlan(world=4, etp=2).to_distributed_config(ep_implementation="fssdp")
