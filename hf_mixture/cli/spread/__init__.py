"""`hf-mixture spread`: one action per file of this folder, each with `add_parser(actions)` and `run(args) -> int`."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the `spread` subcommand with the actions of this folder."""
    parser = subparsers.add_parser("spread", help="train sparse models over several processes (FSSDP, folding)")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}").add_parser(actions)
