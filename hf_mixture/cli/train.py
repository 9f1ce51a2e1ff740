"""`hf-mixture train`: a recipe, run by the stock Trainer."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the `train` subcommand."""
    parser = subparsers.add_parser(
        "train",
        help="train adapters on a mixture of domains, as a recipe says",
        usage="hf-mixture train RECIPE [options] [--KEY.PATH VALUE ...]",
        epilog="Any key of the recipe can be given as --KEY.PATH VALUE after the recipe, for example "
        "--adapt.training_arguments.max_steps 20; it wins over the file.",
    )
    add_recipe_arguments(parser, "quickstart")
    parser.add_argument("--model", metavar="ID", help="Hub id or folder of another base model, with its tokenizer")
    parser.set_defaults(run=run)


def add_recipe_arguments(parser: argparse.ArgumentParser, packaged: str) -> None:
    """Add what every command has that runs a recipe; `packaged` names recipes that come with the package."""
    parser.add_argument("recipe", metavar="RECIPE", help=f"a YAML file, or the name of a packaged recipe: {packaged}")
    parser.add_argument("--override", metavar="KEY.PATH=VALUE", action="append", default=[], help="set one value")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved plan and write nothing")
    parser.add_argument("--smoke", action="store_true", help="apply the recipe's smoke section: a run of seconds")
    parser.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    parser.add_argument("--json", action="store_true", help="print recipe and results as JSON, the rest to stderr")
    parser.set_defaults(accepts_overrides=True)


def override_words(args: argparse.Namespace) -> list[str]:
    """Return the overrides of both spellings as words of the second one, `--KEY.PATH VALUE`."""
    for text in args.override:
        if "=" not in text:
            raise ValueError(f"--override {text!r} has no '='; write --override key.path=value")
    return [f"--{text}" for text in args.override] + list(args.overrides)


def run(args: argparse.Namespace) -> int:
    """Resolve the recipe and run it."""
    from hf_mixture.training.resolve import resolve_recipe
    from hf_mixture.training.run import run_recipe

    return run_a_recipe(args, "train", resolve_recipe, run_recipe, model=args.model)


def run_a_recipe(
    args: argparse.Namespace,
    command: str,
    resolve: Callable[..., Any],
    run_it: Callable[..., Any],
    *,
    beside: Sequence[str] = (),
    **given: Any,
) -> int:
    """Resolve the recipe of a command, and run it; return the exit code.

    Args:
        args: What `add_recipe_arguments` declared.
        command: The command, without the name of the program.
        resolve: From the text of a recipe to the recipe.
        run_it: Runs a recipe.
        beside: Words of options that do not change the result: they are not recorded, and given again to continue.
        given: Options of the command that `resolve` takes, by their names; None is not given.
    """
    from hf_mixture.cli.main import only_json_on_stdout
    from hf_mixture.hub.damage import naming
    from hf_mixture.training.resolve import find_recipe
    from hf_mixture.training.strict import parse_overrides

    words = override_words(args)
    text, overrides = find_recipe(args.recipe), parse_overrides(words)
    with naming(args.recipe):
        recipe = resolve(text, overrides=overrides, smoke=args.smoke, **given)
    options = [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]
    typed = shlex.join(
        ["hf-mixture", *command.split(), args.recipe, *(["--smoke"] if args.smoke else []), *options, *words]
    )
    try:
        with only_json_on_stdout(wanted=args.json):
            results = run_it(recipe, resume=args.resume, dry_run=args.dry_run, command=typed)
    except KeyboardInterrupt:
        again = " ".join([typed, *map(shlex.quote, beside), "--resume"])
        print(f"\ninterrupted; continue with: {again}", file=sys.stderr)
        return 130
    if args.json:
        report = {"command": typed, "dry_run": args.dry_run, "recipe": recipe.to_dict(), "results": results or None}
        print(json.dumps(report, indent=2, default=str))
    return 0
