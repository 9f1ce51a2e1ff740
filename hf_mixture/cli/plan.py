"""`hf-mixture plan`: the best mappings of a sparse model onto a cluster, and why the others lose."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the `plan` subcommand."""
    parser = subparsers.add_parser(
        "plan",
        help="how to lay a sparse model out over GPUs: memory, traffic and estimated speed of all mappings",
        description="A model of memory and time with constants fitted to published measurements on H100 GPUs.",
    )
    parser.add_argument("--model", required=True, help="folder or Hub id; only its configuration is read")
    parser.add_argument("--gpus", type=int, required=True, help="number of GPUs")
    parser.add_argument("--gpu", default="h100", help="h100, h200 or a100 (default: h100)")
    parser.add_argument("--seq", type=int, default=4096, help="tokens of a sequence (default: 4096)")
    parser.add_argument("--batch", type=int, default=256, help="sequences of an optimizer step (default: 256)")
    parser.add_argument("--top", type=int, default=5, help="mappings to show (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Search and print."""
    from hf_mixture.moe.parallel.planner import plan_folding
    from hf_mixture.moe.parallel.report import as_json, describe_search
    from hf_mixture.moe.parallel.shape import cluster_of

    cluster = cluster_of(args.gpu, args.gpus)
    try:
        found = plan_folding(args.model, cluster, sequence=args.seq, global_batch=args.batch)
    except OSError as error:
        raise FileNotFoundError(f"{args.model!r} cannot be read: {str(error).splitlines()[0]}") from error
    if args.json:
        print(json.dumps(as_json(found, top=args.top), indent=2))
    else:
        print(describe_search(found, top=args.top))
    return 0
