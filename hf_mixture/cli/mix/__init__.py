"""`hf-mixture mix`: one action per file of this folder, each with `add_parser(actions)` and `run(args) -> int`."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the `mix` subcommand with the actions of this folder."""
    parser = subparsers.add_parser("mix", help="check, show, export, plan or find a data mixture")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}").add_parser(actions)


def add_mixture_action(actions: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    """Add an action that reads one mixture, with the arguments that say which.

    Args:
        actions: What `add_parser` of an action is given.
        name: The word on the command line.
        run: What runs the action.
        text: One line for `--help`.

    Returns:
        The parser, for further arguments.
    """
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text)
    parser.add_argument("path", help="a folder with a mixture.json, such a file, or a dataset repository on the Hub")
    parser.add_argument("--revision", help="branch, tag or commit of the repository")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run, needs_registration=False)
    return parser
