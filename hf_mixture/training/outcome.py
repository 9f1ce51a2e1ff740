"""The end of a run: the reload check, cards, plots, results and the table."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.hub.reading import read_log
from hf_mixture.training import report
from hf_mixture.training.models import loading_arguments
from hf_mixture.training.parts import Run, adapter_part, base_place
from hf_mixture.training.reload import check_in_fresh_process


def conclude(run: Run, command: str) -> dict[str, Any]:
    """Check every saved adapter in a fresh process, then write cards and results and print the table."""
    recipe, done = run.recipe, run.journal.finished
    folders = {name: run.folder / "adapters" / name for name in recipe.adapters}
    if not run.is_done("reload"):
        run.announce("reload: every saved adapter in a fresh process")
        references = {name: run.folder / "candidates" / f"{name}.reference.safetensors" for name in folders}
        run.journal.finish("reload", check_in_fresh_process(folders, references, loading_arguments(recipe.model)))
    systems = []
    if "untrained" in done:
        systems.append(_system("untrained", {"test_bits_per_byte": done["untrained"]}))
    systems.append(_system("base", {**done["base"], "test_bits_per_byte": done["base scores"]}))
    for name, folder in folders.items():
        reload = done["reload"][name]
        systems.append(
            _system(name, {**done[adapter_part(name)], "file_bytes": report.file_bytes(folder), "reload": reload})
        )
    results = {
        "name": recipe.name,
        "command": command,
        "adapted_to": list(recipe.adapt.mixture.weights),
        "systems": systems,
        "data": done["prepare"],
    }
    tokenizer = run.prepared.tokenizer()
    base = run.folder / "base"
    if base.exists() and recipe.pretrain is not None:
        _publish(run, base, "pretrain", results)
    for system in systems[-len(folders) :]:
        folder = folders[system["name"]]
        tokenizer.save_pretrained(str(folder))
        _publish(run, folder, "adapt", results)
        base_model = "../../base" if base.exists() else base_place(run)
        report.write_card(folder, recipe, system, systems, base_model=base_model, command=command)
    report.write_results(run.folder / "results.json", results)
    for unfinished in ("candidates", "checkpoints"):
        shutil.rmtree(run.folder / unfinished, ignore_errors=True)
    _print_outcome(run, results)
    return results


def _system(name: str, measured: Mapping[str, Any]) -> dict[str, Any]:
    columns = ("learning_rate", "trainable_parameters", "file_bytes", "seconds_per_step")
    return {"name": name, **dict.fromkeys(columns), **{key: measured[key] for key in measured if key != "place"}}


def _publish(run: Run, folder: Path, stage: str, results: Mapping[str, Any]) -> None:
    """Complete a folder: mixture, recipe, results and learning curve beside the weights."""
    run.recipe.mixture(stage).save_pretrained(str(folder))
    shutil.copy(run.folder / "recipe.yaml", folder / "recipe.yaml")
    report.write_results(folder / "results.json", results)
    log = read_log(folder / "trainer_log.jsonl")
    report.learning_curve(log, f"{run.recipe.name}: {folder.name}", folder / "learning_curve.png")


def _print_outcome(run: Run, results: Mapping[str, Any]) -> None:
    place = Path(run.recipe.output_dir)
    first = next(iter(run.recipe.adapters))
    worst = max(entry["max_difference"] for entry in run.journal.finished["reload"].values())
    print()
    print(report.table(results["systems"], results["adapted_to"]))
    print(f"Saved adapters reloaded in a fresh process: logits differ by at most {worst:.3g}.")
    print(
        f"\nadapters  {place}/adapters/*\ncards     {place}/adapters/*/README.md\n"
        f"plots     {place}/adapters/*/learning_curve.png\nresults   {place}/results.json\n"
        f"load one  import hf_mixture; from transformers import AutoModelForCausalLM; "
        f'AutoModelForCausalLM.from_pretrained("{place}/adapters/{first}")',
        flush=True,
    )
