"""Real processes that work together, two or more, for tests of what is distributed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_on_two(worker: Path, *arguments: object, timeout: float = 300) -> str:
    """Run a script on two processes; see `run_on`."""
    return run_on(2, worker, *arguments, timeout=timeout)


def run_on(number: int, worker: Path, *arguments: object, timeout: float = 300) -> str:
    """Run a script on processes of this machine under torchrun, and fail with its output if it fails.

    Args:
        number: How many processes.
        worker: The script; it asserts the world size itself.
        arguments: Its arguments.
        timeout: Seconds that it may take.

    Returns:
        What it wrote to standard error.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(number)]
    launch = subprocess.run(
        [*command, str(worker), *map(str, arguments)],
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert launch.returncode == 0, launch.stdout[-2000:] + launch.stderr[-6000:]
    return launch.stderr


def run_alone(worker: Path, *arguments: object) -> None:
    """Run a script that `run_on` runs on processes, on one without torchrun, and fail with its output if it fails."""
    command = [sys.executable, str(worker), *map(str, arguments)]
    run = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-6000:]


def _environment() -> dict[str, str]:
    """Workers import what tests share, as tests do."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parent)}
