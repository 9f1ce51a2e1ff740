"""Tables, report and card of a run of trajectories. Every figure comes from `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.hub.cards import markdown_table
from hf_mixture.training.report import reproduce_lines


def selection_table(results: Mapping[str, Any]) -> str:
    """The numbers of classes side by side."""
    return markdown_table(
        [
            {
                "classes": row["num_classes"],
                "parameters": row["num_parameters"],
                "-2 log L": f"{row['minus2ll']:.2f}",
                "AIC": f"{row['aic']:.1f}",
                "BIC": f"{row['bic']:.1f}",
                "ICL": f"{row['icl']:.1f}",
                "entropy": f"{row['entropy']:.3f}",
                "smallest class": f"{row['smallest_share']:.1%}",
                "optima": row["num_optima"],
                "starts at the best": row["hits_of_best"],
                "bootstrap p": "" if row["bootstrap_p"] is None else f"{row['bootstrap_p']:.3f}",
                "": "degenerate" if row["is_degenerate"] else "",
            }
            for row in results["selection"]
        ]
    )


def body(results: Mapping[str, Any]) -> str:
    """What report and card share."""
    report = results["fit"]
    lines = [
        "## How many classes",
        "",
        selection_table(results),
        "",
        f"Chosen by {results['criterion'].upper()} among those that are not degenerate: {results['num_classes']}. "
        "The entropy is 1 where every class is certain.",
        "",
        "## The classes",
        "",
        markdown_table(
            [
                {"class": k, "name": name, "share": f"{share:.1%}"}
                for k, (name, share) in enumerate(zip(results["class_names"], report["shares"], strict=True))
            ]
        ),
        "",
        "![Trajectories and class probabilities](classes.png)",
        "",
        "## Estimates",
        "",
        markdown_table(
            [
                {
                    "": row["class"],
                    "parameter": row["parameter"],
                    "estimate": f"{row['estimate']:.4g}",
                    "standard error": _figure(row["standard_error"]),
                    "sandwich": _figure(row["robust_standard_error"]),
                }
                for row in report["estimates"]["reported"]
            ]
        ),
        "",
        *(line for warning in report["warnings"] for line in (f"Note: {warning}.", "")),
        "## Optima",
        "",
        f"Of {len(report['starts'])} starts, {_num_dropped(report)} were dropped after ECM, far below the best; "
        "the others ended at:",
        "",
        markdown_table(
            [
                {
                    "-2 log L": f"{group['minus2ll']:.3f}",
                    "starts": group["hits"],
                    "shares": ", ".join(f"{share:.2f}" for share in group["shares"]),
                    "fault": group["fault"],
                }
                for group in report["optima"]
            ]
        ),
        "",
        "![Optima](optima.png)",
        "",
    ]
    if results["screening"]:
        lines += [
            "## Covariates",
            "",
            markdown_table(
                [{key: row[key] for key in ("covariate", "importance", "num_cuts")} for row in results["screening"]]
            ),
            "",
            "Importance is the mean rise of -2 log-likelihood for each person out of the bag when the covariate is "
            "permuted, in a forest of growth models of one class.",
            "",
        ]
    if results["agreement"] is not None:
        lines += [f"Likeliest classes agree with the true ones for {results['agreement']:.1%} of the people.", ""]
    return "\n".join([*lines, *reproduce_lines(results)])


def write_card(folder: Path, results: Mapping[str, Any]) -> None:
    """Write the `README.md` of the model folder.

    Args:
        folder: The folder; it holds everything else.
        results: The content of `results.json`, with `versions`.
    """
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        library_name="transformers", license="apache-2.0", tags=["hf-mixture", "growth-curves", "mixture-of-experts"]
    )
    lines = [
        f"# {results['name']}",
        "",
        results["description"],
        "",
        f"A trajectory mixture of experts (arXiv 2007.02432) with {results['num_classes']} classes of "
        f"{results['curve']} curves, estimated from {results['fit']['num_people']} trajectories.",
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
        "print(model.summary())",
        "```",
        "",
        "Not for decisions about persons: classes are a description of the data they were estimated from.",
        "",
        body(results),
    ]
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n").save(folder / "README.md")


def _num_dropped(report: Mapping[str, Any]) -> int:
    return sum(start["minus2ll"] is None for start in report["starts"])


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
