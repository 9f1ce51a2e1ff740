"""Methods that change the mixture during one run: what they found, for the report and for `mixture.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_mixture.training.search.find import Found
from hf_mixture.training.search.recipe import SearchRecipe


ROUND_FACTS = ("step", "lag", "weights", "losses", "effects", "normalised", "delta", "num_evaluations")


def online_facts(callback: Any) -> dict[str, Any]:
    """What a run of the comparison keeps of its callback: average weights, cost, and every round."""
    report = callback.report()
    rounds = [{name: turn[name] for name in ROUND_FACTS} for turn in report["rounds"]]
    kept = ("method", "domains", "initial_weights", "average_weights", "cost", "num_evaluations", "max_steps")
    return {"online": {**{name: report[name] for name in kept}, "rounds": rounds}}


def found_online(recipe: SearchRecipe, runs: Sequence[Mapping[str, Any]]) -> Found:
    """Average the shares that an online method chose, over rounds and seeds.

    Args:
        recipe: The recipe.
        runs: Its runs of the comparison, one for each seed.

    Returns:
        The mean shares: a fixed mixture for another run. The weights of every round are in `results.json`.
    """
    names = recipe.domain_names
    averages = np.array([[run["online"]["average_weights"][name] for name in names] for run in runs])
    mean = averages.mean(axis=0)
    spread = averages.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(len(names))
    facts = {
        "method": recipe.method.name,
        "settings": dict(recipe.method.settings),
        "num_evaluations": [run["online"]["num_evaluations"] for run in runs],
        "share_of_steps_spent_measuring": runs[0]["online"]["cost"]["training_share"],
        "average_weights": dict(zip(names, mean.tolist(), strict=True)),
        "sd_over_seeds": dict(zip(names, spread.tolist(), strict=True)),
        "seeds": [run["seed"] for run in runs],
    }
    provenance = {
        "method": recipe.method.name,
        "parameters": dict(recipe.method.settings),
        "objective": "mean held-out loss of the domains",
        "direction": "minimize",
        "note": "mean over rounds and seeds of weights that changed during each run",
        "seeds": facts["seeds"],
    }
    return Found(
        shares=dict(zip(names, (mean / mean.sum()).tolist(), strict=True)), provenance=provenance, facts=facts
    )
