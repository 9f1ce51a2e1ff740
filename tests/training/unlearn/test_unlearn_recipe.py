"""The recipe of an unlearning run: what is refused, what is chosen, and how arms are judged."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hf_mixture.training import movielens
from hf_mixture.training.resolve import find_recipe, resolve_recipe
from hf_mixture.training.unlearn import data as unlearn_data
from hf_mixture.training.unlearn.arms import arms_of
from hf_mixture.training.unlearn.data import draw_request, load_data, load_npz, split_by_user
from hf_mixture.training.unlearn.measure import choose, distance_to_reference
from hf_mixture.training.unlearn.recipe import resolve_unlearn
from hf_mixture.training.unlearn.run import parts_of, unlearn_recipe
from hf_mixture.training.unlearn.verdict import as_good_and_simpler, compare, reaches_target, verdict


TIKTOK = Path(__file__).parents[4] / "shared" / "data" / "recommendation" / "tiktok.npz"
TINY = {
    "name": "tiny",
    "output_dir": "runs/tiny",
    "data": {"name": "synthetic"},
    "backbones": {"vbpr": {"num_steps": 10}},
    "requests": {"users": {"kind": "users", "share": 0.1}},
}


@pytest.mark.parametrize("name", ["unlearn_movielens", "unlearn_tiktok"])
def test_the_packaged_recipes_resolve_with_and_without_smoke(name: str) -> None:
    recipe = resolve_unlearn(find_recipe(name))
    assert recipe.cases == [(b, r) for b in ("vbpr", "lightgcn_mm") for r in ("users", "items", "interactions")]
    assert recipe.seeds == [0, 1, 2]
    # The grid that the comparison is defined with, and every schedule.
    assert recipe.grid.weights["sum"] == [0, 0.25, 0.5, 0.75, 0.9, 0.95]
    assert set(recipe.grid.weights) == {"sum", "project", "alternate", "two_phase", "mask", "reset", "refit"}
    assert recipe.grid.steps_share <= 0.1
    small = resolve_unlearn(find_recipe(name), smoke=True)
    assert len(small.cases) == 1
    assert resolve_unlearn(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"name": "movielen"}}, "did you mean 'movielens'"),
        ({"data": {"name": "npz"}}, "data.path is None"),
        ({"data": {"name": "synthetic", "path": "x"}}, "data.path is 'x'"),
        ({"requests": {"users": {"kind": "user", "share": 0.1}}}, "did you mean 'users'"),
        ({"requests": {"users": {"kind": "users", "share": 0.0}}}, "above 0 and below 1"),
        ({"requests": {"users": {"kind": "users", "share": 0.1, "backbones": ["vbp"]}}}, "did you mean 'vbpr'"),
        ({"backbones": {"vbpr": {"num_steps": 0}}}, "backbones.vbpr.num_steps"),
        ({"backbones": {"vbpr": {"num_steps": 1, "batch_size": 100}}}, "multiple of grid.forget_batch"),
        ({"backbones": {"vbpr": {"num_steps": 1, "model": {"num_users": 3}}}}, "num_users"),
        ({"backbones": {"vbpr": {"num_steps": 1, "model": {"embedding_size": 0}}}}, "embedding_size=0"),
        ({"backbones": {"vbpr": {"num_steps": 1, "model": {"backbone": "mf"}}}}, "backbones.vbpr.model"),
        ({"grid": {"weights": {"sums": [0.5]}}}, "did you mean 'sum'"),
        ({"grid": {"weights": {"sum": [1.5]}}}, "grid.weights.sum"),
        ({"grid": {"ascent_weights": []}}, "grid.ascent_weights"),
        ({"grid": {"steps_share": 0.0}}, "grid.steps_share"),
        ({"seeds": []}, "seeds"),
        ({"num_shards": [1]}, "num_shards"),
    ],
)
def test_recipes_that_cannot_work_are_refused(change: dict[str, Any], message: str) -> None:
    resolve_unlearn(yaml.safe_dump(TINY))
    with pytest.raises(ValueError, match=message):
        resolve_unlearn(yaml.safe_dump(TINY | change))


def test_lists_must_be_shorter_than_the_catalogue(tmp_path: Path) -> None:
    recipe = resolve_unlearn(yaml.safe_dump(TINY | {"output_dir": str(tmp_path / "run"), "k": 80}))
    with pytest.raises(ValueError, match="k=80 is not below the 80 items"):
        unlearn_recipe(recipe)
    assert not (tmp_path / "run").exists()


def test_data_that_are_not_here_are_named_before_anything_is_written(tmp_path: Path) -> None:
    recipe = resolve_unlearn(
        find_recipe("unlearn_tiktok"),
        overrides=[("data.path", str(tmp_path / "none.npz")), ("output_dir", str(tmp_path / "run"))],
    )
    for dry_run in (False, True):
        with pytest.raises(ValueError, match=r"data.path='.*none.npz' is not a file; .*docs/mmrecun.md"):
            unlearn_recipe(recipe, dry_run=dry_run)
    assert not (tmp_path / "run").exists()


def test_other_commands_name_this_one() -> None:
    with pytest.raises(ValueError, match="run it with hf-mixture unlearn"):
        resolve_recipe(find_recipe("unlearn_movielens"))


def test_every_arm_of_the_comparison_is_there_with_the_same_number_of_steps() -> None:
    recipe = resolve_unlearn(find_recipe("unlearn_movielens"))
    arms = arms_of(recipe, "vbpr", gold_steps=400, seed=3)
    assert {arm.family for arm in arms} == {
        *("fine_tune", "ascent", "ascent_retain", "reset_fine_tune"),
        *("sum", "project", "alternate", "two_phase", "mask", "reset", "refit"),
    }
    assert len({arm.name for arm in arms}) == len(arms)
    assert {arm.options["num_steps"] for arm in arms} == {40}
    for arm in arms:
        assert arm.options["retain_weight"] + arm.options["forget_weight"] == pytest.approx(1)


def test_requests_are_drawn_from_training_and_cut_into_parts() -> None:
    data = load_data(resolve_unlearn(yaml.safe_dump(TINY)))
    for kind in ("users", "items", "interactions"):
        request = draw_request(data, kind, 0.1, seed=1)
        assert request.kinds == [kind]
        assert request == draw_request(data, kind, 0.1, seed=1)
        assert request != draw_request(data, kind, 0.1, seed=2)
        parts = parts_of(request, 3)
        assert len(parts) == 3
        total = parts[0] + parts[1] + parts[2]
        assert sorted(getattr(total, kind)) == sorted(getattr(request, kind))
    assert len(draw_request(data, "users", 0.1, seed=1).users) == 12


def test_a_tenth_of_each_users_interactions_is_held_out_twice() -> None:
    users = np.repeat([0, 1, 2], [25, 9, 10])
    items = np.concatenate([np.arange(25), np.arange(9), np.arange(10)])
    train, validation, test = split_by_user(users, items, 3, 25, seed=0)
    assert [np.bincount(part.users, minlength=3).tolist() for part in (train, validation, test)] == [
        [21, 9, 8],
        [2, 0, 1],
        [2, 0, 1],
    ]
    assert len({*train.keys.tolist(), *validation.keys.tolist(), *test.keys.tolist()}) == 44


def test_films_and_genres() -> None:
    if find_spec(movielens.WHEEL) is None:
        pytest.skip(f"MovieLens-100K is not installed: {movielens.INSTALL}")
    data = unlearn_data.load_movielens()
    assert (data.train.num_users, data.train.num_items) == (943, 1682)
    # The ratings of 4 and 5 stars of the published file.
    assert len(data.train) + len(data.validation) + len(data.test) == 55_375
    assert data.features["genres"].shape == (1682, 19)


def test_arrays_are_read_and_what_is_missing_is_named(tmp_path: Path) -> None:
    arrays = {f"{part}_{c}": np.array([0, 1]) for part in ("train", "valid", "test") for c in ("user", "item")}
    arrays |= {"shape": np.array([2, 3]), "image_features": np.ones((3, 2), np.float16)}
    np.savez(tmp_path / "whole.npz", **arrays)
    data = load_npz(tmp_path / "whole.npz")
    assert (len(data.train), data.train.num_items, list(data.features)) == (2, 3, ["image"])
    np.savez(tmp_path / "part.npz", **{name: array for name, array in arrays.items() if name != "valid_item"})
    with pytest.raises(ValueError, match=r"lacks the arrays \['valid_item'\]"):
        load_npz(tmp_path / "part.npz")
    with pytest.raises(ValueError, match="is not a file; give the"):
        load_npz(tmp_path / "none.npz")


def test_the_videos_are_those_of_their_description() -> None:
    if not TIKTOK.is_file():
        pytest.skip("tiktok.npz is not in ../shared")
    data = load_npz(TIKTOK)
    assert (data.train.num_users, data.train.num_items, len(data.train)) == (9308, 6710, 59_541)
    assert {name: tuple(vectors.shape) for name, vectors in data.features.items()} == {
        "image": (6710, 128),
        "audio": (6710, 128),
    }


def levels(forget: float, test: float, auc: float, steps: int = 10, validation: float = 1.0) -> dict[str, Any]:
    return {
        "forget_recall": forget,
        "test_recall": test,
        "membership_auc": auc,
        "num_steps": steps,
        "validation_recall": validation,
    }


def test_the_choice_is_the_nearest_to_the_reference_that_keeps_the_utility() -> None:
    original, reference = levels(0.8, 0, 0.9), {"forget_recall": 0.1, "membership_auc": 0.5}
    tried = [
        ("useless", levels(0.1, 0, 0.5, validation=0.5)),
        ("near", levels(0.2, 0, 0.6, validation=0.98)),
        ("far", levels(0.5, 0, 0.8)),
        ("over", levels(0.0, 0, 0.0)),
    ]
    assert choose(tried, original, reference, utility_kept=0.97) == "near"
    assert choose(tried[:1] + tried[2:], original, reference, utility_kept=0.97) == "far"
    assert choose([tried[0]], original, reference, utility_kept=0.97) == "useless"
    assert distance_to_reference(original, original, reference) == pytest.approx(2)


def test_verdicts_follow_the_written_rules() -> None:
    original, gold = levels(0.8, 0.04, 0.9, 0), levels(0.1, 0.04, 0.5, 100)

    def seeds(*values: dict[str, Any]) -> list[dict[str, float]]:
        return [compare(found, original, gold) for found in values]

    like_gold = seeds(levels(0.12, 0.039, 0.52), levels(0.08, 0.041, 0.48))
    some = seeds(levels(0.3, 0.04, 0.7), levels(0.3, 0.04, 0.7))
    over = seeds(levels(0.0, 0.04, 0.2), levels(0.0, 0.041, 0.2))
    others = {"fine_tune@1": seeds(levels(0.7, 0.04, 0.9), levels(0.7, 0.04, 0.9)), "ours": some}
    assert verdict("ours", like_gold, others) == "full"
    # One seed without success is no full success.
    assert verdict("ours", seeds(levels(0.12, 0.04, 0.52), levels(0.3, 0.04, 0.52)), others) == "partial"
    assert verdict("ours", some, others) == "partial"
    assert verdict("ours", over, others) == "partial, over-forgets"
    # Too many steps, too little utility.
    assert verdict("ours", seeds(levels(0.12, 0.039, 0.52, 11)), others) == "failure"
    assert verdict("ours", seeds(levels(0.12, 0.03, 0.52)), others) == "failure"
    # A simpler arm that forgets as much at no less utility.
    simpler = {"reset_fine_tune@1": seeds(levels(0.2, 0.04, 0.6), levels(0.2, 0.04, 0.6))}
    assert verdict("ours", some, {**others, **simpler}) == "failure"
    assert as_good_and_simpler(some, {**others, **simpler}) == ["reset_fine_tune@1"]
    assert as_good_and_simpler(like_gold, {**others, **simpler}) == []
    assert reaches_target(like_gold)
    assert not reaches_target(some)
