"""`hf-mixture matsim`: a recipe that trains encoders of materials in several ways, and compares them."""

from __future__ import annotations

import argparse
from typing import Any

from hf_mixture.cli.train import add_recipe_arguments, run_a_recipe


def add_parser(subparsers: Any) -> None:
    """Add the `matsim` subcommand."""
    parser = subparsers.add_parser(
        "matsim",
        help="learn the similarity of materials from mixtures at known ratios (MatSim), and compare objectives",
        usage="hf-mixture matsim RECIPE [options] [--KEY.PATH VALUE ...]",
        epilog="Any key of the recipe can be given as --KEY.PATH VALUE after the recipe, for example "
        "--training.max_steps 50; it wins over the file.",
    )
    add_recipe_arguments(parser, "matsim_materials")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the recipe and run it."""
    from hf_mixture.training.matsim.recipe import resolve_matsim
    from hf_mixture.training.matsim.run import matsim_recipe

    return run_a_recipe(args, "matsim", resolve_matsim, matsim_recipe)
