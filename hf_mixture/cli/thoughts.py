"""`hf-mixture thoughts`: a recipe that trains a Mixture of Thoughts beside its controls."""

from __future__ import annotations

import argparse
from typing import Any

from hf_mixture.cli.train import add_recipe_arguments, run_a_recipe


def add_parser(subparsers: Any) -> None:
    """Add the `thoughts` subcommand."""
    parser = subparsers.add_parser(
        "thoughts",
        help="train a mixture of thoughts of several experts and compare it with controls, as a recipe says",
        usage="hf-mixture thoughts RECIPE [options] [--KEY.PATH VALUE ...]",
        epilog="Any key of the recipe can be given as --KEY.PATH VALUE after the recipe, for example "
        "--thoughts.num_levels 2; it wins over the file.",
    )
    add_recipe_arguments(parser, "mot_domains, mot_hub")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the recipe and run it."""
    from hf_mixture.training.thoughts.resolve import resolve_thoughts
    from hf_mixture.training.thoughts.run import thoughts_recipe

    return run_a_recipe(args, "thoughts", resolve_thoughts, thoughts_recipe)
