"""ADMIRE: the published runs replayed, the share of target runs, batches, resumption."""

from __future__ import annotations

import json
from math import comb

import numpy as np
import pytest

from hf_mixture.data.search import AdmireSearch, Constraints, Objective, Run


PILE_CC = "metric/the_pile_pile_cc_val_loss"
SMALL = 1 / 60
TARGET = {"loss": 4.12, "best": 4.1016}


def pile(train_1m, held_60m, seed: int, *, budget: float, batch: int = 10, **settings) -> AdmireSearch:
    """All 512 runs at 1M, at a 60th of the cost of the first 192 runs at 60M."""
    pools = {SMALL: train_1m.weights, 1.0: held_60m.weights[:192]}
    losses = {SMALL: train_1m.metrics[PILE_CC], 1.0: held_60m.metrics[PILE_CC]}
    search = AdmireSearch(
        train_1m.domains,
        Objective(PILE_CC, "minimize"),
        fidelities={SMALL: SMALL, 1.0: 1.0},
        pool=pools,
        budget=budget,
        seed=seed,
        **settings,
    )
    trials = search.ask(1)
    assert trials[0].fidelity == SMALL
    while trials:
        search.tell(
            [Run(trial.trial_id, {PILE_CC: float(losses[trial.fidelity][trial.candidate])}) for trial in trials]
        )
        trials = search.ask(batch)
    return search


def cost_of(search: AdmireSearch, loss: float) -> float:
    return min((cost for cost, value in search.trace if value <= loss), default=float("inf"))


def check_trace(search: AdmireSearch) -> None:
    """The best measured run never gets worse, and it is what is proposed."""
    values = [value for _, value in search.trace]
    assert values == sorted(values, reverse=search.objective.direction == "minimize")
    assert search.incumbent["value"] == values[-1]
    result = search.propose()
    assert result.incumbent == search.incumbent
    assert dict(zip(result.domains, result.weights, strict=True)) == search.incumbent["weights"]


def test_one_search_of_the_published_pile_runs(train_1m, held_60m) -> None:
    search = pile(train_1m, held_60m, 0, budget=3.0, batch=30, num_maxima=2)
    assert search.spent <= 3.0 + 1e-9
    # Random search needs 8 target runs for a median of 4.181.
    assert search.incumbent["value"] < 4.181
    # A fifth of the cost goes to small runs, before any target run.
    assert [trial.fidelity for trial in search.trials] == [SMALL] * 36 + [1.0] * 2
    check_trace(search)


@pytest.mark.slow
def test_published_pile_runs(train_1m, held_60m) -> None:
    """Acceptance check 5b over 10 seeds, and at most a fifth of the median cost of random search."""
    searches = [pile(train_1m, held_60m, seed, budget=8.0) for seed in range(10)]
    assert np.median([cost_of(search, TARGET["loss"]) for search in searches]) <= 5
    assert sum(cost_of(search, TARGET["best"]) <= 8 for search in searches) >= 8
    for search in searches:
        check_trace(search)
    losses = held_60m.metrics[PILE_CC][:192]
    for loss in TARGET.values():
        random = [1 + int(np.argmax(np.random.default_rng(seed).permutation(losses) <= loss)) for seed in range(10)]
        assert np.median([cost_of(search, loss) for search in searches]) <= np.median(random) / 5


@pytest.mark.slow
def test_published_instruction_tuning_runs(admire_runs) -> None:
    """Acceptance check 5c: after a cost of 10, less regret than random search has in the mean, in 8 of 10 seeds.

    The mean of random search is exact: that of the best of ten target runs without repetition. Over 100 seeds (300 to
    399) the default settings lie below it in 80, and have .66 of it. Beside random search of the same seed, which may
    be lucky, they are below in 57 and equal in 9, so that by this reading the check is not met. The settings were
    decided on synthetic problems, RegMix's runs and the single tasks of these runs; but two earlier versions had been
    replayed here on other seeds (1.29 and .85 of the expected regret of random search), so the figures are not those
    of a first look.

    Little more can be known from these runs: the best target mixture is 25th in the 3B ranking and 39th in the 0.5B
    one. A process that is given all 152 smaller runs of the pool for free finds the second best with ten target runs,
    which beats ten random draws with probability .75, so that even it would be below random search of the same seed in
    8 of 10 in about half of the trials.
    """
    metric = "metric_avg_id"
    levels = sorted(set(admire_runs.fidelity.tolist()))
    parts = {level: admire_runs.select(admire_runs.fidelity == level) for level in levels}
    top = np.sort(parts[1.0].metrics[metric])[::-1]
    # The best of 10 draws without repetition is the one of rank r with probability C(75 - r, 9) / C(76, 10).
    expected = sum((top[0] - top[r]) * comb(75 - r, 9) / comb(76, 10) for r in range(67))
    regrets = []
    for seed in range(300, 330):
        search = AdmireSearch(
            admire_runs.domains,
            Objective(metric, "maximize"),
            fidelities={level: level for level in levels},
            pool={level: part.weights for level, part in parts.items()},
            budget=10.0,
            seed=seed,
        )
        while trials := search.ask(1):
            search.tell(
                [Run(t.trial_id, {metric: float(parts[t.fidelity].metrics[metric][t.candidate])}) for t in trials]
            )
        check_trace(search)
        regrets.append(top[0] - search.incumbent["value"])
    assert np.mean(regrets) < 0.85 * expected
    assert np.mean([regret < expected for regret in regrets]) >= 0.8


