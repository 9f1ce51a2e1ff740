"""`hf-mixture supernets`: a recipe that searches for where a network should pool, and compares with the truth."""

from __future__ import annotations

import argparse
from typing import Any

from hf_mixture.cli.train import add_recipe_arguments, run_a_recipe


def add_parser(subparsers: Any) -> None:
    """Add the `supernets` subcommand."""
    parser = subparsers.add_parser(
        "supernets",
        help="search for where an image classifier should pool, by a balanced mixture of SuperNets, and compare",
        usage="hf-mixture supernets RECIPE [options] [--KEY.PATH VALUE ...]",
        epilog="Any key of the recipe can be given as --KEY.PATH VALUE after the recipe, for example "
        "--search.max_steps 50; it wins over the file.",
    )
    add_recipe_arguments(parser, "supernets_digits")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the recipe and run it."""
    from hf_mixture.training.supernets.recipe import resolve_supernets
    from hf_mixture.training.supernets.run import supernets_recipe

    return run_a_recipe(args, "supernets", resolve_supernets, supernets_recipe)
