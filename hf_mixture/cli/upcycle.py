"""`hf-mixture upcycle`: a recipe that upcycles a dense model and compares routers."""

from __future__ import annotations

import argparse
from typing import Any

from hf_mixture.cli.train import add_recipe_arguments, run_a_recipe


def add_parser(subparsers: Any) -> None:
    """Add the `upcycle` subcommand."""
    parser = subparsers.add_parser(
        "upcycle",
        help="make a mixture of experts of a dense model and compare routers, as a recipe says",
        usage="hf-mixture upcycle RECIPE [options] [--KEY.PATH VALUE ...]",
        epilog="Any key of the recipe can be given as --KEY.PATH VALUE after the recipe, for example "
        "--upcycle.num_experts 4; it wins over the file.",
    )
    add_recipe_arguments(parser, "upcycle")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the recipe and run it."""
    from hf_mixture.training.upcycle.resolve import resolve_upcycle
    from hf_mixture.training.upcycle.run import upcycle_recipe

    return run_a_recipe(args, "upcycle", resolve_upcycle, upcycle_recipe)
