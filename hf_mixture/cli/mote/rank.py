"""`hf-mixture mote rank`: the experts that go with a behaviour."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_parser(actions: Any) -> None:
    """Add the action."""
    parser = actions.add_parser("rank", help="rank the experts of a scan by how much they go with a behaviour")
    add_ranking_arguments(parser)
    parser.add_argument("--draws", type=int, default=1000, help="draws of the bootstrap (default: 1000)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run, needs_registration=False)


def add_ranking_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says which ranking is meant."""
    parser.add_argument("scan", metavar="SCAN", help="folder that `hf-mixture mote scan` wrote")
    parser.add_argument("--target", required=True, metavar="LABEL", help="the behaviour")
    parser.add_argument("--top", type=int, default=10, help="number of experts (default: 10)")
    parser.add_argument(
        "--scorer", choices=("difference", "risk_difference", "npmi", "saliency"), default="difference"
    )
    parser.add_argument("--direction", choices=("positive", "negative", "absolute"), default="positive")


def run(args: argparse.Namespace) -> int:
    """Print the ranking, with the share of bootstrap draws in which each expert is among the first."""
    from hf_mixture.moe.mote.maps_file import read_maps
    from hf_mixture.moe.mote.ranking import bootstrap_stability, rank_experts
    from hf_mixture.moe.mote.resonance_file import read

    summary = read(args.scan)
    ranked = rank_experts(summary, args.target, scorer=args.scorer, direction=args.direction)[: args.top]
    maps, labels, _ = read_maps(args.scan)
    firm = bootstrap_stability(
        maps,
        labels,
        args.target,
        top=args.top,
        num_draws=args.draws,
        direction=args.direction,
        normalise=summary.normalise,
    )
    columns = {(router.path, number): place for place, (router, number) in enumerate(summary.facts.columns)}
    rows = [
        {
            "router": expert.path,
            "layer": expert.layer,
            "expert": expert.expert,
            "score": expert.score,
            "stability": float(firm.shares[columns[expert.path, expert.expert]]),
        }
        for expert in ranked
    ]
    if args.json:
        print(json.dumps({"target": args.target, "overlap": firm.overlap, "experts": rows}, indent=2))
        return 0
    from hf_mixture.hub.cards import markdown_table

    print(markdown_table(rows))
    print(
        f"\nstability: share of {firm.num_draws} draws of the prompts in which an expert is among the first {firm.top}"
    )
    return 0
