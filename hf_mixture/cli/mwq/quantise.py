"""`hf-mixture mwq quantise`: a checkpoint to nested bit planes, in a run that can be killed and resumed."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_parser(actions: Any) -> None:
    """Add the action."""
    parser = actions.add_parser(
        "quantise",
        help="quantise the experts of a checkpoint to one file that can be read at every width",
        description="What is finished is kept in OUT/.parts until the end: after a kill, the same command goes on.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder or Hub repository of a sparse model in full precision")
    parser.add_argument("out", metavar="OUT", help="folder to write")
    parser.add_argument(
        "--widths", default="2,3,4", help="bits, ascending by one, or v1 (2,3,4) or v2 (5,6,7,8) (default: 2,3,4)"
    )
    parser.add_argument("--group-size", type=int, default=128, help="inputs that share a scale (default: 128)")
    parser.add_argument("--linears", action="store_true", help="quantise dense linear layers too")
    parser.add_argument("--revision", help="branch, tag or commit of the model")
    parser.add_argument("--dtype", default="auto", help="as in from_pretrained (default: auto)")
    parser.add_argument("--device-map", help="as in from_pretrained, such as cuda (default: the CPU)")
    parser.add_argument("--json", action="store_true", help="print the bytes of each file as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Quantise and save."""
    from hf_mixture.cli.main import only_json_on_stdout
    from hf_mixture.moe.mwq.checkpoint import quantise_checkpoint
    from hf_mixture.moe.mwq.config import MwqConfig

    widths = args.widths if args.widths in ("v1", "v2") else _numbers(args.widths)
    options = {"revision": args.revision, "dtype": args.dtype}
    if args.device_map is not None:
        options["device_map"] = args.device_map
    config = MwqConfig(widths, args.group_size, linears=args.linears)
    with only_json_on_stdout(wanted=args.json):
        sizes = quantise_checkpoint(args.model, args.out, config, **options)
    if args.json:
        print(json.dumps({"folder": args.out, "bytes": sizes}, indent=2))
        return 0
    for name, size in sizes.items():
        print(f"{size:>16,} bytes  {name}")
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--widths {text!r} is not a list of numbers; give, for example, 2,3,4") from None
