"""Models with replaced routers under the stock Trainer: training, saving, resuming, and two processes."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from two_processes import run_on_two

from hf_mixture.moe.anatomy import find_routers
from hf_mixture.moe.router_loading import register_router_loading


WORKER = Path(__file__).parent / "router_worker.py"
FAST = ["cosine", "noisy_topk", "sigmoid_bias", "sinkhorn", "top_p"]
OTHERS = ["gaussian", "hash", "relu", "student_t", "switch", "topk_softmax"]


@pytest.fixture(autouse=True)
def loading():
    register_router_loading()


@pytest.fixture(scope="module")
def worker():
    return runpy.run_path(str(WORKER))


@pytest.fixture(scope="module")
def two(worker, tmp_path_factory):
    """The folder in which two processes have loaded one model and trained others."""
    folder = tmp_path_factory.mktemp("two")
    worker["build_model"]("cosine", projection_dim=8).save_pretrained(folder / "saved")
    run_on_two(WORKER, folder)
    return folder


def logits_of(model):
    with torch.no_grad():
        return model.eval()(torch.arange(24).reshape(2, 12)).logits


@pytest.mark.parametrize("name", FAST + [pytest.param(name, marks=pytest.mark.slow) for name in OTHERS])
def test_the_stock_trainer_trains_saves_and_loads(name, worker, tmp_path):
    model = worker["build_model"](name)
    start = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    losses = worker["train"](model, tmp_path, save_strategy="steps", save_steps=4)
    assert len(losses) == worker["NUM_STEPS"]
    assert losses[-1] < losses[0]
    moved = [
        key for key, tensor in model.state_dict().items() if ".gate." in key and not torch.equal(tensor, start[key])
    ]
    learned = [key for key, _ in model.named_parameters() if ".gate." in key]
    assert set(learned) == set(moved)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-4")
    assert type(find_routers(loaded)[0].module) is type(find_routers(model)[0].module)
    assert torch.equal(logits_of(loaded), logits_of(model))


@pytest.mark.parametrize("name", ["noisy_topk", "sigmoid_bias"])
def test_a_run_that_is_resumed_ends_like_one_that_was_not(name, worker, tmp_path):
    model = worker["build_model"](name)
    losses = worker["train"](model, tmp_path, save_strategy="steps", save_steps=2)
    # The Trainer reads a checkpoint by `load_state_dict`, which finds no experts of Qwen3-MoE, whatever its routers:
    # files have them one by one. The routers it does find, as their other values show.
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-2")
    for router in find_routers(again):
        for tensor in (*router.module.parameters(), *router.module.buffers()):
            torch.nn.init.constant_(tensor, 0.5)
    resumed = worker["train"](again, tmp_path / "again", resume=str(tmp_path / "checkpoint-2"))
    assert resumed == losses
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor)


def test_a_fresh_process_needs_import_hf_mixture_and_nothing_else(two, worker):
    saved = worker["build_model"]("cosine", projection_dim=8)
    loaded = torch.load(two / "logits.pt", weights_only=True)
    # Two processes may add float32 numbers in different orders.
    torch.testing.assert_close(loaded, logits_of(saved), rtol=0, atol=2e-6)


def test_two_processes_train_like_one_with_the_doubled_batch(two, worker, tmp_path):
    results = json.loads((two / "results.json").read_text())
    assert list(results) == list(worker["ROUTERS"])
    for name, options in worker["ROUTERS"].items():
        model = worker["build_model"](name, **options)
        losses = worker["train"](model, tmp_path)
        assert results[name]["losses"] == pytest.approx(losses, abs=1e-5, rel=0)
        assert results[name]["rank_difference"] == 0.0
        loaded = AutoModelForCausalLM.from_pretrained(two / name / "model")
        for key, tensor in model.state_dict().items():
            torch.testing.assert_close(loaded.state_dict()[key], tensor, rtol=0, atol=1e-4)
