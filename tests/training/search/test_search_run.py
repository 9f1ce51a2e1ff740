"""Searches from domains to `mixture.json`: what a run leaves, and what a killed one continues with."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cards import run_card
from tiny_search import tiny_search, write_search

from hf_mixture.cli.main import main
from hf_mixture.data.mixture import Mixture
from hf_mixture.data.search import RunTable
from hf_mixture.training.search.report import comparison_table, verdict


METHODS: dict[str, dict[str, Any]] = {
    "regmix": {"num_runs": 8, "predictor": "ridge"},
    "climb": {"rounds": [6, 2], "predictor": "ridge"},
    "admire": {"fidelities": {0.5: 0.5, 1.0: 1.0}, "budget": 4.0},
    "aioli": {"lp_rounds": 1, "lp_steps": 1, "update_steps": 6, "one_hot_factor": 0.75},
}


def recipe_of(folder: Path, method: str) -> dict[str, Any]:
    recipe = tiny_search(folder, method, **METHODS[method])
    recipe["comparison"]["seeds"] = [0, 1]
    if method == "aioli":
        recipe["objective"]["metric"] = "loss/mean"
    else:
        recipe["swarm"] = True
    if method == "climb":
        recipe |= {"clusters": {"num_clusters": 4, "num_domains": 2, "size": 8}}
        recipe["objective"]["metric"] = "loss/mean"
    return recipe


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=pytest.mark.slow if name == "regmix" else []) for name in METHODS]
)
def test_a_search_leaves_mixture_table_report_and_card(
    tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of(tmp_path, method)
    path = write_search(tmp_path, recipe)
    assert main(["mix", "search", str(path)]) == 0
    said, folder = capsys.readouterr().out, tmp_path / "run"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))

    names = [method, "natural", "stratified"]
    systems = results["comparison"]["systems"]
    assert [system["name"] for system in systems] == names
    assert all([run["seed"] for run in system["runs"]] == [0, 1] for system in systems)
    assert all(0 < run["objective"] < 7 for system in systems for run in system["runs"])
    domains = ["cluster_0", "cluster_1"] if method == "climb" else ["code", "prose", "tables"]
    assert systems[2]["weights"] == pytest.approx(dict.fromkeys(domains, 1 / len(domains)))

    mixture = Mixture.from_pretrained(folder)
    assert mixture.weights == pytest.approx(systems[0]["weights"])
    assert mixture.metadata["provenance"]["method"] == method
    assert all(mixture.sources[name].size for name in domains)

    report, card = (folder / "report.md").read_text("utf-8"), (folder / "README.md").read_text("utf-8")
    table = comparison_table(results)
    assert table in said
    assert table in report
    assert table in card
    run_card(folder)
    for plot in folder.glob("*.png"):
        assert plot.name in report
    assert (folder / "mixtures.png").exists()
    if method == "aioli":
        online = systems[0]["runs"][0]["online"]
        assert [turn["step"] for turn in online["rounds"]] == [3]
        assert (folder / "weights.png").exists()
    else:
        runs = RunTable.read_csv(folder / "runs.csv", key="run_id", prefix="weight/")
        assert len(runs) == results["search"]["num_runs"]
        assert runs.domains == tuple(domains)
    assert main(["mix", "search", str(path)]) == 2
    assert "add --resume" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("method", list(METHODS))
def test_packaged_recipes_run_small(tmp_path: Path, method: str) -> None:
    assert main(["mix", "search", method, "--smoke", "--output_dir", str(tmp_path / "run")]) == 0
    assert Mixture.from_pretrained(tmp_path / "run").metadata["provenance"]["method"] == method


def killed(path: Path, num_lines: int) -> bool:
    """Start the search, kill it once it has printed some lines of its work; whether it was still running."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_mixture_cli", "mix", "search", str(path), "--resume"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    # Moments are counted in work, not in seconds: a fast machine is done before any clock of a slow one.
    is_at_work = False
    for line in process.stdout:
        is_at_work = is_at_work or line.startswith("== ")
        num_lines -= is_at_work
        if num_lines < 0:
            break
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return alive


def outcome(folder: Path) -> tuple[Any, ...]:
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    runs = folder / "runs.csv"
    return (
        results["comparison"]["systems"],
        Mixture.from_pretrained(folder).weights,
        runs.read_text(encoding="utf-8") if runs.exists() else None,
    )


@pytest.mark.parametrize(
    ("method", "num_kills"),
    [
        ("regmix", 1),
        pytest.param("climb", 6, marks=pytest.mark.slow),
        pytest.param("admire", 6, marks=pytest.mark.slow),
        pytest.param("aioli", 8, marks=pytest.mark.slow),
    ],
)
def test_a_killed_search_ends_like_an_uninterrupted_one(tmp_path: Path, method: str, num_kills: int) -> None:
    folders = [tmp_path / "whole", tmp_path / "killed"]
    paths = []
    for folder in folders:
        folder.mkdir()
        recipe = recipe_of(folder, method)
        recipe["comparison"]["seeds"] = [0]
        recipe["comparison"]["training_arguments"]["save_steps"] = 1
        paths.append(write_search(folder, recipe))
    assert main(["mix", "search", str(paths[0])]) == 0
    clock = random.Random(0)  # noqa: S311 - sampling, not cryptography
    interrupted = [killed(paths[1], clock.randrange(12)) for _ in range(num_kills)]
    assert any(interrupted)
    assert main(["mix", "search", str(paths[1]), "--resume"]) == 0
    # Domains are files of the two folders with the same text.
    assert outcome(folders[1] / "run") == outcome(folders[0] / "run")


@pytest.mark.parametrize(
    ("direction", "means", "said"),
    [
        ("minimize", (5.25, 5.12, 5.17), "natural is better than regmix by 0.1300 in the mean"),
        ("minimize", (5.0, 5.12, 5.17), "regmix is better than natural, the next, by 0.1200 in the mean"),
        ("maximize", (0.5, 0.4, 0.7), "stratified is better than regmix by 0.2000 in the mean"),
    ],
)
def test_whether_the_search_has_helped_is_said(direction: str, means: tuple[float, ...], said: str) -> None:
    names = ("regmix", "natural", "stratified")
    systems = [{"name": name, "objective": {"mean": mean}} for name, mean in zip(names, means, strict=True)]
    assert said in verdict({"objective": {"direction": direction}, "comparison": {"systems": systems}})
