"""Table, report and card of a retrieval run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_mixture.hub.cards import markdown_table
from hf_mixture.training import report as common
from hf_mixture.training.retrieval.measure import DEPTH


COLUMNS = {
    "recall@10": "R@10",
    "recall@20": "R@20",
    "recall@50": "R@50",
    "ndcg@10": "NDCG@10",
    f"diversity@{DEPTH}": f"distance@{DEPTH}",
    f"clusters@{DEPTH}": f"clusters@{DEPTH}",
    f"coverage@{DEPTH}": f"coverage@{DEPTH}",
}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The comparison: means over the seeds, and the largest distance of a seed from them for recall at 10."""
    return markdown_table([_row(row) for row in rows])


def _row(row: Mapping[str, Any]) -> dict[str, str]:
    fields = row["fields"]
    weight = fields.get("smoothing_weight")
    parts = [f"m={fields['num_clusters']}"] if fields else []
    if fields.get("smoothing") == "knn":
        parts += [f"k={fields['num_neighbours']}", "lambda=k/(k+1)" if weight is None else f"lambda={weight:g}"]
    elif fields.get("smoothing") == "global":
        parts += [f"lambda={weight:g}"]
    shown = {"system": row["system"], "chosen on validation": ", ".join(parts)}
    for key, name in COLUMNS.items():
        values = [entry[key] for entry in row["seeds"]]
        mean = statistics.fmean(values)
        digits = 2 if name.startswith("clusters") else 4 if name.startswith(("R@", "NDCG")) else 3
        shown[name] = f"{mean:.{digits}f}"
        if name == "R@10" and len(values) > 1:
            shown[name] += f" ±{max(abs(value - mean) for value in values):.4f}"
    shown["scored items"] = f"{statistics.fmean(entry['num_scored'] for entry in row['seeds']):,.0f}"
    return shown


def body(results: Mapping[str, Any]) -> str:
    """What report and card share."""
    data = results["data"]
    number = len(results["rows"][-1]["seeds"])
    lines = [
        table(results["rows"]),
        "",
        f"{data['num_measured_users']:,} users of {data['num_users']:,}, {data['num_items']:,} items, "
        f"{data['num_train']:,} training edges; a random split of the edges, the same for all systems; {number} "
        f"seed{'s' * (number > 1)} of the embeddings. Recall is hits over all test edges of the measured users; items "
        "of training are left out of all lists. All settings were chosen by recall at 10 on edges held out of "
        "training, none on the test. Searches are exact. Distance is one minus the Jaccard similarity of the training "
        "users of two items, a space in which no system was trained; clusters and coverage are of lists of "
        f"{DEPTH}, by clusters that no system has made.",
        "",
        *(f"- {verdict}" for verdict in results["verdicts"]),
        "",
        "![Recall of the systems](comparison.png)",
        "",
        "![Gain of mixtures against the strength of embeddings](gain.png)",
        "",
        "![What was chosen by](choice.png)",
        "",
        *_study_lines(results["study"]),
        *common.reproduce_lines(results),
    ]
    return "\n".join(lines)


def _study_lines(studies: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, found in studies.items():
        rows = [
            {
                "varied": row["varied"],
                "value": row["value"],
                "clusters": str(row["num_clusters"]),
                "smoothing": row["smoothing"],
                "R@10": f"{row['recall@10']:.4f}",
                "R@50": f"{row['recall@50']:.4f}",
                "scored items": f"{row['num_scored']:,.0f}",
            }
            for row in found["rows"]
        ]
        groups = [
            {
                "quarter of the users by": f"number of {group['by']}"
                if group["by"] == "interests"
                else "training items",
                "values": f"{group['from']:.3g} to {group['to']:.3g}",
                "users": f"{group['num_users']:,}",
                "one vector, R@10": f"{group['one_vector']:.4f}",
                "kNN-Embed, R@10": f"{group['knn']:.4f}",
            }
            for group in found["groups"]
        ]
        lines += [
            f"## Where the mixture helps: {name}",
            "",
            "One thing varied at a time around the chosen kNN mixture, first seed, on the test; nothing was chosen by "
            "these rows.",
            "",
            markdown_table(rows),
            "",
            markdown_table(groups),
            "",
        ]
    if studies:
        lines += ["![Users with few interests and many](study.png)", ""]
    return lines


def write_card(folder: Path, results: Mapping[str, Any], *, published: str) -> None:
    """Write the `README.md` of a model folder that holds everything else already.

    Args:
        folder: The folder.
        results: The content of `results.json`, with `versions`.
        published: Name of the embeddings.
    """
    from huggingface_hub import ModelCard, ModelCardData

    source = results["data"]["source"]
    # The edges that the model holds are not ours to license.
    licence = {} if source != "synthetic" else {"license": "apache-2.0"}
    data = ModelCardData(
        library_name="transformers", tags=["hf-mixture", "recommendation", "candidate-retrieval"], **licence
    )
    held = {
        "movielens": "The model holds its training edges, which are ratings of MovieLens-100K. The terms of GroupLens "
        "allow research and no redistribution: do not upload this folder.",
        "graph": "The model holds its training edges, a citation graph; look up the terms of your copy before you "
        "share this folder.",
        "synthetic": "Edges were drawn from a seed; the model knows nothing of the world.",
    }
    lines = [
        f"# {results['name']}",
        "",
        f"{results['description']} kNN-Embed, arXiv 2205.06205, on the embeddings `{published}`; our definition, as "
        "the body of the paper was not available.".strip(),
        "",
        "## Usage",
        "",
        "`.` is the folder of this card.",
        "",
        "```python",
        "import hf_mixture  # registers the model type",
        "from transformers import AutoModel",
        "",
        'model = AutoModel.from_pretrained(".")',
        "lists = model.retrieve([0, 1, 2], k=10)",
        "print(lists.item_ids, lists.scores.shape)",
        "```",
        "",
        "`model.add_users([[3, 5]])` adds a user with these items, without training.",
        "",
        body(results),
        "",
        "## Training data",
        "",
        held[source],
    ]
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n").save(folder / "README.md")
