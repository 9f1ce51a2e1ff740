"""The end of a search: table of runs, mixture, results, plots, report, card."""

from __future__ import annotations

import csv
import dataclasses
import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.training.journal import Journal
from hf_mixture.training.recipe import source_of
from hf_mixture.training.report import write_report, write_results
from hf_mixture.training.search.find import Found
from hf_mixture.training.search.plan import SearchPlan
from hf_mixture.training.search.recipe import SearchRecipe
from hf_mixture.training.search.report import body, compare, comparison_table, draw, verdict, write_card


if TYPE_CHECKING:
    from hf_mixture.data.mixture import Mixture
    from hf_mixture.data.search.table import RunTable


def conclude(
    recipe: SearchRecipe,
    plan: SearchPlan,
    journal: Journal,
    facts: Mapping[str, Any],
    *,
    found: Found,
    shares: Mapping[str, Mapping[str, float]],
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    budget: int,
    command: str,
) -> dict[str, Any]:
    """Write everything that a finished search leaves, and print the comparison.

    Args:
        recipe: The recipe.
        plan: The plan.
        journal: The journal of the run.
        facts: What `prepare` counted.
        found: The mixture.
        shares: Share by domain of every mixture of the comparison, the found one first.
        runs: The runs of the comparison, by mixture.
        budget: Tokens of the run that the mixture is for.
        command: The command.

    Returns:
        The content of `results.json`.
    """
    from hf_mixture.data.search import Objective
    from hf_mixture.hub.cards import package_versions

    goal = Objective(recipe.objective.metric, recipe.objective.direction)  # type: ignore[arg-type]
    compared = compare({name: runs[name] for name in shares}, recipe.objective.metric)
    for system in compared["systems"]:
        system["weights"] = dict(shares[system["name"]])
    origins = journal.finished.get("clusters", {})
    results: dict[str, Any] = {
        "name": recipe.name,
        "description": recipe.description.strip(),
        "command": command,
        "objective": {"metric": goal.metric, "name": goal.name, "direction": goal.direction},
        "budget": budget,
        "domains": {
            name: {
                "documents": entry["documents"],
                "bytes": entry["bytes"],
                "licences": entry["licences"],
                "tokens": entry["train_tokens"],
                "epochs_at_budget": found.shares[name] * budget / entry["train_tokens"],
                **({"origins": origins[name]} if origins else {}),
            }
            for name, entry in facts["domains"].items()
        },
        "held_out_tokens": {
            name: {split: entry[f"{split}_tokens"] for split in ("validation", "test")}
            for role in ("domains", "targets")
            for name, entry in facts[role].items()
        },
        "search": None if found.table is None else found.facts,
        "online": None if found.table is not None else found.facts,
        "comparison": {**dataclasses.asdict(plan.comparison), **compared},
    }
    folder = journal.folder
    if found.table is not None:
        write_atomic(folder / "runs.csv", runs_csv(found.table))
    mixture = mixture_of(recipe, facts, found, budget)
    mixture.save_pretrained(folder)
    write_results(folder / "results.json", results)
    plots = draw(folder, results, found.table, found.predicted, found.trace)
    shown = results | {"versions": package_versions()}
    write_report(folder / "report.md", shown, body(shown, plots))
    write_card(folder, shown, mixture, plots)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    place = Path(recipe.output_dir)
    print(f"\n{comparison_table(results)}\n\n{verdict(results)}\n")
    print(
        f"mixture  {place}/mixture.json\nreport   {place}/report.md\ncard     {place}/README.md\n"
        f"results  {place}/results.json",
        flush=True,
    )
    return results


def mixture_of(recipe: SearchRecipe, facts: Mapping[str, Any], found: Found, budget: int) -> Mixture:
    """The mixture that was found, with its sources, their sizes, its budget, and how it was found."""
    from hf_mixture.data.mixture import Mixture
    from hf_mixture.data.schedule import SourcePolicy

    sources = {}
    for name, entry in facts["domains"].items():
        if recipe.clusters is None:
            source = source_of(name, recipe.domains[name])
        else:
            source = source_of(name, str(Path(recipe.output_dir) / "domains" / name))
        size = {"examples": entry["documents"], "tokens": entry["train_tokens"], "bytes": entry["bytes"]}
        license = entry["licences"][0] if source.license is None and len(entry["licences"]) == 1 else source.license
        sources[name] = dataclasses.replace(source, size=tuple(size.items()), license=license)
    epochs = recipe.constraints.max_epochs
    capped = (
        {} if epochs is None else {name: SourcePolicy(max_epochs=epochs, overflow="renormalise") for name in sources}
    )
    return Mixture(
        dict(found.shares),
        unit="tokens",
        seed=recipe.seed,
        sources=sources,
        policies=capped,
        budget=(budget, "tokens"),
        name=recipe.name,
        description=recipe.description.strip() or None,
        metadata={"provenance": dict(found.provenance)},
        normalise=True,
    )


def runs_csv(table: RunTable) -> str:
    """The table of runs: id, fidelity, cost, shares as `weight/<domain>`, metrics.

    `RunTable.read_csv(path, key="run_id", prefix="weight/")` reads shares and metrics back.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run_id", *(f"weight/{name}" for name in table.domains), "fidelity", "cost", *table.metrics])
    for row, run_id in enumerate(table.run_ids):
        shares = [repr(float(share)) for share in table.raw_weights[row]]
        values = [repr(float(column[row])) for column in (table.fidelity, table.cost, *table.metrics.values())]
        writer.writerow([run_id, *shares, *values])
    return text.getvalue()
