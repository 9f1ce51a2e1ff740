from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hub_double import running_hub
from two_processes import run_on_two

from hf_mixture.moe.anatomy import find_routers
from hf_mixture.moe.trace.callback import RouterTraceCallback
from hf_mixture.moe.trace.trace import RouterTrace, load_trace


sys.path.insert(0, str(Path(__file__).parent))
from trace_worker import rows, tiny_model, train


WORKER = Path(__file__).with_name("trace_worker.py")


def same(a: RouterTrace, b: RouterTrace) -> bool:
    pairs = [(a.steps, b.steps), (a.tokens, b.tokens), (a.unrouted, b.unrouted), *zip(a.counts, b.counts, strict=True)]
    return a.routers == b.routers and all(np.array_equal(x, y) for x, y in pairs)


def slow_counts(model: Any, batch: list[dict[str, torch.Tensor]]) -> list[list[int]]:
    """Route a batch row by row without its padding, and count in a loop."""
    routers = find_routers(model)
    counts = [[0] * router.num_experts for router in routers]

    def note(router: Any, output: Any) -> None:
        for token in router.read(output).indices.tolist():
            for expert in token:
                counts[router.ordinal][expert] += 1

    handles = [r.module.register_forward_hook(lambda _, __, out, r=r: note(r, out)) for r in routers]
    model.train()
    for row in batch:
        length = int(row["attention_mask"].sum())
        with torch.no_grad():
            model(input_ids=row["input_ids"][None, :length])
    for handle in handles:
        handle.remove()
    return counts


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3"])
def test_counts_against_loops(family: str, tmp_path: Path) -> None:
    train(tmp_path, family=family, learning_rate=0.0)
    trace = load_trace(tmp_path / "trace")
    data, model = rows(), tiny_model(family)
    assert trace.steps.tolist() == [1, 2, 3, 4, 5]
    for step in range(5):
        batch = data[8 * step : 8 * step + 8]
        assert [counts[step].tolist() for counts in trace.counts] == slow_counts(model, batch)
        assert set(trace.tokens[step]) == {sum(int(row["attention_mask"].sum()) for row in batch)}
    assert (trace.unrouted == 0).all()


def test_accumulation_and_checkpointing_count_once(tmp_path: Path) -> None:
    train(tmp_path / "plain", learning_rate=0.0)
    train(
        tmp_path / "both",
        learning_rate=0.0,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        activation_checkpointing=True,
        activation_checkpointing_kwargs={"use_reentrant": True},
    )
    train(tmp_path / "modern", learning_rate=0.0, activation_checkpointing=True)
    plain = load_trace(tmp_path / "plain" / "trace")
    assert same(plain, load_trace(tmp_path / "both" / "trace"))
    assert same(plain, load_trace(tmp_path / "modern" / "trace"))


def test_checkpointing_runs_the_routers_again(tmp_path: Path) -> None:
    # Otherwise the test above would show nothing.
    model = tiny_model()
    model.gradient_checkpointing_enable()
    calls = []
    find_routers(model)[0].observe(calls.append)
    ids = torch.arange(8)[None]
    model.train()(input_ids=ids, labels=ids).loss.backward()
    assert len(calls) == 2


def test_sampling_and_evaluation(tmp_path: Path) -> None:
    train(tmp_path / "all", max_steps=6)
    evaluation = {"eval_strategy": "steps", "eval_steps": 1}
    train(tmp_path / "some", max_steps=6, trace={"sample_every": 4, "flush_every": 1}, **evaluation)
    every, some = load_trace(tmp_path / "all" / "trace"), load_trace(tmp_path / "some" / "trace")
    assert some.steps.tolist() == [1, 5]
    assert len(list((tmp_path / "some" / "trace").glob("*.parquet"))) == 2
    for a, b in zip(every.counts, some.counts, strict=True):
        assert np.array_equal(a[[0, 4]], b)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    train(tmp_path / "one", family="deepseek_v3", learning_rate=0.0)
    run_on_two(WORKER, tmp_path / "two", "--mode", "two")
    one = load_trace(tmp_path / "one" / "trace")
    assert same(one, load_trace(tmp_path / "two" / "trace"))


@pytest.mark.slow
def test_processes_apart(tmp_path: Path) -> None:
    train(tmp_path / "one", family="deepseek_v3", learning_rate=0.0)
    run_on_two(WORKER, tmp_path / "apart", "--mode", "apart")
    apart = load_trace(tmp_path / "apart" / "trace")
    assert same(load_trace(tmp_path / "one" / "trace"), apart)
    assert apart.rank_counts is not None
    [counts] = apart.rank_counts
    assert counts.shape == (5, 2, 8)
    assert not np.array_equal(counts[:, 0], counts[:, 1])


