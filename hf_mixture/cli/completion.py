"""`hf-mixture completion`: a script that lets a shell complete commands and options."""

from __future__ import annotations

import argparse
from typing import Any


SHELLS = ("bash", "zsh", "tcsh")


def add_parser(subparsers: Any) -> None:
    """Add the `completion` subcommand."""
    parser = subparsers.add_parser(
        "completion",
        help="print a script that lets a shell complete commands and options",
        epilog='For bash: eval "$(hf-mixture completion bash)"; put it into ~/.bashrc to keep it.',
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    parser.set_defaults(run=run, needs_registration=False)


def run(args: argparse.Namespace) -> int:
    """Print the script for a shell."""
    from hf_mixture._extras import require
    from hf_mixture.cli.main import build_parser

    shtab = require("shtab", used_for="hf-mixture completion", extra="completion")
    print(shtab.complete(build_parser(), args.shell))
    return 0
