"""What a finished run leaves for people: table, learning curves, model cards, results.json."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.cards import markdown_table
from hf_mixture.hub.reading import read_object
from hf_mixture.training.journal import write_json
from hf_mixture.training.recipe import Recipe


FORMAT = "hf_mixture_results"
VERSION = 1

PAPERS = {"MOS": "Mixture of Shards, arXiv 2410.00938", "LORA": "LoRA, arXiv 2106.09685"}


def write_report(path: Path, results: Mapping[str, Any], body: str) -> None:
    """Write `report.md`.

    Args:
        path: The file.
        results: The content of `results.json`.
        body: What follows the name and the description.
    """
    about = f"{results['description']}\n\n" if results["description"] else ""
    write_atomic(path, f"# {results['name']}\n\n{about}{body}\n")


def reproduce_lines(results: Mapping[str, Any]) -> list[str]:
    """The command and the versions, as report and cards end.

    Args:
        results: The content of `results.json`, with `versions`.

    Returns:
        Lines of Markdown.
    """
    return [
        "## Reproduce",
        "",
        "```bash",
        results["command"],
        "```",
        "",
        markdown_table([{"package": name, "version": version} for name, version in results["versions"].items()]),
    ]


def table(systems: Sequence[Mapping[str, Any]], adapted_to: Sequence[str]) -> str:
    """Format the comparison: one line for each system, held-out bits per byte for each domain.

    Args:
        systems: Entries of `results.json`, with `name`, `learning_rate`, `trainable_parameters`, `file_bytes`,
            `seconds_per_step` and `test_bits_per_byte`.
        adapted_to: Domains of the adaptation, marked with a star.

    Returns:
        The lines.
    """
    domains = list(systems[0]["test_bits_per_byte"])
    head = [
        "",
        "learning rate",
        "trainable",
        "file bytes",
        "s/step",
        *(f"{d}{'*' * (d in adapted_to)}" for d in domains),
    ]
    rows = [head]
    for system in systems:
        rows.append(
            [
                system["name"],
                _cell(system["learning_rate"], "g"),
                _cell(system["trainable_parameters"], ","),
                _cell(system["file_bytes"], ","),
                _cell(system["seconds_per_step"], ".3f"),
                *(_cell(system["test_bits_per_byte"][domain], ".4f") for domain in domains),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) if index == 0 else cell.rjust(width) for index, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    lines.append("Held-out bits per byte on the test split of each domain, lower is better; * the domain adapted to.")
    return "\n".join(lines)


def learning_curve(log: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Plot training and held-out loss against the step.

    Args:
        log: `log_history` of the Trainer.
        title: Title of the plot.
        path: The PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    keys = dict.fromkeys(key for entry in log for key in entry if key == "loss" or _domain_of(key))
    for key in keys:
        points = [(entry["step"], entry[key] / math.log(2)) for entry in log if key in entry]
        label = "training" if key == "loss" else f"held-out {_domain_of(key)}"
        axes.plot(*zip(*points, strict=True), marker="" if key == "loss" else "o", markersize=3, label=label)
    axes.set(title=title, xlabel="optimizer step", ylabel="bits per token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def write_log(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the Trainer's log as JSON lines."""
    write_atomic(path, "".join(json.dumps(entry) + "\n" for entry in log))


def print_outcome(output_dir: str, text: str, *, model: str) -> None:
    """Print the table of a run, and where everything is.

    Args:
        output_dir: The run folder, as the recipe names it.
        text: Table and findings.
        model: Folder of the published model, inside the run folder.
    """
    print(f"\n{text.strip()}\n")
    for what, name in {
        "report": "report.md",
        "plots": "*.png",
        "model": f"{model}, with its card",
        "results": "results.json",
    }.items():
        print(f"{what:<8} {Path(output_dir)}/{name}", flush=True)


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write `results.json` with its format, version and the machine that made it."""
    from hf_mixture.hub.cards import package_versions

    machine = {"machine": platform.machine(), "system": platform.system(), "cpus": os.cpu_count()}
    header = {"format": FORMAT, "version": VERSION}
    write_json(path, {**header, **results, "machine": machine, "versions": package_versions()})


def write_card(
    folder: Path,
    recipe: Recipe,
    system: Mapping[str, Any],
    systems: Sequence[Mapping[str, Any]],
    *,
    base_model: str,
    command: str,
) -> None:
    """Write the model card of one adapter folder that holds everything else already.

    Args:
        folder: The folder.
        recipe: The recipe.
        system: The entry of this adapter in `results.json`.
        systems: All entries, for the comparison.
        base_model: Hub id of the base model, or its place relative to `folder`.
        command: The command that made the run.
    """
    from hf_mixture.hub.cards import write_model_card

    config = recipe.adapters[system["name"]]
    if config is None:
        return
    mixture = recipe.mixture("adapt")
    method = "MoS" if config["peft_type"] == "MOS" else config["peft_type"]
    adapted = " and ".join(mixture.weights)
    rows = [
        {"domain": domain} | {other["name"]: other["test_bits_per_byte"][domain] for other in systems}
        for domain in system["test_bits_per_byte"]
    ]
    given = {"learning_rate": system["learning_rate"], **recipe.adapt.training_arguments}
    rates = ", ".join(f"{rate:g}" for rate in recipe.adapt.learning_rates)
    write_model_card(
        folder,
        title=f"{recipe.name}: {system['name']}",
        summary=f"{recipe.description.strip()} This adapter ({method}, {system['trainable_parameters']:,} trainable "
        f"parameters) was trained on {adapted}.",
        method=method,
        base_model=base_model,
        adapter_config=read_object(folder / "adapter_config.json") | {"base_model_name_or_path": base_model},
        paper=PAPERS.get(config["peft_type"], ""),
        mixture=mixture.weights,
        mixture_unit=mixture.unit,
        metrics=rows,
        metrics_caption="Held-out bits per byte on the test split of each domain; lower is better. "
        f"This adapter is the column {system['name']}; base is the model before adaptation. The learning rate of "
        f"every adapter was chosen from {rates} by bits per byte on the validation split.",
        hyperparameters=given | {"block_size": recipe.block_size, "seed": recipe.seed},
        learning_curve="learning_curve.png",
        command=command,
        tokenizer=".",
        prompt="The",
    )


def processes_text(num_processes: int) -> str:
    """Return a number of processes in words for people."""
    return f"{num_processes} process{'' if num_processes == 1 else 'es'}"


def file_bytes(folder: Path) -> int:
    """Return the bytes of the weight files of a saved adapter or model."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _domain_of(key: str) -> str:
    return key[len("eval_") : -len("_loss")] if key.startswith("eval_") and key.endswith("_loss") else ""


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)
