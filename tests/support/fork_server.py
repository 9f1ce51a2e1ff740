"""Processes that start in no time and can be killed like any others.

They are forked from a server that has imported everything, so that a run takes a second and not ten, and that has not
computed anything, so that forking is safe.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def start_process(target: Callable[..., None], *args: Any) -> BaseProcess:
    """Start a process that calls a function of a module of `tests/support`; its own children are forked from it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mixture_run_process"])
    with pytest.MonkeyPatch.context() as patch:
        # What the server inherits when the first process starts it.
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    process = context.Process(target=_call, args=(target, args))
    process.start()
    return process


def start_script(script: Path, *arguments: object, environment: Mapping[str, str], output: Path) -> BaseProcess:
    """Start a script as `python SCRIPT ARGUMENTS` does.

    Args:
        script: The script.
        arguments: Its arguments.
        environment: All of its environment.
        output: Folder; what it writes is added to the files `stdout` and `stderr` in it.
    """
    return start_process(_run_script, [str(script), *map(str, arguments)], dict(environment), str(output))


def _run_script(words: list[str], environment: dict[str, str], output: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(output, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    # All that are forked from the server would draw the same numbers from it.
    np.random.seed()
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).parent))
    runpy.run_path(words[0], run_name="__main__")


def _call(target: Callable[..., None], args: tuple[Any, ...]) -> None:
    # A process of the server would start its own children through the server, too.
    multiprocessing.set_start_method("fork", force=True)
    target(*args)
