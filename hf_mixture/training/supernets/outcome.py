"""The end of a run: how each search ranks the paths, plots, report, card and results.

Letters: P paths, M models.
"""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Sequence
from typing import Any

from hf_mixture.training import report as common
from hf_mixture.training.journal import Journal
from hf_mixture.training.supernets import report
from hf_mixture.training.supernets.data import describe_images
from hf_mixture.training.supernets.networks import accuracy, network_config, train_alone
from hf_mixture.training.supernets.parts import PUBLISHED, alone_part, paths_of_recipe, search_part
from hf_mixture.training.supernets.recipe import SuperNetsRecipe


def conclude(recipe: SuperNetsRecipe, journal: Journal, images: Any, names: list[str], command: str) -> dict[str, Any]:
    """Compare the searches, write what a finished run leaves, and print the table.

    Args:
        recipe: The recipe.
        journal: What was measured.
        images: The splits.
        names: Names of the classes.
        command: The command.

    Returns:
        The content of `results.json`.

    Raises:
        RuntimeError: If the published model does not reload.
    """
    from hf_mixture.hub.cards import package_versions
    from hf_mixture.metrics import load_metric
    from hf_mixture.models.pooling_supernet.paths import layers_of

    paths = paths_of_recipe(recipe)
    alone = [
        [journal.finished[alone_part(index, seed)]["test"] for seed in recipe.seeds] for index in range(len(paths))
    ]
    truth = [statistics.fmean(accuracies) for accuracies in alone]
    metric = load_metric("path_ranking")
    layers = [list(layers_of(path)) for path in paths]
    usual = list(network_config(recipe, names).layers_of_scales)
    default = layers.index(usual) if usual in layers else None
    results: dict[str, Any] = {
        "name": recipe.name,
        "description": recipe.description.strip(),
        "command": command,
        "setting": {
            "images": recipe.images.name,
            "train": len(images["train"]),
            "validation": len(images["validation"]),
            "test": len(images["test"]),
            "steps alone": recipe.alone["max_steps"],
            "seeds": len(recipe.seeds),
        },
        "paths": layers,
        "alone": alone,
        "agreement_of_seeds": _agreement(metric, alone),
        "references": _references(truth, layers, default),
        "rows": [_row(recipe, journal, name, metric=metric, truth=truth, layers=layers) for name in recipe.searches],
    }
    results["verdicts"] = _verdicts(recipe, results["rows"])
    results["published"] = _publish(recipe, journal, images, names, results["rows"])
    common.write_results(journal.folder / "results.json", results)
    shown = results | {"versions": package_versions()}
    folder = journal.folder / "model"
    first = search_part(recipe.publish, recipe.seeds[0])
    shutil.copy(journal.folder / "models" / first / "search.png", journal.folder / "search.png")
    report.draw_ranking(journal.folder / "ranking.png", truth, results["rows"])
    report.draw_alone(journal.folder / "alone.png", layers, alone)
    common.write_report(journal.folder / "report.md", shown, report.body(shown))
    for name in (*report.PLOTS, "recipe.yaml"):
        shutil.copy(journal.folder / name, folder / name)
    size = (recipe.images.image_size, recipe.num_channels)
    report.write_card(folder, shown, about_images=describe_images(recipe.images), size=size)
    shutil.rmtree(journal.folder / "checkpoints", ignore_errors=True)
    common.print_outcome(recipe.output_dir, report.body(shown).partition("![")[0], model="model")
    return results


def path_scores(accuracies: Sequence[Sequence[float]]) -> list[float]:
    """The score of each path: its accuracy in the model that is best for it.

    Args:
        accuracies: Of every path in every model [P][M].

    Returns:
        The scores [P].
    """
    return [max(row) for row in accuracies]


def loads_are_even(loads: Sequence[int]) -> bool:
    """Whether each model's share of the steps is within three standard deviations of 1 / M.

    Args:
        loads: Steps of each model [M].

    Returns:
        Whether it is.
    """
    total, share = sum(loads), 1 / len(loads)
    deviation = math.sqrt(share * (1 - share) / total)
    return all(abs(load / total - share) <= 3 * deviation for load in loads)


def _agreement(metric: Any, alone: list[list[float]]) -> float | None:
    """Mean rank correlation of each seed with the mean of the others: how sure the truth is."""
    number = len(alone[0])
    if number < 2:
        return None
    found = []
    for seed in range(number):
        own = [row[seed] for row in alone]
        others = [(sum(row) - row[seed]) / (number - 1) for row in alone]
        found.append(metric.compute(predictions=own, references=others)["spearman"])
    return None if None in found else statistics.fmean(found)


