"""Mixtures and lists of kNN-Embed against one user at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from slow_knn_embed import slow_list, slow_mixtures
from tiny_knn_embed import fitted, histories, whole_vectors

from hf_mixture import KnnEmbedModel


USERS = list(range(40))


def dictionaries(model: Any) -> list[dict[int, float]]:
    clusters, weights = model.components(USERS)
    return [
        {c: w for c, w in zip(row, of_row, strict=True) if c >= 0}
        for row, of_row in zip(clusters.tolist(), weights.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"smoothing": "none"},
        {"smoothing": "global", "smoothing_weight": 0.3, "max_components": 3},
        {"smoothing": "knn", "max_components": 4},
        {"smoothing": "knn", "pool": "counts", "smoothing_weight": 0.5},
    ],
)
def test_mixtures_are_those_of_one_user_at_a_time(fields: dict[str, Any]) -> None:
    model, edges = fitted(**fields)
    config = model.config
    expected = slow_mixtures(
        histories(edges, 40),
        model.item_clusters.tolist(),
        model.user_vectors().double().numpy(),
        smoothing=config.smoothing,
        pool=config.pool,
        num_neighbours=config.num_neighbours,
        lam=config.lam,
        max_components=config.max_components,
    )
    if config.smoothing == "global":
        # Only what is known of the user decides: the one without history has no embedding that means anything.
        assert expected[-1]
    for found, wanted in zip(dictionaries(model), expected, strict=True):
        assert list(found) == list(wanted)
        assert list(found.values()) == pytest.approx(list(wanted.values()), abs=1e-6)
    sums = np.asarray(model.mixture.sum(axis=1))
    assert np.abs(sums[sums > 0] - 1).max() < 1e-6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("allocation", ["proportional", "even", "pooled"])
def test_lists_are_those_of_one_user_at_a_time(seed: int, allocation: str) -> None:
    model, edges = fitted(seed, allocation=allocation)
    seen = histories(edges, 40)
    rng = np.random.default_rng(seed)
    exclude = [rng.integers(0, 90, rng.integers(0, 12)).tolist() for _ in USERS]
    mixtures = dictionaries(model)
    queries, items = model.user_vectors().numpy(), model.item_embeddings.weight.detach().numpy()
    for k in (1, 10, 60):
        found = model.retrieve(USERS, k, exclude=exclude, batch_size=17)
        for user in USERS[:-1]:
            hidden = seen[user] | set(exclude[user])
            wanted = slow_list(
                queries[user], items, model.item_clusters.tolist(), mixtures[user], hidden, k, allocation=allocation
            )
            assert found.item_ids[user, : len(wanted)].tolist() == wanted, (user, k)
            assert (found.item_ids[user, len(wanted) :] == -1).all()
            assert found.scores[user, : len(wanted)].tolist() == (items[wanted] @ queries[user]).tolist()
        assert found.source.tolist() == [0] * 39 + [2]


def test_slots_are_full_while_there_are_unseen_items() -> None:
    model, edges = fitted()
    seen = histories(edges, 40)
    catalogue = int((model.item_clusters >= 0).sum())
    for k in (5, 40, 200):
        number = (model.retrieve(USERS, k).item_ids >= 0).sum(dim=1).tolist()
        assert number == [min(k, catalogue - len(seen[user])) for user in USERS]
    everything = model.retrieve([0], 200, mask_seen=False).item_ids[0]
    assert set(everything[everything >= 0].tolist()) == set((model.item_clusters >= 0).nonzero()[:, 0].tolist())


@pytest.mark.parametrize("smoothing", ["none", "global", "knn"])
def test_one_cluster_is_the_search_of_one_vector(smoothing: str) -> None:
    model, _ = fitted(num_clusters=1, smoothing=smoothing, num_items=400, number=900)
    found, plain = model.retrieve(USERS, 20), model.retrieve(USERS, 20, method="one_vector")
    assert torch.equal(found.item_ids, plain.item_ids)
    assert torch.equal(found.scores, plain.scores)


def test_a_weight_of_zero_is_maximum_likelihood() -> None:
    model, edges = fitted(smoothing="knn", smoothing_weight=0.0)
    plain, _ = fitted(smoothing="none")
    assert (model.mixture != plain.mixture).nnz == 0
    assert torch.equal(model.retrieve(USERS[:-1], 10).item_ids, plain.retrieve(USERS[:-1], 10).item_ids)
    counts = np.zeros((40, 7))
    for user, items in enumerate(histories(edges, 40)):
        np.add.at(counts[user], model.item_clusters[list(items)].numpy(), 1)
    expected = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.testing.assert_allclose(plain.mixture.toarray(), expected, atol=1e-6)


def test_five_users_by_hand() -> None:
    """Two clusters, {0, 1, 2} along x and {3, 4, 5} along y; item 6 has no edge."""
    items = np.array([[3, 0], [2, 0], [1, 0], [0, 3], [0, 2], [0, 1], [9, 9]], dtype=np.float32)
    users = np.array([[4, 1], [3, 1], [1, 4], [1, 3], [1, 1]], dtype=np.float32)
    edges = {"user_ids": [0, 0, 1, 2, 3, 3], "item_ids": [0, 3, 1, 4, 5, 2]}
    model = KnnEmbedModel.from_embeddings(users, items, num_neighbours=1, num_clusters=2)
    report = model.fit_mixture(edges, clusters=[8, 8, 8, 1, 1, 1, 1])
    assert report["cluster_sizes"] == [3, 3]
    # Equally large clusters: the centroid (0, 1) comes before (1, 0).
    assert model.item_clusters.tolist() == [1, 1, 1, 0, 0, 0, -1]
    # Users 0 and 1, and 2 and 3, are nearest to each other; lambda is 1/2.
    np.testing.assert_allclose(
        model.mixture.toarray(), [[0.25, 0.75], [0.25, 0.75], [0.75, 0.25], [0.75, 0.25], [0, 0]]
    )
    # Three slots: 2.25 and 0.75 are 2 and 1. User 0 has 0 and 3, user 2 has 4.
    lists = model.retrieve([0, 1, 2, 3, 4], 3)
    assert lists.item_ids.tolist() == [[1, 2, 4], [0, 2, 3], [3, 5, 0], [3, 4, 0], [0, 1, 2]]
    assert lists.scores[:4].tolist() == [[8, 4, 2], [9, 3, 3], [12, 4, 3], [9, 6, 3]]
    assert lists.source.tolist() == [0, 0, 0, 0, 2]
    # With its embedding, user 4 is as near to all: 0 is the first of the nearest ones 1 and 3, at an equal angle.
    model.fit_mixture(edges, clusters=[8, 8, 8, 1, 1, 1, 1], cold_users="embedding")
    assert model.retrieve([4], 3).source.tolist() == [0]
    assert model.mixture[[4]].toarray().tolist() == [[0, 1]]


def test_the_centroid_of_the_items_of_a_user_can_search_a_cluster() -> None:
    items = np.array([[1, 0], [1, 1], [1, -4], [0.9, 0]], dtype=np.float32)
    model = KnnEmbedModel.from_embeddings(
        np.array([[1, -1.0]]), items, num_clusters=1, smoothing="none", query="centroid"
    )
    model.fit_mixture({"user_ids": [0], "item_ids": [0]}, clusters=[0] * 4)
    # Only item 0 occurs in training, unless cold items join.
    assert model.retrieve([0], 2).item_ids.tolist() == [[-1, -1]]
    model.config.cold_items = True
    model.fit_mixture({"user_ids": [0], "item_ids": [0]}, clusters=[0] * 4)
    # The centroid (1, 0) takes 1 and 2, of equal scores the first ones; the user's embedding sorts them.
    found = model.retrieve([0], 2)
    assert found.item_ids.tolist() == [[2, 1]]
    assert found.scores.tolist() == [[5, 0]]
    model.config.query = "user"
    assert model.retrieve([0], 2).item_ids.tolist() == [[2, 3]]


def test_graphs_find_what_exact_search_finds() -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(60, 16)), rng.normal(size=(3200, 16))
    edges = {"user_ids": rng.integers(0, 60, 20_000), "item_ids": rng.permutation(np.arange(20_000) % 3200)}
    model = KnnEmbedModel.from_embeddings(users, items, num_clusters=2)
    model.fit_mixture(edges)
    assert (model.item_index().starts.diff() >= 1024).all()
    seen = histories({name: np.asarray(values) for name, values in edges.items()}, 60)
    for method in ("mixture", "one_vector"):
        exact = model.retrieve(range(60), 20, method=method)
        close = model.retrieve(range(60), 20, method=method, search="hnsw")
        pairs = zip(exact.item_ids.tolist(), close.item_ids.tolist(), strict=True)
        assert np.mean([len({*a} & {*b}) / 20 for a, b in pairs]) >= 0.95
        assert all(not {*row} & seen[user] for user, row in enumerate(close.item_ids.tolist()))
        assert (close.num_scored < exact.num_scored).all()


def test_without_faiss_the_search_is_exact_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    model, _ = fitted()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.warns(UserWarning, match="needs faiss.*the search is exact"):
        found = model.retrieve(USERS, 5, search="hnsw")
    assert torch.equal(found.item_ids, model.retrieve(USERS, 5).item_ids)


def test_lists_follow_the_embeddings() -> None:
    model, _ = fitted()
    before = model.retrieve(USERS, 5, method="one_vector").item_ids
    with torch.no_grad():
        model.item_embeddings.weight.mul_(-1)
    assert not torch.equal(model.retrieve(USERS, 5, method="one_vector").item_ids, before)


def test_popularity_counts_training_edges() -> None:
    model, edges = fitted()
    counts = np.bincount([i for items in histories(edges, 40) for i in items], minlength=90)
    wanted = sorted((i for i in range(90) if counts[i]), key=lambda i: (-counts[i], i))
    assert model.retrieve([39], 6, method="popularity").item_ids[0].tolist() == wanted[:6]
    assert model.retrieve([39], 6).item_ids[0].tolist() == wanted[:6]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"user_ids": [40]}, "unknown id 40"),
        ({"user_ids": [-1]}, "unknown id -1"),
        ({"user_ids": [[0]]}, "integers in one row"),
        ({"user_ids": [0], "k": 0}, "k=0"),
        ({"user_ids": [0], "exclude": [[1], [2]]}, "exclude has 2 rows for 1 users"),
        ({"user_ids": [0], "exclude": [[90]]}, r"exclude\[0\] has the unknown id 90"),
        ({"user_ids": [0], "method": "both"}, "method='both'"),
        ({"user_ids": [0], "search": "ivf"}, "search='ivf'"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(arguments: dict[str, Any], said: str) -> None:
    model, _ = fitted()
    with pytest.raises(ValueError, match=said):
        model.retrieve(**arguments)


def test_fits_that_cannot_be_made_are_refused() -> None:
    rng = np.random.default_rng(0)
    model = KnnEmbedModel.from_embeddings(whole_vectors(rng, 3), whole_vectors(rng, 5), num_clusters=9)
    edges = {"user_ids": [0, 1], "item_ids": [0, 1]}
    with pytest.raises(ValueError, match="call fit_mixture"):
        model.retrieve([0])
    for given, said in (
        ({}, "num_clusters=9 is more than the 2"),
        ({"clusters": [0, 1]}, "one integer for each of the 5 items"),
        ({"clusters": [-1] * 5}, "no item with a training edge"),
        ({"cold_users": "guess"}, "cold_users='guess'"),
        ({"clusters": [0] * 5, "neighbour_search": "ivf"}, "search='ivf'"),
    ):
        with pytest.raises(ValueError, match=said):
            model.fit_mixture(edges, **given)
    with pytest.raises(ValueError, match="has no edge"):
        model.fit_mixture({"user_ids": [], "item_ids": []})
    with pytest.raises(ValueError, match="give equal sizes"):
        KnnEmbedModel.from_embeddings(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"users has the shape \(4,\); give one embedding in each row"):
        KnnEmbedModel.from_embeddings(np.zeros(4), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="not finite"):
        KnnEmbedModel.from_embeddings(np.full((2, 3), np.nan), np.zeros((2, 3)))
