"""The recipe of a MixER run: what is refused, and what is measured."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from hf_mixture.training.mixer.data import families_of, trained_times
from hf_mixture.training.mixer.measure import by_family, family_purity, finite
from hf_mixture.training.mixer.recipe import CollectionSpec, resolve_mixer
from hf_mixture.training.resolve import find_recipe, resolve_recipe


def test_the_packaged_recipe_resolves_with_and_without_smoke() -> None:
    recipe = resolve_mixer(find_recipe("mixer_odebench"))
    assert next(iter(recipe.collections)) == "odebench_small"
    assert len(recipe.runs) == 11
    assert recipe.runs[0] == ("odebench_small", "mixer", 0)
    # A single expert is as large as one of the mixture.
    assert recipe.candidates["single"] == {"num_experts": 1}
    small = resolve_mixer(find_recipe("mixer_odebench"), smoke=True)
    assert small.training["max_steps"] < 100
    assert resolve_mixer(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"collections": {"odebench": {}}}, "did you mean 'odebench_ten'|did you mean 'odebench_small'"),
        ({"collections": {}}, "collections is empty"),
        ({"publish": "mixr"}, "did you mean 'mixer'"),
        ({"candidates": {"mixer": {"num_expert": 4}}}, "did you mean 'num_experts'"),
        ({"candidates": {"mixer": {"num_envs": 4}}}, "num_envs"),
        ({"candidates": {"mixer": {"num_layers": 1}}}, "candidates.mixer: num_layers=1"),
        ({"schedule": {"context_steps": 0}}, "schedule: context_steps=0"),
        ({"training": {"learning_rate": 0.1}}, "max_steps"),
        ({"seeds": [1, 1]}, "each once"),
        ({"collections": {"selkov": {"trained_share": 0.0}}}, "above 0 and at most 1"),
        ({"collections": {"selkov": {"every": 0}}}, "every is 0"),
        ({"collections": {"selkov": {"candidates": ["none"]}}}, "collections.selkov.candidates"),
        ({"adaptation": {"learning_rate": 0.0}}, "adaptation.learning_rate"),
    ],
)
def test_recipes_that_cannot_work_are_refused(change: dict[str, Any], message: str) -> None:
    values = {
        "name": "tiny",
        "output_dir": "runs/tiny",
        "collections": {"selkov": {}},
        "candidates": {"mixer": {"num_experts": 3}},
        "publish": "mixer",
        "training": {"max_steps": 2},
    }
    resolve_mixer(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=message):
        resolve_mixer(yaml.safe_dump(values | change))


def test_other_commands_name_this_one() -> None:
    with pytest.raises(ValueError, match="run it with hf-mixture mixer"):
        resolve_recipe(find_recipe("mixer_odebench"))


def test_training_sees_the_beginning_of_trajectories() -> None:
    assert list(range(100))[trained_times(CollectionSpec(trained_share=0.8, every=5), 100)] == list(range(0, 80, 5))
    assert list(range(11))[trained_times(CollectionSpec(), 11)] == list(range(11))
    assert list(range(11))[trained_times(CollectionSpec(trained_share=0.01), 11)] == [0, 1]


def test_purity_counts_environments_of_the_most_frequent_family_of_their_expert() -> None:
    families = ["a", "a", "a", "b", "b", "c"]
    assert family_purity([0, 0, 0, 1, 1, 2], families) == 1.0
    assert family_purity([0] * 6, families) == 0.5
    # Two experts for one family are pure as well.
    assert family_purity([0, 3, 0, 1, 1, 1], families) == pytest.approx(5 / 6)


def test_families_are_told_apart_and_averaged() -> None:
    data = {"env_ids": [0, 0, 1, 2, 3], "family": ["a", "a", "a", "b", "a"]}
    families = families_of(data)
    assert families == ["a", "a", "b", "a_2"]
    assert by_family([1.0, 3.0, 5.0, 7.0], families) == {"a": 2.0, "b": 5.0, "a_2": 7.0}
    assert (finite(1.5), finite(float("inf"))) == (1.5, "diverged")
