"""Processes that save are killed at random moments: what is on disk is the old or the new artefact, never a half."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import saving_worker
from saving_worker import SAVERS


def kill_while_saving(name: str, folder: Path, generator: np.random.Generator) -> None:
    """Start the worker, let it save a random number of times, and kill it a random number of spins later."""
    process = subprocess.Popen(
        [sys.executable, saving_worker.__file__, name, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        for _ in range(int(generator.integers(2, 7))):
            assert process.stdout.readline(), "the worker ended"
        # The moment within a save: some work of this process, not a time.
        sum(range(int(generator.integers(400_000))))
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def check(name: str, folder: Path) -> None:
    """Read what a killed process has left: one of the two, or a clear refusal where two files belong together."""
    _, read, may_refuse = SAVERS[name]
    if not may_refuse:
        assert read(folder) in (0, 1)
        return
    try:
        found = read(folder)
    except ValueError as error:
        said = str(error)
    else:
        assert found in (0, 1)
        return
    assert str(folder) in said


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SAVERS))
def test_a_save_that_is_killed_leaves_the_old_or_the_new(name: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        kill_while_saving(name, folder, generator)
        check(name, folder)
        # The next save takes no harm from what was left.
        SAVERS[name][0](folder, 1)
        assert SAVERS[name][1](folder) == 1


@pytest.mark.parametrize(
    ("name", "call", "times"),
    [
        ("mixture", "fsync", 1),
        ("mixture", "replace", 1),
        ("residual experts", "fsync", 1),
        ("residual experts", "replace", 1),
        ("folder", "rename", 1),
        ("folder", "rename", 2),
    ],
)
def test_a_save_that_is_killed_at_a_call(name: str, call: str, times: int, tmp_path: Path) -> None:
    """The moments that matter: before the content is on the disk, before it is renamed, between two renames."""
    save, read, _ = SAVERS[name]
    save(tmp_path, 0)
    child = os.fork()
    if child == 0:
        _die_at(call, times)
        save(tmp_path, 1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert read(tmp_path) == 0
    save(tmp_path, 1)
    assert read(tmp_path) == 1
    assert not list(tmp_path.glob(".*.replaced"))


def _die_at(call: str, times: int) -> None:
    """Kill this process at the start of a call of `os`."""
    original, left = getattr(os, call), [times]

    def dying(*args: object, **kwargs: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(os, call, dying)
