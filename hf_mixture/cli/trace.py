"""`hf-mixture trace`: reports of router traces."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the `trace` subcommand."""
    parser = subparsers.add_parser("trace", help="show how the experts of a model were loaded in training")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    report = actions.add_parser(
        "report",
        help="write heat map, load curves and dead experts",
        description="Write a report of a trace of RouterTraceCallback: heat map, load curves, dead experts.",
    )
    report.add_argument("path", metavar="PATH", help="folder of the trace, or a dataset repository on the Hub")
    report.add_argument("--revision", help="branch, tag or commit of the repository")
    report.add_argument("--output", metavar="DIR", default=".", help="where the report goes (default: here)")
    report.add_argument("--format", choices=("html", "png"), default="html", help="default: html")
    report.add_argument("--json", action="store_true", help="print the numbers, and write no report")
    report.set_defaults(run=run, needs_registration=False)


def run(args: argparse.Namespace) -> int:
    """Write the report, or print its numbers."""
    from hf_mixture.moe.trace.report import write_report
    from hf_mixture.moe.trace.statistics import summarise_trace
    from hf_mixture.moe.trace.trace import load_trace

    trace = load_trace(args.path, revision=args.revision)
    if args.json:
        print(json.dumps(summarise_trace(trace), indent=2))
        return 0
    print(f"written to {write_report(trace, args.output, format=args.format)}")
    return 0
