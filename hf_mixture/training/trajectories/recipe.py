"""The recipe of trajectories: what `hf-mixture trajectories` reads, resolves and checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_mixture.training.commands import check_command
from hf_mixture.training.recipe import PlainRecipe, source_of
from hf_mixture.training.resolve import check_folder_names, check_least, check_model_config, recipe_values
from hf_mixture.training.strict import build, check_names


@dataclass(frozen=True, kw_only=True)
class PeopleSpec:
    """Trajectories of people in a CSV file with one row for each.

    Args:
        file: The file, or `bls_dat2`, the simulated people that come with the package.
        values: Columns of the outcome, in order of time.
        times: Columns of the times.
    """

    file: str
    values: list[str]
    times: list[str]


@dataclass(frozen=True, kw_only=True)
class RunsSpec:
    """Training runs that are made first: tiny causal language models of bytes, trained by the stock Trainer.

    Each run has a learning rate, drawn evenly on a logarithmic scale, and a share of the first domain, drawn evenly.
    Both are covariates, as `log10_learning_rate` and `share_NAME`.

    Args:
        domains: Two names with their sources: fields of `hf_mixture.data.Source`, or its `path` alone.
        num_runs: Number of runs. Default: 48.
        num_steps: Optimizer steps of a run. Default: 64.
        batch_size: Samples of a step. Default: 8.
        block_size: Bytes of a sample. Default: 64.
        learning_rates: Least and greatest learning rate. Default: 1e-5 and 1.
        model: `model_type` and fields of the configuration.
    """

    domains: dict[str, Any]
    model: dict[str, Any]
    num_runs: int = 48
    num_steps: int = 64
    batch_size: int = 8
    block_size: int = 64
    learning_rates: list[float] = field(default_factory=lambda: [1e-5, 1.0])


@dataclass(frozen=True, kw_only=True)
class ScreeningSpec:
    """A forest that ranks covariates first.

    Args:
        covariates: The covariates.
        num_trees: Trees. Default: 20.
        min_leaf: Least number of people on each side of a cut. Default: 50.
    """

    covariates: list[str]
    num_trees: int = 20
    min_leaf: int = 50


@dataclass(frozen=True, kw_only=True)
class TrajectoriesSpec:
    """What is fitted.

    Args:
        curve: The growth curve. Default: `bilinear`.
        growth_covariates: Covariates of the growth factors.
        cluster_covariates: Covariates of the gate.
        covariate_likelihood: `joint` or `conditional`. Default: the first.
        num_classes: Numbers of classes to fit, increasing. Default: 1 to 3.
        criterion: What chooses among them: `aic`, `bic`, `adjusted_bic` or `icl`. Default: `bic`.
        n_starts: Random starts of each fit. Default: 20.
        num_bootstrap: Draws of each bootstrap likelihood-ratio test. Default: 0, no test.
        screening: A ranking of covariates. Default: none.
    """

    curve: str = "bilinear"
    growth_covariates: list[str] = field(default_factory=list)
    cluster_covariates: list[str] = field(default_factory=list)
    covariate_likelihood: str = "joint"
    num_classes: list[int] = field(default_factory=lambda: [1, 2, 3])
    criterion: str = "bic"
    n_starts: int = 20
    num_bootstrap: int = 0
    screening: ScreeningSpec | None = None


@dataclass(frozen=True, kw_only=True)
class TrajectoriesRecipe(PlainRecipe):
    """One run: trajectories of people, or of training runs, and the classes that are found among them.

    Args:
        name: Name of the run.
        output_dir: Where everything is written.
        trajectories: What is fitted.
        people: Trajectories in a file; this or `runs`.
        runs: Training runs that are made.
        description: One paragraph for report and card.
        seed: Seed of starts and runs. Default: 0.
    """

    name: str
    output_dir: str
    trajectories: TrajectoriesSpec
    people: PeopleSpec | None = None
    runs: RunsSpec | None = None
    description: str = ""
    seed: int = 0


def resolve_trajectories(
    text: str, *, overrides: Sequence[tuple[str, Any]] = (), smoke: bool = False
) -> TrajectoriesRecipe:
    """Read a recipe of trajectories; what is given later wins: the file, its `smoke` section, `overrides`.

    Args:
        text: The YAML text.
        overrides: Pairs of key path and value.
        smoke: Whether to apply the `smoke` section.

    Returns:
        The checked recipe.

    Raises:
        ValueError: If a key is unknown, a value has the wrong type or breaks a rule.
    """
    from hf_mixture.models.trajectory_moe.curves import CURVES

    values = recipe_values(text, overrides=overrides, smoke=smoke)
    check_command(values, "trajectories")
    recipe = build(TrajectoriesRecipe, values, "")
    if (recipe.people is None) == (recipe.runs is None):
        raise ValueError("the recipe needs exactly one of people and runs")
    spec = recipe.trajectories
    check_names([spec.curve], CURVES, "trajectories.curve")
    check_names([spec.covariate_likelihood], ("joint", "conditional"), "trajectories.covariate_likelihood")
    check_names([spec.criterion], ("aic", "bic", "adjusted_bic", "icl"), "trajectories.criterion")
    numbers = spec.num_classes
    if not numbers or numbers != sorted(set(numbers)) or numbers[0] < 1:
        raise ValueError(f"trajectories.num_classes is {numbers}; give increasing numbers from 1")
    limits: dict[str, tuple[float | None, float]] = {
        "seed": (recipe.seed, 0),
        "trajectories.n_starts": (spec.n_starts, 1),
        "trajectories.num_bootstrap": (spec.num_bootstrap, 0),
    }
    if spec.screening is not None:
        limits["trajectories.screening.num_trees"] = (spec.screening.num_trees, 2)
        limits["trajectories.screening.min_leaf"] = (spec.screening.min_leaf, 2)
    if recipe.people is not None and len(recipe.people.values) != len(recipe.people.times):
        raise ValueError("people.values and people.times differ in length; give one time for each value")
    if recipe.runs is not None:
        limits |= _check_runs(recipe.runs)
    check_least(limits)
    return recipe


def _check_runs(runs: RunsSpec) -> dict[str, tuple[float | None, float]]:
    check_folder_names("runs.domains", runs.domains)
    for name, source in runs.domains.items():
        source_of(name, source)
    if len(runs.domains) != 2:
        raise ValueError(f"runs.domains has {len(runs.domains)} domains; give two, whose shares are drawn")
    rates = runs.learning_rates
    if len(rates) != 2 or not 0 < rates[0] < rates[1]:
        raise ValueError(f"runs.learning_rates is {rates}; give the least and the greatest, above 0")
    check_model_config(runs.model, "runs.model")
    least = {"num_runs": 4, "num_steps": 8, "batch_size": 1, "block_size": 8}
    return {f"runs.{name}": (getattr(runs, name), value) for name, value in least.items()}
