"""`hf-mixture list`: the methods of the package."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the `list` subcommand."""
    parser = subparsers.add_parser("list", help="list the methods with paper, plug point and status")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table of methods."""
    from hf_mixture.methods import list_methods

    methods = list_methods()
    if args.json:
        print(json.dumps([dataclasses.asdict(method) for method in methods], indent=2))
        return 0
    width = max(len(method.name) for method in methods)
    for method in methods:
        print(f"{method.name:<{width}}  {method.status:<9}  {method.paper}")
        print(f"{'':<{width}}  {'':<9}  {method.plug_point}")
    return 0
