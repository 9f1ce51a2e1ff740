"""What a run through all rooms leaves for people: table, report, cards and results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.hub.cards import markdown_table, package_versions
from hf_mixture.training import report
from hf_mixture.training.everything.card import write_cards
from hf_mixture.training.everything.parts import CLUSTERS, CURATE, EDIT, QUANTISE, SEARCH, SPREAD, TRAIN, EverythingRun


def results_of(run: EverythingRun) -> dict[str, Any]:
    """Collect what the parts have measured.

    Args:
        run: The run, with all parts up to `publish` finished.

    Returns:
        The content of `results.json`.
    """
    done, recipe = run.journal.finished, run.recipe
    return {
        "name": recipe.name,
        "description": recipe.description.strip(),
        "command": run.command,
        **{part: done[part] for part in (CURATE, CLUSTERS, SEARCH, SPREAD, QUANTISE, TRAIN, EDIT)},
        "mixture": run.weights,
        "rows": rows_of(run),
        "hub": recipe.hub,
        "push": done.get("push"),
        "pull": done.get("pull"),
    }


def rows_of(run: EverythingRun) -> list[dict[str, Any]]:
    """The models, one after the other: held-out bits per byte and bytes of the weights."""
    done = run.journal.finished
    spread, sizes, train = done[SPREAD], done[QUANTISE]["bytes"], done[TRAIN]
    rows = [
        {
            "model": f"sparse model, {report.processes_text(row['num_processes'])}, {row['implementation']}",
            "bits_per_byte": _domains(row["bits_per_byte"]),
            "bytes": sizes["sparse"],
        }
        for row in spread["rows"]
    ]
    quantised = sizes["quantised"]
    rows += [
        {"model": "quantised by mwq", "bits_per_byte": train["base"], "bytes": quantised},
        {
            "model": f"with the adapter {train['name']}",
            "bits_per_byte": train["adapted"],
            "bytes": quantised + train["bytes"],
        },
        {
            "model": f"with {len(done[EDIT]['edits'])} experts off, for {run.recipe.edits.domain}",
            "bits_per_byte": _domains(done[EDIT]["edited"]),
            "bytes": quantised + train["bytes"],
        },
    ]
    return rows


def conclude(run: EverythingRun) -> dict[str, Any]:
    """Write results, report and cards.

    Args:
        run: The run.

    Returns:
        The content of `results.json`.
    """
    results = results_of(run)
    report.write_results(run.folder / "results.json", results)
    shown = results | {"versions": package_versions()}
    report.write_report(run.folder / "report.md", shown, body(shown))
    write_cards(run, shown, body(shown))
    return results


def table(results: Mapping[str, Any]) -> str:
    """The models: held-out bits per byte of every domain, and bytes of the weights."""
    return markdown_table(
        [
            {
                "model": row["model"],
                **{domain: f"{value:.4f}" for domain, value in row["bits_per_byte"].items()},
                "bytes of weights": f"{row['bytes']:,}",
            }
            for row in results["rows"]
        ]
    )


def body(results: Mapping[str, Any]) -> str:
    """What report and cards share."""
    search, spread, edited = results[SEARCH], results[SPREAD], results[EDIT]["edits"]
    domains = results[CLUSTERS]["domains"]
    apart = max(row["largest_difference"] for row in spread["rows"])
    drift = (
        "sums in another order differ by roundings, which the weights of the mixture follow, and then batches"
        if any(row["online"] for row in spread["rows"])
        else "all of them have read the same batches"
    )
    lines = [
        "## Models",
        "",
        table(results),
        "",
        "Held-out bits per byte, lower is better. The sparse models begin alike; each of the other models is made of "
        f"the one before. Losses of the systems differ by at most {apart:.1e} at any step: {drift}.",
        "",
        "## Data",
        "",
        f"Of {sum(results[CURATE]['read'].values()):,} documents, {sum(results[CURATE]['kept'].values()):,} are kept "
        f"(configuration `{results[CURATE]['configuration']}`). PPP finds {results[CLUSTERS]['num_clusters']} "
        f"clusters; {results[CLUSTERS]['left_out']} documents of small ones are left out.",
        "",
        markdown_table(
            [
                {
                    "domain": name,
                    "documents": facts["documents"],
                    search["method"]: f"{search['weights'][name]:.3f}",
                    "drawn in training": f"{results['mixture'][name]:.3f}",
                    "most common licences": ", ".join(facts["licences"]),
                }
                for name, facts in domains.items()
            ]
        ),
        "",
        markdown_table(
            [{"licence": name, "documents": number} for name, number in results[CURATE]["licences"].items()]
        ),
    ]
    if spread["trace"] is not None:
        loads = ", ".join(f"{value:.2f}" for value in spread["trace"]["max_over_mean"])
        lines += [
            "",
            "## Experts",
            "",
            f"Load of the busiest expert over the mean, by layer, over {len(spread['trace']['steps'])} traced steps: "
            f"{loads}.",
        ]
    lines += [
        "",
        "## Edits",
        "",
        markdown_table([{"router": edit["module"], "expert": edit["expert"], "edit": edit["op"]} for edit in edited]),
        "",
        *report.reproduce_lines(results),
    ]
    return "\n".join(lines)


def finish(run: EverythingRun) -> dict[str, Any]:
    """Write what is known when all is published, and print the table.

    Args:
        run: The finished run.

    Returns:
        The content of `results.json`.
    """
    results = results_of(run)
    report.write_results(run.folder / "results.json", results)
    pulled, place = results["pull"], Path(run.recipe.output_dir)
    where = f"from {run.recipe.hub}" if run.recipe.hub else "from its folder"
    print(f"\n{table(results)}\n")
    print(
        f"A fresh process has loaded it {where}: logits differ by at most {pulled['max_difference']:.3g}, the largest "
        f"is {pulled['max_logit']:.3g}."
    )
    for name, address in (results["push"] or {}).items():
        print(f"pushed   {name}: {address}")
    print(
        f"\nreport   {place}/report.md\nmodel    {place}/published/base, {place}/published/adapter, with their cards\n"
        f"results  {place}/results.json",
        flush=True,
    )
    return results


def _domains(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if name != "mean"}
