"""`hf-mixture mote run`: a recipe that trains a tiny sparse model, and finds and edits the experts of a behaviour."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from hf_mixture.cli.train import add_recipe_arguments, override_words, run_resumably


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
    from hf_mixture.training.resolve import find_recipe
    from hf_mixture.training.strict import parse_overrides

    words = override_words(args)
    recipe = resolve_mote(find_recipe(args.recipe), overrides=parse_overrides(words), smoke=args.smoke)
    command = ["hf-mixture", "mote", "run", args.recipe, *(["--smoke"] if args.smoke else []), *words]
    return run_resumably(
        shlex.join(command),
        lambda text: mote_recipe(recipe, resume=args.resume, dry_run=args.dry_run, command=text),
    )
