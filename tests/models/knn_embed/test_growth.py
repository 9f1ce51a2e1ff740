"""Fitted models: saving, sharing, growing, and what lists do not depend on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hub_double import running_hub
from sklearn.cluster import KMeans
from tiny_knn_embed import fitted, histories, random_edges, whole_vectors
from transformers import AutoConfig, AutoModel

from hf_mixture import KnnEmbedModel
from hf_mixture.data.clustering.ppp import ProbabilisticPartition


USERS = list(range(40))


@pytest.mark.parametrize("query", ["user", "centroid"])
def test_a_saved_model_gives_the_same_lists(query: str, tmp_path: Path) -> None:
    model, _ = fitted(query=query)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is KnnEmbedModel
    assert AutoConfig.from_pretrained(tmp_path).num_fitted_clusters == 7
    for search in ("exact", "hnsw"):
        before, after = (which.retrieve(USERS, 12, search=search) for which in (model, again))
        assert torch.equal(before.item_ids, after.item_ids)
        assert torch.equal(before.scores, after.scores)
    assert (model.mixture != again.mixture).nnz == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_gives_the_same_lists_of_whole_numbers(dtype: torch.dtype, tmp_path: Path) -> None:
    model, _ = fitted(num_clusters=5)
    model.save_pretrained(tmp_path)
    expected = model.retrieve(USERS, 30)
    halved = AutoModel.from_pretrained(tmp_path, dtype=dtype)
    np.testing.assert_allclose(halved.components(USERS)[1].sum(axis=1), model.components(USERS)[1].sum(axis=1))
    np.testing.assert_allclose(halved.mixture.toarray(), model.mixture.toarray(), atol=5e-3)
    assert (halved.retrieve(USERS, 30).item_ids == expected.item_ids).float().mean() > 0.9
    assert halved.user_table(index=False)["weights"][0] == pytest.approx(model.components([0])[1][0], abs=5e-3)
    assert halved.add_users([[1, 2], []]) == [40, 41]
    assert (halved.retrieve(USERS, 30).item_ids == expected.item_ids).float().mean() > 0.9


@pytest.mark.slow
def test_a_model_travels_over_the_hub(tmp_path: Path) -> None:
    model, _ = fitted()
    model.save_pretrained(tmp_path / "model")
    code = (
        "import sys, hf_mixture\n"
        "from transformers import AutoModel\n"
        "AutoModel.from_pretrained(sys.argv[1]).push_to_hub('someone/lists')\n"
        "print(AutoModel.from_pretrained('someone/lists').retrieve([0, 7, 39], 6).item_ids.tolist())\n"
    )
    with running_hub() as hub:
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "model")],
            env=hub.environment(tmp_path / "home"),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(str(model.retrieve([0, 7, 39], 6).item_ids.tolist()))


def test_lists_depend_on_training_edges_alone() -> None:
    """Neither order, nor doubles, nor the form of the edges matter; other edges do."""
    model, edges = fitted()
    lists, mixture = model.retrieve(USERS, 9).item_ids, model.mixture
    order = np.random.default_rng(1).permutation(len(edges["user_ids"]))
    order = np.concatenate([order, order[:20]])
    model.fit_mixture({name: ids[order] for name, ids in edges.items()})
    assert torch.equal(model.retrieve(USERS, 9).item_ids, lists)
    model.fit_mixture(sp.coo_array((np.ones(300), (edges["user_ids"], edges["item_ids"])), shape=(40, 90)))
    assert torch.equal(model.retrieve(USERS, 9).item_ids, lists)
    assert (model.mixture != mixture).nnz == 0
    model.fit_mixture({name: ids[:200] for name, ids in edges.items()})
    assert not torch.equal(model.retrieve(USERS, 9).item_ids, lists)


def test_mixtures_can_be_made_for_some_users() -> None:
    model, edges = fitted()
    lists, mixture = model.retrieve(USERS, 9).item_ids, model.mixture.toarray()
    model.fit_mixture(edges, users=[7, 3, 7])
    found = model.retrieve(USERS, 9)
    assert [user for user in USERS if found.source[user] == 0] == [3, 7]
    assert torch.equal(found.item_ids[[3, 7]], lists[[3, 7]])
    np.testing.assert_array_equal(model.mixture.toarray()[[3, 7]], mixture[[3, 7]])


def test_new_users_change_nothing_for_others() -> None:
    model, _ = fitted()
    lists, mixture = model.retrieve(USERS, 9), model.mixture.toarray()
    given = whole_vectors(np.random.default_rng(5), 1)
    assert model.add_users([[3, 5, 3, 8], []]) == [40, 41]
    assert model.add_users([[]], embeddings=given) == [42]
    assert model.config.num_users == 43
    again = model.retrieve(USERS, 9)
    assert torch.equal(again.item_ids, lists.item_ids)
    assert torch.equal(again.scores, lists.scores)
    assert np.array_equal(model.mixture.toarray()[:40], mixture)
    found = model.retrieve([40, 41, 42], 9)
    assert found.source.tolist() == [0, 2, 0]
    assert not {3, 5, 8} & {*found.item_ids[0].tolist()}
    assert model.history[[40]].indices.tolist() == [3, 5, 8]
    # The vector is that of the normal equations, and neighbours are users who were there at the fit.
    vectors = model.item_embeddings.weight.detach().double().numpy()
    edge = np.isin(np.arange(90), [3, 5, 8])
    weight = np.diag(1 + 10 * edge)
    solved = np.linalg.solve(vectors.T @ weight @ vectors + np.eye(6), vectors.T @ weight @ edge)
    np.testing.assert_allclose(model.user_vectors([40])[0], solved, atol=1e-5)
    one, _ = fitted()
    one.add_users([[3, 5, 8]])
    np.testing.assert_array_equal(one.mixture.toarray()[40], model.mixture.toarray()[40])


def test_new_items_join_the_nearest_cluster() -> None:
    model, edges = fitted()
    vector = 2 * model.cluster_centroids[4]
    assert model.add_items(embeddings=vector[None]) == [90]
    assert model.item_clusters[90] == 4
    assert model.add_items([[0, 1, 7]]) == [91]
    assert {90} <= {*model.retrieve([2], 200).item_ids[0].tolist()}
    assert 91 in model.retrieve([2], 200).item_ids[0]
    assert 91 not in model.retrieve([0], 200).item_ids[0]
    assert model.popularity[[90, 91]].tolist() == [0, 3]
    assert sorted(model.history[[7]].indices.tolist()) == sorted({*histories(edges, 40)[7], 91})


def test_a_grown_model_can_be_saved_and_trained(tmp_path: Path) -> None:
    model, _ = fitted()
    model.add_users([[1, 2]])
    model.add_items([[40, 3]])
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    ids = [*USERS, 40]
    assert torch.equal(again.retrieve(ids, 9).item_ids, model.retrieve(ids, 9).item_ids)
    again(user_ids=torch.tensor([40]), item_ids=torch.tensor([90]), negatives=torch.tensor([1])).loss.backward()
    assert again.user_embeddings.weight.grad[40].abs().sum() > 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m.add_users([[90]]), r"histories\[0\] has the unknown id 90"),
        (lambda m: m.add_users([[1]], embeddings=np.zeros((2, 6))), r"shape \(2, 6\); give \[1, 6\]"),
        (lambda m: m.add_items(), "give one of them"),
        (lambda m: m.add_items([[1], []]), r"users\[1\] is empty"),
        (lambda m: m.add_items([[41]]), "unknown id 41"),
        (lambda m: m.add_items(embeddings=np.full((1, 6), np.inf)), "not finite"),
    ],
)
def test_growth_that_cannot_be_is_refused_and_changes_nothing(call: object, said: str) -> None:
    model, _ = fitted()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=said):
        call(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="call fit_mixture"):
        KnnEmbedModel.from_embeddings(whole_vectors(rng, 2), whole_vectors(rng, 2)).add_users([[0]])


def test_estimators_can_make_the_clusters() -> None:
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(3, 6))
    items = np.repeat(centres, 30, axis=0) + 0.1 * rng.normal(size=(90, 6))
    model = KnnEmbedModel.from_embeddings(whole_vectors(rng, 40), items)
    edges = random_edges(rng, 40, 90, 500)
    for estimator in (KMeans(n_clusters=3, n_init=3, random_state=0), ProbabilisticPartition()):
        assert model.fit_mixture(edges, clusters=estimator)["num_clusters"] == 3
        for group in model.item_clusters.split(30):
            assert len({*group.tolist()} - {-1}) == 1
    with pytest.raises(TypeError, match="without predict"):
        model.fit_mixture(edges, clusters=type("Half", (), {"fit": None})())


def test_tables_have_an_index() -> None:
    pytest.importorskip("faiss")
    model, _ = fitted()
    items, users = model.item_table(), model.user_table(index=False)
    assert items.column_names == ["item_id", "cluster", "num_edges", "embedding"]
    vector = model.user_vectors([3])[0].numpy()
    scores, rows = items.get_nearest_examples("embedding", vector, k=5)
    best = (model.item_embeddings.weight.detach().numpy() @ vector).max()
    assert scores[0] == best
    assert rows["item_id"][0] in ((model.item_embeddings.weight.detach() @ vector) == best).nonzero()[:, 0]
    row = users[3]
    assert dict(zip(row["clusters"], row["weights"], strict=True)) == pytest.approx(
        {c: w for c, w in enumerate(model.mixture.toarray()[3]) if w}
    )
    assert users[39]["clusters"] == []


def test_users_who_are_added_in_turn_get_what_they_get_together(tmp_path: Path) -> None:
    together, _ = fitted()
    together.add_users([[1, 2, 3], [1, 2, 3], [4]])
    in_turn, _ = fitted()
    in_turn.add_users([[1, 2, 3]])
    in_turn.save_pretrained(tmp_path)
    in_turn = AutoModel.from_pretrained(tmp_path)
    in_turn.add_users([[1, 2, 3], [4]])
    assert (together.mixture != in_turn.mixture).nnz == 0
