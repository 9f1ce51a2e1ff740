"""Two processes share the runs out, and both end with all of them."""

from __future__ import annotations

import json
from pathlib import Path

import proxy_setup
import pytest
from proxy_setup import SHARES
from two_processes import run_on_two

from hf_mixture.data.proxy import ProxyRunner, ProxySwarm
from hf_mixture.data.search import Run


@pytest.mark.slow
def test_two_processes(tmp_path):
    worker = Path(__file__).parent / "proxies_on_two.py"
    said = run_on_two(worker, tmp_path)
    first, second = (json.loads((tmp_path / f"result-{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert (first["world_size"], first["backend"], first["ranks"]) == (2, "gloo", [0, 1])
    trials = proxy_setup.trials(*SHARES)
    for name, kind in (("runner", ProxyRunner), ("swarm", ProxySwarm)):
        alone = kind(proxy_setup.spec(), *proxy_setup.data()).run(trials)
        # Each run is trained by one process with the whole batch: neither its samples nor its gradients are shared.
        assert [trial_id for trial_id, _ in first[name]] == [run.trial_id for run in alone]
        precision = 0 if name == "runner" else 1e-6
        for found in ([metrics for _, metrics in first[name]], first[f"{name} without a folder"]):
            for metrics, run in zip(found, alone, strict=False):
                assert metrics == pytest.approx(dict(run.metrics), abs=precision, rel=0)
        files = sorted((tmp_path / name).glob("runs-*.jsonl"))
        done = [[json.loads(line)["trial_id"] for line in file.read_text().splitlines()] for file in files]
        assert len(done) == 2
        assert all(done)
        assert sorted(name for part in done for name in part) == [trial.trial_id for trial in trials]
        # One process alone reads what both wrote.
        assert kind(proxy_setup.spec(), *proxy_setup.data(), folder=tmp_path / name).run(trials) == [
            Run(trial_id, metrics) for trial_id, metrics in first[name]
        ]
    assert "not used" not in said
    assert "parallel_mode" not in said


@pytest.mark.parametrize("num", [1, 2, 5])
def test_stacks_are_of_even_size_and_enough_for_all_processes(num):
    swarm = ProxySwarm(proxy_setup.spec(num_steps=8), *proxy_setup.data(), max_stack=4)
    swarm.peers.num = num
    shares = [SHARES[0]] * 9
    trials = [*proxy_setup.trials(*shares), *proxy_setup.trials(*shares[:2], fidelity=0.5, prefix="short")]
    sizes = [len(group) for group in swarm._groups(trials)]
    assert sizes == {1: [3, 3, 3, 2], 2: [3, 2, 2, 2, 1, 1], 5: [2, 2, 2, 2, 1, 1, 1]}[num]
    assert [trial for group in swarm._groups(trials) for trial in group] == trials
