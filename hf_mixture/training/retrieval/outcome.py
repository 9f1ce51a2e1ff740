"""The end of a retrieval run: table, plots, report, the saved model with its card, results."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.training import report as common
from hf_mixture.training.journal import Journal
from hf_mixture.training.retrieval import plots, report
from hf_mixture.training.retrieval.data import Split
from hf_mixture.training.retrieval.recipe import RetrievalRecipe


SYSTEMS = {"one_vector": "one vector", "none": "MLE mixture", "global": "global mixture", "knn": "kNN-Embed"}


def conclude(recipe: RetrievalRecipe, journal: Journal, split: Split, command: str) -> dict[str, Any]:
    """Write what a finished run leaves, and print the table.

    Args:
        recipe: The recipe.
        journal: What was measured.
        split: The split.
        command: The command.

    Returns:
        The content of `results.json`.

    Raises:
        RuntimeError: If the saved model does not give the lists that it gave before.
    """
    from hf_mixture.hub.cards import package_versions

    rows = rows_of(recipe, journal)
    results: dict[str, Any] = {
        "name": recipe.name,
        "description": recipe.description.strip(),
        "command": command,
        "data": {
            "source": recipe.interactions.source,
            "direction": recipe.interactions.direction,
            "num_users": split.train.shape[0],
            "num_items": split.train.shape[1],
            "num_train": int(split.train.nnz),
            "num_test": int(split.test.nnz),
            "num_measured_users": len(split.users),
        },
        "rows": rows,
        "ratios": ratios_of(recipe, rows),
        "choices": {
            name: {key: journal.finished[f"{key} {name}"] for key in ("choose", "mixtures")}
            for name in recipe.embeddings
        },
        "user_cf_chosen": journal.finished["baselines"]["user_cf_chosen"],
        "study": {name: journal.finished[f"study {name}"] for name in recipe.study},
        "part_cpu_seconds": {part: entry["part_cpu_seconds"] for part, entry in journal.finished.items()},
        "verdicts": verdicts(recipe, rows),
    }
    shown = results | {"versions": package_versions()}
    common.write_results(journal.folder / "results.json", results)
    plots.draw_comparison(journal.folder / "comparison.png", rows)
    plots.draw_gain(journal.folder / "gain.png", results["ratios"])
    plots.draw_choice(journal.folder / "choice.png", results["choices"])
    names = ["comparison.png", "gain.png", "choice.png"]
    if recipe.study:
        plots.draw_study(journal.folder / "study.png", results["study"])
        names.append("study.png")
    common.write_report(journal.folder / "report.md", shown, report.body(shown))
    model = _publish(recipe, journal, split)
    for name in (*names, "recipe.yaml"):
        shutil.copy(journal.folder / name, model / name)
    report.write_card(model, shown, published=recipe.publish)
    shutil.rmtree(journal.folder / "checkpoints", ignore_errors=True)
    text = "\n".join([report.table(rows), "", *results["verdicts"]])
    common.print_outcome(recipe.output_dir, text, model="model")
    return results


def rows_of(recipe: RetrievalRecipe, journal: Journal) -> list[dict[str, Any]]:
    """One row for each system: its numbers by seed."""
    names = ["popularity", *(f"user-CF, k={k}" for k in recipe.user_cf), "item-CF"]
    baselines = journal.finished["baselines"]
    rows: list[dict[str, Any]] = [
        {"system": name, "embedding": None, "method": name, "seeds": [baselines[name]], "fields": {}} for name in names
    ]
    for embedding in recipe.embeddings:
        measured = [journal.finished[f"{embedding} {seed}"] for seed in recipe.seeds]
        chosen = journal.finished[f"mixtures {embedding}"]["chosen"]
        rows += [
            {
                "system": f"{embedding}: {text}",
                "embedding": embedding,
                "method": method,
                "seeds": [entry[method] for entry in measured],
                "fields": chosen.get(method, {}),
            }
            for method, text in SYSTEMS.items()
        ]
    return rows


def mean_of(row: dict[str, Any], key: str) -> float:
    """Mean of a number over the seeds of a row."""
    return statistics.fmean(entry[key] for entry in row["seeds"])


def ratios_of(recipe: RetrievalRecipe, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Recall at 10 of each mixture over that of one vector, seed by seed, with the strength of the embeddings."""
    by_name = {(row["embedding"], row["method"]): row for row in rows}
    found = []
    for embedding in recipe.embeddings:
        plain = by_name[embedding, "one_vector"]["seeds"]
        for method in ("none", "global", "knn"):
            mixed = by_name[embedding, method]["seeds"]
            found.append(
                {
                    "embedding": embedding,
                    "method": method,
                    "one_vector": [entry["recall@10"] for entry in plain],
                    "ratios": [m["recall@10"] / max(p["recall@10"], 1e-12) for m, p in zip(mixed, plain, strict=True)],
                }
            )
    return found


def verdicts(recipe: RetrievalRecipe, rows: list[dict[str, Any]]) -> list[str]:
    """What came out, whatever the sign."""
    best = {cut: max(rows, key=lambda row: mean_of(row, f"recall@{cut}")) for cut in (10, 50)}
    found = [
        f"Best recall at {cut}: {row['system']}, {mean_of(row, f'recall@{cut}'):.4f}." for cut, row in best.items()
    ]
    neighbours = max((row for row in rows if row["embedding"] is None), key=lambda row: mean_of(row, "recall@10"))
    for entry in ratios_of(recipe, rows):
        if entry["method"] == "knn":
            shown = ", ".join(f"{ratio:.3f}" for ratio in entry["ratios"])
            name = f"{entry['embedding']}: kNN-Embed"
            row = next(row for row in rows if row["system"] == name)
            found.append(
                f"{name} / one vector, recall at 10 by seed: {shown}; one vector has "
                f"{statistics.fmean(entry['one_vector']):.4f}, kNN-Embed {mean_of(row, 'recall@10'):.4f}, "
                f"{neighbours['system']} {mean_of(neighbours, 'recall@10'):.4f}."
            )
    return found


def _publish(recipe: RetrievalRecipe, journal: Journal, split: Split) -> Path:
    """Save the chosen mixture of the first seed for all users, and check that it gives the same lists again."""
    from transformers import AutoModel

    from hf_mixture.models.knn_embed.modeling_knn_embed import KnnEmbedModel
    from hf_mixture.training.retrieval.run import load_vectors

    seed = recipe.seeds[0]
    vectors = load_vectors(journal.folder / "vectors" / f"{recipe.publish}-{seed}.npz")
    chosen = journal.finished[f"mixtures {recipe.publish}"]["chosen"]["knn"]
    model = KnnEmbedModel.from_embeddings(*vectors, **chosen)
    model.fit_mixture(split.train, seed=seed)
    folder = journal.folder / "model"
    model.save_pretrained(folder)
    users = split.users[:200]
    before, after = (m.retrieve(users, 20).item_ids for m in (model, AutoModel.from_pretrained(folder)))
    if not np.array_equal(before.numpy(), after.numpy()):
        raise RuntimeError(f"the model in {folder} does not give the lists that it gave before it was saved")
    return folder
