"""The recipe of a retrieval run: what is refused, and what is chosen and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hf_mixture.training.resolve import find_recipe, resolve_recipe
from hf_mixture.training.retrieval.data import make_synthetic, split_edges
from hf_mixture.training.retrieval.measure import Judge
from hf_mixture.training.retrieval.mixtures import Workbench, choose_mixtures, settings_of
from hf_mixture.training.retrieval.recipe import MixtureSpec, resolve_retrieval
from hf_mixture.training.retrieval.run import retrieval_recipe
from hf_mixture.training.retrieval.study import compare_groups, history_sizes, num_interests


RECIPES = ("knn_embed_citation", "knn_embed_movielens")


@pytest.mark.parametrize("name", RECIPES)
def test_packaged_recipes_resolve_with_and_without_smoke(name: str) -> None:
    recipe = resolve_retrieval(find_recipe(name))
    assert recipe.seeds == [0, 1, 2]
    assert {spec.method for spec in recipe.embeddings.values()} == {"als", "lightgcn", "trained"}
    assert resolve_retrieval(recipe.to_yaml()) == recipe
    small = resolve_retrieval(find_recipe(name), smoke=True)
    assert small.interactions.source == "synthetic"
    with pytest.raises(ValueError, match="run it with hf-mixture retrieve"):
        resolve_recipe(find_recipe(name))


TINY: dict[str, Any] = {
    "name": "tiny",
    "output_dir": "runs/tiny",
    "interactions": {"source": "synthetic"},
    "embeddings": {
        "als": {
            "method": "als",
            "options": {"embedding_size": 8, "alpha": 10.0, "regularisation": 1.0, "num_rounds": 3},
        },
        "twhin": {"method": "trained", "options": {"embedding_size": 8}, "training": {"max_steps": 60}},
    },
    "mixtures": {"num_clusters": [4], "num_neighbours": [5]},
    "user_cf": [5],
    "publish": "als",
}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("interactions.source", "movie", "did you mean 'movielens'"),
        ("interactions.path", "here.txt", "a graph has a path"),
        ("interactions.source", "graph", "a graph has a path"),
        ("interactions.direction", "back", "as_given"),
        ("interactions.test_share", 1.0, "between 0 and 1"),
        ("interactions.min_history", 0, "min_history is 0"),
        ("embeddings.als.method", "alss", "did you mean 'als'"),
        ("embeddings.als.options.alhpa", 1.0, "did you mean 'alpha'"),
        ("embeddings.als.options", {"alpha": 1.0}, "give alpha, embedding_size"),
        ("embeddings.als.training", {"max_steps": 3}, "als has no Trainer"),
        ("embeddings.twhin.options", {"num_users": 3}, "num_users"),
        ("embeddings.twhin.options", {"negative_weight": 0.0}, "embeddings.twhin: negative_weight=0"),
        ("embeddings.twhin.candidates", [{"los": "bpr"}], "did you mean 'loss'"),
        ("embeddings.twhin.training", {"learning_rate": 1e-2}, "max_steps"),
        ("embeddings.twhin.eval_steps", 61, "more than max_steps=60"),
        ("mixtures.num_clusters", [], "num_clusters is empty"),
        ("mixtures.num_neighbours", [0], "num_neighbours is 0"),
        ("mixtures.smoothing_weights", [1.5], "the weight 1.5"),
        ("user_cf", [], "user_cf is empty"),
        ("publish", "lightgcn", "publish"),
        ("study", ["al"], "did you mean 'als'"),
        ("seeds", [0, 0], "each once"),
    ],
)
def test_recipes_that_cannot_work_are_refused(path: str, value: Any, message: str) -> None:
    text = yaml.safe_dump(TINY)
    resolve_retrieval(text)
    with pytest.raises(ValueError, match=message):
        resolve_retrieval(text, overrides=[(path, value)])


def bench() -> Workbench:
    split = split_edges(
        make_synthetic(seed=0), seed=0, test_share=0.2, validation_share=0.2, min_history=5, max_users=80
    )
    rng = np.random.default_rng(0)
    return Workbench(rng.normal(size=(300, 6)), rng.normal(size=(240, 6)), Judge(split, "validation"), 0)


def test_a_graph_that_is_not_here_is_named_before_anything_is_written(tmp_path: Path) -> None:
    recipe = resolve_retrieval(
        find_recipe("knn_embed_citation"),
        overrides=[("interactions.path", str(tmp_path / "none.npz")), ("output_dir", str(tmp_path / "run"))],
    )
    with pytest.raises(ValueError, match=r"interactions.path='.*none.npz' is not a file; .*SNAP"):
        retrieval_recipe(recipe)
    assert not (tmp_path / "run").exists()


def test_the_best_setting_of_each_smoothing_is_chosen_by_what_was_measured() -> None:
    spec = MixtureSpec(
        num_clusters=[3, 9, 5000], num_neighbours=[2, 6], smoothing_weights=[None, 0.5], global_weights=[0.2]
    )
    assert {name: len(found) for name, found in settings_of(spec).items()} == {"none": 1, "global": 1, "knn": 4}
    made = bench()
    found = choose_mixtures(made, spec)
    # More clusters than half of the items are left out.
    assert len(found["tried"]) == 12
    for smoothing, fields in found["chosen"].items():
        entries = [entry for entry in found["tried"] if entry["smoothing"] == smoothing]
        best = max(entries, key=lambda entry: entry["recall@10"])
        assert best["fields"] == fields
        model = made.prepare(fields["num_clusters"], {k: v for k, v in fields.items() if k != "num_clusters"})
        lists = model.retrieve(made.judge.users, 10).item_ids.numpy()
        assert made.judge.recall(lists, 10) == best["recall@10"]


def test_groups_are_quarters_of_the_users_and_add_up() -> None:
    made = bench()
    model = made.prepare(6, {"smoothing": "none", "max_components": 100})
    judge = made.judge
    lists = model.retrieve(judge.users, 10).item_ids.numpy()
    interests = num_interests(model, judge)
    assert interests.min() >= 1
    assert interests.max() <= 6
    hits, sizes = judge.hits(lists, 10)
    for values in (interests, history_sizes(judge)):
        groups = compare_groups(judge, lists, lists, values, "interests")
        assert sum(group["num_users"] for group in groups) == len(judge.users)
        assert all(group["one_vector"] == group["knn"] for group in groups)
        assert [group["from"] for group in groups] == sorted(group["from"] for group in groups)
    inside = values <= np.quantile(values, 0.25)
    assert groups[0]["knn"] == hits[inside].sum() / sizes[inside].sum()
