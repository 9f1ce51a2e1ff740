"""`hf-mixture mote apply`: expert edits of the first experts of a ranking."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hf_mixture.cli.mote.rank import add_ranking_arguments


def add_parser(actions: Any) -> None:
    """Add the action."""
    parser = actions.add_parser(
        "apply",
        help="write expert edits of the first experts of a ranking",
        description="Write expert_edits.json for AutoMoTE.from_pretrained, with maps, heat map and card, and the same "
        "number of edits by the topic alone as a control, where the scan has topics.",
    )
    add_ranking_arguments(parser)
    parser.add_argument("--op", choices=("off", "on", "scale", "bias"), default="off")
    parser.add_argument("--value", type=float, help="factor of scale, or what bias adds")
    parser.add_argument(
        "--mode",
        choices=("reroute", "zero_renorm", "zero", "logit_mask", "force", "scale", "bias"),
        help="what the operation means (default: reroute for off, else force, scale or bias)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where the edits go")
    parser.set_defaults(run=run, needs_registration=False)


def run(args: argparse.Namespace) -> int:
    """Write the edits and what explains them."""
    from hf_mixture.moe.mote.baselines import topic_ranking
    from hf_mixture.moe.mote.edits import ExpertEdits
    from hf_mixture.moe.mote.heatmap import save_expert_map
    from hf_mixture.moe.mote.maps_file import read_maps
    from hf_mixture.moe.mote.ranking import rank_experts
    from hf_mixture.moe.mote.report import NO_TOPIC, write_edits_card
    from hf_mixture.moe.mote.resonance_file import read

    summary = read(args.scan)
    maps, labels, columns = read_maps(args.scan)
    mode = args.mode or {"off": "reroute", "on": "force"}.get(args.op, args.op)
    counts = dict(zip(summary.classes, summary.num_prompts.tolist(), strict=True))
    fields = {
        **summary.facts.signature,
        "mode": mode,
        "provenance": {**summary.provenance, "num_prompts": counts},
    }

    def edits_of(ranked: Any, **scores: Any) -> ExpertEdits:
        return ExpertEdits.from_ranking(
            ranked,
            top=args.top,
            op=args.op,
            value=args.value,
            scores={**scores, "direction": args.direction},
            **fields,
        )

    ranked = rank_experts(summary, args.target, scorer=args.scorer, direction=args.direction)
    edits = edits_of(ranked, target=args.target, scorer=args.scorer)
    folder, control, reason = Path(args.output), None, NO_TOPIC
    if "topic" in columns:
        try:
            topic, by_topic = topic_ranking(maps, labels, columns["topic"], args.target, normalise=summary.normalise)
            control = edits_of(by_topic, topic=topic)
        except ValueError as error:
            reason = str(error)
    edits.save_pretrained(folder)
    summary.save(folder)
    if control is not None:
        control.save_pretrained(folder / "topic_control")
    places = [(expert.ordinal, expert.expert) for expert in ranked[: args.top]]
    names = [router.ordinal if router.layer is None else router.layer for router in summary.facts.routers]
    save_expert_map(
        folder / "experts.png",
        summary.facts.grid(summary.differential(args.target)),
        layers=names,
        edited=places,
        title=f"Experts that go with {args.target!r}",
        label="difference of rates" if summary.normalise else "difference of counts",
    )
    write_edits_card(folder, edits, None, ["experts.png"])
    print(f"{len(edits)} edits ({args.op}, {mode}) written to {folder}")
    print(f"control of the topic written to {folder / 'topic_control'}" if control is not None else reason)
    return 0
