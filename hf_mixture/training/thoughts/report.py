"""Table, plot and report of a run of thoughts. Every figure comes from `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.hub.cards import markdown_table
from hf_mixture.training.report import reproduce_lines
from hf_mixture.training.thoughts.compare import interval


# What each row is, in the words of the report.
ROWS = {
    "domain oracle": "each kind of document goes to the expert that is best for it on the validation documents",
    "document oracle": "each document goes to the expert that predicts it best, which is known only afterwards: no "
    "choice of one expert for a document does better",
    "routing alone": "each document goes to the primary that the router of `mot` chooses, and peers are not heard",
    "self_only": "control: the same parameters and training as `mot`, with one active expert that hears itself alone",
    "lora": "control: LoRA on the best single expert, with as many parameters as the rank allows to match, and the "
    "same documents",
    "mot": "the Mixture of Thoughts",
    "mot, wrong peers": "`mot` while its peers read another document",
}


def table(results: Mapping[str, Any]) -> str:
    """The systems: held-out bits per byte, by kind of document, and how much better or worse the mixture is."""
    rows = []
    for system in results["systems"]:
        name = system["name"]
        spread = "" if system["sd"] is None else f" ± {system['sd']:.4f}"
        training = results["trainings"].get(name)
        rows.append(
            {
                "system": name + " (best single)" * (name == results["best_single"]),
                "trained": "" if training is None else f"{training['trainable_parameters']:,}",
                "bits per byte": f"{system['bits_per_byte']:.4f}{spread}",
                **{kind: f"{value:.4f}" for kind, value in system["by_kind"].items()},
                "mot less this": interval(results["differences"][name]) if name in results["differences"] else "",
            }
        )
    return markdown_table(rows)


def promises(results: Mapping[str, Any]) -> str:
    """What the method promises, and whether this run shows it."""
    return markdown_table(
        [
            {"promise": entry["requirement"], "found": entry["found"], "met": "yes" if entry["met"] else "no"}
            for entry in results["requirements"]
        ]
    )


def conclusion(results: Mapping[str, Any]) -> str:
    """One paragraph about what the controls say."""
    words = {"better": "is better than", "worse": "is worse than", "undecided": "cannot be told apart from"}
    said = []
    for name in (results["best_single"], "domain oracle", "document oracle", "routing alone", "self_only", "lora"):
        found = results["differences"][name]
        said.append(f"{words[found['verdict']]} `{name}` ({interval(found)})")
    text = "On these documents the mixture " + ", ".join(said[:-1]) + f", and {said[-1]}."
    losses = [name for name in ("self_only", "lora") if results["differences"][name]["verdict"] != "better"]
    if losses:
        text += (
            f" It does not beat {' and '.join(f'`{name}`' for name in losses)}: what it gains over the experts is not "
            "shown to come from their thinking together rather than from further training."
        )
    return text


def draw(path: Path, results: Mapping[str, Any]) -> None:
    """Plot validation bits per byte along the training of the first seed, and the differences with their intervals.

    Args:
        path: The PNG file.
        results: The content of `results.json`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, training in results["trainings"].items():
        points = [(entry["step"], entry["validation"]) for entry in training["runs"][0]["curve"]]
        if points:
            left.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    for expert in results["experts"]:
        style = "-" if expert["name"] == results["best_single"] else ":"
        left.axhline(expert["validation_bits_per_byte"], color="grey", linestyle=style, linewidth=0.8)
        left.annotate(
            expert["name"],
            (0.01, expert["validation_bits_per_byte"]),
            xycoords=("axes fraction", "data"),
            fontsize=7,
            verticalalignment="bottom",
        )
    left.set(title="validation documents", xlabel="optimizer step", ylabel="bits per byte")
    names = list(results["differences"])
    for place, name in enumerate(names):
        found = results["differences"][name]
        color = {"better": "tab:green", "worse": "tab:red", "undecided": "tab:grey"}[found["verdict"]]
        right.plot([found["low"], found["high"]], [place, place], color=color)
        right.plot([found["mean"]], [place], marker="o", color=color)
    right.axvline(0.0, color="black", linewidth=0.8)
    right.set(
        title="mot less this, 95% over test documents",
        xlabel="bits per byte; left of zero mot is better",
        yticks=range(len(names)),
        yticklabels=names,
    )
    right.invert_yaxis()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend()
    figure.savefig(path, dpi=120)


def body(results: Mapping[str, Any]) -> str:
    """What report and card share: how it was made, the comparison, the plot, the versions."""
    segments, sizes = results["segments"], results["parameters"]
    seeds = [run["seed"] for run in results["trainings"]["mot"]["runs"]]
    number = {
        split: sum(entry["documents"] for entry in kinds.values()) for split, kinds in results["documents"].items()
    }
    spread = f"means over the seeds {', '.join(map(str, seeds))}, ± standard deviation"
    if len(seeds) == 1:
        spread = f"one seed ({seeds[0]}), so that how far another would be is not known"
    rates = [
        {
            "system": name,
            **{f"rate {rate}": _figure(value) for rate, value in training["validation_by_learning_rate"].items()},
            "chosen": f"{training['learning_rate']:g}",
            "s/step": f"{training['seconds_per_step']:.3f}",
        }
        for name, training in results["trainings"].items()
    ]
    experts = [
        {
            "expert": entry["name"],
            "family": entry["model_type"],
            "parameters": f"{entry['parameters']:,}",
            "from": entry["from"],
            "validation bits per byte": f"{entry['validation_bits_per_byte']:.4f}",
            "tokens of the longest document": entry["longest_document"],
        }
        for entry in results["experts"]
    ]
    routing = [
        {
            "documents": kind,
            "domain oracle": results["domain_oracle"][kind],
            **{f"primary {name}": f"{share:.0%}" for name, share in shares.items()},
        }
        for kind, shares in results["primaries"].items()
    ]
    lines = [
        "## How it was made",
        "",
        f"A document has {segments['all']} segments of files of several domains in turn. The first "
        f"{segments['prompt']} are the prompt, from which the router chooses; the bytes of the rest are predicted. "
        f"There are {number['train']:,} documents to train on, {number['validation']:,} for validation and "
        f"{number['test']:,} to test, from different files. Every trained system reads {results['tuned_on']:,} "
        f"documents, in the same order for the same seed: equal text, not equal computation. The mixture and its "
        f"control with one active expert train {sizes['mixture']:,} parameters each, LoRA of rank "
        f"{sizes['lora_rank']} {sizes['lora']:,}.",
        "",
        markdown_table(experts),
        "",
        "## Comparison",
        "",
        table(results),
        "",
        f"Bits per byte of the answers of the test documents, lower is better; {spread}. In brackets the 95% interval "
        "of a paired bootstrap over documents, with the mean over the seeds as the score of a document.",
        "",
        *(f"- `{name}`: {text}." for name, text in ROWS.items()),
        "",
        "![Validation and differences](comparison.png)",
        "",
        conclusion(results),
        "",
        promises(results),
        "",
        "## Routing",
        "",
        markdown_table(routing),
        "",
        "## Learning rates",
        "",
        markdown_table(rates),
        "",
        "Validation bits per byte with the first seed; the best rate is used for all seeds.",
        "",
        "## What to know",
        "",
        "- The router reads the mean of the first expert's states, not a sentence encoder of its own.",
        "- A document is cut out of files: its end is not predicted.",
        "- Held-out documents of one kind have different host files, but documents of two kinds, and the guests, may "
        "share a file; the intervals take documents as independent.",
        "",
        *reproduce_lines(results),
    ]
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"
