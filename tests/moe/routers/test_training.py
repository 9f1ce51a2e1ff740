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
from hf_mixture.moe.routers.persist import register_router_loading


WORKER = Path(__file__).parent / "router_worker.py"
FAST = ["cosine", "noisy_topk", "sigmoid_bias", "sinkhorn", "top_p"]
OTHERS = ["gaussian", "hash", "relu", "student_t", "switch", "topk_softmax"]


@pytest.fixture(autouse=True)
def loading():
    register_router_loading()


@pytest.fixture(scope="module")
def worker():
    return runpy.run_path(str(WORKER))


def same_logits(model, other):
    ids = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        return torch.equal(model.eval()(ids).logits, other.eval()(ids).logits)


@pytest.mark.parametrize("name", FAST + [pytest.param(name, marks=pytest.mark.slow) for name in OTHERS])
def test_the_stock_trainer_trains_saves_and_loads(name, worker, tmp_path):
    model = worker["build_model"](name)
    start = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    losses = worker["train"](model, tmp_path, save_strategy="steps", save_steps=6)
    assert len(losses) == worker["NUM_STEPS"]
    assert losses[-1] < losses[0]
    moved = [
        key for key, tensor in model.state_dict().items() if ".gate." in key and not torch.equal(tensor, start[key])
    ]
    learned = [key for key, _ in model.named_parameters() if ".gate." in key]
    assert set(learned) == set(moved)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-6")
    assert type(find_routers(loaded)[0].module) is type(find_routers(model)[0].module)
    assert same_logits(loaded, model)


@pytest.mark.parametrize("name", ["noisy_topk", "sigmoid_bias"])
def test_a_run_that_is_resumed_ends_like_one_that_was_not(name, worker, tmp_path):
    model = worker["build_model"](name)
    losses = worker["train"](model, tmp_path, save_strategy="steps", save_steps=3)
    # The Trainer reads a checkpoint by `load_state_dict`, which finds no experts of Qwen3-MoE, whatever its routers:
    # files have them one by one. The routers it does find, as their other values show.
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-3")
    for router in find_routers(again):
        for tensor in (*router.module.parameters(), *router.module.buffers()):
            torch.nn.init.constant_(tensor, 0.5)
    resumed = worker["train"](again, tmp_path / "again", resume=str(tmp_path / "checkpoint-3"))
    assert resumed == losses
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor)


def test_two_processes_train_like_one_with_the_doubled_batch(worker, tmp_path):
    run_on_two(WORKER, tmp_path / "two")
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    assert list(results) == list(worker["ROUTERS"])
    for name, options in worker["ROUTERS"].items():
        model = worker["build_model"](name, **options)
        losses = worker["train"](model, tmp_path / "one")
        assert results[name]["losses"] == pytest.approx(losses, abs=1e-5, rel=0)
        assert results[name]["rank_difference"] == 0.0
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "two" / name / "model")
        for key, tensor in model.state_dict().items():
            torch.testing.assert_close(loaded.state_dict()[key], tensor, rtol=0, atol=1e-4)
