"""`hf-mixture mote eval`: what edits do, beside random edits and the control of the topic."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from hf_mixture.cli.mote import add_model_arguments, behaviour_of, load


def add_parser(actions: Any) -> None:
    """Add the action."""
    parser = actions.add_parser(
        "eval",
        help="measure edits beside random edits and the control of the topic",
        description="Measure a model without edits, with them, with random edits of the same size, and with the "
        "control of the topic that `apply` wrote. An evaluation that was stopped goes on when the same command is "
        "given again. Use other prompts than those of the scan.",
    )
    add_model_arguments(parser)
    parser.add_argument("edits", metavar="EDITS", help="folder with expert_edits.json, or a repository on the Hub")
    parser.add_argument(
        "--prompts",
        required=True,
        metavar="FILE",
        help="as for scan; a column group keeps kinds of prompts apart, and expected holds right answers",
    )
    parser.add_argument("--split", default="train", help="split of a dataset on the Hub (default: train)")
    parser.add_argument("--behaviour", required=True, metavar="SPEC", help="as for scan")
    parser.add_argument("--target", required=True, metavar="LABEL", help="the label whose share is shown")
    parser.add_argument("--draws", type=int, default=20, help="random draws, at least 20 (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--output", required=True, metavar="DIR", help="where the report goes")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, and write results, report, plot and the card of the edits."""
    from hf_mixture.hub.atomic import write_atomic
    from hf_mixture.moe.mote.edits import ExpertEdits
    from hf_mixture.moe.mote.evaluation import EditEvaluator, MeasuredFile, summarise_draws
    from hf_mixture.moe.mote.prompt_table import read_prompts
    from hf_mixture.moe.mote.report import comparison_table, draw_comparison, report_text, write_edits_card

    edits = ExpertEdits.from_pretrained(args.edits)
    control_folder = Path(args.edits) / "topic_control"
    control = ExpertEdits.from_pretrained(control_folder) if control_folder.is_dir() else None
    groups = _groups(read_prompts(args.prompts, split=args.split))
    behaviour = behaviour_of(args.behaviour)
    model, tokenizer = load(args)
    folder = Path(args.output)
    settings = {
        name: getattr(args, name)
        for name in ("model", "revision", "dtype", "prompts", "behaviour", "target", "draws", "seed", "max_new_tokens")
    }
    settings["edits"] = edits.to_dict()
    measured = MeasuredFile(folder / "measured.json", settings)
    evaluator = EditEvaluator(
        model, tokenizer, groups, behaviour, args.max_new_tokens, args.batch_size, measured=measured
    )
    conditions: dict[str, Any] = {
        "unedited": evaluator.measure("unedited"),
        "edits": evaluator.measure("edits", edits),
        "random": summarise_draws(evaluator.random("edits", edits, num_draws=args.draws, seed=args.seed)),
    }
    if control is not None:
        conditions["topic control"] = evaluator.measure("topic control", control)
    results = {
        "target": args.target,
        "num_draws": args.draws,
        "has_topic_control": control is not None,
        "conditions": conditions,
        "settings": {name: value for name, value in settings.items() if name != "edits"},
    }
    write_atomic(folder / "results.json", json.dumps(results, indent=2, allow_nan=False) + "\n")
    draw_comparison(folder / "comparison.png", results)
    write_atomic(folder / "report.md", f"# Expert edits\n\n![](comparison.png)\n\n{report_text(results, edits)}")
    if (local := Path(args.edits)).is_dir():
        draw_comparison(local / "comparison.png", results)
        pictures = [name for name in ("experts.png", "comparison.png") if (local / name).exists()]
        write_edits_card(local, edits, results, pictures)
    print(json.dumps(results, indent=2) if args.json else f"{comparison_table(results)}\n\nreport {folder}/report.md")
    return 0


def _groups(table: Any) -> list[Any]:
    from hf_mixture.moe.mote.evaluation import PromptGroup

    names = table.columns.get("group", ["all"] * len(table.prompts))
    expected = table.columns.get("expected")
    groups = []
    for name in dict.fromkeys(names):
        places = [place for place, own in enumerate(names) if own == name]
        answers = None if expected is None else [expected[place] for place in places]
        groups.append(PromptGroup(name, [table.prompts[place] for place in places], answers))
    return groups
