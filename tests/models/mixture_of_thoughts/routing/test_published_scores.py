"""Routing among seven 7B and 8B models on the scores that RouterDC published (arXiv 2409.19886).

The scores lie outside the repository, because their source has no licence.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hf_mixture.models.mixture_of_thoughts.routing import (
    cross_validate_router,
    equal_task_weights,
    evaluate_query_routers,
    fit_best_single,
    fit_cluster_router,
    fit_linear_router,
    fit_mlp_router,
)


SCORES = Path(__file__).parents[5] / "shared" / "data" / "router_scores" / "router_scores.npz"
pytestmark = pytest.mark.skipif(not SCORES.is_file(), reason="the published scores are not here")

# Their scores are probabilities of the right answer; an answer counts as right if its probability is not 0.
PROBABILITIES = {"mmlu", "cmmlu", "arc_challenge", "ceval", "MATH_prealgebra"}
IN_DOMAIN = ("mmlu", "gsm8k", "cmmlu", "arc_challenge", "humaneval")
OUT_OF_DOMAIN = ("MATH_prealgebra", "mbpp", "ceval")
# Percent of right answers: five tasks, their mean, three other tasks, their mean.
PUBLISHED = {
    "Mistral-7B-v0.1": (62.14, 36.71, 43.83, 49.43, 28.98, 44.22, 24.80, 37.90, 46.43, 36.38),
    "MetaMath-Mistral-7B": (59.86, 69.63, 43.83, 48.30, 29.80, 50.28, 39.15, 37.74, 45.17, 40.69),
    "zephyr-7b-beta": (59.81, 33.00, 42.82, 57.95, 22.04, 43.13, 20.78, 31.14, 44.87, 32.26),
    "Chinese-Mistral-7B-v0.1": (57.42, 41.03, 49.67, 43.47, 21.43, 42.60, 18.48, 29.64, 48.44, 32.19),
    "dolphin-2.6-mistral-7b": (60.53, 52.38, 43.71, 52.56, 45.10, 50.86, 29.28, 44.86, 45.10, 39.74),
    "Meta-Llama-3-8B": (64.59, 47.76, 51.77, 49.43, 26.73, 48.06, 27.67, 43.02, 52.01, 40.90),
    "dolphin-2.9-llama3-8b": (59.46, 69.81, 44.72, 49.43, 49.39, 54.56, 39.72, 47.34, 44.80, 43.95),
    "oracle": (85.26, 83.32, 79.63, 72.44, 66.94, 77.52, 67.05, 62.40, 81.58, 70.34),
}
BEST_SINGLE = 54.56
SEEDS = range(5)


@pytest.fixture(scope="module")
def archive():
    with np.load(SCORES) as file:
        return dict(file)


def load(archive, split, tasks, *, raw=False):
    found = {}
    for task in tasks:
        scores = archive[f"{split}.{task}.scores"].astype(np.float64)
        if task in PROBABILITIES and not raw:
            scores = (scores > 0).astype(np.float64)
        found[task] = archive[f"{split}.{task}.embeddings"].astype(np.float64), scores
    return found


def training_rows(archive, *, raw=False):
    """Embeddings, scores, and the task of each row."""
    parts = load(archive, "train", IN_DOMAIN, raw=raw)
    names = np.concatenate([np.full(len(scores), task) for task, (_, scores) in parts.items()])
    return *(np.concatenate(arrays) for arrays in zip(*parts.values(), strict=True)), names


def means(archive, routers, split="test", tasks=IN_DOMAIN):
    """Mean over tasks of each router, in percent."""
    table = evaluate_query_routers(routers, load(archive, split, tasks))
    return {row["router"]: 100 * row["mean"] for row in table}


def test_single_models_and_the_oracle_have_their_published_scores(archive):
    names = [str(name).rsplit("/", 1)[1] for name in archive["models"]]
    tables = [
        {row["router"]: row for row in evaluate_query_routers({}, load(archive, split, tasks), expert_names=names)}
        for split, tasks in (("test", IN_DOMAIN), ("ood", OUT_OF_DOMAIN))
    ]
    for name, expected in PUBLISHED.items():
        found = [value for table in tables for key, value in table[name].items() if key != "router"]
        assert [100 * value for value in found] == pytest.approx(expected, abs=0.005 + 1e-9), name
    best = [max((row["mean"], name) for name, row in table.items() if name in names) for table in tables]
    assert [name for _, name in best] == ["dolphin-2.9-llama3-8b"] * 2
    assert [100 * mean for mean, _ in best] == pytest.approx([BEST_SINGLE, 43.95], abs=0.005 + 1e-9)


def test_the_best_single_model_is_known_from_training_rows(archive):
    embeddings, scores, names = training_rows(archive)
    router = fit_best_single(embeddings, scores, weights=equal_task_weights(names))
    assert means(archive, {"single": router})["single"] == pytest.approx(BEST_SINGLE, abs=0.005)


def test_linear_and_mlp_routers_beat_the_best_single_model(archive):
    embeddings, scores, names = training_rows(archive)
    weights = equal_task_weights(names)
    routers = {
        "linear": fit_linear_router(embeddings, scores, weights=weights),
        "mlp": fit_mlp_router(embeddings, scores, weights=weights),
    }
    found = means(archive, routers)
    assert min(found["linear"], found["mlp"]) >= BEST_SINGLE + 1


def cluster_fit(num_clusters, weighted, seed):
    def fit(embeddings, scores, names):
        weights = equal_task_weights(names) if weighted else None
        return fit_cluster_router(embeddings, scores, weights=weights, num_clusters=num_clusters, seed=seed)

    return fit


@pytest.mark.slow
def test_clusters_chosen_on_training_rows_beat_the_best_single_model_and_raw_scores_are_worse(archive):
    embeddings, scores, names = training_rows(archive)
    settings = [(num_clusters, weighted) for num_clusters in (5, 8, 16, 32, 64) for weighted in (False, True)]
    estimates = {}
    for setting in settings:
        fits = [cluster_fit(*setting, seed) for seed in SEEDS]
        found = [cross_validate_router(fit, embeddings, scores, names, seed=s) for s, fit in enumerate(fits)]
        estimates[setting] = np.mean(found, axis=0)
    # The fewest clusters within one standard error of the best estimate: the rest of the differences is noise.
    best, error = max(estimates.values(), key=lambda estimate: estimate[0])
    good = {setting: mean for setting, (mean, _) in estimates.items() if mean >= best - error}
    chosen = min(good, key=lambda setting: (setting[0], -good[setting]))
    raw_embeddings, raw_scores, _ = training_rows(archive, raw=True)
    routers = {f"right {seed}": cluster_fit(*chosen, seed)(embeddings, scores, names) for seed in SEEDS}
    routers |= {f"raw {seed}": cluster_fit(*chosen, seed)(raw_embeddings, raw_scores, names) for seed in SEEDS}
    found = means(archive, routers)
    right, raw = (np.mean([found[f"{kind} {seed}"] for seed in SEEDS]) for kind in ("right", "raw"))
    assert right >= 57.0
    assert right >= BEST_SINGLE + 2
    assert raw < right - 1
