"""`hf-mixture everything`: one recipe through all rooms, from text with licences to an edited adapter on the Hub."""

from __future__ import annotations

import argparse
from typing import Any

from hf_mixture.cli.train import add_recipe_arguments, run_a_recipe


def add_parser(subparsers: Any) -> None:
    """Add the `everything` subcommand."""
    parser = subparsers.add_parser(
        "everything",
        help="curate, cluster, mix, train over processes, quantise, adapt, edit and publish, as one recipe says",
        usage="hf-mixture everything RECIPE [options] [--KEY.PATH VALUE ...]",
        epilog="Any key of the recipe can be given as --KEY.PATH VALUE after the recipe, for example "
        "--hub OWNER/NAME to push what the run makes; it wins over the file.",
    )
    add_recipe_arguments(parser, "everything")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the recipe and run it."""
    from hf_mixture.training.everything.resolve import resolve_everything
    from hf_mixture.training.everything.run import everything_recipe

    return run_a_recipe(args, "everything", resolve_everything, everything_recipe)
