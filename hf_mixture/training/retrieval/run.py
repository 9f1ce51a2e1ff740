"""`hf-mixture retrieve`: embeddings, mixtures on them, and baselines on one split, in parts that are journaled.

Parts: the baselines; for each of the embeddings the choice of its settings and of its mixtures on validation; the
study of the embeddings that have one; for each seed and each of the embeddings the measurement on the test. A run
that is killed continues at the part it was in, and a final training at its last checkpoint.
"""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.damage import reading
from hf_mixture.hub.reading import read_arrays
from hf_mixture.training.journal import Journal, begin
from hf_mixture.training.retrieval.data import Split, load_graph, make_synthetic, split_edges
from hf_mixture.training.retrieval.recipe import InteractionSpec, RetrievalRecipe


def retrieval_recipe(
    recipe: RetrievalRecipe, *, resume: bool = False, dry_run: bool = False, command: str = ""
) -> dict[str, Any]:
    """Run a recipe.

    Args:
        recipe: The recipe.
        resume: Continue the run in the recipe's output folder; without one there, begin it.
        dry_run: Only print the plan; nothing is written.
        command: The command, for report and card.

    Returns:
        The content of `results.json`; empty for a dry run.

    Raises:
        ValueError: If the data are missing or do not fit the recipe, or the output folder holds something else.
        RuntimeError: If the saved model does not give the lists that it gave before.
    """
    from hf_mixture.training.retrieval.outcome import conclude

    split = load_split(recipe.interactions)
    present = int((np.bincount(split.fit.indices) > 0).sum())
    if min(recipe.mixtures.num_clusters) > present // 2:
        raise ValueError(
            f"mixtures.num_clusters={recipe.mixtures.num_clusters} are all more than half of the {present} items with "
            "edges to learn from; lower them"
        )
    print(describe(recipe, split), flush=True)
    if dry_run:
        return {}
    journal = begin(recipe, resume=resume)
    _part(journal, "baselines", lambda: _baselines(recipe, split))
    for name in recipe.embeddings:
        _part(journal, f"choose {name}", lambda name=name: _choose_embedding(recipe, journal, split, name))
        _part(journal, f"mixtures {name}", lambda name=name: _choose_mixtures(recipe, journal, split, name))
    for seed in recipe.seeds:
        for name in recipe.embeddings:
            _part(journal, f"{name} {seed}", lambda name=name, seed=seed: _measure(recipe, journal, split, name, seed))
    for name in recipe.study:
        _part(journal, f"study {name}", lambda name=name: _study(recipe, journal, split, name))
    return conclude(recipe, journal, split, command)


def load_split(spec: InteractionSpec) -> Split:
    """Read the edges and split them.

    Args:
        spec: Which.

    Returns:
        The split.

    Raises:
        ValueError: If the data are missing or malformed, or no user can be measured.
    """
    if spec.source == "graph":
        edges = load_graph(str(spec.path), direction=spec.direction)
    elif spec.source == "movielens":
        from hf_mixture.training.retrieval.movielens import load_movielens

        edges = load_movielens(min_rating=spec.min_rating)
    else:
        edges = make_synthetic(seed=spec.seed)
    return split_edges(
        edges,
        seed=spec.seed,
        test_share=spec.test_share,
        validation_share=spec.validation_share,
        min_history=spec.min_history,
        max_users=spec.max_users,
    )


def describe(recipe: RetrievalRecipe, split: Split) -> str:
    """Format a plan for people."""
    num_users, num_items = split.train.shape
    lines = [f"{recipe.name}: {recipe.description.strip()}".rstrip(" :"), ""]
    lines += [
        f"output folder  {recipe.output_dir}",
        f"edges          {split.fit.nnz:,} to fit, {split.validation.nnz:,} to choose by, {split.test.nnz:,} to test; "
        f"{num_users:,} users, {num_items:,} items",
        f"measured       {len(split.users):,} users",
        f"embeddings     {', '.join(recipe.embeddings)}; seeds {', '.join(map(str, recipe.seeds))}",
    ]
    return "\n".join(lines)


def _part(journal: Journal, name: str, work: Any) -> None:
    if name in journal.finished:
        return
    print(f"\n== {name}", flush=True)
    began = time.process_time()
    measured = work()
    journal.finish(name, {**measured, "part_cpu_seconds": time.process_time() - began})


def _baselines(recipe: RetrievalRecipe, split: Split) -> dict[str, Any]:
    from hf_mixture.training.retrieval.measure import CUTS, Judge
    from hf_mixture.training.retrieval.neighbourhood import item_cf_lists, popularity_lists, user_cf_lists

    validation, test = Judge(split, "validation"), Judge(split, "test")
    tried = {
        k: validation.recall(user_cf_lists(validation.known, validation.users, 10, num_neighbours=k), 10)
        for k in recipe.user_cf
    }
    best = max(tried, key=lambda k: tried[k])
    clusters = reference_clusters(test)
    found: dict[str, Any] = {"user_cf_tried": tried, "user_cf_chosen": best}
    for name, lists in (
        ("popularity", popularity_lists(test.known, test.users, CUTS[-1])),
        *(
            (f"user-CF, k={k}", user_cf_lists(test.known, test.users, CUTS[-1], num_neighbours=k))
            for k in recipe.user_cf
        ),
        ("item-CF", item_cf_lists(test.known, test.users, CUTS[-1])),
    ):
        # These lists are nested: their beginnings are the shorter ones.
        found[name] = test.all_of(dict.fromkeys(CUTS, lists), clusters, float(split.train.shape[1]))
    return found


