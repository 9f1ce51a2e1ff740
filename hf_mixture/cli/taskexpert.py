"""`hf-mixture taskexpert`: a recipe that trains task-specific gates over experts and baselines, and compares them."""

from __future__ import annotations

import argparse
from typing import Any

from hf_mixture.cli.train import add_recipe_arguments, run_a_recipe


def add_parser(subparsers: Any) -> None:
    """Add the `taskexpert` subcommand."""
    parser = subparsers.add_parser(
        "taskexpert",
        help="predict several dense maps of an image by experts and dynamic gates (TaskExpert), and compare",
        usage="hf-mixture taskexpert RECIPE [options] [--KEY.PATH VALUE ...]",
        epilog="Any key of the recipe can be given as --KEY.PATH VALUE after the recipe, for example "
        "--training.max_steps 50; it wins over the file.",
    )
    add_recipe_arguments(parser, "taskexpert_scenes")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the recipe and run it."""
    from hf_mixture.training.taskexpert.recipe import resolve_taskexpert
    from hf_mixture.training.taskexpert.run import taskexpert_recipe

    return run_a_recipe(args, "taskexpert", resolve_taskexpert, taskexpert_recipe)
