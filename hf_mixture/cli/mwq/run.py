"""`hf-mixture mwq run`: a recipe that trains, quantises and compares a sparse model."""

from __future__ import annotations

import argparse
from typing import Any

from hf_mixture.cli.train import add_recipe_arguments, run_a_recipe


def add_parser(actions: Any) -> None:
    """Add the action."""
    parser = actions.add_parser(
        "run",
        help="train a small sparse model, quantise it, train bit routers, and compare, as a recipe says",
        usage="hf-mixture mwq run RECIPE [options] [--KEY.PATH VALUE ...]",
        epilog="Any key of the recipe can be given as --KEY.PATH VALUE after the recipe, for example "
        "--bit_routers.average_bits 2.5; it wins over the file.",
    )
    add_recipe_arguments(parser, "d2moe")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the recipe and run it."""
    from hf_mixture.training.mwq.resolve import resolve_mwq
    from hf_mixture.training.mwq.run import mwq_recipe

    return run_a_recipe(args, "mwq run", resolve_mwq, mwq_recipe)
