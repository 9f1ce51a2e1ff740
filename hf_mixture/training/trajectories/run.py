"""`hf-mixture trajectories`: from trajectories of people or training runs to classes, report, plots and card.

Parts: the training runs one by one, if there are any; the fits of each number of classes, start by start; the
bootstrap tests, draw by draw; the trees of the screening. A run that is killed continues where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.training import report as common
from hf_mixture.training.journal import begin
from hf_mixture.training.trajectories import report
from hf_mixture.training.trajectories.people import read_people
from hf_mixture.training.trajectories.recipe import TrajectoriesRecipe
from hf_mixture.training.trajectories.runs import make_runs


def trajectories_recipe(
    recipe: TrajectoriesRecipe, *, resume: bool = False, dry_run: bool = False, command: str = ""
) -> dict[str, Any]:
    """Run a recipe of trajectories.

    Args:
        recipe: The recipe.
        resume: Continue the run in the recipe's output folder; without one there, begin it.
        dry_run: Only print the plan; nothing is written.
        command: The command, for report and card.

    Returns:
        The content of `results.json`; empty for a dry run.

    Raises:
        ValueError: If the data are malformed or cannot support the models, or the output folder holds something else.
    """
    from hf_mixture.hub.cards import package_versions
    from hf_mixture.models.trajectory_moe.data import data_of_dataset
    from hf_mixture.models.trajectory_moe.selection import select_num_classes

    spec = recipe.trajectories
    dataset = None if recipe.people is None else read_people(recipe.people)
    print(_describe(recipe, dataset), flush=True)
    config = _config(recipe)
    if dataset is not None:
        covariates = [*spec.growth_covariates, *spec.cluster_covariates]
        data_of_dataset(dataset, growth_covariates=covariates)
    if dry_run:
        return {}
    journal = begin(recipe, resume=resume)
    if recipe.runs is not None:
        dataset = make_runs(recipe.runs, recipe.seed, journal)
    ranked = _screen(recipe, dataset, journal.folder)
    found = select_num_classes(
        config,
        dataset,
        spec.num_classes,
        n_starts=spec.n_starts,
        seed=recipe.seed,
        num_bootstrap=spec.num_bootstrap,
        journal=journal.folder / "fits",
    )
    model = found.best(spec.criterion)
    data = data_of_dataset(
        dataset, growth_covariates=spec.growth_covariates, cluster_covariates=spec.cluster_covariates
    )
    posterior = _posterior(model, data)
    table = found.table.astype(object).where(found.table.notna(), None)
    results = {
        "name": recipe.name,
        "description": recipe.description.strip(),
        "command": command,
        "curve": spec.curve,
        "variant": model.config.variant,
        "criterion": spec.criterion,
        "selection": [_plain(row) for row in table.to_dict("records")],
        "num_classes": model.config.num_classes,
        "class_names": _class_names(recipe, model),
        "fit": model.fit_report,
        "screening": ranked,
        "agreement": _agreement(dataset, posterior),
    }
    _publish(journal.folder, model, data, posterior, results | {"versions": package_versions()})
    common.write_results(journal.folder / "results.json", results)
    place = Path(recipe.output_dir)
    print(f"\n{report.selection_table(results)}\n\nmodel    {place}/model, with its card")
    print(f"report   {place}/report.md\nplots    {place}/classes.png, {place}/optima.png", flush=True)
    print(f"results  {place}/results.json", flush=True)
    return results


def _describe(recipe: TrajectoriesRecipe, dataset: Any) -> str:
    spec = recipe.trajectories
    if recipe.runs is not None:
        what = f"{recipe.runs.num_runs} training runs of {recipe.runs.num_steps} steps, made by the stock Trainer"
    else:
        what = f"{dataset.num_rows} people"
    covariates = ", ".join([*spec.growth_covariates, *spec.cluster_covariates]) or "none"
    lines = [
        f"{recipe.name}: {what}",
        f"  curve       {spec.curve}",
        f"  covariates  {covariates}",
        f"  classes     {', '.join(map(str, spec.num_classes))}; {spec.n_starts} starts each",
        f"  output      {recipe.output_dir}",
    ]
    return "\n".join(lines)


def _config(recipe: TrajectoriesRecipe) -> Any:
    from hf_mixture.models.trajectory_moe.configuration_trajectory_moe import TrajectoryMoEConfig

    spec = recipe.trajectories
    return TrajectoryMoEConfig(
        curve=spec.curve,
        growth_covariates=list(spec.growth_covariates),
        cluster_covariates=list(spec.cluster_covariates),
        covariate_likelihood=spec.covariate_likelihood,
    )


def _screen(recipe: TrajectoriesRecipe, dataset: Any, folder: Path) -> list[dict[str, Any]]:
    from hf_mixture.models.trajectory_moe.screening import screen_covariates

    screening = recipe.trajectories.screening
    if screening is None:
        return []
    table = screen_covariates(
        dataset,
        screening.covariates,
        curve=recipe.trajectories.curve,
        num_trees=screening.num_trees,
        min_leaf=screening.min_leaf,
        seed=recipe.seed,
        journal=folder / "screening.json",
    )
    return [_plain(row) for row in table.to_dict("records")]


def _posterior(model: Any, data: Any) -> Any:
    import torch

    names = ("values", "times", "mask", "growth_covariates", "cluster_covariates")
    with torch.no_grad():
        return model(**{name: torch.tensor(getattr(data, name)) for name in names}).posterior.numpy()


def _class_names(recipe: TrajectoriesRecipe, model: Any) -> list[str]:
    from hf_mixture.models.trajectory_moe.training_curves import name_run_classes

    if recipe.runs is not None:
        return name_run_classes(model)
    return [f"class {k}" for k in range(model.config.num_classes)]


def _agreement(dataset: Any, posterior: Any) -> float | None:
    """Share of people whose likeliest class is the true one, classes matched, where the data tell the true ones."""
    from hf_mixture.models.trajectory_moe.optima import match_classes

    if "class" not in dataset.column_names:
        return None
    names, true = np.unique(np.asarray(dataset["class"]), return_inverse=True)
    if len(names) != posterior.shape[1]:
        return None
    chosen = np.eye(len(names))[posterior.argmax(axis=1)].T
    order = match_classes(np.eye(len(names))[true].T, chosen)
    return float((np.array(order)[true] == posterior.argmax(axis=1)).mean())


def _publish(folder: Path, model: Any, data: Any, posterior: Any, results: dict[str, Any]) -> None:
    from hf_mixture.hub.atomic import replaced_folder
    from hf_mixture.models.trajectory_moe.plots import draw_classes, draw_optima

    labels = {"time_label": "log10 of the step", "value_label": "log of the loss"}
    with replaced_folder(folder / "model") as place:
        model.save_pretrained(place)
        for target in (place, folder):
            draw_classes(
                target / "classes.png",
                model,
                data,
                posterior,
                names=results["class_names"],
                **(labels if results["class_names"][0] != "class 0" else {}),
            )
            draw_optima(target / "optima.png", results["fit"])
        report.write_card(place, results)
    common.write_report(folder / "report.md", results, report.body(results))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Numbers of NumPy as those of Python, for JSON."""
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in row.items()}
