"""`hf-mixture mix show`: print a mixture."""

from __future__ import annotations

import argparse
from typing import Any

from hf_mixture.cli.mix import add_mixture_action


def add_parser(actions: Any) -> None:
    """Add the action."""
    add_mixture_action(actions, "show", run, "print a mixture")


def run(args: argparse.Namespace) -> int:
    """Print the mixture, readable or as its file."""
    from hf_mixture.data.mixture import Mixture
    from hf_mixture.data.mixture_report import table

    mixture = Mixture.from_pretrained(args.path, revision=args.revision)
    print(mixture.to_json() if args.json else table(mixture), end="")
    return 0
