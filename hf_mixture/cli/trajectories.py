"""`hf-mixture trajectories`: a recipe that finds latent classes of growth curves, of people or of training runs."""

from __future__ import annotations

import argparse
from typing import Any

from hf_mixture.cli.train import add_recipe_arguments, run_a_recipe


def add_parser(subparsers: Any) -> None:
    """Add the `trajectories` subcommand."""
    parser = subparsers.add_parser(
        "trajectories",
        help="find latent classes of growth curves, of people or of training runs, as a recipe says",
        usage="hf-mixture trajectories RECIPE [options] [--KEY.PATH VALUE ...]",
        epilog="Any key of the recipe can be given as --KEY.PATH VALUE after the recipe, for example "
        "--trajectories.n_starts 50; it wins over the file.",
    )
    add_recipe_arguments(parser, "trajectory_growth, training_curves")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the recipe and run it."""
    from hf_mixture.training.trajectories.recipe import resolve_trajectories
    from hf_mixture.training.trajectories.run import trajectories_recipe

    return run_a_recipe(args, "trajectories", resolve_trajectories, trajectories_recipe)
