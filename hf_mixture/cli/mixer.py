"""`hf-mixture mixer`: a recipe that trains mixtures of expert dynamics and single experts, and compares them."""

from __future__ import annotations

import argparse
from typing import Any

from hf_mixture.cli.train import add_recipe_arguments, run_a_recipe


def add_parser(subparsers: Any) -> None:
    """Add the `mixer` subcommand."""
    parser = subparsers.add_parser(
        "mixer",
        help="learn differential equations of several families by a mixture of experts (MixER), and compare",
        usage="hf-mixture mixer RECIPE [options] [--KEY.PATH VALUE ...]",
        epilog="Any key of the recipe can be given as --KEY.PATH VALUE after the recipe, for example "
        "--training.max_steps 50; it wins over the file.",
    )
    add_recipe_arguments(parser, "mixer_odebench")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the recipe and run it."""
    from hf_mixture.training.mixer.recipe import resolve_mixer
    from hf_mixture.training.mixer.run import mixer_recipe

    return run_a_recipe(args, "mixer", resolve_mixer, mixer_recipe)
