"""CLIMB: rounds on the published runs, its direction, and domains from clusters."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hf_mixture.data.search import ClimbSearch, Objective, RandomSearch, Run
from hf_mixture.data.search.clusters import cluster_domains, embed_texts
from hf_mixture.data.search.proposal import fit_ranker


METRIC = "valid_avg"


def replay(search, values: np.ndarray):
    while trials := search.ask(200):
        search.tell([Run(trial.trial_id, {METRIC: float(values[trial.candidate])}) for trial in trials])
    return search


def climb(runs, seed: int, rounds=(64, 32, 16), direction="maximize", predictor="lightgbm") -> ClimbSearch:
    objective = Objective(METRIC, direction)
    return ClimbSearch(runs.domains, objective, rounds=rounds, predictor=predictor, pool=runs.weights, seed=seed)


@pytest.mark.slow
def test_iterating_beats_one_shot_on_the_published_runs(climb_runs) -> None:
    """Acceptance check 4: 112 of 379 evaluations, 40 seeds."""
    values = climb_runs.metrics[METRIC]
    best = int(np.argmax(values))

    def found(search) -> bool:
        return any(trial.candidate == best for trial in replay(search, values).trials)

    objective = Objective(METRIC, "maximize")
    iterative = np.mean([found(climb(climb_runs, seed)) for seed in range(40)])
    one_shot = np.mean([found(climb(climb_runs, seed, rounds=(96, 16))) for seed in range(40)])
    chance = np.mean(
        [
            found(RandomSearch(climb_runs.domains, objective, num_runs=112, pool=climb_runs.weights, seed=seed))
            for seed in range(40)
        ]
    )
    assert iterative >= 0.6
    assert iterative >= one_shot + 0.1
    assert abs(chance - 112 / 379) <= 0.15


@pytest.mark.slow
def test_the_default_predictor_finds_the_best_published_run_as_often(climb_runs) -> None:
    values = climb_runs.metrics[METRIC]
    searches = [replay(climb(climb_runs, seed, predictor="auto"), values) for seed in range(40)]
    assert np.mean([search.incumbent["value"] == values.max() for search in searches]) >= 0.6


def test_rounds_climb_and_a_wrong_direction_shows(climb_runs) -> None:
    values = climb_runs.metrics[METRIC]
    high = np.quantile(values, 0.9)

    def top_16(direction) -> float:
        search = replay(climb(climb_runs, 0, direction=direction), values)
        assert len({trial.candidate for trial in search.trials}) == 112
        result = search.propose()
        assert result.incumbent["value"] == search.objective.sign * max(
            search.objective.sign * values[trial.candidate] for trial in search.trials
        )
        predicted = fit_ranker(search.table, search.objective, "lightgbm").predict(climb_runs.weights)
        return float(values[np.argsort(-search.objective.sign * predicted)[:16]].mean())

    assert top_16("maximize") > high
    assert top_16("minimize") < np.quantile(values, 0.1)


def test_a_name_that_contradicts_the_direction_is_reported(climb_runs) -> None:
    objective = Objective("hellaswag_acc_norm", "minimize")
    search = ClimbSearch(climb_runs.domains, objective, predictor="ridge", table=climb_runs)
    assert any("set to minimize, which its name contradicts" in warning for warning in search.propose().warnings)


def test_a_round_waits_for_the_rounds_before_it() -> None:
    search = ClimbSearch(["a", "b"], Objective("acc", "maximize"), rounds=(20, 4), predictor="ridge")
    first = search.ask(30)
    assert len(first) == 20
    assert search.ask(4) == []
    search.tell([Run(trial.trial_id, {"acc": trial.weights[0]}) for trial in first[1:]])
    assert search.ask(4) == []
    search.tell(Run(first[0].trial_id, {"acc": first[0].weights[0]}))
    second = search.ask(3)
    assert len(second) == 3
    assert not search.done
    assert min(trial.weights[0] for trial in second) > 0.9


@pytest.mark.parametrize("stop", [1, 9, 16, 17, 22])
def test_a_restored_search_asks_the_same(stop) -> None:
    def build() -> ClimbSearch:
        return ClimbSearch(["a", "b", "c"], Objective("acc", "maximize"), rounds=(16, 8), predictor="ridge", seed=3)

    def run(search: ClimbSearch, num: int) -> None:
        while len(search.trials) < num and (trials := search.ask(1)):
            search.tell([Run(trial.trial_id, {"acc": trial.weights[0] ** 2}) for trial in trials])

    whole, part, resumed = build(), build(), build()
    run(whole, 24)
    run(part, stop)
    resumed.load_state_dict(json.loads(json.dumps(part.state_dict())))
    run(resumed, 24)
    assert resumed.trials == whole.trials
    assert resumed.table.sha256 == whole.table.sha256
    assert resumed.propose() == whole.propose()
    other = ClimbSearch(["a", "b", "d"], Objective("acc", "maximize"), rounds=(16, 8), predictor="ridge", seed=3)
    with pytest.raises(ValueError, match=r"the state was written with domains=\['a', 'b', 'c'\]"):
        other.load_state_dict(part.state_dict())
    with pytest.raises(ValueError, match="the state has format None"):
        other.load_state_dict({})


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (Run("climb-99999", {"acc": 1.0}), "was never asked"),
        (Run("climb-00000", {"acc": float("nan")}), "metric 'acc' of run 'climb-00000' is nan"),
        (Run("climb-00000", {"loss": 1.0}), "lacks 'acc' of the objective"),
        (Run("climb-00000", {"acc": 1.0}, cost=0.0), "cost of run 'climb-00000' is 0.0"),
        ([Run("climb-00001", {"acc": 1.0}), Run("climb-00001", {"acc": 1.0})], "was told before"),
    ],
)
def test_bad_runs_are_refused_and_nothing_is_recorded(run, message) -> None:
    search = ClimbSearch(["a", "b"], Objective("acc", "maximize"), rounds=(4, 2))
    search.ask(4)
    with pytest.raises(ValueError, match=message):
        search.tell(run)
    assert search.runs == []


def test_pools_smaller_than_the_rounds_are_refused(climb_runs) -> None:
    with pytest.raises(ValueError, match="the pool has 379 mixtures for 400 trials"):
        climb(climb_runs, 0, rounds=(300, 100))


def test_clusters_are_pruned_and_merged() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [1, 0], [10, 10], [20, 0]])
    points = np.concatenate(
        [centre + 0.05 * rng.normal(size=(size, 2)) for centre, size in zip(centres, (40, 30, 20, 10), strict=True)]
    )
    quality = np.repeat([2.0, 2.0, 2.0, 0.5], (40, 30, 20, 10))
    found = cluster_domains(points, num_clusters=4, quality=quality, min_quality=1.0, merge_distance=1.5)
    assert found.pruned == 1
    assert found.prior == pytest.approx({"cluster_0": 70 / 90, "cluster_1": 20 / 90})
    assert (found.labels[-10:] == -1).all()
    assert np.bincount(found.labels[found.labels >= 0]).tolist() == [70, 20]
    assert len(cluster_domains(points, num_clusters=4, num_domains=2).names) == 2
    with pytest.raises(ValueError, match="prunes all 4 clusters"):
        cluster_domains(points, num_clusters=4, quality=quality, min_quality=3.0)
    with pytest.raises(ValueError, match="needs quality"):
        cluster_domains(points, min_quality=3.0)


def test_any_clusterer_fits_and_noise_belongs_to_no_domain() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    points = np.array([[0.0, 0], [0.1, 0], [0, 0.1], [5, 5], [5.1, 5], [5, 5.1], [99, 99]])
    found = cluster_domains(points, clusterer=cluster.DBSCAN(eps=1, min_samples=2), lengths=[1, 1, 1, 9, 9, 9, 1])
    assert found.labels.tolist() == [1, 1, 1, 0, 0, 0, -1]
    assert found.prior == {"cluster_0": 0.9, "cluster_1": 0.1}


def test_texts_of_one_topic_lie_together() -> None:
    topics = ["the cat and the dog sleep in the garden", "integral of the matrix determinant theorem proof"]
    texts = [
        f"{topics[index % 2]} {word}"
        for index, word in enumerate(["alpha", "beta", "gamma", "delta", "zeta", "theta"])
    ]
    labels = cluster_domains(embed_texts(texts, size=4), num_clusters=2).labels
    assert len(set(labels[::2])) == len(set(labels[1::2])) == 1
    assert labels[0] != labels[1]
