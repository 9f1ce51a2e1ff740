"""What a run of `hf-mixture curate` leaves for people: tables, a plot, report and results."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.data.curation.curated import CuratedDataset
from hf_mixture.hub.cards import markdown_table, package_versions
from hf_mixture.training import report
from hf_mixture.training.curation.recipe import ALL, STRICT, CurateRecipe
from hf_mixture.training.journal import Journal
from hf_mixture.training.recipe import Recipe


def describe_curated(curated: Mapping[str, Any]) -> str:
    """Format what became of the documents.

    Args:
        curated: The report of a curation.

    Returns:
        A table: documents of each source by tier, and rejected ones by stage.
    """
    stages: list[str] = []
    for facts in curated["sources"].values():
        stages += [reason.partition("/")[0] for reason in facts["rejected"]]
    columns = list(dict.fromkeys(stages))
    rows = []
    for name, facts in curated["sources"].items():
        rejected = dict.fromkeys(columns, 0)
        for reason, number in facts["rejected"].items():
            rejected[reason.partition("/")[0]] += number
        tiers = {f"tier {tier}": found.get(name, {}).get("documents", 0) for tier, found in curated["tiers"].items()}
        rows.append({"source": name, "read": facts["read"], **tiers, **{f"-{key}": n for key, n in rejected.items()}})
    return markdown_table(rows)


def conclude(
    recipe: CurateRecipe,
    *,
    data: Recipe,
    curated: CuratedDataset,
    journal: Journal,
    names: tuple[str, str],
    command: str,
) -> dict[str, Any]:
    """Write results, report and plot, and print the comparison.

    Args:
        recipe: The recipe.
        data: The recipe of the data of the models.
        curated: The curated data set.
        journal: The journal, with all parts finished.
        names: The strictest and the widest configuration.
        command: The command.

    Returns:
        The content of `results.json`.
    """
    training = recipe.training
    assert training is not None  # noqa: S101 - there is something to conclude
    systems = []
    for name, stage in zip(names, (STRICT, ALL), strict=True):
        runs = [journal.finished[f"{name}/{seed}"] for seed in training.seeds]
        scores = [run["test_bits_per_byte"] for run in runs]
        systems.append(
            {
                "name": name,
                "weights": data.mixture(stage).weights,
                "test_bits_per_byte": {key: statistics.fmean(score[key] for score in scores) for key in scores[0]},
                "sd_of_mean": statistics.stdev(score["mean"] for score in scores) if len(scores) > 1 else None,
                "runs": runs,
            }
        )
    folder = journal.folder
    results = {
        "name": recipe.name,
        "description": recipe.description.strip(),
        "command": command,
        "curation": curated.report,
        "data": journal.finished["prepare"],
        "systems": systems,
    }
    report.write_results(folder / "results.json", results)
    shown = results | {"versions": package_versions()}
    _draw(folder / "comparison.png", systems)
    body = "\n".join(
        [
            "## Documents",
            "",
            describe_curated(curated.report),
            "",
            "## Models",
            "",
            _table(systems),
            "",
            f"Held-out bits per byte, lower is better; seeds {', '.join(map(str, training.seeds))}. Both models read "
            "as many tokens. The mean is by the shares of all tiers.",
            "",
            "![Comparison](comparison.png)",
            "",
            *report.reproduce_lines(shown),
        ]
    )
    report.write_report(folder / "report.md", shown, body)
    place = Path(recipe.output_dir)
    print(f"\n{_table(systems)}\n\nreport   {place}/report.md\nresults  {place}/results.json", flush=True)
    return results


def _table(systems: list[dict[str, Any]]) -> str:
    return markdown_table(
        [
            {
                "trained on": system["name"],
                **{domain: f"{value:.4f}" for domain, value in system["test_bits_per_byte"].items()},
                "sd of mean": "" if system["sd_of_mean"] is None else f"{system['sd_of_mean']:.4f}",
            }
            for system in systems
        ]
    )


def _draw(path: Path, systems: list[dict[str, Any]]) -> None:
    """Bars of held-out bits per byte by domain, one colour for each model."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    domains = list(systems[0]["test_bits_per_byte"])
    figure = Figure(figsize=(2 + 1.3 * len(domains), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    width = 0.8 / len(systems)
    for number, system in enumerate(systems):
        places = [place + number * width for place in range(len(domains))]
        axes.bar(places, [system["test_bits_per_byte"][domain] for domain in domains], width, label=system["name"])
    axes.set(ylabel="held-out bits per byte", xticks=[place + width / 2 for place in range(len(domains))])
    axes.set_xticklabels(domains, rotation=20, ha="right")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(title="trained on")
    figure.savefig(path, dpi=120)
