"""`hf-mixture mote bake`: expert edits written into ordinary weights."""

from __future__ import annotations

import argparse
from typing import Any

from hf_mixture.cli.mote import add_model_arguments, load


def add_parser(actions: Any) -> None:
    """Add the action."""
    parser = actions.add_parser(
        "bake",
        help="write edits into ordinary weights, where that is exact",
        description="Write expert edits into the weights of a model, for programs that do not know this package. "
        "Where that is not exact it is refused with the reason; --method zero_experts and prune are choices "
        "of their own.",
    )
    add_model_arguments(parser)
    parser.add_argument("edits", metavar="EDITS", help="folder with expert_edits.json, or a repository on the Hub")
    parser.add_argument("--method", choices=("auto", "bias", "zero_experts", "prune"), default="auto")
    parser.add_argument("--output", required=True, metavar="DIR", help="where the model goes")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Bake, and save model and tokenizer."""
    from pathlib import Path

    from hf_mixture.moe.mote.bake import bake
    from hf_mixture.moe.mote.edits import ExpertEdits

    folder = Path(args.output)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(f"--output {args.output!r} exists; name a new folder")
    edits = ExpertEdits.from_pretrained(args.edits)
    model, tokenizer = load(args)
    done = bake(model, edits, method=args.method)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    exact = "exact" if done.exact else f"not exact: {done.note}"
    print(f"baked by {done.method} ({exact}); {len(done.keys)} tensors changed\nmodel {folder}, a stock model")
    return 0
