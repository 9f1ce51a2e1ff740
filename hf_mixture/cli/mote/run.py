"""`hf-mixture mote run`: a recipe that trains a tiny sparse model, and finds and edits the experts of a behaviour."""

from __future__ import annotations

import argparse
from typing import Any

from hf_mixture.cli.train import add_recipe_arguments, run_a_recipe


def add_parser(actions: Any) -> None:
    """Add the action."""
    parser = actions.add_parser(
        "run",
        help="train a tiny model in which refusals emerge, find their experts, and compare edits, as a recipe says",
        usage="hf-mixture mote run RECIPE [options] [--KEY.PATH VALUE ...]",
        epilog="Any key of the recipe can be given as --KEY.PATH VALUE after the recipe, for example "
        "--edits.num_draws 50; it wins over the file.",
    )
    add_recipe_arguments(parser, "mote_refusal")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the recipe and run it."""
    from hf_mixture.training.mote.resolve import resolve_mote
    from hf_mixture.training.mote.run import mote_recipe

    return run_a_recipe(args, "mote run", resolve_mote, mote_recipe)
