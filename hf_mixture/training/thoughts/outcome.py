"""The end of a run of thoughts: the reload check, the comparison, plot, report, card and results."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.training import report as common
from hf_mixture.training.reload import check_in_fresh_process
from hf_mixture.training.thoughts import report
from hf_mixture.training.thoughts.card import write_card
from hf_mixture.training.thoughts.compare import (
    best_by_kind,
    difference,
    erased_share,
    requirements,
    routed,
    row_of,
)
from hf_mixture.training.thoughts.parts import EXPERT_SCORES, ThoughtsRun
from hf_mixture.training.thoughts.scores import num_answer_bytes
from hf_mixture.training.thoughts.systems import (
    LORA,
    MOT,
    SELF_ONLY,
    SYSTEMS,
    candidate_part,
    choose_rate,
    reference_file,
)


WRONG = "mot, wrong peers"


def conclude(run: ThoughtsRun, command: str) -> dict[str, Any]:
    """Check the published mixture in a fresh process, then write what a finished run leaves, and print the table.

    Args:
        run: The finished run.
        command: The command.

    Returns:
        The content of `results.json`.
    """
    from hf_mixture.hub.cards import package_versions

    recipe, done = run.recipe, run.journal.finished
    folder = run.folder / "models" / MOT
    if "reload" not in done:
        print("\n== reload: the mixture in a fresh process", flush=True)
        found = check_in_fresh_process({MOT: folder}, {MOT: reference_file(run)}, {"dtype": "float32"})
        run.journal.finish("reload", found)
    results = {
        "name": recipe.name,
        "description": recipe.description.strip(),
        "command": command,
        "experts": _experts(run),
        "best_single": done[EXPERT_SCORES]["best"],
        "documents": done["documents"],
        "segments": {"all": recipe.documents.num_segments, "prompt": recipe.documents.prompt_segments},
        "tuned_on": run.plan.tune_examples,
        "parameters": {
            "mixture": run.plan.trainable_parameters,
            LORA: run.plan.lora_parameters[done[EXPERT_SCORES]["best"]],
            "lora_rank": run.plan.lora_ranks[done[EXPERT_SCORES]["best"]],
        },
        "thoughts": recipe.thoughts,
        **comparison(run),
        "trainings": {system: _trainings(run, system) for system in SYSTEMS},
        "reload": done["reload"][MOT],
    }
    common.write_results(run.folder / "results.json", results)
    shown = results | {"versions": package_versions()}
    report.draw(run.folder / "comparison.png", shown)
    common.write_report(run.folder / "report.md", shown, report.body(shown))
    shutil.copy(run.folder / "comparison.png", folder / "comparison.png")
    shutil.copy(run.folder / "recipe.yaml", folder / "recipe.yaml")
    write_card(folder, shown, recipe=recipe, prompt=run.documents("test")[0]["prompt"])
    for unfinished in ("candidates", "checkpoints"):
        shutil.rmtree(run.folder / unfinished, ignore_errors=True)
    place = Path(recipe.output_dir)
    print(f"\n{report.table(shown)}\n\n{report.promises(shown)}\n")
    print(
        f"report   {place}/report.md\nplot     {place}/comparison.png\nmodel    {place}/models/{MOT}, with its card\n"
        f"results  {place}/results.json",
        flush=True,
    )
    return results


def comparison(run: ThoughtsRun) -> dict[str, Any]:
    """All systems on the test documents: `systems`, `differences` of the mixture from each, and `requirements`."""
    recipe = run.recipe
    test, validation = run.documents("test"), run.documents("validation")
    kinds, num_bytes = [row["kind"] for row in test], num_answer_bytes(test)
    alone = run.read_scores("experts")
    nats = alone["test"]
    oracle = best_by_kind(alone["validation"], [row["kind"] for row in validation], num_answer_bytes(validation))
    scores = {system: [run.read_scores(f"{system}-{seed}") for seed in recipe.seeds] for system in SYSTEMS}
    ours = [found["nats"] for found in scores[MOT]]
    primaries = [found["primary"].astype(np.int64) for found in scores[MOT]]
    names = list(recipe.experts)
    fixed = {name: [nats[:, index]] for index, name in enumerate(names)}
    fixed["domain oracle"] = [routed(nats, [oracle[kind] for kind in kinds])]
    fixed["document oracle"] = [nats.min(axis=1)]
    seeded = {
        "routing alone": [routed(nats, primary) for primary in primaries],
        SELF_ONLY: [found["nats"] for found in scores[SELF_ONLY]],
        LORA: [found["nats"] for found in scores[LORA]],
        MOT: ours,
        WRONG: [found["wrong_nats"] for found in scores[MOT]],
    }
    rows = [row_of(name, values, kinds, num_bytes) for name, values in fixed.items()]
    rows += [row_of(name, values, kinds, num_bytes, recipe.seeds) for name, values in seeded.items()]
    differences = {
        name: difference(ours, values, num_bytes) for name, values in (fixed | seeded).items() if name != MOT
    }
    by_name = {row["name"]: row["bits_per_byte"] for row in rows}
    erased = erased_share(by_name[MOT], by_name[WRONG], by_name[SELF_ONLY])
    return {
        "systems": rows,
        "differences": differences,
        "erased_by_wrong_peers": erased,
        "requirements": requirements(differences, erased),
        "domain_oracle": {kind: names[index] for kind, index in oracle.items()},
        "primaries": {
            kind: {
                name: float(np.mean([(chosen[np.array(kinds) == kind] == index).mean() for chosen in primaries]))
                for index, name in enumerate(names)
            }
            for kind in dict.fromkeys(kinds)
        },
    }


def _experts(run: ThoughtsRun) -> list[dict[str, Any]]:
    found = []
    for name, expert in run.recipe.experts.items():
        trained = run.journal.finished.get(f"experts/{name}", {})
        found.append(
            {
                "name": name,
                "model_type": run.plan.configs[name].model_type,
                "parameters": trained.get("parameters", run.plan.expert_parameters[name]),
                "from": expert.from_pretrained or "trained here",
                "validation_bits_per_byte": run.journal.finished[EXPERT_SCORES]["validation_bits_per_byte"][name],
                "longest_document": run.journal.finished["lengths"][name],
                **({"training": trained} if trained else {}),
            }
        )
    return found


def _trainings(run: ThoughtsRun, system: str) -> dict[str, Any]:
    """The grid of the first seed, and the runs with the chosen rate."""
    first, done = run.recipe.seeds[0], run.journal.finished
    runs = [{"seed": seed, **done[f"{system}/{seed}"]} for seed in run.recipe.seeds]
    return {
        "learning_rate": choose_rate(run, system),
        "validation_by_learning_rate": {
            f"{rate:g}": done[candidate_part(system, first, rate)]["validation_bits_per_byte"]
            for rate in run.recipe.learning_rates
        },
        "trainable_parameters": runs[0]["trainable_parameters"],
        "seconds_per_step": statistics.fmean(entry["seconds_per_step"] for entry in runs),
        "runs": runs,
    }
