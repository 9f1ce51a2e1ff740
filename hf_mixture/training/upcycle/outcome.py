"""The end of an upcycling run: the reload check, the comparison, plot, report, cards and results."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_mixture.hub.reading import read_object
from hf_mixture.training import report as common
from hf_mixture.training.reload import check_in_fresh_process
from hf_mixture.training.upcycle import report
from hf_mixture.training.upcycle.card import write_card
from hf_mixture.training.upcycle.resolve import DENSE
from hf_mixture.training.upcycle.systems import PRETRAIN, UpcycleRun, part_name


def conclude(run: UpcycleRun, command: str) -> dict[str, Any]:
    """Check every published model in a fresh process, then write what a finished run leaves, and print the table.

    Args:
        run: The finished run.
        command: The command.

    Returns:
        The content of `results.json`.
    """
    from hf_mixture.hub.cards import package_versions

    recipe, done = run.recipe, run.journal.finished
    names = (PRETRAIN, DENSE, *recipe.routers)
    folders = {name: run.model_folder(name) for name in names}
    if "reload" not in done:
        print("\n== reload: every model in a fresh process", flush=True)
        references = {name: run.reference(name) for name in names}
        run.journal.finish("reload", check_in_fresh_process(folders, references, {"dtype": "float32"}))
    results = {
        "name": recipe.name,
        "description": recipe.description.strip(),
        "command": command,
        "tokens": {stage: blocks * recipe.block_size for stage, blocks in run.plan.num_examples.items()},
        "weights": recipe.mixture.weights,
        "upcycle": recipe.to_dict()["upcycle"],
        "parameters": {
            "dense": run.plan.dense_parameters,
            "moe": run.plan.moe_parameters,
            "active": run.plan.active_parameters,
        },
        "data": done["prepare"],
        "pretrain": {**done[PRETRAIN], "reload": done["reload"][PRETRAIN]},
        "systems": systems_of(run),
    }
    common.write_results(run.folder / "results.json", results)
    shown = results | {"versions": package_versions()}
    report.draw(run.folder / "comparison.png", shown)
    common.write_report(run.folder / "report.md", shown, report.body(shown))
    for name in (DENSE, *recipe.routers):
        folder = folders[name]
        shutil.copy(run.folder / "comparison.png", folder / "comparison.png")
        shutil.copy(run.folder / "recipe.yaml", folder / "recipe.yaml")
        config = read_object(folder / "config.json")
        write_card(folder, name, shown, recipe=recipe, has_router="moe_router" in config)
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    place = Path(recipe.output_dir)
    print(f"\n{report.table(shown)}\n")
    print(
        f"report   {place}/report.md\nplot     {place}/comparison.png\nmodels   {place}/models/*, each with its card\n"
        f"results  {place}/results.json",
        flush=True,
    )
    return results


def systems_of(run: UpcycleRun) -> list[dict[str, Any]]:
    """The systems side by side: the runs of each, and their means."""
    recipe, done = run.recipe, run.journal.finished
    systems = []
    for name in (DENSE, *recipe.routers):
        runs = [done[part_name(name, seed)] for seed in recipe.seeds]
        spec = recipe.routers.get(name)
        systems.append(
            {
                "name": name,
                "router": None if spec is None else recipe.to_dict()["routers"][name],
                "parameters": runs[0]["parameters"],
                "seconds_per_step": statistics.fmean(entry["seconds_per_step"] for entry in runs),
                "start_bits_per_byte": _means([entry["start_bits_per_byte"] for entry in runs]),
                "test_bits_per_byte": _means([entry["test_bits_per_byte"] for entry in runs]),
                "sd": _sd([entry["test_bits_per_byte"]["mean"] for entry in runs]),
                "load": None if spec is None else _means([_summary(entry["load"]) for entry in runs]),
                "runs": runs,
                "reload": done["reload"][name],
            }
        )
    dense = [entry["test_bits_per_byte"]["mean"] for entry in systems[0]["runs"]]
    for system in systems:
        ours = [entry["test_bits_per_byte"]["mean"] for entry in system["runs"]]
        differences = [a - b for a, b in zip(ours, dense, strict=True)]
        system["less_dense"] = {"mean": statistics.fmean(differences), "sd": _sd(differences)}
    return systems


def _summary(load: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in load.items() if name != "counts"}


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}


def _sd(values: Sequence[float]) -> float | None:
    """Standard deviation over the seeds; None with one seed, which says nothing about it."""
    return statistics.stdev(values) if len(values) > 1 else None
