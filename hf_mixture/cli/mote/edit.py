"""`hf-mixture mote edit`: expert edits that a person names, without a scan."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from hf_mixture.cli.mote import add_model_arguments, load_model


def add_parser(actions: Any) -> None:
    """Add the action."""
    parser = actions.add_parser(
        "edit",
        help="write edits of the experts that you name",
        description="Write expert_edits.json for AutoMoTE.from_pretrained, with a card, after checking that the model "
        "has these experts and that every token keeps enough of them. `hf-mixture inspect MODEL` lists layers and "
        "experts.",
    )
    add_model_arguments(parser)
    for op, what in (("off", "switch off"), ("on", "choose for every token")):
        parser.add_argument(
            f"--{op}", nargs="+", default=[], metavar="LAYER:EXPERT", help=f"experts to {what}; LAYER may be a path"
        )
    parser.add_argument(
        "--mode",
        choices=("reroute", "zero_renorm", "zero", "logit_mask"),
        default="reroute",
        help="what off means (default: reroute)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where the edits go")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check the edits on the model, and write them."""
    from hf_mixture.hub.cards import name_for_a_card
    from hf_mixture.moe.anatomy import find_routers
    from hf_mixture.moe.mote.edits import ExpertEdits
    from hf_mixture.moe.mote.edits_file import FILE_NAME
    from hf_mixture.moe.mote.patch import tune_experts
    from hf_mixture.moe.mote.places import expert_edit
    from hf_mixture.moe.mote.report import write_edits_card

    if not args.off and not args.on:
        raise ValueError("nothing to edit; name experts with --off LAYER:EXPERT or --on LAYER:EXPERT")
    model = load_model(args)
    routers = find_routers(model)
    named = [expert_edit(routers, place, op) for op in ("off", "on") for place in getattr(args, op)]
    edits = ExpertEdits(named, mode=args.mode if args.off else "force").signed(model)
    tune_experts(model, edits).remove()
    folder = Path(args.output)
    edits.save_pretrained(folder)
    places = [word for op in ("off", "on") if getattr(args, op) for word in (f"--{op}", *getattr(args, op))]
    mode = ["--mode", args.mode] if args.off else []
    words = ["hf-mixture", "mote", "edit", name_for_a_card(args.model), *places, *mode, "--output", folder.name]
    write_edits_card(folder, edits, None, [], command=shlex.join(words))
    print(f"{len(edits)} edits ({edits.mode})  {folder / FILE_NAME}\ncard  {folder / 'README.md'}")
    return 0
