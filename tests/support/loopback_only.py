"""Runs a script that must not leave this machine: `python loopback_only.py SCRIPT ARGUMENTS...`.

Reaching for another host is an error in the script, and makes the exit status 1 even where the script swallows it.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any


VIOLATIONS: list[str] = []

_LOCAL = {"127.0.0.1", "::1", "localhost", "", None}


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if isinstance(host, bytes):
        host = host.decode()
    if host not in _LOCAL:
        VIOLATIONS.append(f"{event} {host}")
        raise ConnectionRefusedError(f"{event} {host}: this process talks to loopback only")


if __name__ == "__main__":
    sys.addaudithook(_guard)
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
    if VIOLATIONS:
        sys.exit(f"tried to leave this machine: {VIOLATIONS}")
