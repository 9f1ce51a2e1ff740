"""`hf-mixture list`: the methods, the recipes and the routers of the package."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the `list` subcommand."""
    parser = subparsers.add_parser("list", help="list the methods, with paper and plug point, and the recipes")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--routers", action="store_true", help="list the routers for replace_routers instead")
    parser.set_defaults(run=run, needs_registration=False)


def run(args: argparse.Namespace) -> int:
    """Print the table of methods and the names of the recipes, or the table of routers."""
    if args.routers:
        return _routers(as_json=args.json)
    from hf_mixture.methods import list_methods
    from hf_mixture.training.commands import packaged_recipes

    methods, recipes = list_methods(), packaged_recipes()
    if args.json:
        rows = [dataclasses.asdict(method) for method in methods]
        print(json.dumps({"methods": rows, "recipes": list(recipes), "commands": recipes}, indent=2))
        return 0
    width = max(len(method.name) for method in methods)
    for method in methods:
        print(f"{method.name:<{width}}  {method.paper}")
        print(f"{'':<{width}}  {method.plug_point}")
    for command in dict.fromkeys(recipes.values()):
        names = [name for name, own in recipes.items() if own == command]
        print(f"recipes for hf-mixture {command}: {', '.join(names)}")
    return 0


def _routers(*, as_json: bool) -> int:
    from hf_mixture.moe.routers import list_routers

    routers = list_routers()
    if as_json:
        rows = [
            {
                "name": router.name,
                "causal": router.causal,
                "context": list(router.context),
                "options": {
                    name: "required" if isinstance(value, type) else value for name, value in router.options.items()
                },
                "paper": router.paper,
                "summary": router.summary,
            }
            for router in routers
        ]
        print(json.dumps({"routers": rows}, indent=2))
        return 0
    width = max(len(router.name) for router in routers)
    for router in routers:
        needs = f"; needs {', '.join(router.context)}" if router.context else ""
        print(f"{router.name:<{width}}  {router.summary}")
        print(f"{'':<{width}}  {'causal' if router.causal else 'not causal'}{needs}; {router.paper}")
    return 0
