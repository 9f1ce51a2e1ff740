"""`hf-mixture mix`: validate, show and search data mixtures."""

from __future__ import annotations

import argparse
from typing import Any

from hf_mixture.cli import mix_search


def add_parser(subparsers: Any) -> None:
    """Add the `mix` subcommand."""
    parser = subparsers.add_parser("mix", help="validate, show or search a data mixture")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text in (("validate", "check a mixture.json against every rule"), ("show", "print a mixture")):
        child = actions.add_parser(action, help=text)
        child.add_argument(
            "path", help="a folder with a mixture.json, such a file, or a dataset repository on the Hub"
        )
        child.add_argument("--revision", help="branch, tag or commit of the repository")
        child.add_argument("--json", action="store_true", help="print JSON")
        child.set_defaults(run=run, needs_registration=False)
    mix_search.add_action(actions)


def run(args: argparse.Namespace) -> int:
    """Read the mixture, which validates it, and print it or a verdict."""
    import json

    from hf_mixture.data.mixture import Mixture
    from hf_mixture.data.mixture_report import advice, table

    mixture = Mixture.from_pretrained(args.path, revision=args.revision)
    notes = advice(mixture)
    if args.action == "show":
        print(mixture.to_json() if args.json else table(mixture), end="")
    elif args.json:
        print(
            json.dumps({"valid": True, "domains": list(mixture.names), "unit": mixture.unit, "notes": notes}, indent=2)
        )
    else:
        print(f"valid: {len(mixture.names)} domains, weights in {mixture.unit}, seed {mixture.seed}")
        for note in notes:
            print(f"note: {note}")
    return 0
