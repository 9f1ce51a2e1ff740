"""The end of an unlearning run: verdicts, plots, report, the published model with its card, and results."""

from __future__ import annotations

import secrets
import shutil
import statistics
from pathlib import Path
from typing import Any

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.training import report as common
from hf_mixture.training.journal import Journal
from hf_mixture.training.unlearn import plots, report
from hf_mixture.training.unlearn.arms import arms_of, chosen_arm
from hf_mixture.training.unlearn.data import draw_request
from hf_mixture.training.unlearn.recipe import UnlearnRecipe
from hf_mixture.training.unlearn.verdict import as_good_and_simpler, compare, reaches_target, verdict


# What a row of the table has as the mean over seeds.
MEASURES = ("forget_recall", "membership_auc", "modality_auc", "test_recall", "test_ndcg", "validation_recall")


def conclude(recipe: UnlearnRecipe, journal: Journal, data: Any, command: str) -> dict[str, Any]:
    """Judge all arms, write what a finished run leaves, and print the table.

    Args:
        recipe: The recipe.
        journal: What was measured.
        data: The data.
        command: The command.

    Returns:
        The content of `results.json`.

    Raises:
        RuntimeError: If the saved model does not reload.
    """
    from hf_mixture.hub.cards import package_versions

    cases = [case_of(recipe, journal, backbone, request) for backbone, request in recipe.cases]
    results: dict[str, Any] = {
        "name": recipe.name,
        "description": recipe.description.strip(),
        "command": command,
        "setting": {
            "users": data.train.num_users,
            "items": data.train.num_items,
            "interactions": len(data.train),
            "modalities": {name: vectors.shape[1] for name, vectors in data.features.items()},
            "seeds": recipe.seeds,
            "steps_share": recipe.grid.steps_share,
            "k": recipe.k,
        },
        "cases": cases,
        "sequence": _sequence(recipe, journal),
    }
    common.write_results(journal.folder / "results.json", results)
    plots.draw_trade_off(journal.folder / "trade_off.png", cases)
    plots.draw_levels(journal.folder / "levels.png", cases)
    published = publish(recipe, journal, data)
    shown = results | {"versions": package_versions()}
    common.write_report(journal.folder / "report.md", shown, report.body(shown))
    for name in ("trade_off.png", "levels.png", "recipe.yaml"):
        shutil.copy(journal.folder / name, published / name)
    report.write_card(published, shown)
    shutil.rmtree(journal.folder / "trainer", ignore_errors=True)
    text = report.body(shown).partition("![")[0]
    common.print_outcome(recipe.output_dir, text, model=f"models/{published.name}")
    return results


def case_of(recipe: UnlearnRecipe, journal: Journal, backbone: str, request: str) -> dict[str, Any]:
    """All arms of a request to a backbone, with figures of each seed and verdicts.

    Args:
        recipe: The recipe.
        journal: What was measured.
        backbone: Name of the backbone.
        request: Name of the request.

    Returns:
        An entry of `results.json`.
    """
    done, seeds = journal.finished, recipe.seeds_of(request)
    prefixes = [f"{backbone}-{request}-{seed}" for seed in seeds]
    golds = [done[f"{prefix}/gold"] | {"num_steps": done[f"{prefix}-gold"]["num_steps"]} for prefix in prefixes]
    originals = [done[f"{prefix}/original"] | {"num_steps": 0} for prefix in prefixes]
    choice = done[f"{backbone}-{request}/choice"]
    measured = {"original": originals, "gold": golds}
    for name in choice["by_family"].values():
        measured[name] = [done[f"{prefix}/{name}"] for prefix in prefixes]
    for number in recipe.num_shards:
        measured[f"sharded-{number}"] = [done[f"{prefix}/sharded-{number}"] for prefix in prefixes]
    if f"{prefixes[0]}/block_list" in done:
        measured["block_list"] = [done[f"{prefix}/block_list"] for prefix in prefixes]
    figures = {
        name: [compare(found, before, gold) for found, before, gold in zip(entries, originals, golds, strict=True)]
        for name, entries in measured.items()
    }
    rows = [_row(name, entries, figures, choice["ours"]) for name, entries in measured.items()]
    first = prefixes[0]
    settings = arms_of(recipe, backbone, gold_steps=golds[0]["num_steps"], seed=seeds[0])
    return {
        "backbone": backbone,
        "request": request,
        "kind": recipe.requests[request].kind,
        "share": recipe.requests[request].share,
        "seeds": seeds,
        "gold_steps": [gold["num_steps"] for gold in golds],
        "ours": choice["ours"],
        "rows": rows,
        "reference": [done[f"{prefix}/reference"] for prefix in prefixes],
        "noise_floor": done[f"{first}/gold_again"]["distance"],
        "sharding_before": {
            str(number): statistics.fmean(done[f"{p}/sharded-{number}-before"]["test_recall"] for p in prefixes)
            for number in recipe.num_shards
        },
        "simpler_and_as_good": as_good_and_simpler(
            figures[choice["ours"]], {name: found for name, found in figures.items() if name != choice["ours"]}
        ),
        "curve": [
            {"arm": arm.name, "family": arm.family, "weight": arm.weight, "options": arm.options}
            | {key: done[f"{first}/{arm.name}"][key] for key in (*MEASURES, "num_steps")}
            | compare(done[f"{first}/{arm.name}"], originals[0], golds[0])
            for arm in settings
        ],
    }


