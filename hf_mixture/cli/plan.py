"""`hf-mixture plan`: the best mappings of a sparse model onto a cluster, and why the others lose."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the `plan` subcommand."""
    parser = subparsers.add_parser(
        "plan",
        help="how to lay a sparse model out over GPUs: memory, traffic and estimated speed of all mappings",
        description="A model of memory and time with constants fitted to published measurements on H100 GPUs.",
    )
    parser.add_argument("--model", help="folder or Hub id; only its configuration is read")
    parser.add_argument("--gpus", type=int, help="number of GPUs")
    parser.add_argument(
        "--recipe", help="instead of a model: a YAML file of layouts, or the name of a packaged recipe: plan_mixtral"
    )
    parser.add_argument("--gpu", default="h100", help="h100, h200 or a100 (default: h100)")
    parser.add_argument("--seq", type=int, default=4096, help="tokens of a sequence (default: 4096)")
    parser.add_argument("--batch", type=int, default=256, help="sequences of an optimizer step (default: 256)")
    parser.add_argument("--top", type=int, default=5, help="mappings to show (default: 5)")
    parser.add_argument("--output", metavar="DIR", help="write plan.json there, and a card with the engines' settings")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Search and print."""
    if args.recipe is not None:
        return _run_recipe(args)
    if args.model is None or args.gpus is None:
        raise ValueError("hf-mixture plan needs --model and --gpus, or --recipe")
    from hf_mixture.hub.cards import name_for_a_card
    from hf_mixture.moe.parallel.planner import plan_folding
    from hf_mixture.moe.parallel.report import as_json, describe_search, save_search
    from hf_mixture.moe.parallel.shape import cluster_of

    cluster = cluster_of(args.gpu, args.gpus)
    try:
        found = plan_folding(args.model, cluster, sequence=args.seq, global_batch=args.batch)
    except OSError as error:
        raise FileNotFoundError(f"{args.model!r} cannot be read: {str(error).splitlines()[0]}") from error
    if args.output is not None:
        model = name_for_a_card(args.model)
        command = f"hf-mixture plan --model {shlex.quote(model)} --gpus {args.gpus} --gpu {args.gpu}"
        command += f" --seq {args.seq} --batch {args.batch} --output {shlex.quote(Path(args.output).name)}"
        save_search(found, Path(args.output), model=model, command=command, top=args.top)
    if args.json:
        print(json.dumps(as_json(found, top=args.top), indent=2))
    else:
        print(describe_search(found, top=args.top))
        if args.output is not None:
            print(f"\nplan {Path(args.output) / 'plan.json'}\ncard {Path(args.output) / 'README.md'}")
    return 0


def _run_recipe(args: argparse.Namespace) -> int:
    from hf_mixture.cli.main import only_json_on_stdout
    from hf_mixture.hub.damage import naming
    from hf_mixture.training.folding.recipe import resolve_folding
    from hf_mixture.training.folding.run import folding_recipe
    from hf_mixture.training.resolve import find_recipe

    if args.model is not None or args.gpus is not None:
        raise ValueError("--recipe names its models and GPUs itself; remove --model and --gpus")
    if args.output is not None:
        raise ValueError("--recipe names its output_dir itself; remove --output")
    text = find_recipe(args.recipe)
    with naming(args.recipe):
        recipe = resolve_folding(text)
    with only_json_on_stdout(wanted=args.json):
        results = folding_recipe(recipe, command=f"hf-mixture plan --recipe {args.recipe}")
    if args.json:
        print(json.dumps(results["searches"], indent=2))
    return 0
