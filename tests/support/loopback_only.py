"""Import first in a process that must not leave this machine: any connection or look-up of another host is an error."""

from __future__ import annotations

import sys
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


sys.addaudithook(_guard)