def toy(**settings) -> AdmireSearch:
    settings = {"fidelities": {0.1: 0.1, 1.0: 1.0}, "budget": 2.5, "num_candidates": 32, "num_maxima": 4, **settings}
    return AdmireSearch(["a", "b", "c"], Objective("loss", "minimize"), **settings)


def measure(trial) -> Run:
    a, b, _ = trial.weights
    return Run(trial.trial_id, {"loss": (a - 0.3) ** 2 + (b - 0.5) ** 2 + 2 * (1 - trial.fidelity)})


def finish(search: AdmireSearch, num: int = 1, most: int = 10**6) -> AdmireSearch:
    while len(search.runs) < most and (trials := search.pending or search.ask(num)):
        search.tell([measure(trial) for trial in trials])
    return search


@pytest.mark.parametrize(("budget", "share"), [(2.5, 0.8), (4.0, 0.5), (1.5, 0.0), (3.0, 1.0)])
def test_small_runs_get_their_share_and_target_runs_all_the_rest(budget, share) -> None:
    search = finish(toy(budget=budget, target_share=share))
    small = sum(trial.fidelity < 1 for trial in search.trials)
    screening = (1 - share) * budget
    assert [trial.fidelity for trial in search.trials[:small]] == [0.1] * small
    assert screening - 0.1 < 0.1 * small <= screening + 1e-9
    targets = len(search.trials) - small
    assert budget - 1 < 0.1 * small + targets <= budget + 1e-9
    assert search.done


def test_small_runs_use_mixtures_of_the_target_where_they_can() -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(3), 20)
    search = finish(toy(pool={0.1: rows, 1.0: rows[12:17]}, budget=8.0, target_share=0.5))
    assert {trial.candidate for trial in search.trials if trial.fidelity < 1} == set(range(12, 17))
    # The five small runs that there are cost less than their share; the search goes on to the target.
    assert sum(trial.fidelity == 1 for trial in search.trials) == 5
    apart = finish(toy(pool={0.1: rows[:9], 1.0: rows[9:]}, budget=3.0, target_share=0.5))
    assert sum(trial.fidelity < 1 for trial in apart.trials) == 9


@pytest.mark.parametrize("acquisition", ["mes", "ei"])
def test_single_fidelity_searches_find_the_optimum(acquisition) -> None:
    search = finish(toy(acquisition=acquisition, fidelities={1.0: 1.0}, budget=10.0, num_candidates=128))
    assert search.incumbent["value"] < 0.03
    assert {trial.fidelity for trial in search.trials} == {1.0}


def test_batches_differ_and_pending_trials_count() -> None:
    search = finish(toy(budget=8.0), most=4)
    batch = search.ask(5)
    assert len({trial.weights for trial in batch}) == 5
    more = search.ask(2)
    assert not {trial.weights for trial in more} & {trial.weights for trial in batch}
    search.tell([measure(trial) for trial in reversed([*batch, *more])])
    check_trace(finish(search))


def test_asks_before_any_result_are_random_and_distinct() -> None:
    batch = toy(budget=30.0).ask(6)
    assert len({trial.weights for trial in batch}) == 6


def test_a_restored_search_asks_the_same() -> None:
    whole = finish(toy(seed=5))
    for stop in (1, 9):
        part, resumed = finish(toy(seed=5), most=stop), toy(seed=5)
        resumed.load_state_dict(json.loads(json.dumps(part.state_dict())))
        assert finish(resumed).trials == whole.trials
        assert resumed.propose() == whole.propose()


def test_earlier_runs_are_used_and_bounds_obeyed() -> None:
    earlier = finish(toy(seed=1)).table
    search = toy(table=earlier, constraints=Constraints(caps={"b": 0.3}), seed=2)
    trial = search.ask()[0]
    assert trial.weights[1] <= 0.3 + 1e-12
    search.tell(measure(trial))
    assert search.propose().weights[1] <= 0.3 + 1e-9


def test_without_a_target_run_the_proposal_says_so() -> None:
    search = toy()
    search.tell([measure(trial) for trial in search.ask(4)])
    assert search.incumbent is None
    assert any("no target run was measured" in warning for warning in search.propose().warnings)


@pytest.mark.filterwarnings("ignore")
def test_botorch_runs_the_same_loop() -> None:
    pytest.importorskip("botorch", reason='BoTorch comes with pip install "hf-mixture[search]"')
    search = finish(toy(surrogate="botorch", budget=1.5), num=4)
    check_trace(search)
    assert search.incumbent["value"] < 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fidelities": {0.5: 0.5}}, "the target|1.0 among them"),
        ({"fidelities": {1.0: 0.0}}, "costs above 0"),
        ({"acquisition": "ucb"}, "acquisition='ucb'"),
        ({"target_share": 1.5}, "target_share=1.5"),
        ({"pool": {1.0: [[1, 0, 0]]}}, "pool has fidelities"),
    ],
)
def test_bad_settings_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        toy(**settings)
