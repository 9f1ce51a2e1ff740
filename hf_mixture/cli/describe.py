"""`hf-mixture describe`: one method, with its paper, how to use it, what was measured and how to run it."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from hf_mixture.methods import MethodInfo


def add_parser(subparsers: Any) -> None:
    """Add the `describe` subcommand."""
    parser = subparsers.add_parser(
        "describe", help="describe a method: its paper, what you write, what was measured, and its recipes"
    )
    parser.add_argument("name", metavar="NAME", nargs="+", help="name of the method, as hf-mixture list has it")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run, needs_registration=False)


def run(args: argparse.Namespace) -> int:
    """Print what is known of the method."""
    from hf_mixture.training.commands import packaged_recipes

    method = find_method(" ".join(args.name))
    commands = packaged_recipes()
    runs = [f"hf-mixture {commands[recipe]} {recipe}" for recipe in method.recipes]
    if args.json:
        print(json.dumps({**dataclasses.asdict(method), "commands": runs}, indent=2))
        return 0
    print(f"{method.name}: a mixture of {method.kind}")
    rows = [("paper", method.paper), ("you write", method.plug_point), ("document", method.document)]
    rows += [("measured", f"benchmarks/results/{name}.json") for name in method.evidence]
    rows += [("recipe", command) for command in runs]
    previous = None
    for label, text in rows:
        print(f"  {'' if label == previous else label:<9}  {text}")
        previous = label
    return 0


def find_method(name: str) -> MethodInfo:
    """Find a method by its name, whatever its case.

    Args:
        name: The name.

    Returns:
        The method.

    Raises:
        ValueError: If there is none of that name; the nearest one is named.
    """
    from hf_mixture.methods import list_methods

    methods = {method.name.casefold(): method for method in list_methods()}
    if name.casefold() in methods:
        return methods[name.casefold()]
    near = difflib.get_close_matches(name.casefold(), methods, n=1)
    near += [known for known in methods if name.casefold() in known]
    meant = f"did you mean {methods[near[0]].name!r}? " if near else ""
    raise ValueError(f"NAME={name!r} is not a method; {meant}hf-mixture list has them all")
