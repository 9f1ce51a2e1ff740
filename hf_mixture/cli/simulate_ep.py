"""`hf-mixture simulate-ep`: what busy experts cost in expert-parallel training, and what systems do about it."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the `simulate-ep` subcommand."""
    parser = subparsers.add_parser(
        "simulate-ep",
        help="loads, bytes, memory and estimated time of ways to train experts in parallel",
        description="Simulate iterations of expert-parallel training, every system on the same tokens, on the "
        "clusters of Hecate (arXiv 2502.02581): expected values and bandwidths, not measurements.",
    )
    parser.add_argument("--ranks", type=int, required=True, help="devices: a multiple of 8, or fewer")
    parser.add_argument("--experts", type=int, help="experts of a layer (default: those of the trace, or as --ranks)")
    parser.add_argument("--zipf", type=float, default=1.0, help="exponent of the popularity of experts (default: 1.0)")
    parser.add_argument(
        "--drift", type=float, default=1000.0, help="iterations in which experts change ranks (default: 1000)"
    )
    parser.add_argument(
        "--trace", metavar="FOLDER", help="take the shares of experts from a router trace: folder or Hub repository"
    )
    parser.add_argument(
        "--cluster", default="a", help="a (V100, 100 Gb/s for a node) or b (A100, 400 Gb/s) (default: a)"
    )
    parser.add_argument(
        "--model", default="gpt-moe-s", help="gpt-moe-s, gpt-moe-l, bert-moe or bert-moe-deep (default: gpt-moe-s)"
    )
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of a device (default: 8192)")
    parser.add_argument("--iterations", type=int, help="iterations (default: 50, or those of the trace)")
    parser.add_argument("--layers", type=int, default=2, help="layers that are simulated (default: 2)")
    parser.add_argument(
        "--systems",
        nargs="+",
        metavar="SYSTEM",
        help="ep, fssdp and its parts (fssdp-all, fssdp-share, fssdp-shard-only, fssdp-copy-only, fssdp-rm, "
        "fssdp-calibrated, fssdp-timed, fssdp-direct), what is like others (fastermoe, smartmoe, flexmoe), replicate "
        "(default: ep fssdp fssdp-timed fastermoe smartmoe flexmoe replicate)",
    )
    parser.add_argument(
        "--busy", type=int, help="experts of a layer to copy (default: as many as go behind attention)"
    )
    parser.add_argument("--slots", type=int, default=4, help="copies that a device has room for (default: 4)")
    parser.add_argument("--window", type=int, default=5, help="iterations that predict the next one (default: 5)")
    parser.add_argument(
        "--reshard-interval", type=int, default=100, help="iterations between changes of owners (default: 100)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--plots", metavar="FOLDER", help="write imbalance, step time and bytes as images")
    parser.set_defaults(run=run, needs_registration=False)


def run(args: argparse.Namespace) -> int:
    """Simulate and print."""
    from hf_mixture.moe.parallel.simulate.plots import write_plots
    from hf_mixture.moe.parallel.simulate.report import as_json, describe_simulation
    from hf_mixture.moe.parallel.simulate.run import DEFAULT_SYSTEMS, simulate_training

    found = simulate_training(
        num_devices=args.ranks,
        num_experts=args.experts,
        zipf=args.zipf,
        drift=args.drift,
        trace=args.trace,
        cluster=args.cluster,
        model=args.model,
        num_tokens=args.tokens,
        num_iterations=args.iterations,
        num_layers=args.layers,
        systems=args.systems or DEFAULT_SYSTEMS,
        num_busy=args.busy,
        num_slots=args.slots,
        window=args.window,
        reshard_interval=args.reshard_interval,
        seed=args.seed,
    )
    written = write_plots(found, args.plots) if args.plots else []
    if args.json:
        print(json.dumps(as_json(found), indent=2))
        return 0
    print(describe_simulation(found))
    for path in written:
        print(f"written to {path}")
    return 0
