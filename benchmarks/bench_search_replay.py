"""Searchers replayed on published runs: CLIMB on 379 runs of 350M, ADMIRE on RegMix's and on instruction-tuning runs.

A replay asks a search for trials of a finite pool and answers from the published table; random search and one-shot
regression answer from the same tables in the same process. The instruction-tuning runs are not shipped (CC BY-NC-SA
4.0, authors of ADMIRE-BayesOpt) and are left out when absent.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import print_table, write
from tqdm import tqdm, trange

from hf_mixture.data.search import AdmireSearch, ClimbSearch, Objective, RandomSearch, Run, RunTable
from hf_mixture.data.search.session import SearchSession
from hf_mixture.data.search.table import read_columns


ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "data" / "search" / "fixtures"
ADMIRE = ROOT.parent / "shared" / "data" / "admire" / "admire_ift_runs.csv"
PILE_CC = "metric/the_pile_pile_cc_val_loss"
SMALL = 1 / 60
TARGETS = (4.12, 4.1016)


def replay(search: SearchSession, values: dict[float, np.ndarray], first: int, batch: int) -> SearchSession:
    """Run a search to its end on a table of values by fidelity."""
    name = search.objective.metric
    trials = search.ask(first)
    while trials:
        search.tell([Run(trial.trial_id, {name: float(values[trial.fidelity][trial.candidate])}) for trial in trials])
        trials = search.ask(batch)
    return search


def climb(seeds: int) -> dict[str, Any]:
    """The rank of the best of 112 evaluations among 379 published runs."""
    path = FIXTURES / "climb" / "proxy_runs_350m.csv"
    runs = RunTable.read_csv(path, key="model_name", prefix="train_the_", metric_names=["valid_avg"])
    values = runs.metrics["valid_avg"]
    ranks = np.argsort(np.argsort(-values)) + 1
    goal = Objective("valid_avg", "maximize")
    settings = {"pool": runs.weights, "predictor": "lightgbm"}
    chosen = {"pool": runs.weights, "predictor": "auto"}
    searches: dict[str, Callable[[int], SearchSession]] = {
        "random, 112": lambda seed: RandomSearch(runs.domains, goal, num_runs=112, pool=runs.weights, seed=seed),
        "one-shot, 96 + 16": lambda seed: ClimbSearch(runs.domains, goal, rounds=(96, 16), seed=seed, **settings),
        "CLIMB, 64 + 32 + 16": lambda seed: ClimbSearch(runs.domains, goal, seed=seed, **settings),
        "CLIMB, predictor chosen": lambda seed: ClimbSearch(runs.domains, goal, seed=seed, **chosen),
    }
    found = {}
    for name, build in searches.items():
        best = []
        for seed in trange(seeds, desc=name):
            search = replay(build(seed), {1.0: values}, 112, 112)
            best.append(int(min(ranks[trial.candidate] for trial in search.trials)))
        found[name] = {"p_best": float(np.mean(np.array(best) == 1)), "mean_rank": float(np.mean(best)), "ranks": best}
    return {"seeds": seeds, "exact_p_best_of_random": 112 / 379, "searches": found}


def pile(seeds: int) -> dict[str, Any]:
    """Cost until the best measured 60M run reaches a loss, for ADMIRE and for random 60M runs."""
    folder = FIXTURES / "regmix"
    settings = {"key": "index", "prefix": "train_the_pile_"}
    small = RunTable.read_csv(folder / "train_mixture_1m.csv", folder / "train_pile_loss_1m.csv", **settings)
    large = RunTable.read_csv(folder / "test_mixture_1m.csv", folder / "test_pile_loss_60m.csv", **settings)
    large = large.select(slice(0, 192))
    losses = {SMALL: small.metrics[PILE_CC], 1.0: large.metrics[PILE_CC]}
    pools = {SMALL: small.weights, 1.0: large.weights}
    costs: dict[float, list[float]] = {loss: [] for loss in TARGETS}
    random: dict[float, list[int]] = {loss: [] for loss in TARGETS}
    kept = []
    for seed in trange(seeds, desc="ADMIRE, Pile-CC"):
        goal = Objective(PILE_CC, "minimize")
        search = AdmireSearch(
            small.domains, goal, fidelities={SMALL: SMALL, 1.0: 1.0}, pool=pools, budget=8.0, seed=seed
        )
        trace = replay(search, losses, 1, 10).trace
        best = [value for _, value in trace]
        kept.append(best == sorted(best, reverse=True) and search.propose().incumbent["value"] == min(best))
        order = np.random.default_rng(seed).permutation(losses[1.0])
        for loss in TARGETS:
            costs[loss].append(min((cost for cost, value in trace if value <= loss), default=float("inf")))
            random[loss].append(1 + int(np.argmax(order <= loss)))
    return {
        "seeds": seeds,
        "incumbent_never_worse": all(kept),
        "targets": {
            str(loss): {
                "admire_cost": costs[loss],
                "random_cost": random[loss],
                "median_admire": float(np.median(costs[loss])),
                "median_random": float(np.median(random[loss])),
                "ratio": float(np.median(random[loss]) / np.median(costs[loss])),
            }
            for loss in TARGETS
        },
    }


def instruction_tuning(seeds: int) -> dict[str, Any]:
    """Regret of the best measured 7B run at cost 10, with and without smaller models, and of 10 random 7B runs."""
    columns = read_columns(ADMIRE)
    levels = {"Qwen2.5-0.5B": 95.3488 / 537.4679, "Qwen2.5-3B": 258.8736 / 537.4679, "Qwen2.5-7B": 1.0}
    domains = [name for name in columns if name.startswith("ratio_")]
    weights = np.array([columns[name] for name in domains], dtype=float).T
    metric = np.array(columns["metric_avg_id"], dtype=float)
    rows = {level: np.flatnonzero(np.array(columns["model"]) == model) for model, level in levels.items()}
    values = {level: metric[index] for level, index in rows.items()}
    pools = {level: weights[index] / weights[index].sum(axis=1, keepdims=True) for level, index in rows.items()}
    top = np.sort(values[1.0])[::-1]
    expected = float(sum((top[0] - top[rank]) * comb(75 - rank, 9) / comb(76, 10) for rank in range(67)))
    # Seeds that no setting was chosen with.
    chosen = range(300, 300 + seeds)
    random = [float(top[0] - np.random.default_rng(seed).permutation(values[1.0])[:10].max()) for seed in chosen]
    found: dict[str, Any] = {}
    for name, costs in (("default settings", [*levels.values()]), ("target runs alone", [1.0])):
        regrets = []
        for seed in tqdm(chosen, desc=f"ADMIRE, instruction tuning, {name}"):
            search = AdmireSearch(
                domains,
                Objective("metric_avg_id", "maximize"),
                fidelities={level: level for level in costs},
                pool={level: pools[level] for level in costs},
                budget=10.0,
                seed=seed,
            )
            regrets.append(float(top[0] - replay(search, values, 1, 1).incumbent["value"]))
        found[name] = {
            "mean_regret": float(np.mean(regrets)),
            "below_expected_random": sum(regret < expected for regret in regrets),
            "below_median_random": sum(regret < float(np.median(random)) for regret in regrets),
            "below_random_of_the_same_seed": sum(a < b for a, b in zip(regrets, random, strict=True)),
            "equal_to_random_of_the_same_seed": sum(a == b for a, b in zip(regrets, random, strict=True)),
            # The spec asks for 8 of 10 seeds; several tens say how often that happens.
            "below_expected_random_of_ten": [
                sum(regret < expected for regret in regrets[start : start + 10]) for start in range(0, seeds, 10)
            ],
            "below_random_of_the_same_seed_of_ten": [
                sum(a < b for a, b in zip(regrets[start : start + 10], random[start : start + 10], strict=True))
                for start in range(0, seeds, 10)
            ],
        }
    return {
        "seeds": seeds,
        "random": {"mean_regret": float(np.mean(random)), "exact_expectation": expected},
        "admire": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--climb-seeds", type=int, default=40)
    parser.add_argument("--admire-seeds", type=int, default=10)
    parser.add_argument("--tuning-seeds", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"climb": climb(arguments.climb_seeds), "pile": pile(arguments.admire_seeds)}
    if ADMIRE.exists():
        result["instruction_tuning"] = instruction_tuning(arguments.tuning_seeds)
    print_table(
        ["CLIMB runs", "P(best)", "mean rank"],
        [
            [name, f"{row['p_best']:.3f}", f"{row['mean_rank']:.2f}"]
            for name, row in result["climb"]["searches"].items()
        ],
    )
    print_table(
        ["Pile-CC loss", "ADMIRE median cost", "random median cost", "ratio"],
        [
            [loss, f"{row['median_admire']:.2f}", f"{row['median_random']:.1f}", f"{row['ratio']:.1f}"]
            for loss, row in result["pile"]["targets"].items()
        ],
    )
    write("search_replay", result)


if __name__ == "__main__":
    main()