def _references(truth: list[float], layers: list[list[int]], default: int | None) -> dict[str, Any]:
    """What is reached without a search."""
    best = truth.index(max(truth))
    found: dict[str, Any] = {
        "random": {"accuracy": statistics.fmean(truth), "least": min(truth)},
        "best": {"path": layers[best], "accuracy": truth[best]},
    }
    if default is not None:
        rank = 1 + sum(other > truth[default] for other in truth)
        found["default"] = {"path": layers[default], "accuracy": truth[default], "rank": rank}
    return found


def _row(
    recipe: SuperNetsRecipe, journal: Journal, name: str, *, metric: Any, truth: list[float], layers: list[list[int]]
) -> dict[str, Any]:
    measured = [journal.finished[search_part(name, seed)] for seed in recipe.seeds]
    scores = [path_scores(entry["accuracies"]) for entry in measured]
    ranked = [metric.compute(predictions=own, references=truth) for own in scores]
    steps, models = recipe.steps_of(name), recipe.searches[name].num_models
    return {
        "search": name,
        "models": models,
        "assignment": recipe.searches[name].assignment,
        "steps": steps,
        "steps_per_model": steps / models,
        "seeds": recipe.seeds,
        **{key: [entry[key] for entry in ranked] for key in ("pearson", "spearman", "kendall")},
        "chosen": [layers[entry["argmax"]] for entry in ranked],
        "accuracies": [entry["reference_of_argmax"] for entry in ranked],
        "ranks": [entry["rank_of_argmax"] for entry in ranked],
        "scores": scores,
        "loads": [entry["loads"] for entry in measured],
        "loads_are_even": [loads_are_even(entry["loads"]) for entry in measured],
        "cpu_seconds": [entry["cpu_seconds"] for entry in measured],
    }


def _verdicts(recipe: SuperNetsRecipe, rows: list[dict[str, Any]]) -> list[str]:
    """The published search beside each other one, whatever the sign."""
    ours = next(row for row in rows if row["search"] == recipe.publish)
    found = []
    for row in rows:
        if row is ours:
            continue
        pairs = list(zip(ours["spearman"], row["spearman"], strict=True))
        if any(None in pair for pair in pairs):
            found.append(f"{recipe.publish} and {row['search']}: all paths score the same in a search, so no ranking.")
            continue
        gains = [mine - theirs for mine, theirs in pairs]
        accuracy_gain = statistics.fmean(ours["accuracies"]) - statistics.fmean(row["accuracies"])
        found.append(
            f"Spearman of {recipe.publish} less that of {row['search']}: {statistics.fmean(gains):+.3f} in the mean "
            f"of {len(gains)} seed{'s' * (len(gains) > 1)}, higher in {sum(gain > 0 for gain in gains)}; the paths "
            f"that it chooses reach {100 * accuracy_gain:+.2f} points alone."
        )
    return found


def _publish(
    recipe: SuperNetsRecipe, journal: Journal, images: Any, names: list[str], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Train the path that the first seed chose, on all images but those of the test, and save it as it is used."""
    from transformers import AutoModelForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    from hf_mixture.models.pooling_supernet.paths import path_of

    folder = journal.folder / "model"
    chosen = next(row for row in rows if row["search"] == recipe.publish)["chosen"][0]
    if PUBLISHED not in journal.finished:
        config = network_config(recipe, names, **recipe.published, pooling_path=list(path_of(chosen)))
        joined = images | {"train": images["train"] + images["validation"]}
        model, measured = train_alone(recipe, config, joined, recipe.seeds[0], journal.folder / "checkpoints")
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        side, channels = recipe.images.image_size, config.num_channels
        ViTImageProcessorPil(
            size={"height": side, "width": side},
            image_mean=[0.5] * channels,
            image_std=[0.5] * channels,
            do_convert_rgb=channels == 3,
        ).save_pretrained(folder)
        journal.finish(PUBLISHED, {"path": chosen, "accuracy": measured["test"]})
    found: dict[str, Any] = journal.finished[PUBLISHED]
    again = accuracy(AutoModelForImageClassification.from_pretrained(folder).eval(), images["test"])
    # Weights in another order of memory may round a tie to another class.
    if abs(again - found["accuracy"]) > 2 / len(images["test"]):
        raise RuntimeError(f"the model in {folder} has an accuracy of {again} after loading, not {found['accuracy']}")
    return found