@pytest.mark.slow
def test_killed_and_resumed(tmp_path: Path) -> None:
    def run(*arguments: str) -> int:
        command = [sys.executable, str(WORKER), *arguments, "--mode", "long"]
        return subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode

    assert run(str(tmp_path / "whole")) == 0
    killed = str(tmp_path / "killed")
    # The trace is flushed at steps 5 and 10 and beyond the checkpoint of step 5 when the first kill strikes.
    assert run(killed, "--kill-at", "9") == -signal.SIGKILL
    assert run(killed, "--kill-at", "13", "--resume") == -signal.SIGKILL
    assert run(killed, "--resume") == 0
    whole = load_trace(tmp_path / "whole" / "trace")
    assert whole.steps.tolist() == [1, 3, 5, 7, 9, 11, 13, 15]
    assert same(whole, load_trace(tmp_path / "killed" / "trace"))


def test_a_resumed_run_takes_back_later_steps(tmp_path: Path) -> None:
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    train(tmp_path, trace={"flush_every": 2}, **options)
    before = load_trace(tmp_path / "trace")
    # As if killed after step 5, with the checkpoint of step 3 as the last.
    import shutil

    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    train(tmp_path, trace={"flush_every": 4}, resume=True, **options)
    assert same(before, load_trace(tmp_path / "trace"))
    with pytest.raises(ValueError, match="sample_every=1, and this run has 2"):
        train(tmp_path, trace={"sample_every": 2}, resume=True, **options)


def test_an_older_trace_is_kept_unless_overwritten(tmp_path: Path) -> None:
    train(tmp_path, max_steps=3)
    with pytest.raises(ValueError, match="up to step 3"):
        train(tmp_path, max_steps=2)
    assert load_trace(tmp_path / "trace").steps.tolist() == [1, 2, 3]
    train(tmp_path, max_steps=2, trace={"overwrite": True})
    assert load_trace(tmp_path / "trace").steps.tolist() == [1, 2]


def test_state_rebuilds_the_callback() -> None:
    callback = RouterTraceCallback("folder", sample_every=3, per_rank=True)
    again = RouterTraceCallback.from_state(callback.state())
    assert again.state() == callback.state()


def test_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sample_every=0 must be at least 1"):
        RouterTraceCallback("folder", sample_every=0)
    with pytest.raises(ValueError, match="torch_compile=True cannot be traced"):
        train(tmp_path, torch_compile=True)
    assert not (tmp_path / "trace").exists()


def test_damaged_traces(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no part"):
        load_trace(tmp_path)
    train(tmp_path, max_steps=3, trace={"flush_every": 1})
    second = sorted((tmp_path / "trace").glob("*.parquet"))[1]
    table = pq.read_table(second)
    content = second.read_bytes()
    second.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="truncated or damaged"):
        load_trace(tmp_path / "trace")
    pq.write_table(table.slice(0, 1), second)
    with pytest.raises(ValueError, match="each step once for each router: 5 rows, and 6"):
        load_trace(tmp_path / "trace")
    pq.write_table(table.replace_schema_metadata({}), second)
    with pytest.raises(ValueError, match="not a part of a router trace"):
        load_trace(tmp_path / "trace")


@pytest.mark.slow
def test_push_and_load(tmp_path: Path) -> None:
    train(tmp_path, max_steps=3)
    code = f"""
import datasets
datasets.config.USE_PARQUET_EXPORT = False
from hf_mixture.moe.trace import load_trace
trace = load_trace({str(tmp_path / "trace")!r})
trace.push_to_hub("tester/trace")
trace.push_to_hub("tester/trace")
again = load_trace("tester/trace")
assert all((a == b).all() for a, b in zip(again.counts, trace.counts)) and again.routers == trace.routers
rows = datasets.load_dataset("tester/trace", split="train")
assert len(rows) == 6 and rows[0]["counts"] == trace.counts[0][0].tolist(), rows[0]
try:
    load_trace("tester/nothing")
except FileNotFoundError as error:
    assert "no dataset repository" in str(error)
else:
    raise AssertionError
"""
    with running_hub() as hub:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=hub.environment(tmp_path / "home"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        files = hub.store.files("dataset", "tester/trace")
    assert {name for name in files if not name.startswith(".")} == {"README.md", "part-000000000001.parquet"}
