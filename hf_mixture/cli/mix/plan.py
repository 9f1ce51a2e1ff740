"""`hf-mixture mix plan`: a dry run, epochs per source at a budget."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from hf_mixture.cli.mix import add_mixture_action


if TYPE_CHECKING:
    from hf_mixture.data.dry_run import DryRun


def add_parser(actions: Any) -> None:
    """Add the action."""
    parser = add_mixture_action(
        actions, "plan", run, "count the epochs of each source at a budget; exit code 1 past a cap"
    )
    parser.add_argument(
        "--budget",
        nargs="+",
        metavar=("AMOUNT", "UNIT"),
        help="length of the run, and examples, tokens or bytes (default: the unit of the weights); without it, the "
        "budget of the mixture",
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        default=[],
        metavar="NAME=EXAMPLES[,TOKENS]",
        help="how much there is of a source, where the mixture does not record it",
    )


def run(args: argparse.Namespace) -> int:
    """Print draws, sizes and epochs; 1 when a cap is passed or ends the stream early."""
    import dataclasses
    import json

    from hf_mixture.data.dry_run import dry_run
    from hf_mixture.data.mixture import Mixture

    mixture = Mixture.from_pretrained(args.path, revision=args.revision)
    if args.budget is None and mixture.budget is None:
        raise ValueError(
            "--budget is missing, and the mixture has none; give one, for example --budget 1000000 tokens"
        )
    if args.budget is not None and len(args.budget) > 2:
        raise ValueError(
            f"--budget {' '.join(args.budget)} is more than an amount and a unit; give --budget 1000 tokens"
        )
    amount, unit = mixture.budget or (0, mixture.unit)
    if args.budget is not None:
        amount = _whole("--budget", args.budget[0])
        unit = args.budget[1] if len(args.budget) == 2 else mixture.unit
    report = dry_run(mixture, amount, unit, sizes=dict(map(_size, args.sizes)))
    problems = [f"{name!r} passes its max_epochs" for name in report.exceeded]
    if report.stopped is not None:
        problems.append(f"the stream ends at {report.reached:.0f} {unit}, at the cap of {report.stopped!r}")
    if args.json:
        print(json.dumps({**dataclasses.asdict(report), "problems": problems}, indent=2, ensure_ascii=False))
    else:
        print(_table(report), end="")
        for problem in problems:
            print(f"problem: {problem}")
    return int(bool(problems))


def _table(report: DryRun) -> str:
    lines = [f"{report.amount} {report.unit}; counted in {report.counted_in}"]
    width = max(map(len, report.drawn))
    for name, drawn in report.drawn.items():
        size, epochs = report.sizes[name], report.epochs[name]
        words = "size not known" if epochs is None else f"of {size}  {epochs:.4g} epochs"
        cap = "  (at its cap)" if name in report.capped else ""
        lines.append(f"  {name:<{width}}  {drawn:>14.0f} {words}{cap}")
    return "\n".join(lines) + "\n"


def _size(text: str) -> tuple[str, dict[str, int]]:
    name, _, counts = text.rpartition("=")
    numbers = counts.split(",")
    if not name or len(numbers) > 2:
        raise ValueError(f"--sizes {text} is not NAME=EXAMPLES or NAME=EXAMPLES,TOKENS; correct it")
    return name, {
        unit: _whole("--sizes", number) for unit, number in zip(("examples", "tokens"), numbers, strict=False)
    }


def _whole(option: str, text: str) -> int:
    """An integer, also as 1e9 or 1_000."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (1 <= value < math.inf and value.is_integer()):
        raise ValueError(f"{option} {text} is not a whole number >= 1; correct it")
    return int(text) if text.isdigit() else int(value)
