"""The benchmarks for a GPU: all parts run on a CPU with tiny sizes, and a part that fails stops no other."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest


GPU = Path(__file__).parents[2] / "benchmarks" / "gpu"


@pytest.fixture
def run_all(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(GPU), *sys.path])
    return runpy.run_path(str(GPU / "run_all.py"))


def test_the_parts_fit_into_eight_minutes(run_all):
    assert sum(run_all["BUDGETS"].values()) < 480
    assert set(run_all["BUDGETS"]) == {path.name for path in GPU.glob("bench_*.py")}


def test_a_part_that_fails_or_does_not_end_is_recorded_and_the_next_one_runs(run_all, tmp_path):
    (tmp_path / "bad.py").write_text("raise RuntimeError('out of memory')", encoding="utf-8")
    (tmp_path / "endless.py").write_text("import time; time.sleep(3600)", encoding="utf-8")
    (tmp_path / "good.py").write_text(
        "import sys; open(sys.argv[sys.argv.index('--folder') + 1] + '/good.json', 'w')", encoding="utf-8"
    )
    part = run_all["Part"](device="cpu", tiny=True, folder=tmp_path)
    outcomes = run_all["run_parts"]({"bad.py": 60, "endless.py": 0.1, "good.py": 60}, part, tmp_path)
    assert [outcome["status"] for outcome in outcomes.values()] == ["failed", "failed", "measured"]
    assert outcomes["bad.py"]["error"] == "RuntimeError: out of memory"
    assert "budget" in outcomes["endless.py"]["error"]
    assert (tmp_path / "good.json").exists()
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["parts"] == outcomes


@pytest.mark.parametrize("flags", [["--device", "cpu"], ["--device", "cpu", "--tiny"]])
def test_results_of_a_cpu_do_not_go_where_those_of_a_gpu_belong(flags):
    with pytest.raises(SystemExit):
        runpy.run_path(str(GPU / "part.py"))["parse"]("", flags)


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path):
    command = [sys.executable, GPU / "run_all.py", "--device", "cpu", "--tiny", "--folder", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("*.json")}
    summary = results.pop("gpu")
    assert len(results) == len(summary["parts"])
    for result in results.values():
        assert result["device"] == "cpu"
        assert result["setting"]["tiny"] is True
        assert all(ratio["median"] > 0 for ratio in result["ratios"].values())
