"""The pure functions of kNN-Embed against slow ones and numbers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_knn_embed import slow_slots

from hf_mixture.models.knn_embed import losses
from hf_mixture.models.knn_embed.allocation import allocate_slots, spill_slots
from hf_mixture.models.knn_embed.clusters import kmeans, number_clusters
from hf_mixture.models.knn_embed.edges import EdgeDataset, NegativeCollator, make_history
from hf_mixture.models.knn_embed.growth import fold_in
from hf_mixture.models.knn_embed.mixture import keep_largest, smooth
from hf_mixture.models.knn_embed.neighbours import nearest_users
from hf_mixture.models.knn_embed.top_k import top_k


def test_slots_of_ten_thousand_mixtures_have_a_sum_of_k() -> None:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.full(10, 0.3), 10_000)
    weights[:2000] = np.round(weights[:2000] * 16)
    weights[weights.sum(axis=1) == 0, 0] = 1
    weights /= weights.sum(axis=1, keepdims=True)
    for k in (1, 7, 50):
        slots = allocate_slots(weights, k)
        assert (slots.sum(axis=1) == k).all()
        assert (slots >= 0).all()
        assert (np.abs(slots - weights * k) < 1 + 1e-9).all()
        assert slots[:300].tolist() == [slow_slots(row, k) for row in weights[:300].tolist()]


def test_ties_of_remainders_go_to_the_larger_weight_and_then_to_the_first() -> None:
    # Remainders of 1/2 everywhere: the slot left goes to 5/8.
    assert allocate_slots(np.array([[0.125, 0.625, 0.25]]), 4).tolist() == [[0, 3, 1]]
    assert allocate_slots(np.array([[0.25, 0.25, 0.5]]), 2).tolist() == [[1, 0, 1]]
    assert allocate_slots(np.array([[0.0, 0.0]]), 3).tolist() == [[0, 0]]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=6))
def test_spilled_slots_are_kept_where_there_is_room(pairs: list[tuple[int, int]]) -> None:
    slots, available = (np.array([[pair[place] for pair in pairs]]) for place in (0, 1))
    taken = spill_slots(slots, available)
    assert (taken <= available).all()
    assert (taken >= np.minimum(slots, available)).all()
    assert taken.sum() == min(slots.sum(), available.sum())


def test_spill_goes_to_the_largest_weight_first() -> None:
    assert spill_slots(np.array([[3, 2, 1]]), np.array([[4, 0, 9]])).tolist() == [[4, 0, 2]]


@pytest.mark.parametrize("width", [5, 128, 300])
def test_top_k_breaks_ties_by_the_first_column(width: int) -> None:
    rng = np.random.default_rng(width)
    scores = rng.integers(0, 6, (40, width)).astype(np.float32)
    scores[3, 2:] = -np.inf
    values, columns = top_k(torch.from_numpy(scores), 4)
    expected = [sorted(range(width), key=lambda c: (-row[c], c))[:4] for row in scores]
    there = values > -torch.inf
    assert torch.equal(columns[there], torch.tensor(expected)[there])
    assert there.sum() == 40 * 4 - 2


def test_mixture_of_five_users_by_hand() -> None:
    # Clusters of users: a (2, 0), b (1, 1), c (0, 3), d without history, e (4, 0).
    counts = sp.csr_array(np.array([[2.0, 0], [1, 1], [0, 3], [0, 0], [4, 0]]))
    neighbours = np.array([[1, 4], [0, 2], [1, -1], [0, 2], [-1, -1]])
    mean = smooth(counts, counts, smoothing="knn", neighbours=neighbours, lam=0.5).toarray()
    np.testing.assert_allclose(mean, [[0.875, 0.125], [0.5, 0.5], [0.25, 0.75], [0.5, 0.5], [1, 0]])
    pooled = smooth(counts, counts, smoothing="knn", pool="counts", neighbours=neighbours, lam=0.5).toarray()
    np.testing.assert_allclose(pooled, [[11 / 12, 1 / 12], [0.45, 0.55], [0.25, 0.75], [0.4, 0.6], [1, 0]])
    everyone = smooth(counts, counts, smoothing="global", lam=0.5).toarray()
    np.testing.assert_allclose(everyone[:2], [[9 / 11, 2 / 11], [25 / 44, 19 / 44]])
    np.testing.assert_allclose(everyone[3], [7 / 11, 4 / 11])
    alone = smooth(counts, counts, smoothing="knn", neighbours=neighbours, lam=0.0).toarray()
    np.testing.assert_allclose(
        alone[[0, 1, 2, 4]], smooth(counts, counts, smoothing="none", lam=1).toarray()[[0, 1, 2, 4]]
    )


def test_only_the_largest_weights_are_kept_and_ties_go_to_the_first_clusters() -> None:
    mixtures = sp.csr_array(np.array([[0.2, 0.3, 0.2, 0.3], [0, 0, 0, 0], [0, 1, 0, 0]]))
    indptr, clusters, weights = keep_largest(mixtures, 3)
    assert indptr.tolist() == [0, 3, 3, 4]
    assert clusters.tolist() == [1, 3, 0, 1]
    np.testing.assert_allclose(weights, [0.375, 0.375, 0.25, 1])


def test_neighbours_are_the_nearest_without_the_user_and_ties_go_to_the_first() -> None:
    table = torch.tensor([[1.0, 0], [2, 0], [0, 1], [1, 1], [-1, 0]])
    ids = torch.tensor([3, 5, 6, 8, 9])
    queries, query_ids = torch.cat([table, torch.tensor([[4.0, 0]])]), torch.tensor([3, 5, 6, 8, 9, 10])
    found = nearest_users(queries, query_ids, table, ids, 2)
    # Users 3, 5 and 10 point the same way; 10 is new.
    assert found.tolist() == [[5, 8], [3, 8], [8, 3], [3, 5], [6, 8], [3, 5]]
    assert nearest_users(queries[:1], query_ids[:1], table[:1], ids[:1], 2).tolist() == [[-1, -1]]
    assert nearest_users(queries, query_ids, table[:0], ids[:0], 1).tolist() == [[-1]] * 6


def test_approximate_neighbours_are_mostly_the_exact_ones() -> None:
    pytest.importorskip("faiss")
    vectors, ids = torch.randn(400, 8, generator=torch.Generator().manual_seed(0)), torch.arange(400)
    exact = nearest_users(vectors, ids, vectors, ids, 5)
    close = nearest_users(vectors, ids, vectors, ids, 5, search="hnsw")
    assert (close != ids.unsqueeze(1)).all()
    assert np.mean([len({*a} & {*b}) / 5 for a, b in zip(exact.tolist(), close.tolist(), strict=True)]) > 0.95


def test_kmeans_finds_groups_and_leaves_no_cluster_empty() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    rows = centres.repeat_interleave(25, 0) + 0.1 * torch.randn(100, 2, generator=generator)
    best = min(inertia(rows, kmeans(rows, 4, seed=seed)) for seed in range(5))
    assert best == pytest.approx(inertia(rows, torch.arange(4).repeat_interleave(25)))
    repeated = torch.tensor([[0.0], [0], [0], [0], [5], [6]])
    labels = kmeans(repeated, 3, seed=1)
    assert sorted(torch.bincount(labels).tolist()) == [1, 1, 4]
    with pytest.raises(ValueError, match="num_clusters=4 is more than the 3 different"):
        kmeans(repeated, 4)


def inertia(rows: torch.Tensor, labels: torch.Tensor) -> float:
    return float(sum((rows[labels == c] - rows[labels == c].mean(0)).square().sum() for c in labels.unique()))


def test_clusters_are_numbered_by_size_and_then_by_centroid() -> None:
    vectors = torch.tensor([[3.0, 0], [1, 5], [1, 2], [2, 9], [2, 9], [8, 8]])
    labels, centroids = number_clusters(torch.tensor([70, 5, 2, 9, 9, -1]), vectors)
    assert labels.tolist() == [3, 2, 1, 0, 0, -1]
    assert centroids.tolist() == [[2, 9], [1, 2], [1, 5], [3, 0]]


def test_losses_by_hand() -> None:
    scores, others = torch.tensor([1.0, -2]), torch.tensor([[0.5, 0.0], [-1, 3]])
    s = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    positive = -(math.log(s(1)) + math.log(s(-2))) / 2
    negative = -sum(math.log(s(-x)) for x in (0.5, 0, -1, 3)) / 4
    assert losses.twhin_loss(scores, others, negative_weight=10).item() == pytest.approx(positive + 10 * negative)
    softmax = [math.log(sum(map(math.exp, (own, *rest)))) - own for own, rest in ((1, (0.5, 0)), (-2, (-1, 3)))]
    assert losses.sampled_softmax_loss(scores, others).item() == pytest.approx(sum(softmax) / 2)
    pairs = [-math.log(s(own - other)) for own, rest in ((1, (0.5, 0)), (-2, (-1, 3))) for other in rest]
    assert losses.bpr_loss(scores, others).item() == pytest.approx(sum(pairs) / 4)


def test_negatives_depend_on_the_batch_alone_and_avoid_what_users_have() -> None:
    rng = np.random.default_rng(0)
    edges = EdgeDataset({"user_ids": rng.integers(0, 30, 400), "item_ids": rng.integers(0, 40, 400)}, 30, 40)
    assert edges.history.nnz == len(edges) < 400
    collate = NegativeCollator(40, num_negatives=3, shared=False, history=edges.history, seed=5)
    places = list(range(0, len(edges), 2))
    torch.manual_seed(1)
    batch = collate(edges.__getitems__(places))
    torch.manual_seed(2)
    again = collate([edges[place] for place in places])
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    known = edges.history.toarray()
    assert (known[batch["user_ids"].numpy()[:, None], batch["negatives"].numpy()] == 0).all()
    other = collate(edges.__getitems__(places[1:]))
    assert not torch.equal(other["negatives"], batch["negatives"][1:])
    assert NegativeCollator(40, num_negatives=6)(edges.__getitems__([0]))["negatives"].shape == (6,)
    many = NegativeCollator(40, num_negatives=4000)(edges.__getitems__([0]))["negatives"]
    assert torch.bincount(many, minlength=40).min() > 50


@pytest.mark.parametrize(
    ("edges", "said"),
    [
        ({"user_ids": [0]}, r"without \['item_ids'\]"),
        ({"user_ids": [0, 1], "item_ids": [0]}, "give pairs"),
        ({"user_ids": [0, 9], "item_ids": [0, 0]}, "unknown id 9 .*add_users"),
        ({"user_ids": [0, 1], "item_ids": [0, -1]}, "unknown id -1"),
        ({"user_ids": [0.5], "item_ids": [0]}, "give integers"),
        (sp.csr_array((3, 4)), r"shape \(3, 4\)"),
    ],
)
def test_malformed_edges_are_refused(edges: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_history(edges, 3, 5)


def test_what_holds_no_edges_is_refused() -> None:
    for edges in (None, [(0, 1)]):
        with pytest.raises(TypeError, match="give a Dataset or mapping"):
            make_history(edges, 3, 5)


def test_negatives_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        NegativeCollator(5, num_negatives=0)
    with pytest.raises(ValueError, match="history has no use"):
        NegativeCollator(5, history=sp.csr_array((1, 5)))


def test_a_half_step_solves_its_normal_equations() -> None:
    rng = np.random.default_rng(0)
    rows = sp.csr_array((rng.random((7, 12)) < 0.3).astype(float))
    rows.data[:] = 1
    vectors = rng.normal(size=(12, 4))
    found = fold_in(rows, torch.from_numpy(vectors), chunk=3).numpy()
    for x, y in zip(found, rows.toarray(), strict=True):
        weight = np.diag(1 + 10 * y)
        expected = np.linalg.solve(vectors.T @ weight @ vectors + np.eye(4), vectors.T @ weight @ y)
        np.testing.assert_allclose(x, expected, atol=1e-10)
