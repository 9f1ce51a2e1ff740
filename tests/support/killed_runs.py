"""Runs of the command line that are killed in the middle, and what may differ afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def kill_once_there(words: list[str], path: Path, environment: dict[str, str] | None = None) -> None:
    """Run a command of the package in a process group of its own, and kill it as soon as a file or folder exists."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_mixture_cli", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment,
    )
    try:
        deadline = time.monotonic() + 600
        while not path.exists():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, f"{path} did not appear"
            time.sleep(0.002)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def without_times(value: Any) -> Any:
    """The results of a run without how long it took, where it ran and how it was called."""
    left_out = ("seconds_per_step", "command", "machine")
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key not in left_out and not key.endswith("cpu_seconds")}
        return {key: without_times(item) for key, item in kept.items()}
    return [without_times(item) for item in value] if isinstance(value, list) else value
