"""`hf-mixture mix validate`: check a mixture.json against every rule."""

from __future__ import annotations

import argparse
from typing import Any

from hf_mixture.cli.mix import add_mixture_action


def add_parser(actions: Any) -> None:
    """Add the action."""
    add_mixture_action(actions, "validate", run, "check a mixture.json against every rule")


def run(args: argparse.Namespace) -> int:
    """Read the mixture, which validates it, and print a verdict; 1 when it cannot be used as it stands."""
    import json

    from hf_mixture.data.mixture import Mixture
    from hf_mixture.data.mixture_report import advice, problems

    mixture = Mixture.from_pretrained(args.path, revision=args.revision)
    found, notes = problems(mixture), advice(mixture)
    if args.json:
        report = {
            "valid": not found,
            "domains": list(mixture.names),
            "unit": mixture.unit,
            "problems": found,
            "notes": notes,
        }
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return int(bool(found))
    if not found:
        print(f"valid: {len(mixture.names)} domains, weights in {mixture.unit}, seed {mixture.seed}")
    for kind, lines in (("problem", found), ("note", notes)):
        for line in lines:
            print(f"{kind}: {line}")
    return int(bool(found))
