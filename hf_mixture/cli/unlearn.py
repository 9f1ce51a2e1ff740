"""`hf-mixture unlearn`: a recipe that makes recommenders forget, and compares them with retrained ones."""

from __future__ import annotations

import argparse
from typing import Any

from hf_mixture.cli.train import add_recipe_arguments, run_a_recipe


def add_parser(subparsers: Any) -> None:
    """Add the `unlearn` subcommand."""
    parser = subparsers.add_parser(
        "unlearn",
        help="make multimodal recommenders forget users, items or interactions (MMRecUn), and compare with retraining",
        usage="hf-mixture unlearn RECIPE [options] [--KEY.PATH VALUE ...]",
        epilog="Any key of the recipe can be given as --KEY.PATH VALUE after the recipe, for example "
        "--grid.steps_share 0.05; it wins over the file.",
    )
    add_recipe_arguments(parser, "unlearn_movielens, unlearn_tiktok")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the recipe and run it."""
    from hf_mixture.training.unlearn.recipe import resolve_unlearn
    from hf_mixture.training.unlearn.run import unlearn_recipe

    return run_a_recipe(args, "unlearn", resolve_unlearn, unlearn_recipe)
