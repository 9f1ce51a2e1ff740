"""`hf-mixture upcycle`: a recipe that upcycles a dense model and compares routers."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from hf_mixture.cli.train import add_recipe_arguments, override_words, run_resumably


def add_parser(subparsers: Any) -> None:
    """Add the `upcycle` subcommand."""
    parser = subparsers.add_parser(
        "upcycle",
        help="make a mixture of experts of a dense model and compare routers, as a recipe says",
        usage="hf-mixture upcycle RECIPE [options] [--KEY.PATH VALUE ...]",
        epilog="Any key of the recipe can be given as --KEY.PATH VALUE after the recipe, for example "
        "--upcycle.num_experts 4; it wins over the file.",
    )
    add_recipe_arguments(parser, "upcycle")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the recipe and run it."""
    from hf_mixture.training.resolve import find_recipe
    from hf_mixture.training.strict import parse_overrides
    from hf_mixture.training.upcycle.resolve import resolve_upcycle
    from hf_mixture.training.upcycle.run import upcycle_recipe

    words = override_words(args)
    recipe = resolve_upcycle(find_recipe(args.recipe), overrides=parse_overrides(words), smoke=args.smoke)
    command = ["hf-mixture", "upcycle", args.recipe, *(["--smoke"] if args.smoke else []), *words]
    return run_resumably(
        shlex.join(command),
        lambda text: upcycle_recipe(recipe, resume=args.resume, dry_run=args.dry_run, command=text),
    )
