"""`hf-mixture spread run`: a recipe that trains one sparse model by several systems and compares them."""

from __future__ import annotations

import argparse
from typing import Any

from hf_mixture.cli.train import add_recipe_arguments, run_a_recipe


def add_parser(actions: Any) -> None:
    """Add the action."""
    parser = actions.add_parser(
        "run",
        help="train a small sparse model on one process and on several, and compare, as a recipe says",
        usage="hf-mixture spread run RECIPE [options] [--KEY.PATH VALUE ...]",
        epilog="Any key of the recipe can be given as --KEY.PATH VALUE after the recipe, for example "
        "--pretrain.max_steps 50; it wins over the file. The processes are started by the command itself.",
    )
    add_recipe_arguments(parser, "moe_fssdp")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the recipe and run it."""
    from hf_mixture.training.spread.resolve import resolve_spread
    from hf_mixture.training.spread.run import spread_recipe

    return run_a_recipe(args, "spread run", resolve_spread, spread_recipe)