def _row(
    name: str, entries: list[dict[str, Any]], figures: dict[str, list[dict[str, float]]], ours: str
) -> dict[str, Any]:
    by_seed = figures[name]
    row: dict[str, Any] = {
        "arm": name,
        "chosen": name == ours,
        **{key: statistics.fmean(e[key] for e in entries) if key in entries[0] else None for key in MEASURES},
        **{key: statistics.fmean(s[key] for s in by_seed) for key in by_seed[0]},
        "by_seed": by_seed,
        "jaccard_with_gold": statistics.fmean(e["distance"]["jaccard"] for e in entries)
        if "distance" in entries[0]
        else None,
        "x_difference_to_gold": statistics.fmean(e["distance"]["mean_difference"] for e in entries)
        if "distance" in entries[0]
        else None,
        "norms": entries[0].get("norms"),
        "num_pairs": entries[0].get("num_pairs"),
        "touched_share": entries[0].get("touched_share"),
        "cpu_seconds": statistics.fmean(e.get("unlearning_seconds", e["cpu_seconds"]) for e in entries),
    }
    if name == "block_list":
        # Whoever serves the model without the list has the original.
        row |= {"verdict": "not unlearning", "reaches_target": False}
    elif name not in ("original", "gold"):
        row |= {"verdict": verdict(name, by_seed, figures), "reaches_target": reaches_target(by_seed)}
    else:
        row |= {"verdict": None, "reaches_target": None}
    return row


def _sequence(recipe: UnlearnRecipe, journal: Journal) -> list[dict[str, Any]]:
    backbone, request = recipe.cases[0]
    prefix = f"{backbone}-{request}-{recipe.seeds_of(request)[0]}/sequence-"
    parts = [name for name in journal.finished if name.startswith(prefix)]
    return [
        {"request": number, "num_steps": found["num_steps"]}
        | {key: found[key] for key in MEASURES}
        | {"jaccard_with_gold": found["distance"]["jaccard"]}
        | {f"gold_{key}": found["gold"][key] for key in MEASURES}
        for number, found in enumerate((journal.finished[name] for name in parts), start=1)
    ]


def publish(recipe: UnlearnRecipe, journal: Journal, data: Any) -> Path:
    """Make a copy of the first original forget the first request, with a journal, and check that it reloads.

    Args:
        recipe: The recipe.
        journal: What was measured.
        data: The data.

    Returns:
        Its folder.

    Raises:
        RuntimeError: If the saved model does not reload.
    """
    import torch
    from transformers import AutoModel

    from hf_mixture.models.mm_recommender.journal import read_journal, unlearn_saved
    from hf_mixture.models.mm_recommender.options import UnlearningOptions

    backbone, request = recipe.cases[0]
    seed = recipe.seeds_of(request)[0]
    folder = journal.folder / "models" / "unlearned"
    spec = recipe.requests[request]
    options = chosen_arm(recipe, journal.finished, backbone, request, seed).options
    if not read_journal(folder):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(journal.folder / "models" / f"{backbone}-original-{seed}", folder)
        salt_file = journal.folder / "salt.hex"
        if not salt_file.exists():
            write_atomic(salt_file, secrets.token_hex(32))
        unlearn_saved(
            folder,
            data.train,
            draw_request(data, spec.kind, spec.share, seed),
            UnlearningOptions(**options),
            salt=bytes.fromhex(salt_file.read_text(encoding="utf-8")),
            validation=data.validation,
            output_dir=journal.folder / "trainer",
            use_cpu=True,
        )
    model = AutoModel.from_pretrained(folder)
    (entry,) = read_journal(folder)
    if not torch.isclose(
        torch.tensor(report.norm_of(model)), torch.tensor(sum(entry.after["norms"].values())), rtol=1e-4
    ):
        raise RuntimeError(f"the model in {folder} is not what it was before it was saved")
    return folder
