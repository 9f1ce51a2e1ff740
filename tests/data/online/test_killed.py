"""A run killed with -9, in the middle of LearnParams or while a change of weights is pending, goes on alike."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest


WORKER = Path(__file__).parent / "killed_run.py"


def start(folder: Path, restore: bool, seconds: float = 0.0) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(WORKER), str(folder), "restore" if restore else "keep", str(seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def log(folder: Path) -> dict[int, Any]:
    """The last entry of each step."""
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("}")]
    return {entry["step"]: entry for entry in entries}


@pytest.mark.slow
@pytest.mark.parametrize("restore", [False, True])
def test_a_killed_run_goes_on_alike(tmp_path, restore):
    assert start(tmp_path / "whole", restore).wait(240) == 0
    # Blocks end after 2, 4 and 6 steps of a round of 12; the decision after 6 takes effect 3 steps later.
    for step in (3, 7, 17, 19):
        process = start(tmp_path / "killed", restore, 0.15)
        deadline = time.monotonic() + 120
        while max(log(tmp_path / "killed"), default=0) < step:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    assert start(tmp_path / "killed", restore).wait(240) == 0
    whole, killed = log(tmp_path / "whole"), log(tmp_path / "killed")
    assert sorted(whole) == sorted(killed) == list(range(1, 25))
    for step, entry in whole.items():
        # The loss by domain is of what this process trained on since its last entry, the same for whole steps.
        assert killed[step] == entry
    histories = [json.loads((tmp_path / name / "mixing_law.json").read_text()) for name in ("whole", "killed")]
    assert histories[0] == histories[1]
    assert [decision["lag"] for decision in histories[0]["rounds"]] == [3.0, 3.0]
