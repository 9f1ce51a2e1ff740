"""Table and card of an unlearning run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.hub.cards import markdown_table
from hf_mixture.training import report as common


LEGEND = (
    "Recall and NDCG at {k}. Forget recall is that of the forgotten training interactions, which are not masked; "
    "test measures leave out forgotten users and items. q is what is left to forget on the way from the original "
    "(1) to Gold (0), v test recall over Gold's, c optimizer steps over Gold's. An arm is named by its schedule and "
    "its retain weight, chosen on validation with the first seed; the bold one is the choice among our schedules. "
    "Full success: |q| at most 0.1, v at least 0.95, c at most 0.1 and AUC within 0.05 of Gold's, in every seed. "
    "Partial: q at most 0.4, v and c as before, and q below that of every simpler arm without less utility, in the "
    "mean. Target: forget recall at most a quarter of the original's, test recall at least 95 % of it, in a fifth "
    "of Gold's steps, in every seed."
)


def rows_of(case: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table of a case: one row for each arm, means over seeds.

    Args:
        case: An entry of `results.json`.

    Returns:
        The rows.
    """
    return [
        {
            "arm": f"**{row['arm']}**" if row["chosen"] else row["arm"],
            "forget recall": f"{row['forget_recall']:.4f}",
            "membership AUC": f"{row['membership_auc']:.3f}",
            "modality AUC": "" if row["modality_auc"] is None else f"{row['modality_auc']:.3f}",
            "test recall": f"{row['test_recall']:.4f}",
            "test NDCG": f"{row['test_ndcg']:.4f}",
            "q": f"{row['q']:.3f}",
            "v": f"{row['v']:.3f}",
            "c": f"{row['c']:.3f}",
            "Jaccard": "" if row["jaccard_with_gold"] is None else f"{row['jaccard_with_gold']:.3f}",
            "verdict": row["verdict"] or "",
            "target": "" if row["reaches_target"] is None else ("yes" if row["reaches_target"] else "no"),
        }
        for row in case["rows"]
    ]


def remarks_of(case: Mapping[str, Any]) -> list[str]:
    """What must be said of a case besides its table.

    Args:
        case: An entry of `results.json`.

    Returns:
        Sentences.
    """
    ours = next(row for row in case["rows"] if row["chosen"])
    floor = case["noise_floor"]
    found = [
        f"Chosen on validation: `{case['ours']}`: {ours['verdict']}; forget recall is "
        f"{100 * ours['forget_ratio']:.1f} % of the original's, test recall {100 * ours['test_ratio']:.0f} %, in "
        f"{100 * ours['c']:.0f} % of Gold's steps.",
        f"Two Golds of different seeds have a Jaccard index of {floor['jaccard']:.3f}, and forget recalls that differ "
        f"by {floor['forget_recall']:.4f}.",
    ]
    if case["simpler_and_as_good"]:
        names = ", ".join(f"`{name}`" for name in case["simpler_and_as_good"])
        found.append(f"Simpler and at least as good at no higher cost: {names}.")
    for number, recall in case["sharding_before"].items():
        touched = next(row for row in case["rows"] if row["arm"] == f"sharded-{number}")["touched_share"]
        found.append(
            f"Sharding into {number} has a test recall of {recall:.4f} before any request; this one touches "
            f"{100 * touched:.0f} % of the shards."
        )
    return found


def body(results: Mapping[str, Any]) -> str:
    """What report and card share.

    Args:
        results: The content of `results.json`, with `versions`.

    Returns:
        Markdown.
    """
    k = results["setting"]["k"]
    lines = []
    for case in results["cases"]:
        lines += [
            f"### {case['backbone']}: {100 * case['share']:g} % of {case['kind']}, "
            f"seeds {', '.join(map(str, case['seeds']))}",
            "",
            markdown_table(rows_of(case)),
            "",
            *(f"- {remark}" for remark in remarks_of(case)),
            "",
        ]
    if results["sequence"]:
        first = results["cases"][0]
        lines += [
            f"### {first['backbone']}: the first request in parts, one after another",
            "",
            markdown_table(
                [
                    {
                        "request": entry["request"],
                        **{
                            name: f"{entry[key]:.4f} ({entry['gold_' + key]:.4f})"
                            for name, key in (
                                ("forget recall so far (Gold)", "forget_recall"),
                                ("membership AUC (Gold)", "membership_auc"),
                                ("test recall (Gold)", "test_recall"),
                            )
                        },
                        "Jaccard with Gold": f"{entry['jaccard_with_gold']:.3f}",
                        "steps": entry["num_steps"],
                    }
                    for entry in results["sequence"]
                ]
            ),
            "",
        ]
    return "\n".join(
        [
            *lines,
            LEGEND.format(k=k),
            "",
            "![What each setting trades](trade_off.png)",
            "",
            "![How near each arm is to Gold](levels.png)",
            "",
            *common.reproduce_lines(results),
        ]
    )


def write_card(folder: Path, results: Mapping[str, Any]) -> None:
    """Write the `README.md` of the published model, with what it was asked to forget.

    Args:
        folder: Its folder, which holds everything else already.
        results: The content of `results.json`, with `versions`.
    """
    from huggingface_hub import ModelCard, ModelCardData

    from hf_mixture.models.mm_recommender.journal import read_journal, report_lines

    data = ModelCardData(
        library_name="transformers", license="other", tags=["hf-mixture", "recommendation", "machine-unlearning"]
    )
    setting = results["setting"]
    lines = [
        f"# {results['name']}",
        "",
        f"{results['description']} A multimodal recommender for {setting['users']:,} users and {setting['items']:,} "
        "items, which has unlearned a part of its training data by MMRecUn, arXiv 2405.15328 (our definition). It is "
        "made to compare ways of unlearning; the licence is that of the data.".strip(),
        "",
        "## Usage",
        "",
        "`.` is the folder of this card.",
        "",
        "```python",
        "import hf_mixture  # registers the model type",
        "import torch",
        "from transformers import AutoModel",
        "",
        'model = AutoModel.from_pretrained(".")',
        "print(model.recommend(torch.tensor([0, 1]), k=5))",
        "```",
        "",
        *report_lines(read_journal(folder)),
        "",
        "## Comparison",
        "",
        body(results),
    ]
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n").save(folder / "README.md")


def norm_of(model: Any) -> float:
    """Sum of the norms of all groups of parameters.

    Args:
        model: The model.

    Returns:
        The sum.
    """
    from hf_mixture.models.mm_recommender.audit import group_norms

    return sum(group_norms(model).values())
