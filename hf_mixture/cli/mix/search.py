"""`hf-mixture mix search`: a search recipe, from domains to a `mixture.json`."""

from __future__ import annotations

import argparse
from typing import Any

from hf_mixture.cli.train import add_recipe_arguments, run_a_recipe


def add_parser(actions: Any) -> None:
    """Add the action."""
    parser = actions.add_parser(
        "search",
        help="search a mixture of domains, as a recipe says, and compare it with baselines",
        usage="hf-mixture mix search RECIPE [options] [--KEY.PATH VALUE ...]",
        epilog="Any key of the recipe can be given as --KEY.PATH VALUE after the recipe, for example "
        "--method.settings.num_runs 32; it wins over the file.",
    )
    add_recipe_arguments(parser, "regmix, climb, admire, aioli")
    parser.set_defaults(run=run, needs_registration=True)


def run(args: argparse.Namespace) -> int:
    """Resolve the recipe and run it."""
    from hf_mixture.training.search.resolve import resolve_search
    from hf_mixture.training.search.run import search_recipe

    return run_a_recipe(args, "mix search", resolve_search, search_recipe)
