"""The journal: what is finished is never run again, what was torn by a kill is, and other experiments are refused."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import time
from pathlib import Path

import proxy_setup
import pytest
from fork_server import start_script
from proxy_setup import SHARES

from hf_mixture.data.proxy import ProxyRunner, ProxySwarm


WORKER = Path(__file__).parent / "killed_proxies.py"
KINDS = {"runner": ProxyRunner, "swarm": ProxySwarm}


@pytest.fixture(scope="module")
def data():
    return proxy_setup.data()


@pytest.fixture(scope="module")
def uninterrupted(data):
    trials = proxy_setup.trials(*SHARES)
    return {name: kind(proxy_setup.spec(), *data).run(trials) for name, kind in KINDS.items()}


@pytest.mark.parametrize("name", KINDS)
def test_finished_runs_are_not_repeated(name, data, uninterrupted, tmp_path, monkeypatch):
    kind = KINDS[name]
    trials = proxy_setup.trials(*SHARES)
    measured = []
    measure = kind._measure
    monkeypatch.setattr(
        kind, "_measure", lambda self, group, progress: measured.append(group) or measure(self, group, progress)
    )
    kind(proxy_setup.spec(), *data, folder=tmp_path).run(trials[:2])
    again = kind(proxy_setup.spec(), *data, folder=tmp_path)
    assert again.run(trials) == uninterrupted[name]
    assert again.run(reversed(trials)) == uninterrupted[name][::-1]
    ids = [trial.trial_id for group in measured for trial in group]
    if name == "runner":
        assert ids == ["run-0", "run-1", "run-2", "run-3"]
    lines = [json.loads(line) for line in (tmp_path / "runs-00000.jsonl").read_text().splitlines()]
    assert [line["trial_id"] for line in lines] == ["run-0", "run-1", "run-2", "run-3"]
    assert all(line["steps"] == 12 and line["failure"] is None for line in lines)


@pytest.mark.parametrize("torn", [1, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_torn_line_is_run_again(torn, data, uninterrupted, tmp_path):
    trials = proxy_setup.trials(*SHARES)
    ProxyRunner(proxy_setup.spec(), *data, folder=tmp_path).run(trials[:2])
    path = tmp_path / "runs-00000.jsonl"
    content = path.read_bytes()
    last = content[: len(content) - 1].rfind(b"\n") + 1
    path.write_bytes(content[: max(last, len(content) - torn)])
    assert ProxyRunner(proxy_setup.spec(), *data, folder=tmp_path).run(trials[:3]) == uninterrupted["runner"][:3]
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 3


def test_a_damaged_line_is_named(data, tmp_path):
    ProxyRunner(proxy_setup.spec(num_steps=1), *data, folder=tmp_path).run(proxy_setup.trials(*SHARES[:2]))
    path = tmp_path / "runs-00000.jsonl"
    path.write_text("{]\n" + path.read_text())
    with pytest.raises(ValueError, match=r"line 1 of .*runs-00000.jsonl.*remove that line"):
        ProxyRunner(proxy_setup.spec(num_steps=1), *data, folder=tmp_path).run(proxy_setup.trials(*SHARES[:2]))


def test_another_experiment_is_refused(data, tmp_path):
    spec = proxy_setup.spec(num_steps=1)
    train, validation = data
    ProxyRunner(spec, train, validation, folder=tmp_path).run(proxy_setup.trials(SHARES[0]))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    changed = {**train, "mail": train["mail"].clone()}
    changed["mail"][5, 5] += 1
    others = {
        "spec.learning_rate was 0.005, is 0.1": (dataclasses.replace(spec, learning_rate=0.1), train, validation),
        "spec.model.hidden_size was 32": (
            dataclasses.replace(spec, model={**spec.model, "hidden_size": 64}),
            train,
            validation,
        ),
        "spec.seed was 0, is 3": (dataclasses.replace(spec, seed=3), train, validation),
        "data.train.mail was": (spec, changed, validation),
        "data.train.mail is missing now": (spec, {n: train[n] for n in ("codecs", "tests")}, validation),
        "data.validation.mail was": (spec, train, {**validation, "mail": changed["mail"]}),
        "domains was": (spec, dict(reversed(train.items())), validation),
    }
    for message, arguments in others.items():
        with pytest.raises(ValueError, match=f"runs of another experiment: .*{message}.*another folder"):
            ProxyRunner(*arguments, folder=tmp_path)
    with pytest.raises(ValueError, match="kind was 'trainer', is 'swarm'"):
        ProxySwarm(spec, train, validation, folder=tmp_path)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "proxies.json").write_text('{"format": "something"}')
    with pytest.raises(ValueError, match="format 'something'"):
        ProxyRunner(spec, train, validation, folder=tmp_path / "more")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def kill_again_and_again(folder, num_kills, seed):
    """Start the worker, kill it at a random moment of its work, and so on; returns how many kills hit it working."""
    rng = random.Random(seed)  # noqa: S311
    landed = 0
    longest = 1.0
    for number in range(num_kills):
        output = folder / f"output-{number}"
        output.mkdir()
        process = start_script(WORKER, folder, environment=os.environ, output=output)
        while not (output / "stdout").exists() or (output / "stdout").read_text() != "ready\n":
            assert process.exitcode is None, (output / "stderr").read_text()
            time.sleep(0.002)
        began = time.monotonic()
        process.join(rng.uniform(0, longest))
        if process.exitcode is None:
            process.kill()
            process.join()
            landed += 1
        else:
            assert process.exitcode == 0, (output / "stderr").read_text()
            longest = max(0.05, time.monotonic() - began)
    return landed


@pytest.mark.parametrize("num_kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_runs_continue_with_the_same_table(num_kills, data, uninterrupted, tmp_path):
    landed = kill_again_and_again(tmp_path, num_kills, seed=num_kills)
    assert landed >= num_kills // 2
    for name, kind in KINDS.items():
        experiments = kind(proxy_setup.spec(), *data, folder=tmp_path / name)
        assert experiments.run(proxy_setup.trials(*SHARES)) == uninterrupted[name]
        assert not list((tmp_path / name).glob("stack-*.safetensors"))


def test_a_stack_continues_from_its_checkpoint(data, uninterrupted, tmp_path, monkeypatch):
    from hf_mixture.data.proxy import swarm as module

    def swarm():
        return ProxySwarm(proxy_setup.spec(), *data, folder=tmp_path, checkpoint_seconds=1e-9)

    class Killed(module.StackedTraining):
        def advance(self, ids):
            if self.step == 7:
                raise KeyboardInterrupt
            super().advance(ids)

    with monkeypatch.context() as patch:
        patch.setattr(module, "StackedTraining", Killed)
        with pytest.raises(KeyboardInterrupt):
            swarm().run(proxy_setup.trials(*SHARES))
    (checkpoint,) = tmp_path.glob("stack-*.safetensors")
    steps = []
    advance = module.StackedTraining.advance
    monkeypatch.setattr(
        module.StackedTraining, "advance", lambda self, ids: steps.append(self.step) or advance(self, ids)
    )
    assert swarm().run(proxy_setup.trials(*SHARES)) == uninterrupted["swarm"]
    assert steps == [7, 8, 9, 10, 11]
    assert not checkpoint.exists()
