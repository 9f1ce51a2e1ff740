"""The recipe of a TaskExpert run: what is refused, and what is measured."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_taskexpert as tiny
import torch
import yaml

from hf_mixture.training.resolve import find_recipe, resolve_recipe
from hf_mixture.training.taskexpert.baseline import SharedTrunkForMultiTaskVision, matched_width
from hf_mixture.training.taskexpert.measure import delta_m
from hf_mixture.training.taskexpert.recipe import resolve_taskexpert


VALUES = {
    "name": "tiny",
    "output_dir": "runs/tiny",
    "scenes": {"image_size": 16, "num_train": 4, "num_validation": 2, "num_test": 2},
    "backbone": {"from_config": {"model_type": "resnet"}},
    "candidates": {"dynamic": {}, "trunk": {"decoder": "shared_trunk"}},
    "publish": "dynamic",
    "baseline": "trunk",
    "training": {"max_steps": 2},
}


def test_the_packaged_recipe_resolves_with_and_without_smoke() -> None:
    recipe = resolve_taskexpert(find_recipe("taskexpert_scenes"))
    assert recipe.runs[:3] == [("dynamic", 0), ("constant", 0), ("shared_trunk", 0)]
    assert recipe.seeds == [0, 1, 2]
    assert recipe.candidates["constant"].model == {"gate": "batch_mean"}
    small = resolve_taskexpert(find_recipe("taskexpert_scenes"), smoke=True)
    assert small.training["max_steps"] < 20
    assert resolve_taskexpert(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scenes": {"num_trian": 4}}, "did you mean 'num_train'"),
        ({"scenes": {"num_test": 0}}, "scenes.num_test is 0"),
        ({"scenes": {"image_size": 4}}, "scenes.image_size is 4"),
        ({"candidates": {}}, "candidates is empty"),
        ({"candidates": {"dynamic": {"decoder": "expert"}, "trunk": {}}}, "candidates.dynamic.decoder is 'expert'"),
        ({"candidates": {"dynamic": {"model": {"num_expert": 4}}, "trunk": {}}}, "did you mean 'num_experts'"),
        ({"candidates": {"dynamic": {"model": {"num_experts": 0}}, "trunk": {}}}, "candidates.dynamic: num_experts=0"),
        ({"candidates": {"dynamic": {"model": {"tasks": ["depth"]}}, "trunk": {}}}, "different tasks"),
        ({"publish": "trunk"}, "publish='trunk' has no experts"),
        ({"publish": "dynamics"}, "did you mean 'dynamic'"),
        ({"baseline": "trunks"}, "did you mean 'trunk'"),
        ({"model": {"num_semseg_labels": 4}}, "num_semseg_labels"),
        ({"backbone": {}}, "backbone has no source"),
        ({"backbone": {"from_wheel": "fdet"}}, "backbone.from_wheel"),
        ({"backbone": {"from_config": {"hidden_sizes": [8]}}}, "no 'model_type'"),
        ({"backbone": {"from_config": {"model_type": "bert"}}}, "'bert' is no backbone of .*dinov2, .*resnet"),
        ({"backbone": {"from_config": {"model_type": "resnet", "depth": [1]}}}, "did you mean 'depths'"),
        ({"backbone": {"from_config": {"model_type": "resnet"}, "out_indices": [1]}}, "for pretrained backbones"),
        ({"training": {"learning_rate": 0.1}}, "max_steps"),
        ({"seeds": []}, "seeds is"),
        ({"evaluation": {"edge_thresholds": 0}}, "evaluation.edge_thresholds is 0"),
    ],
)
def test_recipes_that_cannot_work_are_refused(change: dict[str, Any], message: str) -> None:
    resolve_taskexpert(yaml.safe_dump(VALUES))
    with pytest.raises(ValueError, match=message):
        resolve_taskexpert(yaml.safe_dump(VALUES | change))


def test_other_commands_name_this_one() -> None:
    with pytest.raises(ValueError, match="run it with hf-mixture taskexpert"):
        resolve_recipe(find_recipe("taskexpert_scenes"))


@pytest.mark.parametrize(
    "fields", [{"expert_size": 16}, {"expert_size": 32, "num_experts": 6, "memory_init": "learned"}]
)
def test_a_shared_trunk_has_as_many_parameters(fields: dict[str, Any]) -> None:
    config = tiny.config(**fields)
    wanted = tiny.model(**fields).num_parameters()
    trunk = SharedTrunkForMultiTaskVision(config, matched_width(config))
    assert trunk.num_parameters() == pytest.approx(wanted, rel=0.03)


def test_a_shared_trunk_learns_all_tasks_from_one_map() -> None:
    torch.manual_seed(0)
    config = tiny.config()
    trunk = SharedTrunkForMultiTaskVision(config, matched_width(config))
    out = trunk(tiny.images(), labels=tiny.labels(), output_hidden_states=True)
    assert out.gate_scores is None
    assert all(memory is out.memory["depth"] for memory in out.memory.values())
    out.loss.backward()
    assert all(parameter.grad is not None for parameter in trunk.parameters())


def test_the_mean_task_improvement_has_the_sign_of_each_metric() -> None:
    better = {"semseg": 0.6, "depth": 0.9, "normals": 9.0}
    base = {"semseg": 0.5, "depth": 1.0, "normals": 10.0}
    assert delta_m(better, base) == pytest.approx(100 * (0.2 + 0.1 + 0.1) / 3)
    assert delta_m(base, base) == 0
    assert delta_m({"semseg": 0.4}, {"semseg": 0.5}) == pytest.approx(-20)
