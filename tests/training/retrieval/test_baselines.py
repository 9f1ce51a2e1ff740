"""Data, splits and baselines of retrieval runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from slow_neighbourhood import slow_item_cf, slow_user_cf

from hf_mixture.training.retrieval.data import load_graph, make_synthetic, rows_of, split_edges
from hf_mixture.training.retrieval.factorisation import als_embeddings
from hf_mixture.training.retrieval.lightgcn import LightGcn
from hf_mixture.training.retrieval.measure import CUTS, Judge
from hf_mixture.training.retrieval.mixtures import Workbench
from hf_mixture.training.retrieval.neighbourhood import item_cf_lists, popularity_lists, user_cf_lists


SHARED = Path(__file__).parents[4] / "shared" / "data" / "citation" / "hepth.npz"


def tiny() -> tuple[sp.csr_array, list[set[int]]]:
    edges = make_synthetic(seed=3, num_users=40, num_items=50, num_groups=4)
    return edges, [set(row) for row in rows_of(edges, range(40))]


@pytest.mark.parametrize("num_neighbours", [1, 5, 100])
def test_user_cf_is_that_of_one_user_at_a_time(num_neighbours: int) -> None:
    edges, history = tiny()
    users = np.array([0, 3, 4, 39])
    found = user_cf_lists(edges, users, 8, num_neighbours=num_neighbours)
    dense = edges.toarray()
    for user, row in zip(users.tolist(), found.tolist(), strict=True):
        wanted = slow_user_cf(history, user, 8, num_neighbours=num_neighbours)
        assert_same_up_to_ties(row, wanted, dense, user)


def test_item_cf_is_that_of_one_user_at_a_time() -> None:
    edges, history = tiny()
    users = np.arange(40)
    for user, row in zip(users.tolist(), item_cf_lists(edges, users, 8).tolist(), strict=True):
        assert_same_up_to_ties(row, slow_item_cf(history, user, 8), edges.toarray(), user)


def assert_same_up_to_ties(found: list[int], wanted: list[int], dense: np.ndarray, user: int) -> None:
    there = [item for item in found if item >= 0]
    assert len(there) == len(wanted) == len(set(there))
    assert not dense[user, there].any()
    # Sums in another order may exchange two neighbours in a list, or one at its end.
    assert len(set(there) & set(wanted)) >= len(wanted) - 1
    assert sum(a == b for a, b in zip(there, wanted, strict=True)) >= len(wanted) - 2


def test_popularity_leaves_out_what_is_known() -> None:
    edges, history = tiny()
    counts = edges.sum(axis=0)
    for user, row in enumerate(popularity_lists(edges, np.arange(40), 60).tolist()):
        wanted = sorted((i for i in range(50) if counts[i] and i not in history[user]), key=lambda i: (-counts[i], i))
        assert [item for item in row if item >= 0] == wanted


def test_edges_are_split_without_overlap() -> None:
    edges = make_synthetic(seed=0)
    split = split_edges(edges, seed=1, test_share=0.2, validation_share=0.25, min_history=9, max_users=50)
    assert split.test.nnz == round(0.2 * edges.nnz)
    assert split.validation.nnz == round(0.25 * (edges.nnz - split.test.nnz))
    assert (split.fit + split.validation != split.train).nnz == 0
    assert (split.train + split.test != edges).nnz == 0
    assert len(split.users) == 50
    assert (np.diff(split.train.indptr)[split.users] >= 9).all()
    assert (np.diff(split.test.indptr)[split.users] > 0).all()
    again = split_edges(edges, seed=1, test_share=0.2, validation_share=0.25, min_history=9, max_users=50)
    assert (again.test != split.test).nnz == 0
    assert (
        split_edges(edges, seed=2, test_share=0.2, validation_share=0.25, min_history=9, max_users=50).test
        != split.test
    ).nnz
    with pytest.raises(ValueError, match="no user has 500 training edges"):
        split_edges(edges, seed=1, test_share=0.2, validation_share=0.2, min_history=500, max_users=None)


def test_lists_do_not_depend_on_test_edges() -> None:
    """Other test edges of the same users, and fewer, leave all lists as they are."""
    pytest.importorskip("implicit")
    edges = make_synthetic(seed=0)
    split = split_edges(edges, seed=1, test_share=0.2, validation_share=0.2, min_history=5, max_users=None)
    assert split.train.multiply(split.test).nnz == 0
    assert split.fit.multiply(split.validation).nnz == 0
    order = np.random.default_rng(0).permutation(edges.shape[1])
    permuted = dataclasses.replace(split, test=split.test[:, order].tocsr())
    first = split.test.copy()
    first.data[first.indptr[:-1][np.diff(first.indptr) > 1]] = 0
    first.eliminate_zeros()
    fewer = dataclasses.replace(split, test=first)
    assert fewer.test.nnz < split.test.nnz
    found = []
    for given in (split, permuted, fewer):
        judge = Judge(given, "test")
        vectors = als_embeddings(judge.known, embedding_size=8, alpha=10.0, regularisation=1.0, num_rounds=3, seed=0)
        model = Workbench(*vectors, judge, 0).prepare(6, {"smoothing": "knn", "num_neighbours": 5})
        lists = [
            model.retrieve(judge.users, 10, method=method).item_ids.numpy() for method in ("mixture", "one_vector")
        ]
        lists.append(user_cf_lists(judge.known, judge.users, 10, num_neighbours=5))
        found.append((judge.users.tolist(), lists))
    for users, lists in found[1:]:
        assert users == found[0][0]
        assert all(np.array_equal(a, b) for a, b in zip(lists, found[0][1], strict=True))


def test_a_judge_counts_hits() -> None:
    edges = make_synthetic(seed=0)
    split = split_edges(edges, seed=1, test_share=0.2, validation_share=0.2, min_history=5, max_users=None)
    judge = Judge(split, "test")
    lists = popularity_lists(judge.known, judge.users, 50)
    hits, sizes = judge.hits(lists, 10)
    truth = [len({*row[:10]} & {*gold}) for row, gold in zip(lists.tolist(), judge.relevant, strict=True)]
    assert hits.tolist() == truth
    assert judge.recall(lists, 10) == pytest.approx(sum(truth) / sizes.sum())
    found = judge.all_of(dict.fromkeys(CUTS, lists), np.zeros(240, dtype=int), 240.0)
    assert found["clusters@20"] == 1.0
    assert 0 < found["recall@10"] < found["recall@20"] < found["recall@50"] < 1


def test_graphs_are_read_in_both_forms_and_directions(tmp_path: Path) -> None:
    text = tmp_path / "graph.txt"
    text.write_text("# from to\n10 20\n20 10\n30 10\n30 30\n30 20\n", encoding="utf-8")
    expected = np.array([[0, 1, 0], [1, 0, 0], [1, 1, 0]])
    assert (load_graph(str(text)).toarray() == expected).all()
    assert (load_graph(str(text), direction="reversed").toarray() == expected.T).all()
    np.savez(tmp_path / "graph.npz", indptr=np.array([0, 1, 2, 5]), indices=np.array([1, 0, 0, 1, 2]))
    assert (load_graph(str(tmp_path / "graph.npz")).toarray() == expected).all()
    np.savez(tmp_path / "bad.npz", indptr=np.array([0]))
    (tmp_path / "bad.txt").write_text("1 2 3\n", encoding="utf-8")
    for name, said in (
        ("bad.npz", "has no array"),
        ("bad.txt", "3 numbers on a line"),
        ("none.txt", "interactions.path=.*is not a file"),
    ):
        with pytest.raises(ValueError, match=said):
            load_graph(str(tmp_path / name))


def test_propagation_is_the_mean_over_layers() -> None:
    edges, _ = tiny()
    torch.manual_seed(0)
    model = LightGcn(edges, embedding_size=4, num_layers=3, penalty=0.1)
    both = np.block([[np.zeros((40, 40)), edges.toarray()], [edges.toarray().T, np.zeros((50, 50))]])
    degrees = np.maximum(both.sum(axis=1), 1)
    graph = both / np.sqrt(degrees[:, None] * degrees)
    first = model.embeddings.detach().clone().double().requires_grad_()
    powers = [torch.linalg.matrix_power(torch.from_numpy(graph), power) for power in range(4)]
    mean = sum(power @ first for power in powers) / 4
    batch = {"user_ids": torch.tensor([0, 7]), "item_ids": torch.tensor([3, 9]), "negatives": torch.tensor([[1], [2]])}
    users, items = mean[:40], mean[40:]
    query = users[batch["user_ids"]]
    gain = (query * (items[batch["item_ids"]] - items[batch["negatives"][:, 0]])).sum(1)
    rows = (batch["user_ids"], 40 + batch["item_ids"], 40 + batch["negatives"])
    loss = -torch.sigmoid(gain).log().mean() + 0.1 * sum(first[r].square().sum(-1).mean() for r in rows)
    found = model(**batch)["loss"]
    assert found.item() == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    found.backward()
    torch.testing.assert_close(model.embeddings.grad.double(), first.grad, atol=1e-6, rtol=1e-4)


def test_factorisation_solves_for_its_users() -> None:
    pytest.importorskip("implicit")
    edges, _ = tiny()
    users, items = als_embeddings(edges, embedding_size=6, alpha=5.0, regularisation=0.5, num_rounds=60, seed=0)
    table, dense = items.astype(np.float64), edges.toarray()
    for user in (0, 17):
        weight = np.diag(1 + 5.0 * dense[user])
        solved = np.linalg.solve(table.T @ weight @ table + 0.5 * np.eye(6), table.T @ weight @ dense[user])
        np.testing.assert_allclose(users[user], solved, atol=0.05)


@pytest.mark.slow
def test_baselines_of_the_citation_graph_are_the_measured_ones() -> None:
    """Recall at 10 on a random split of 90 to 10: user-CF .467, item-CF .444, popularity .044."""
    if not SHARED.exists():
        pytest.skip("hepth.npz is not in ../shared")
    edges = load_graph(str(SHARED))
    split = split_edges(edges, seed=0, test_share=0.1, validation_share=0.1, min_history=5, max_users=3000)
    judge = Judge(split, "test")
    assert judge.recall(user_cf_lists(judge.known, judge.users, 10, num_neighbours=10), 10) == pytest.approx(
        0.467, abs=0.01
    )
    assert judge.recall(item_cf_lists(judge.known, judge.users, 10), 10) == pytest.approx(0.444, abs=0.01)
    assert judge.recall(popularity_lists(judge.known, judge.users, 10), 10) == pytest.approx(0.044, abs=0.005)
