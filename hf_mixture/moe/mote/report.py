"""The report of an evaluation of edits: table, plot and card. Every figure comes from `results.json`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.cards import markdown_table, package_versions
from hf_mixture.moe.mote.edits import ExpertEdits
from hf_mixture.moe.mote.evaluation import result_row


NO_TOPIC = (
    "There is no control of the topic: the prompts of the scan name no topics, or none of the topic lacks the "
    "behaviour. The experts may be experts of the topic."
)


def comparison_table(results: Mapping[str, Any]) -> str:
    """Format the conditions as a table.

    Args:
        results: `conditions`: name to result, or to a summary of draws; `target`: the label that is counted.

    Returns:
        Markdown.
    """
    return markdown_table(
        [result_row(name, found, results["target"]) for name, found in results["conditions"].items()]
    )


def draw_comparison(path: Path, results: Mapping[str, Any]) -> None:
    """Plot the share of the target for each condition and group, and the accuracy beside it.

    Args:
        path: The PNG file.
        results: As in `comparison_table`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    conditions = list(results["conditions"])
    groups = list(results["conditions"][conditions[0]])
    figure = Figure(figsize=(10.0, 1.6 + 0.32 * len(conditions)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    sides = figure.subplots(1, 2, sharey=True)
    height = 0.8 / len(groups)
    for axes, kind in zip(sides, (results["target"], "correct"), strict=True):
        for number, group in enumerate(groups):
            found = [results["conditions"][name][group] for name in conditions]
            values = [_value(entry, kind) for entry in found]
            errors = [_value(entry.get("sd") or {}, kind) or 0.0 for entry in found]
            if None in values:
                continue
            places = [row + (number - (len(groups) - 1) / 2) * height for row in range(len(conditions))]
            axes.barh(places, values, height, xerr=errors, label=group, error_kw={"elinewidth": 0.8, "capsize": 2})
        axes.set_xlim(0, 1.05)
        axes.set_xlabel(f"share {kind}")
        axes.spines[["top", "right"]].set_visible(False)
    sides[0].set_yticks(range(len(conditions)), conditions)
    sides[0].invert_yaxis()
    figure.legend(*sides[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(groups), frameon=False)
    figure.savefig(path, format="png")


def report_text(results: Mapping[str, Any], edits: ExpertEdits) -> str:
    """Write the body of the report.

    Args:
        results: The content of `results.json`.
        edits: The edits.

    Returns:
        Markdown.
    """
    lines = [
        f"Share of the responses labelled `{results['target']}`, and of right answers where they are known. Random: "
        f"mean and standard deviation of {results['num_draws']} draws of as many experts.",
        "",
        comparison_table(results),
        "",
        *([] if results.get("has_topic_control") else [NO_TOPIC, ""]),
        *_closing_lines(edits),
    ]
    return "\n".join(lines) + "\n"


def _closing_lines(edits: ExpertEdits) -> list[str]:
    listed = [
        {
            "router": f"`{edit.module}`",
            "expert": edit.expert,
            "operation": edit.op if edit.value is None else f"{edit.op} {edit.value:g}",
        }
        for edit in edits.edits
    ]
    return [
        f"## Edits: mode `{edits.mode}`",
        "",
        markdown_table(listed) if listed else "None.",
        "",
        "## Versions",
        "",
        markdown_table([{"package": name, "version": version} for name, version in package_versions().items()]),
    ]


def write_edits_card(
    folder: Path,
    edits: ExpertEdits,
    results: Mapping[str, Any] | None,
    pictures: Sequence[str],
    *,
    command: str | None = None,
) -> None:
    """Write the `README.md` of a folder with expert edits.

    Args:
        folder: The folder.
        edits: The edits.
        results: The content of `results.json` of an evaluation, where there was one.
        pictures: Names of PNG files in the folder.
        command: The command that made the edits. Default: the card names none.
    """
    from huggingface_hub import ModelCard, ModelCardData

    base = edits.base_model_name_or_path
    is_local = base is not None and Path(base).exists()
    if base is not None and is_local:
        # As in the cards of adapters: whoever loads the edits from this folder finds the model from here.
        base = Path(os.path.relpath(base, folder)).as_posix()
    data = ModelCardData(
        base_model=None if is_local else base,
        license="apache-2.0",
        library_name="hf-mixture",
        tags=["expert-edits", "hf-mixture", "mixture-of-experts", "mote"],
    )
    lines = [
        "# Expert edits",
        "",
        f"{len(edits)} edits of the experts of a `{edits.model_type}` model, after Mixture of Tunable Experts "
        "(arXiv 2502.11096). The folder holds no weights of a model.",
        "",
        *([] if command is None else [f"Made with `{command}`.", ""]),
        "```python",
        "from hf_mixture import AutoMoTE",
        "",
        f'model = AutoMoTE.from_pretrained(".", base_model="{base or "BASE_MODEL"}")',
        "```",
        "",
        *(
            ["The model is a folder beside these edits; publish it too, and name its id instead.", ""]
            if is_local
            else []
        ),
        *[f"![]({name})\n" for name in pictures],
        *(
            [
                "Not evaluated yet: `hf-mixture mote eval` compares the edits with random ones.",
                "",
                *_closing_lines(edits),
                "",
            ]
            if results is None
            else [report_text(results, edits)]
        ),
    ]
    write_atomic(folder / "README.md", str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines))))


def _value(entry: Mapping[str, Any], kind: str) -> float | None:
    if kind == "correct":
        return entry.get("accuracy")
    shares: Mapping[str, float] = entry.get("shares", {})
    return shares.get(kind, 0.0)
