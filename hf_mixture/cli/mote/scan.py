"""`hf-mixture mote scan`: the maps of the experts of prompts."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from hf_mixture.cli.mote import add_model_arguments, behaviour_of, load


def add_parser(actions: Any) -> None:
    """Add the action."""
    parser = actions.add_parser(
        "scan",
        help="let a model answer prompts, and count the experts of each",
        description="Let a model answer prompts, classify the responses, and count which experts each prompt is "
        "routed to. A scan that was stopped goes on when the same command is given again.",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--prompts",
        required=True,
        metavar="FILE",
        help="jsonl, json, csv or parquet, or a dataset on the Hub, with a column prompt (or messages), and "
        "optionally label and topic",
    )
    parser.add_argument("--split", default="train", help="split of a dataset on the Hub (default: train)")
    parser.add_argument(
        "--behaviour",
        metavar="SPEC",
        help='classifier of the responses: JSON such as \'{"name": "phrases", "classes": {...}}\', or a file with '
        "it (default: the column label)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where the maps go")
    parser.add_argument("--statistic", choices=("count", "gate", "prob", "norm"), default="count")
    parser.add_argument("--tokens", default="prompt", help="prompt, response, all, or the last N of the prompt")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--no-normalise", action="store_true", help="do not divide by the tokens of each prompt")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Scan, and write maps, responses and settings."""
    from hf_mixture.hub.atomic import write_atomic
    from hf_mixture.moe.mote.maps_file import write_maps
    from hf_mixture.moe.mote.prompt_table import read_prompts
    from hf_mixture.moe.mote.scan import scan_prompts

    table = read_prompts(args.prompts, split=args.split)
    behaviour = None if args.behaviour is None else behaviour_of(args.behaviour)
    if behaviour is None:
        table.column("label")
    folder = Path(args.output)
    if folder.is_file():
        raise ValueError(f"--output {args.output!r} is a file; name a folder")
    model, tokenizer = load(args)
    settings = {
        "model": args.model,
        "revision": args.revision,
        "dtype": args.dtype,
        "prompts": args.prompts,
        "statistic": args.statistic,
        "tokens": args.tokens,
        "max_new_tokens": args.max_new_tokens,
        "behaviour": args.behaviour,
    }
    _check_settings(folder, settings)
    found = scan_prompts(
        model,
        tokenizer,
        table.prompts,
        behaviour=behaviour,
        labels=None if behaviour is not None else table.column("label"),
        statistic=args.statistic,
        tokens=int(args.tokens) if args.tokens.isdigit() else args.tokens,
        max_new_tokens=args.max_new_tokens,
        batch_size=args.batch_size,
        folder=folder / "batches",
    )
    rows = zip(found.prompts, found.responses, found.labels, strict=True)
    lines = [json.dumps({"prompt": p, "response": r, "label": label}, ensure_ascii=False) for p, r, label in rows]
    write_atomic(folder / "responses.jsonl", "\n".join(lines) + "\n")
    # A class of one prompt has no mean worth the name.
    often = {label for label, num in Counter(found.labels).items() if num > 1}
    kept = [place for place, label in enumerate(found.labels) if label in often]
    maps, labels = found.maps.select(kept), [found.labels[place] for place in kept]
    known = {name: [own[place] for place in kept] for name, own in table.columns.items() if name != "label"}
    write_maps(folder, maps, labels, known)
    if rare := sorted(set(found.labels) - often):
        print(f"left out of the maps, since one prompt alone has the label: {', '.join(rare)}")
    summary = maps.summarise(labels, normalise=not args.no_normalise, provenance=settings)
    summary.save(folder)
    counts = ", ".join(f"{name} {num}" for name, num in zip(summary.classes, summary.num_prompts, strict=True))
    print(f"{len(found.labels)} prompts: {counts}\nwritten to {folder}")
    print(f"next: hf-mixture mote rank {folder} --target LABEL")
    return 0


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Begin a folder, or refuse one that another scan has begun."""
    from hf_mixture.hub.atomic import write_atomic

    path, text = folder / "scan.json", json.dumps(settings, indent=2) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(f"{folder} holds a scan with other settings, see {path}; name another folder with --output")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text)
