"""`hf-mixture plan --recipe`: searches the layouts of a recipe; a matter of seconds for each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.hub.cards import markdown_table
from hf_mixture.training import report
from hf_mixture.training.folding.recipe import FoldingRecipe, LayoutSpec


def folding_recipe(recipe: FoldingRecipe, *, command: str = "") -> dict[str, Any]:
    """Search all layouts, write results, report and plot, and print the table.

    Args:
        recipe: The recipe.
        command: The command, for the report.

    Returns:
        The content of `results.json`.

    Raises:
        ValueError: If a model has no experts, or no mapping of it fits; nothing has been written.
    """
    from tqdm.auto import tqdm

    from hf_mixture.hub.cards import package_versions
    from hf_mixture.moe.parallel.planner import plan_folding
    from hf_mixture.moe.parallel.report import as_json, describe_search
    from hf_mixture.moe.parallel.shape import cluster_of

    rows, said, found_of = [], [], {}
    for name, layout in tqdm(recipe.layouts.items(), desc="plan", unit="layout", delay=2.0):
        found = plan_folding(
            _config(layout),
            cluster_of(recipe.gpu, layout.gpus),
            sequence=layout.sequence,
            global_batch=layout.global_batch,
        )
        best = found.best
        published = layout.published
        rows.append(
            {
                "name": name,
                "gpus": layout.gpus,
                "sequence": layout.sequence,
                "best": best.mapping.plan.sizes(),
                "mfu": 100 * best.estimate.mfu,
                "memory_bytes": best.estimate.memory_bytes,
                "engines": [engine for engine, problem in best.engines.items() if problem is None],
                "published_mfu": None if published is None else published.mfu,
                "published_sizes": None if published is None else published.sizes,
                "rank_of_published": _rank(found, published.sizes if published is not None else {}),
            }
        )
        said.append(f"## {name}\n\n{describe_search(found)}")
        found_of[name] = as_json(found)
    folder = Path(recipe.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "name": recipe.name,
        "description": recipe.description.strip(),
        "command": command,
        "gpu": recipe.gpu,
        "rows": rows,
        "searches": found_of,
    }
    report.write_results(folder / "results.json", results)
    shown = results | {"versions": package_versions()}
    _draw(folder / "comparison.png", rows)
    body = [
        _table(rows),
        "",
        "MFU is estimated by a model of memory and time with four constants, fitted to half of the published "
        "measurements; load imbalance is not in it. The rank is that of the best mapping with the published sizes "
        "among all mappings that fit.",
        "",
        "![Estimated and published MFU](comparison.png)",
        "",
        "\n\n".join(said),
        "",
        *report.reproduce_lines(shown),
    ]
    report.write_report(folder / "report.md", shown, "\n".join(body))
    print(f"\n{_table(rows)}\n\nreport   {folder}/report.md\nplot     {folder}/comparison.png", flush=True)
    print(f"results  {folder}/results.json", flush=True)
    return results


def _config(layout: LayoutSpec) -> Any:
    """The configuration of a layout's model, or where it is."""
    from transformers import AutoConfig

    if "from_pretrained" in layout.model:
        return layout.model["from_pretrained"]
    fields = dict(layout.model)
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


def _rank(found: Any, sizes: Mapping[str, int]) -> int | None:
    """The place of the first mapping with some sizes, from 1; None if none fits, or no sizes are given."""
    for place, candidate in enumerate(found.fitting, start=1):
        if sizes and all(getattr(candidate.mapping.plan, name) == size for name, size in sizes.items()):
            return place
    return None


def _table(rows: list[dict[str, Any]]) -> str:
    return markdown_table(
        [
            {
                "layout": row["name"],
                "GPUs": row["gpus"],
                "tokens": row["sequence"],
                "best mapping": row["best"].partition(", ")[2],
                "MFU %": f"{row['mfu']:.1f}",
                "GB": f"{row['memory_bytes'] / 1e9:.0f}",
                "runs on": ", ".join(row["engines"]),
                "published": ", ".join(f"{name}={size}" for name, size in (row["published_sizes"] or {}).items()),
                "published MFU %": "" if row["published_mfu"] is None else f"{row['published_mfu']:.1f}",
                "its rank here": "" if row["rank_of_published"] is None else row["rank_of_published"],
            }
            for row in rows
        ]
    )


def _draw(path: Path, rows: list[dict[str, Any]]) -> None:
    """Bars of estimated MFU, with points of published ones."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.4 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = range(len(rows))
    axes.barh(places, [row["mfu"] for row in rows], height=0.6, label="estimated, best mapping")
    there = [(row["published_mfu"], place) for place, row in enumerate(rows) if row["published_mfu"] is not None]
    if there:
        axes.plot(*zip(*there, strict=True), "ko", label="published")
    axes.set(xlabel="MFU, percent", yticks=list(places), yticklabels=[row["name"] for row in rows])
    axes.invert_yaxis()
    axes.legend()
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
