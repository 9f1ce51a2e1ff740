"""Processes that start in no time and can be killed like any others.

They are forked from a server that has imported everything, so that a run takes a second and not ten, and that has not
computed anything, so that forking is safe.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

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


def _call(target: Callable[..., None], args: tuple[Any, ...]) -> None:
    # A process of the server would start its own children through the server, too.
    multiprocessing.set_start_method("fork", force=True)
    target(*args)
