"""`hf-mixture inspect`: the routers and experts of a model, from its configuration alone."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the `inspect` subcommand."""
    parser = subparsers.add_parser(
        "inspect",
        help="show the routers and experts of a model",
        description="Show where the routers and experts of a model are and how they select. No weights are loaded.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder, or name of a repository on the Hub")
    parser.add_argument("--revision", help="branch, tag or commit of the repository")
    parser.add_argument("--json", action="store_true", help="print JSON, one entry for each router")
    parser.set_defaults(run=run, needs_registration=True)


def run(args: argparse.Namespace) -> int:
    """Print the table of routers."""
    from hf_mixture.moe.anatomy.describe import describe_moe, empty_model

    table = describe_moe(empty_model(args.model, revision=args.revision))
    print(json.dumps(table.to_dict(), indent=2) if args.json else table)
    return 0
