"""A run through all rooms on real text: killed twice, pushed to a Hub on loopback, pulled by a fresh process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_double import HubDouble, running_hub
from killed_runs import kill_once_there

from hf_mixture import ExpertEdits, Mixture
from hf_mixture.moe.trace import load_trace


pytestmark = pytest.mark.slow

NAME = "tester/everything"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[HubDouble, Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("everything")
    run = folder / "run"
    words = ["everything", "everything", "--smoke", "--output_dir", str(run), "--hub", NAME, "--resume"]
    with running_hub() as hub:
        environment = hub.environment(folder / "home")
        for place in ("search/search", "spread/checkpoints/fssdp2/checkpoint-8/training_state"):
            kill_once_there(words, run / place, environment)
        command = [sys.executable, "-m", "hf_mixture_cli", *words]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr[-4000:] + "\n".join(hub.requests[-20:])
        assert "A fresh process has loaded it from tester/everything" in ended.stdout
        return hub, run, json.loads((run / "results.json").read_text(encoding="utf-8"))


def test_a_fresh_process_has_the_same_outputs(done: tuple[HubDouble, Path, dict[str, Any]]) -> None:
    pulled = done[2]["pull"]
    assert pulled["max_difference"] <= 1e-5 * pulled["max_logit"]


def test_a_run_that_has_ended_is_pushed_elsewhere(
    done: tuple[HubDouble, Path, dict[str, Any]], tmp_path: Path
) -> None:
    finished = done[1]
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    words = ["everything", "everything", "--smoke", "--output_dir", str(run), "--hub", "tester/again", "--resume"]
    with running_hub() as hub:
        command = [sys.executable, "-m", "hf_mixture_cli", *words]
        environment = hub.environment(tmp_path / "home")
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "A fresh process has loaded it from tester/again" in ended.stdout
    assert "== search" not in ended.stdout
    config = json.loads((run / "published" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "tester/again-base"


def test_two_processes_that_were_killed_train_as_one(done: tuple[HubDouble, Path, dict[str, Any]]) -> None:
    _, run, results = done
    rows = {row["name"]: row for row in results["spread"]["rows"]}
    assert 0 < rows["fssdp2"]["largest_difference"] < 1e-4
    assert rows["fssdp2"]["copies"] > 0
    assert rows["fssdp2"]["online"]["rounds"]
    traces = [load_trace(run / "spread" / "traces" / name) for name in ("one", "fssdp2")]
    assert traces[0].steps.tolist() == traces[1].steps.tolist() == list(range(1, 25, 2))
    for one, two in zip(*(trace.counts for trace in traces), strict=True):
        # A token between two experts may go to the other, where sums are rounded otherwise.
        assert abs(one - two).sum() <= 0.01 * one.sum()


def test_each_part_changes_the_model(done: tuple[HubDouble, Path, dict[str, Any]]) -> None:
    results = done[2]
    assert sum(results["curate"]["kept"].values()) < sum(results["curate"]["read"].values())
    assert set(results["curate"]["licences"]) >= {"MIT", "Apache-2.0"}
    domains = list(results["clusters"]["domains"])
    assert len(domains) >= 2
    assert sum(results["mixture"].values()) == pytest.approx(1)
    assert results["mixture"] != pytest.approx(results["search"]["weights"])
    *_, quantised, adapted, edited = results["rows"]
    assert quantised["bits_per_byte"] != adapted["bits_per_byte"] != edited["bits_per_byte"]
    assert quantised["bytes"] < results["rows"][0]["bytes"]
    assert len(results["edit"]["edits"]) == 2


def test_the_folder_and_the_hub_hold_the_same(done: tuple[HubDouble, Path, dict[str, Any]]) -> None:
    hub, run, results = done
    assert set(results["push"]) == {NAME, *(f"{NAME}-{name}" for name in ("base", "mixture", "trace", "data"))}
    for place, repository in (("adapter", NAME), ("base", f"{NAME}-base")):
        local = {path.name for path in (run / "published" / place).iterdir()}
        assert local <= set(hub.store.files("model", repository))
        assert "README.md" in local
    adapter = run / "published" / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == f"{NAME}-base"
    assert ExpertEdits.from_pretrained(adapter).base_model_name_or_path == f"{NAME}-base"
    assert f'AutoMoTE.from_pretrained("{NAME}")' in (adapter / "README.md").read_text(encoding="utf-8")
    assert Mixture.from_pretrained(run / "search").weights == pytest.approx(results["search"]["weights"])
    assert not (run / "checkpoints").exists()
