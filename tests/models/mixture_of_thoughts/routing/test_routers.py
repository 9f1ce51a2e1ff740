"""Routers on scored queries: what they learn, what they weigh, and what they refuse."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from hf_mixture.models.mixture_of_thoughts.routing import (
    ClusterRouter,
    cross_validate_router,
    equal_task_weights,
    evaluate_query_routers,
    fit_best_single,
    fit_cluster_router,
    fit_linear_router,
    fit_mlp_router,
)


FITS = {
    "clusters": lambda *arrays, **given: fit_cluster_router(*arrays, num_clusters=3, **given),
    "linear": fit_linear_router,
    "mlp": lambda *arrays, **given: fit_mlp_router(*arrays, num_steps=60, **given),
}


def topics(num_queries=90, num_features=8, seed=0):
    """Queries about three topics, each answered best by one expert; the fourth is second everywhere."""
    generator = np.random.default_rng(seed)
    topic = np.arange(num_queries) % 3
    embeddings = 3 * np.eye(3, num_features)[topic] + generator.normal(size=(num_queries, num_features)) / 3
    scores = np.concatenate([np.eye(3)[topic], np.full((num_queries, 1), 0.5)], axis=1)
    return embeddings, scores, topic


@pytest.mark.parametrize("name", FITS)
def test_routers_find_the_expert_of_each_topic(name):
    embeddings, scores, _ = topics()
    router = FITS[name](embeddings, scores)
    unseen, _, topic = topics(seed=1)
    chosen = router(unseen)
    assert chosen.shape == (90, 4)
    assert (chosen.argmax(-1) == topic).mean() > 0.97
    np.testing.assert_array_equal(chosen, FITS[name](embeddings, scores)(unseen))


@pytest.mark.parametrize("name", FITS)
def test_a_query_of_weight_two_counts_as_two(name):
    embeddings, scores, topic = topics(30)
    weights = np.where(topic == 0, 2.0, 1.0)
    # Weights decide which of two conflicting answers to the same queries a router learns.
    both = np.concatenate([embeddings, embeddings])
    conflict = np.concatenate([scores, scores[:, ::-1]])
    for heavy in (0, 1):
        shares = np.concatenate([weights * (20 if heavy == 0 else 1), weights * (20 if heavy == 1 else 1)])
        chosen = FITS[name](both, conflict, weights=shares)(embeddings).argmax(-1)
        assert (chosen == (topic if heavy == 0 else 3 - topic)).mean() > 0.97


def test_the_best_single_expert_has_the_best_weighted_mean():
    embeddings, scores = np.zeros((3, 2)), np.array([[1.0, 0.0], [0.0, 0.6], [0.0, 0.6]])
    assert fit_best_single(embeddings, scores)(embeddings[:1]).tolist() == [[1 / 3, pytest.approx(0.4)]]
    assert fit_best_single(embeddings, scores, weights=[6, 1, 1])(embeddings).argmax(-1).tolist() == [0, 0, 0]


def slow_cluster_scores(router, query):
    """The published rule, one cluster and one expert at a time."""
    query = query / np.linalg.norm(query)
    half_squares = [((query - centre) ** 2).sum() / 2 for centre in router.centres]
    nearest = sorted(range(len(half_squares)), key=half_squares.__getitem__)[: router.num_nearest]
    weights = [np.exp(-router.beta * half_squares[cluster]) for cluster in nearest]
    scores = []
    for expert in range(router.means.shape[1]):
        total = 0.0
        for cluster, weight in zip(nearest, weights, strict=True):
            means = router.means[cluster].tolist()
            rank = sorted(range(len(means)), key=lambda other, means=means: -means[other]).index(expert)
            total += weight / sum(weights) / (rank + 0.1)
        scores.append(total)
    return scores


@pytest.mark.parametrize("num_nearest", [1, 3, 7])
def test_cluster_scores_are_those_of_the_rule(num_nearest):
    generator = np.random.default_rng(0)
    embeddings, scores = generator.normal(size=(60, 5)), generator.integers(0, 2, (60, 4))
    router = fit_cluster_router(embeddings, scores, num_clusters=7, num_nearest=num_nearest, beta=2.0)
    queries = generator.normal(size=(20, 5))
    expected = [slow_cluster_scores(router, query) for query in queries]
    np.testing.assert_allclose(router(queries), expected, rtol=1e-12)


def test_for_centres_of_length_one_the_rule_is_that_of_avengers():
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(6, 5))
    centres /= np.linalg.norm(centres, axis=-1, keepdims=True)
    means, query = generator.random((6, 4)), generator.normal(size=5)
    distances = 1 - centres @ (query / np.linalg.norm(query))
    weights = np.exp(-3 * np.sort(distances)[:2])
    ranks = (-means[np.argsort(distances)[:2]]).argsort(-1).argsort(-1)
    expected = weights / weights.sum() @ (1 / (ranks + 0.1))
    np.testing.assert_allclose(ClusterRouter(centres, means, 2, 3.0)(query[None])[0], expected)


def test_means_of_clusters_are_weighted_and_a_query_belongs_to_the_cluster_of_kmeans():
    generator = np.random.default_rng(1)
    embeddings, scores, weights = generator.normal(size=(80, 6)), generator.random((80, 3)), generator.random(80)
    router = fit_cluster_router(embeddings, scores, weights=weights, num_clusters=5, seed=4)
    unit = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    kmeans = KMeans(5, n_init=1, random_state=4, algorithm="lloyd", max_iter=1000).fit(unit, sample_weight=weights)
    np.testing.assert_allclose(router.centres, kmeans.cluster_centers_, atol=1e-6)
    for cluster in range(5):
        members = kmeans.labels_ == cluster
        expected = np.average(scores[members], axis=0, weights=weights[members])
        np.testing.assert_allclose(router.means[cluster], expected)
    best = router.means.argmax(-1)[kmeans.predict(unit)]
    np.testing.assert_array_equal(router(embeddings).argmax(-1), best)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_fewer_different_queries_than_clusters_leave_no_empty_cluster():
    embeddings, scores = np.tile(np.eye(2), (5, 1)), np.tile(np.eye(2), (5, 1))
    router = fit_cluster_router(embeddings, scores, num_clusters=6, num_nearest=4)
    assert len(router.centres) == 2
    assert np.isfinite(router(np.ones((1, 2)))).all()


def test_the_linear_router_is_the_ridge_solution():
    generator = np.random.default_rng(2)
    embeddings, scores, weights = generator.normal(size=(40, 5)), generator.random((40, 3)), generator.random(40)
    router = fit_linear_router(embeddings, scores, weights=weights, alphas=[2.0])
    shares = weights / weights.mean()
    x = embeddings - np.average(embeddings, axis=0, weights=shares)
    y = scores - np.average(scores, axis=0, weights=shares)
    expected = np.linalg.solve(x.T @ (shares[:, None] * x) + 2 * np.eye(5), x.T @ (shares[:, None] * y))
    np.testing.assert_allclose(router.coefficients, expected, rtol=1e-8)
    assert fit_linear_router(embeddings, scores[:, :1])(embeddings).shape == (40, 1)


def test_fitting_a_network_leaves_the_global_generator_alone():
    embeddings, scores, _ = topics(30)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.no_grad():
        fit_mlp_router(embeddings, scores, num_steps=2)
    assert torch.equal(torch.rand(3), expected)


def test_the_table_is_the_mean_of_what_is_chosen():
    generator = np.random.default_rng(3)
    tasks = {name: (generator.normal(size=(n, 4)), generator.random((n, 3))) for name, n in (("a", 20), ("b", 7))}
    routers = {"first features": lambda embeddings: np.asarray(embeddings)[:, :3]}
    table = evaluate_query_routers(routers, tasks, expert_names=["x", "y", "z"])
    assert [row["router"] for row in table] == ["x", "y", "z", "random", "oracle", "first features"]
    for task, (embeddings, scores) in tasks.items():
        picks = [max(range(3), key=lambda expert, e=e: e[expert]) for e in embeddings]
        expected = [
            *(np.mean([s[expert] for s in scores]) for expert in range(3)),
            np.mean([sum(s) / 3 for s in scores]),
            np.mean([max(s) for s in scores]),
            np.mean([s[pick] for s, pick in zip(scores, picks, strict=True)]),
        ]
        assert [row[task] for row in table] == pytest.approx(expected)
    # Each task counts once, however many queries it has.
    assert [row["mean"] for row in table] == pytest.approx([(row["a"] + row["b"]) / 2 for row in table])


def test_cross_validation_chooses_for_every_query_once_without_having_seen_it():
    embeddings = np.arange(24.0)[:, None]
    tasks = np.array(["many"] * 18 + ["few"] * 6)
    held_out = []

    def fit(seen, scores, names):
        assert sorted(set(names)) == ["few", "many"]
        assert len(seen) == len(scores) == 16

        def router(queries):
            assert not set(queries[:, 0]) & set(seen[:, 0])
            held_out.extend(queries[:, 0].tolist())
            return np.tile([1.0, 0.0], (len(queries), 1))

        return router

    scores = np.stack([np.arange(24.0), np.zeros(24)], axis=1)
    found = cross_validate_router(fit, embeddings, scores, tasks, num_folds=3)
    assert sorted(held_out) == list(range(24))
    assert found.mean == pytest.approx((np.arange(18).mean() + np.arange(18, 24).mean()) / 2)
    errors = [np.arange(count).std(ddof=1) / count**0.5 for count in (18, 6)]
    assert found.standard_error == pytest.approx(np.hypot(*errors) / 2)


def test_equal_task_weights_sum_to_the_same_for_each_task():
    tasks = np.array(["a"] * 5 + ["b"] * 2 + ["c"])
    weights = equal_task_weights(tasks)
    assert [weights[tasks == name].sum() for name in "abc"] == pytest.approx([8 / 3] * 3)


@pytest.mark.parametrize("fit", [fit_best_single, fit_cluster_router, fit_linear_router, fit_mlp_router])
def test_queries_that_do_not_fit_are_named(fit):
    embeddings, scores, _ = topics(30)
    with pytest.raises(ValueError, match=r"embeddings of shape \(30,\) must be a matrix"):
        fit(embeddings[:, 0], scores)
    with pytest.raises(ValueError, match=r"scores of shape \(29, 4\) must .* each of the 30 embeddings"):
        fit(embeddings, scores[1:])
    with pytest.raises(ValueError, match="scores must be finite"):
        fit(embeddings, np.where(scores > 0.9, np.nan, scores))
    for weights in (np.ones(29), -np.ones(30), np.zeros(30)):
        with pytest.raises(ValueError, match=r"weights of shape .* not all 0"):
            fit(embeddings, scores, weights=weights)


@pytest.mark.parametrize("name", [*FITS, "single"])
def test_a_router_refuses_embeddings_of_another_encoder(name):
    embeddings, scores, _ = topics(30)
    router = {**FITS, "single": fit_best_single}[name](embeddings, scores)
    with pytest.raises(ValueError, match="5 features and the router was fitted on 8"):
        router(embeddings[:, :5])


def test_settings_out_of_range_are_named():
    embeddings, scores, _ = topics(30)
    with pytest.raises(ValueError, match="num_clusters=31 must be from 1 to 30"):
        fit_cluster_router(embeddings, scores, num_clusters=31)
    with pytest.raises(ValueError, match="num_nearest=4 must be from 1 to num_clusters=3"):
        fit_cluster_router(embeddings, scores, num_clusters=3, num_nearest=4)
    with pytest.raises(ValueError, match="beta=0 must be above 0"):
        fit_cluster_router(embeddings, scores, num_clusters=3, beta=0)
    with pytest.raises(ValueError, match=r"alphas=\[\] must be numbers above 0"):
        fit_linear_router(embeddings, scores, alphas=[])
    with pytest.raises(ValueError, match="temperature=0 and"):
        fit_mlp_router(embeddings, scores, temperature=0)
    with pytest.raises(ValueError, match="num_steps=0"):
        fit_mlp_router(embeddings, scores, num_steps=0)
    with pytest.raises(ValueError, match="dropout=1 must"):
        fit_mlp_router(embeddings, scores, dropout=1)
    with pytest.raises(ValueError, match="tasks is empty"):
        equal_task_weights([])


def test_tables_that_cannot_be_made_are_refused():
    embeddings, scores, _ = topics(30)
    single, tasks = fit_best_single(embeddings, scores), {"a": (embeddings, scores)}
    with pytest.raises(ValueError, match="tasks is empty"):
        evaluate_query_routers({}, {})
    with pytest.raises(ValueError, match="must not be named"):
        evaluate_query_routers({}, {"mean": (embeddings, scores)})
    with pytest.raises(ValueError, match=r"numbers of experts are \{'a': 4, 'b': 3\}"):
        evaluate_query_routers({}, {**tasks, "b": (embeddings, scores[:, :3])})
    with pytest.raises(ValueError, match="expert_names has 1 entries for 4 experts"):
        evaluate_query_routers({}, tasks, expert_names=["x"])
    with pytest.raises(ValueError, match="the names 'oracle' are used twice"):
        evaluate_query_routers({"oracle": single}, tasks)
    with pytest.raises(ValueError, match=r"'short' returned scores of shape \(30,\)"):
        evaluate_query_routers({"short": lambda embeddings: np.zeros(len(embeddings))}, tasks)
    with pytest.raises(ValueError, match="tasks of shape"):
        cross_validate_router(fit_best_single, embeddings, scores, ["a"])
    with pytest.raises(ValueError, match="num_folds=31 must be from 2 to 30, the number of queries of 'a'"):
        cross_validate_router(fit_best_single, embeddings, scores, ["a"] * 30, num_folds=31)


def test_a_missing_library_is_named(monkeypatch):
    embeddings, scores, _ = topics(30)
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(
        ImportError, match=r'fit_cluster_router needs the package .* pip install "hf-mixture\[search\]"'
    ):
        fit_cluster_router(embeddings, scores, num_clusters=3)
