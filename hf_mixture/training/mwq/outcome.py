"""The end of a D2MoE run: the reload check, the comparison, plot, report, card and results."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.training import report as common
from hf_mixture.training.mwq import report
from hf_mixture.training.mwq.card import write_card
from hf_mixture.training.mwq.measure import offloaded, peers, systems
from hf_mixture.training.mwq.parts import FULL, NESTED, MwqRun, routed, separate
from hf_mixture.training.reload import check_in_fresh_process


def conclude(run: MwqRun, command: str) -> dict[str, Any]:
    """Check the published models in a fresh process, then write what a finished run leaves, and print the table.

    Args:
        run: The finished run.
        command: The command.

    Returns:
        The content of `results.json`.
    """
    from hf_mixture.hub.cards import package_versions

    recipe, done = run.recipe, run.journal.finished
    published = routed(recipe.bit_routers.alphas[0])
    names = (FULL, NESTED, published)
    if "reload" not in done:
        print("\n== reload: every model in a fresh process", flush=True)
        folders = {name: run.model_folder(name) for name in names}
        references = {name: run.reference(name) for name in names}
        run.journal.finish("reload", check_in_fresh_process(folders, references, {"dtype": "float32"}))
    alphas = recipe.bit_routers.alphas
    rows = rows_of(run)
    results = {
        "name": recipe.name,
        "description": recipe.description.strip(),
        "command": command,
        "planes": recipe.to_dict()["planes"],
        "parameters": {"all": run.plan.parameters, "experts": run.plan.expert_parameters},
        "speed": recipe.to_dict()["speed"],
        "data": done["prepare"],
        "rows": rows,
        "ratios": ratios_of(run, rows),
        "cache": {name: done["speed"][name]["cache"] for name in offloaded(run)},
        "alphas": alphas,
        "training": [done[routed(alpha)]["last_step"] for alpha in alphas],
        "peers": peers(),
        "reload": done["reload"],
    }
    common.write_results(run.folder / "results.json", results)
    shown = results | {"versions": package_versions()}
    report.draw(run.folder / "comparison.png", shown)
    common.write_report(run.folder / "report.md", shown, report.body(shown))
    folder = run.model_folder(published)
    for name in ("comparison.png", "recipe.yaml"):
        shutil.copy(run.folder / name, folder / name)
    write_card(folder, shown, recipe=recipe)
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    place = Path(recipe.output_dir)
    print(f"\n{report.table(shown)}\n")
    print(
        f"report   {place}/report.md\nplot     {place}/comparison.png\nmodel    {place}/models/{published}, with its "
        f"card\nresults  {place}/results.json",
        flush=True,
    )
    return results


def rows_of(run: MwqRun) -> list[dict[str, Any]]:
    """The systems side by side."""
    done, widths = run.journal.finished, run.recipe.planes.widths
    sizes = done[NESTED]
    full = 4 * run.plan.expert_parameters

    def disk_bytes(name: str) -> int | None:
        if name == "float32":
            return full
        if name.startswith("bfloat16") or "bitsandbytes" in name:
            return full // 2
        if name.startswith("only"):
            return _plane_bytes(sizes[separate(int(name.split()[1]))], widths[-1])
        if name.startswith("nested at"):
            return _plane_bytes(sizes[NESTED], int(name.split()[2]))
        return _plane_bytes(sizes[NESTED], widths[-1])

    rows = []
    for name in systems(run):
        quality = done[f"quality/{name}"]
        rows.append(_row(name, quality, done["speed"][name], disk_bytes(name)))
    alpha = run.recipe.bit_routers.alphas[0]
    same = done[f"quality/nested, bit routers, alpha {alpha:g}"]
    for name in offloaded(run):
        speed = done["speed"][name]
        rows.append(_row(name, same | {"expert_bytes": speed["expert_bytes"]}, speed, disk_bytes(name)))
    return rows


def ratios_of(run: MwqRun, rows: list[dict[str, Any]]) -> dict[str, float]:
    """What the method promises, as ratios."""
    done, widths = run.journal.finished, run.recipe.planes.widths
    sizes = done[NESTED]
    apart = sum(_plane_bytes(sizes[separate(width)], width) for width in widths)
    first = next(iter(offloaded(run)))
    [row] = [row for row in rows if row["name"] == first]
    return {
        "bytes: nested file / one file for each width": _plane_bytes(sizes[NESTED], widths[-1]) / apart,
        f"bytes in memory: {first} / all experts at 8 bits": row["expert_bytes"] / run.plan.expert_parameters,
        f"tokens per second: {first} / the same in memory": done["speed"][first]["of_memory"],
        "tokens per second: order hebf / expert_id, tight budget": done["speed"]["hebf over expert_id"]["ratio"],
    }


def _row(name: str, quality: Mapping[str, Any], speed: Mapping[str, Any], disk_bytes: int | None) -> dict[str, Any]:
    return {
        "name": name,
        "bits": quality["bits"],
        "disk_bytes": disk_bytes,
        "expert_bytes": quality["expert_bytes"],
        "bits_per_byte": quality["bits_per_byte"]["mean"],
        "domains": quality["bits_per_byte"],
        "tokens_per_second": speed["tokens_per_second"],
        "of_bfloat16": speed["of_bfloat16"],
    }


def _plane_bytes(sizes: Mapping[str, int], width: int) -> int:
    """Bytes of the files of planes that a width needs."""
    return sum(size for name, size in sizes.items() if name[4].isdigit() and int(name[4]) <= width)
