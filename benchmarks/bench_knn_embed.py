"""Lists for many users by kNN-Embed: all at once, against a loop over the users.

Candidates give the same lists of K items for the same users of a fitted model: `retrieve`; a loop over the users that
searches each of their clusters with numpy; `retrieve` by one vector, which scores all items; and, with faiss, an HNSW
graph for one vector. The graph is built before the measurement.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from common import compare, print_table, summarise, time_interleaved, write

from hf_mixture import KnnEmbedModel
from hf_mixture.models.knn_embed.allocation import allocate_slots
from hf_mixture.models.knn_embed.ann import has_faiss


def make_model(given: Any) -> KnnEmbedModel:
    """Users with a few interests among groups of items, and edges that follow them."""
    rng = np.random.default_rng(0)
    groups = rng.normal(size=(200, given.size)).astype(np.float32)
    group = rng.integers(0, 200, given.items)
    items = groups[group] + 0.5 * rng.normal(size=(given.items, given.size)).astype(np.float32)
    interests = rng.integers(0, 200, (given.users, 4))
    users = groups[interests].mean(axis=1) + 0.1 * rng.normal(size=(given.users, given.size)).astype(np.float32)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(201))
    wanted = interests[np.arange(given.users).repeat(12), rng.integers(0, 4, given.users * 12)]
    offset = (rng.random(len(wanted)) * np.diff(starts)[wanted]).astype(int)
    edges = {"user_ids": np.arange(given.users).repeat(12), "item_ids": order[starts[wanted] + offset]}
    model = KnnEmbedModel.from_embeddings(users, items, num_clusters=given.clusters, cold_items=True)
    model.fit_mixture(edges)
    return model


def loop_over_users(model: KnnEmbedModel, users: np.ndarray, k: int) -> np.ndarray:
    """The same lists, one user after another."""
    vectors = model.item_embeddings.weight.detach().numpy()
    clusters = model.item_clusters.numpy()
    members = [np.flatnonzero(clusters == cluster) for cluster in range(model.config.num_fitted_clusters)]
    queries = model.user_vectors(users).numpy()
    components, weights = model.components(users)
    indptr, history = model.history_indptr.numpy(), model.history_items.numpy()
    lists = np.full((len(users), k), -1)
    for row, user in enumerate(users):
        slots = allocate_slots(weights[row : row + 1], k)[0]
        seen = history[indptr[user] : indptr[user + 1]]
        candidates = []
        for cluster in components[row][components[row] >= 0]:
            found = members[cluster][~np.isin(members[cluster], seen)]
            scores = vectors[found] @ queries[row]
            order = np.argsort(-scores, kind="stable")[:k]
            candidates.append((found[order], scores[order]))
        taken = [min(slot, len(found)) for slot, (found, _) in zip(slots, candidates, strict=False)]
        missing = int(slots.sum()) - sum(taken)
        for place, (found, _) in enumerate(candidates):
            more = min(missing, len(found) - taken[place])
            taken[place] += more
            missing -= more
        items = np.concatenate([found[:n] for n, (found, _) in zip(taken, candidates, strict=True)])
        scores = np.concatenate([score[:n] for n, (_, score) in zip(taken, candidates, strict=True)])
        if missing:
            hidden = np.zeros(len(vectors), dtype=bool)
            hidden[seen], hidden[items] = True, True
            all_scores = np.where(hidden | (clusters < 0), -np.inf, vectors @ queries[row])
            more = np.argsort(-all_scores, kind="stable")[:missing]
            items, scores = np.concatenate([items, more]), np.concatenate([scores, all_scores[more]])
        lists[row] = items[np.lexsort((items, -scores))]
    return lists


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=28_000)
    parser.add_argument("--clusters", type=int, default=500)
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--dry-run", action="store_true", help="print the table without writing results")
    given = parser.parse_args()
    torch.set_num_threads(2)
    model = make_model(given)
    users = np.arange(given.users)
    fast = model.retrieve(users, given.k)
    slow = loop_over_users(model, users, given.k)
    # Products of other shapes may differ in their last bits, which exchanges neighbours that are as good as equal.
    same = float((fast.item_ids.numpy() == slow).mean())
    assert same > 0.999, same
    candidates = {
        "retrieve": lambda: model.retrieve(users, given.k),
        "loop over users": lambda: loop_over_users(model, users, given.k),
        "one vector": lambda: model.retrieve(users, given.k, method="one_vector"),
    }
    scored = {"retrieve": float(fast.num_scored.mean()), "loop over users": float(fast.num_scored.mean())}
    scored["one vector"] = float(model.retrieve(users[:100], given.k, method="one_vector").num_scored.mean())
    times = time_interleaved(candidates, rounds=given.rounds, warmup=1)
    overlap = None
    if has_faiss():
        # An index is kept for one kind of search, so that this one has rounds of its own.
        graph = model.retrieve(users, given.k, method="one_vector", search="hnsw")
        exact = model.retrieve(users, given.k, method="one_vector").item_ids.tolist()
        pairs = zip(graph.item_ids.tolist(), exact, strict=True)
        overlap = float(np.mean([len({*a} & {*b}) / given.k for a, b in pairs]))
        scored["one vector, HNSW"] = float(graph.num_scored.mean())
        model.retrieve(users[:10], given.k, method="one_vector", search="hnsw")
        more = time_interleaved(
            {"one vector, HNSW": lambda: model.retrieve(users, given.k, method="one_vector", search="hnsw")},
            rounds=given.rounds,
            warmup=0,
        )
        times.wall.update(more.wall)
        times.cpu.update(more.cpu)
    ratios, wall_ratios = compare(times.cpu, "retrieve"), compare(times.wall, "retrieve")
    seconds = {name: summarise(samples) for name, samples in times.cpu.items()}
    wall = {name: summarise(samples) for name, samples in times.wall.items()}
    print_table(
        ["candidate", "CPU s", "wall s", "scored items per user"],
        [
            [name, f"{row['median']:.2f}", f"{wall[name]['median']:.2f}", f"{scored[name]:,.0f}"]
            for name, row in seconds.items()
        ],
    )
    print_table(
        ["ratio", "CPU time", "time, 2 threads"],
        [[name, f"{row['median']:.3f}", f"{wall_ratios[name]['median']:.3f}"] for name, row in ratios.items()],
    )
    print(f"equal places of the lists of retrieve and the loop: {same:.6f}; overlap of HNSW with exact: {overlap}")
    if not given.dry_run:
        write(
            "knn_embed",
            {
                "setting": {
                    "users": given.users,
                    "items": given.items,
                    "clusters": given.clusters,
                    "embedding_size": given.size,
                    "k": given.k,
                },
                "note": "Ratios are within interleaved rounds, with two threads; HNSW has rounds of its own.",
                "cpu_seconds": seconds,
                "wall_seconds": wall,
                "cpu_time_ratios": ratios,
                "time_ratios": wall_ratios,
                "scored_items": scored,
                "equal_places": same,
                "hnsw_overlap": overlap,
            },
        )


if __name__ == "__main__":
    main()
