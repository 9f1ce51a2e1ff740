"""`hf-mixture`: one subcommand per file, each with `add_parser(subparsers)` and a `run(args) -> int`.

Exit codes: 0 done, 1 the work failed, 2 the input is wrong.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence


COMMANDS = ("list", "train", "mix", "doctor", "export_lora")


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser from the subcommand files of this folder."""
    parser = argparse.ArgumentParser(
        prog="hf-mixture", description="Mixtures of parameters, experts, models and data on the Hugging Face stack."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        importlib.import_module(f"hf_mixture.cli.{command}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: Arguments without the program name. Defaults to those of the process.

    Returns:
        The exit code.
    """
    args, unknown = build_parser().parse_known_args(argv)
    if unknown and not getattr(args, "accepts_overrides", False):
        print(f"error: unrecognised arguments: {' '.join(unknown)}; see hf-mixture {args.command} --help", file=sys.stderr)
        return 2
    args.overrides = unknown
    try:
        return int(args.run(args))
    except (ValueError, TypeError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def entry_point() -> None:
    """Console-script entry point."""
    sys.exit(main())
