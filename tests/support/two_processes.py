"""Real processes that work together, two or more, for tests of what is distributed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch.distributed as dist
from fork_server import start_script


def run_on_two(worker: Path, *arguments: object, timeout: float = 300) -> str:
    """Run a script on two processes; see `run_on`."""
    return run_on(2, worker, *arguments, timeout=timeout)


def run_on(number: int, worker: Path, *arguments: object, timeout: float = 300) -> str:
    """Run a script on processes of this machine as torchrun does, and fail with its output if it fails.

    With TESTS_UNDER_TORCHRUN=1, as `make test-all` sets it, torchrun starts them. Else they are forked from a server
    that has imported everything, which saves most of the time of a short test; such processes order sets alike, so
    where that might hide a fault, use `run_under_torchrun`.

    Args:
        number: How many processes.
        worker: The script; it asserts the world size itself.
        arguments: Its arguments.
        timeout: Seconds that it may take.

    Returns:
        What it wrote to standard error.
    """
    if os.environ.get("TESTS_UNDER_TORCHRUN") == "1":
        return run_under_torchrun(number, worker, *arguments, timeout=timeout)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = [
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(number),
            "LOCAL_WORLD_SIZE": str(number),
            "MASTER_ADDR": store.host,
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        for rank in range(number)
    ]
    return _run(worker, arguments, ranks, timeout)[1]


def run_under_torchrun(number: int, worker: Path, *arguments: object, timeout: float = 300) -> str:
    """Do as `run_on`, in processes that torchrun starts afresh, each with hashes of its own."""
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


def run_alone(worker: Path, *arguments: object, timeout: float = 300) -> str:
    """Run a script on one process as `run_on` does on several, and return what it wrote to standard output."""
    return _run(worker, arguments, [{}], timeout)[0]


def _run(worker: Path, arguments: tuple[object, ...], ranks: list[dict[str, str]], timeout: float) -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        started = [
            start_script(worker, *arguments, environment=_environment() | rank, output=output) for rank in ranks
        ]
        try:
            _wait_for_all(started, time.monotonic() + timeout)
        finally:
            for process in started:
                process.kill()
                process.join()
        said, complained = ((output / name).read_text() for name in ("stdout", "stderr"))
    assert not any(process.exitcode for process in started), said[-2000:] + complained[-6000:]
    return said, complained


def _wait_for_all(started: list[BaseProcess], deadline: float) -> None:
    """Wait until all have ended well, one has not, or the time is over."""
    while any(process.exitcode is None for process in started) and time.monotonic() < deadline:
        if any(process.exitcode for process in started):
            return
        time.sleep(0.02)


def _environment() -> dict[str, str]:
    """Workers import what tests share, as tests do."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parent)}
