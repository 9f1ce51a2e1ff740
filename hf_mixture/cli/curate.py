"""`hf-mixture curate`: documents to a data set with licence tiers, provenance and a reject table."""

from __future__ import annotations

import argparse
import functools
from typing import Any

from hf_mixture.cli.train import add_recipe_arguments, run_a_recipe


def add_parser(subparsers: Any) -> None:
    """Add the `curate` subcommand."""
    parser = subparsers.add_parser(
        "curate",
        help="curate documents by licence tier with a provenance record for each, as a recipe says",
        usage="hf-mixture curate RECIPE [options] [--KEY.PATH VALUE ...]",
        epilog="Any key of the recipe can be given as --KEY.PATH VALUE after the recipe, for example "
        "--stages.quality.min_chars 50; it wins over the file.",
    )
    add_recipe_arguments(parser, "curate_local")
    parser.add_argument("--num-proc", type=int, default=1, help="processes that work on documents (default: 1)")
    parser.add_argument(
        "--push",
        metavar="REPO_ID",
        nargs="?",
        const="",
        help="publish the data set, to this repository or to the one of the recipe",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the recipe and run it."""
    from hf_mixture.training.curation.recipe import resolve_curate
    from hf_mixture.training.curation.run import curate_recipe

    run_it = functools.partial(curate_recipe, num_proc=args.num_proc, push=args.push)
    beside = [] if args.num_proc == 1 else ["--num-proc", str(args.num_proc)]
    if args.push is not None:
        beside += ["--push", args.push] if args.push else ["--push"]
    return run_a_recipe(args, "curate", resolve_curate, run_it, beside=beside)
