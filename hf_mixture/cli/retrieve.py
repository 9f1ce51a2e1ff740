"""`hf-mixture retrieve`: a recipe that makes embeddings, mixtures on them and baselines, and compares their lists."""

from __future__ import annotations

import argparse
from typing import Any

from hf_mixture.cli.train import add_recipe_arguments, run_a_recipe


def add_parser(subparsers: Any) -> None:
    """Add the `retrieve` subcommand."""
    parser = subparsers.add_parser(
        "retrieve",
        help="list items for users by mixtures over clusters (kNN-Embed), and compare with baselines",
        usage="hf-mixture retrieve RECIPE [options] [--KEY.PATH VALUE ...]",
        epilog="Any key of the recipe can be given as --KEY.PATH VALUE after the recipe, for example "
        "--interactions.max_users 500; it wins over the file.",
    )
    add_recipe_arguments(parser, "knn_embed_movielens, knn_embed_citation")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the recipe and run it."""
    from hf_mixture.training.retrieval.recipe import resolve_retrieval
    from hf_mixture.training.retrieval.run import retrieval_recipe

    return run_a_recipe(args, "retrieve", resolve_retrieval, retrieval_recipe)