def reference_clusters(judge: Any) -> Any:
    """Clusters that no compared model has made: k-means on the items' users, reduced to 32 numbers [I].

    Args:
        judge: Says which edges.

    Returns:
        Clusters, -1 for items without users.
    """
    import torch
    from scipy import sparse
    from scipy.sparse.linalg import svds

    from hf_mixture.models.knn_embed.clusters import labels_of, normalise

    items = judge.known.T.tocsr().astype(np.float64)
    lengths = np.sqrt(np.maximum(np.asarray(items.sum(axis=1)).ravel(), 1))
    size = min(32, min(items.shape) - 1)
    start = np.random.default_rng(0).standard_normal(min(items.shape))
    left, values, _ = svds(sparse.diags_array(1 / lengths) @ items, k=size, v0=start)
    present = torch.from_numpy(np.diff(items.indptr) > 0)
    vectors = normalise(torch.from_numpy(left * values).float())
    return labels_of(None, vectors, present, max(2, min(100, int(present.sum()) // 4)), 0).numpy()


def _choose_embedding(recipe: RetrievalRecipe, journal: Journal, split: Split, name: str) -> dict[str, Any]:
    """Try the candidates of an embedding, and the numbers of steps, by recall at 10 of one vector on validation."""
    from hf_mixture.training.retrieval.embed import WatchValidation, make_embeddings
    from hf_mixture.training.retrieval.measure import Judge

    judge = Judge(split, "validation")
    tried, best, vectors = [], -1.0, None
    for place, spec in enumerate(recipe.embeddings[name].alternatives):
        folder = journal.folder / "checkpoints" / f"choose-{name}-{place}"
        # The curve is not in a checkpoint, so that this training begins again.
        shutil.rmtree(folder, ignore_errors=True)
        watch = WatchValidation(judge, spec.eval_steps)
        users, items, took = make_embeddings(spec, split.fit, seed=recipe.seeds[0], folder=folder, watch=watch)
        if not watch.curve:
            watch.measure(took["num_steps"], users, items)
        entry = {"options": spec.options, "curve": watch.curve, "steps": watch.best_step, "recall@10": watch.best}
        tried.append({**entry, "cpu_seconds": took["cpu_seconds"]})
        print(f"   {spec.options}: {watch.best:.4f} after {watch.best_step} steps", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        if watch.best > best:
            best, vectors = watch.best, watch.vectors
    assert vectors is not None  # noqa: S101 - a recall is above -1
    save_vectors(journal.folder / "vectors" / f"choose-{name}.npz", *vectors)
    chosen = max(range(len(tried)), key=lambda place: float(tried[place]["recall@10"]))
    return {"tried": tried, "chosen": chosen, "steps": tried[chosen]["steps"]}


def _choose_mixtures(recipe: RetrievalRecipe, journal: Journal, split: Split, name: str) -> dict[str, Any]:
    from hf_mixture.training.retrieval.measure import Judge
    from hf_mixture.training.retrieval.mixtures import Workbench, choose_mixtures

    vectors = load_vectors(journal.folder / "vectors" / f"choose-{name}.npz")
    return choose_mixtures(Workbench(*vectors, Judge(split, "validation"), recipe.seeds[0]), recipe.mixtures)


def _measure(recipe: RetrievalRecipe, journal: Journal, split: Split, name: str, seed: int) -> dict[str, Any]:
    """Make the embeddings of one seed of all training edges, and measure one vector and the chosen mixtures."""
    from hf_mixture.training.retrieval.embed import make_embeddings
    from hf_mixture.training.retrieval.measure import Judge, lists_of_cuts
    from hf_mixture.training.retrieval.mixtures import Workbench

    choice = journal.finished[f"choose {name}"]
    spec = recipe.embeddings[name].alternatives[choice["chosen"]]
    folder = journal.folder / "checkpoints" / f"{name}-{seed}"
    users, items, took = make_embeddings(spec, split.train, seed=seed, folder=folder, num_steps=choice["steps"])
    save_vectors(journal.folder / "vectors" / f"{name}-{seed}.npz", users, items)
    shutil.rmtree(folder, ignore_errors=True)
    judge = Judge(split, "test")
    bench = Workbench(users, items, judge, seed)
    clusters = reference_clusters(judge)
    found: dict[str, Any] = {"cpu_seconds": took["cpu_seconds"]}
    for smoothing, fields in journal.finished[f"mixtures {name}"]["chosen"].items():
        model = bench.prepare(fields["num_clusters"], {k: v for k, v in fields.items() if k != "num_clusters"})
        methods = {smoothing: "mixture"}
        if "one_vector" not in found:
            methods["one_vector"] = "one_vector"
        for row, method in methods.items():
            lists, num_scored = lists_of_cuts(model, judge.users, method)
            found[row] = judge.all_of(lists, clusters, num_scored)
    return found


def _study(recipe: RetrievalRecipe, journal: Journal, split: Split, name: str) -> dict[str, Any]:
    from hf_mixture.training.retrieval.measure import Judge
    from hf_mixture.training.retrieval.mixtures import Workbench
    from hf_mixture.training.retrieval.study import study

    seed = recipe.seeds[0]
    vectors = load_vectors(journal.folder / "vectors" / f"{name}-{seed}.npz")
    chosen = journal.finished[f"mixtures {name}"]["chosen"]
    return study(recipe, Workbench(*vectors, Judge(split, "test"), seed), chosen)


def save_vectors(path: Path, users: Any, items: Any) -> None:
    """Write embeddings, whole or not at all.

    Args:
        path: The file.
        users: What users search with.
        items: Embeddings of items.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, users=users, items=items)
    write_atomic(path, buffer.getvalue())


def load_vectors(path: Path) -> tuple[Any, Any]:
    """Read embeddings that `save_vectors` has written."""
    remedy = "remove the folder of the run, and run it again"
    with reading(path, remedy):
        arrays = read_arrays(path, remedy=remedy)
        return arrays["users"], arrays["items"]
